"""The demo night: made once, whole, and nowhere else than where the defaults say."""

import threading

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from sla1tools.frames.sessions import find_nights
from sla1tools.injections.operating_point import too_few
from sla1tools.parameters import Parameters
from sla1tools.simulate import field
from sla1tools.simulate import night as demo


@pytest.fixture
def small_demo(tmp_path, monkeypatch):
    """Let the demo night be simulated small, below a temporary checkout."""
    simulated = []
    simulate = demo.simulate_night

    def small(folder, frames, shape, seed):
        simulated.append((folder, frames, shape, seed))
        simulate(folder, frames=3, shape=(48, 48), seed=seed)

    monkeypatch.setattr(demo, "simulate_night", small)
    monkeypatch.setenv("SLA1_HOME", str(tmp_path))
    return simulated


def test_many_programs_simulate_it_once(small_demo):
    threads = [threading.Thread(target=demo.ensure_demo_night, args=(Parameters(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    folder = Parameters().capture_directory
    assert small_demo == [(folder, 12, (2048, 2048), 20240508)]
    assert too_few(12, Parameters().false_alarm_budget) == ""
    assert (folder / "truth.ecsv").is_file()
    assert demo.ensure_demo_night(Parameters()) is False


def test_interrupted_simulation_is_made_again(small_demo):
    assert demo.ensure_demo_night(Parameters()) is True
    folder = Parameters().capture_directory
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "truth.ecsv").unlink()
    (folder / "00003.fits").unlink()
    assert demo.ensure_demo_night(Parameters()) is True
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_other_nights_are_left_alone(small_demo, tmp_path):
    assert demo.ensure_demo_night(Parameters(sessions_directory=str(tmp_path / "mine"))) is False
    assert not small_demo


def test_frames_of_stars_are_the_same_cameras_and_no_night_of_darks(tmp_path):
    dark, *_ = demo.simulate_night(tmp_path / "a" / "b" / "Dark30s", frames=1, shape=(200, 200), seed=5)
    paths = field.simulate_field(tmp_path / "a" / "c" / "Field30s", (200, 200), seed=5)
    assert [path.parent.name for path in find_nights(tmp_path)] == ["b"]
    truth = Table.read(paths[0].with_name(demo.TRUTH_NAME))
    scale, counts = truth.meta["scale"], [fits.getdata(path).astype(float) for path in (dark, *paths)]
    for k, frame in enumerate(counts[1:]):
        above, stars = (frame - counts[0]) * scale, truth[truth["frame"] == k]
        assert np.median(above) == pytest.approx(field.SKY, rel=0.02)
        star = min(stars, key=lambda star: abs(star["value"] - 8000))
        y, x = (slice(star[axis] - 2, star[axis] + 3) for axis in ("y", "x"))
        assert (above[y, x] - field.SKY).sum() == pytest.approx(0.88 * star["value"], rel=0.12)
    hot = counts[0] > counts[0].mean() + 8 * np.median(np.abs(counts[0] - np.median(counts[0])))
    assert counts[1][hot].mean() > counts[1].mean() + 100 / scale


def test_a_star_holds_its_light_and_is_as_long_and_wide_as_said():
    image = field.moffat(0.3, -0.2)
    assert 0.95 < image.sum() < 1
    y, x = np.indices(image.shape) - 7
    assert (image * x).sum() / image.sum() == pytest.approx(0.3, abs=0.02)
    assert (image * y).sum() / image.sum() == pytest.approx(-0.2, abs=0.02)
    wide, narrow = (field.moffat(0.0, 0.0, fwhm=4.0, elongation=ratio) for ratio in (1.5, 1.0))
    np.testing.assert_allclose(narrow, narrow.T)
    assert wide[7, 9] > 1.2 * wide[9, 7]
    by_axis = [np.interp(0.5, line[:7:-1] / line[7], np.arange(7, 0, -1)) for line in (wide[7], wide[:, 7])]
    assert by_axis[0] / by_axis[1] == pytest.approx(1.5, rel=0.1)
