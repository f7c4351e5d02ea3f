"""Seconds and memory of a season's sum and page, on copies of one published night.

``python benchmarks/bench_season.py NIGHT [NIGHTS]``: NIGHT is a published night's folder, of which NIGHTS copies (hard
links, on NIGHT's own disk, in a folder beside the outputs that is removed again) are summed up.
"""

import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

from sla1tools.nights.season import sum_season
from sla1tools.nights.trends import read_nights
from sla1tools.run.season import write_trends


def copies(night: Path, outputs: Path, nights: int) -> None:
    """Link a night's files under so many dates."""
    for number in range(nights):
        day = f"{2000 + number // 336}-{1 + number // 28 % 12:02d}-{1 + number % 28:02d}"
        folder = outputs / day / night.parts[-2] / night.parts[-1]
        folder.mkdir(parents=True)
        for path in night.iterdir():
            os.link(path, folder / path.name)


def measured(name: str, action):
    """Do something; print its seconds, those of the processor, and the most memory so far."""
    wall, processor = time.perf_counter(), time.process_time()
    done = action()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{name:32} {wall:7.1f} s, of the processor {processor:6.1f} s, at most {most:4.0f} MiB", flush=True)
    return done


def main(night: str, nights: str = "1000") -> None:
    """Measure."""
    source = Path(night).absolute()
    outputs = Path(tempfile.mkdtemp(prefix="bench-season-", dir=source.parents[3]))
    try:
        copies(source, outputs, int(nights))
        records = measured(f"{nights} nights read", lambda: read_nights(outputs))
        season = measured("counts added up", lambda: sum_season(records, outputs))
        print(f"{season.frames:,} frames of {len(season.nights):,} nights, {len(season.left_out)} left out")
        page = measured("page of all nights, first time", lambda: write_trends(outputs))
        measured("page of all nights, again", lambda: write_trends(outputs))
        print({path.name: f"{path.stat().st_size / 1e6:.1f} MB" for path in page.parent.glob("*.html")})
    finally:
        shutil.rmtree(outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
