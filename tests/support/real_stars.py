"""Three real star frames, judged by both criteria and by the field's own finders (docs/real-stars.md).

The truth about a frame comes from the two others: a star is what their mean shows at 5 sigma and each of them at 2.5.
So nothing in the frame under test, not its noise and not its cosmic rays, chooses the stars it is judged by.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.stats import SigmaClip, sigma_clipped_stats
from astropy.table import Table
from fitted import fit_stamps
from photutils.background import Background2D, MedianBackground
from photutils.detection import DAOStarFinder
from scipy import ndimage
from scipy.spatial import cKDTree

from sla1tools.candidates import criteria
from sla1tools.candidates.leaders import cut_stamps, find_leaders
from sla1tools.candidates.matched_filter import greatest_snr
from sla1tools.candidates.psf import pixel_integrated_gaussian
from sla1tools.candidates.selection import one_per_star
from sla1tools.darks.classes import BLOCKING, PixelClass
from sla1tools.darks.model import characterize
from sla1tools.darks.transfer import photon_transfer
from sla1tools.frames.capture import judge_capture
from sla1tools.parameters import read_parameters
from sla1tools.places import CHECKOUT

STARS = "2012-06-17/01_56_40/Stars60s"
FULL_WELL = 50_000  # counts: stars flatten at 53,000 to 59,000 counts and bleed along columns from there
BLEED = 12  # px around a saturated pixel where wings and bleeding make leaders of their own
REACH = 1.5  # px between a detection and its star
GRID_MARGIN = 0.88  # of snr: what the nodes of the grid see of the best place between them
WINGS = ((5.0, 0.0), (12.0, 30_000.0))  # px, and e- of a star: what lies nearer is beside it
BLEND = (6.0, 0.1)  # a neighbour this near (px), of this share of the star's flux or more
SIGMAS = 200 / 40  # the observers' threshold over the held-out noise of their camera
SNR_MIN, P_MIN, RATIO = 6.0, 1e-3, 0.3
BRIGHT = 20.0  # snr from which chi2 tells a clean rival from a star
EDGES = np.array([700, 1000, 1400, 2000, 3000, 5000, 10_000, 30_000, 100_000, 1_000_000.0])  # electrons


@dataclass(frozen=True)
class Field:
    """Three registered frames of one star field, in electrons, and the darks of their night.

    Attributes
    ----------
    counts : (3, ny, nx) float array
        Raw less the master dark.
    stars, sigma : (3, ny, nx) float arrays
        Electrons above the sky, and the 1-sigma noise of the sky alone.
    usable : (3, ny, nx) bool array
        Neither flagged by the darks nor near full well.
    near_saturation : (3, ny, nx) bool array
        Within `BLEED` of a pixel near full well.
    shift : (3, 2) array
        x, y to add to a position in the first frame.
    gain, header_gain, dark_gain : float
        Electrons per count: by the sky's variance, by EGAIN, by the darks' photon transfer (`dark_gain_error`).
    """

    night: object
    dark: object
    counts: np.ndarray
    stars: np.ndarray
    sigma: np.ndarray
    usable: np.ndarray
    near_saturation: np.ndarray
    shift: np.ndarray
    sky: np.ndarray
    gain: float
    gain_error: float
    header_gain: float
    dark_gain: float
    dark_gain_error: float


def read_field(sessions: Path) -> Field:
    """Read and register the frames; everything is scaled by the gain that the sky's own variance gives."""
    settings = [CHECKOUT / "params" / "st10-2012-06-17.yaml"]
    night = judge_capture(read_parameters(settings, [("sessions_directory", str(sessions))]))
    dark = characterize(night)
    transfer = photon_transfer(dark.reference.master, dark.variance, len(night.frames))
    paths = sorted((sessions / STARS).glob("*.fit"))
    raw = np.stack([fits.getdata(path, memmap=False).astype(float) for path in paths])
    counts = raw - dark.reference.master
    sky = np.stack([_sky(frame) for frame in counts])
    saturated = raw > FULL_WELL
    near = np.stack([ndimage.binary_dilation(frame, iterations=BLEED) for frame in saturated])
    gain, gain_error = sky_gain(counts - sky, sky, float(np.median(dark.variance)))
    dark = replace(dark, scale=gain)
    return Field(
        night=night,
        dark=dark,
        counts=counts,
        stars=(counts - sky) * gain,
        sigma=np.sqrt(sky * gain + dark.level_sigma("leave_one_out") ** 2),
        usable=~saturated & (dark.classes.dq & BLOCKING == 0),
        near_saturation=near,
        shift=np.array([_shift(counts[0] - sky[0], frame - level) for frame, level in zip(counts, sky, strict=True)]),
        sky=sky,
        gain=gain,
        gain_error=gain_error,
        header_gain=float(fits.getval(paths[0], "EGAIN")),
        dark_gain=transfer.gain,
        dark_gain_error=transfer.gain_error,
    )


