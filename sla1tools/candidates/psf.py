"""A star's image: a pixel-integrated Gaussian and, where stars were measured, what they add to it.

The image is a Gauss-Hermite series, ``sum c_ij D_i(x) D_j(y)``, with ``D_i`` the pixel-integrated i-th derivative of a
Gaussian with the star's position, times ``sigma**i / sqrt(i!)``. The coefficients are linear over the field; c_00 is 1
(unit light), c_10 and c_01 are 0 (they would move the star). No image is exact: a little more or less blur adds, to
first order and whatever the image, its second derivatives. They are the three modes, each with a 1-sigma prior.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, Field, PositiveInt, ValidationError

from sla1tools.candidates.leaders import STAMP_SIZE
from sla1tools.errors import ParametersError
from sla1tools.places import from_working_folder, missing
from sla1tools.text import read_regular

GAUSSIAN = np.array([1.0, 0.0, 0.0]).reshape(3, 1, 1)
GAUSSIAN_ERRORS = (0.10, 0.10, 0.10)
ERROR_NAMES = ("size", "shape", "light")
MOST_ORDER = 8
MOST_BYTES = 2**20  # of a PSF's file


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
    along_x, along_y = (hermite_profiles(offset, fwhm, 0, size)[0] for offset in (dx, dy))
    return along_y[:, :, None] * along_x[:, None, :]


def hermite_profiles(offset, fwhm, order, size=STAMP_SIZE):
    """Integrate the normalised derivatives of one-dimensional Gaussians over pixels.

    Parameters
    ----------
    offset : scalar or (n,) array
        Of the star from the middle of the centre pixel, in pixels.
    fwhm : scalar or (n,) array
        Of the Gaussian before it is integrated, in pixels.
    order : int
        Of the highest derivative.
    size : int
        Pixels.

    Returns
    -------
    profiles : (order + 1, ..., size) array
        Derivatives with the star's position, the i-th times ``sigma**i / sqrt(i!)``.
    """
    from scipy.special import erf

    edge = np.arange(size + 1) - size / 2
    edge = (edge - np.asarray(offset)[..., None]) / sigma_of(np.asarray(fwhm)[..., None])
    below = np.empty((order + 1, *edge.shape))
    below[0] = 0.5 * erf(edge / np.sqrt(2))
    if order:
        below[1] = -np.exp(-0.5 * edge**2) / np.sqrt(2 * np.pi)
    for i in range(2, order + 1):
        below[i] = (edge * below[i - 1] - (i - 2) / np.sqrt(i - 1) * below[i - 2]) / np.sqrt(i)
    return below[..., 1:] - below[..., :-1]


def sigma_of(fwhm):
    """Standard deviation of a Gaussian of this full width at half maximum."""
    return fwhm / np.sqrt(8 * np.log(2))


@dataclass(frozen=True, eq=False)
class PSF:
    """The image of a star anywhere in the field, and how well it is known.

    Attributes
    ----------
    fwhm : float
        Of the Gaussian that the series begins with, pixels.
    coefficients : (3, m, m) array
        c_ij in the middle of the field, and what they gain per half width along x and per half height along y.
    size_error, shape_error, light_error : float
        1-sigma priors: of the relative width, of the elongation along and between the axes, and of a pixel's light as a
        share of it. 0: known exactly.
    frame_shape : (int, int)
        Rows and columns of the field.
    camera : str
        On whose frames it was measured; '' where that is not known.
    """

    fwhm: float
    coefficients: np.ndarray = field(default_factory=lambda: GAUSSIAN, repr=False)
    size_error: float = 0.0
    shape_error: float = 0.0
    light_error: float = 0.0
    frame_shape: tuple[int, int] = (1, 1)
    camera: str = ""

    @property
    def varies(self) -> bool:
        """Whether stars look different over the field."""
        return bool(self.coefficients[1:].any())

    @property
    def mode_errors(self) -> tuple[float, float, float]:
        """Priors of the three modes."""
        return self.size_error, self.shape_error, self.shape_error

    def at(self, x, y) -> np.ndarray:
        """Return the coefficients c_ij at places of the frame, (n, m, m); (1, m, m) where they do not vary."""
        if not self.varies:
            return self.coefficients[:1]
        offset_x, offset_y = self.offsets(x, y)[..., None, None]
        return self.coefficients[0] + offset_x * self.coefficients[1] + offset_y * self.coefficients[2]

    def over_field(self) -> np.ndarray:
        """Return the coefficients in the middle of the frame and, where they vary, at its corners, (1 or 5, m, m)."""
        ny, nx = self.frame_shape
        return self.at(np.array([0.5, 0, 1, 0, 1]) * (nx - 1), np.array([0.5, 0, 0, 1, 1]) * (ny - 1))

    def offsets(self, x, y) -> np.ndarray:
        """Return places as offsets from the frame's middle, -1 to 1 from edge to edge, (2, n)."""
        ny, nx = self.frame_shape
        return np.stack([2 * (np.asarray(x) + 0.5) / nx - 1, 2 * (np.asarray(y) + 0.5) / ny - 1])

    def images(self, dx, dy, coefficients=None, order=0, size=STAMP_SIZE) -> np.ndarray:
        """Integrate stars of unit light over the pixels of their stamps.

        Parameters
        ----------
        dx, dy : (n,) arrays
            Where the stars are, from the middle of the centre pixel, in pixels.
        coefficients : (n, m, m) or (1, m, m) array, optional
            As from `at`; those of the frame's middle if none.
        order : {0, 1, 2}
            What to give besides the image: 1 its slopes, 2 the modes too.
        size : int
            Odd side of the stamp, pixels.

        Returns
        -------
        images : (n, 1, 3 or 6, size, size) array
            P; dP/dx and dP/dy of the star's position; M1 = s (Pxx + Pyy), M2 = s (Pxx - Pyy), M3 = 2 s Pxy, with s the
            Gaussian's variance.
        """
        if coefficients is None:
            coefficients = self.coefficients[:1]
        along_x, along_y = self._derivatives(np.stack([dx, dy]), order, size)
        weighted = coefficients.swapaxes(1, 2) @ along_x

        def image(by_x, by_y):
            x, y = weighted[..., by_x * size : (by_x + 1) * size], along_y[..., by_y * size : (by_y + 1) * size]
            return y.swapaxes(1, 2) @ x

        images = np.empty((len(along_x), (1, 3, 6)[order], size, size))
        images[:, 0] = image(0, 0)
        if order >= 1:
            images[:, 1:3] = np.stack([image(1, 0), image(0, 1)], axis=1) / sigma_of(self.fwhm)
        if order == 2:
            along, across = image(2, 0), image(0, 2)
            images[:, 3], images[:, 4] = along + across, along - across
            images[:, 5] = 2 * image(1, 1)
        return images

    def stars(self, dx, dy, modes=None, coefficients=None, size=STAMP_SIZE) -> np.ndarray:
        """Return stars of unit light with some of each mode, never below 0, (n, size, size).

        Parameters
        ----------
        dx, dy, coefficients, size
            As for `images`.
        modes : (n, 3) array, optional
            How much of each mode; none of any if not given.
        """
        images = self.images(dx, dy, coefficients, 0 if modes is None else 2, size)
        light = images[:, 0]
        if modes is not None:
            light = light + np.einsum("nk,nkyx->nyx", modes, images[:, 3:])
        return np.maximum(light, 0)

    def draw_modes(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw how much of each mode n stars have, (n, 3), from their priors."""
        return rng.normal(size=(n, 3)) * self.mode_errors

    def _derivatives(self, offset, order, size) -> np.ndarray:
        """Return every D_i, and its first derivatives times sigma**k, (2, n) offsets to (2, n, m, (order + 1) size)."""
        m = self.coefficients.shape[1]
        profiles = np.moveaxis(hermite_profiles(offset, self.fwhm, m - 1 + order, size), 0, 2)
        i = np.arange(m)[:, None]
        derivatives = np.empty((*offset.shape, m, order + 1, size))
        derivatives[..., 0, :] = profiles[:, :, :m]
        if order >= 1:
            np.multiply(profiles[:, :, 1 : m + 1], np.sqrt(i + 1), out=derivatives[..., 1, :])
        if order == 2:
            np.multiply(profiles[:, :, 2:], np.sqrt((i + 1) * (i + 2)), out=derivatives[..., 2, :])
        return derivatives.reshape(*offset.shape, m, -1)


@lru_cache(maxsize=8)
def gaussian(fwhm: float) -> PSF:
    """Return a round Gaussian that is known exactly."""
    return PSF(fwhm)


def psf_of(parameters) -> PSF:
    """Return the PSF that parameters name: their file's, else a Gaussian of `seeing_fwhm` that may be 10 % wrong.

    Raises
    ------
    ParametersError
        If the file cannot be read, is no file of `sla1 psf`, or was measured on frames of another shape.
    """
    text = None
    if parameters.psf is not None:
        path = from_working_folder(parameters.psf)
        try:
            text = read_regular(path, MOST_BYTES)
        except FileNotFoundError:
            raise ParametersError(f"psf: {path}: {missing(path)}") from None
        except OSError as error:
            raise ParametersError(f"psf: {path} cannot be read: {error.strerror}") from None
    overridden = tuple(getattr(parameters, f"psf_{name}_error") for name in ERROR_NAMES)
    return _psf(text, parameters.psf, parameters.fwhm, parameters.frame_shape, overridden)


@lru_cache(maxsize=8)
def _psf(text: bytes | None, path: str | None, fwhm: float, frame_shape: tuple[int, int], overridden: tuple) -> PSF:
    psf = PSF(fwhm, GAUSSIAN, *GAUSSIAN_ERRORS, frame_shape) if text is None else _from_json(text, path)
    if psf.frame_shape != frame_shape:
        raise ParametersError(
            f"psf: {path} was measured on frames of {list(psf.frame_shape)}, the night's are {list(frame_shape)}: "
            "measure it on star frames of this camera and binning (sla1 psf)"
        )
    named = zip(ERROR_NAMES, overridden, strict=True)
    errors: dict[str, Any] = {f"{name}_error": float(error) for name, error in named if error is not None}
    return replace(psf, **errors)


def _require_series(coefficients: list) -> list:
    three, rows, columns = np.shape(coefficients)
    if three != 3 or not 1 <= rows == columns <= MOST_ORDER + 1:
        raise ValueError(f"three square arrays of order {MOST_ORDER} at most are wanted")
    first = np.array(coefficients)[:, :2, :2]
    if first[:, 0, 0].tolist() != [1, 0, 0] or first[:, 1:, 0].any() or first[:, 0, 1:].any():
        raise ValueError("c_00 is 1, c_10 and c_01 are 0, all over the field")
    return coefficients


Share = Annotated[float, Field(ge=0, le=1)]
Term = Annotated[float, Field(gt=-10, lt=10)]


class _Errors(BaseModel):
    size: Share
    shape: Share
    light: Share


class _File(BaseModel):
    """What counts of a file of `sla1 psf`."""

    fwhm: Annotated[float, Field(ge=0.3, le=10)]
    coefficients: Annotated[list[list[list[Term]]], AfterValidator(_require_series)]
    errors: _Errors
    frame_shape: tuple[PositiveInt, PositiveInt]
    camera: Annotated[str, Field(max_length=80)] = ""


def _from_json(text: bytes, path: str | None) -> PSF:
    try:
        file = _File.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        what = " ".join(map(str, (*first["loc"], first["msg"])))
        raise ParametersError(f"psf: {path} is no file of sla1 psf ({what}): measure it again") from None
    errors = file.errors
    series = np.array(file.coefficients)
    return PSF(file.fwhm, series, errors.size, errors.shape, errors.light, file.frame_shape, file.camera)


def as_psf(psf) -> PSF:
    """Return a PSF; a number is the FWHM, in pixels, of a round Gaussian that is known exactly."""
    return psf if isinstance(psf, PSF) else gaussian(float(psf))
