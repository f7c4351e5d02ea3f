"""A ladder and a cooling series, from the capture folders that a batch finds to the season's page."""

import numpy as np
import pytest
from astropy.io import fits

from sla1tools import __version__
from sla1tools.nights.dark_current import measure_dark_current
from sla1tools.nights.trends import read_nights
from sla1tools.run.batch import nights_of
from sla1tools.run.season import write_trends
from sla1tools.run.workers import CURRENT, Job, run_one
from sla1tools.simulate.night import simulate_night
from sla1tools.text import moment

pytestmark = pytest.mark.slow

SHAPE = (128, 160)
STATES = ((0, -20), (10, -20), (30, -20), (60, -20))
COOLING = (-25, -20, -15)


@pytest.fixture(scope="module")
def season(tmp_path_factory):
    """Captures of one chip, each exposure a folder, and a folder that cools down; all run, without notebooks."""
    root = tmp_path_factory.mktemp("season")
    sessions, outputs = root / "sessions", root / "outputs"
    kinds = {"frames": 6, "shape": SHAPE, "chip_seed": 8}
    for number, (exposure, heat) in enumerate(STATES):
        folder = sessions / "2024-05-08" / f"0{number}_00_00" / f"Dark{exposure}s"
        simulate_night(folder, seed=number, exposure=exposure, temperature=heat, **kinds)
    series = sessions / "2024-05-09" / "00_00_00" / "Dark20s"
    series.mkdir(parents=True)
    for number, heat in enumerate(COOLING):
        for path in simulate_night(root / f"made{number}", seed=10 + number, exposure=20, temperature=heat, **kinds):
            path.rename(series / f"{number}{path.name}")
    choices = [("frame_shape", f"[{SHAPE[0]}, {SHAPE[1]}]"), ("injections", "50")]
    nights = nights_of([], sessions, [], choices)
    for night in nights:
        outcome = run_one(Job(night, outputs, False, moment(), __version__, "", notebooks=()))
        assert outcome.verdict != "failed", outcome.reasons
    return nights, outputs, write_trends(outputs)


def test_every_state_is_a_night(season):
    nights, outputs, _ = season
    assert len(nights) == len(STATES) + len(COOLING)
    assert sorted(night.dark_exposure for night in nights) == [0, 10, 20, 20, 20, 30, 60]
    found = sorted(path.parent.name for path in outputs.glob("2024-05-09/*/*/manifest.json"))
    assert found == ["Dark20s_20s_-15C", "Dark20s_20s_-20C", "Dark20s_20s_-25C"]


def test_dark_current_is_measured_from_what_was_published(season):
    _, outputs, page = season
    found = measure_dark_current(read_nights(outputs), outputs)
    assert len(found.captures) == 7
    rate = 1000 / 30 * 2 ** ((found.temperature + 20) / 6)
    assert found.values["electrons_per_second"].value == pytest.approx(rate, rel=0.02)
    assert found.values["doubling_kelvin"].value == pytest.approx(6, rel=0.05)
    truth = {"electrons_per_second": rate, "doubling_kelvin": 6, "gain": 1.39 / 16, "pedestal": 300}
    for name, value in truth.items():
        assert found.values[name].low < value < found.values[name].high
    with fits.open(outputs / "dark_current.fits") as hdus:
        assert np.nanmedian(hdus["RATE"].data) == pytest.approx(rate, rel=0.02)
        assert np.nanmedian(hdus["PEDESTAL"].data) == pytest.approx(300, rel=0.02)
    assert "7 captures of one chip" in page.read_text(encoding="utf-8")
    assert "doubling temperature" in page.read_text(encoding="utf-8")


def test_what_was_run_is_current(season):
    nights, outputs, _ = season
    again = [run_one(Job(night, outputs, False, moment(), __version__, "", notebooks=())) for night in nights]
    assert {outcome.verdict for outcome in again} == {CURRENT}
