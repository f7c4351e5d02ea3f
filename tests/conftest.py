"""Fixtures that several test modules share."""

import sys
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("untimed")
sys.path.insert(0, str(Path(__file__).parent / "support"))

MARKERS = {"browser": "browser", "real_sessions": "real", "hostile": "slow", "site": "slow"}
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def real_sessions():
    """The folder of the real night of 20 darks; tests that use it are skipped where it is absent."""
    sessions = SHARED / "data" / "sessions"
    if not sessions.is_dir():
        pytest.skip("the real night is not beside this checkout")
    return sessions


def pytest_collection_modifyitems(items):
    """Mark tests by the fixtures that they ask for: a browser, the real night, or what takes its time to make."""
    for item in items:
        for fixture in set(MARKERS) & set(getattr(item, "fixturenames", ())):
            item.add_marker(MARKERS[fixture])
