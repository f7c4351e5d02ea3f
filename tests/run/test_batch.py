"""Many nights: resumed, isolated from one another, killed at every turn, shared by batches and machines."""

import errno
import hashlib
import importlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner
from distributed import Client
from distributed import comm as comms
from distributed.security import Security
from filelock import FileLock
from scipy import ndimage

from sla1tools import __version__, cli
from sla1tools.errors import NightError, ParametersError
from sla1tools.frames.sessions import find_nights, night_in
from sla1tools.measure import measure_night
from sla1tools.nights.trends import read_nights
from sla1tools.parameters import Parameters, to_yaml
from sla1tools.run import batch as batch_module
from sla1tools.run import night as night_module
from sla1tools.run import publishing as publish
from sla1tools.run import workers
from sla1tools.run.night import NAMES, NightResult
from sla1tools.run.products import PRODUCTS
from sla1tools.run.resuming import finished_since, is_current
from sla1tools.run.workers import BATCH, LOGS, Job, Outcome, run_one
from sla1tools.simulate.night import simulate_night
from sla1tools.text import moment

HERE = Path(__file__).parents[1] / "support"
SHAPE = (48, 56)
SLA1 = [sys.executable, "-P", "-c", "from sla1tools.cli import main; main()"]


def make_tree(sessions, nights):
    for number in range(1, nights + 1):
        simulate_night(sessions / f"2024-05-{number:02d}" / "03_38_48" / "Dark 30s", frames=5, shape=SHAPE, seed=number)


def environment(**settings):
    told = {f"SLA1_TEST_{key.upper()}": str(value) for key, value in settings.items()}
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path, "DASK_DISTRIBUTED__WORKER__PRELOAD": "['fast_worker']"} | told


