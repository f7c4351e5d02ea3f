"""Stamps of real stars: how far they are from the model, and what becomes of them in darks (docs/real-stars.md)."""

import numpy as np
from astropy.table import Table, vstack
from fitted import fit_stamps
from real_stars import P_MIN, RATIO, REACH, SIGMAS, SNR_MIN, Field, measure, reference_stars, stamps_of
from scipy import ndimage
from scipy.spatial import cKDTree

from sla1tools.candidates import criteria
from sla1tools.candidates.leaders import cut_stamps
from sla1tools.candidates.psf import pixel_integrated_gaussian
from sla1tools.candidates.shapes import rival_templates
from sla1tools.darks.classes import BLOCKING

PATCH = 4  # radius of a real star's stamp, px
OVERSAMPLING = 7
SHARE = 0.14  # of the model's light that a misfit term would excuse
SHAPES = {  # FWHM along two axes (px), angle of the first from x (rad), Moffat's beta: what isolated stars fit best
    "Gaussian, round": (1.88, 1.88, 0.0, np.inf),
    "Gaussian, elliptical": (1.84, 2.00, 0.52, np.inf),
    "Moffat, round": (1.80, 1.80, 0.0, 3.06),
    "Moffat, elliptical": (1.73, 1.91, 0.40, 4.09),
}


def misfit(field: Field, k: int, stars: Table, fwhm: float) -> Table:
    """What chi2 has beyond its degrees of freedom, for stars of frame k.

    Returns
    -------
    fits : Table
        `flux` (the list's), `light` (the model's flux as a share of it), `snr`, `p_value`, `chi2`, `dof`,
        `rival_margin`, and `share`: the root of (chi2 - dof) over the squared signal-to-noise ratio of the model with
        its own Poisson noise, which is the misfit as a share of the light; NaN where chi2 < dof.
    """
    stamps, sigma = stamps_of(field, k, stars)
    fits = fit_stamps(stamps, sigma, True, fwhm)
    model = np.asarray(fits["flux"])[:, None, None] * pixel_integrated_gaussian(fits["x_fit"], fits["y_fit"], fwhm)
    power = (model**2 / (sigma**2 + np.maximum(model, 0))).sum(axis=(1, 2))
    excess = np.asarray(fits["chi2"] - fits["dof"]) / power
    fits["share"] = np.sqrt(np.where(excess > 0, excess, np.nan))
    fits["light"] = fits["flux"] / stars["flux"]
    fits["flux"] = stars["flux"]
    return fits


def excused(stamps, sigma, fwhm: float, share: float) -> Table:
    """Fit once, then again with a share of the first model's light, pixel by pixel, added to the noise."""
    fits = fit_stamps(stamps, sigma, True, fwhm)
    model = np.asarray(fits["flux"])[:, None, None] * pixel_integrated_gaussian(fits["x_fit"], fits["y_fit"], fwhm)
    return fit_stamps(stamps, np.hypot(sigma, share * np.maximum(model, 0)), True, fwhm)


def rival_stamps(name: str, snr: float, sigma: float, n: int, rng) -> np.ndarray:
    """(n, 5, 5) stamps of a rival of `rivals.rival_templates`, with Poisson and Gaussian noise."""
    shape = rival_templates()[name]
    shape = shape[rng.integers(len(shape), size=n)]
    light = shape * (snr * sigma / np.sqrt((shape**2).sum(axis=(1, 2), keepdims=True)))
    return rng.poisson(light) + rng.normal(0, sigma, light.shape)


