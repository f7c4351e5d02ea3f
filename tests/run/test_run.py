"""One night from parameters to published folder: what goes where when all is well, and when something fails."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import kernels_of

from sla1tools.errors import BusyError, NightError, ParametersError, Reason
from sla1tools.frames.capture import Rejected
from sla1tools.parameters import Parameters
from sla1tools.published import MARK
from sla1tools.published.formats import INDEX
from sla1tools.run import night as night_module
from sla1tools.run import publishing as publish
from sla1tools.run.night import run_night
from sla1tools.run.products import SUMMARY_KEYS

PARAMETERS = Parameters(object_name="Dark {30s} 'é'")
NOTEBOOKS = Path(__file__).parents[1] / "support" / "notebooks"
GOOD, RAISES, HANGS = (NOTEBOOKS / f"{name}.ipynb" for name in ("good", "raises", "hangs"))


def sources(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def write_some_products(measurement, directory, published=None):
    (directory / "leaders.fits").write_text("leaders")
    (directory / "summary.json").write_text(json.dumps(measurement.summary))


@pytest.fixture
def made_up_night(monkeypatch):
    """Measure nothing, and write two products."""
    capture = SimpleNamespace(
        camera=None, frames=(), rejected=(Rejected("00001.fits", Reason.EMPTY, "no bytes"),), ignored=("a",)
    )
    summary = dict.fromkeys(SUMMARY_KEYS) | {"verdict": "degraded", "reasons": ["1 frame rejected: empty"]}
    measurement = SimpleNamespace(capture=capture, summary=summary, doubts=())

    def measure(parameters, progress):
        progress("night measured")
        return measurement

    monkeypatch.setattr(night_module, "measure_night", measure)
    monkeypatch.setattr(night_module, "write_products", write_some_products)
    monkeypatch.setattr(night_module, "require_capture", lambda parameters: None)


@pytest.mark.parametrize("side_by_side", [True, False])
@pytest.mark.slow
def test_published_folder_is_complete(tmp_path, made_up_night, side_by_side):
    steps = []
    before = sources(NOTEBOOKS)
    result = run_night(PARAMETERS, tmp_path, [GOOD], side_by_side=side_by_side, progress=steps.append)
    assert (result.verdict, result.reasons) == ("degraded", ("1 frame rejected: empty",))
    assert result.directory == tmp_path / "2024-05-08" / "03_38_48" / "Dark {30s} 'é'"
    assert steps == ["night measured", *night_module.STEPS[5:]]
    files = sources(result.directory)
    manifest = json.loads(files.pop("manifest.json"))
    assert set(files) == {"good.ipynb", "good.html", "index.html", "leaders.fits", "summary.json"}
    assert set(manifest["outputs"]) == set(files)
    assert manifest["parameters"] == PARAMETERS.model_dump(mode="json")
    assert manifest["inputs"][0] == {
        "name": "00001.fits",
        "verdict": "rejected",
        "reason": "empty",
        "detail": "no bytes",
        "sha256": None,
    }
    assert (manifest["verdict"], manifest["exit_status"], manifest["random_seed"]) == ("degraded", 0, 20240508)
    assert manifest["start"] <= manifest["end"]
    assert b"measurement found: True" in files["good.ipynb"]
    assert not any(b".staging" in contents for contents in files.values())
    assert b"A dot" in files["index.html"]
    assert sources(NOTEBOOKS) == before
    assert not list((tmp_path / publish.STAGING).rglob("*.*"))


@pytest.mark.slow
def test_failing_notebook_leaves_the_good_night_and_keeps_the_partial_one(tmp_path, made_up_night):
    good = run_night(PARAMETERS, tmp_path, [GOOD]).directory
    before = sources(good)
    result = run_night(PARAMETERS, tmp_path, [GOOD, RAISES])
    assert result.verdict == "failed"
    assert "raises.ipynb: cell 3" in result.reasons[0]
    assert sources(good) == before
    assert result.directory == tmp_path / publish.FAILED / good.relative_to(tmp_path)
    files = sources(result.directory)
    assert set(files) == {"good.ipynb", "raises.ipynb", "summary.json", "manifest.json"}
    manifest, summary = (json.loads(files[name]) for name in ("manifest.json", "summary.json"))
    assert manifest["verdict"] == summary["verdict"] == "failed"
    assert manifest["reasons"] == summary["reasons"] == list(result.reasons)
    assert manifest["exit_status"] == 1


@pytest.mark.slow
def test_hanging_notebook_is_ended(tmp_path, made_up_night):
    assert "longer than 1 s" in run_night(PARAMETERS, tmp_path, [HANGS], timeout=1).reasons[0]


def test_unusable_night_is_recorded_and_raised(tmp_path):
    parameters = Parameters(sessions_directory=str(tmp_path / "sessions"))
    parameters.capture_directory.mkdir(parents=True)
    with pytest.raises(NightError, match="0 usable frames"):
        run_night(parameters, tmp_path / "outputs")
    failed = tmp_path / "outputs" / publish.FAILED / publish.night_path(parameters)
    manifest = json.loads((failed / "manifest.json").read_text())
    assert (manifest["verdict"], manifest["exit_status"], manifest["inputs"]) == ("failed", 3, [])


@pytest.mark.slow
def test_kernels_that_wait_for_a_measurement_end_where_it_fails(tmp_path, made_up_night, monkeypatch):
    def measure(parameters, progress):
        progress("frames judged")
        staging = tmp_path / publish.STAGING / publish.night_path(parameters)
        while not any(staging.glob("run-*/night/good.ipynb")):
            time.sleep(0.02)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(night_module, "measure_night", measure)
    result = run_night(PARAMETERS, tmp_path, [GOOD])
    assert result.verdict == "failed"
    assert result.reasons[0].endswith(os.strerror(errno.EIO))
    partial = (result.directory / "good.ipynb").read_bytes()
    assert not [word for word in (b"measurement found: True", b"measurement found: False") if word in partial]
    assert not kernels_of()


def test_an_unusable_night_starts_no_kernel(tmp_path, monkeypatch):
    monkeypatch.setattr(night_module._NotebookRun, "start", lambda _: pytest.fail("a kernel is started"))
    parameters = Parameters(sessions_directory=str(tmp_path / "sessions"))
    parameters.capture_directory.mkdir(parents=True)
    with pytest.raises(NightError):
        run_night(parameters, tmp_path / "outputs")


def test_a_mistyped_night_is_no_failed_night(tmp_path):
    """Nothing is made: no lock, no empty folder, nothing that the page of all nights would show."""
    parameters = Parameters(sessions_directory=str(tmp_path / "sessions"), object_name="dark30s")
    parameters.capture_directory.with_name("Dark30s").mkdir(parents=True)
    with pytest.raises(ParametersError, match=r"there is no dark30s in .*; there is: Dark30s$"):
        run_night(parameters, tmp_path / "outputs")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("step", ["write_products", "publish"])
@pytest.mark.slow
def test_full_disk_leaves_the_good_night(tmp_path, made_up_night, monkeypatch, step):
    before = sources(run_night(PARAMETERS, tmp_path, [GOOD]).directory)

    def full_disk(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = (night_module, step) if step == "write_products" else (publish.Claim, step)
    monkeypatch.setattr(*target, full_disk)
    result = run_night(PARAMETERS, tmp_path, [GOOD])
    assert result.verdict == "failed"
    assert "No space left" in result.reasons[0]
    assert sources(tmp_path / publish.night_path(PARAMETERS)) == before


@pytest.mark.slow
def test_disk_too_full_even_for_the_verdict(tmp_path, made_up_night, monkeypatch):
    def full_disk(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(night_module, "write_products", full_disk)
    monkeypatch.setattr("sla1tools.run.night.write_manifest", full_disk)
    result = run_night(PARAMETERS, tmp_path, [GOOD])
    assert (result.verdict, result.directory) == ("failed", None)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock" and path.name != MARK]


def test_mistake_in_the_program_is_recorded_and_raised(tmp_path, made_up_night, monkeypatch):
    def mistaken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(night_module, "write_products", mistaken)
    with pytest.raises(ZeroDivisionError):
        run_night(PARAMETERS, tmp_path, [GOOD])
    failed = tmp_path / publish.FAILED / publish.night_path(PARAMETERS)
    assert json.loads((failed / "manifest.json").read_text())["reasons"] == ["ZeroDivisionError"]


def test_nothing_is_read_when_the_outputs_are_wrong_or_busy(tmp_path, monkeypatch):
    monkeypatch.setattr(night_module, "measure_night", lambda *_: pytest.fail("read"))
    monkeypatch.setattr(night_module, "require_capture", lambda parameters: None)
    (tmp_path / "file").touch()
    with pytest.raises(ParametersError):
        run_night(PARAMETERS, tmp_path / "file")
    monkeypatch.setattr(publish, "LOCK_PATIENCE", 0.01)
    with publish.claim(tmp_path, publish.night_path(PARAMETERS)), pytest.raises(BusyError):
        run_night(PARAMETERS, tmp_path, [GOOD])


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
@pytest.mark.slow
def test_ended_from_outside(tmp_path, end):
    program = (
        "import sys; from pathlib import Path; from types import SimpleNamespace\n"
        "from sla1tools.run import night; from sla1tools.parameters import Parameters\n"
        "capture = SimpleNamespace(camera=None, frames=(), rejected=(), ignored=())\n"
        "empty = SimpleNamespace(capture=capture, summary={}, doubts=())\n"
        "night.measure_night, night.write_products = lambda *_: empty, lambda *_: None\n"
        "night.require_capture = lambda parameters: None\n"
        "tell = lambda step: print(step, flush=True)\n"
        "night.run_night(Parameters(), sys.argv[2], [Path(sys.argv[1])], progress=tell)\n"
    )
    command = [sys.executable, "-c", program, str(HANGS), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        run.stdout.readline()
        deadline = time.monotonic() + 60
        while not (kernels := kernels_of(run.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1)
        run.send_signal(end)
        run.wait(30)
    assert kernels
    assert run.returncode != 0
    while any(kernel.is_running() for kernel in kernels):
        assert time.monotonic() < deadline, "a kernel outlives its run"
        time.sleep(0.1)
    publish.recover(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock" and path.name != MARK]


def test_measurement_for_the_notebooks_is_the_measured_one(tmp_path, made_up_night, monkeypatch):
    seen = {}

    def write_products(measurement, staging, published):
        (index,) = staging.parent.glob(f"*/{INDEX}")
        seen["index"] = json.loads(index.read_text(encoding="utf-8")), index.parent.name
        raise NightError("enough")

    monkeypatch.setattr(night_module, "write_products", write_products)
    with pytest.raises(NightError, match="enough"):
        run_night(PARAMETERS, tmp_path, [GOOD])
    index, name = seen["index"]
    assert index["name"] == name
