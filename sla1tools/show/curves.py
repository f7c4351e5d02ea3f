"""Curves: photon transfer, calibration, false alarms, completeness and the trade-off between them."""

import math

import numpy as np
from astropy.table import Table
from IPython.display import HTML
from matplotlib.ticker import NullLocator, ScalarFormatter

from sla1tools.candidates.criteria import CRITERIA, in_words
from sla1tools.parameters import Parameters
from sla1tools.show.figures import ACCENT, GOOD, HELD_OUT, IN_SAMPLE, NEUTRAL, WIDTH, Drawing, blank_axes, nothing


def low_bits(audit) -> Drawing:
    """Draw the share of pixels that set each low bit; zero padding would leave the lowest ones unset."""
    figure, ax = blank_axes(WIDTH, 3, "Share of pixels that set each low bit of the raw count")
    bits = np.arange(len(audit.low_bit_use))
    ax.bar(bits, np.asarray(audit.low_bit_use) * 100, color=HELD_OUT)
    ax.set(xlabel="bit of the raw count (0 is the lowest)", ylabel="pixels that set it [%]", ylim=(0, 100), xticks=bits)
    ax.set_title("Use of the low bits")
    return figure


def transfer(photon_transfer, gain_configured: float) -> Drawing | HTML:
    """Draw temporal variance against dark level with the fitted and the configured gain.

    Parameters
    ----------
    photon_transfer : PhotonTransfer
        Levels and variances in counts and counts squared.
    gain_configured : float
        Electrons per count.
    """
    level, variance = photon_transfer.level, photon_transfer.variance
    if not len(level):
        return nothing("Photon transfer: not tested, for no group of pixels could be formed.")
    figure, ax = blank_axes(WIDTH, 3.8, "Variance against dark level")
    ax.errorbar(level, variance, photon_transfer.error, fmt="o", color=HELD_OUT, markersize=4, label="groups of pixels")
    x = np.array([level.min(), level.max()])
    if np.isfinite(photon_transfer.slope):
        fitted = photon_transfer.slope * x + photon_transfer.intercept
        ax.plot(x, fitted, color=HELD_OUT, lw=1, label="fitted line")
    weight = photon_transfer.error**-2.0
    middle, height = (np.average(values, weights=weight) for values in (level, variance))
    told = f"slope of the configured {gain_configured:.4f} e-/count"
    ax.plot(x, height + (x - middle) / gain_configured, color=IN_SAMPLE, ls="--", label=told)
    ax.legend(frameon=False)
    ax.set(xlabel="dark level [counts]", ylabel="variance [counts²]", title="Dark photon transfer")
    return figure


def calibration(widths: Table) -> Drawing | HTML:
    """Draw the width of residual / noise against dark level: it is 1 where the noise is right.

    Parameters
    ----------
    widths : Table
        `level` (electrons), `std`, `mad` (1.4826 times the median absolute deviation).
    """
    if not len(widths):
        return nothing("Calibration: not tested, for no pixel is free of flags.")
    figure, ax = blank_axes(WIDTH, 3.2, "Width of residual over noise against level")
    ax.axhspan(0.98, 1.02, color=GOOD, alpha=0.15, lw=0, label="±2 %")
    ax.plot(widths["level"], widths["mad"], "o-", color=HELD_OUT, markersize=4, label="1.4826 · MAD")
    ax.plot(widths["level"], widths["std"], "s:", color=IN_SAMPLE, markersize=4, label="standard deviation")
    ax.set(xlabel="dark level [e-]", ylabel="width of residual / noise", title="Is the noise calibrated?")
    ax.legend(frameon=False, ncols=3, columnspacing=1)
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 0.9), min(max(high, 1.1), 3))
    return figure


def deviations(histogram) -> Drawing:
    """Draw how far pixels deviate from their surroundings, logarithmic, beside a Gaussian of the bulk's width."""
    figure, ax = blank_axes(WIDTH, 3.2, "Histogram of deviations from the smooth level, logarithmic")
    ax.stairs(histogram.pixels, histogram.edges, fill=True, color=HELD_OUT, label="pixels")
    middle = (histogram.edges[1:] + histogram.edges[:-1]) / 2
    shown = histogram.gaussian > 0.1
    ax.plot(middle[shown], histogram.gaussian[shown], color=IN_SAMPLE, label=f"Gaussian, {histogram.sigma:.1f} e-")
    ax.set(xlabel="level above the surroundings [e-]", ylabel="pixels per bin", yscale="log")
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_title("Dark signal nonuniformity")
    ax.set_ylim(bottom=0.5)
    ax.legend(frameon=False)
    return figure


