"""Is this stamp a star? A pixel-integrated Gaussian fitted to 5x5 stamps, and the shapes that are not stars.

The model of a stamp is ``flux * P(x, y) + background`` with four free parameters; the position moves continuously. The
variance of a pixel is the square of the held-out noise plus the model's own electrons, ``noise**2 + max(flux * P, 0)``,
never the pixel's value: a pixel that fluctuates low would otherwise weigh more and pull the flux down (Mighell 1999,
ApJ 518, 380). Flux and background enter linearly and are eliminated in closed form; only the position is searched
(variable projection, Golub & Pereyra 1973), on a grid first and then by Gauss-Newton steps, for many stamps at a time.
Inside, arrays are (25, n), stamps last: numpy adds up a few long rows several times faster than many short ones.
"""

from functools import lru_cache

import numpy as np
from astropy.table import Table

from sla1tools.candidates.leaders import STAMP_SIZE

POSITION_BOUND = 1.0  # a fitted star stays within it of the stamp's centre, along x and along y, px
FREE_PARAMETERS = 4  # flux, background, x and y

_CENTRE = STAMP_SIZE**2 // 2
_CHUNK = 512
_BLAS_COLUMNS = 64
_FILTER_ROWS = 64  # such a tile stays in a core's cache
_GRID_STEP = POSITION_BOUND / 5
_MAX_STEPS = 12
_STEP_TOLERANCE = 3e-4


def pixel_integrated_gaussian(dx, dy, fwhm, size=STAMP_SIZE):
    """Integrate a circular Gaussian of unit flux over the pixels of a stamp.

    Parameters
    ----------
    dx, dy : scalars or (n,) arrays
        Where the star is, from the middle of the centre pixel, in pixels; x is the column.
    fwhm : scalar or (n,) array
        Full width at half maximum of the Gaussian before it is integrated, in pixels.
    size : int
        Odd side of the stamp, in pixels.

    Returns
    -------
    psf : (n, size, size) float64 array
        Share of the flux that falls on each pixel. Its sum is below 1 by what falls beyond the stamp.

    Examples
    --------
    At two pixels FWHM a centred star puts a fifth of its flux on its brightest pixel, and half of that on the next:

    >>> pixel_integrated_gaussian(0.0, 0.0, 2.0)[0, 2].round(3)
    array([0.016, 0.106, 0.197, 0.106, 0.016])
    """
    dx, dy, fwhm = np.broadcast_arrays(*np.atleast_1d(dx, dy, fwhm))
    return _profile(dy, fwhm, size)[0].T[:, :, None] * _profile(dx, fwhm, size)[0].T[:, None, :]


def _profile(offset, fwhm, size=STAMP_SIZE):
    """Return the (size, ...) shares of one-dimensional stars and their slopes with the star's position."""
    from scipy.special import erf

    offset = np.asarray(offset)
    sigma = fwhm / np.sqrt(8 * np.log(2))
    edges = (np.arange(size + 1) - size / 2).reshape(-1, *[1] * offset.ndim)
    edges = (edges - offset) / sigma
    below = 0.5 * erf(edges / np.sqrt(2))
    density = np.exp(-0.5 * edges**2) / (np.sqrt(2 * np.pi) * sigma)
    return below[1:] - below[:-1], density[:-1] - density[1:]


