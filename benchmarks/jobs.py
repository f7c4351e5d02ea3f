"""What must be measured in a process of its own: peak memory, and where the time of `sla1 run` goes.

``python jobs.py JOB SESSIONS`` prints one JSON object.
"""

import json
import resource
import sys
import time
import warnings
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from sla1tools.parameters import Parameters


def peak_memory() -> float:
    """Peak resident memory of this process, MiB.

    Not from `ru_maxrss` where there is a choice: Linux hands it on from the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)


def measure(parameters) -> dict:
    """Measure a night, as `sla1 run` does first."""
    from sla1tools.measure import measure_night

    measure_night(parameters)
    return {}


def by_hand(parameters) -> dict:
    """Run the observers' computation."""
    import observers

    warnings.simplefilter("ignore")
    observers.run(parameters)
    return {}


def find(parameters) -> dict:
    """Combine the frames and find the held-out leaders at the floor."""
    from flashes import flashes

    from sla1tools.frames.capture import judge_capture

    night = judge_capture(parameters)
    start = time.perf_counter()
    leaders = flashes(night, 120.0)  # electrons, three times the noise
    return {"seconds": time.perf_counter() - start, "leaders": sum(map(len, leaders))}


def kernels(parameters) -> dict:
    """Do what `sla1 run` does, one thing after the other, each with its seconds."""
    clock = Clock()
    import pickle

    import papermill

    from sla1tools.measure import measure_night
    from sla1tools.night import PICKLE
    from sla1tools.run.night import night_notebooks
    from sla1tools.run.notebooks import QuietKernelManager
    from sla1tools.run.products import write_products
    from sla1tools.show.pages import export_html

    clock.note("imports")
    with TemporaryDirectory() as folder:
        staging = Path(folder)
        measurement = measure_night(parameters)
        clock.note("measure_night")
        (staging / PICKLE).write_bytes(pickle.dumps(measurement, protocol=pickle.HIGHEST_PROTOCOL))
        clock.note("hand-over to the kernels")
        write_products(measurement, staging)
        clock.note("products")
        values = parameters.model_dump(mode="json") | {"products_directory": folder}
        notebooks = {}
        for source in night_notebooks():
            target = staging / source.name
            papermill.execute_notebook(
                source,
                target,
                values,
                kernel_name="python3",
                progress_bar=False,
                kernel_manager_class=QuietKernelManager,
            )
            whole = clock.read()
            export_html(target, target.with_suffix(".html"))
            notebooks[source.stem] = _cell_seconds(target) | {"whole": whole, "export": clock.read()}
    return {"steps": clock.steps, "notebooks": notebooks}


class Clock:
    """Seconds since it was last read."""

    def __init__(self):
        self.steps = {}
        self.last = time.perf_counter()

    def read(self) -> float:
        now = time.perf_counter()
        self.last, seconds = now, now - self.last
        return seconds

    def note(self, name):
        self.steps[name] = self.read()


def _cell_seconds(path) -> dict:
    """What an executed notebook says of itself: its start, the cell of imports, the other cells, in seconds."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    opening = next(i for i, cell in enumerate(cells) if "open_night(" in cell.source)
    seconds = [cell.metadata.papermill["duration"] for cell in cells]
    begun = [datetime.fromisoformat(part.papermill["start_time"]) for part in (notebook.metadata, cells[0].metadata)]
    return {
        "start": (begun[1] - begun[0]).total_seconds(),
        "opening": sum(seconds[: opening + 1]),
        "cells": sum(seconds[opening + 1 :]),
    }


if __name__ == "__main__":
    job, sessions = sys.argv[1:]
    answer = {"measure": measure, "by_hand": by_hand, "find": find, "kernels": kernels}[job](
        Parameters(sessions_directory=sessions)
    )
    print(json.dumps(answer | {"peak": peak_memory()}))
