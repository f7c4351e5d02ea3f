"""The whole: `sla1 run` against the same notebooks by hand, where its time goes, batches, memory, and a long night."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench_batch import batch, copies
from comparison import Row, table

from sla1tools.parameters import Parameters
from sla1tools.places import CHECKOUT
from sla1tools.run.night import night_notebooks
from sla1tools.simulate.night import simulate_night

RUN = "`sla1 run`, whole night, notebooks and HTML"
BIN = Path(sys.executable).parent
CAMERA = CHECKOUT / "params" / "qhy42pro.yaml"
LONG = 200
NIGHTS, NIGHTS_WITH_REPORTS = 10, 6  # of full size in a batch


def command(*words):
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


def job(name, sessions) -> dict:
    words = [sys.executable, Path(__file__).with_name("jobs.py"), name, sessions]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


@pytest.fixture(scope="module")
def night_file(sessions):
    path = sessions / "night.yaml"
    names = {name: getattr(Parameters(), name) for name in ("capture_date", "capture_time", "object_name")}
    path.write_text(json.dumps({"sessions_directory": str(sessions)} | names), encoding="utf-8")
    return path


def test_run_of_ours(benchmark, comparison, night_file, tmp_path):
    command(BIN / "sla1", "--help")
    comparison.ours(
        benchmark, RUN, lambda: command(BIN / "sla1", "run", CAMERA, night_file, "--outputs", tmp_path), rounds=1
    )
    (index,) = tmp_path.glob("*/*/*/index.html")
    assert {path.stem for path in index.parent.glob("0*.html")} == {path.stem for path in night_notebooks()}
    size = sum(path.stat().st_size for path in index.parent.iterdir()) / 1e6
    comparison.rows.append(Row("a published night on disk", "55 MB", size, 55.0, 1.0, True, "MB"))


def test_run_by_hand(benchmark, comparison, night_file, tmp_path):
    def by_hand():
        executed = [tmp_path / source.name for source in night_notebooks()]
        for source, target in zip(night_notebooks(), executed, strict=True):
            command(BIN / "papermill", source, target, "-f", CAMERA, "-f", night_file)
        for target in executed:
            command(BIN / "jupyter", "nbconvert", "--to", "html", target)

    comparison.peer(
        benchmark,
        RUN,
        "`papermill` three times, then `jupyter nbconvert` three times",
        by_hand,
        wanted=0.25,
        rounds=1,
        at_most=True,
    )
    assert len(list(tmp_path.glob("*.html"))) == 3


def test_run_step_by_step(comparison, night_file, sessions, tmp_path):
    """State where a run's seconds go, and how far it is from doing one thing after the other."""
    start = time.perf_counter()
    command(BIN / "sla1", "run", CAMERA, night_file, "--no-notebooks", "--outputs", tmp_path)
    bare = time.perf_counter() - start
    seconds = job("steps", sessions)["steps"]
    whole, run = sum(seconds.values()), comparison.seconds.get(RUN)
    said = (
        ""
        if run is None
        else f" `sla1 run` took {run:.1f} s, {run / whole:.2f} of that; {bare:.1f} s without notebooks."
    )
    rows = [(name, f"{value:.2f} s", f"{value / whole:.0%}") for name, value in seconds.items()]
    heading = ["## Where the time of `sla1 run` goes", "", "One thing after the other, kernels included:", ""]
    text = [*heading, *table(("step", "time", "share"), rows), "", f"In all {whole:.1f} s.{said}"]
    comparison.tables.append("\n".join(text))


def test_measure_alone(comparison, sessions):
    ours, theirs = (job(name, sessions) for name in ("measure", "by_hand"))
    work, against = "`measure_night`, imports included", "the observers' computation, in sample"
    comparison.rows.append(Row(work, against, ours["seconds"], theirs["seconds"], 0.6, True))
    comparison.rows.append(Row("the same, peak memory", against, ours["peak"], theirs["peak"], 0.5, True, "MiB"))
    comparison.rows.append(Row("the same, peak memory", "350 MiB", ours["peak"], 350.0, 1.0, True, "MiB"))


def test_batch_with_reports(comparison, sessions, tmp_path):
    copies(Parameters(sessions_directory=str(sessions)).capture_directory, tmp_path / "in", NIGHTS_WITH_REPORTS)
    seen = batch(tmp_path / "in", tmp_path / "out", CAMERA, 2)
    work = f"`sla1 batch --workers 2`, seconds a night ({60 / seen.pace:.1f} nights a minute)"
    comparison.rows.append(Row(work, "7 a minute", seen.pace, 60 / 7, 1.0, True))
    work = "the same, largest worker after the last night"
    comparison.rows.append(Row(work, "250 MiB", seen.memory[-1][1], 250.0, 1.0, True, "MiB"))


def test_batch_and_change_of_cuts(comparison, sessions, tmp_path):
    """Other cuts of published nights are a selection: nothing is measured again."""
    copies(Parameters(sessions_directory=str(sessions)).capture_directory, tmp_path / "in", NIGHTS)
    first, again = (
        batch(tmp_path / "in", tmp_path / "out", CAMERA, 2, "--no-notebooks", "-p", "ratio", ratio)
        for ratio in ("0.3", "0.35")
    )
    work = f"the same, `--no-notebooks` ({60 / first.pace:.1f} nights a minute)"
    comparison.rows.append(Row(work, "20 a minute", first.pace, 3.0, 1.0, True))
    work = "a change of cuts over these nights, seconds a night"
    comparison.rows.append(Row(work, "measured anew", again.pace, first.pace, 0.15, True))


def test_long_night(comparison, sessions, tmp_path):
    short = job("find", sessions)
    parameters = Parameters(sessions_directory=str(tmp_path))
    paths = simulate_night(parameters.capture_directory, frames=LONG)
    long = job("find", tmp_path)
    for path in paths:
        os.unlink(path)
    work = f"master and held-out leaders at the floor, {LONG} frames"
    comparison.rows.append(Row(work, "10 frames", long["seconds"], short["seconds"], 40, True))
    comparison.rows.append(Row(f"peak memory, {LONG} frames", "1 GiB", long["peak"], 1024.0, 1.0, True, "MiB"))
    comparison.done.add("runs")
