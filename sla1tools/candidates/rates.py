"""False alarms, completeness and the operating point: what a setting costs and what it finds."""

import math
from dataclasses import dataclass

import numpy as np
from astropy.stats import binom_conf_interval
from astropy.table import Table
from scipy import special

from sla1tools.candidates.psf import pixel_integrated_gaussian

CONFIDENCE = 0.95
FRAMES_PER_NIGHT = 960  # an 8 h night of 30 s exposures
FLUX_BINS = 40
BAND_ROWS = 128
DRAWS = 400  # bootstrap draws for an interval of a crossing: its ends scatter by a few per cent of its width


@dataclass(frozen=True)
class Rate:
    """A Poisson rate per frame with one-sided limits, each at `confidence`."""

    count: int
    frames: int
    rate: float
    low: float
    high: float
    confidence: float = CONFIDENCE


def poisson_rate(count: int, frames: int) -> Rate:
    """Rate per frame with one-sided 95 % limits (Garwood 1936).

    Parameters
    ----------
    count : int
        False alarms seen.
    frames : int
        In so many frames, at least 1.

    Examples
    --------
    None in ten frames still allows 0.3 a frame.

    >>> round(poisson_rate(0, 10).high, 2)
    0.3
    """
    low = special.gammaincinv(count, 1 - CONFIDENCE) if count else 0.0
    return Rate(count, frames, count / frames, float(low) / frames, float(upper_limit(count)) / frames)


def upper_limit(count):
    """Poisson mean that gives so few or fewer with 5 % chance; `count` a number or an array."""
    return special.gammaincinv(np.asarray(count) + 1, CONFIDENCE)


def frame_area(shape: tuple[int, int], pixel_scale: float) -> float:
    """Area of sky that a frame covers, in square degrees; `pixel_scale` in arcsec."""
    return shape[0] * shape[1] * (pixel_scale / 3600) ** 2


def gaussian_expectation(noise: np.ndarray, threshold, ratio: float, neighbors: int = 4):
    """Candidates of `neighbor_ratio` expected in one frame from Gaussian noise alone.

    Parameters
    ----------
    noise : (ny, nx) array
        1-sigma of the residual, in electrons; pixels that are not finite or not positive are left out.
    threshold : float or (n,) array
        The observers' cut, in electrons; several cost little more than one.
    ratio : float
        The observers' other cut.
    neighbors : {4, 8}
        Neighbours that count.

    Returns
    -------
    expected : float, or (n,) array for n thresholds
        Sum over pixels of the integral above the threshold of the pixel's density times the probability that each
        neighbour within the frame lies between ratio times the value and the value.

    Notes
    -----
    Pixels are grouped by their own noise and the mean noise of their neighbours, in steps of 1 %: the product over
    neighbours differs from the power of their mean only in second order of their differences.
    """
    usable = np.isfinite(noise) & (noise > 0)
    thresholds = np.atleast_1d(threshold)
    if not usable.any():
        return 0.0 if np.ndim(threshold) == 0 else np.zeros(len(thresholds))
    least, most = (int(np.rint(np.log(end(noise[usable])) * 100)) for end in (np.min, np.max))
    shape = (most - least + 1, most - least + 1, neighbors + 1)
    pixels, own_sum, around_sum = np.zeros((3, math.prod(shape)))
    padded = np.pad(np.where(usable, noise, 0), 1)
    for top in range(0, len(noise), BAND_ROWS):  # a band stays in a core's cache
        own, around, count = _noise_neighborhoods(padded[top : top + BAND_ROWS + 2], neighbors)
        steps = (np.rint(np.log(values) * 100).astype(np.int64) - least for values in (own, around))
        key = np.ravel_multi_index((*steps, count), shape, mode="clip")
        for total, weights in ((pixels, None), (own_sum, own), (around_sum, around)):
            total += np.bincount(key, weights, minlength=len(total))
    groups = np.flatnonzero(pixels)
    mean_own, mean_around = own_sum[groups] / pixels[groups], around_sum[groups] / pixels[groups]
    neighbors_there = np.unravel_index(groups, shape)[2]
    each = (_leading_probability(mean_own, mean_around, neighbors_there, cut, ratio) for cut in thresholds)
    expected = np.array([pixels[groups] @ probability for probability in each])
    return float(expected[0]) if np.ndim(threshold) == 0 else expected


def _noise_neighborhoods(padded, neighbors):
    """Own noise, mean noise of the neighbours within the frame and their number, for every usable pixel.

    `padded` is a band of the noise with one row and column more on each side, 0 where there is no usable pixel.
    """
    from sla1tools.candidates.leaders import OFFSETS

    ny, nx = padded.shape[0] - 2, padded.shape[1] - 2
    total, count = np.zeros((ny, nx), padded.dtype), np.zeros((ny, nx), np.int8)
    for dy, dx in OFFSETS[neighbors]:
        neighbor = padded[1 + dy : 1 + dy + ny, 1 + dx : 1 + dx + nx]
        total += neighbor
        count += neighbor > 0
    own = padded[1:-1, 1:-1]
    around = np.divide(total, count, out=own.copy(), where=count > 0)
    usable = own > 0
    return own[usable], around[usable], count[usable]


