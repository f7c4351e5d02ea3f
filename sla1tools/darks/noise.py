"""Noise of a night of darks from few frames: a level-dependent model and moderated held-out sigmas.

Ten frames give a pixel's standard deviation to 24 %, three give it to a factor of two. Pixels of one level share their
noise, so what is known of all of them is combined with what the *other* frames say of the one pixel: the moderated
variance of Smyth (2004, Stat. Appl. Genet. Mol. Biol. 3, 3), with outliers left to themselves (Phipson et al. 2016,
Ann. Appl. Stat. 10, 946). Variances are in counts squared until the NOISE map.
"""

from dataclasses import dataclass, field
from functools import cache

import numpy as np
from scipy import special

from sla1tools.darks.transfer import PhotonTransfer, photon_transfer
from sla1tools.darks.variance import QUANTISATION_FLOOR, fit_curve, sample_rows, variance_ratio_isf, variance_ratio_ppf

OUTLIER_CHANCE = 1e-4  # a pixel this unlikely under the model keeps its own variance
AROUND_VARIANCE = 0.298  # variance of the median of four Gaussians
LEAST_PRIOR_DOF, MOST_PRIOR_DOF = 1.0, 1e4


@dataclass(frozen=True)
class PixelStatistics:
    """What a pixel's counts did over the night's frames, rounded once from exact integers.

    Attributes
    ----------
    frames : int
        Number of frames N.
    mean, variance : (h, nx) float32 arrays
        Mean in counts, sample variance (N - 1 in the denominator) in counts squared.
    minimum, maximum : (h, nx) uint16 arrays
        Extreme counts.
    """

    frames: int
    mean: np.ndarray = field(repr=False)
    variance: np.ndarray = field(repr=False)
    minimum: np.ndarray = field(repr=False)
    maximum: np.ndarray = field(repr=False)


def pixel_statistics(band: np.ndarray) -> PixelStatistics:
    """Statistics over the frames of every pixel of a band of rows.

    Parameters
    ----------
    band : (N, h, nx) uint16 array
        Raw counts, N from 2 to 65,537; not changed.

    Notes
    -----
    The slow equivalents are ``band.mean(axis=0)`` and ``band.var(axis=0, ddof=1)``. Sums are exact, so there is no
    cancellation: a pixel that never changes has variance 0, whatever its level. Bands of about 40 rows stay in cache.
    """
    n = len(band)
    total = np.zeros(band.shape[1:], np.uint32)
    squares = np.zeros(band.shape[1:], np.uint64)
    for counts in band:
        total += counts
        wide = counts.astype(np.uint32)
        wide *= wide
        squares += wide
    wide_total = total.astype(np.uint64)
    numerator = np.uint64(n) * squares - wide_total * wide_total
    return PixelStatistics(
        frames=n,
        mean=(total / n).astype(np.float32),
        variance=(numerator / (n * (n - 1))).astype(np.float32),
        minimum=band.min(axis=0),
        maximum=band.max(axis=0),
    )


def leave_one_out_variance(counts, mean, variance, n: int) -> np.ndarray:
    """Sample variance of the other frames, from the statistics of all of them.

    Parameters
    ----------
    counts : array
        Counts of the frame to leave out, in counts.
    mean, variance : arrays that broadcast with it
        Mean and sample variance (ddof=1) over all frames.
    n : int
        Number of all frames, at least 3.

    Returns
    -------
    variance : float32 array (float64 if mean is)
        The same as ``np.var(others, axis=0, ddof=1)``, N - 2 degrees of freedom, never below 0. In float32 a pixel
        whose only excursion is the frame left out is good to 1e-7 of the square of that excursion.
    """
    left = counts - np.asarray(mean)
    left *= left
    left *= -n / ((n - 1) * (n - 2))
    left += np.multiply(variance, (n - 1) / (n - 2), dtype=left.dtype)
    return np.maximum(left, 0, out=left)


