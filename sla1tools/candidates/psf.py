"""A star's image: a pixel-integrated Gaussian and, where stars were measured, what they add to it.

The image is a Gauss-Hermite series, ``sum c_ij D_i(x) D_j(y)``, with ``D_i`` the pixel-integrated i-th derivative of a
Gaussian with the star's position, times ``sigma**i / sqrt(i!)``. The coefficients are linear over the field; c_00 is 1
(unit light), c_10 and c_01 are 0 (they would move the star). No image is exact: a little more or less blur adds, to
first order and whatever the image, its second derivatives. They are the three modes, each with a 1-sigma prior.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from sla1tools.candidates.leaders import STAMP_SIZE

GAUSSIAN = np.array([1.0, 0.0, 0.0]).reshape(3, 1, 1)
GAUSSIAN_ERROR = 0.10
MOST_ORDER = 8


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
    """

    fwhm: float
    coefficients: np.ndarray = field(default_factory=lambda: GAUSSIAN, repr=False)
    size_error: float = 0.0
    shape_error: float = 0.0
    light_error: float = 0.0
    frame_shape: tuple[int, int] = (1, 1)

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
        product = along_y.swapaxes(1, 2) @ (coefficients.swapaxes(1, 2) @ along_x)

        def image(by_x, by_y):
            return product[:, by_y * size : (by_y + 1) * size, by_x * size : (by_x + 1) * size]

        images = np.empty((len(product), (1, 3, 6)[order], size, size))
        images[:, 0] = image(0, 0)
        if order >= 1:
            images[:, 1] = image(1, 0) / sigma_of(self.fwhm)
            images[:, 2] = image(0, 1) / sigma_of(self.fwhm)
        if order == 2:
            images[:, 3] = image(2, 0) + image(0, 2)
            images[:, 4] = image(2, 0) - image(0, 2)
            images[:, 5] = 2 * image(1, 1)
        return images

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


def as_psf(psf) -> PSF:
    """Return a PSF; a number is the FWHM, in pixels, of a round Gaussian that is known exactly."""
    return psf if isinstance(psf, PSF) else gaussian(float(psf))
