"""A PSF as it is measured: neither round nor Gaussian, and not the same all over the frame."""

import numpy as np
import pytest

from sla1tools.candidates.psf import PSF


@pytest.fixture
def measured_psf():
    coefficients = np.zeros((3, 5, 5))
    coefficients[0, 0, 0] = 1.0
    coefficients[0, [2, 0, 1, 3], [0, 2, 1, 0]] = 0.06, 0.02, 0.03, 0.02
    coefficients[0, [4, 2, 0], [0, 2, 4]] = 0.09, 0.06, 0.08
    coefficients[1, 2, 0], coefficients[2, 1, 1], coefficients[2, 0, 2] = 0.04, -0.03, 0.02
    return PSF(2.0, coefficients, 0.03, 0.06, 0.03, (64, 64))
