"""Kernels among the processes that a program began: programs of their own, or forks of its nursery."""

import os
from contextlib import suppress

import psutil

NURSERY = "sla1tools.run.nursery"


def kernels_of(pid: int | None = None) -> list[psutil.Process]:
    """Kernels that run below a process, by default this one."""
    found = []
    for child in psutil.Process(os.getpid() if pid is None else pid).children(recursive=True):
        with suppress(psutil.Error):  # it ended while it was asked
            words = " ".join(child.cmdline())
            forked = NURSERY in words and NURSERY in " ".join(child.parent().cmdline())
            if child.status() != psutil.STATUS_ZOMBIE and (forked or "ipykernel" in words):
                found.append(child)
    return found
