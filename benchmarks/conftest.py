"""One night on disk for all rows, the comparison they fill, and the table at the end."""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # its threads spin after import, here and in every process started here

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from comparison import Comparison, markdown

from sla1tools.darks.model import characterize
from sla1tools.frames.capture import judge_capture
from sla1tools.parameters import Parameters
from sla1tools.simulate.night import simulate_night

RESULTS = Path(__file__).with_name("RESULTS.md")
COMPARISON = pytest.StashKey[Comparison]()


def pytest_configure(config):
    config.stash[COMPARISON] = Comparison()


@pytest.fixture(scope="session")
def comparison(request):
    """Where every row goes."""
    return request.config.stash[COMPARISON]


@pytest.fixture(scope="session")
def sessions(tmp_path_factory):
    """A sessions folder with the default night: ten simulated frames of 2048 x 2048, in the page cache."""
    folder = tmp_path_factory.mktemp("sessions")
    simulate_night(Parameters(sessions_directory=str(folder)).capture_directory)
    return folder


@pytest.fixture(scope="session")
def parameters(sessions):
    return Parameters(sessions_directory=str(sessions))


@pytest.fixture(scope="session")
def night(parameters):
    return judge_capture(parameters)


@pytest.fixture(scope="session")
def dark(night):
    return characterize(night)


def pytest_terminal_summary(terminalreporter):
    """Print the table; write it where the whole benchmark ran and nothing failed."""
    comparison = terminalreporter.config.stash[COMPARISON]
    if not comparison.rows:
        return
    text = markdown(comparison)
    terminalreporter.section("side by side")
    terminalreporter.write_line(text)
    counts = {name: len(terminalreporter.stats.get(name, [])) for name in ("failed", "error", "deselected")}
    if comparison.done == {"kernels", "runs"} and not any(counts.values()):
        RESULTS.write_text(text, encoding="utf-8")
        terminalreporter.write_line(f"written to {RESULTS.name}")
