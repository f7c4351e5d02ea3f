"""Variance against level: what pixels of one level share, from few frames."""

from dataclasses import dataclass

import numpy as np
from scipy import special

from sla1tools.darks.structure import fast_median

SAMPLE_PIXELS = 1 << 18
BINS = 48
SMALLEST_BIN = 50
LEAST_GROUPS = 4
QUANTISATION_FLOOR = 1 / 12  # variance of rounding to whole counts


def variance_ratio_ppf(p, dof: float, prior_dof: float = np.inf):
    """Quantile of s²/v: F(dof, prior_dof), which is chi-square(dof)/dof where all pixels of a level are alike."""
    if np.isinf(prior_dof):
        return 2 * special.gammaincinv(dof / 2, p) / dof
    return special.fdtri(dof, prior_dof, p)


def variance_ratio_isf(p, dof: float, prior_dof: float = np.inf):
    """Value of s²/v that is exceeded with probability p, accurate for tiny p."""
    if np.isinf(prior_dof):
        return 2 * special.gammainccinv(dof / 2, p) / dof
    beta = special.betaincinv(prior_dof / 2, dof / 2, p)
    return prior_dof * (1 - beta) / (dof * beta)


def variance_ratio_sf(ratio, dof: float, prior_dof: float = np.inf):
    """Probability that s²/v exceeds a value."""
    if np.isinf(prior_dof):
        return special.gammaincc(dof / 2, np.asarray(ratio, float) * dof / 2)
    return special.fdtrc(dof, prior_dof, np.asarray(ratio, float))


def sample_rows(level, variance):
    """Own level, variance and the four row neighbours' median level of up to SAMPLE_PIXELS pixels, whole rows."""
    rows = slice(None, None, max(1, level.size // SAMPLE_PIXELS))
    wide = np.asarray(level)[rows].astype(np.float32)
    if wide.shape[1] < 5:  # too narrow for neighbours: each pixel stands for itself
        return wide.ravel(), np.asarray(variance)[rows].astype(np.float32).ravel(), wide.ravel()
    low, high = wide[:, :-4], wide[:, 4:]
    inner_low, inner_high = wide[:, 1:-3], wide[:, 3:-1]
    largest = np.maximum(np.maximum(low, high), np.maximum(inner_low, inner_high))
    smallest = np.minimum(np.minimum(low, high), np.minimum(inner_low, inner_high))
    around = (low + high + inner_low + inner_high - largest - smallest) / 2
    return wide[:, 2:-2].ravel(), np.asarray(variance)[rows, 2:-2].astype(np.float32).ravel(), around.ravel()


@dataclass(frozen=True)
class Curve:
    """Variance against level in groups of pixels, and the weighted line ``middle + slope * (level - centre)``."""

    level: np.ndarray
    variance: np.ndarray
    error: np.ndarray
    centre: float
    middle: float
    middle_error: float
    slope: float
    slope_error: float

    def line(self, level):
        """Value of the line, kept positive; of a constant where the slope is not significant."""
        if abs(self.slope) < 3 * self.slope_error:
            return np.full(np.shape(level), self.middle)
        return np.maximum(self.middle + self.slope * (level - self.centre), self.variance.max() / 100)


def fit_curve(key, level, variance, dof) -> Curve:
    """Group pixels by `key`, each group's variance a median over the median of chi-square; fit a line.

    A group spans many levels, and the medians of its levels and of its variances need not belong together. So the
    variances are divided by the line of the round before, which makes the group's pixels alike, and multiplied back.
    Say the line is a tenth of the level, and a group holds levels of 100, 200 and 400 with variances of 10, 50 and 40:
    the medians are 200 and 40, though the line says 20 there. Divided by the line the variances are 1, 2.5 and 1, their
    median is 1, and that times the line at 200 is 20. The third round moves the line by less than 1 in 10,000.
    """
    groups = _group(key)
    levels = np.array([fast_median(level[group]) for group in groups], float)
    middle = variance_ratio_ppf(0.5, dof)
    density = np.exp((dof / 2 - 1) * np.log(middle * dof / 2) - middle * dof / 2 - special.gammaln(dof / 2)) * dof / 2
    uncertainty = 1 / (2 * density * middle * np.sqrt([len(group) for group in groups]))
    relative, scale = variance, np.ones_like(levels)
    for _ in range(3):
        variances = scale * np.array([fast_median(relative[group]) for group in groups], float) / middle
        curve = _fit_line(levels, np.maximum(variances, QUANTISATION_FLOOR), uncertainty)
        relative, scale = variance / curve.line(level), curve.line(levels)
    return curve


def _group(key):
    """Indices of the pixels in groups of rising `key`: finer towards both ends, equal keys together."""
    order = np.argsort(key)
    reach = np.log(max(len(key) / SMALLEST_BIN, 2))
    edges = (special.expit(np.linspace(-reach, reach, BINS + 1)[1:-1]) * len(key)).astype(int)
    ranked = key[order]
    groups = np.split(order, np.unique(np.searchsorted(ranked, ranked[edges])))
    return [group for group in groups if len(group) >= SMALLEST_BIN // 2] or [order]


def _fit_line(level, variance, uncertainty) -> Curve:
    """Weighted line; errors follow the fitted variance, not the scattered one, and grow with the scatter about it.

    Weights follow the line and the line follows them: from a constant, four rounds come to where neither moves.
    """
    expected = np.full_like(variance, np.average(variance, weights=uncertainty**-2.0))
    slope, slope_error, stretch = 0.0, np.inf, 1.0
    for _ in range(4):
        sigma = uncertainty * np.maximum(expected, expected.max() / 100)
        weight = sigma**-2.0
        centre, middle = np.average(level, weights=weight), np.average(variance, weights=weight)
        away = level - centre
        lever = weight @ away**2
        if len(level) < LEAST_GROUPS or lever == 0:
            break
        slope = weight @ (away * variance) / lever
        expected = middle + slope * away
        stretch = np.sqrt(max(1.0, weight @ (variance - expected) ** 2 / (len(level) - 2)))
        slope_error = stretch / np.sqrt(lever)
    middle_error = stretch / np.sqrt(weight.sum())
    return Curve(level, variance, sigma, *map(float, (centre, middle, middle_error, slope, slope_error)))
