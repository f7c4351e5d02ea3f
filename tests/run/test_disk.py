"""Disks that fail and folders that must not be written: a clear message, and the earlier outputs as they were."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_nights import parameters_of

from sla1tools import cli
from sla1tools.parameters import to_yaml
from sla1tools.run import night as night_module
from sla1tools.simulate.night import simulate_night

PROGRAM = Path(__file__).parents[1].joinpath("support", "starved_runs.py")


@pytest.mark.skipif(sys.platform != "linux", reason="limits and mounts are Linux's")
@pytest.mark.slow
def test_runs_on_a_disk_that_is_full(tmp_path):
    apart = ["unshare", "--map-root-user", "--mount"]  # may mount, and what it mounted is gone with it
    probe = [*apart, "mount", "-t", "tmpfs", "none", str(tmp_path)]
    can = shutil.which("unshare") is not None and subprocess.run(probe, capture_output=True).returncode == 0
    command = [sys.executable, PROGRAM, tmp_path]
    if can:
        command = [*apart, *command, "apart"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    cases = {case["case"]: case for case in map(json.loads, run.stdout.splitlines())}
    assert cases.pop("two at once")["status"] == [0, 75]
    assert len(cases) == 10 + 3 * can
    for name, case in cases.items():
        assert case["kept"], name
        assert set(case["left"]) <= {f".failed/2024-05-08/03_38_48/Dark30s/{kept}" for kept in KEPT} | {"ballast"}, name
        assert "Traceback" not in case["said"]
        if name == "read-only":
            assert case["status"] == 2
            assert case["said"].endswith("small disk: cannot be used for outputs: Read-only file system\n")
        else:
            assert case["status"] == 1
            reason = "No space left on device" if "free" in name else "File too large"
            assert re.search(
                rf"failed: (/.*/Dark30s: |good.ipynb: .*){reason}\nsla1: the night failed; earlier outputs are untouch",
                case["said"],
            )
    if not can:
        pytest.skip("all but a disk that is really full: none can be mounted here")


KEPT = ("manifest.json", "summary.json", "good.ipynb")


@pytest.fixture
def night(tmp_path, monkeypatch):
    """A small night's parameters; runs are without notebooks."""
    run_night = night_module.run_night
    monkeypatch.setattr(
        night_module, "run_night", lambda *told, **options: run_night(*told, **options | {"notebooks": ()})
    )
    parameters = parameters_of(tmp_path / "sessions", (48, 56), injections=50)
    simulate_night(parameters.capture_directory, frames=5, shape=(48, 56))
    (tmp_path / "night.yaml").write_text(to_yaml(parameters), encoding="utf-8")
    return parameters


def sources(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def run(tmp_path, outputs, command="run"):
    return CliRunner().invoke(cli.main, [command, str(tmp_path / "night.yaml"), "--outputs", str(outputs)])


@pytest.mark.parametrize("command", ["run", "batch"])
@pytest.mark.parametrize("link", [False, True], ids=["itself", "a link to it"])
@pytest.mark.parametrize("inside", [".", "2024-05-08/03_38_48/Dark30s", "2024-05-08/03_38_48/Dark30s/out"])
def test_outputs_among_the_raw_files_are_refused(night, tmp_path, inside, link, command):
    """Outputs equal to the sessions folder would put the night in the place of its own raw files."""
    sessions = tmp_path / "sessions"
    if link and os.name != "posix":
        pytest.skip("links need a privilege on Windows")
    if link:
        (tmp_path / "linked").symlink_to(sessions, target_is_directory=True)
    before = sources(tmp_path)
    result = run(tmp_path, (tmp_path / "linked" if link else sessions) / inside, command)
    assert result.exit_code == 2
    assert f"would mix the night's outputs with its raw files in {night.capture_directory}" in result.stderr
    assert sources(tmp_path) == before


@pytest.mark.slow
def test_outputs_beside_the_raw_files_leave_them_alone(night, tmp_path):
    before = sources(tmp_path / "sessions")
    outputs = tmp_path / "sessions" / "outputs"
    assert run(tmp_path, outputs).exit_code == 0
    assert {
        path: bytes_ for path, bytes_ in sources(tmp_path / "sessions").items() if outputs not in path.parents
    } == before


def test_known_pixels_that_cannot_be_read_stop_a_run_before_it_reads(night, tmp_path, monkeypatch):
    monkeypatch.setattr(night_module, "measure_night", lambda *_: pytest.fail("read"))
    arguments = [
        "run",
        tmp_path / "night.yaml",
        "--outputs",
        tmp_path / "o",
        "-p",
        "known_pixels",
        tmp_path / "none.fits",
    ]
    result = CliRunner().invoke(cli.main, list(map(str, arguments)))
    assert result.exit_code == 2
    assert "\nsla1: known_pixels: " in result.stderr
    assert not os.path.lexists(tmp_path / "o")