def fit_stamps(stamps, noise, valid, fwhm, rivals=None):
    """Fit the PSF to each stamp and compare it with rival shapes.

    Parameters
    ----------
    stamps : (n, 5, 5) float array
        Residuals in electrons, the leader in the middle.
    noise, valid : (n, 5, 5) float and bool arrays, or what broadcasts to them
        Held-out 1-sigma noise in electrons, without the star's own. False leaves a pixel out of the fit and of the
        degrees of freedom: beyond the edge, saturated, flagged. Pixels that are not finite, or whose noise is not
        finite and positive, are left out too.
    fwhm : float
        Full width at half maximum of the Gaussian, in pixels.
    rivals : mapping of str to (k, 5, 5) array, optional
        Shapes to be fitted beside the star, as `shapes.rival_templates` gives them.

    Returns
    -------
    fits : Table
        One row a stamp, in order; no rows where there is no stamp.

        - ``snr``: sum(d P / noise**2) / sqrt(sum(P**2 / noise**2)), P at the fitted position, no background
        - ``flux``, ``background``: electrons; ``x_fit``, ``y_fit``: px from the centre, within `POSITION_BOUND`
        - ``chi2``, ``dof`` (valid pixels minus 4), ``p_value`` (chance of a larger chi2, were it a star)
        - ``best_rival``, ``rival_chi2``: the rival of lowest chi2; it beats the star where rival_chi2 < chi2; without
          rivals '' and NaN

    Raises
    ------
    ValueError
        Where the shapes do not agree.

    Notes
    -----
    A stamp is not fitted (NaN, dof 0, best_rival '') where the centre pixel is not valid or fewer than five pixels are.
    A star is bright: the fit starts where the filter responds most, and positively. The p-value of stars is uniform
    with a fifth of the pixels masked; with two thirds masked 0.1 to 0.3 % fall below 0.001.

    Examples
    --------
    >>> star = 3000 * pixel_integrated_gaussian(0.2, -0.4, 2.0)
    >>> block = np.zeros((1, 5, 5))
    >>> block[:, 2:4, 2:4] = 1
    >>> fit = fit_stamps(star + 7, 40.0, True, 2.0, {"block": block})
    >>> [round(float(fit[name][0]), 1) for name in ("flux", "x_fit", "y_fit", "background")]
    [3000.0, 0.2, -0.4, 7.0]
    >>> str(fit["best_rival"][0]), bool(fit["rival_chi2"][0] < fit["chi2"][0])
    ('block', False)
    """
    from scipy.special import chdtrc

    fits = _not_fitted(len(stamps))
    prepared = _rival_pixels(rivals) if rivals else None
    for start, values, weights in _chunks(stamps, noise, valid):
        dof = np.count_nonzero(weights, axis=0) - FREE_PARAMETERS
        fitted = np.flatnonzero((weights[_CENTRE] > 0) & (dof >= 1))
        columns = _fit_chunk(values[:, fitted], weights[:, fitted], fwhm, prepared) | {"dof": dof[fitted]}
        columns["p_value"] = chdtrc(columns["dof"], columns["chi2"])
        for name, column in columns.items():
            fits[name][start + fitted] = column
    units = {"flux": "electron", "background": "electron", "x_fit": "pix", "y_fit": "pix"}
    return Table(fits, units=units, copy=False)


def greatest_snr(stamps, noise, valid, fwhm):
    """Filter each stamp with the PSF at every node of a 0.2 px grid within `POSITION_BOUND`, and take the highest.

    Parameters
    ----------
    stamps, noise, valid, fwhm
        As for `fit_stamps`.

    Returns
    -------
    snr : (n,) float array
        Matched filter response in sigma, without background: an upper bound of the ``snr`` that
        `fit_stamps` gives to any star above 3 sigma, within 1 per cent at FWHM 2 px, 5 at 0.8 and 13 at 0.5, at a
        hundredth of its cost. NaN where the centre pixel is not valid.
    """
    _, psf = _grid(float(fwhm))
    snr = np.full(len(stamps), np.nan)
    for start, values, weights in _chunks(stamps, noise, valid):
        response = _ratio(_product(psf, values * weights), np.sqrt(_product(psf**2, weights))).max(axis=0)
        snr[start : start + _CHUNK] = np.where(weights[_CENTRE] > 0, response, np.nan)
    return snr


@lru_cache(maxsize=8)
def grid_share(fwhm):
    """Share of a star's response that `greatest_snr` sees at least, wherever between its nodes the star is.

    The loss in the middle between four nodes, taken twice: a star of which pixels are masked loses more.
    """
    _, nodes = _grid(float(fwhm))
    places = (np.arange(5) + 0.5) * _GRID_STEP
    stars = pixel_integrated_gaussian(np.repeat(places, 5), np.tile(places, 5), fwhm).reshape(-1, STAMP_SIZE**2)
    nodes, stars = (psf / np.linalg.norm(psf, axis=1, keepdims=True) for psf in (nodes, stars))
    return float((nodes @ stars.T).max(axis=0).min() ** 2)


