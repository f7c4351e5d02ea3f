"""`sla1` in forks of one program, with light notebooks in place of the real ones: to be starved, or killed.

A fork has everything imported, so that a run costs a second; it is a process of its own in all else. To be imported by
programs with one thread, not by pytest.
"""

import json
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from small_nights import parameters_of

from sla1tools import cli
from sla1tools.parameters import to_yaml
from sla1tools.published import MANIFEST
from sla1tools.published.formats import sha256_of
from sla1tools.run import night
from sla1tools.simulate.night import simulate_night

NOTEBOOKS = Path(__file__).parent / "notebooks"
SHAPE = (48, 56)


@dataclass(frozen=True)
class Run:
    """A command that was begun: its process leads a session of its own, which its kernels are in."""

    pid: int
    output: int

    def wait(self) -> int:
        """Wait for its end; its exit status, or minus the signal that ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def has_ended(self) -> bool:
        """Whether there is nothing left to wait for."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def told(self) -> str:
        """All that it has said, on both streams; to be asked once."""
        try:
            return os.read(self.output, 1_000_000).decode()
        except BlockingIOError:
            return ""
        finally:
            os.close(self.output)


def begin(*arguments, notebooks="good", before=lambda: None) -> Run:
    """Run `sla1` with these arguments in a fork, which calls `before` first."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        os.set_blocking(reading, False)
        return Run(pid, reading)
    os.setsid()
    for stream in (1, 2):
        os.dup2(writing, stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", closefd=False) for stream in (1, 2))  # else as of what was there
    light = [NOTEBOOKS / f"{name}.ipynb" for name in notebooks.split()]
    run_night = night.run_night
    night.run_night = lambda *told, **options: run_night(*told, **options | {"notebooks": light})
    status = 70
    try:
        before()
        cli.main([str(argument) for argument in arguments])
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def write_night(root: Path, date: str = "2024-05-08", seed: int = 1) -> Path:
    """Simulate a small night below the folder; returns its parameters file."""
    parameters = parameters_of(root / "sessions", SHAPE, injections=50, capture_date=date)
    simulate_night(parameters.capture_directory, frames=5, shape=SHAPE, seed=seed)
    path = root / f"{date}.yaml"
    path.write_text(to_yaml(parameters), encoding="utf-8")
    return path


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by relative path; "link" for a link."""
    files = sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    return {str(path.relative_to(folder)): "link" if path.is_symlink() else sha256_of(path) for path in files}


def is_whole(place: Path) -> bool:
    """Whether every file of a finished run is in its folder, byte for byte as its manifest has it."""
    manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    found = contents(place)
    return manifest["exit_status"] == 0 and all(found.get(name) == sha for name, sha in manifest["outputs"].items())