class Site:
    """A tree of small nights, a camera file, and `sla1 batch` on them as a program of its own."""

    def __init__(self, root, nights):
        self.sessions, self.outputs, self.runs = root / "2024 SLA [1]", root / "outputs", root / "runs.txt"
        self.camera, self.programs = root / "camera.yaml", []
        self.camera.write_text(f"frame_shape: {list(SHAPE)}\ninjections: 50\n")
        make_tree(self.sessions, nights)

    def start(self, *arguments, workers=2, **settings):
        where = [] if "--scheduler" in arguments else ["--workers", str(workers)]
        options = ["--sessions", self.sessions, "-f", self.camera, "--outputs", self.outputs, *where, *arguments]
        run = subprocess.Popen(
            [*SLA1, "batch", *map(str, options)],
            env=environment(runs=self.runs, **settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.programs.append(run)
        return run

    def batch(self, *arguments, status=0, **settings):
        run = self.start(*arguments, **settings)
        output, complaints = run.communicate(timeout=300)
        assert run.returncode == status, complaints
        assert "Traceback" not in complaints
        return output, complaints

    def jobs(self):
        """The same nights, to be run in this process."""
        base = Parameters(frame_shape=SHAPE, injections=50)
        nights = [night_in(folder, base) for folder in find_nights(self.sessions)]
        return [Job(night, self.outputs, False, moment(), __version__, "", notebooks=()) for night in nights]

    def begun(self):
        return self.runs.read_text().split("\n")[:-1] if self.runs.exists() else []

    def published(self):
        """Nights that are there, after a look at every file of theirs: each whole, and nothing else in place."""
        manifests = sorted(self.outputs.glob("20*/*/*/manifest.json"))
        folders = list(self.outputs.glob("20*/*/*"))
        assert len(folders) == len(manifests)
        for path in manifests:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            assert manifest["exit_status"] == 0
            for name, sha256 in manifest["outputs"].items():
                assert hashlib.sha256((path.parent / name).read_bytes()).hexdigest() == sha256
        return [path.parent for path in manifests]


@pytest.fixture
def site(tmp_path):
    made = []

    def make(nights):
        made.append(Site(tmp_path, nights))
        return made[-1]

    yield make
    for run in [run for here in made for run in here.programs]:
        if run.poll() is None:  # a test that failed midway
            run.kill()
        run.communicate()


@pytest.fixture
def job(tmp_path, monkeypatch):
    """One small night, run here without notebooks."""
    make_tree(tmp_path / "sessions", 1)
    parameters = Parameters(
        sessions_directory=str(tmp_path / "sessions"),
        capture_date="2024-05-01",
        object_name="Dark 30s",
        frame_shape=SHAPE,
        injections=50,
    )
    return Job(parameters, tmp_path / "outputs", False, moment(), __version__, "", notebooks=())


def test_a_night_is_run_once_and_skipped_while_nothing_changes(job):
    first = run_one(job)
    assert (first.night, first.verdict) == ("2024-05-01/03_38_48/Dark 30s", "ok")
    assert first.candidates is not None
    assert run_one(job).verdict == "current"
    log = (job.outputs / LOGS / "2024-05-01" / "03_38_48" / "Dark 30s.log").read_text(encoding="utf-8")
    assert re.search(r"INFO frames judged\n.*INFO reports written\n.*INFO ok: ", log, re.S)


def test_a_night_without_notebooks_is_run_again_where_they_are_wanted(job, monkeypatch):
    job = replace(job, since="2000-01-01T00:00:00+00:00")  # moments are whole seconds
    assert run_one(job).verdict == "ok"
    folder = job.outputs / job.night
    assert json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["notebooks"] is False
    assert {path.name for path in folder.iterdir()} == {*PRODUCTS, "index.html", "manifest.json"}
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "run without notebooks" in page
    assert ".ipynb" not in page
    assert not any(f"{name}.html" in page for name in NAMES)
    (record,) = read_nights(job.outputs)
    assert (record.verdict, record.frames) == ("ok", 5)
    assert is_current(job.parameters, job.outputs)
    assert finished_since(job.parameters, job.outputs, job.since)
    asked = []
    monkeypatch.setattr(
        workers, "run_night", lambda *told, **options: asked.append(told[2]) or NightResult("ok", (), None)
    )
    assert run_one(replace(job, notebooks=None)).verdict == "ok"
    assert asked == [None], "run, though nothing else has changed and it ended since the batch began"
    assert run_one(job).verdict == "current"


CUTS = {"threshold": 250.0, "ratio": 0.2, "criterion": "psf_chi2", "snr_min": 4.5}


@pytest.fixture
def measured_again(monkeypatch):
    """The parameters of every measuring by a run."""
    asked, measure = [], night_module.measure_night
    monkeypatch.setattr(night_module, "measure_night", lambda told, step: asked.append(told) or measure(told, step))
    return asked


@pytest.mark.slow
def test_other_cuts_of_a_published_night_are_a_selection(job, tmp_path, measured_again):
    assert run_one(job).verdict == "ok"
    other = with_changes(job, **CUTS)
    fresh = replace(other, outputs=tmp_path / "fresh")
    assert run_one(other).verdict == run_one(fresh).verdict == "ok"
    assert measured_again == [job.parameters, fresh.parameters]
    ours, theirs = (one.outputs / one.night for one in (other, fresh))
    for name in PRODUCTS:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    told = [json.loads((folder / "manifest.json").read_text(encoding="utf-8")) for folder in (ours, theirs)]
    for manifest in told:
        for key in ("start", "end"):
            del manifest[key]
        del manifest["outputs"]["index.html"]
    assert told[0] == told[1]
    assert run_one(other).verdict == "current"


@pytest.mark.slow
def test_what_is_handed_to_notebooks_of_a_selection_has_its_frames(job, measured_again, monkeypatch):
    run_one(job)
    handed = []
    monkeypatch.setattr(night_module, "store", lambda night, folder: handed.append(night))
    monkeypatch.setattr("sla1tools.run.notebooks.execute", lambda *told: None)
    monkeypatch.setattr("sla1tools.show.pages.export_html", lambda *told: None)
    monkeypatch.setattr("sla1tools.run.notebooks.keep_pictures", lambda path: None)
    monkeypatch.setattr("sla1tools.run.notebooks.tagged_figures", lambda path: {})
    for changes in ({}, CUTS):
        parameters = job.parameters.model_copy(update=changes)
        assert night_module.run_night(parameters, job.outputs, [HERE / "notebooks" / "good.ipynb"]).verdict == "ok"
        fresh = measure_night(parameters)
        assert handed[-1].summary == fresh.summary
        for name in ("mean", "variance"):
            np.testing.assert_array_equal(getattr(handed[-1].dark, name), getattr(fresh.dark, name))
        np.testing.assert_array_equal(handed[-1].residual(1), fresh.residual(1))
    assert measured_again == [job.parameters]


@pytest.mark.parametrize(
    "change",
    [
        lambda job: with_changes(job, injections=51),
        lambda job: with_changes(job, threshold=60.0),
        lambda job: (job.parameters.capture_directory / "00005.fits").unlink() or with_changes(job, **CUTS),
        lambda job: (
            fits.setval(job.outputs / job.night / "leaders.fits", "X", value=1, ext=1) or with_changes(job, **CUTS)
        ),
        lambda job: job,
    ],
    ids=["what measuring depends on", "a deeper floor", "a frame less", "a changed product", "the same run"],
)
@pytest.mark.slow
def test_anything_else_is_measured(job, measured_again, change):
    run_one(job)
    again = replace(change(job), force=True, since="2999")
    assert run_one(again).verdict in ("ok", "degraded")
    assert measured_again == [job.parameters, again.parameters]


@pytest.mark.parametrize("command", ["run", "batch"])
def test_no_notebooks_is_an_option_of_both_commands(job, tmp_path, monkeypatch, command):
    asked = []
    monkeypatch.setattr(night_module, "run_night", lambda *_, **options: asked.append(options["notebooks"]))
    monkeypatch.setattr(batch_module, "run_batch", lambda *_, **options: asked.append(options["notebooks"]))
    camera = tmp_path / "camera.yaml"
    camera.write_text(f"frame_shape: {list(SHAPE)}\n", encoding="utf-8")
    for options in ([], ["--no-notebooks"]):
        folder = str(job.parameters.capture_directory)
        CliRunner().invoke(cli.main, [command, "-f", str(camera), folder, "--outputs", str(job.outputs), *options])
    assert asked == [None, ()]


def with_changes(job, **changes):
    return Job(job.parameters.model_copy(update=changes), job.outputs, False, moment(), __version__, "", notebooks=())


@pytest.mark.slow
def test_whatever_a_run_depends_on_makes_it_run_again(job, tmp_path, monkeypatch):
    folder, empty = job.parameters.capture_directory, job.parameters.capture_directory / "00009.fits"
    empty.touch()
    assert run_one(job).verdict == "degraded"
    outputs, current = job.outputs, job.parameters
    assert is_current(current, outputs)
    assert not is_current(current.model_copy(update={"threshold": 199.0}), outputs)
    assert is_current(current.model_copy(update={"sessions_directory": f"{tmp_path}/./sessions/"}), outputs)
    shutil.copytree(tmp_path / "sessions", tmp_path / "moved")
    assert not is_current(current.model_copy(update={"sessions_directory": str(tmp_path / "moved")}), outputs)
    with monkeypatch.context() as patch:
        patch.setattr("sla1tools.run.resuming.__version__", "0.0.0")
        assert not is_current(current, outputs)
    frame = folder / "00003.fits"
    contents = frame.read_bytes()
    for changed in (contents[:-1] + b"\x01", contents[:3000], b""):
        frame.write_bytes(changed)
        assert not is_current(current, outputs)
    frame.write_bytes(contents)
    os.utime(frame, (1, 1))
    assert is_current(current, outputs)
    empty.write_bytes(contents)
    assert not is_current(current, outputs)
    empty.write_bytes(b"")
    (folder / "00010.fits").write_bytes(contents)
    assert not is_current(current, outputs)
    (folder / "00010.fits").unlink()
    (outputs / job.night / "settings.npy").rename(tmp_path / "settings.npy")  # as a night of an earlier version
    assert not is_current(current, outputs)
    (tmp_path / "settings.npy").rename(outputs / job.night / "settings.npy")
    assert is_current(current, outputs)
    (outputs / job.night / "manifest.json").write_text("{")
    assert not is_current(current, outputs)


@pytest.mark.slow
def test_other_known_pixels_make_it_run_again(job, tmp_path, measured_again):
    from astropy.table import Table

    listed = tmp_path / "known.ecsv"
    Table({"x": [3], "y": [4]}).write(listed)
    marked = with_changes(job, known_pixels=str(listed))
    assert run_one(marked).verdict == "ok"
    assert fits.getdata(job.outputs / job.night / "master_dark.fits", "DQ")[4, 3] & 4
    assert run_one(marked).verdict == "current"
    folder = job.outputs / job.night
    rows = [fits.getdata(folder / name, 1) for name in ("leaders.fits", "injections.fits")]
    x, y = (np.rint(np.append(rows[0][axis], rows[1][f"{axis}_true"])).astype(int) for axis in "xy")
    beside = np.zeros(job.parameters.frame_shape, bool)
    beside[y, x] = True
    beside = ndimage.maximum_filter(beside, 5)
    beside[:6, :6] = True  # where the list was before
    assert 0 < beside.mean() < 1, "the night has both kinds of pixels"
    far, near = (np.argwhere(found)[0] for found in (~beside, beside & (np.indices(beside.shape).min(axis=0) > 6)))
    for added, verdict in ((far, "current"), (near, "ok")):
        Table({"x": [3, added[1]], "y": [4, added[0]]}).write(listed, overwrite=True)
        measured_again.clear()
        later = with_changes(job, known_pixels=str(listed))  # not the job that the first run has done
        assert run_one(later).verdict == verdict
        assert len(measured_again) == (verdict == "ok")
    for places, ratio, measured in (([3, added[1]], 0.2, 0), ([3], 0.25, 1), ([3], 0.2, 0)):
        Table({"x": places, "y": [4, added[0]][: len(places)]}).write(listed, overwrite=True)
        measured_again.clear()
        other = with_changes(job, known_pixels=str(listed), ratio=ratio)
        assert run_one(other).verdict == "ok"
        assert len(measured_again) == measured, "the same list is a selection"


@pytest.mark.slow
def test_another_psf_makes_it_run_again(job, tmp_path, measured_again):
    path, shape = tmp_path / "psf.json", job.parameters.frame_shape
    values = {"fwhm": 2.0, "coefficients": [[[1.0]], [[0.0]], [[0.0]]], "frame_shape": shape}
    path.write_text(json.dumps(values | {"errors": {"size": 0.05, "shape": 0.1, "light": 0.05}}))
    with_psf = with_changes(job, psf=str(path))
    assert run_one(with_psf).verdict == "ok"
    assert run_one(with_psf).verdict == "current"
    path.write_text(json.dumps(values | {"errors": {"size": 0.03, "shape": 0.1, "light": 0.05}}))
    for changes in ({"ratio": 0.2}, {"excluded_classes": ("hot",)}):
        assert run_one(with_changes(job, psf=str(path), **changes)).verdict == "ok"
    assert len(measured_again) == 2, "by the first file, and once by the second, whatever the cuts"


@pytest.mark.slow
def test_what_someone_else_did_meanwhile_counts(job):
    earlier = Job(job.parameters, job.outputs, True, "2000-01-01T00:00:00+00:00", __version__, "", notebooks=())
    assert run_one(earlier).verdict == "ok"
    before = (job.outputs / job.night / "manifest.json").stat().st_mtime_ns
    assert run_one(earlier).verdict == "ok"
    assert (job.outputs / job.night / "manifest.json").stat().st_mtime_ns == before
    assert finished_since(job.parameters, job.outputs, "2999") is None
    assert run_one(Job(job.parameters, job.outputs, True, "2999", __version__, "", notebooks=())).verdict == "ok"
    assert (job.outputs / job.night / "manifest.json").stat().st_mtime_ns > before


def test_busy_is_told_and_nothing_is_touched(job, monkeypatch):
    monkeypatch.setattr(publish, "LOCK_PATIENCE", 0.01)
    with publish.claim(job.outputs, publish.night_path(job.parameters)):
        assert run_one(job).verdict == "busy"
    lock = job.outputs / publish.LOCKS / BATCH / f"{job.night}.lock"
    with FileLock(lock):
        assert run_one(job).verdict == "busy"
    assert run_one(job).verdict == "ok"


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (NightError("too few"), "too few"),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
    ],
)
@pytest.mark.slow
def test_a_failure_is_an_outcome(job, monkeypatch, trouble, words):
    def fail(*_):
        raise trouble

    monkeypatch.setattr(night_module, "write_products", fail)
    outcome = run_one(job)
    assert outcome.verdict == "failed"
    assert words in outcome.reasons[0]
    assert words in (job.outputs / LOGS / f"{job.night}.log").read_text(encoding="utf-8")
    monkeypatch.undo()
    assert run_one(with_changes(job)).verdict == "ok"