def shape_chi2(stamps, sigma, shape, fwhm: float) -> np.ndarray:
    """(n,) chi2 of stamps for a star of `SHAPES`, position, flux and background free; 21 degrees of freedom.

    The variance is that of the Gaussian's fit, so shapes are compared on one footing.
    """
    fits = fit_stamps(stamps, sigma, True, fwhm)
    place = np.array([fits["x_fit"], fits["y_fit"]])
    model = np.asarray(fits["flux"])[:, None, None] * pixel_integrated_gaussian(*place, fwhm)
    weight = 1 / (sigma**2 + np.maximum(model, 0)).reshape(-1, 25)

    def away(values):
        return values - ((weight * values).sum(axis=1) / weight.sum(axis=1))[:, None]

    def residual(place):
        psf, level = away(_star(*place, shape)), away(stamps.reshape(-1, 25))
        flux = (weight * psf * level).sum(axis=1) / (weight * psf**2).sum(axis=1)
        return (level - flux[:, None] * psf) * np.sqrt(weight)

    for _ in range(6):
        now = residual(place)
        by_x, by_y = ((residual(place + step) - now) / 0.01 for step in ([[0.01], [0.0]], [[0.0], [0.01]]))
        xx, xy, yy = ((one * other).sum(axis=1) for one, other in ((by_x, by_x), (by_x, by_y), (by_y, by_y)))
        pull_x, pull_y = ((slope * now).sum(axis=1) for slope in (by_x, by_y))
        step = np.array([yy * pull_x - xy * pull_y, xx * pull_y - xy * pull_x]) / (xx * yy - xy**2)
        place = place - np.clip(step, -0.2, 0.2)
    return (residual(place) ** 2).sum(axis=1)


def _star(x, y, shape):
    """(n, 25) unit stars at x, y from the stamp's centre, summed over 7x7 points a pixel."""
    along, across, angle, beta = shape
    points = (np.arange(5 * OVERSAMPLING) - (5 * OVERSAMPLING - 1) / 2) / OVERSAMPLING
    dx, dy = points[None, None, :] - x[:, None, None], points[None, :, None] - y[:, None, None]
    first = (dx * np.cos(angle) + dy * np.sin(angle)) / along
    second = (dy * np.cos(angle) - dx * np.sin(angle)) / across
    square = first**2 + second**2
    light = 2.0 ** (-4 * square) if np.isinf(beta) else (1 + 4 * (2 ** (1 / beta) - 1) * square) ** -beta
    light = light.reshape(-1, 5, OVERSAMPLING, 5, OVERSAMPLING).sum(axis=(2, 4)).reshape(-1, 25)
    return light / light.sum(axis=1, keepdims=True)


def templates(field: Field) -> Table:
    """Isolated bright stars below full well, of all frames: `stamp` (9x9, unit flux), `flux`, `x`, `y`, `frame`."""
    rows = []
    for k in range(3):
        stars = reference_stars(field, k, 2.0)
        places = np.column_stack([stars["x"], stars["y"]])
        for i in np.flatnonzero(stars["isolated"] & (stars["flux"] > 40_000)):
            around = np.hypot(*(places - places[i]).T)
            x, y = np.rint(places[i]).astype(int)
            companions = (around > 0) & (around < 10) & (stars["flux"] > 0.02 * stars["flux"][i])
            stamp = cut_stamps(field.stars[k], [y], [x], radius=PATCH)[0]
            if not companions.any() and np.isfinite(stamp).all():
                rows.append((k, *places[i], stamp.sum(), stamp / stamp.sum()))
    return Table(rows=rows, names=("frame", "x", "y", "flux", "stamp"))


def gaussian_twins(field: Field, real: Table, fwhm: float, rng) -> np.ndarray:
    """(n, 9, 9) unit-flux stamps as `templates` would be, were the stars Gaussian: same places, light and noise."""
    dx, dy = (real[axis] - np.rint(real[axis]) for axis in ("x", "y"))
    flux = np.asarray(real["flux"])[:, None, None]
    sky = np.median(field.sigma)
    twins = rng.poisson(flux * pixel_integrated_gaussian(dx, dy, fwhm, 2 * PATCH + 1))
    twins = twins + rng.normal(0, sky, twins.shape)
    return twins / twins.sum(axis=(1, 2), keepdims=True)