def profiles(rows: np.ndarray, columns: np.ndarray) -> Drawing:
    """Draw the master dark's row and column medians, in electrons."""
    figure, axes = blank_axes(8, 3.2, "Row and column profiles of the master dark", ncols=2, sharey=True)
    for ax, values, label in zip(axes, (columns, rows), ("x, column [px]", "y, row [px]"), strict=True):
        ax.plot(np.arange(len(values)), values, color=HELD_OUT, lw=0.8)
        ax.set_xlabel(label)
    axes[0].set(ylabel="median dark level [e-]", title="Column profile")
    axes[1].set_title("Row profile")
    return figure


def false_alarm_curve(counts: dict[str, tuple], expected: tuple, parameters: Parameters, frames: int) -> Drawing:
    """Draw candidates per frame against the first cut of the configured criterion, the others as configured.

    Parameters
    ----------
    counts : dict
        Label → (settings, candidates in all frames), held out first.
    expected : (settings, candidates per frame)
        From Gaussian noise alone.
    parameters : Parameters
        The night's.
    frames : int
        So many frames were searched.
    """
    cut, *others = CRITERIA[parameters.criterion].cuts
    figure, ax = blank_axes(WIDTH, 3.8, f"Candidates per frame against {cut.name}, with the Gaussian expectation")
    for (label, (settings, total)), color in zip(counts.items(), (HELD_OUT, IN_SAMPLE), strict=False):
        some = np.asarray(total) > 0
        ax.plot(np.asarray(settings)[some], np.asarray(total)[some] / frames, color=color, label=label)
    ax.plot(*expected, color=NEUTRAL, ls="--", label="Gaussian noise alone")
    limit = -math.log(0.05) / frames
    ax.axhline(limit, color=ACCENT, lw=1, ls=":", label=f"none seen: below {limit:.2g} (95 %)")
    configured = getattr(parameters, cut.name)
    ax.axvline(configured, color=NEUTRAL, lw=0.8)
    ax.text(configured, 0.02, f" {configured:g} {cut.unit}", transform=ax.get_xaxis_transform())
    kept = in_words({other.name: getattr(parameters, other.name) for other in others})
    ax.set(xlabel=f"{cut.name} [{cut.unit}]" if cut.unit else cut.name, ylabel="candidates per frame", yscale="log")
    ax.set_title(f"False alarms of the camera{kept and ', '}{kept}")
    ax.set_ylim(bottom=limit / 30)
    ax.legend(frameon=False)
    return figure


def completeness(
    curves: dict[str, Table], limits: dict[str, float | None], zero_point: float | None = None
) -> Drawing | HTML:
    """Draw the share of injected stars recovered against flux, a curve a criterion with its 95 % band.

    Parameters
    ----------
    curves : dict
        Criterion → table of `rates.completeness_curve`.
    limits : dict
        Criterion → flux of 50 %, electrons, or None.
    zero_point : float, optional
        Magnitude of 1 e-: a second axis has magnitudes.
    """
    if not any(map(len, curves.values())):
        return nothing("Completeness: not tested, for no star was injected.")
    figure, ax = blank_axes(WIDTH, 3.8, "Completeness against flux")
    ax.set_xscale("log")
    for criterion, curve in curves.items():
        color = CRITERIA[criterion].color
        ax.fill_between(curve["flux"], curve["low"], curve["high"], color=color, alpha=0.2, lw=0)
        flux = limits[criterion]
        told = f"50 % at {flux:.0f} e-" if flux else "no 50 % crossing" if len(curve) else "not tested"
        ax.plot(curve["flux"], curve["completeness"], color=color, label=f"{criterion}: {told}")
        if flux is not None:
            ax.plot(flux, 0.5, "o", color=color, markersize=5)
    for level in (0.5, 0.9):
        ax.axhline(level, color=NEUTRAL, lw=0.6, ls=":")
    ax.set(ylim=(-0.02, 1.02), xlabel="flux of the injected star [e-]", ylabel="share recovered")
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.set_title("Completeness")
    _magnitudes(ax, zero_point)
    ax.legend(frameon=False, loc="lower right")
    return figure