class MatchedFilter:
    """Response in sigma to a star at the middle of every pixel of a frame, without background; for frames of one noise.

    A star in the corner of its pixel keeps only 0.86 of the response it has at its true position (FWHM 2 px; 0.70 at
    1.2 px, 0.93 at 3 px): a cut that must lose no star has to lie that much lower.

    Parameters
    ----------
    noise, valid : (ny, nx) arrays
        1-sigma noise in electrons; False leaves a pixel out.
    fwhm : float
        Of the PSF, in pixels.
    """

    def __init__(self, noise, valid, fwhm):
        use = np.isfinite(noise) & (noise > 0) & valid
        self._weights = np.where(use, noise, np.float32(np.inf)).astype(np.float32) ** np.float32(-2)
        self._profile = _profile(0.0, fwhm)[0].astype(np.float32)
        power = _separable(self._weights, self._profile**2)
        self._norm = np.where(use, 1 / np.sqrt(np.where(use, power, 1)), np.float32(np.nan))

    def __call__(self, residual) -> np.ndarray:
        """Filter a frame.

        Parameters
        ----------
        residual : (ny, nx) float32 array
            Electrons; finite, and not changed.

        Returns
        -------
        snr : (ny, nx) float32 array
            Pixels beyond the edge do not count; NaN where the pixel itself is not valid.
        """
        ny = len(residual)
        half = len(self._profile) // 2
        snr = np.empty(residual.shape, np.float32)
        for top in range(0, ny, _FILTER_ROWS):
            first, stop = max(top - half, 0), min(top + _FILTER_ROWS, ny)
            rows = slice(first, min(stop + half, ny))
            response = _separable(residual[rows] * self._weights[rows], self._profile)
            np.multiply(response[top - first : stop - first], self._norm[top:stop], out=snr[top:stop])
        return snr


def _chunks(stamps, noise, valid):
    """Yield the first row, the stamps and the inverse variances, as (25, m) arrays, 0 where a pixel is not usable."""
    if np.ndim(stamps) != 3 or stamps.shape[1:] != (STAMP_SIZE, STAMP_SIZE):
        raise ValueError(f"stamps have shape {np.shape(stamps)}, not (n, {STAMP_SIZE}, {STAMP_SIZE})")
    noise, valid = np.broadcast_to(noise, stamps.shape), np.broadcast_to(valid, stamps.shape)
    for start in range(0, len(stamps), _CHUNK):
        part = slice(start, start + _CHUNK)
        values, weights = _masked(stamps[part], noise[part], valid[part], np.float64)
        yield (
            start,
            *(np.ascontiguousarray(array.reshape(-1, STAMP_SIZE**2).T) for array in (values, weights)),
        )


def _masked(values, noise, valid, dtype):
    noise = np.broadcast_to(np.asarray(noise, dtype), np.shape(values))
    use = np.isfinite(values) & (noise > 0) & valid
    return np.where(use, values, 0).astype(dtype, copy=False), np.where(use, noise, np.inf) ** dtype(-2)


def _ratio(top, bottom):
    """Divide; 0 where the divisor is not positive."""
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def _separable(image, profile):
    """Correlate an image with the outer product of a symmetric profile with itself; beyond the edge is 0."""
    return _along_rows(_along_rows(image, profile).T, profile).T


def _along_rows(image, profile):
    """Correlate every row; the axis is the last one, whatever the order in memory."""
    half = len(profile) // 2
    smooth = image * profile[half]
    for k in range(1, half + 1):
        share = image * profile[half + k]
        smooth[:, k:] += share[:, :-k]
        smooth[:, :-k] += share[:, k:]
    return smooth


def _not_fitted(n):
    names = ("snr", "flux", "x_fit", "y_fit", "background", "chi2", "dof", "p_value", "best_rival", "rival_chi2")
    return {name: np.full(n, np.nan) for name in names} | {
        "dof": np.zeros(n, np.int32),
        "best_rival": np.zeros(n, "U12"),
    }