def test_a_disk_too_full_for_its_log(job, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(workers, "_QuietFile", full)
    assert run_one(job).verdict == "ok"


def test_a_worker_that_came_later_and_does_not_see_the_outputs_runs_nothing(job):
    outcome = run_one(replace(job, topic="sla1-1"))
    assert (outcome.verdict, "does not see" in outcome.reasons[0]) == ("failed", True)
    assert not (job.outputs / "2024-05-01").exists()


def test_another_version_does_not_run_a_night(job, monkeypatch):
    monkeypatch.setattr("sla1tools.__version__", "9.9.9")
    outcome = run_one(job)
    assert (outcome.verdict, outcome.reasons) == (
        "failed",
        (f"the worker runs sla1tools 9.9.9, the batch {__version__}: update one",),
    )


@pytest.fixture
def dry_batch(monkeypatch):
    """`sla1 batch` that runs nothing: the nights that it would run."""
    seen = []

    def run_batch(nights, outputs, tell, step, **options):
        seen.append((nights, options))
        outcomes = [Outcome(publish.night_path(night).as_posix(), "ok", (), 1, 2.0) for night in nights]
        for outcome in outcomes:
            tell(outcome)
        return outcomes

    monkeypatch.setattr("sla1tools.run.batch.run_batch", run_batch)

    def run(*arguments):
        return CliRunner().invoke(cli.main, ["batch", *map(str, arguments)]), seen

    return run


def test_nights_of_files_and_trees(tmp_path, dry_batch):
    camera = tmp_path / "camera.yaml"
    camera.write_text("frame_shape: [48, 56]\nthreshold: 180.0\n")
    make_tree(tmp_path / "tree", 2)
    keys = ("sessions_directory", "capture_date", "capture_time", "object_name")
    for name, object_name in (("a", "DarkA"), ("b", "DarkB")):
        path = tmp_path / f"{name}.yaml"
        path.write_text(to_yaml(Parameters(object_name=object_name), keys))
    common = ("-f", camera, "-p", "ratio", "0.2", "--outputs", tmp_path / "out")
    result, seen = dry_batch(tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "a.yaml", *common)
    assert result.exit_code == 0, result.output
    assert [night.object_name for night in seen[-1][0]] == ["DarkA", "DarkB"]
    assert {(night.threshold, night.ratio) for night in seen[-1][0]} == {(180.0, 0.2)}
    result, seen = dry_batch("--sessions", tmp_path / "tree", *common, "--workers", "3")
    assert [night.capture_date for night in seen[-1][0]] == ["2024-05-01", "2024-05-02"]
    assert seen[-1][0][0].capture_directory == tmp_path / "tree" / "2024-05-01" / "03_38_48" / "Dark 30s"
    assert seen[-1][1] == {"workers": 3, "scheduler": None, "force": False, "timeout": None, "notebooks": None}
    assert result.stdout.splitlines()[0].split() == [
        "ok",
        "2024-05-01/03_38_48/Dark",
        "30s",
        "1",
        "candidate",
        "2.0",
        "s",
    ]
    assert "2 ok" in result.stderr
    assert (tmp_path / "out" / "index.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no night"),
        (("--sessions", "."), "holds no folder of darks"),
        (("--sessions", "missing"), "missing: there is no missing in"),
        (("missing.yaml",), "missing.yaml: there is no missing.yaml in"),
        (("--sessions", ".", "--workers", "2", "--scheduler", "tcp://x:1"), "exclude one another"),
        (("--sessions", ".", "-p", "treshold", "1"), "did you mean threshold"),
    ],
)
def test_mistakes_end_before_anything_is_read(tmp_path, monkeypatch, dry_batch, arguments, words):
    monkeypatch.chdir(tmp_path)
    result, seen = dry_batch(*arguments)
    assert (result.exit_code, seen) == (2, [])
    assert words in result.output


