"""Telegraph pixels, which switch between two levels."""

from functools import cache

import numpy as np

from sla1tools.darks.reference import BAND_ROWS
from sla1tools.darks.variance import variance_ratio_isf

SPLIT_CHANCE = 0.02
SPLIT_DRAWS = 50_000


def _suspect_chance(pixels: int) -> float:
    """Tail of s² that makes a suspect, so that one good pixel a frame passes both tests."""
    return min(1e-2, 1 / (pixels * SPLIT_CHANCE))


def _unstable(band, statistics, prior, model):
    n, pixels = statistics.frames, prior.size
    limit = variance_ratio_isf(_suspect_chance(pixels), n - 1, model.prior_dof)
    suspect = statistics.variance > prior * np.float32(limit)
    for top in range(0, len(suspect), BAND_ROWS):
        y, x = np.nonzero(suspect[top : top + BAND_ROWS])
        if len(y):
            counts = band(top, min(top + BAND_ROWS, len(suspect)))
            suspect[top + y, x] = two_levels(counts[:, y, x])
    return suspect


def two_levels(counts: np.ndarray) -> np.ndarray:
    """Tell which pixels switch between two levels, whatever their noise.

    Parameters
    ----------
    counts : (N, n) array
        Counts of n pixels in N frames, N at least 5; not changed.

    Returns
    -------
    split : (n,) bool array
        The sorted readings fall into two groups, two frames or more in each, that are farther apart for their own
        scatter than those of all but 2 in 100 Gaussian pixels. A pixel that is up in one frame only is never split:
        it cannot be told from a flash.
    """
    return _split_score(counts) > _split_limit(len(counts))


def _split_score(counts):
    """Largest ratio of the variation between two groups of the sorted readings to that within them."""
    n = len(counts)
    ranked = np.sort(np.asarray(counts, np.float64), axis=0)
    ranked -= ranked.mean(axis=0)
    below = np.arange(2, n - 1)[:, None]
    lower = np.cumsum(ranked, axis=0)[1 : n - 2]  # sums of the lowest 2 ... N - 2; the rest sums to minus that
    between = (lower**2 * (n / (below * (n - below)))).max(axis=0)
    within = np.sum(ranked**2, axis=0) - between
    return between / np.maximum(within, 1e-9)


@cache
def _split_limit(n: int) -> float:
    draws = max(10_000, SPLIT_DRAWS * 10 // max(n, 10))
    return float(np.quantile(_split_score(np.random.default_rng(0).standard_normal((n, draws))), 1 - SPLIT_CHANCE))
