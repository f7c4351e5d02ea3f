"""Is this stamp a star? The PSF fitted to 5x5 stamps, and the shapes that are not stars.

The model of a stamp is ``F P + B + F (a1 M1 + a2 M2 + a3 M3)`` (`psf.PSF` has P and the modes M): flux F, background B,
a position that moves continuously, and the modes' amplitudes a, each with its prior. A pixel's variance is the square
of the held-out noise, plus the model's own electrons, plus a share of them squared that is forgiven, ``noise**2 + F P +
(light_error F P)**2``, never the pixel's value: a pixel that fluctuates low would weigh more and pull the flux down
(Mighell 1999, ApJ 518, 380). chi2 is ``sum (d - model)**2 / V + sum (a / error)**2``. The variance, and the light in
the modes, are those of the last model: so it is the chi2 of a star whose modes are an error of known covariance, and
they take no degrees of freedom.
All but the position enter linearly and are eliminated (variable projection, Golub & Pereyra 1973); the position is
searched on a grid first and then by Gauss-Newton steps, one linear solve each, for many stamps at a time.
Filters and rivals work on (25, n) arrays, stamps last: numpy adds up a few long rows several times faster than many
short ones. Steps work on (n, 25): numpy multiplies a batch of small matrices fastest.
"""

import numpy as np
from astropy.table import Table

from sla1tools.candidates.leaders import STAMP_SIZE
from sla1tools.candidates.matched_filter import CENTRE, GRID_STEP, POSITION_BOUND, chunks, grid, product, ratio
from sla1tools.candidates.psf import as_psf

FREE_PARAMETERS = 4  # flux, background, x and y

# Steps at most, and the step, in pixels, that is the last. With modes each costs three times as much: what is left out
# moves chi2 by less than 0.1.
_MAX_STEPS, _LAST_STEP = 12, 3e-4
_MAX_STEPS_WITH_MODES, _LAST_STEP_WITH_MODES = 6, 5e-4


def fit_stamps(stamps, noise, valid, psf, rivals=None, places=None):
    """Fit the PSF to each stamp and compare it with rival shapes.

    Parameters
    ----------
    stamps : (n, 5, 5) float array
        Residuals in electrons, the leader in the middle.
    noise, valid : (n, 5, 5) float and bool arrays, or what broadcasts to them
        Held-out 1-sigma noise in electrons, without the star's own. False leaves a pixel out of the fit and of the
        degrees of freedom: beyond the edge, saturated, flagged. Pixels that are not finite, or whose noise is not
        finite and positive, are left out too.
    psf : PSF or float
        The star's image; a number is the FWHM, in pixels, of a round Gaussian that is known exactly.
    rivals : mapping of str to (k, 5, 5) array, optional
        Shapes to be fitted beside the star, as `shapes.rival_templates` gives them.
    places : (n,) and (n,) arrays, optional
        Column and row of each stamp in the frame, for a PSF that varies; the middle of the frame if none.

    Returns
    -------
    fits : Table
        One row a stamp, in order; no rows where there is no stamp.

        - ``snr``: sum(d P / noise**2) / sqrt(sum(P**2 / noise**2)), P at the fitted position, no background, no modes
        - ``flux``, ``background``: electrons; ``x_fit``, ``y_fit``: px from the centre, within `POSITION_BOUND`
        - ``chi2``, ``dof`` (valid pixels minus 4), ``p_value`` (chance of a larger chi2, were it a star)
        - ``best_rival``, ``rival_margin``: the rival of lowest chi2, and the star's chi2 less that (above 0 the rival
          fits better); without rivals '' and NaN

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
    >>> from sla1tools.candidates.psf import pixel_integrated_gaussian
    >>> star = 3000 * pixel_integrated_gaussian(0.2, -0.4, 2.0)
    >>> block = np.zeros((1, 5, 5))
    >>> block[:, 2:4, 2:4] = 1
    >>> fit = fit_stamps(star + 7, 40.0, True, 2.0, {"block": block})
    >>> [round(float(fit[name][0]), 1) for name in ("flux", "x_fit", "y_fit", "background")]
    [3000.0, 0.2, -0.4, 7.0]
    >>> str(fit["best_rival"][0]), bool(fit["rival_margin"][0] > 0)
    ('block', False)
    """
    from scipy.special import chdtrc

    psf, fits = as_psf(psf), _not_fitted(len(stamps))
    coefficients = psf.at(*places) if places is not None and psf.varies else psf.coefficients[:1]
    prepared = _rival_pixels(rivals) if rivals else None
    for start, values, weights in chunks(stamps, noise, valid):
        dof = np.count_nonzero(weights, axis=0) - FREE_PARAMETERS
        fitted = np.flatnonzero((weights[CENTRE] > 0) & (dof >= 1))
        if not len(fitted):
            continue
        local = coefficients[start + fitted] if len(coefficients) > 1 else coefficients
        columns = _fit_chunk(values[:, fitted], weights[:, fitted], local, psf, prepared) | {"dof": dof[fitted]}
        columns["p_value"] = chdtrc(columns["dof"], columns["chi2"])
        for name, column in columns.items():
            fits[name][start + fitted] = column
    units = {"flux": "electron", "background": "electron", "x_fit": "pix", "y_fit": "pix"}
    return Table(fits, units=units, copy=False)


