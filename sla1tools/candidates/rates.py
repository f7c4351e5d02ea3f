"""False alarms, completeness and the operating point: what a setting costs and what it finds."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from sla1tools.candidates.psf import as_psf
from sla1tools.frames.pixels import index_in, tiles

CONFIDENCE = 0.95
DRAWS = 4000  # of as many alarms over the nights, where these are few
BAND_ROWS = 128  # stay in a core's cache


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


@dataclass(frozen=True)
class SeasonRate(Rate):
    """A rate over nights that may differ, with limits that know it.

    `dispersion_p` is the chance that nights which are alike differ so much: None for one night, or without an alarm.
    """

    nights: int = 1
    dispersion_p: float | None = None


def season_rate(counts: ArrayLike, frames: ArrayLike) -> SeasonRate:
    """Rate per frame over several nights, with one-sided 95 % limits scaled by the dispersion over nights.

    Parameters
    ----------
    counts : (n,) int array
        False alarms of each night.
    frames : (n,) int array
        Frames of each night, at least 1.
    """
    seen, of = np.asarray(counts, float), np.asarray(frames, float)
    total, every, nights = int(seen.sum()), int(of.sum()), len(seen)
    low, high = dispersed_limits(total, every, (seen**2 / of).sum(), nights)
    chance = _dispersion_chance(seen, of) if total and nights > 1 else None
    return SeasonRate(total, every, total / every, float(low), float(high), nights=nights, dispersion_p=chance)


def dispersed_limits(total, frames, squares, nights):
    """Limits of a rate per frame over nights whose own rates may differ.

    Parameters
    ----------
    total, frames, nights : int or arrays
        False alarms, frames and nights.
    squares : float or array
        Sum over nights of the squared count over the night's frames.

    Returns
    -------
    low, high : float or arrays
        Poisson limits of ``total / phi`` alarms, times ``phi / frames``, where ``phi``, at least 1, is chi-square over
        degrees of freedom of nights that are alike; at the confidence of Student's 95 % for so many nights, as
        ``phi`` is estimated from them. One night tells no dispersion: its limits are its own.
    """
    total, nights = np.asarray(total, float), np.asarray(nights)
    freedom = np.maximum(nights - 1, 1)
    known = (nights > 1) & (total > 0)
    excess = np.divide(squares * frames, total, out=np.ones(np.shape(known)), where=known) - total
    phi = np.where(known, np.maximum(1, excess / freedom), 1)
    confidence = np.where(nights > 1, special.ndtr(special.stdtrit(freedom, CONFIDENCE)), CONFIDENCE)
    low = np.where(total > 0, special.gammaincinv(np.maximum(total, 1) / phi, 1 - confidence), 0)
    return phi / frames * low, phi / frames * special.gammaincinv(total / phi + 1, confidence)


def _dispersion_chance(counts: np.ndarray, frames: np.ndarray) -> float:
    """Chance of so large a chi-square over nights of one rate; drawn where alarms are too few for its distribution."""
    share, total = frames / frames.sum(), int(counts.sum())

    def chi2(drawn):
        return ((drawn - total * share) ** 2 / (total * share)).sum(axis=-1)

    if total >= 5 * len(counts) or len(counts) > 200:
        return float(special.chdtrc(len(counts) - 1, chi2(counts)))
    drawn = chi2(np.random.default_rng(total).multinomial(total, share, DRAWS))
    return float((1 + np.count_nonzero(drawn >= chi2(counts) * (1 - 1e-9))) / (1 + DRAWS))


def frame_area(shape: tuple[int, int], pixel_scale: float) -> float:
    """Area of sky that a frame covers, in square degrees; `pixel_scale` in arcsec."""
    return shape[0] * shape[1] * (pixel_scale / 3600) ** 2


def gaussian_expectation(noise: np.ndarray, threshold, ratio: float, neighbors: int = 4):
    """Candidates of `neighbor_ratio` expected in one frame from Gaussian noise alone.

    Parameters
    ----------
    noise : (ny, nx) array
        1-sigma of the residual, in electrons; pixels that are not finite or not positive are left out. Masked pixels
        raise no candidate, and count as neighbours.
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
    leads, noise = ~np.ma.getmaskarray(noise), np.ma.getdata(noise)
    usable = np.isfinite(noise) & (noise > 0)
    thresholds = np.atleast_1d(threshold)
    if not usable.any():
        return 0.0 if np.ndim(threshold) == 0 else np.zeros(len(thresholds))
    ends = noise.min(where=usable, initial=np.inf), noise.max(where=usable, initial=0)
    least, most = (int(np.rint(np.log(end) * 100)) for end in ends)
    shape = (most - least + 1, most - least + 1, neighbors + 1)
    pixels, own_sum, around_sum = np.zeros((3, math.prod(shape)))
    for band, tile in tiles(noise.shape, 1, BAND_ROWS, lambda rows: np.where(usable[rows], noise[rows], 0)):
        own, around, count = (values[leads[band][usable[band]]] for values in _noise_neighborhoods(tile, neighbors))
        steps = (np.rint(np.log(values) * 100).astype(np.int64) - least for values in (own, around))
        key = np.ravel_multi_index((*steps, count), shape, mode="clip")
        for total, weights in ((pixels, None), (own_sum, own), (around_sum, around)):
            total += np.bincount(key, weights, minlength=len(total))
    groups = np.flatnonzero(pixels)
    mean_own, mean_around = own_sum[groups] / pixels[groups], around_sum[groups] / pixels[groups]
    neighbors_there = np.unravel_index(groups, shape)[2]
    beside = [(0.0, mean_around, neighbors_there)]
    each = (_leading_probability(mean_own, beside, cut, ratio) for cut in thresholds)
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


