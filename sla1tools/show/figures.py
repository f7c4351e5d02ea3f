"""Figures: what the notebooks and the index page show, each from arrays or tables that are already measured.

Plain `matplotlib.figure.Figure` objects, so that nothing is left open. Colours are Okabe and Ito's, which colour-blind
readers can tell apart; maps use cividis or greys. x is the column and y the row, both 0-based, y upward.
"""

import base64
import io
import math
from typing import Any

import numpy as np
from astropy.table import Table
from astropy.visualization import AsinhStretch, ImageNormalize
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, NullLocator

from sla1tools.candidates.criteria import neighbor_ratio
from sla1tools.candidates.leaders import STAMP_SIZE, caption, cut_stamps
from sla1tools.text import counted

HELD_OUT, IN_SAMPLE = "#0072B2", "#D55E00"
GOOD, NEUTRAL, ACCENT = "#009E73", "#555555", "#CC79A7"
MAP = "cividis"
BEYOND_EDGE: dict[str, Any] = {"facecolor": "#ddd", "edgecolor": "#999", "hatch": "////", "lw": 0, "zorder": -1}
MAP_PIXELS = 512  # a map is drawn with at most so many pixels a side: more only make the report heavy


def png(figure: Figure, dpi: int = 110) -> bytes:
    """Render a figure for a page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


class Drawing(Figure):
    """A figure that shows itself as the last line of a cell, with a text (`alt`) for those who cannot see it."""

    alt = ""

    def _repr_mimebundle_(self, include=None, exclude=None):
        picture = base64.b64encode(png(self)).decode()
        return {"image/png": picture, "text/plain": self.alt}, {"image/png": {"alt": self.alt}}


def blank_axes(width: float, height: float, alt: str, **kwargs):
    """Make a figure of that size in inches and its axes, without the frame's upper and right side.

    `alt` says what it shows to those who cannot see it. Further arguments go to `Figure.subplots`.
    """
    figure = Drawing(figsize=(width, height), layout="constrained")
    figure.alt = alt
    axes = figure.subplots(**kwargs)
    for ax in np.atleast_1d(axes).flat:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def nothing(text: str) -> Drawing:
    """Say that there is nothing to draw."""
    figure, ax = blank_axes(6, 1.2, text)
    ax.text(0.5, 0.5, text, ha="center", va="center", parse_math=False)
    ax.axis("off")
    return figure


def percentile_limits(values: np.ndarray, low: float = 0.5, high: float = 99.5) -> tuple[float, float]:
    """Percentiles of the finite values, never equal to one another; (0, 1) where nothing is finite."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    vmin, vmax = np.percentile(finite, [low, high])
    return float(vmin), float(vmax if vmax > vmin else vmin + 1.0)


