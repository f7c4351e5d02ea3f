import numpy as np
import pytest
from photutils.psf import CircularGaussianPRF

from sla1tools.candidates.psf import PSF, hermite_profiles, pixel_integrated_gaussian, sigma_of


@pytest.mark.parametrize("fwhm", [0.5, 1.2, 2.0, 5.0])
def test_gaussian_is_that_of_photutils(fwhm):
    dx, dy = np.random.default_rng(1).uniform(-1, 1, (2, 20))
    ours = pixel_integrated_gaussian(dx, dy, fwhm, size=7)
    y, x = np.mgrid[-3:4, -3:4]
    for star, x_0, y_0 in zip(ours, dx, dy, strict=True):
        np.testing.assert_allclose(star, CircularGaussianPRF(flux=1.0, x_0=x_0, y_0=y_0, fwhm=fwhm)(x, y), atol=1e-12)


def test_gaussian_takes_one_width_a_star_and_loses_no_flux():
    widths = np.array([0.7, 2.0, 4.0])
    stars = pixel_integrated_gaussian(0.3, [-0.4, 0.0, 0.4], widths, size=41)
    np.testing.assert_allclose(stars.sum((1, 2)), 1.0, rtol=1e-9)
    np.testing.assert_array_equal(stars[1:2], pixel_integrated_gaussian(0.3, 0.0, 2.0, size=41))
    assert stars[0, 20, 21] > stars[0, 20, 19], "x is the column"
    assert stars[0, 19, 20] > stars[0, 21, 20], "y is the row"


@pytest.mark.parametrize("order", range(1, 11))
def test_profiles_are_the_derivatives_of_the_gaussian(order):
    offset, step = np.linspace(-1.2, 1.2, 7), 1e-4
    lower, upper = (hermite_profiles(offset + move, 1.9, order, 7)[order - 1] for move in (-step, step))
    slope = sigma_of(1.9) / np.sqrt(order) * (upper - lower) / (2 * step)
    np.testing.assert_allclose(hermite_profiles(offset, 1.9, order, 7)[order], slope, atol=1e-7)


@pytest.mark.parametrize("fwhm", [0.5, 2.0, 5.0])
def test_without_coefficients_the_image_is_the_gaussian_to_the_bit(fwhm):
    dx, dy = np.random.default_rng(2).uniform(-1, 1, (2, 50))
    np.testing.assert_array_equal(PSF(fwhm).images(dx, dy, size=7)[:, 0], pixel_integrated_gaussian(dx, dy, fwhm, 7))


def test_slopes_and_modes_are_derivatives_of_the_image(measured_psf):
    dx, dy = np.random.default_rng(3).uniform(-1, 1, (2, 20))
    place = measured_psf.at(*np.random.default_rng(4).uniform(0, 63, (2, 20)))
    variance, step = sigma_of(measured_psf.fwhm) ** 2, 1e-3

    def at(x, y):
        return measured_psf.images(dx + x * step, dy + y * step, place)[:, 0]

    by_x, by_y = (at(1, 0) - at(-1, 0)) / (2 * step), (at(0, 1) - at(0, -1)) / (2 * step)
    xx, yy = ((at(x, y) - 2 * at(0, 0) + at(-x, -y)) / step**2 for x, y in ((1, 0), (0, 1)))
    xy = (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / (4 * step**2)
    expected = at(0, 0), by_x, by_y, variance * (xx + yy), variance * (xx - yy), 2 * variance * xy
    np.testing.assert_allclose(measured_psf.images(dx, dy, place, order=2), np.stack(expected, axis=1), atol=2e-6)


def test_the_image_is_the_sum_of_its_terms(measured_psf):
    x, y = 10.0, 50.0
    sums = np.zeros((5, 5))
    along_x, along_y = hermite_profiles(np.array([0.3, -0.2]), measured_psf.fwhm, 4).swapaxes(0, 1)
    offset = np.array([1.0, 2 * (x + 0.5) / 64 - 1, 2 * (y + 0.5) / 64 - 1])
    for (i, j), _ in np.ndenumerate(measured_psf.coefficients[0]):
        sums += offset @ measured_psf.coefficients[:, i, j] * np.outer(along_y[j], along_x[i])
    image = measured_psf.images(np.array([0.3]), np.array([-0.2]), measured_psf.at(np.array([x]), np.array([y])))
    np.testing.assert_allclose(image[0, 0], sums, atol=1e-12)


def test_a_mode_is_what_blur_does_to_first_order():
    blurred = pixel_integrated_gaussian(0.1, 0.2, 2.0 * 1.001)
    image, _, _, wider, *_ = PSF(2.0).images(np.array([0.1]), np.array([0.2]), order=2)[0]
    np.testing.assert_allclose(blurred[0], image + 0.001 * wider, atol=1e-6)
