"""Fixtures that several test modules share."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("untimed")
sys.path.insert(0, str(Path(__file__).parent / "support"))

MARKERS = {"browser": "browser", "real_sessions": "real", "hostile": "slow", "site": "slow"}
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def _environment():
    """A command in this process prepares the environment of those that it starts: later tests do not inherit it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session", autouse=True)
def _nothing_kept():
    """Nights that tests open are not kept in the outputs of this checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sla1tools.night.cache.place_of", lambda parameters: None)
        yield


@pytest.fixture(scope="session")
def real_sessions():
    """The folder of the real night of 20 darks; tests that use it are skipped where it is absent."""
    sessions = SHARED / "data" / "sessions"
    if not sessions.is_dir():
        pytest.skip("the real night is not beside this checkout")
    return sessions


@pytest.fixture
def measured_psf():
    """A PSF as it is measured: neither round nor Gaussian, and not the same all over the frame."""
    from sla1tools.candidates.psf import PSF

    coefficients = np.zeros((3, 5, 5))
    coefficients[0, 0, 0] = 1.0
    coefficients[0, [2, 0, 1, 3], [0, 2, 1, 0]] = 0.06, 0.02, 0.03, 0.02
    coefficients[0, [4, 2, 0], [0, 2, 4]] = 0.09, 0.06, 0.08
    coefficients[1, 2, 0], coefficients[2, 1, 1], coefficients[2, 0, 2] = 0.04, -0.03, 0.02
    return PSF(2.0, coefficients, 0.03, 0.06, 0.03, (64, 64))


def pytest_collection_modifyitems(items):
    """Mark tests by the fixtures that they ask for: a browser, the real night, or what takes its time to make."""
    for item in items:
        for fixture in set(MARKERS) & set(getattr(item, "fixturenames", ())):
            item.add_marker(MARKERS[fixture])