def _sky(frame):
    return Background2D(
        frame, 64, filter_size=3, sigma_clip=SigmaClip(3.0), bkg_estimator=MedianBackground()
    ).background


def sky_gain(above_sky, sky, dark_variance):
    """Electrons per count, and its error: sky level over the variance that the darks do not have.

    The variance is that of differences of frames, pixel by pixel, so no fixed pattern enters; pixels with any star
    light in the mean of the three are left out. Over blocks of the frame the scatter of the ratio gives the error.
    """
    mean = ndimage.gaussian_filter(above_sky.mean(axis=0), 1.5)
    blank = ~ndimage.binary_dilation(mean > 2 * sigma_clipped_stats(mean)[2], iterations=3)
    blank[:3], blank[-3:], blank[:, :3], blank[:, -3:] = False, False, False, False
    gains = []
    for one, other in ((0, 1), (1, 2), (0, 2)):
        for rows in np.array_split(np.arange(len(mean)), 6):
            use = blank[rows]
            difference = (above_sky[one] - above_sky[other])[rows][use]
            spread = sigma_clipped_stats(difference, sigma=4, maxiters=10)[2]
            level = (sky[one] + sky[other])[rows][use].mean() / 2
            gains.append(level / (spread**2 / 2 - dark_variance))
    return float(np.mean(gains)), float(np.std(gains) / np.sqrt(len(gains) * 2 / 3))  # two of three pairs are new


