"""A command in surroundings that are not as they should be: closed streams, few files, a folder with programs in it."""

import os
import subprocess
import sys

import pytest
from small_nights import parameters_of

from sla1tools.parameters import to_yaml
from sla1tools.simulate.night import simulate_night


@pytest.fixture
def folder(tmp_path):
    """A folder with a small night and its parameters file."""
    parameters = parameters_of(tmp_path / "sessions", (64, 64), injections=50)
    simulate_night(parameters.capture_directory, frames=4, shape=(64, 64))
    (tmp_path / "night.yaml").write_text(to_yaml(parameters), encoding="utf-8")
    return tmp_path


def in_shell(script, **options):
    """Run a line of a shell in which $SLA1 is the command."""
    environment = os.environ | {"SLA1": f"{sys.executable} -m sla1tools"} | options.pop("env", {})
    return subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, timeout=300, **options)


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell's")
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("$SLA1 check night.yaml >&-", ""),
        ("$SLA1 check night.yaml <&- >&- 2>&-", ""),
        ("ulimit -n 64; $SLA1 check night.yaml", "4 used of 5"),
        ("PYTHONOPTIMIZE=2 $SLA1 check night.yaml", "4 used of 5"),
        ('echo \'open("told", "w")\' | tee numpy.py random.py >click.py; $SLA1 check night.yaml && ls', "4 used of 5"),
    ],
    ids=["no output", "no streams", "64 files", "optimized", "programs in the folder"],
)
@pytest.mark.slow
def test_check_works_wherever_it_is_begun(folder, script, said):
    run = in_shell(script, cwd=folder)
    assert run.returncode == 0, run.stderr
    assert said in run.stdout
    assert "told" not in run.stdout.split()


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell's")
@pytest.mark.parametrize(
    ("command", "made"),
    [
        ("init home", "home/params/qhy42pro.yaml"),
        ("simulate other/2024-05-09/1/Dark --frames 3 --shape 48 56", "other/2024-05-09/1/Dark/00003.fits"),
        ("params sessions/*/*/* --to own.yaml", "own.yaml"),
        ("trends --outputs outputs", "outputs/index.html"),
        ("run night.yaml --outputs outputs", "outputs/*/*/*/index.html"),
        ("batch night.yaml --outputs outputs", "outputs/*/*/*/index.html"),
    ],
)
@pytest.mark.slow
def test_every_command_works_optimized_and_without_streams(folder, command, made):
    (folder / "outputs").mkdir()
    run = in_shell(f"PYTHONOPTIMIZE=2 $SLA1 {command} <&- >&- 2>&-", cwd=folder)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert list(folder.glob(made))


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell's")
@pytest.mark.parametrize(
    ("command", "status", "said"),
    [("forget 2024-05-08/03_38_48/Dark30s", 1, "Aborted!"), ("psf no.fits -f night.yaml", 3, "no.fits: cannot")],
)
@pytest.mark.slow
def test_what_cannot_be_done_is_told_without_an_open_stdin(folder, command, status, said):
    run = in_shell(f"PYTHONOPTIMIZE=2 $SLA1 {command} <&- >&-", cwd=folder)
    assert run.returncode == status
    assert said in run.stderr.strip().splitlines()[-1]


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a current folder cannot be deleted")
def test_a_current_folder_that_is_gone_is_named(folder):
    (folder / "gone").mkdir()
    run = in_shell(f'rmdir "$PWD"; $SLA1 check "{folder / "night.yaml"}"', cwd=folder / "gone")
    assert (run.returncode, run.stderr) == (2, "sla1: the current folder is gone: change to another, and run again\n")