def share_by(axes_of: dict[str, Table], title: str) -> Drawing | HTML:
    """Draw the share recovered against other properties of the star, a panel a property.

    Parameters
    ----------
    axes_of : dict
        Axis label → table with `value`, `completeness`, `low`, `high`.
    title : str
        Above the panels.
    """
    if not any(map(len, axes_of.values())):
        return nothing(f"{title}: not tested.")
    alt = f"{title}: share recovered against {', '.join(axes_of)}"
    figure, axes = blank_axes(3.4 * len(axes_of), 3.2, alt, ncols=len(axes_of), sharey=True, squeeze=False)
    for ax, (label, table) in zip(axes[0], axes_of.items(), strict=True):
        share = np.asarray(table["completeness"])
        error = np.abs(np.stack([share - table["low"], table["high"] - share]))
        ax.errorbar(table["value"], share, error, fmt="o-", color=HELD_OUT, markersize=4)
        ax.set_xlabel(label)
    axes[0][0].set(ylabel="share recovered", ylim=(0, 1.02))
    figure.suptitle(title, fontsize=11)
    return figure


def tradeoff(
    grid: Table,
    frames: int,
    configured: dict[str, tuple],
    recommended: dict[str, tuple],
    zero_point: float | None = None,
) -> Drawing | HTML:
    """Draw false alarms per frame against the 50 % flux: the best that each criterion offers, and where we stand.

    Parameters
    ----------
    grid : Table
        From `counts.tradeoff`.
    frames : int
        Number of used frames.
    configured, recommended : dict
        Criterion → (flux_50, false alarms per frame); flux None or NaN is left out.
    zero_point : float, optional
        Magnitude of 1 e-: a second axis has magnitudes.
    """
    if not np.isfinite(grid["flux_50"]).any():
        return nothing("No setting finds half of the stars, or none was injected: there is no trade-off to be drawn.")
    figure, ax = blank_axes(WIDTH, 4.2, "False alarms against the flux found half of the time")
    ax.set(xscale="log", yscale="log")
    unseen = 0.3 / frames
    for name, criterion in CRITERIA.items():
        rows, color = grid[(np.asarray(grid["criterion"]) == name) & np.isfinite(grid["flux_50"])], criterion.color
        if len(rows) == 0:
            continue
        alarms = np.maximum(rows["rate"], unseen)
        ax.scatter(rows["flux_50"], alarms, s=5, color=color, alpha=0.25, linewidths=0, rasterized=True)
        flux, least = _best_front(np.asarray(rows["flux_50"]), np.asarray(alarms))
        ax.plot(flux, least, color=color, drawstyle="steps-post", label=name)
        for points, marker, size in ((configured, "o", 9), (recommended, "*", 15)):
            x, y = points.get(name, (None, None))
            if x is not None and y is not None and np.isfinite(x):
                ax.plot(x, max(y, unseen), marker, ms=size, color=color, mec="black", mew=1, zorder=5)
    ax.plot([], [], "o", color="white", mec="black", label="configured")
    ax.plot([], [], "*", ms=11, color="white", mec="black", label="recommended")
    ax.axhline(unseen, color=NEUTRAL, lw=0.6, ls=":")
    ax.text(0.995, unseen, "none seen ", transform=ax.get_yaxis_transform(), ha="right", va="bottom")
    ax.set(xlabel="flux found half of the time [e-]", ylabel="false alarms per frame")
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.set_title("What a setting finds, and what it costs")
    _magnitudes(ax, zero_point)
    ax.legend(frameon=False)
    return figure


def _magnitudes(ax, zero_point: float | None) -> None:
    """Put magnitudes above an axis of fluxes: the one is linear where the other is logarithmic."""
    if zero_point is not None:
        left, bottom, width, height = ax.get_position().bounds
        ax.set_position((left, bottom, width, height - 0.5 / ax.figure.get_figheight()))
        above = ax.twiny()
        above.set(xlim=zero_point - 2.5 * np.log10(ax.get_xlim()), xlabel="magnitude")


def _best_front(flux, alarms):
    """Points that no other beats in both; flux rising."""
    order = np.lexsort((alarms, flux))
    lowest = np.minimum.accumulate(alarms[order])
    front = np.flatnonzero(np.diff(lowest, prepend=np.inf) < 0)
    return flux[order][front], alarms[order][front]