def _shift(first, other):
    """Shift (x, y) of the stars: the peak of the cross-correlation, then the median over stars of 20 sigma."""
    a, b = (ndimage.gaussian_filter(np.clip(frame, 0, 2000), 1.0) for frame in (first, other))
    correlation = np.fft.irfft2(np.fft.rfft2(b) * np.conj(np.fft.rfft2(a)), a.shape)
    peak = np.array(np.unravel_index(correlation.argmax(), a.shape))
    coarse = (peak + np.array(a.shape) // 2) % a.shape - np.array(a.shape) // 2
    places = [positions(DAOStarFinder(threshold=1000, fwhm=2.2)(frame)) for frame in (first, other)]
    distance, match = cKDTree(places[1]).query(places[0] + coarse[::-1])
    near = distance < REACH
    return np.median(places[1][match[near]] - places[0][near], axis=0)


def positions(found) -> np.ndarray:
    """(n, 2) x, y of a finder's table; the names of its columns depend on photutils' version."""
    if found is None:
        return np.zeros((0, 2))
    names = {name.replace("_", ""): name for name in found.colnames}
    return np.column_stack([found[names["xcentroid"]], found[names["ycentroid"]]])


def forced(image, sigma, usable, xy, fwhm):
    """Flux and its 1-sigma at given places, by the Gaussian-weighted sum of the 5x5 pixels around."""
    x, y = np.rint(xy).astype(int).T
    psf = pixel_integrated_gaussian(xy[:, 0] - x, xy[:, 1] - y, fwhm)
    weight = cut_stamps(usable, y, x, False) / cut_stamps(sigma, y, x, 1.0) ** 2
    power = np.maximum((weight * psf**2).sum(axis=(1, 2)), 1e-12)
    return (weight * psf * cut_stamps(image, y, x, 0.0)).sum(axis=(1, 2)) / power, power**-0.5


def reference_stars(field: Field, k: int, fwhm: float) -> Table:
    """Stars that the two other frames agree on, at their places in frame k.

    Returns
    -------
    stars : Table
        `x`, `y` (frame k), `flux` (electrons, mean of the two others, to the total of a bright star's 15x15 pixels),
        `edge`, `saturated`, `blend`.
    """
    a, b = (j for j in range(3) if j != k)
    onto = field.shift[a] - field.shift[b]
    moved = ndimage.shift(field.stars[b], onto[::-1], order=1, mode="nearest")
    mean = ndimage.gaussian_filter((field.stars[a] + moved) / 2, fwhm / 2.355)
    height = 5 * sigma_clipped_stats(mean)[2]
    y, x = np.nonzero((mean == ndimage.maximum_filter(mean, 3)) & (mean > height))
    fit = fit_stamps(cut_stamps((field.stars[a] + moved) / 2, y, x), field.sigma[a].mean() * 0.7, True, fwhm)
    kept = np.isfinite(fit["x_fit"])
    place = np.column_stack([x + fit["x_fit"], y + fit["y_fit"]])[kept] - field.shift[a]
    fluxes = []
    for j in (a, b):
        flux, error = forced(field.stars[j], field.sigma[j], field.usable[j], place + field.shift[j], fwhm)
        fluxes.append(np.where(flux > 2.5 * error, flux, np.nan))
    flux = np.mean(fluxes, axis=0)
    flux, place = flux[np.isfinite(flux)], place[np.isfinite(flux)] + field.shift[k]
    order = np.argsort(-flux, kind="stable")
    pairs = cKDTree(place[order]).query_pairs(REACH, output_type="ndarray")
    brightest = np.zeros(len(flux), bool)
    brightest[order] = one_per_star(np.ones(len(flux), bool), pairs[np.lexsort(pairs.T[::-1])])
    return _described(field, k, place[brightest], flux[brightest])


def _described(field, k, place, flux):
    ny, nx = field.stars[k].shape
    x, y = np.rint(place).astype(int).T
    inside = (x >= 0) & (x < nx) & (y >= 0) & (y < ny)
    place, flux, x, y = place[inside], flux[inside], x[inside], y[inside]
    tree = cKDTree(place)
    blend = np.zeros(len(place), bool)
    for i, j in tree.query_pairs(BLEND[0]):
        blend[i] |= flux[j] > BLEND[1] * flux[i]
        blend[j] |= flux[i] > BLEND[1] * flux[j]
    edge = (x < 2) | (x >= nx - 2) | (y < 2) | (y >= ny - 2)
    saturated = field.near_saturation[k][y, x]
    stars = Table({"x": place[:, 0], "y": place[:, 1], "flux": flux, "edge": edge, "saturated": saturated})
    stars["blend"] = blend & ~saturated
    stars["isolated"] = ~(edge | saturated | stars["blend"])
    bright = stars["isolated"] & (flux > 20_000)
    total = cut_stamps(field.stars[k], y[bright], x[bright], 0.0, 7).sum(axis=(1, 2))
    stars["flux"] *= np.median(total / flux[bright])
    return stars


def measure(image, sigma, usable, saturated, threshold, fwhm) -> Table:
    """All leaders of an image above a threshold (electrons), with what both criteria look at; `fwhm` may be a PSF."""
    leaders = find_leaders(image, threshold)
    y, x = leaders["y"], leaders["x"]
    stamps = cut_stamps(image, y, x), cut_stamps(sigma, y, x, 1.0), cut_stamps(usable, y, x, False)
    bright = np.flatnonzero(greatest_snr(*stamps, fwhm) > GRID_MARGIN * SNR_MIN)
    fit = fit_stamps(*(values[bright] for values in stamps), fwhm, places=(x[bright], y[bright]))
    for name in ("snr", "p_value"):
        leaders[name] = np.full(len(leaders), np.nan)
        leaders[name][bright] = fit[name]
    blocked = np.where(saturated[y, x], PixelClass.SATURATED, PixelClass.HOT)
    leaders["dq"] = np.where(usable[y, x], 0, blocked)
    leaders["frame"], leaders["reference"] = 0, 0
    return leaders


def leaders_of(field: Field, k: int, fwhm: float) -> Table:
    """Leaders of frame k above 2 sigma: a star of 6 sigma in the corner of its pixel peaks at 2.7."""
    saturated = field.counts[k] > FULL_WELL
    floor = 2 * float(np.median(field.sigma[k]))
    return measure(field.stars[k], field.sigma[k], field.usable[k], saturated, floor, fwhm)


def detections(field: Field, k: int, leaders: Table, fwhm: float) -> dict[str, np.ndarray]:
    """(n, 2) places of what each criterion and finder detects in frame k; all look for 5 or 6 sigma."""
    noise = float(np.median(field.sigma[k]))
    passes = {
        "neighbor_ratio, 200 e-": criteria.neighbor_ratio(leaders, 200.0, RATIO),
        "neighbor_ratio, 5 sigma": criteria.neighbor_ratio(leaders, SIGMAS * noise, RATIO),
        "psf_chi2": criteria.psf_chi2(leaders, SNR_MIN, P_MIN),
        "psf_chi2, any p": criteria.psf_chi2(leaders, SNR_MIN, 0.0),
    }
    found = {name: np.column_stack([leaders["x"], leaders["y"]])[rows] for name, rows in passes.items()}
    found["DAOStarFinder"] = positions(DAOStarFinder(threshold=SNR_MIN * noise, fwhm=fwhm)(field.stars[k]))
    return found


def sep_detections(field: Field, k: int, fwhm: float, clean: bool = False) -> np.ndarray:
    """(n, 2) places of sep's matched filter at the same depth; its cleaning, on by default, is off unless asked for."""
    import sep

    kernel = pixel_integrated_gaussian(0.0, 0.0, fwhm)[0]
    image, sigma = (np.ascontiguousarray(values) for values in (field.stars[k], field.sigma[k]))
    found = sep.extract(image, SNR_MIN, err=sigma, minarea=1, filter_kernel=kernel, filter_type="matched", clean=clean)
    return np.column_stack([found["x"], found["y"]])


def measured_fwhm(field: Field) -> float:
    """FWHM of the pixel-integrated Gaussian that isolated stars of 5,000 to 30,000 e- fit best."""
    stars = reference_stars(field, 0, 2.0)
    stars = stars[stars["isolated"] & (stars["flux"] > 5000) & (stars["flux"] < 30_000)]
    stamps, sigma = stamps_of(field, 0, stars)
    widths = np.arange(1.5, 2.51, 0.05)
    return float(widths[np.argmin([np.median(fit_stamps(stamps, sigma, True, width)["chi2"]) for width in widths])])


def stamps_of(field: Field, k: int, stars: Table, radius=2):
    """Stamps of stars and of the noise under them, (n, 2 radius + 1, 2 radius + 1) each."""
    x, y = (np.rint(stars[axis]).astype(int) for axis in ("x", "y"))
    return cut_stamps(field.stars[k], y, x, radius=radius), cut_stamps(field.sigma[k], y, x, 1.0, radius)


@dataclass(frozen=True)
class Judged:
    """One frame: its stars with a bool column for each finder and why each criterion missed, and what was no star."""

    stars: Table
    extra: dict[str, dict[str, int]]


def judge(field: Field, k: int, fwhm: float, with_sep: bool) -> Judged:
    """Match what every finder detects in frame k with the stars of the two other frames."""
    leaders, stars = leaders_of(field, k, fwhm), reference_stars(field, k, fwhm)
    found = detections(field, k, leaders, fwhm)
    if with_sep:
        found["sep"] = sep_detections(field, k, fwhm)
        found["sep, cleaned"] = sep_detections(field, k, fwhm, clean=True)
    tree = cKDTree(np.column_stack([stars["x"], stars["y"]]))
    extra = {}
    for name, places in found.items():
        stars[name] = np.isfinite(cKDTree(places).query(tree.data, distance_upper_bound=REACH)[0])
        extra[name] = _no_stars(field, k, places, stars, fwhm)
    stars["miss_ratio"], stars["miss_psf"] = _reasons(field, k, leaders, stars)
    return Judged(stars, extra)


def _no_stars(field, k, places, stars, fwhm):
    """Count what no star explains: beside a star (its wings, a companion), and far off in this frame alone."""
    x, y = np.rint(places).astype(int).T
    near, beside = (np.zeros(len(places), bool) for _ in range(2))
    for reach, flux in ((REACH, 0.0), *WINGS):
        listed = stars[stars["flux"] >= flux]
        distance = cKDTree(np.column_stack([listed["x"], listed["y"]])).query(places)[0]
        near, beside = (distance <= REACH, beside) if reach == REACH else (near, beside | (distance <= reach))
    odd = ~near & ~field.near_saturation[k][y, x]
    alone = odd & ~beside
    for j in {0, 1, 2} - {k}:
        there = places + field.shift[j] - field.shift[k]
        flux, error = forced(field.stars[j], field.sigma[j], field.usable[j], there, fwhm)
        alone &= flux < 3 * error
    stamps = (cut_stamps(image, y, x, fill) for image, fill in ((field.stars[k], np.nan), (field.sigma[k], 1.0)))
    snr = greatest_snr(*stamps, cut_stamps(field.usable[k], y, x, False), fwhm)
    return {
        "one frame only": int(alone.sum()),
        "of these over 8 sigma": int((alone & (snr > 8)).sum()),
        "of these over 20 sigma": int((alone & (snr > BRIGHT)).sum()),
        "beside a star": int((odd & beside).sum()),
    }


def _reasons(field, k, leaders, stars):
    """Say which cut the brightest leader within reach of each star fails first: of neighbor_ratio, of psf_chi2."""
    places = np.column_stack([leaders["x"], leaders["y"]])
    near = cKDTree(places).query_ball_point(np.column_stack([stars["x"], stars["y"]]), REACH)
    peak, threshold = np.asarray(leaders["peak"]), SIGMAS * float(np.median(field.sigma[k]))
    ratio, psf = [], []
    for star, rows in zip(stars, near, strict=True):
        if not rows:
            ratio.append("no leader")
            psf.append("saturated" if star["saturated"] else "no leader")
            continue
        leader = leaders[rows[int(np.argmax(peak[rows]))]]
        ratio.append("below threshold" if leader["peak"] <= threshold else "ratio")
        if star["saturated"] or leader["dq"]:
            psf.append("saturated" if star["saturated"] else "flagged")
        elif not leader["snr"] >= SNR_MIN:
            psf.append("snr")
        else:
            psf.append("chi2, edge" if star["edge"] else "chi2, blend" if star["blend"] else "chi2, alone")
    return ratio, psf
