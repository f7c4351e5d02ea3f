"""Figures: what the notebooks and the index page show, each from arrays or tables that are already measured.

Plain `matplotlib.figure.Figure` objects, so that nothing is left open. Colours are Okabe and Ito's, which colour-blind
readers can tell apart; maps use cividis or greys. x is the column and y the row, both 0-based, y upward.
"""

import base64
import html
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from astropy.visualization import AsinhStretch, ImageNormalize
from IPython.display import HTML
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogFormatterSciNotation, MaxNLocator, NullLocator, ScalarFormatter
from PIL import Image

from sla1tools.candidates.criteria import CRITERIA, CUTS, candidates, in_words
from sla1tools.candidates.leaders import STAMP_SIZE, caption, cut_stamps
from sla1tools.candidates.selection import Cut, column_of
from sla1tools.darks.structure import block_medians
from sla1tools.parameters import Parameters
from sla1tools.show.pages import DPI, SHARP, width_of
from sla1tools.text import counted

HELD_OUT, IN_SAMPLE = "#0072B2", "#D55E00"
GOOD, NEUTRAL, ACCENT = "#009E73", "#555555", "#CC79A7"
LEAST_TICK = 0.09  # of a colour bar between two labels
MAP = "cividis"
BEYOND_EDGE: dict[str, Any] = {"facecolor": "#ddd", "edgecolor": "#999", "hatch": "////", "lw": 0, "zorder": -1}
MAP_PIXELS = 512  # a map is drawn with at most so many pixels a side: more only make the report heavy


