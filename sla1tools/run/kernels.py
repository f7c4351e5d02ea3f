"""Kernels of a run's notebooks: encrypted, moved by nothing of their caller's, and on Linux there at once.

There they are forks of a `nursery`, one for this program; elsewhere each is a program of its own.
"""

import atexit
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner
from traitlets import Unicode, default

from sla1tools.places import HOME, working_folder

INLINE = "module://matplotlib_inline.backend_inline"


def _can_fork() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


FORKS = _can_fork()  # else each kernel is a program of its own
_nurseries: dict[int, subprocess.Popen] = {}  # by the process that began them: what a fork inherits is not its own
_one_asks = threading.Lock()


class QuietKernelManager(AsyncKernelManager):
    """Start kernels that know the working folder, over an encrypted channel; nothing else of their caller's moves them.

    Their current folder is that of the executed notebook. `private` is a folder of their own in it.
    """

    private = Unicode(config=True)

    @default("transport_encryption")
    def _encrypted(self) -> str:
        return "required"  # else every kernel warns that its channel can be read

    @default("log")
    def _nothing_twice(self) -> logging.Logger:
        return logging.Logger(__name__, logging.CRITICAL)  # why a kernel did not start is raised as well

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        """Run this environment's interpreter, whatever kernels are registered, and import nothing from its folder."""
        where = ["-f", os.path.realpath(self.connection_file), "--IPKernelApp.ignore_cwd=True"]
        return [*_program("ipykernel_launcher"), *where, *(extra_arguments or [])]

    async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]  # as its parent: awaited
        private = Path(self.private)
        (private / "matplotlibrc").touch()  # the user's own would change the figures
        environment = {**(options.pop("env", None) or os.environ), **_settings(private), HOME: str(working_folder())}
        self.connection_file = str(private / "connection.json")
        options |= {"env": environment, "cwd": str(private.parent)}
        if FORKS and self.provisioner is None:
            self.kernel_id = str(uuid.uuid4())
            self.provisioner = Forked(kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self)
        # A caller's output may be closed, or be a file that is none of the kernel's business.
        await super().start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)


def _program(module: str) -> list[str]:
    return [sys.executable, "-P", "-m", module]


def _settings(private: str | Path) -> dict[str, str]:
    own = {"IPYTHONDIR": private, "MATPLOTLIBRC": private, "MPLBACKEND": INLINE, "PYTHONSAFEPATH": 1}
    own |= {"PYTHONSTARTUP": "", "PYTHONOPTIMIZE": ""}  # ccdproc needs its docstrings
    return {name: str(value) for name, value in own.items()}


class Forked(LocalProvisioner):
    """Fork a kernel where one would be run."""

    async def launch_kernel(self, cmd: list[str], **options: Any) -> KernelConnectionInfo:
        """Ask the nursery for a kernel of the same arguments, environment and folder."""
        arguments = cmd[len(_program("")) :]
        fork = Fork({"arguments": arguments, "environment": options["env"], "folder": options["cwd"]})
        self.process, self.pid, self.pgid = fork, fork.pid, fork.pid  # type: ignore[assignment]  # it does for a Popen
        return self.connection_info


class Fork:
    """What is asked of a `Popen`, of a process that another one began: nobody can tell how it ended."""

    stdin = stdout = stderr = None

    def __init__(self, asked: dict[str, Any]):
        self.pid = _ask(json.dumps(asked))
        self.descriptor = os.pidfd_open(self.pid)  # of this process alone, whoever gets its number after it

    def poll(self) -> int | None:
        """None while it runs."""
        return 1 if self._ended(0) else None

    def wait(self) -> int:
        """Wait for its end; nothing can be asked of it afterwards."""
        self._ended(None)
        os.close(self.descriptor)
        return 1

    def _ended(self, milliseconds: int | None) -> bool:
        polled = select.poll()
        polled.register(self.descriptor, select.POLLIN)
        return bool(polled.poll(milliseconds))

    def send_signal(self, number: int) -> None:
        """Send a signal; ProcessLookupError where it has ended."""
        signal.pidfd_send_signal(self.descriptor, number)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    terminate = kill


def _ask(line: str) -> int:
    """Return the process number of a new kernel; a nursery that somebody ended is followed by another."""
    with _one_asks:
        for _ in range(2):
            nursery = _nurseries.get(os.getpid()) or _begin()
            assert nursery.stdin
            assert nursery.stdout
            try:
                nursery.stdin.write(line + "\n")
                nursery.stdin.flush()
                if answer := nursery.stdout.readline():
                    return int(answer)
            except BrokenPipeError:
                pass
            _end()
    raise OSError("no kernel could be started")


def _begin() -> subprocess.Popen:
    environment, folder = {**os.environ, **_settings(os.devnull)}, Path(__file__).parent  # where no settings lie
    nursery = _nurseries[os.getpid()] = subprocess.Popen(
        _program("sla1tools.run.nursery"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd=folder,
        text=True,
        start_new_session=True,
    )
    return nursery


@atexit.register
def _end() -> None:
    if nursery := _nurseries.pop(os.getpid(), None):
        nursery.kill()
        nursery.communicate()
