"""Figures of judged flashes: beside the master dark, their history, what fits leave; and what the camera makes."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from astropy.table import Table
from IPython.display import HTML

from sla1tools.candidates.leaders import cut_stamps
from sla1tools.candidates.psf import psf_of
from sla1tools.candidates.shapes import rival_templates
from sla1tools.show.figures import ACCENT, HELD_OUT, IN_SAMPLE, NEUTRAL, Drawing, blank_axes, nothing
from sla1tools.vetting.judging import JUMP_SIGMA, Witness
from sla1tools.vetting.measuring import ScienceFrame, stamps_of

REACH = 10  # px around a flash that are shown
SOFT, LEAST_HIGH = 3.0, 20.0  # sigma where the stretch bends, and that are white at least
LEFT_OVER = 5.0  # sigma at the ends of the colours
COLUMNS = ("flash", "master dark", "its darks, and now", "less a star", "less the best rival")


def cut_outs(image: np.ndarray, found: Table) -> np.ndarray:
    """Cut 21 x 21 pixels around each measured flash, asinh-stretched, 0 to 1: alike for frame, master and darks.

    Above their own median, from -3 sigma to the flash's peak, but at least to 20 sigma; 0.5 where there is no frame.
    """
    cuts = cut_stamps(image, np.asarray(found["y"]), np.asarray(found["x"]), radius=REACH).astype(float)
    sigma = np.asarray(found["peak"] / found["height"])[:, None, None]
    white = np.maximum(np.asarray(found["peak"])[:, None, None] / sigma, LEAST_HIGH)
    low, high = np.arcsinh(-1), np.arcsinh(white / SOFT)
    level = np.arcsinh((cuts - np.nanmedian(cuts, axis=(1, 2), keepdims=True)) / (SOFT * sigma))
    return np.nan_to_num(np.clip((level - low) / (high - low), 0, 1), nan=0.5)


def left_over(frame: ScienceFrame, found: Table) -> list[tuple[np.ndarray, np.ndarray] | None]:
    """Return what star and best rival leave of each flash's 5 x 5 pixels, in sigma; None where nothing was fitted."""
    psf, rivals = psf_of(frame.parameters), rival_templates()
    every: list[tuple[np.ndarray, np.ndarray] | None] = []
    for row, stamp, noise, valid in zip(found, *stamps_of(frame, found), strict=True):
        if row["snr"] is np.ma.masked:
            every.append(None)
            continue
        offset = [np.array([row[f"{axis}_fit"] - row[axis]]) for axis in ("x", "y")]
        star, _, _, *modes = psf.images(offset[0], offset[1], psf.at([row["x"]], [row["y"]]), order=2)[0]
        light = max(row["flux"], 0) * np.maximum(star, 0)
        sigma = np.where(valid, np.sqrt(noise**2 + light + (psf.light_error * light) ** 2), np.inf)
        priors = [row["flux"] * error * mode for mode, error in zip(modes, psf.mode_errors, strict=True)]
        flat, plain = np.ones_like(stamp), np.where(valid, noise, np.inf)
        of_rivals = [_left(stamp, plain, [shape, flat]) for shape in rivals[row["best_rival"]]]
        every.append((_left(stamp, sigma, [star, flat], priors), min(of_rivals, key=lambda left: (left**2).sum())))
    return every


def _left(stamp, sigma, free, with_priors=()) -> np.ndarray:
    """Fit images by least squares, some with amplitudes that are 0 +- 1, and return what is left in sigma."""
    images, weight = np.stack([*free, *with_priors]).reshape(-1, stamp.size), 1 / sigma.ravel()
    values, priors = np.nan_to_num(stamp.ravel()), np.eye(len(images))[len(free) :]
    matrix = np.vstack([(images * weight).T, priors])
    fitted = np.linalg.lstsq(matrix, np.append(values * weight, np.zeros(len(priors))), rcond=None)[0]
    return ((values - fitted @ images) * weight).reshape(sigma.shape)


