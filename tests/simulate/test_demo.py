"""The demo night: made once, whole, and nowhere else than where the defaults say."""

import threading

import pytest

from sla1tools.parameters import Parameters
from sla1tools.simulate import night as demo


@pytest.fixture
def small_demo(tmp_path, monkeypatch):
    """Let the demo night be simulated small, below a temporary checkout."""
    simulated = []
    simulate = demo.simulate_night

    def small(folder, shape, seed):
        simulated.append((folder, shape, seed))
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
    assert small_demo == [(folder, (2048, 2048), 20240508)]
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
