"""The page of a measured PSF: its image over the frame, what it leaves of its stars, and which stars those are."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

from sla1tools.candidates.psf import PSF
from sla1tools.candidates.psf_measuring import BAD_FIT, MeasuredPSF, elongation, fine_image
from sla1tools.show import figures
from sla1tools.show.figures import GOOD, HELD_OUT, IN_SAMPLE, NEUTRAL, WIDTH, Drawing, blank_axes, png
from sla1tools.show.pages import page_html

REACH = 3.5  # px from the star's centre that the pictures show
MOST_SHOWN = 12  # stars, half of them the best
REASONS = {
    "": "chosen",
    "saturated": "a pixel is near saturation",
    "edge": "too near an edge",
    "flagged": "a pixel is flagged by the darks",
    "neighbor": "another star within 8 px",
    "odd": "unlike the others (χ²)",
}


def psf_page(measured: MeasuredPSF, sources: Sequence[str]) -> str:
    """Return the page: self-contained, and asking nothing of the network."""
    counts = Counter(str(reason) for reason in measured.stars["reason"])
    charts = [nine_places(measured.psf), residuals(measured), fit_against_flux(measured), star_map(measured)]
    return page_html(
        "psf",
        measured=measured,
        psf=measured.psf,
        elongation=elongation(measured.psf),
        bad_fit=BAD_FIT,
        sources=sources,
        reasons=[(text, counts[reason]) for reason, text in REASONS.items() if counts[reason]],
        figures=[(chart.alt, png(chart)) for chart in charts],
    )


def nine_places(psf: PSF) -> Drawing:
    """Draw the star in the middle of the frame, at its corners and between, as pixels see it; once if all are alike."""
    ny, nx = psf.frame_shape
    side = 3 if psf.varies else 1
    where = "at nine places of the frame" if psf.varies else "all over the frame"
    alt = f"The star as pixels see it, {where}; contours at a half and a tenth of its peak"
    figure, axes = blank_axes(0.9 + 2.4 * side, 0.6 + 2.5 * side, alt, nrows=side, ncols=side, **figures.ALIKE)
    for ax, (row, column) in zip(axes.flat, np.ndindex(side, side), strict=True):
        share_x, share_y = (column / 2, 1 - row / 2) if psf.varies else (0.5, 0.5)
        place = np.array([share_x * (nx - 1)]), np.array([share_y * (ny - 1)])
        image = fine_image(psf, psf.at(*place)[0], REACH, 71)
        edges = (-REACH, REACH, -REACH, REACH)
        ax.imshow(np.arcsinh(100 * image / image.max()), origin="lower", extent=edges, cmap="gray")
        levels = [0.1 * image.max(), 0.5 * image.max()]
        ax.contour(image, levels, origin="lower", extent=edges, colors=[IN_SAMPLE, HELD_OUT], linewidths=1)
        ax.set_title(f"x={place[0][0]:.0f}, y={place[1][0]:.0f}", fontsize=10)
    axes[-1, side // 2].set_xlabel("px")
    return figure


def residuals(measured: MeasuredPSF) -> Drawing:
    """Draw what the fit leaves of the best and the worst stars, in units of the noise."""
    stars = measured.stars[measured.stars["reason"] == ""]
    order = np.argsort(np.asarray(stars["chi2"] / stars["dof"]))
    half = min(MOST_SHOWN, len(order)) // 2
    alt = "What the PSF of the other half of the stars leaves of the best (above) and the worst (below), in sigma"
    grid = {"nrows": 2, "ncols": half, "bar": figures.BAR, "top": 0.6}
    figure, axes = blank_axes(1.9 + 1.6 * half, 4.6, alt, **grid, **figures.ALIKE)
    for ax, row in zip(axes.flat, [*order[:half], *order[-half:]], strict=True):
        star = stars[row]
        image = ax.imshow(star["residual"], origin="lower", cmap="RdBu_r", vmin=-4, vmax=4)
        ax.set_title(f"{star['flux'] / 1000:.0f} ke-\nχ²/dof {star['chi2'] / star['dof']:.2f}", fontsize=10)
        ax.set(xticks=[], yticks=[])
    figures.color_bar(axes[0, -1], image, "data - model [σ]")
    return figure


def fit_against_flux(measured: MeasuredPSF) -> Drawing:
    """Draw chi2/dof against flux, held out."""
    stars = measured.stars[measured.stars["reason"] == ""]
    figure, ax = blank_axes(WIDTH, 3.2, "χ² per degree of freedom against flux, each star by the PSF of the other half")
    ax.scatter(stars["flux"], stars["chi2"] / stars["dof"], s=12, color=HELD_OUT)
    ax.axhline(1, color=NEUTRAL, lw=1)
    ax.set(xscale="log", yscale="log", xlabel="flux [e-]", ylabel="χ² / degrees of freedom")
    for axis in (ax.xaxis, ax.yaxis):  # neither spans a decade
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_locator(NullLocator())
    return figure


def star_map(measured: MeasuredPSF) -> Drawing:
    """Draw where the bright stars are, and which were chosen."""
    stars, (ny, nx) = measured.stars, measured.psf.frame_shape
    figure, ax = blank_axes(WIDTH, 0.6 + 4.8 * min(ny / nx, 1.5), "Where the bright stars are: chosen, and not")
    for chosen, color, label in ((False, NEUTRAL, "not chosen"), (True, GOOD, "chosen")):
        some = stars[(stars["reason"] == "") == chosen]
        ax.scatter(some["x"], some["y"], s=14, color=color, marker="o" if chosen else "x", label=label)
    ax.set(xlim=(0, nx), ylim=(0, ny), xlabel="x [px]", ylabel="y [px]", aspect="equal")
    ax.legend(loc="upper right")
    return figure