def flash_figures(
    witness: Witness, flashes: Table, paths: Mapping[str, Path], searched: float, most: int = 12
) -> Drawing | HTML:
    """Draw the first measured flashes of a list, one a row.

    Parameters
    ----------
    witness, flashes, paths, searched
        As for `Witness.vet_flashes`.
    most : int
        Rows.
    """
    seen: list[tuple] = []

    def look(frame, found):
        images = (cut_outs(image, found) for image in (frame.counts * frame.field.gain, witness.dark.master))
        past = witness.histories(np.asarray(found["x"]), np.asarray(found["y"]))
        seen.extend(zip(found, *images, past, left_over(frame, found), strict=True))

    witness.vet_flashes(flashes, paths, searched, look)
    seen.sort(key=lambda item: item[0]["place"])
    if not seen:
        return nothing("No flash could be measured.")
    rows = seen[:most]
    alt = "; ".join(f"{row['frame']} at x {row['x']}, y {row['y']}: {row['verdict']}" for row, *_ in rows)
    widths = (1, 1, 1.6, 1, 1)
    figure, axes = blank_axes(
        9.6, 2.2 * len(rows) + 0.3, alt, nrows=len(rows), ncols=5, squeeze=False, width_ratios=widths
    )
    for line, (row, flash, master, past, left) in zip(axes, rows, strict=True):
        x, y = int(row["x"]), int(row["y"])
        edges = (x - REACH - 0.5, x + REACH + 0.5, y - REACH - 0.5, y + REACH + 0.5)
        for ax, image in zip(line, (flash, master), strict=False):
            ax.imshow(image, origin="lower", extent=edges, cmap="gray", vmin=0, vmax=1)
            ax.tick_params(labelsize=7)
        line[0].set_ylabel(f"{row['verdict']}\ny [px]", fontsize=8)
        line[2].plot(np.arange(len(past)) + 1, past, ".", color=HELD_OUT)
        line[2].plot([len(past) + 1.5], [row["height"]], "o", color=IN_SAMPLE)
        line[2].axhline(JUMP_SIGMA, color=NEUTRAL, lw=0.8, ls=":")
        line[2].set_yscale("asinh", linear_width=SOFT)
        line[2].set_yticks([-3, 0, 3, 10, 30, 100], ["-3", "0", "3", "10", "30", "100"])
        line[2].set_yticks([], minor=True)
        line[2].set_ylim(min(-4, past.min()), 1.3 * max(10, row["height"], past.max()))
        line[2].set_ylabel("residual [σ]", fontsize=8)
        line[2].tick_params(labelsize=7)
        for ax, image in zip(line[3:], left or (np.full((5, 5), np.nan),) * 2, strict=True):
            drawn = ax.imshow(image, origin="lower", cmap="RdBu_r", vmin=-LEFT_OVER, vmax=LEFT_OVER)
            ax.set_axis_off()
    for ax, title in zip(axes[0], COLUMNS, strict=True):
        ax.set_title(title, fontsize=9)
    for ax, label in zip(axes[-1], ("x [px]", "x [px]", "dark"), strict=False):
        ax.set_xlabel(label, fontsize=8)
    figure.colorbar(drawn, ax=axes[:, -1], label="left over [σ]", shrink=0.8)
    return figure


def expectation_curve(witness: Witness, judged: Table, searched: float) -> Drawing:
    """Draw how many flashes of the camera are expected in so many whole frames, at least as bright, and the flashes."""
    snr = np.geomspace(witness.floors.snr, 100, 300)
    expected, high = witness.flashes.expected(snr, searched)
    figure, ax = blank_axes(6.4, 3.6, "Flashes of the camera expected in what was searched, against S/N")
    ax.plot(snr, high, color=IN_SAMPLE, label="95 % upper limit")
    ax.plot(snr, np.where(expected > 0, expected, np.nan), color=HELD_OUT, label="expected")
    ax.axhline(witness.parameters.vet_level, color=NEUTRAL, ls=":", label=f"vet_level {witness.parameters.vet_level:g}")
    known = judged[~np.ma.getmaskarray(judged["snr"])]
    ax.plot(known["snr"], known["expected_high"], "o", color=ACCENT, label="the flashes")
    ax.set(xscale="log", yscale="log", xlabel="S/N", ylabel="star-like flashes, as bright or brighter")
    ax.legend(fontsize=8)
    return figure