def _not_fitted(n):
    names = ("snr", "flux", "x_fit", "y_fit", "background", "chi2", "dof", "p_value", "best_rival", "rival_margin")
    return {name: np.full(n, np.nan) for name in names} | {
        "dof": np.zeros(n, np.int32),
        "best_rival": np.zeros(n, "U12"),
    }


def _fit_chunk(values, weights, coefficients, psf, rivals):
    """Fit stamps whose centre is valid; values are 0 where weights (inverse variances) are."""
    pedestal = _mean(values, weights)
    level = values - pedestal  # small numbers: no figure is lost to a large background
    rows = np.ascontiguousarray(level.T), np.ascontiguousarray(weights.T)
    position, flux = _best_node(level, weights, psf)
    position, flux = _polish(*rows, coefficients, position, flux, psf)
    image, flux, background, chi2 = _fitted(*rows, coefficients, position, flux, psf)
    weighted = weights * image.T
    snr = ratio((weighted * values).sum(0), np.sqrt((weighted * image.T).sum(0)))
    star = {"snr": snr, "flux": flux, "x_fit": position[0], "y_fit": position[1]}
    star |= {"background": background + pedestal, "chi2": chi2}
    if rivals is None:
        return star
    name, rival_chi2 = _best_rival(level, weights, rivals)
    return star | {"best_rival": name, "rival_margin": chi2 - rival_chi2}


def _mean(values, weights):
    return (values * weights).sum(0) / weights.sum(0)


def _best_node(level, weights, psf):
    """Return position (2, n) and flux of the grid node where a positive star lowers chi2 most, for the noise alone."""
    positions, templates = grid(psf)
    total, share = weights.sum(0), product(templates, weights)
    # 0 where no pixel tells star from sky
    power = np.maximum(product(templates**2, weights) - share**2 / total, 1e-9 * total)
    overlap = product(templates, weights * level)  # the weighted mean of level is 0
    best = (overlap * np.abs(overlap) / power).argmax(0), np.arange(level.shape[1])
    return positions[:, best[0]], overlap[best] / power[best]


def _polish(level, weights, coefficients, position, flux, psf):
    """Move the position to the lowest chi2 by Gauss-Newton steps, each with the variance of the last model."""
    position, flux = position.copy(), flux.copy()
    last, gain, moving = np.zeros_like(position), np.ones(len(flux)), np.arange(len(flux))
    modes = any(psf.mode_errors)
    tolerance = _LAST_STEP_WITH_MODES if modes else _LAST_STEP
    for _ in range(_MAX_STEPS_WITH_MODES if modes else _MAX_STEPS):
        local = coefficients[moving] if len(coefficients) > 1 else coefficients
        step, flux[moving] = _step(level[moving], weights[moving], local, position[:, moving], flux[moving], psf)
        # Where noise rules, full steps swing across the minimum for ever: when a step reverses, halve it.
        gain[moving] *= np.where((step * last[:, moving]).sum(0) < 0, 0.5, 1)
        before = position[:, moving]
        position[:, moving] = (before + gain[moving] * step).clip(-POSITION_BOUND, POSITION_BOUND)
        last[:, moving] = position[:, moving] - before
        moving = moving[np.abs(last[:, moving]).max(0) > tolerance]
        if not moving.size:
            break
    return position, flux


