"""A program that imports what notebooks import, and is forked for every kernel that is asked for.

It has one thread and no socket, runs nothing of anybody's, and ends when its standard input does: with the program that
began it, however that ended. Its kernels look for it every second, and end without it.
"""

import gc
import importlib
import json
import os
import signal
import sys

IMPORTED = (  # what a kernel imports when it starts, and the notebooks of a night; another's own imports come on top
    *("ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.zmqshell", "ipykernel.debugger"),
    *("IPython.core.completer", "IPython.core.debugger", "IPython.extensions.storemagic", "sqlite3", "psutil"),
    *("tornado.platform.asyncio", "contourpy", "PIL.JpegImagePlugin"),
    *("sla1tools.night", "sla1tools.show.characterization", "sla1tools.show.explorer.widget"),
    *("sla1tools.show.curves", "sla1tools.show.psf_page", "astropy.io.misc.yaml", "ccdproc"),
)


def main() -> None:
    """Answer every line, which is JSON of a kernel's arguments, environment and folder, with its process's number."""
    sys.modules["debugpy"] = None  # type: ignore[assignment]  # a run is not debugged: its kernels need not import it
    for name in IMPORTED:
        importlib.import_module(name)
    del sys.modules["debugpy"]
    gc.freeze()  # else a kernel that looks for garbage copies all of this
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a kernel ended
    for line in sys.stdin:
        if os.fork() == 0:
            _become_kernel(**json.loads(line))
            return


def _become_kernel(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nursery = os.getppid()
    os.setsid()  # a signal to it is not one to its siblings
    print(os.getpid(), flush=True)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    import numpy as np
    from ipykernel.kernelapp import IPKernelApp

    np.random.seed()  # noqa: NPY002  # of those who use it still: not the same in every kernel
    IPKernelApp.launch_instance([*arguments, f"--IPKernelApp.parent_handle={nursery}"])


if __name__ == "__main__":
    main()