def _fit_chunk(values, weights, fwhm, rivals):
    """Fit stamps whose centre is valid; values are 0 where weights (inverse variances) are."""
    pedestal = _mean(values, weights)
    level = values - pedestal  # small numbers: no figure is lost to a large background
    position, flux = _best_node(level, weights, fwhm)
    position, flux = _polish(level, weights, position, flux, fwhm)
    psf = _products(*_profile(position, fwhm)[0].swapaxes(0, 1))
    flux, background, chi2 = _linear(level, weights, psf, flux)
    weighted = weights * psf
    snr = _ratio((weighted * values).sum(0), np.sqrt((weighted * psf).sum(0)))
    star = {"snr": snr, "flux": flux, "x_fit": position[0], "y_fit": position[1]}
    star |= {"background": background + pedestal, "chi2": chi2}
    if rivals is None:
        return star
    return star | dict(zip(("best_rival", "rival_chi2"), _best_rival(level, weights, rivals), strict=True))


def _product(templates, stamps):
    """Multiply (m, 25) by (25, n), a few columns at a time.

    BLAS would split the whole among threads, whose waiting for one another costs ten times the product, and more where
    other processes keep the cores busy.
    """
    product = np.empty((len(templates), stamps.shape[1]))
    for start in range(0, stamps.shape[1], _BLAS_COLUMNS):
        part = slice(start, start + _BLAS_COLUMNS)
        np.matmul(templates, stamps[:, part], out=product[:, part])
    return product


def _products(along_x, along_y):
    """Return the (25, n) images of the (5, n) profiles along rows and columns."""
    return (along_y[:, None] * along_x).reshape(STAMP_SIZE**2, -1)


def _mean(values, weights):
    return (values * weights).sum(0) / weights.sum(0)


@lru_cache(maxsize=8)
def _grid(fwhm):
    """Return the positions (2, 121) of the starting grid and their PSFs (121, 25)."""
    nodes = np.arange(-5, 6) * _GRID_STEP
    positions = np.stack(np.meshgrid(nodes, nodes)).reshape(2, -1)
    return positions, pixel_integrated_gaussian(positions[0], positions[1], fwhm).reshape(-1, STAMP_SIZE**2)


def _best_node(level, weights, fwhm):
    """Return position (2, n) and flux of the grid node where a positive star lowers chi2 most, for the noise alone."""
    positions, psf = _grid(float(fwhm))
    total, share = weights.sum(0), _product(psf, weights)
    # 0 where no pixel tells star from sky
    power = np.maximum(_product(psf**2, weights) - share**2 / total, 1e-9 * total)
    overlap = _product(psf, weights * level)  # the weighted mean of level is 0
    best = (overlap * np.abs(overlap) / power).argmax(0), np.arange(level.shape[1])
    return positions[:, best[0]], overlap[best] / power[best]


def _polish(level, weights, position, flux, fwhm):
    """Move the position to the lowest chi2 by Gauss-Newton steps, each with the variance of the last model."""
    position, flux = position.copy(), flux.copy()
    last, gain, moving = np.zeros_like(position), np.ones(len(flux)), np.arange(len(flux))
    for _ in range(_MAX_STEPS):
        step, flux[moving] = _step(level[:, moving], weights[:, moving], position[:, moving], flux[moving], fwhm)
        # Where noise rules, full steps swing across the minimum for ever: a step back is a step too long.
        gain[moving] *= np.where((step * last[:, moving]).sum(0) < 0, 0.5, 1)
        before = position[:, moving]
        position[:, moving] = (before + gain[moving] * step).clip(-POSITION_BOUND, POSITION_BOUND)
        last[:, moving] = position[:, moving] - before
        moving = moving[np.abs(last[:, moving]).max(0) > _STEP_TOLERANCE]
        if not moving.size:
            break
    return position, flux


