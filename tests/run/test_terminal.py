"""What `sla1 batch` says on a terminal and off it, and how it ends when the disk is full."""

import errno
import io
import json
import logging
import os
import sys

import pytest

from sla1tools import __version__
from sla1tools.parameters import Parameters
from sla1tools.published import MARK, night_path
from sla1tools.run import batch as batch_module
from sla1tools.run import night as night_module
from sla1tools.run.workers import Job, Outcome, run_one
from sla1tools.simulate.night import simulate_night
from sla1tools.text import moment

SHAPE = (48, 56)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def nights_in(sessions, count):
    keys = {"sessions_directory": str(sessions), "object_name": "Dark 30 s", "frame_shape": SHAPE, "injections": 50}
    return [Parameters(**keys, capture_date=f"2024-05-{number:02d}") for number in range(1, count + 1)]


def told(night, *rest):
    return Outcome(night_path(night).as_posix(), *rest)


@pytest.fixture
def batch(monkeypatch, tmp_path, capsys):
    """Tell of a batch that gives these outcomes: exit status, standard output, standard error."""

    def run(outcomes, screen=None):
        def run_batch(nights, outputs, tell, step):
            for night, outcome in zip(nights, outcomes, strict=True):
                for text in ("frames judged", "\x1b[31mnotebooks run"):
                    step(night_path(night).as_posix(), text)
                tell(outcome)

        monkeypatch.setattr(batch_module, "run_batch", run_batch)
        if screen:
            monkeypatch.setattr(sys, "stderr", screen)
        status = batch_module.run_and_tell(nights_in(tmp_path, len(outcomes)), tmp_path / "outputs")
        captured = capsys.readouterr()
        return status, captured.out, screen.getvalue() if screen else captured.err

    return run


def outcomes_of(tmp_path):
    first, second, third, fourth = nights_in(tmp_path, 4)
    return [
        told(first, "ok", (), 1, 12.5),
        told(second, "degraded", ("1 frame rejected: empty",), 0, 3.0),
        told(third, "failed", ("No space left on device",), None, 0.1),
        told(fourth, "current"),
    ]


def test_one_bar_with_the_state_on_a_terminal(batch, tmp_path):
    status, output, screen = batch(outcomes_of(tmp_path), Terminal())
    assert status == 1
    assert "4 nights of 4 100%" in screen
    assert "2024-05-04/03_38_48/Dark 30 s: \\x1b[31mnotebooks run" in screen
    assert "\x1b[31m" not in screen
    assert len(output.splitlines()) == 4  # three that were run, and the page


def test_the_bar_moves_within_a_night_and_each_has_a_line(tmp_path, monkeypatch):
    """Two nights half done are one of four, and the time to go follows; a word that comes late changes nothing."""
    screen, nights = Terminal(), [night_path(night).as_posix() for night in nights_in(tmp_path, 5)]
    monkeypatch.setattr(sys, "stderr", screen)
    board = batch_module._Board(5)
    board.bar.start_t -= 60
    board.tell(Outcome(nights[4], "current"))
    for night in nights[:2]:
        board.step(night, "stars injected")
    assert (board.bar.n, board.bar.total) == (1.0, 4)
    assert " 25%|" in screen.getvalue()
    assert "01:00, 03:00 to go" in screen.getvalue()
    assert [line.desc for line in board.lines] == [f"{night}: stars injected" for night in nights[:2]]
    board.tell(Outcome(nights[0], "failed", ("too few",)))
    board.step(nights[0], "reports written")
    assert [line.desc for line in board.lines] == [f"{nights[1]}: stars injected", ""]
    assert (board.bar.n, board.bar.total) == (1.5, 4)
    board.close()


def test_lines_and_tally_without_a_terminal(batch, tmp_path):
    _, output, complaints = batch(outcomes_of(tmp_path))
    ok, degraded, failed, page = output.splitlines()
    assert ok.split() == ["ok", "2024-05-01/03_38_48/Dark", "30", "s", "1", "candidate", "12.5", "s"]
    assert degraded.endswith("0 candidates     3.0 s  1 frame rejected: empty")
    assert failed.split()[0] == "failed"
    assert failed.endswith("No space left on device")
    assert page == f"all nights: {tmp_path / 'outputs' / 'index.html'}"
    lines = [line.split() for line in complaints.splitlines()]
    assert lines[:4] == [
        ["1", "ok"],
        ["1", "degraded"],
        ["1", "failed"],
        ["1", "current"],
    ]
    assert (output + complaints).count("No space left on device") == 1
    assert "the logs of what failed are in" in complaints
    assert "%|" not in complaints


def test_the_workers_own_words_are_not_shown(batch, tmp_path):
    batch([])
    assert not logging.getLogger("distributed.scheduler").isEnabledFor(logging.ERROR)


@pytest.mark.slow
def test_a_disk_that_fills_during_a_batch(tmp_path, monkeypatch, capsys):
    """The nights before stay whole, each after says why, the page stays as it was, and nothing is half there."""
    nights, outputs, full = nights_in(tmp_path / "sessions", 3), tmp_path / "outputs", False
    write_products = night_module.write_products

    def write(measurement, directory, published=None):
        write_products(measurement, directory, published)
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def run_batch(nights, outputs, tell, step):
        nonlocal full
        for night in nights:
            simulate_night(night.capture_directory, frames=5, shape=SHAPE, seed=1)
            tell(run_one(Job(night, outputs, False, moment(), __version__, "", notebooks=())))
            full = True

    monkeypatch.setattr(night_module, "write_products", write)
    monkeypatch.setattr(batch_module, "run_batch", run_batch)
    outputs.mkdir()
    (outputs / MARK).touch()
    (outputs / "index.html").write_text("as it was")
    replace = os.replace

    def no_page(old, new):
        if str(new).endswith("index.html"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(old, new)

    monkeypatch.setattr("sla1tools.published.folder.os.replace", no_page)
    assert batch_module.run_and_tell(nights, outputs) == 1
    output, complaints = capsys.readouterr()
    assert [line.split()[0] for line in output.splitlines()] == ["ok", "failed", "failed"]
    assert output.count("No space left on device") == 2
    assert "the page of all nights cannot be written: No space left on device" in complaints
    assert (outputs / "index.html").read_text() == "as it was"
    assert [path.parts[-4] for path in outputs.glob("2*/*/*/manifest.json")] == ["2024-05-01"]
    assert len(list(outputs.glob("2*/*/*"))) == 1
    (failed, _) = outputs.glob(".failed/2*/*/*/manifest.json")
    assert json.loads(failed.read_text())["verdict"] == "failed"