def _leading_probability(own, beside, threshold, ratio, middle=0.0):
    """Probability of one pixel to be a candidate, by Gauss-Legendre quadrature over 8 sigma above the threshold.

    `own` is its noise about `middle`, `beside` the mean, noise and number of each kind of neighbours; (n,) arrays.
    """
    nodes, weights = np.polynomial.legendre.leggauss(48)
    start = np.maximum(threshold, middle - 8 * own)
    stop = np.maximum(start, middle) + 8 * own
    v = start + (stop - start) * (nodes[:, None] + 1) / 2
    density = np.exp(-0.5 * ((v - middle) / own) ** 2) / (own * math.sqrt(2 * math.pi))
    for mean, noise, number in beside:
        density *= (special.ndtr((v - mean) / noise) - special.ndtr((ratio * v - mean) / noise)) ** number
    return weights @ density * (stop - start) / 2


def telegraph_expectation(dark, parameters) -> float:
    """Candidates of the observers' rule that a night's telegraph pixels raise by themselves, a frame.

    Parameters
    ----------
    dark : DarkModel
        With its telegraph pixels: their levels, and the frames in which each was up.
    parameters : Parameters
        For `threshold`, `ratio`, `neighbors`, `reference` and `combination_method`.

    Returns
    -------
    expected : float
        Sum over these pixels and the frames, over their number: the integral above the threshold of the density of a
        residual times the probability that each neighbour lies between ratio times the value and the value. Residuals
        are Gaussian with the noise of their level, about the height that a telegraph pixel has over its reference in
        that frame, and about 0 elsewhere.
    """
    from sla1tools.candidates.leaders import OFFSETS

    found = dark.classes.telegraph
    states, height = np.asarray(found["states"]), np.asarray(found["high"] - found["low"])
    n = states.shape[1]
    held_out = parameters.reference == "leave_one_out"
    share = (np.asarray(found["up"])[:, None] - states * held_out) / (n - held_out)  # of the reference's frames, up
    if parameters.combination_method == "median":
        share = (np.sign(share - 0.5) + 1) / 2
    above = height[:, None] * (states - share)
    y, x = (np.asarray(found[name], int) for name in "yx")
    (ny, nx), total = parameters.frame_shape, 0.0
    width = nx + 2  # the ends of two rows are not beside each other

    def heights(row, column) -> np.ndarray:
        """Heights in every frame of the telegraph pixels at some places, (n, N); 0 where there is none."""
        at, there = index_in(y * width + x, row * width + column)
        return np.where(there[:, None], above[at], 0)

    places = [(y + dy, x + dx) for dy, dx in ((0, 0), *OFFSETS[parameters.neighbors])]
    own, *noises = (
        dark.level_sigma(parameters.reference, (np.clip(row, 0, ny - 1), np.clip(column, 0, nx - 1))).astype(float)
        for row, column in places
    )
    there = [(row >= 0) & (row < ny) & (column >= 0) & (column < nx) for row, column in places]
    means = [heights(*place) for place in places[1:]]
    for k in range(n):
        beside = [(mean[:, k], *others) for mean, *others in zip(means, noises, there[1:], strict=True)]
        chances = _leading_probability(own, beside, parameters.threshold, parameters.ratio, above[:, k])
        total += float(chances.sum())
    return total / n


def gaussian_peaks(shape: tuple[int, int], snr_min, psf):
    """Peaks of the fitted matched filter above `snr_min` expected in one frame from Gaussian noise alone.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns.
    snr_min : float or (n,) array
        Cut; the formula holds for cuts of about 4 and more.
    psf : PSF or float
        The star's image; a number is the FWHM of a Gaussian, in pixels. Where it varies, that of the frame's middle.

    Returns
    -------
    expected : float, or (n,) array for n cuts
        Pixels times ``(2 pi)**-1.5 * u * exp(-u**2 / 2) * A``, with u the cut and A the area that the image, normalised
        to a sum of squares of 1, covers while its star moves over one pixel (Adler 1981, The Geometry of Random Fields,
        6.9; for a Gaussian sampled finely A is 1 / (2 sigma**2)).

    Notes
    -----
    Simulated noise gives 0.8 to 1.0 of it for stars of 0.5 to 2.5 px: the position is fitted with a background, which
    is not where the filter responds most. Wider stars do not fit into a stamp, and neighbouring stamps then count as
    peaks of their own: 1.3 times as many at 3 px, three times at 5 px.
    """
    phases = (np.arange(15) + 0.5) / 15 - 0.5
    dx, dy = np.stack(np.meshgrid(phases, phases)).reshape(2, -1)
    images = as_psf(psf).images(dx, dy, order=1).reshape(len(dx), 3, -1)
    image, *slopes = images.swapaxes(0, 1) / np.linalg.norm(images[:, 0], axis=1)[:, None]
    by_x, by_y = (slope - (slope * image).sum(1)[:, None] * image for slope in slopes)
    squares = (by_x**2).sum(1) * (by_y**2).sum(1) - (by_x * by_y).sum(1) ** 2
    density = snr_min * np.exp(-(np.asarray(snr_min) ** 2) / 2) / (2 * math.pi) ** 1.5 * np.sqrt(squares).mean()
    expected = shape[0] * shape[1] * density
    return float(expected) if np.ndim(snr_min) == 0 else expected
