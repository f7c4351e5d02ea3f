"""The page of judged flashes: each beside the same place in the darks, its history, and what the fits leave of it."""

import base64
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from astropy.table import Table
from matplotlib.image import imsave

from sla1tools.candidates.leaders import cut_stamps
from sla1tools.candidates.psf import psf_of
from sla1tools.candidates.shapes import rival_templates
from sla1tools.show.figures import ACCENT, HELD_OUT, IN_SAMPLE, NEUTRAL, Drawing, blank_axes
from sla1tools.show.pages import page_html
from sla1tools.vetting.judging import JUMP_SIGMA, VERDICTS, Witness
from sla1tools.vetting.measuring import ScienceFrame, stamps_of

REACH = 10  # px around a flash that are shown
SOFT, LEAST_HIGH = 3.0, 20.0  # sigma where the stretch bends, and that are white at least
LEFT_OVER = 5.0  # sigma at the ends of the colours
DARKS = 3
MOST_PICTURED = 500
WIDTH, HEIGHT = 165, 84  # of a history


def pictures(frame: ScienceFrame, found: Table, witness: Witness, dark_counts: Callable | None) -> list[dict]:
    """Draw each flash of a frame, and what the darks have at its place.

    Parameters
    ----------
    frame : ScienceFrame
    found : Table
        Its measured flashes, as `Witness.vet_flashes` hands them over.
    witness : Witness
        The darks.
    dark_counts : callable or None
        ``dark_counts(k)``: raw counts of dark k, (ny, nx); None where the raw frames are gone: no dark is drawn.

    Returns
    -------
    pictures : list of dict
        `place` (row among all flashes), `flash`, `master` and `darks` (PNG as base64, one stretch), `star` and `rival`
        (what each fit leaves, in sigma), `history`.
    """
    histories = witness.histories(np.asarray(found["x"]), np.asarray(found["y"]))
    highest = np.argsort(-histories, axis=1, kind="stable")[:, :DARKS]
    images = [_cut_outs(image, found) for image in (frame.counts * frame.field.gain, witness.dark.master)]
    scale, drawn_darks = witness.dark.scale, np.unique(highest) if dark_counts else ()
    cuts = {k: _cut_outs(dark_counts(k) * scale, found) for k in drawn_darks}  # type: ignore[misc]  # then it is one
    drawn = []
    for i, (row, left) in enumerate(zip(found, _left_over(frame, found), strict=True)):
        places = *images, *(cuts[k] for k in highest[i] if k in cuts)
        picture = {"place": int(row["place"]), "history": _history(histories[i], row)}
        picture["flash"], picture["master"], *picture["darks"] = (_png(image[i], 0, 1, "gray") for image in places)
        pair = (_png(image, -LEFT_OVER, LEFT_OVER, "RdBu_r") for image in left) if left else ("", "")
        picture["star"], picture["rival"] = pair
        drawn.append(picture | {"rival_name": str(row["best_rival"] or "")})
    return drawn


def vetting_page(flashes: Table, judged: Table, pictures: Sequence[Mapping], searched: str, witness: Witness) -> str:
    """Return the page: self-contained, asking nothing of the network; the first `MOST_PICTURED` flashes have pictures.

    Parameters
    ----------
    flashes, judged : Table
        As from `read_flashes` and `Witness.vet_flashes`, row by row.
    pictures : sequence of mapping
        From `pictures`.
    searched : str
        What was searched, in words.
    witness : Witness
        The darks.
    """
    by_row = {picture["place"]: picture for picture in pictures}
    cards = []
    for i, (given, row) in enumerate(zip(flashes, judged, strict=True)):
        more = [(name, str(given[name])) for name in flashes.colnames if name not in ("file", "x", "y")]
        cards.append(
            {name: _value(row[name]) for name in ("snr", "p_value", "expected", "expected_high", "flux")}
            | {"file": given["file"], "x": _value(given["x"]), "y": _value(given["y"]), "more": more}
            | {"verdict": str(row["verdict"]), "reasons": str(row["reasons"]), "picture": by_row.get(i)}
        )
    parameters, counts = witness.parameters, Counter(judged["verdict"])
    return page_html(
        "vet",
        cards=cards,
        verdicts=VERDICTS,
        counts=[(verdict, counts[verdict]) for verdict in VERDICTS if counts[verdict]],
        searched=searched,
        night="/".join((parameters.capture_date, parameters.capture_time, parameters.object_name)),
        darks=witness.flashes.seen,
        parameters=parameters,
        unpictured=max(len(judged) - MOST_PICTURED, 0),
    )


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


def _cut_outs(image: np.ndarray, found: Table) -> np.ndarray:
    """Cut 21 x 21 pixels around each measured flash, asinh-stretched, 0 to 1: alike for frame, master and darks.

    Above their own median, from -3 sigma to the flash's peak, but at least to 20 sigma; 0.5 where there is no frame.
    """
    cuts = cut_stamps(image, np.asarray(found["y"]), np.asarray(found["x"]), radius=REACH).astype(float)
    sigma = np.asarray(found["peak"] / found["height"])[:, None, None]
    white = np.maximum(np.asarray(found["peak"])[:, None, None] / sigma, LEAST_HIGH)
    low, high = np.arcsinh(-1), np.arcsinh(white / SOFT)
    level = np.arcsinh((cuts - np.nanmedian(cuts, axis=(1, 2), keepdims=True)) / (SOFT * sigma))
    return np.nan_to_num(np.clip((level - low) / (high - low), 0, 1), nan=0.5)


def _left_over(frame: ScienceFrame, found: Table) -> list[tuple[np.ndarray, np.ndarray] | None]:
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


def _value(value) -> float | None:
    return None if value is np.ma.masked or not np.isfinite(value) else float(value)


def _png(image: np.ndarray, low: float, high: float, colors: str) -> str:
    buffer = io.BytesIO()
    imsave(buffer, image, vmin=low, vmax=high, cmap=colors, origin="lower", format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def _history(history: np.ndarray, row) -> dict:
    """Return the places of a history's points, and of this flash's, in a picture of WIDTH by HEIGHT."""
    values = np.append(history, row["height"])
    level = np.arcsinh(np.append(values, [0, JUMP_SIGMA]) / SOFT)
    low, high = min(level.min(), np.arcsinh(-1)), level.max()
    *y, zero, jump = (HEIGHT - 6 - (HEIGHT - 12) * (level - low) / (high - low)).round(1).tolist()
    x = np.linspace(6, WIDTH - 62, len(history)).round(1).tolist()
    text = f"{len(history)} darks, the highest {history.max():.1f} sigma; this flash {row['height']:.1f} sigma"
    places = {"points": list(zip(x, y[:-1], strict=True)), "flash": (WIDTH - 50, y[-1]), "zero": zero, "jump": jump}
    return places | {"text": text, "height": f"{row['height']:.1f} σ", "width": WIDTH, "tall": HEIGHT}