@cache
def median_variance(n: int) -> float:
    """Variance of the median of n independent standard Gaussians.

    Examples
    --------
    The average of two; three halves of the way to pi/2 of the mean's variance for many.

    >>> [round(median_variance(n), 4) for n in (1, 2, 3, 9, 199)]
    [1.0, 0.5, 0.4487, 0.1661, 0.0079]
    """
    nodes, weights = np.polynomial.legendre.leggauss(240)
    centre = nodes * min(9.0, 12 / np.sqrt(n))
    if n % 2:
        tails = special.log_ndtr(centre) + special.log_ndtr(-centre)
        density = np.exp(n // 2 * tails - centre**2 / 2)
    else:  # the joint density of both middle values, summed over the distance between them
        half = (nodes[:, None] + 1) * min(6.0, 40 / n)
        tails = special.log_ndtr(centre - half) + special.log_ndtr(-centre - half)
        density = weights @ np.exp((n // 2 - 1) * tails - centre**2 - half**2)
    return float(weights @ (density * centre**2) / (weights @ density))


def combined_variance(n: int, method: str = "median") -> float:
    """Variance of the median or the average of n frames for unit noise in each."""
    return median_variance(n) if method == "median" else 1 / n


def residual_factor(n: int, method: str = "median", reference: str = "leave_one_out") -> float:
    """Variance of frame minus reference for unit noise in every frame.

    Parameters
    ----------
    n : int
        Number of frames.
    method : {'median', 'average'}
        How the reference combines them.
    reference : {'leave_one_out', 'all', 'outside'}
        The other frames, or all: then the frame pulls its own reference along, unless it is from outside the stack.

    Examples
    --------
    >>> [round(residual_factor(10, reference=name) ** 0.5, 3) for name in ("leave_one_out", "all", "outside")]
    [1.08, 0.969, 1.067]
    """
    if reference == "all":
        return 1 + combined_variance(n, method) - 2 / n
    return 1 + combined_variance(n if reference == "outside" else n - 1, method)


@dataclass(frozen=True)
class NoiseModel:
    """Noise of one frame at every level, and how far a pixel's own few frames may move it.

    Attributes
    ----------
    frames : int
        Number of frames N. At N = 3 the other frames leave one degree of freedom: the level model carries the noise.
    method : {'median', 'average'}
        How the reference is combined.
    lut : (65536,) float32 array
        Variance of one raw frame at each level, counts squared.
    prior_dof : float
        Degrees of freedom the level is worth; infinite where all pixels of a level are alike, as Gaussian darks are.
    photon_transfer : PhotonTransfer
        Gain and pedestal from the same variances.
    """

    frames: int
    method: str
    lut: np.ndarray = field(repr=False)
    prior_dof: float
    photon_transfer: PhotonTransfer

    def variance(self, level) -> np.ndarray:
        """Variance of one raw frame for pixels of these levels: counts in, counts squared (float32) out.

        Levels are rounded to whole counts and cut to the ADC's range.
        """
        level = np.asarray(level)
        if level.dtype != np.uint16:
            level = np.clip(np.rint(level), 0, len(self.lut) - 1).astype(np.uint16)
        return self.lut.take(level)

    def moderate(self, own: np.ndarray, prior: np.ndarray, dof: int) -> np.ndarray:
        """Combine a pixel's own variance, of dof degrees of freedom, with its level's; outliers keep their own."""
        share = 0.0 if np.isinf(self.prior_dof) else dof / (self.prior_dof + dof)
        combined = own * np.float32(share)
        combined += prior * np.float32(1 - share)
        limit = prior * np.float32(variance_ratio_isf(OUTLIER_CHANCE, dof, self.prior_dof))
        np.copyto(combined, own, where=own > limit)
        return combined

    def held_out_sigma(self, counts, mean, variance, prior, reference: str = "leave_one_out") -> np.ndarray:
        """Noise of the residual of one frame, judged by other frames alone.

        Parameters
        ----------
        counts : uint16 array
            The frame's raw counts: whole rows or gathered pixels, of any shape.
        mean, variance : float32 arrays of the same shape
            Statistics over all frames (`pixel_statistics`); the share of a frame of the stack is taken out of them.
        prior : float32 array of the same shape
            ``model.variance(level)`` of these pixels.
        reference : {'leave_one_out', 'all', 'outside'}
            What the frame's residual was taken against.

        Returns
        -------
        sigma : float32 array
            1 sigma of frame minus reference, in counts, the reference's own noise included.

        Notes
        -----
        The level may be the median of all frames: the frame's pull on it, 0.14 sigma at N = 10, moves the variance by
        a thousandth at most.
        """
        own, dof = variance, self.frames - 1
        if reference != "outside":
            own, dof = leave_one_out_variance(counts, mean, variance, self.frames), self.frames - 2
        combined = self.moderate(own, prior, dof)
        combined *= np.float32(residual_factor(self.frames, self.method, reference))
        return np.sqrt(combined, out=combined)

    def noise_map(self, variance, prior, scale: float) -> np.ndarray:
        """1 sigma of a held-out residual in electrons, from all frames: the NOISE image of the master dark.

        It holds the reference's noise as well as the frame's, and is for looking at a pixel's noise over the night.
        It is no judge of the night's own frames: a flash is part of the variance it would be judged by.
        """
        combined = self.moderate(np.asarray(variance, np.float32), prior, self.frames - 1)
        combined *= np.float32(residual_factor(self.frames, self.method))
        np.sqrt(combined, out=combined)
        combined *= np.float32(scale)
        return combined


def fit_noise_model(level, variance, n: int, method: str = "median", scale: float | None = None) -> NoiseModel:
    """Learn the night's noise from each pixel's level and sample variance.

    Parameters
    ----------
    level : (ny, nx) array
        Dark level in raw counts: the night's median or mean; at least five columns.
    variance : (ny, nx) float array
        Sample variance over the frames (ddof=1), counts squared.
    n : int
        Number of frames, at least 3.
    method : {'median', 'average'}
        How the reference is combined.
    scale : float, optional
        Configured electrons per count. Where the night cannot tell its own gain, it gives the shot noise of pixels
        brighter than all the levels that were learned from; without it their variance is taken as constant.

    Notes
    -----
    Variance against level in groups, drawn towards their straight line (a constant, where the slope is not
    significant) by as much as their errors outweigh their scatter about it; linear between groups. About 260,000
    pixels (whole rows) are looked at.
    """
    own, spread, around = sample_rows(level, variance)
    transfer = photon_transfer(level, variance, n)
    key = _calmed_level(own, around, spread, n, method)
    curve = fit_curve(key, key, spread, n - 1)
    line = curve.line(curve.level)
    scatter = max(0.0, np.average((curve.variance - line) ** 2 - curve.error**2, weights=curve.error**-2.0))
    middles = (scatter * curve.variance + curve.error**2 * line) / (scatter + curve.error**2)
    codes = np.arange(1 << 16)
    lut = np.interp(codes, curve.level, middles)
    shot = transfer.slope if transfer.can_tell else 0.0 if scale is None else 1 / scale
    lut += shot * np.maximum(codes - curve.level[-1], 0)
    lut = np.maximum(lut, QUANTISATION_FLOOR)
    ratio = spread / lut.take(np.clip(np.rint(own), 0, codes[-1]).astype(np.uint16))
    prior_dof = _estimate_prior_dof(ratio, n - 1)
    lut *= variance_ratio_ppf(0.5, n - 1) / variance_ratio_ppf(0.5, n - 1, prior_dof)
    return NoiseModel(n, method, lut.astype(np.float32), prior_dof, transfer)


def _calmed_level(own, around, variance, n, method):
    """Level with its noise taken out: drawn to its neighbours as far as noise, not structure, sets them apart.

    Grouping by the noisy level itself would mix the levels and flatten the curve.
    """
    noise = np.median(variance) / variance_ratio_ppf(0.5, n - 1) * combined_variance(n, method) * (1 + AROUND_VARIANCE)
    apart = np.median(np.abs(own - around)) * 1.4826
    share = max(0.0, 1 - noise / apart**2) if apart > 0 else 0.0
    return around + np.float32(share) * (own - around)


def _estimate_prior_dof(ratio, dof) -> float:
    """Prior degrees of freedom from the quartiles of s²/v: the bulk alone, whatever the hot pixels do.

    Infinite where the quartiles are no further apart than chi-square's, within three standard errors.
    """
    low, high = np.quantile(ratio, [0.25, 0.75])
    if low <= 0:
        return np.inf
    trial = np.geomspace(LEAST_PRIOR_DOF, MOST_PRIOR_DOF, 200)
    expected = np.log(special.fdtri(dof, trial, 0.75) / special.fdtri(dof, trial, 0.25))
    draws = np.sort(np.random.default_rng(0).chisquare(dof, (400, 400)), axis=1)
    error = np.std(np.log(draws[:, 299] / draws[:, 99])) * np.sqrt(400 / len(ratio))
    apart = np.log(high / low)
    if apart <= expected[-1] + 3 * error:
        return np.inf
    return float(np.exp(np.interp(-apart, -expected, np.log(trial))))
