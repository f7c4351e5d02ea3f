"""Structure of the dark over the frame and over the night: profiles, glow, nonuniformity, drift."""

from dataclasses import dataclass

import numpy as np
from astropy import units
from astropy.table import Table
from scipy import special


def smooth_level(level: np.ndarray, block: int | None = None) -> np.ndarray:
    """Glow map: the level without pixels, columns and rows, from medians of blocks, linear between their centres.

    Parameters
    ----------
    level : (ny, nx) array
        Master dark or level map; uint16 counts are fastest. Not changed.
    block : int, optional
        Side of a block in pixels; by default a 64th of the frame's shorter side, from 8 to 64.

    Returns
    -------
    smooth : (ny, nx) float32 array
        In the unit of `level`; constant beyond the outermost block centres.
    """
    ny, nx = level.shape
    block = block or int(np.clip(min(ny, nx) // 64, 8, 64))
    block_y, block_x = min(block, ny), min(block, nx)
    medians = block_medians(level, block_y, block_x)
    return _between(ny, block_y, len(medians)) @ medians @ _between(nx, block_x, medians.shape[1]).T


def block_medians(level: np.ndarray, block_y: int, block_x: int) -> np.ndarray:
    """Median of every whole block, (ny // block_y, nx // block_x) float32; remaining rows and columns do not count."""
    rows, columns = level.shape[0] // block_y, level.shape[1] // block_x
    blocks = level[: rows * block_y, : columns * block_x].reshape(rows, block_y, columns, block_x)
    return fast_median(blocks.transpose(0, 2, 1, 3).reshape(rows, columns, -1)).astype(np.float32)


def fast_median(values: np.ndarray) -> np.ndarray:
    """Median along the last axis, in half the time of ``np.median``; integers are partitioned as they are; no NaN."""
    middle = values.shape[-1] // 2
    ordered = np.partition(values, middle, axis=-1)  # for two places it would take twice as long
    if values.shape[-1] % 2:
        return ordered[..., middle]
    return np.stack([ordered[..., :middle].max(axis=-1), ordered[..., middle]]).mean(axis=0)


def _between(size: int, block: int, count: int) -> np.ndarray:
    """Matrix (size, count) that interpolates linearly between block centres."""
    place = np.clip((np.arange(size) - (block - 1) / 2) / block, 0, count - 1)
    weight = np.maximum(1 - np.abs(place[:, None] - np.arange(count)), 0)
    return weight.astype(np.float32)


def line_medians(level: np.ndarray, axis: int) -> np.ndarray:
    """Do as ``np.median(level, axis)``, float64; integer maps are several times faster."""
    return fast_median(np.ascontiguousarray(np.moveaxis(level, axis, -1))).astype(np.float64)


@dataclass(frozen=True)
class SpatialVariances:
    """Dark signal nonuniformity, split as in EMVA 1288 Release 4.0 Linear (its spatial variances only).

    Attributes
    ----------
    total, row, column, pixel : float
        Spatial variances: of everything, of whole rows, of whole columns, and what is left to single pixels;
        ``total = row + column + pixel``. The temporal variance over the number of frames is taken off total and pixel:
        a component that noise alone outweighs comes out below zero.
    """

    total: float
    row: float
    column: float
    pixel: float


def spatial_variances(mean: np.ndarray, variance: np.ndarray, frames: int, usable=None) -> SpatialVariances:
    """Split the spatial variance of an averaged dark into rows, columns and pixels.

    Parameters
    ----------
    mean : (ny, nx) array
        Average over the frames. Take `smooth_level` off first to leave the glow out, which the standard does not.
    variance : (ny, nx) array
        Temporal sample variance, in the square of that unit.
    frames : int
        Number of frames averaged.
    usable : (ny, nx) bool array, optional
        Pixels that count; the standard lets all count. Rows and columns without any are left out.

    Notes
    -----
    With M rows and N columns, and s²_av of all pixels less the temporal variance over the number of frames, s²_row.cav
    of the row means and s²_col.cav of the column means less theirs::

        s²_av = s²_row + s²_col + s²_pixel
        s²_row.cav = s²_row + s²_pixel / N
        s²_col.cav = s²_col + s²_pixel / M

    solved for the three. Not done here: the standard's photon response, its spectrograms and its high-pass filter.
    """
    counted = np.ones(mean.shape, bool) if usable is None else usable
    of_row, of_column = np.count_nonzero(counted, axis=1), np.count_nonzero(counted, axis=0)
    above = np.where(counted, mean - np.mean(mean, dtype=np.float64), 0)
    row_means, column_means = (above.sum(axis)[n > 0] / n[n > 0] for axis, n in ((1, of_row), (0, of_column)))
    rows, columns, pixels = len(row_means), len(column_means), of_row.sum()
    total = np.vdot(above, above) / pixels - (above.sum() / pixels) ** 2
    row_averages, column_averages = np.var(row_means), np.var(column_means)
    noise = np.sum(variance, dtype=np.float64, where=counted) / pixels / frames
    pixel = (total - row_averages - column_averages) / (1 - 1 / columns - 1 / rows)
    row, column = row_averages - pixel / columns, column_averages - pixel / rows
    return SpatialVariances(float(total - noise), float(row), float(column), float(pixel - noise))


@dataclass(frozen=True)
class DeviationHistogram:
    """Histogram for a logarithmic axis: how many pixels deviate how far, beside a Gaussian of the bulk's width.

    Attributes
    ----------
    edges : (bins + 1,) float64 array
        In the unit of the map.
    pixels : (bins,) int64 array
        Pixels in each bin; those beyond the outer edges are in the outer bins.
    gaussian : (bins,) float64 array
        Pixels expected of a Gaussian of width `sigma` about zero.
    sigma : float
        1.4826 times the median absolute deviation.
    """

    edges: np.ndarray
    pixels: np.ndarray
    gaussian: np.ndarray
    sigma: float


def deviation_histogram(deviation: np.ndarray, bins: int = 256) -> DeviationHistogram:
    """Make the logarithmic histogram of EMVA 1288: its tails are the bad pixels.

    Parameters
    ----------
    deviation : array
        Master minus its smooth level. Not changed.
    bins : int
        Equal bins from the lowest to the highest deviation.
    """
    flat = np.ravel(deviation)
    sigma = 1.4826 * float(np.median(np.abs(flat)))
    low, high = float(flat.min()), float(flat.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    pixels, edges = np.histogram(flat, bins, (low, high))
    beyond = special.ndtr(edges / sigma) if sigma > 0 else (edges >= 0).astype(float)
    return DeviationHistogram(edges, pixels, flat.size * np.diff(beyond), sigma)


def frame_offsets(sample: np.ndarray, master_sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Measure by how much each whole frame lies above the night.

    Parameters
    ----------
    sample : (N, n) array
        Raw counts of some tens of thousands of pixels (every 32nd row, say) in every frame; not changed.
    master_sample : (n,) array
        The same pixels of the night's master of all frames. A held-out master would magnify the offsets by N/(N-1).

    Returns
    -------
    offset, error : (N,) float64 arrays
        Counts, and 1 sigma: the mean of the central half of the differences, which hot pixels do not move and which
        is finer than a count.
    """
    sample = np.asarray(sample)
    quarter = sample.shape[1] // 4
    offset, error = np.empty(len(sample)), np.empty(len(sample))
    for k, counts in enumerate(sample):
        ends = [quarter, len(counts) - quarter - 1]
        ranked = np.partition(np.ravel(counts).astype(np.float64) - np.ravel(master_sample), ends)
        central = ranked[quarter : len(ranked) - quarter]
        # Winsorized variance of a mean trimmed by a quarter on each side.
        spread = np.clip(ranked, *ranked[ends]).var()
        offset[k], error[k] = central.mean(), 2 * np.sqrt(spread / len(ranked))
    return offset, error


def frame_drift(sample: np.ndarray, master_sample: np.ndarray) -> Table:
    """Level and noise of every frame of the night.

    Parameters
    ----------
    sample, master_sample : (N, n) and (n,) arrays
        As for `frame_offsets`.

    Returns
    -------
    drift : Table
        A row a frame: `frame` (0-based), `level` (median), `offset`, `offset_error` (`frame_offsets`), `noise` (robust
        1 sigma of one frame, from its difference to the mean of all others; NaN of a single one); all in counts.

    Notes
    -----
    A frame's difference to the mean of the n - 1 others has variance ``v + (V - v) / (n - 1)**2``, where V is the sum
    of all frames' v; the sum of these is ``V * n / (n - 1)``. So unlike frames do not take of each other's noise.
    """
    sample = np.asarray(sample)
    offset, error = frame_offsets(sample, master_sample)
    others = len(sample) - 1
    apart = np.full(len(sample), np.nan)
    dither = np.random.default_rng(0).uniform(-0.5, 0.5, sample.shape[1])  # else the median is good to a count only
    total = sample.sum(axis=0, dtype=np.float64)
    for k in range(len(sample) if others else 0):
        difference = (sample[k] - (total - sample[k]) / others + dither).astype(np.float32)
        apart[k] = (1.4826 * np.median(np.abs(difference - np.median(difference)))) ** 2
    shared = apart.sum() * others / len(sample)
    own = apart / 2 if others < 2 else (apart - shared / others**2) / (1 - others**-2)
    noise = np.sqrt(np.maximum(own, 0))
    columns = {"level": line_medians(sample, 1), "offset": offset, "offset_error": error, "noise": noise}
    return Table({"frame": np.arange(len(sample))} | {name: value * units.adu for name, value in columns.items()})


@dataclass(frozen=True)
class Trend:
    """Straight line through the frames.

    Attributes
    ----------
    slope, error : float
        Change of y per unit of x, and 1 sigma from the scatter about the line; NaN where fewer than three frames have
        both, or x never changes.
    frames : int
        Frames that had both.
    """

    slope: float
    error: float
    frames: int


def trend(x, y) -> Trend:
    """Slope of y (level, offset or noise of the frames) against x: frame number, time, or temperature (NaN: unknown).

    Examples
    --------
    >>> trend([0, 1, 2, 3], [10.0, 12.1, 13.9, 16.0])  # doctest: +ELLIPSIS
    Trend(slope=1.98..., error=0.0424..., frames=4)
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    if len(x) < 3 or np.ptp(x) == 0:
        return Trend(np.nan, np.nan, len(x))
    (slope, _), covariance = np.polyfit(x - x.mean(), y, 1, cov=True)
    return Trend(float(slope), float(np.sqrt(covariance[0, 0])), len(x))