def inject_stamps(field: Field, stamps, fluxes, fwhm: float, seed: int, k: int = 10) -> Table:
    """Put stamps of unit flux into raw counts of dark k, 12 px apart, and judge them as leaders.

    Returns
    -------
    trials : Table
        `flux`, `neighbor_ratio` (5 sigma), `psf_chi2`, `any_p`: recovered within 1 px (Chebyshev), or not.
    """
    rng = np.random.default_rng(seed)
    night, dark = field.night, field.dark
    counts = night.rows(k, 0, night.shape[0])
    y, x = (places.ravel() for places in np.mgrid[6 : night.shape[0] - 6 : 12, 6 : night.shape[1] - 6 : 12])
    flux = rng.permutation(np.resize(fluxes, len(y)))
    light = rng.poisson(np.maximum(stamps[rng.integers(len(stamps), size=len(y))] * flux[:, None, None], 0))
    added = np.zeros(night.shape, np.int64)
    reach = np.arange(-PATCH, PATCH + 1)
    added[y[:, None, None] + reach[:, None], x[:, None, None] + reach] = np.rint(light / field.gain)
    residual = dark.reference.residual(counts, "leave_one_out", scale=field.gain)
    sigma = dark.sigma(counts, np.s_[:, :], "leave_one_out")
    usable = dark.classes.dq & BLOCKING == 0
    trials, noise = Table({"flux": flux}), float(np.median(sigma))
    passed = []
    for content in (residual, residual + added * field.gain):
        leaders = measure(content, sigma, usable, np.zeros_like(usable), 2.5 * noise, fwhm)
        cuts = {
            "neighbor_ratio": criteria.neighbor_ratio(leaders, SIGMAS * noise, RATIO),
            "psf_chi2": criteria.psf_chi2(leaders, SNR_MIN, P_MIN),
            "any_p": criteria.psf_chi2(leaders, SNR_MIN, 0.0),
        }
        maps = {}
        for name, rows in cuts.items():
            places = np.zeros(night.shape, bool)
            places[leaders["y"][rows], leaders["x"][rows]] = True
            maps[name] = ndimage.maximum_filter(places, 3)[y, x]
        passed.append(maps)
    for name in passed[0]:
        trials[name] = passed[1][name] & ~passed[0][name]
    return trials


def dark_hits(field: Field, fwhm: float) -> Table:
    """What leads by snr 6 in the darks, held out, on unflagged pixels, and in one dark only: cosmic rays mostly.

    Returns
    -------
    hits : Table
        `frame`, `x`, `y`, `snr`, `neighbor_ratio` (5 sigma: whether that rule passes it), `stamp` (NaN where flagged)
        and `sigma`, its noise.
    """
    night, dark = field.night, field.dark
    usable = dark.classes.dq & BLOCKING == 0
    parts = []
    for k in range(len(night.frames)):
        counts = night.rows(k, 0, night.shape[0])
        residual = dark.reference.residual(counts, "leave_one_out", scale=field.gain)
        sigma = dark.sigma(counts, np.s_[:, :], "leave_one_out")
        noise = float(np.median(sigma))
        leaders = measure(residual, sigma, usable, np.zeros_like(usable), 2.5 * noise, fwhm)
        leaders["neighbor_ratio"] = criteria.neighbor_ratio(leaders, SIGMAS * noise, RATIO)
        leaders["frame"] = k
        leaders = leaders[criteria.psf_chi2(leaders, SNR_MIN, 0.0)]
        leaders["stamp"] = cut_stamps(np.where(usable, residual, np.nan), leaders["y"], leaders["x"])
        leaders["sigma"] = cut_stamps(sigma, leaders["y"], leaders["x"], 1.0)
        parts.append(leaders)
    hits = vstack(parts)
    places = np.column_stack([hits["x"], hits["y"]])
    pairs = cKDTree(places).query_pairs(REACH, output_type="ndarray")
    hits.remove_rows(np.unique(pairs[hits["frame"][pairs[:, 0]] != hits["frame"][pairs[:, 1]]]))
    return hits


def rules(stamps, sigma, fwhm: float) -> dict[str, np.ndarray]:
    """Which stamps other rules than p >= 0.001 would take for stars: all the rules that were tried."""
    fits = fit_stamps(stamps, sigma, True, fwhm)
    passed = {f"p ≥ {p_min:g}": fits["p_value"] >= p_min for p_min in (P_MIN, 1e-6)}
    for share in (SHARE, 0.25):
        passed[f"{100 * share:.0f} % excused, p ≥ 0.001"] = excused(stamps, sigma, fwhm, share)["p_value"] >= P_MIN
    for times in (1, 2, 3, 5):
        passed[f"{times} × χ² below the best rival's"] = fits["rival_margin"] < (1 - times) * fits["chi2"]
    return passed