def test_two_different_nights_for_one_place_are_not_mixed(tmp_path):
    first = Parameters(sessions_directory="a", object_name="Dark")
    respelled = first.model_copy(update={"sessions_directory": str(first.capture_directory.parents[2])})
    roundabout = first.model_copy(update={"sessions_directory": "a/../a"})
    other = first.model_copy(update={"sessions_directory": "b"})
    make = partial(workers.Job, outputs=tmp_path, force=False, since="", version="", topic="")
    jobs, clashes = batch_module._jobs([first, respelled, roundabout, other], make)
    assert [found.parameters for found in jobs] == [first]
    assert [(clash.verdict, "same place" in clash.reasons[0]) for clash in clashes] == [("failed", True)]


def test_a_scheduler_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "CONNECT_SECONDS", 0.3)
    for address in ("tcp://127.0.0.1:9", "nonsense", "gopher://127.0.0.1:1"):
        with pytest.raises(ParametersError, match="no dask scheduler can be reached"):
            batch_module.run_batch([Parameters()], tmp_path, scheduler=address)


def test_outputs_that_cannot_be_used(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ParametersError, match="cannot be used"):
        batch_module.run_batch([Parameters()], tmp_path / "file")


def products_of(folder):
    """Checksums of what does not depend on when it was made."""
    outputs = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["outputs"]
    kinds = (".fits", ".ecsv", ".reg", "summary.json")
    return {name: sha256 for name, sha256 in outputs.items() if name.endswith(kinds)}


