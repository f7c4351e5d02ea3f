"""Telegraph pixels, which switch between two levels: which they are, and whether neighbours switch together."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from astropy.table import Table
from scipy import special

from sla1tools.darks.variance import variance_ratio_isf, variance_ratio_sf
from sla1tools.frames.pixels import bands, touching_pairs
from sla1tools.text import chance_text, counted

LEAST_FRAMES = 5  # for two readings on each side of one that may be a flash
SPLIT_CHANCE = 0.02
SPLIT_DRAWS = 50_000
SHARE_TOGETHER = 0.5  # of the touching pairs, for which a power is stated
LEVEL_TOGETHER = 0.01  # p-value below which neighbours switch together
LEAST_POWER = 0.5


def suspect_chance(pixels: int) -> float:
    """Tail of s² that makes a suspect, so that one good pixel a frame passes both tests."""
    return min(1e-2, 1 / (pixels * SPLIT_CHANCE))


def telegraph_pixels(band, statistics, prior, model, scale: float) -> Table:
    """Find the pixels that vary more than their level explains and whose readings fall into two groups.

    Parameters
    ----------
    band : callable
        ``band(start, stop)``: counts of some rows in every frame, asked for only where pixels are suspected.
    statistics, prior, model
        As of `classes.Evidence`.
    scale : float
        Electrons per count.

    Returns
    -------
    found : Table
        `x`, `y`, `low`, `high` (mean of either group, electrons), `up` (frames in the upper one), `duty` (their share),
        `chance` (that a Gaussian pixel passes both tests by as much: the variance and the split of Gaussian readings
        are independent, so it is the product of their tails), `states` ((n, N) bool, the frames that are up). No
        rows below five frames.
    """
    n, pixels = statistics.frames, prior.size
    limit = variance_ratio_isf(suspect_chance(pixels), n - 1, model.prior_dof) if n >= LEAST_FRAMES else np.inf
    suspect = statistics.variance > prior * np.float32(limit)
    places, readings = [np.zeros((2, 0), int)], [np.zeros((max(n, LEAST_FRAMES), 0), np.uint16)]
    for rows in bands(len(suspect)):
        y, x = np.nonzero(suspect[rows])
        if len(y):
            counts = band(rows.start, rows.stop)[:, y, x]
            split = two_levels(counts)
            places.append(np.array([rows.start + y, x])[:, split])
            readings.append(counts[:, split])
    (y, x), counts = np.concatenate(places, axis=1), np.concatenate(readings, axis=1)
    score, below = _split(counts)
    draws, order = _split_draws(len(counts)), np.argsort(np.argsort(counts, axis=0, kind="stable"), axis=0)
    tail = np.maximum(1, len(draws) - np.searchsorted(draws, score)) / len(draws)
    excess = statistics.variance[y, x] / prior[y, x]
    up = order >= below
    low, high = (np.where(group, counts, 0).sum(axis=0) / group.sum(axis=0) * scale for group in (~up, up))
    columns = {"x": x, "y": y, "low": np.round(low, 1), "high": np.round(high, 1), "up": up.sum(axis=0)}
    columns |= {"duty": up.mean(axis=0), "chance": tail * variance_ratio_sf(excess, n - 1, model.prior_dof)}
    units = {"x": "pix", "y": "pix", "low": "electron", "high": "electron"}
    return Table(columns | {"states": up.T}, units=units)


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
    return _split(counts)[0] > _split_limit(len(counts))


def _split(counts):
    """Largest ratio of the variation between two groups of the sorted readings to that within; frames in the lower."""
    n = len(counts)
    ranked = np.sort(np.asarray(counts, np.float64), axis=0)
    ranked -= ranked.mean(axis=0)
    below = np.arange(2, n - 1)[:, None]
    lower = np.cumsum(ranked, axis=0)[1 : n - 2]  # sums of the lowest 2 ... N - 2; the rest sums to minus that
    between = lower**2 * (n / (below * (n - below)))
    best = between.max(axis=0)
    return best / np.maximum(np.sum(ranked**2, axis=0) - best, 1e-9), between.argmax(axis=0) + 2


@cache
def _split_draws(n: int) -> np.ndarray:
    draws = max(10_000, SPLIT_DRAWS * 10 // max(n, 10))
    return np.sort(_split(np.random.default_rng(0).standard_normal((n, draws)))[0])


@cache
def _split_limit(n: int) -> float:
    return float(np.quantile(_split_draws(n), 1 - SPLIT_CHANCE))


@dataclass(frozen=True)
class Together:
    """Whether telegraph pixels that touch, at an edge or a corner, are up in the same frames.

    Attributes
    ----------
    pairs : int
        Touching pairs.
    by_chance : float
        Pairs that would touch if the pixels lay anywhere.
    both_up, expected : int and float
        Frames with both up, summed over the pairs; and that number with the frames of every pixel shuffled.
    p_value : float
        Chance of so many with the frames shuffled, exact; 1 without pairs.
    power : float
        Chance of p < 0.01 if half of the pairs switched together.
    """

    pairs: int
    by_chance: float
    both_up: int
    expected: float
    p_value: float
    power: float

    def __str__(self):
        """Say what was found, where the pairs could have shown it."""
        touch = (
            f"{counted(self.pairs, 'pair')} of them touch{'es' * (self.pairs == 1)} ({self.by_chance:.1f} by chance)"
        )
        if self.power < LEAST_POWER:
            return f"{touch}: too few to test whether neighbours switch together"
        verb = "switch together" if self.p_value < LEVEL_TOGETHER else "are not seen to switch together"
        seen = counted(self.both_up, "frame")
        told = f"both up in {seen}, {self.expected:.1f} if each switches alone (p {chance_text(self.p_value)})"
        return f"{touch} and {verb}: {told}; if half of them did, the chance to see it would be {self.power:.0%}"


def jump_together(found: Table, shape: tuple[int, int]) -> Together:
    """Test whether touching telegraph pixels are up in the same frames.

    Parameters
    ----------
    found : Table
        As `telegraph_pixels` gives it.
    shape : (ny, nx)
        Of the frame.
    """
    states, up = np.asarray(found["states"]), np.asarray(found["up"])
    first, second = touching_pairs(np.asarray(found["y"]), np.asarray(found["x"]))
    n = states.shape[1]
    both, expected = int((states[first] & states[second]).sum()), float((up[first] * up[second]).sum() / n)
    kinds, number = np.unique(np.sort([up[first], up[second]], axis=0), axis=1, return_counts=True)
    shuffled, joined = (_total(kinds, number, n, share) for share in (0, SHARE_TOGETHER))
    tail, tail_joined = (np.cumsum(pmf[::-1])[::-1] for pmf in (shuffled, joined))
    critical = int(np.argmax(tail < LEVEL_TOGETHER)) if (tail < LEVEL_TOGETHER).any() else None
    power = 0.0 if critical is None else float(tail_joined[critical])
    by_chance = len(up) * (len(up) - 1) / 2 * 8 / (shape[0] * shape[1])
    p_value = float(np.clip(tail[both], 1e-12, 1))
    return Together(len(first), by_chance, both, expected, p_value, power)


def _total(kinds, number, n: int, share: float) -> np.ndarray:
    """Distribution of the frames with both up, summed over pairs, of which a share switches together.

    `kinds` are the frames up of either pixel, the fewer first, and `number` the pairs of each kind.
    """
    length = int(number @ kinds[0]) + 1
    total = np.zeros(length // 2 + 1, complex) + 1
    for (few, more), pairs in zip(kinds.T, number, strict=True):
        k = np.arange(few + 1)
        pmf = (1 - share) * special.comb(few, k) * special.comb(n - few, more - k) / special.comb(n, more)
        pmf[few] += share
        total *= np.fft.rfft(pmf, length) ** pairs
    return np.maximum(np.fft.irfft(total, length), 0)