def block_median(image: np.ndarray, most: int = MAP_PIXELS) -> tuple[np.ndarray, int]:
    """Shrink an image for drawing: medians over square blocks; returns the image and the block's side."""
    block = max(1, math.ceil(max(image.shape) / most))
    ny, nx = (side // block * block for side in image.shape)
    if block == 1 or min(ny, nx) == 0:
        return image, 1
    blocks = image[:ny, :nx].reshape(ny // block, block, nx // block, block).swapaxes(1, 2)
    return np.median(blocks.reshape(ny // block, nx // block, -1), axis=2), block


def maps(images: dict[str, tuple[np.ndarray, str]]) -> Drawing:
    """Draw maps of the chip side by side.

    Parameters
    ----------
    images : dict
        Title → ((ny, nx) array, label of its colour bar with the unit).
    """
    alt = f"Maps of the chip: {', '.join(images)}"
    figure, axes = blank_axes(5.2 * len(images), 4.4, alt, ncols=len(images), squeeze=False)
    for ax, (title, (image, label)) in zip(axes[0], images.items(), strict=True):
        small, _ = block_median(np.asarray(image))
        vmin, vmax = percentile_limits(small)
        norm = ImageNormalize(vmin=vmin, vmax=vmax, stretch=AsinhStretch(0.3))
        extent = (-0.5, image.shape[1] - 0.5, -0.5, image.shape[0] - 0.5)
        shown = ax.imshow(small, origin="lower", cmap=MAP, norm=norm, extent=extent, interpolation="nearest")
        figure.colorbar(shown, ax=ax, label=label, shrink=0.85)
        ax.set(title=title, xlabel="x, column [px]", ylabel="y, row [px]")
    return figure


def class_map(dq: np.ndarray, classes: dict[str, int]) -> Drawing:
    """Show where on the chip the flagged pixels are, a panel a class.

    Parameters
    ----------
    dq : (ny, nx) integer array
        Bit planes.
    classes : dict
        Name → bit, for the classes to draw.
    """
    present = {name: bit for name, bit in classes.items() if (dq & bit).any()}
    if not present:
        return nothing("no pixel is flagged")
    columns = min(4, len(present))
    rows = math.ceil(len(present) / columns)
    alt = "Where flagged pixels lie, class by class"
    shared = {"sharex": True, "sharey": True, "squeeze": False}
    figure, axes = blank_axes(3.2 * columns, 3.1 * rows, alt, nrows=rows, ncols=columns, **shared)
    for ax in axes.flat[len(present) :]:
        ax.axis("off")
    for ax, (name, bit) in zip(axes.flat, present.items(), strict=False):
        y, x = np.divmod(np.flatnonzero(dq & bit), dq.shape[1])
        size = 12 if len(x) < 100 else 2 if len(x) < 3000 else 0.2
        ax.scatter(x, y, s=size, clip_on=False, color=HELD_OUT, linewidths=0, rasterized=True)
        ax.set(
            title=f"{name}: {len(x):,}", xlim=(-0.5, dq.shape[1] - 0.5), ylim=(-0.5, dq.shape[0] - 0.5), aspect="equal"
        )
    axes[0, 0].locator_params(nbins=4)  # shared by all panels: most of the drawing time is in ticks
    figure.supxlabel("x, column [px]", fontsize=10)
    figure.supylabel("y, row [px]", fontsize=10)
    return figure


def histograms(values: dict[str, tuple[np.ndarray, str]], bins: int = 200) -> Drawing:
    """Draw logarithmic histograms of all finite values, their tails included, side by side.

    Parameters
    ----------
    values : dict
        Title → (array, label with the unit).
    bins : int
        Of each histogram.
    """
    alt = f"Histograms, logarithmic: {', '.join(values)}"
    figure, axes = blank_axes(4.6 * len(values), 3.4, alt, ncols=len(values), squeeze=False)
    for ax, (title, (array, label)) in zip(axes[0], values.items(), strict=True):
        ax.hist(array[np.isfinite(array)], bins=bins, histtype="stepfilled", color=HELD_OUT, log=True)
        ax.yaxis.set_minor_locator(NullLocator())  # over many decades they are not seen, and take half of the time
        ax.set(xlabel=label, title=title)
    axes[0][0].set_ylabel("pixels per bin")
    return figure


def drift(frames: Table) -> Drawing:
    """Draw each frame's level and noise against frame number.

    Parameters
    ----------
    frames : Table
        Columns `level`, `noise` (electrons), and `temperature` (Celsius, NaN where unknown), a row a frame.
    """
    figure, axes = blank_axes(8, 5.2, "Level and noise of each frame", nrows=2, sharex=True)
    number = np.arange(len(frames))
    for ax, column, label in zip(axes, ("level", "noise"), ("median level [e-]", "noise [e-]"), strict=True):
        ax.plot(number, frames[column], "o-", color=HELD_OUT, markersize=4)
        ax.set_ylabel(label)
        ax.margins(y=0.2)
        ax.ticklabel_format(axis="y", useOffset=False)
    axes[-1].set_xlabel("frame number (file order)")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_title("Level and noise through the night")
    return figure


def show_cutouts(residual: np.ndarray, found: Table, title: str = "Cutouts") -> Drawing:
    """Draw the 5x5 pixels around each of some leaders, brightest first, under one stretch.

    Parameters
    ----------
    residual : (ny, nx) array
        Where the leaders were found, in electrons; not changed.
    found : Table
        With columns `x`, `y` and `peak`, as `find_leaders` gives them; the first 20 by brightness are drawn.
    title : str
        Above the figure.

    Returns
    -------
    drawing : Figure
        It shows itself as the last line of a cell. What lies beyond the edge of the frame is hatched.
    """
    found = found[np.argsort(-np.asarray(found["peak"]), kind="stable")]
    x, y = (np.asarray(found[axis], int) for axis in ("x", "y"))
    captions = [caption(*place, residual.shape) for place in zip(x, y, found["peak"], strict=True)]
    return montage(cut_stamps(residual, y, x), captions, title)


def montage(stamps: np.ndarray, captions: list[str], title: str = "", columns: int = 4, most: int = 20) -> Drawing:
    """Draw cutouts in one figure under one stretch, so that their brightness can be compared.

    Parameters
    ----------
    stamps : (n, 5, 5) array
        Residuals in electrons; NaN beyond the edge is drawn hatched grey.
    captions : list of str
        One a stamp; long ones may hold a line break.
    title : str
        Above the figure; how many are not shown is added to it.
    columns, most : int
        Cutouts in a row, and at most.
    """
    shown = min(len(stamps), most)
    if shown == 0:
        return nothing(f"{title}: none" if title else "none")
    columns = min(columns, shown)
    rows = math.ceil(shown / columns)
    cell = STAMP_SIZE + 2  # with the caption
    figure, ax = blank_axes(2.45 * columns + 1, 2.35 * rows + 0.6, f"{title}: {counted(shown, 'cutout')} of 5x5 pixels")
    vmin, vmax = percentile_limits(stamps[:shown], 1, 99.8)
    norm = ImageNormalize(vmin=vmin, vmax=vmax, stretch=AsinhStretch(0.05))
    sheet = np.full((rows * cell, columns * cell), np.nan)  # one image: many would take many times as long to draw
    for i in range(shown):
        left, bottom = (i % columns) * cell, (rows - 1 - i // columns) * cell
        sheet[bottom : bottom + STAMP_SIZE, left : left + STAMP_SIZE] = stamps[i]
        ax.add_patch(Rectangle((left, bottom), STAMP_SIZE, STAMP_SIZE, **BEYOND_EDGE))
        text = captions[i].replace(" around ", "\n")
        ax.text(left, bottom + STAMP_SIZE + 0.15, text, fontsize=7, va="bottom", parse_math=False)
    extent = (0, columns * cell, 0, rows * cell)
    image = ax.imshow(sheet, origin="lower", cmap="gray", norm=norm, extent=extent, interpolation="nearest")
    ax.set(xlim=(-0.3, columns * cell - 1.5), ylim=(-0.3, rows * cell), aspect="equal")
    ax.axis("off")
    figure.colorbar(image, ax=ax, label="residual [e-]", shrink=min(1.0, 2.2 / (2.35 * rows + 0.6) + 0.25))
    hidden = f" ({shown} of {len(stamps):,} shown)" if shown < len(stamps) else ""
    ax.set_title(title + hidden, loc="left", fontsize=11, parse_math=False)
    return figure


def counts_per_frame(per_frame: dict[str, np.ndarray], title: str, ylabel: str = "candidates") -> Drawing:
    """Draw how many candidates each frame holds, held out beside in sample.

    Parameters
    ----------
    per_frame : dict
        Label → (N,) counts; the first is drawn as held out, the second as in sample.
    title, ylabel : str
        Of the figure, and what is counted.
    """
    figure, ax = blank_axes(8, 3.4, f"{title}, frame by frame: {', '.join(per_frame)}")
    width = 0.8 / len(per_frame)
    for i, ((label, counts), color) in enumerate(zip(per_frame.items(), (HELD_OUT, IN_SAMPLE), strict=False)):
        ax.bar(np.arange(len(counts)) + (i - (len(per_frame) - 1) / 2) * width, counts, width, color=color, label=label)
    ax.set(xlabel="frame number (file order)", ylabel=ylabel, title=title)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylim(0, max(1, ax.get_ylim()[1]))
    ax.legend(frameon=False)
    return figure


def leader_scatter(leaders: Table, threshold: float, ratio: float) -> Drawing:
    """Draw all leaders by peak and neighbour ratio, with the observers' two cuts and what passes them.

    Leaders are drawn as their number per cell, logarithmic; every candidate is a dot of its own. What lies
    beyond the axes is drawn at their ends: a ratio beyond ±1, a peak below a twentieth of the threshold.
    """
    figure, ax = blank_axes(8, 4.4, "Leaders by peak and neighbour ratio, with both cuts")
    found = leaders[neighbor_ratio(leaders, threshold, ratio)]
    if len(leaders):
        cells = ax.hexbin(
            np.maximum(leaders["peak"], threshold / 20),  # a matched filter leads on peaks below zero, too
            np.clip(leaders["neighbor_ratio"], -1, 1),
            xscale="log",
            bins="log",
            gridsize=(150, 60),
            extent=(*np.log10([threshold / 20, max(5 * threshold, np.max(leaders["peak"]))]), -1, 1),
            mincnt=1,
            cmap=LinearSegmentedColormap.from_list("crowd", ["#c9cdd1", "#1c2126"]),
            linewidths=0.2,
        )
        figure.colorbar(cells, ax=ax, label=f"leaders in a cell ({len(leaders):,} in all)")
        dots = {"s": 36, "color": HELD_OUT, "edgecolors": "white", "linewidths": 0.6}
        ax.scatter(found["peak"], found["neighbor_ratio"], label=counted(len(found), "candidate"), **dots)
        ax.legend(frameon=False, loc="lower right")
    ax.axvline(threshold, color=IN_SAMPLE, lw=1.2)
    ax.axhline(ratio, color=IN_SAMPLE, lw=1.2)
    ax.text(threshold, 1.02, f" threshold {threshold:g} e-", color=IN_SAMPLE, transform=ax.get_xaxis_transform())
    ax.text(
        1.0, ratio, f"ratio {ratio:g} ", color=IN_SAMPLE, ha="right", va="bottom", transform=ax.get_yaxis_transform()
    )
    ax.set(xlabel="peak [e-]", ylabel="lowest neighbour / peak", ylim=(-1.05, 1.05))
    return figure
