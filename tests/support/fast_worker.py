"""Loaded into dask workers by the tests of batches, and told what to do by the environment.

`SLA1_TEST_NOTEBOOKS`: notebooks of tests/notebooks to run instead of the real ones. `SLA1_TEST_RUNS`: a file that gets
a line for every night that is begun. `SLA1_TEST_KILL`, "worker notebook FILE": who dies (kill -9) and when (start,
notebook, publish), once, which the file remembers. `SLA1_TEST_DEADLY`: date of a night that kills
whoever runs it. `SLA1_TEST_VERSION`: another version of the package.

Importing it changes nothing: dask calls `dask_setup` in a worker's process, and in no other.
"""

import itertools
import os
import signal
import threading
from pathlib import Path

import psutil
from processes import kernels_of

import sla1tools
from sla1tools.measure import measure_night
from sla1tools.run import night, notebooks, workers
from sla1tools.run import publishing as publish
from sla1tools.run.notebooks import execute

NOTEBOOKS = Path(__file__).parent / "notebooks"
WHOM, WHEN, ONCE = os.environ.get("SLA1_TEST_KILL", "nobody never -").split(maxsplit=2)


def dask_setup(worker):
    sla1tools.__version__ = os.environ.get("SLA1_TEST_VERSION", sla1tools.__version__)
    workers.run_night = with_light_notebooks
    night.measure_night, notebooks.execute, publish.os = counted, killed_midway, Renaming()


def with_light_notebooks(parameters, outputs, notebooks, **options):
    names = os.environ.get("SLA1_TEST_NOTEBOOKS", "").split()
    return night.run_night(parameters, outputs, [NOTEBOOKS / f"{name}.ipynb" for name in names], **options)


def kill(moment):
    if moment != WHEN:
        return
    try:
        Path(ONCE).touch(exist_ok=False)
    except FileExistsError:
        return
    # The batch that began a worker names itself: a parent's number could be another program's by now.
    victims = {
        "worker": lambda: [os.getpid()],
        "client": lambda: [client()],
        "kernel": lambda: [kernel.pid for kernel in kernels_of()],
    }[WHOM]()
    for pid in victims:
        os.kill(pid, signal.SIGKILL)


def client():
    parent = psutil.Process().parent()
    if parent is None or "batch" not in parent.cmdline():
        raise RuntimeError("the worker was not begun by a batch")
    return parent.pid


def counted(parameters, progress):
    if "SLA1_TEST_RUNS" in os.environ:
        with open(os.environ["SLA1_TEST_RUNS"], "a") as file:
            file.write(f"{publish.night_path(parameters).as_posix()}\n")
    kill("start")
    if parameters.capture_date == os.environ.get("SLA1_TEST_DEADLY"):
        os.kill(os.getpid(), signal.SIGKILL)
    return measure_night(parameters, progress)


def killed_midway(source, target, values, timeout, before_cell):
    begun = itertools.count()

    def before(opens_night):
        if next(begun) == 3:  # the injected cell is one of its own
            threading.Timer(0.2, kill, ["notebook"]).start()
        before_cell(opens_night)

    if WHEN == "notebook" and Path(ONCE).exists():
        source = source.with_name("good.ipynb")  # the one that was killed would not end
    return execute(source, target, values, timeout, before)


class Renaming:
    """The module os for publish.py: a swap may end between its two renamings."""

    def __getattr__(self, name):
        return getattr(os, name)

    @staticmethod
    def replace(old, new):
        if publish.STAGING in Path(old).parts and publish.ASIDE not in Path(new).parts:
            kill("publish")
        os.replace(old, new)