def test_batch_resume_failure_and_force(site, tmp_path, monkeypatch):
    """The embedded cluster: one bad night stops no other, the next call does only what is left."""
    here = site(4)
    bad = here.sessions / "2024-05-02" / "03_38_48" / "Dark 30s"
    frames = {path: path.read_bytes() for path in sorted(bad.glob("*.fits"))}
    for path in list(frames)[:3]:
        path.write_bytes(b"")
    output, complaints = here.batch(status=1, notebooks="good")
    assert sorted(line.split()[0] for line in output.splitlines()) == ["all", "failed", "ok", "ok", "ok"]
    assert re.search(r"failed +2024-05-02/03_38_48/Dark 30s .*2 usable frames \(3 empty\)", output)
    assert "%|" not in complaints  # no bar where there is no terminal
    assert len(here.published()) == 3
    assert (here.published()[0] / "good.html").is_file()
    page = (here.outputs / "index.html").read_text(encoding="utf-8")
    assert page.count("data-verdict=") == 4
    for path, contents in frames.items():
        path.write_bytes(contents)
    output, complaints = here.batch(workers=2)
    assert [line.split()[0] for line in output.splitlines()] == ["ok", "all"]
    assert "3 current" in complaints
    assert len(here.published()) == 4
    assert sorted(here.begun()) == sorted([f"2024-05-{n:02d}/03_38_48/Dark 30s" for n in (1, 2, 2, 3, 4)])
    by_two = [products_of(folder) for folder in here.published()]
    here.batch("--force", workers=1)
    assert len(here.begun()) == 5 + 4
    assert [products_of(folder) for folder in here.published()] == by_two
    assert min(map(len, by_two)) >= 6
    first = replace(here.jobs()[0], outputs=tmp_path / "alone")
    assert run_one(first).verdict == "ok"
    assert products_of(first.outputs / first.night) == products_of(here.outputs / first.night)


