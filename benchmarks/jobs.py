"""What must be measured in a process of its own: peak memory, and where the time of `sla1 run` goes.

``python jobs.py JOB SESSIONS`` prints one JSON object.
"""

import json
import resource
import sys
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

from sla1tools.parameters import Parameters
from sla1tools.places import CHECKOUT


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
    sys.path.insert(0, str(CHECKOUT / "tests" / "support"))
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


def steps(parameters) -> dict:
    """Do what `sla1 run` does, one thing after the other, each with its seconds."""
    clock = Clock()
    from sla1tools.measure import measure_night
    from sla1tools.published.formats import store
    from sla1tools.run.night import night_notebooks
    from sla1tools.run.notebooks import execute
    from sla1tools.run.products import write_products
    from sla1tools.show.pages import export_html

    clock.note("imports")
    with TemporaryDirectory() as folder:
        staging = Path(folder)
        measurement = measure_night(parameters, lambda word: clock.note(f"measuring: {word}"))
        store(measurement, staging / "handed over")
        clock.note("hand-over to the kernels")
        write_products(measurement, staging)
        clock.note("products")
        values = parameters.model_dump(mode="json") | {"products_directory": str(staging / "handed over")}
        for source in night_notebooks():
            execute(source, staging / source.name, values)
            clock.note(f"`{source.stem}`")
            export_html(staging / source.name, (staging / source.name).with_suffix(".html"))
            clock.note(f"`{source.stem}`, export to HTML")
    return {"steps": clock.steps}


class Clock:
    """Seconds of the steps, by name."""

    def __init__(self):
        self.steps = {}
        self.last = time.perf_counter()

    def note(self, name):
        now = time.perf_counter()
        self.last, self.steps[name] = now, now - self.last


if __name__ == "__main__":
    job, sessions = sys.argv[1:]
    begun = time.perf_counter()
    answer = {"measure": measure, "by_hand": by_hand, "find": find, "steps": steps}[job](
        Parameters(sessions_directory=sessions)
    )
    print(json.dumps({"seconds": time.perf_counter() - begun, "peak": peak_memory()} | answer))