WIDTH = 5.5  # inches of a figure, whose text of 10 pt a telephone then shows at 9 px
LEFT, RIGHT, BOTTOM, TOP = 1.0, 0.25, 0.6, 0.35  # inches around axes: for numbers of eight letters, label and title
ALIKE = {"sharex": True, "sharey": True, "squeeze": False}  # panels of one kind
BAR = 1.2  # inches for a colour bar with numbers of seven letters and its label
SUPERSCRIPTS = str.maketrans("0123456789-−", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁻")
BROADEST = 1900  # dots of a figure: a page is 944 pixels wide, and shows broader ones scaled


def png(figure: Figure) -> bytes:
    """Render a figure for a page, at twice the density of its pixels or less, in the 256 colours nearest to its own.

    Notes
    -----
    That halves its bytes: a night's pages are a fifth of its folder. No pixel of our figures moves by more than 10 of
    255; a palette of the most frequent colours, the usual choice, moves those of thin lines by 60.
    """
    canvas, buffer = FigureCanvasAgg(figure), io.BytesIO()
    canvas.draw()  # once: `savefig` draws twice
    dots = np.asarray(canvas.buffer_rgba())
    single = dots.view(np.uint32).ravel()
    runs = np.flatnonzero(np.diff(single, prepend=~single[:1]))  # of one colour: far fewer than dots
    few = Image.fromarray(dots.reshape(1, -1, 4)[:, runs, :3])
    few = few.quantize(method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    picture = Image.fromarray(np.repeat(np.asarray(few)[0], np.diff(runs, append=single.size)).reshape(dots.shape[:2]))
    picture.putpalette(few.getpalette() or [])
    picture.save(buffer, "PNG", compress_level=4, dpi=(figure.dpi, figure.dpi))
    return buffer.getvalue()


class Powers(LogFormatterSciNotation):
    """Write powers of ten at the ticks as plain text: to draw them as formulas takes ten times as long."""

    def __call__(self, x, pos=None):
        """Return what matplotlib would write, without its marks."""
        text = super().__call__(x, pos).removeprefix(r"$\mathdefault{").removesuffix("}$").replace(r"\times", "×")
        number, _, power = text.partition("^")
        return number + power.strip("{}").translate(SUPERSCRIPTS)


class Drawing(Figure):
    """A figure that shows itself as the last line of a cell, with a text (`alt`) for those who cannot see it."""

    alt = ""

    def draw(self, renderer) -> None:
        """Draw with whole numbers at the ticks: no power of ten and no offset stands apart from them."""
        every = (inner for ax in self.axes for inner in (ax, *ax.child_axes))
        for axis in (axis for ax in every for axis in (ax.xaxis, ax.yaxis)):
            if isinstance(formatter := axis.get_major_formatter(), ScalarFormatter):
                formatter.set_useOffset(False)
                formatter.set_scientific(False)
            elif type(formatter) is LogFormatterSciNotation:
                axis.set_major_formatter(Powers())
            if type(axis.get_minor_formatter()) is LogFormatterSciNotation:
                axis.set_minor_formatter(Powers())
        super().draw(renderer)

    def _repr_mimebundle_(self, include=None, exclude=None):
        picture = png(self)
        shown = {"image/png": base64.b64encode(picture).decode(), "text/plain": self.alt}
        return shown, {"image/png": {"alt": self.alt, "width": width_of(picture)}}


def blank_axes(width: float, height: float, alt: str, *, nrows=1, ncols=1, bar=0.0, top=TOP, **kwargs):
    """Make a figure of that size in inches and its axes, without the frame's upper and right side.

    `alt` says what it shows to those who cannot see it; `bar` is the room right of each of the axes, `top` that above
    them, in inches. Further arguments go to `Figure.subplots`.

    Notes
    -----
    Axes have fixed places. A layout would measure every text first, which takes as long as to draw it, and the axes of
    a page's figures would not stand below one another.
    """
    right = max(bar, RIGHT)
    beside = RIGHT if kwargs.get("sharey") else LEFT + right
    below = top + 0.1 if kwargs.get("sharex") else BOTTOM + top
    wide, high = width - LEFT - right, height - BOTTOM - top
    place = {"left": LEFT / width, "right": 1 - right / width, "bottom": BOTTOM / height, "top": 1 - top / height}
    place |= {"wspace": beside * ncols / (wide - (ncols - 1) * beside)}
    place |= {"hspace": below * nrows / (high - (nrows - 1) * below)}
    figure = Drawing(figsize=(width, height), dpi=min(SHARP * DPI, BROADEST / width))
    figure.alt = alt
    axes = figure.subplots(nrows, ncols, gridspec_kw=place, **kwargs)
    for ax in np.atleast_1d(axes).flat:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def color_bar(ax, colors: ScalarMappable, label: str, share: float = 1.0, **kwargs) -> None:
    """Draw a colour bar in the room right of axes, from their top down that share of their height.

    Further arguments go to `Figure.colorbar`.
    """
    inch = 1 / (ax.get_position().width * ax.figure.get_figwidth())
    place = ax.inset_axes((1 + 0.1 * inch, 1 - share, 0.15 * inch, share))
    ax.figure.colorbar(colors, cax=place, label=label, **kwargs)


def nothing(text: str) -> HTML:
    """Say that there is nothing to draw."""
    return HTML(f"<p>{html.escape(text)}</p>")


def percentile_limits(values: np.ndarray, low: float = 0.5, high: float = 99.5) -> tuple[float, float]:
    """Percentiles of the finite values, never equal to one another; (0, 1) where nothing is finite."""
    finite = values[np.isfinite(values)]
    vmin, vmax = np.percentile(finite, [low, high]) if finite.size else (0.0, 1.0)
    return float(vmin), float(vmax if vmax > vmin else vmin + 1.0)


def maps(images: dict[str, tuple[np.ndarray, str]]) -> Drawing:
    """Draw maps of the chip side by side.

    Parameters
    ----------
    images : dict
        Title → ((ny, nx) array, label of its colour bar with the unit).
    """
    alt = f"Maps of the chip: {', '.join(images)}"
    figure, axes = blank_axes(5.2 * len(images), 4.4, alt, ncols=len(images), bar=BAR, squeeze=False)
    for ax, (title, (image, label)) in zip(axes[0], images.items(), strict=True):
        block = math.ceil(max(image.shape) / MAP_PIXELS)
        small = block_medians(np.asarray(image), min(block, image.shape[0]), min(block, image.shape[1]))
        vmin, vmax = percentile_limits(small)
        colors = ScalarMappable(ImageNormalize(vmin=vmin, vmax=vmax, stretch=AsinhStretch(0.3)), MAP)
        shown = colors.to_rgba(np.ma.masked_invalid(small), bytes=True)  # before it has as many dots as the page
        extent = (-0.5, image.shape[1] - 0.5, -0.5, image.shape[0] - 0.5)
        ax.imshow(shown, origin="lower", extent=extent, interpolation="nearest")
        color_bar(ax, colors, label)
        ax.set(title=title, xlabel="x, column [px]", ylabel="y, row [px]")
    return figure


def class_map(dq: np.ndarray, classes: dict[str, int]) -> Drawing | HTML:
    """Show where on the chip the flagged pixels are, a panel a class.

    Parameters
    ----------
    dq : (ny, nx) integer array
        Bit planes.
    classes : dict
        Name → bit, for the classes to draw.
    """
    flagged = np.flatnonzero(dq)
    bits = dq.ravel()[flagged]
    present = {name: bit for name, bit in classes.items() if (bits & bit).any()}
    if not present:
        return nothing("No pixel is flagged.")
    columns = min(4, len(present))
    rows = math.ceil(len(present) / columns)
    alt = "Where flagged pixels lie, class by class"
    figure, axes = blank_axes(3.2 * columns, 3.1 * rows, alt, nrows=rows, ncols=columns, **ALIKE)
    for ax in axes.flat[len(present) :]:
        ax.axis("off")
    for ax, (name, bit) in zip(axes.flat, present.items(), strict=False):
        y, x = np.divmod(flagged[bits & bit != 0], dq.shape[1])
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
        ax.stairs(*np.histogram(array[np.isfinite(array)], bins), fill=True, color=HELD_OUT)
        ax.set(xlabel=label, title=title, yscale="log", ylim=(0.5, None))
        ax.yaxis.set_minor_locator(NullLocator())  # over many decades they are not seen, and take half of the time
    axes[0][0].set_ylabel("pixels per bin")
    return figure


def drift(frames: Table) -> Drawing:
    """Draw each frame's level and noise against frame number.

    Parameters
    ----------
    frames : Table
        Columns `level`, `noise` (electrons), and `temperature` (Celsius, NaN where unknown), a row a frame.
    """
    figure, axes = blank_axes(WIDTH, 4.6, "Level and noise of each frame", nrows=2, sharex=True)
    number = np.arange(len(frames))
    for ax, column, label in zip(axes, ("level", "noise"), ("median level [e-]", "noise [e-]"), strict=True):
        ax.plot(number, frames[column], "o-", color=HELD_OUT, markersize=4)
        ax.set_ylabel(label)
        ax.margins(y=0.2)
    axes[-1].set_xlabel("frame number (file order)")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_title("Level and noise through the night")
    return figure


def _ticks_apart(norm) -> list[float]:
    """Ticks of a stretched colour bar whose labels do not touch, the lowest first."""
    ticks: list[float] = []
    for tick in MaxNLocator(9).tick_values(norm.vmin, norm.vmax):
        if norm.vmin <= tick <= norm.vmax and (not ticks or norm(tick) - norm(ticks[-1]) > LEAST_TICK):
            ticks.append(float(tick))
    return ticks


def show_cutouts(residual: np.ndarray, found: Table, title: str = "Cutouts") -> Drawing | HTML:
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
    drawing : Figure, or a sentence where nothing is found
        It shows itself as the last line of a cell. What lies beyond the edge of the frame is hatched.
    """
    found = found[np.argsort(-np.asarray(found["peak"]), kind="stable")]
    x, y = (np.asarray(found[axis], int) for axis in ("x", "y"))
    captions = [caption(*place, residual.shape) for place in zip(x, y, found["peak"], strict=True)]
    return montage(cut_stamps(residual, y, x), captions, title)


def montage(stamps: np.ndarray, captions: list[str], title: str = "", most: int = 20) -> Drawing | HTML:
    """Draw cutouts in one figure under one stretch, so that their brightness can be compared.

    Parameters
    ----------
    stamps : (n, 5, 5) array
        Residuals in electrons; NaN beyond the edge is drawn hatched grey.
    captions : list of str
        One a stamp; long ones may hold a line break.
    title : str
        Above the figure; how many are not shown is added to it.
    most : int
        Cutouts at most.
    """
    shown = min(len(stamps), most)
    if shown == 0:
        return nothing(f"{title}: none." if title else "None.")
    columns = min(4, shown)
    rows = math.ceil(shown / columns)
    texts = [text.replace(" around ", "\n") for text in captions[:shown]]
    across = STAMP_SIZE + 3  # pixels from one to the next, for the longest caption
    along = STAMP_SIZE + 2 + max(text.count("\n") for text in texts) // 2  # two lines of it a pixel
    wide, high = 2.9 * columns, 2.9 * rows * along / across  # inches
    width, height = 0.1 + wide + BAR, 0.1 + high + TOP
    figure, ax = blank_axes(width, height, f"{title}: {counted(shown, 'cutout')} of 5x5 pixels")
    ax.set_position((0.1 / width, 0.1 / height, wide / width, high / height))
    vmin, vmax = percentile_limits(stamps[:shown], 1, 99.8)
    norm = ImageNormalize(vmin=vmin, vmax=vmax, stretch=AsinhStretch(0.05))
    sheet = np.full((rows * along, columns * across), np.nan)  # one image: many would take many times as long to draw
    for i in range(shown):
        left, bottom = (i % columns) * across, (rows - 1 - i // columns) * along
        sheet[bottom : bottom + STAMP_SIZE, left : left + STAMP_SIZE] = stamps[i]
        if np.isnan(stamps[i]).any():
            ax.add_patch(Rectangle((left, bottom), STAMP_SIZE, STAMP_SIZE, **BEYOND_EDGE))
        ax.text(left, bottom + STAMP_SIZE + 0.15, texts[i], va="bottom", parse_math=False)
    colors = ax.pcolormesh(np.ma.masked_invalid(sheet), cmap="gray", norm=norm)
    ax.axis("off")
    color_bar(ax, colors, "residual [e-]", min(1.0, 1 / rows + 0.1), ticks=_ticks_apart(norm))
    hidden = f" ({shown} of {len(stamps):,} shown)" if shown < len(stamps) else ""
    ax.set_title(title + hidden, loc="left", fontsize=11, parse_math=False)
    return figure


def counts_per_frame(per_frame: dict[str, np.ndarray], title: str, ylabel: str = "candidates") -> Drawing | HTML:
    """Draw how many candidates each frame holds, held out beside in sample.

    Parameters
    ----------
    per_frame : dict
        Label → (N,) counts; the first is drawn as held out, the second as in sample.
    title, ylabel : str
        Of the figure, and what is counted.
    """
    if not any(np.any(counts) for counts in per_frame.values()):
        return nothing(f"{title}: none in any frame.")
    figure, ax = blank_axes(WIDTH, 3.2, f"{title}, frame by frame: {', '.join(per_frame)}")
    width = 0.8 / len(per_frame)
    for i, ((label, counts), color) in enumerate(zip(per_frame.items(), (HELD_OUT, IN_SAMPLE), strict=False)):
        ax.bar(np.arange(len(counts)) + (i - (len(per_frame) - 1) / 2) * width, counts, width, color=color, label=label)
    ax.set(xlabel="frame number (file order)", ylabel=ylabel, title=title)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False)
    return figure


def leader_scatter(leaders: Table, parameters: Parameters) -> Drawing | HTML:
    """Draw all leaders by what the configured criterion's first two cuts compare, with these cuts and what passes.

    Leaders are drawn as their number per cell; every candidate is a dot of its own. What lies beyond the axes is drawn
    at their ends: below a twentieth of the first cut, or beyond the ends of a slider. A leader without a fit has no
    place where the fit is compared.
    """
    criterion = CRITERIA[parameters.criterion]
    cuts = dict.fromkeys((*criterion.cuts, *CUTS.values()))  # a criterion may have one cut
    first, second = axes_of = [_axis_of(cut, leaders, parameters) for cut in list(cuts)[:2]]
    drawn = np.isfinite(first.values) & np.isfinite(second.values)
    if not drawn.any():
        return nothing("There is no leader to be drawn.")
    figure, ax = blank_axes(
        WIDTH, 4.4, f"Leaders by {first.label} and {second.label}, with the cuts of {criterion.name}", bar=BAR
    )
    cells = ax.hexbin(
        first.values[drawn],
        second.values[drawn],
        xscale=first.scale,
        yscale=second.scale,
        bins="log",
        gridsize=(110, 50),
        extent=(*first.ends, *second.ends),
        mincnt=1,
        cmap=LinearSegmentedColormap.from_list("crowd", ["#c9cdd1", "#1c2126"]),
        linewidths=0.2,
    )
    color_bar(ax, cells, f"leaders in a cell ({np.count_nonzero(drawn):,} in all)")
    found = np.flatnonzero(candidates(leaders, parameters))
    dots = {"s": 36, "color": criterion.color, "edgecolors": "white", "linewidths": 0.6}
    ax.scatter(first.values[found], second.values[found], label=counted(len(found), "candidate"), **dots)
    ax.legend(frameon=False, loc="lower right")
    for axis, line in zip(axes_of, (ax.axvline, ax.axhline), strict=True):
        line(axis.cut, color=NEUTRAL, lw=1.2)
    ax.set(xlabel=first.label, ylabel=second.label, title=in_words(criterion.configured(parameters)))
    return figure


@dataclass(frozen=True)
class _Axis:
    """What a cut compares: a value a leader, the cut, and how to draw them; `ends` of a log scale are so, too."""

    values: np.ndarray
    cut: float
    label: str
    scale: str
    ends: tuple[float, float]


def _axis_of(cut: Cut, leaders: Table, parameters: Parameters) -> _Axis:
    term = next(term for criterion in CRITERIA.values() for term in criterion.terms if term.bound == cut.name)
    values, own = column_of(leaders, term.column).astype(float), float(getattr(parameters, cut.name))
    with np.errstate(divide="ignore", invalid="ignore"):
        values = values / column_of(leaders, term.factor) if term.factor else values
    low, high = (cut.low, 1.0) if cut.opens else (-cut.high, cut.high)
    if cut.floor:  # a matched filter leads on peaks below zero, too
        low, high = own / 20, max([5 * own, *values[np.isfinite(values)]])
    log = bool(cut.log or cut.floor)
    name = f"{term.column} / {term.factor}" if term.factor else term.column
    label = f"{name} [{cut.unit}]" if cut.unit else name
    ends = (float(np.log10(low)), float(np.log10(high))) if log else (low, high)
    return _Axis(np.clip(values, low, high), max(own, low), label, "log" if log else "linear", ends)