def _step(level, weights, position, flux, fwhm):
    """Return the (2, n) steps in x and y, at most one node's distance long, and the flux before them."""
    shares, slopes = _profile(position, fwhm)
    (along_x, along_y), (slope_x, slope_y) = shares.swapaxes(0, 1), slopes.swapaxes(0, 1)
    psf, by_x, by_y = _products(along_x, along_y), _products(slope_x, along_y), _products(along_x, slope_y)
    weights = weights / (1 + weights * np.maximum(flux * psf, 0))
    total = weights.sum(0)
    psf, by_x, by_y = (slope - (weights * slope).sum(0) / total for slope in (psf, by_x, by_y))
    weighted = weights * psf
    power = (weighted * psf).sum(0)
    flux = _ratio((weighted * level).sum(0), power)
    by_x, by_y = (flux * (slope - psf * _ratio((weighted * slope).sum(0), power)) for slope in (by_x, by_y))
    weighted_x, weighted_y = weights * by_x, weights * by_y
    pull = np.stack([(weighted_x * level).sum(0), (weighted_y * level).sum(0)])
    xx, yy, xy = (weighted_x * by_x).sum(0), (weighted_y * by_y).sum(0), (weighted_x * by_y).sum(0)
    # These small terms damp a position that the pixels do not hold, and vanish beside one they do.
    xx, yy = xx * (1 + 1e-9) + 1e-6, yy * (1 + 1e-9) + 1e-6
    stuck = (np.abs(position) >= POSITION_BOUND) & (position * pull > 0)
    xy = np.where(stuck.any(0), 0, xy)
    step = (np.stack([yy, xx]) * pull - xy * pull[::-1]) / (xx * yy - xy**2)
    return np.where(stuck, 0, step.clip(-_GRID_STEP, _GRID_STEP)), flux


def _linear(level, weights, psf, flux):
    """Return flux, background and chi2 at a known position, with the variance of the model they make."""
    for _ in range(2):
        current = weights / (1 + weights * np.maximum(flux * psf, 0))
        mean_psf, mean_level = _mean(psf, current), _mean(level, current)
        centred = psf - mean_psf
        weighted = current * centred
        flux = _ratio((weighted * level).sum(0), (weighted * centred).sum(0))
    residual = level - mean_level - flux * centred
    return flux, mean_level - flux * mean_psf, (current * residual**2).sum(0)


def _rival_pixels(rivals):
    """Return the name of every template, and (5, k) arrays of its pixels, padded, and of their weights (0: padding)."""
    names = np.repeat(list(rivals), [len(templates) for templates in rivals.values()])
    flat = np.concatenate(list(rivals.values())).reshape(len(names), -1)
    pixels = np.argsort(-flat, axis=1, kind="stable")[:, :STAMP_SIZE]
    return names, pixels.T, np.take_along_axis(flat, pixels, 1).T


def _best_rival(level, weights, prepared):
    """Find the rival of lowest chi2 for each stamp.

    Parameters
    ----------
    level, weights : (25, n) arrays
        Electrons, of weighted mean zero, and inverse variances; 0 where a pixel does not count.
    prepared : tuple
        From `_rival_pixels`.

    Returns
    -------
    name, chi2 : (n,) arrays
        Sums run over a shape's few pixels, and over the rest by subtraction.
    """
    names, pixels, shape = prepared
    shape = shape[:, :, None]
    inside, value = weights[pixels] * (shape > 0), level[pixels]
    current, weighted = inside, inside * value
    outside = weights.sum(0) - inside.sum(0)
    outside_value = -weighted.sum(0)  # the weighted sum of all pixels is 0
    outside_square = (weights * level**2).sum(0) - (weighted * value).sum(0)
    for variance_known in (False, False, True):
        total = outside + current.sum(0)
        mean = (outside_value + weighted.sum(0)) / total
        template = (current * shape).sum(0)
        overlap = (weighted * shape).sum(0) - mean * template
        power = (current * shape**2).sum(0) - template**2 / total
        amplitude = np.divide(overlap, power, out=np.zeros_like(power), where=power > 1e-9 * template)
        if not variance_known:
            current = inside / (1 + inside * np.maximum(amplitude * shape, 0))
            weighted = current * value
    square = outside_square + (weighted * value).sum(0) - total * mean**2
    chi2 = square - amplitude * overlap
    best = chi2.argmin(0)
    return names[best], np.maximum(chi2[best, np.arange(len(best))], 0)
