"""The PSF, measured on stars: five rounds of fitting the stars with the image, and the image to the stars."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from astropy.table import Table, vstack

from sla1tools.candidates.fit import fit_stamps
from sla1tools.candidates.leaders import cut_stamps
from sla1tools.candidates.psf import ERROR_NAMES, GAUSSIAN, PSF, hermite_profiles
from sla1tools.candidates.star_frames import FIRST_ERRORS, STAR_SNR, StarFrame, find_stars
from sla1tools.errors import NightError

FITTED = 7  # side of the stamps that the coefficients are fitted to, px
ROUNDS = 5
ERRORS, FEW_ERRORS = (0.03, 0.06, 0.03), (0.05, 0.10, 0.05)  # few: of one frame, or of fewer than MANY_STARS
LEAST_STARS, MANY_STARS, MOST_STARS = 10, 50, 100
ODD_CHI2 = 4.0  # times the median chi2/dof
ODD_PIXEL = 5.0  # sigma
ELONGATED, MOST_ELONGATION = 1.3, 2.0  # warned of, refused
BAD_FIT = 1.3  # held-out chi2/dof: above it there is a warning

CURES = {
    "saturated": "expose shorter (with darks of that exposure)",
    "neighbor": "choose a field with fewer stars",
    "flagged": "darks of this camera and temperature flag fewer pixels",
    "edge": "point at a field with more stars",
    "odd": "the stars are not alike: choose frames of steady tracking and focus",
    "": "expose longer, choose a field with brighter stars, or, if they are bright, mend focus and tracking",
}


@dataclass(frozen=True)
class MeasuredPSF:
    """A PSF and what it was measured on.

    Attributes
    ----------
    psf : PSF
    order : int
        Of the series.
    stars : Table
        Those of `star_frames.find_stars`, of all frames ('odd' are those that chi2 dropped), with `chi2`, `dof` and
        `residual`, the (5, 5) pixels of data less model over its 1-sigma, of the fit with the PSF of the *other* half
        of the stars: only for those chosen.
    chi2_per_dof : float
        Median of the chosen stars', held out.
    """

    psf: PSF
    order: int
    stars: Table
    chi2_per_dof: float

    @property
    def count(self) -> int:
        """Stars used."""
        return int(np.count_nonzero(self.stars["reason"] == ""))

    def as_json(self) -> dict:
        """Return what its file says, but for the sources."""
        psf = self.psf
        return {
            "stars": self.count,
            "fwhm": psf.fwhm,
            "elongation": round(elongation(psf), 3),
            "order": self.order,
            "varies": psf.varies,
            "coefficients": psf.coefficients.tolist(),
            "errors": {name: getattr(psf, f"{name}_error") for name in ERROR_NAMES},
            "chi2_per_dof": round(self.chi2_per_dof, 3),
            "frame_shape": list(psf.frame_shape),
        }


@dataclass(frozen=True)
class _Stars:
    """Chosen stars: 7x7 stamps, their noise and which pixels count, (n, 7, 7); their columns and rows, (2, n)."""

    values: np.ndarray
    noise: np.ndarray
    use: np.ndarray
    places: np.ndarray

    @classmethod
    def of(cls, frames: list[StarFrame], stars: Table) -> "_Stars":
        parts = []
        for frame in frames:
            x, y = (np.asarray(stars[axis][stars["frame"] == frame.name]) for axis in ("x", "y"))
            images = ((frame.electrons, 0.0), (frame.sigma, 1.0), (frame.usable, False))
            parts.append([cut_stamps(image, y, x, fill, FITTED // 2) for image, fill in images])
        places = np.stack([stars["x"], stars["y"]])
        values, noise, use = (np.concatenate(images) for images in zip(*parts, strict=True))
        return cls(values, noise, use, places)

    def __getitem__(self, rows) -> "_Stars":
        return _Stars(self.values[rows], self.noise[rows], self.use[rows], self.places[:, rows])

    def fit(self, psf: PSF) -> Table:
        """Fit the inner 5x5 pixels."""
        inner = (slice(None), slice(1, -1), slice(1, -1))
        return fit_stamps(self.values[inner], self.noise[inner], self.use[inner], psf, places=self.places)

    def model(self, psf: PSF, fits: Table) -> tuple[np.ndarray, np.ndarray]:
        """Return the stars without their modes, and their variance, (n, 7, 7)."""
        image = psf.images(fits["x_fit"], fits["y_fit"], psf.at(*self.places), size=FITTED)[:, 0]
        light = np.maximum(np.asarray(fits["flux"])[:, None, None] * image, 0)
        variance = self.noise**2 + light + (psf.light_error * light) ** 2
        return light + np.asarray(fits["background"])[:, None, None], variance


def measure_psf(frames: list[StarFrame], fwhm: float) -> MeasuredPSF:
    """Measure the PSF on the stars of some frames.

    Parameters
    ----------
    frames : list of StarFrame
        Of one shape and filter, with names of their own.
    fwhm : float
        About that of the stars, pixels.

    Raises
    ------
    NightError
        Where fewer than `LEAST_STARS` stars can be used, with what was wrong with the others; where stars are trailed.
    """
    listed = vstack([find_stars(frame, fwhm) for frame in frames], metadata_conflicts="silent")
    chosen = np.flatnonzero(listed["reason"] == "")
    _require(listed)
    stars, count = _Stars.of(frames, listed[chosen]), len(chosen)
    errors = ERRORS if len(frames) > 1 and count >= MANY_STARS else FEW_ERRORS
    order = 8 if count >= MOST_STARS else 6 if count >= MANY_STARS else 4
    start = PSF(_best_width(stars, fwhm), GAUSSIAN, *FIRST_ERRORS, frames[0].electrons.shape)

    def rounds(part):
        return _rounds(part, start, order, count >= MANY_STARS, errors)

    psf, odd = rounds(stars)
    listed["reason"][chosen[odd]] = "odd"
    _require(listed)
    if elongation(psf) > MOST_ELONGATION:
        raise NightError(
            f"the stars are trailed: {elongation(psf):.1f} times as long as wide; choose frames of steady tracking"
        )
    listed["chi2"], listed["dof"] = np.full(len(listed), np.nan), np.zeros(len(listed), int)
    listed["residual"] = np.full((len(listed), 5, 5), np.nan)
    kept = np.flatnonzero(~odd)
    for half in (kept[::2], kept[1::2]):
        other, _ = rounds(stars[np.setdiff1d(kept, half)])
        fits = stars[half].fit(other)
        model, variance = stars[half].model(other, fits)
        listed["chi2"][chosen[half]], listed["dof"][chosen[half]] = fits["chi2"], fits["dof"]
        listed["residual"][chosen[half]] = ((stars[half].values - model) / np.sqrt(variance))[:, 1:-1, 1:-1]
    held_out = np.asarray(listed["chi2"])[chosen[kept]] / np.asarray(listed["dof"])[chosen[kept]]
    return MeasuredPSF(psf, order, listed, float(np.median(held_out)))


def _require(stars: Table) -> None:
    """Raise where too few stars are left, saying what was wrong with the others and what to do."""
    reasons = Counter(str(reason) for reason in stars["reason"])
    count = reasons.pop("", 0)
    if count < LEAST_STARS:
        told = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common()) or "none brighter"
        cure = CURES[reasons.most_common(1)[0][0] if reasons else ""]
        raise NightError(
            f"{count} stars of S/N {STAR_SNR:.0f} or more stand alone, {LEAST_STARS} are needed ({told}): {cure}, or "
            "give more frames"
        )


def _best_width(stars: _Stars, fwhm: float) -> float:
    """FWHM of the Gaussian that fits the stars best, from 0.6 to 1.6 times the one that is given."""
    widths = fwhm * 1.05 ** np.arange(-10, 11)
    return float(widths[np.argmin([np.median(stars.fit(PSF(width))["chi2"]) for width in widths])])


def _rounds(stars: _Stars, psf: PSF, order: int, varies: bool, errors) -> tuple[PSF, np.ndarray]:
    """Fit stars and image in turn; return the PSF and which stars are odd."""
    clean = stars.use
    for number in range(1, ROUNDS + 1):
        fits = stars.fit(psf)
        ratio = np.asarray(fits["chi2"]) / np.maximum(fits["dof"], 1)
        odd = ~(ratio <= ODD_CHI2 * np.nanmedian(ratio))
        model, variance = stars.model(psf, fits)
        if number >= 3:
            clean = clean & ((stars.values - model) ** 2 <= ODD_PIXEL**2 * variance)
        kept = stars[~odd]
        solution = _coefficients(kept, (clean / variance)[~odd], fits[~odd], psf, order, varies)
        size, shape, light = errors
        psf = PSF(psf.fwhm, solution, size, shape, light, psf.frame_shape)
    return psf, odd


def _coefficients(stars: _Stars, weights, fits: Table, psf: PSF, order: int, varies: bool) -> np.ndarray:
    """Weighted linear least squares of the stars' light over their flux on the coefficients, a level for each star."""
    flux = np.asarray(fits["flux"])[:, None]
    light, weights = stars.values.reshape(len(flux), -1) / flux, weights.reshape(len(flux), -1) * flux**2
    along_x, along_y = (hermite_profiles(fits[axis], psf.fwhm, order, FITTED) for axis in ("x_fit", "y_fit"))
    pairs = [(i, j) for i in range(order + 1) for j in range(order + 1 - i) if (i, j) not in ((1, 0), (0, 1))]
    terms = np.stack([np.einsum("ny,nx->nyx", along_y[j], along_x[i]).reshape(light.shape) for i, j in pairs])
    if varies:
        terms = np.concatenate([terms, *(offset[:, None] * terms for offset in psf.offsets(*stars.places))])
    total = weights.sum(1)
    terms -= ((weights * terms).sum(2) / total)[..., None]
    root = np.sqrt(weights)
    solution = np.linalg.lstsq((root * terms).reshape(len(terms), -1).T, (root * light).ravel())[0]
    coefficients = np.zeros((3, order + 1, order + 1))
    for k, part in enumerate(np.split(solution, len(solution) // len(pairs))):
        coefficients[k][tuple(np.transpose(pairs))] = part
    coefficients /= coefficients[0, 0, 0]
    coefficients[1:] -= coefficients[1:, :1, :1] * coefficients[0]
    return coefficients


def fine_image(psf: PSF, coefficients, reach: float, size: int) -> np.ndarray:
    """Return what a pixel holds of a star `reach` px to the left to `reach` px to the right of it, (size, size)."""
    steps = np.linspace(-reach, reach, size)
    dx, dy = np.meshgrid(-steps, -steps)
    return psf.images(dx.ravel(), dy.ravel(), coefficients[None], size=1).reshape(size, size)


def elongation(psf: PSF) -> float:
    """How many times as long as wide a star is at half of its peak, as pixels see it, in the middle of the frame."""
    from scipy.ndimage import map_coordinates

    reach, half = 3 * psf.fwhm, 120
    image = fine_image(psf, psf.coefficients[0], reach, 2 * half + 1)
    radius, angle = np.arange(0, half, 0.25), np.pi * np.arange(36)[:, None] / 18
    along = map_coordinates(image, [half + radius * np.sin(angle), half + radius * np.cos(angle)], order=1)
    edge = np.argmax(along < image.max() / 2, axis=1)
    width = edge[:18] + edge[18:]
    return float(width.max() / width.min())
