"""The whole: `sla1 run` against the same notebooks by hand, where its time goes, memory, and a long night."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from comparison import Row, table

from sla1tools.parameters import Parameters
from sla1tools.places import CHECKOUT
from sla1tools.run.night import night_notebooks
from sla1tools.simulate.night import simulate_night

RUN = "`sla1 run`, whole night, notebooks and HTML"
BIN = Path(sys.executable).parent
CAMERA = CHECKOUT / "params" / "qhy42pro.yaml"
LONG = 200


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
        wanted=0.45,
        rounds=1,
        at_most=True,
    )
    assert len(list(tmp_path.glob("*.html"))) == 3


def test_run_kernel_by_kernel(comparison, sessions):
    """State how far a run is above its computations."""
    parts = job("kernels", sessions)
    steps, notebooks = parts["steps"], parts["notebooks"]
    head = ("kernel", "start", "imports and opening", "cells", "shut-down", "export to HTML")
    rows = []
    for name, part in notebooks.items():
        rest = part["whole"] - part["start"] - part["opening"] - part["cells"]
        seconds = (part["start"], part["opening"], part["cells"], rest, part["export"])
        rows.append((f"`{name}`", *(f"{value:.2f} s" for value in seconds)))
    alone = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in steps.items())
    computations = (
        steps["measure_night"] + steps["products"] + sum(part["cells"] + part["export"] for part in notebooks.values())
    )
    in_turn = sum(steps.values()) + sum(part["whole"] + part["export"] for part in notebooks.values())
    run = comparison.seconds.get(RUN)
    said = (
        ""
        if run is None
        else (
            f" `sla1 run` took {run:.1f} s: {run - computations:+.1f} s beside its computations one after the other, "
            f"and {run / in_turn:.2f} of everything in turn."
        )
    )
    text = [
        "## Where the time of `sla1 run` goes",
        "",
        f"In one process, one kernel after the other: {alone}; the three kernels:",
        "",
        *table(head, rows),
        "",
        f"Computations (measure_night, products, cells, exports): {computations:.1f} s; with kernels and imports "
        f"{in_turn:.1f} s in turn.{said}",
    ]
    comparison.tables.append("\n".join(text))


def test_memory(comparison, sessions):
    ours, theirs = (job(name, sessions)["peak"] for name in ("measure", "by_hand"))
    comparison.rows.append(
        Row("peak memory of `measure_night`, one process", "the observers' computation", ours, theirs, 0.5, True, "MiB")
    )


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
