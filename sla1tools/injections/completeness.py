"""Completeness: which share of injected stars is found, and at which flux half of them are."""

from dataclasses import dataclass

import numpy as np
from astropy.stats import binom_conf_interval
from astropy.table import Table
from scipy import special

from sla1tools.candidates.rates import CONFIDENCE

FLUX_BINS = 40
DRAWS = 400  # bootstrap draws for an interval of a crossing: its ends scatter by a few per cent of its width


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
    tried = injected > 0
    low[tried], high[tried] = binom_conf_interval(found[tried], injected[tried], CONFIDENCE, interval="wilson")
    share = np.divide(found, injected, out=np.full(len(injected), np.nan), where=tried)
    center = np.sqrt(edges[1:] * edges[:-1])
    names = ("flux", "injected", "recovered", "completeness", "low", "high")
    return Table([center, injected, found, share, low, high], names=names, units={"flux": "electron"})


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
    return FluxLimit(_flux(crossing), *_interval(crossings(np.log(flux), draws / injected, level)))


def _flux(log_flux: float) -> float | None:
    return float(np.exp(log_flux)) if np.isfinite(log_flux) else None


def _interval(drawn: np.ndarray) -> list[float | None]:
    """Ends of the 95 % interval of drawn crossings; those that never cross lie above all others."""
    ends = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    return [_flux(end) for end in np.quantile(np.nan_to_num(drawn, nan=np.inf), ends, method="nearest")]


def frames_differ(frame: np.ndarray, flux: np.ndarray, recovered: np.ndarray, edges: np.ndarray):
    """Test whether some frames find more of the injected stars than others do.

    Parameters
    ----------
    frame : (n,) array
        Name or number of the frame that each star was put into.
    flux, recovered, edges : arrays
        As `completeness_curve` takes them.

    Returns
    -------
    chance : float
        Of chi-square so large if all frames find alike; 1 where one frame or no star tells.
    shares : dict
        Stars found over stars expected from all frames together, by frame.
    """
    names, row = np.unique(frame, return_inverse=True)
    injected, found = _by_frame(row, flux, recovered, edges)
    pooled = found.sum(axis=0) / np.maximum(injected.sum(axis=0), 1)
    expected, variance = injected @ pooled, injected @ (pooled * (1 - pooled))
    testable = variance > 0
    if testable.sum() < 2:
        return 1.0, {}
    chi2 = ((found.sum(axis=1) - expected)[testable] ** 2 / variance[testable]).sum()
    shares = (found.sum(axis=1) / np.maximum(expected, 1)).tolist()
    return float(special.chdtrc(testable.sum() - 1, chi2)), dict(zip(names.tolist(), shares, strict=True))


def flux_limit_over_frames(
    frame: np.ndarray, flux: np.ndarray, recovered: np.ndarray, edges: np.ndarray, level: float, seed: int = 0
) -> FluxLimit:
    """Flux of a completeness level as `flux_limit` gives it, with the interval of a draw of frames, not of stars.

    Parameters
    ----------
    frame, flux, recovered, edges : arrays
        As `frames_differ` takes them.
    level, seed : float, int
        As `flux_limit` takes them.
    """
    limit = flux_limit(completeness_curve(flux, recovered, edges), level, seed)
    row = np.unique(frame, return_inverse=True)[1]
    injected, found = _by_frame(row, flux, recovered, edges)
    drawn = np.random.default_rng(seed).integers(0, len(injected), (DRAWS, len(injected)))
    tried = injected.sum(axis=0) > 0
    shares = found[drawn].sum(axis=1)[:, tried] / np.maximum(injected[drawn].sum(axis=1)[:, tried], 1)
    centers = np.log(np.sqrt(edges[1:] * edges[:-1]))[tried]
    return limit if limit.flux is None else FluxLimit(limit.flux, *_interval(crossings(centers, shares, level)))


def _by_frame(row, flux, recovered, edges):
    """Stars injected and found, (frames, bins)."""
    shape = (row.max() + 1 if len(row) else 0, len(edges) - 1)
    place = row * shape[1] + bin_of_flux(flux, edges)
    counts = [np.bincount(place[chosen], minlength=shape[0] * shape[1]) for chosen in (slice(None), recovered)]
    return counts[0].reshape(shape), counts[1].reshape(shape)


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