def _leading_probability(own, around, count, threshold, ratio):
    """Probability of one pixel to be a candidate, by Gauss-Legendre quadrature over 8 sigma above the threshold."""
    nodes, weights = np.polynomial.legendre.leggauss(48)
    start = np.maximum(threshold, -8 * own)
    stop = start + 8 * own
    v = start[:, None] + (stop - start)[:, None] * (nodes + 1) / 2
    density = np.exp(-0.5 * (v / own[:, None]) ** 2) / (own[:, None] * math.sqrt(2 * math.pi))
    between = special.ndtr(v / around[:, None]) - special.ndtr(ratio * v / around[:, None])
    return (density * between ** count[:, None]) @ weights * (stop - start) / 2


def count_over_grid(leaders: Table, thresholds: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """Count the candidates of `neighbor_ratio` at every setting of a grid.

    Returns
    -------
    counts : (thresholds, ratios) int array
        The same as summing `criteria.neighbor_ratio` at each setting, from one two-dimensional histogram.
    """
    return grid_histogram(leaders, thresholds, ratios)[0]


def grid_histogram(rows: Table, thresholds, ratios, group=None, groups: int = 1) -> np.ndarray:
    """Count rows that pass `neighbor_ratio` for each setting, (groups, thresholds, ratios).

    Parameters
    ----------
    rows : Table
        With `peak` and `neighbor_min`.
    thresholds, ratios : (n,), (m,) arrays
        Both rising.
    group : (rows,) int array, optional
        Which group a row counts for: a frame, or a bin of flux.
    groups : int
        Number of groups.
    """
    peak, lowest = np.asarray(rows["peak"]), np.asarray(rows["neighbor_min"])
    above = np.searchsorted(thresholds, peak, side="left")  # thresholds strictly below the peak
    kept = np.zeros(len(peak), np.int64)
    for ratio in ratios:
        kept += lowest >= ratio * peak
    group = np.zeros(len(peak), np.int64) if group is None else group
    shape = (groups, len(thresholds) + 1, len(ratios) + 1)
    cells = np.bincount(np.ravel_multi_index((group, above, kept), shape), minlength=math.prod(shape)).reshape(shape)
    at_least = cells[:, ::-1, ::-1].cumsum(axis=1).cumsum(axis=2)[:, ::-1, ::-1]
    return at_least[:, 1:, 1:]


def flux_bins(flux_range: tuple[float, float]) -> np.ndarray:
    """Edges of the logarithmic flux bins, in electrons."""
    return np.geomspace(*flux_range, FLUX_BINS + 1)


def bin_of_flux(flux: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Index of the flux bin of each star; the ends belong to the first and the last bin."""
    return np.clip(np.searchsorted(edges, flux, side="right") - 1, 0, len(edges) - 2)


def completeness_curve(flux: np.ndarray, recovered: np.ndarray, edges: np.ndarray) -> Table:
    """Share of injected stars recovered, by flux.

    Parameters
    ----------
    flux : (n,) array
        True fluxes in electrons; every injected star is in the denominator.
    recovered : (n,) bool array
        Which of them were found.
    edges : (m + 1,) array
        Flux bins.

    Returns
    -------
    curve : Table
        A row a bin: `flux` (geometric mean of its edges, electrons), `injected`, `recovered`, `completeness`, `low`,
        `high` (Wilson interval at 95 %); NaN where nothing was injected.
    """
    place = bin_of_flux(flux, edges)
    injected = np.bincount(place, minlength=len(edges) - 1)
    found = np.bincount(place[recovered], minlength=len(edges) - 1)
    low, high = np.full((2, len(injected)), np.nan)
    some = injected > 0
    low[some], high[some] = binom_conf_interval(found[some], injected[some], CONFIDENCE, interval="wilson")
    share = np.divide(found, injected, out=np.full(len(injected), np.nan), where=some)
    center = np.sqrt(edges[1:] * edges[:-1])
    columns = {
        "flux": center,
        "injected": injected,
        "recovered": found,
        "completeness": share,
        "low": low,
        "high": high,
    }
    return Table(columns, units={"flux": "electron"})


@dataclass(frozen=True)
class FluxLimit:
    """The flux at which completeness first rises through a level, with its 95 % interval, in electrons.

    `flux` is None if the curve never rises through the level; `low` or `high` is None if that end lies outside the
    fluxes injected. Where even the faintest stars are found more often than that, only `high` is given: their flux.
    """

    flux: float | None
    low: float | None
    high: float | None


def flux_limit(curve: Table, level: float, seed: int = 0) -> FluxLimit:
    """Flux of the first upward crossing of a completeness level, with a bootstrap interval.

    Parameters
    ----------
    curve : Table
        From `completeness_curve`.
    level : float
        Between 0 and 1: 0.5 or 0.9.
    seed : int
        Of the binomial draws.
    """
    curve = curve[np.asarray(curve["injected"]) > 0]
    if len(curve) < 2:
        return FluxLimit(None, None, None)
    flux, injected = np.asarray(curve["flux"]), np.asarray(curve["injected"])
    found = np.asarray(curve["recovered"])
    if found[0] >= level * injected[0]:
        return FluxLimit(None, None, float(flux[0]))
    crossing = crossings(np.log(flux), (found / injected)[None], level)[0]
    draws = np.random.default_rng(seed).binomial(injected, (found + 0.5) / (injected + 1), (DRAWS, len(flux)))
    spread = np.nan_to_num(crossings(np.log(flux), draws / injected, level), nan=np.inf)
    low, high = np.quantile(spread, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], method="nearest")
    flux_or_none = [float(np.exp(value)) if np.isfinite(value) else None for value in (crossing, low, high)]
    return FluxLimit(*flux_or_none)


def crossings(x: np.ndarray, curves: np.ndarray, level: float) -> np.ndarray:
    """Where each curve, made rising, first reaches a level from below; NaN where it never does.

    Parameters
    ----------
    x : (m,) array
        Rising.
    curves : (..., m) array
        Shares measured at x with equal weight. A curve that begins at or above the level crosses only where it has been
        below first.
    level : float
        The level.

    Returns
    -------
    crossing : (...) array
        Linear between points.

    Notes
    -----
    The first crossing of a noisy curve comes too early. So each curve is replaced, up to its highest point, by its
    isotonic regression, ``max over j <= i of min over k >= i of mean(curve[j:k + 1])`` (Barlow et al. 1972): a star is
    not harder to find for being brighter. Beyond its highest point, where stars may clip, a curve does not rise.

    Examples
    --------
    >>> crossings(np.array([0.0, 1.0, 2.0]), np.array([[0.0, 0.4, 0.6], [0.0, 0.1, 0.2]]), 0.5)
    array([1.5, nan])
    """
    curves = _rising(np.asarray(curves, float))
    rises = (curves[..., :-1] < level) & (curves[..., 1:] >= level)
    first = rises.argmax(axis=-1)
    before = np.take_along_axis(curves, first[..., None], -1)[..., 0]
    after = np.take_along_axis(curves, first[..., None] + 1, -1)[..., 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        where = x[first] + (x[first + 1] - x[first]) * (level - before) / (after - before)
    return np.where(rises.any(axis=-1), where, np.nan)


def _rising(curves: np.ndarray) -> np.ndarray:
    """Isotonic regression of each curve up to its highest point, constant from there."""
    m = curves.shape[-1]
    place = np.arange(m)
    curves = np.where(place > curves.argmax(axis=-1)[..., None], curves.max(axis=-1)[..., None], curves)
    total = np.concatenate([np.zeros((*curves.shape[:-1], 1)), curves.cumsum(axis=-1)], axis=-1)
    rising = np.full(curves.shape, -np.inf)
    for j in range(m):
        means = (total[..., j + 1 :] - total[..., j, None]) / (place[j:] - j + 1)
        lowest = np.minimum.accumulate(means[..., ::-1], axis=-1)[..., ::-1]
        np.maximum(rising[..., j:], lowest, out=rising[..., j:])
    return rising


def gaussian_peaks(shape: tuple[int, int], snr_min: float, fwhm: float) -> float:
    """Peaks of the fitted matched filter above `snr_min` expected in one frame from Gaussian noise alone.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns.
    snr_min : float
        Cut; the formula holds for cuts of about 4 and more.
    fwhm : float
        Of the Gaussian before it is integrated over pixels, pixels.

    Returns
    -------
    expected : float
        Pixels times ``(2 pi)**-1.5 * u * exp(-u**2 / 2) * L**2``, with u the cut and L the length of the path that the
        normalised 5-pixel profile takes while its star moves by one pixel (Adler 1981, The Geometry of Random Fields,
        6.9; for a profile sampled finely L is 1 / (sqrt(2) sigma)).

    Notes
    -----
    Simulated noise gives 0.8 to 1.0 of it for stars of 0.5 to 2.5 px: the position is fitted with a background, which
    is not where the filter responds most. Wider stars do not fit into a stamp, and neighbouring stamps then count as
    peaks of their own: 1.3 times as many at 3 px, three times at 5 px.
    """
    profile = pixel_integrated_gaussian(np.linspace(-0.5, 0.5, 201), 0.0, fwhm).sum(axis=1)
    path = profile / np.linalg.norm(profile, axis=1, keepdims=True)
    length = np.linalg.norm(np.diff(path, axis=0), axis=1).sum()
    density = snr_min * math.exp(-(snr_min**2) / 2) / (2 * math.pi) ** 1.5 * length**2
    return float(shape[0] * shape[1] * density)