def test_a_night_that_kills_its_workers_is_blamed_and_no_other(site):
    """Its neighbours wait in the queues of the workers that it kills; its verdict is on the disk, for the page."""
    here = site(4)
    output, _complaints = here.batch(status=1, workers=2, deadly="2024-05-02")
    assert sorted(line.split()[0] for line in output.splitlines()) == ["all", "failed", "ok", "ok", "ok"]
    assert re.search("failed +2024-05-02/03_38_48/Dark 30s .* ended the process that ran it 2 times", output)
    assert len(here.published()) == 3
    failed = here.outputs / publish.FAILED / "2024-05-02" / "03_38_48" / "Dark 30s"
    assert "ended the process" in json.loads((failed / "manifest.json").read_text())["reasons"][0]
    assert "ended the process" in (here.outputs / "index.html").read_text(encoding="utf-8")
    assert not list(here.outputs.rglob("*.begun"))
    assert here.batch(deadly="nobody")[0].split()[0] == "ok", "it is run again once it is harmless"


@pytest.mark.skipif(os.name != "posix", reason="as the command is begun here")
def test_commands_import_nothing_from_the_current_folder(site, tmp_path, monkeypatch):
    """Nor do the workers and helpers that they start."""
    here, folder = site(1), tmp_path / "current"
    folder.mkdir()
    for name in ("scipy", "numpy", "sla1tools", "random", "multiprocessing", "distributed", "ipykernel", "astropy"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'told')!r}, 'a').write({name!r})\n")
    (folder / "matplotlibrc").write_text("figure.dpi: nonsense\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    here.batch(notebooks="good")
    assert not (tmp_path / "told").exists(), (tmp_path / "told").read_text()


def test_the_workers_orders_change_nothing_here():
    """Pytest imports every module below tests for its examples: that of the workers must be harmless."""
    before = workers.run_night, night_module.measure_night, publish.os
    importlib.reload(importlib.import_module("fast_worker"))
    assert (workers.run_night, night_module.measure_night, publish.os) == before


MATRIX = [
    *[("worker", moment) for moment in ("start", "notebook", "publish")],
    *[("client", moment) for moment in ("start", "notebook", "publish")],
    ("kernel", "notebook"),
]


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
@pytest.mark.parametrize(("whom", "when"), MATRIX, ids=["-".join(case) for case in MATRIX])
def test_kill_matrix(site, tmp_path, monkeypatch, whom, when):
    """Kill -9 of one party at one moment: no finished night is lost, none is half-written, what is left can be run."""
    here = site(2)
    once = tmp_path / "killed"
    if when == "publish":
        assert [run_one(job).verdict for job in here.jobs()] == ["ok", "ok"]
        for folder in here.published():
            (folder / "notes.txt").write_text("mine")
    notebooks = "hangs" if when == "notebook" else ""
    force = ["--force"] if when == "publish" else []
    run = here.start(*force, workers=1, kill=f"{whom} {when} {once}", notebooks=notebooks)
    output, complaints = run.communicate(timeout=120)
    assert once.exists()
    assert run.returncode == {"worker": 0, "client": -signal.SIGKILL, "kernel": 1}[whom], complaints
    wait_until(lambda: not alive(run.pid))
    publish.recover(here.outputs)
    stamps = {folder: (folder / "manifest.json").stat().st_mtime_ns for folder in here.published()}
    assert len(stamps) == {"worker": 2, "kernel": 1, "client": 2 if when == "publish" else 0}[whom]
    if whom == "kernel":
        assert re.search("failed +2024-05-0[12].*hangs.ipynb: cell", output)
    verdicts = [run_one(job).verdict for job in here.jobs()]
    assert sorted(verdicts) == ["current"] * len(stamps) + ["ok"] * (2 - len(stamps))
    assert len(here.published()) == 2
    for folder, stamp in stamps.items():
        assert (folder / "manifest.json").stat().st_mtime_ns == stamp
    for folder in here.published():
        assert (when == "publish") == (folder / "notes.txt").is_file()
    for place in (publish.STAGING, publish.ASIDE):
        assert not [path for path in (here.outputs / place).rglob("*") if path.is_file()]


def alive(session):
    """Whether a process of the session that a batch began still runs: a worker or a kernel."""
    import psutil

    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and os.getsid(process.pid) == session:
                return True
        except (psutil.Error, OSError):
            continue
    return False


def wait_until(ready, seconds=60):
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
def test_ctrl_c_on_the_terminal(site, monkeypatch):
    """A terminal interrupts client, workers and kernels alike."""
    here = site(3)
    run = here.start(workers=1, notebooks="hangs")
    wait_until(lambda: here.begun() and list(here.outputs.glob(".staging/**/hangs.ipynb")))
    os.killpg(run.pid, signal.SIGINT)
    _output, complaints = run.communicate(timeout=120)
    assert run.returncode != 0
    assert "interrupted after" in complaints
    assert "the same command goes on with the rest" in complaints
    wait_until(lambda: not alive(run.pid))
    assert [run_one(job).verdict for job in here.jobs()] == ["ok"] * 3
    assert len(here.published()) == 3


def test_two_batches_share_the_work(site):
    here = site(4)
    runs = [here.start(workers=1, notebooks="good") for _ in range(2)]
    told = [run.communicate(timeout=180) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], told
    assert len(here.published()) == 4
    assert sorted(here.begun()) == sorted({folder.relative_to(here.outputs).as_posix() for folder in here.published()})
    done = [re.findall(r"^ok +(\S+ 30s)", output, re.M) for output, _ in told]
    assert sorted(done[0] + done[1]) == sorted(here.begun())


@pytest.fixture
def cluster(tmp_path):
    """A scheduler and workers as separate programs: `start_workers(n)`; its `address`."""
    programs, home = [], tmp_path / "dask"
    home.mkdir()
    file = home / "scheduler.json"

    def dask(*arguments, **settings):
        with open(home / f"{len(programs)}.log", "w") as log:
            command = [sys.executable, "-m", "dask", *map(str, arguments)]
            programs.append(subprocess.Popen(command, env=environment(**settings), cwd=home, stdout=log, stderr=log))

    class Cluster:
        def __init__(self):
            dask("scheduler", "--host", "127.0.0.1", "--port", 0, "--no-dashboard", "--scheduler-file", file)
            wait_until(lambda: file.is_file() and file.read_text().strip().endswith("}"))
            self.address = json.loads(file.read_text())["address"]

        def start_worker(self, **settings):
            dask("worker", self.address, "--nthreads", 1, "--no-dashboard", "--no-nanny", **settings)
            return programs[-1]

        def stop_scheduler(self):
            programs[0].kill()

    yield Cluster()
    for program in reversed(programs):
        program.kill()
        program.wait()


def test_a_scheduler_and_two_workers_of_their_own(site, cluster, tmp_path):
    here = site(5)
    once = tmp_path / "killed"
    first = cluster.start_worker(notebooks="good", kill=f"worker start {once}", runs=here.runs)
    cluster.start_worker(notebooks="good", runs=here.runs)
    output, complaints = here.batch("--scheduler", cluster.address)
    assert len(re.findall("^ok", output, re.M)) == 5, complaints
    assert once.exists()
    assert first.wait(10) == -signal.SIGKILL
    assert len(here.published()) == 5
    assert len(here.begun()) == 6  # the night whose worker died was begun twice
    assert (here.outputs / "index.html").is_file()
    cluster.start_worker(version="9.9.9")
    with Client(cluster.address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
    output, complaints = here.batch("--scheduler", cluster.address, status=2)
    assert re.search(r"worker tcp://.*: runs sla1tools 9\.9\.9, the batch", complaints)
    assert len(here.begun()) == 6


def test_a_scheduler_that_is_lost(site, cluster):
    here = site(2)
    cluster.start_worker(notebooks="hangs", runs=here.runs)
    run = here.start("--scheduler", cluster.address)
    wait_until(here.begun)
    cluster.stop_scheduler()
    output, _complaints = run.communicate(timeout=120)
    assert run.returncode == 1
    assert output.count("the scheduler was lost") >= 2


@pytest.mark.parametrize(
    ("folder", "kind", "suffix"),
    [("N.I.N.A [1]/2024-05-08/DARK", "DARK", ".fits"), ("MaxIm DL/2024 05 08/raw", "Dark Frame", ".fit")],
)
@pytest.mark.slow
def test_nights_of_other_programs_are_found_by_header_and_run(tmp_path, monkeypatch, folder, kind, suffix):
    tree, outputs = tmp_path / "tree", tmp_path / "outputs"
    for place, stated in ((folder, kind), (f"{folder} of the sky", "Light Frame")):
        for path in simulate_night(tree / place, frames=5, shape=SHAPE, seed=1):
            fits.setval(path, "IMAGETYP", value=stated)
            fits.setval(path, "OBJECT", value="M 17")
            path.rename(path.with_name(f"M 17 {path.stem}{suffix}"))
    (found,) = find_nights(tree)
    assert found == tree / folder
    night = night_in(found, Parameters(frame_shape=SHAPE, injections=50))
    assert run_one(Job(night, outputs, False, moment(), __version__, "", notebooks=())).verdict == "ok"
    assert (outputs / folder / "index.html").is_file()


def test_a_worker_that_does_not_see_the_outputs_is_refused(tmp_path):
    """Each worker looks for a file of this very batch; what cannot even answer is refused, too."""

    class Client:
        def __init__(self, answer):
            self.answer = answer

        def run(self, ask, *told, on_error):
            return {"tcp://10.0.0.7:40000": self.answer(ask, *told)}

    with workers.usable(tmp_path / "outputs", "sla1-1"):
        workers.refuse_unfit(Client(lambda ask, *told: ask(*told)), tmp_path / "outputs", "sla1-1")
    with pytest.raises(ParametersError, match=r"worker tcp://10.0.0.7:40000: does not see .*: use a folder that all"):
        workers.refuse_unfit(Client(lambda ask, *told: ask(*told)), tmp_path / "outputs", "sla1-1")
    lost = ModuleNotFoundError("No module named 'sla1tools'")
    with pytest.raises(ParametersError, match="cannot run nights: ModuleNotFoundError: No module named 'sla1tools'"):
        workers.refuse_unfit(Client(lambda *_: lost), tmp_path / "outputs", "sla1-1")


@pytest.mark.slow
def test_nobody_without_the_credentials_reaches_our_own_workers():
    """A scheduler runs what it is sent, as the user who started it: it must not listen to another user's client."""

    async def reached(address, security):
        comm = await comms.connect(address, timeout=2, **security.get_connection_args("client"))
        comm.abort()

    with workers.connect(None, 1, 1) as client:
        for address in (client.scheduler.address, *client.scheduler_info()["workers"]):
            assert address.startswith("tls://127.0.0.1:")
            client.sync(reached, address, client.security)
            with pytest.raises(OSError, match="certificate does not match"):
                client.sync(reached, address, Security.temporary())
            with pytest.raises(OSError, match="onnect"):
                client.sync(reached, address.replace("tls", "tcp"), Security())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="of the C library's own memory")
def test_workers_keep_memory_for_their_next_array(monkeypatch):
    """Dask would have it given back after each, and a night takes half as long again."""

    def pages_of_new_arrays() -> int:
        np.ones(2**17)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(50):
            np.ones(2**17)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    with workers.connect(None, 1, 1) as client:
        (pages,) = client.run(pages_of_new_arrays).values()
    assert pages < 50 * 256 / 10  # a tenth of what fifty arrays of 1 MiB fill