def _step(level, weights, coefficients, position, flux, psf):
    """Return the (2, n) steps in x and y, at most one node's distance long, and the flux before them."""
    images = _images(psf, position, coefficients, 1)
    weights = _with_light(weights, images[:, 0], flux, psf)
    (flux, *_), (pull, (xx, xy), (_, yy)) = _solve(images, level, weights, flux, psf)
    # These small terms damp a position that the pixels do not hold, and vanish beside one they do.
    pull, xy, xx, yy = pull * flux, xy * flux**2, *(x * flux**2 * (1 + 1e-9) + 1e-6 for x in (xx, yy))
    stuck = (np.abs(position) >= POSITION_BOUND) & (position * pull > 0)
    xy = np.where(stuck.any(0), 0, xy)
    step = (np.stack([yy, xx]) * pull - xy * pull[::-1]) / (xx * yy - xy**2)
    return np.where(stuck, 0, step.clip(-GRID_STEP, GRID_STEP)), flux


def _images(psf, position, coefficients, slopes):
    """Return P, ones, the modes that have a prior and, if asked for, the slopes of the position, (n, k, 25)."""
    images = psf.images(*position, coefficients, 2 if any(psf.mode_errors) else slopes)
    images = images.reshape(*images.shape[:2], -1)
    modes = [3 + k for k, error in enumerate(psf.mode_errors) if error]
    columns = np.empty((len(images), 2 + len(modes) + 2 * slopes, images.shape[2]))
    columns[:, 0], columns[:, 1], columns[:, 2:] = images[:, 0], 1, images[:, modes + [1, 2] * slopes]
    return columns


def _with_light(weights, image, flux, psf):
    """Return the inverse variances with a star's own electrons, and with what is forgiven of them."""
    light = np.maximum(flux[:, None] * image, 0)
    return weights / (1 + weights * light * (1 + psf.light_error**2 * light))


def _solve(images, level, weights, flux, psf):
    """Solve the penalised normal equations of stars at known positions.

    Parameters
    ----------
    images : (n, k, 25) or (n, k + 2, 25) array
        From `_images`, without or with slopes.
    level, weights : (n, 25) arrays
        Electrons, and inverse variances.
    flux : (n,) array
        Of the last model: a mode adds so many times its image.

    Returns
    -------
    solution : (k, n) array
        Flux, background, modes.
    rest : (3, 2, n) array
        What is left for the slopes beside them: half of chi2's fall with x and y, and half of its curvature.
    """
    priors = np.array([error**-2 for error in psf.mode_errors if error])
    k = 2 + len(priors)
    weighted = images * weights[:, None]
    normal = weighted @ np.concatenate([images, level[:, None]], axis=1).swapaxes(1, 2)
    normal[:, 2:k] *= flux[:, None, None]
    normal[:, :, 2:k] *= flux[:, None, None]
    diagonal = np.einsum("nii->ni", normal[:, :k, :k])
    diagonal *= 1 + 1e-12  # pixels that do not tell a star from sky would leave it singular
    diagonal[:, :2] += 1e-30
    diagonal[:, 2:] += priors
    right = normal[..., [-1, *range(k, images.shape[1])]]
    solution = np.linalg.solve(normal[:, :k, :k], right[:, :k])
    rest = right[:, k:] - normal[:, k:, :k] @ solution
    return solution[..., 0].T, rest.T


def _fitted(level, weights, coefficients, position, flux, psf):
    """Return image, flux, background and chi2 at a known position, with the variance of the model they make."""
    images = _images(psf, position, coefficients, 0)
    for _ in range(2):
        current, last = _with_light(weights, images[:, 0], flux, psf), flux
        (flux, background, *modes), _ = _solve(images, level, current, flux, psf)
    parts = np.stack([flux, background, *(last * mode for mode in modes)], axis=1)
    residual = level - (parts[:, None] @ images)[:, 0]
    penalty = sum((mode / error) ** 2 for mode, error in zip(modes, filter(None, psf.mode_errors), strict=True))
    return images[:, 0], flux, background, (current * residual**2).sum(1) + penalty


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
