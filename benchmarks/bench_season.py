"""Processor seconds and memory of a season's sum, gallery and page, on copies of one published night.

``python benchmarks/bench_season.py NIGHT [NIGHTS]``: NIGHT is a published night's folder, of which NIGHTS copies (hard
links, on NIGHT's own disk, in a folder beside the outputs that is removed again) are summed up. It prints a row of the
table in docs/cluster.md, and the figures around it.
"""

import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

from sla1tools.nights.gallery import season_candidates
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


def timed(action):
    """Do something: what it gave, and its seconds of the processor."""
    start = time.process_time()
    done = action()
    return done, time.process_time() - start


def main(night: str, nights: str = "1000") -> None:
    """Measure."""
    source = Path(night).absolute()
    outputs = Path(tempfile.mkdtemp(prefix="bench-season-", dir=source.parents[3]))
    try:
        copies(source, outputs, int(nights))
        records, read = timed(lambda: read_nights(outputs))
        season, added = timed(lambda: sum_season(records, outputs))
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)
        _, gallery = timed(lambda: season_candidates(season, outputs))
        page, first = timed(lambda: write_trends(outputs))
        _, again = timed(lambda: write_trends(outputs))
        sizes = [f"`{path.name}` {path.stat().st_size / 1e6:.1f} MB" for path in sorted(page.parent.glob("*.html"))]
        print("| nights | manifests, summaries, headers read | counts added up | most memory |\n|---|---|---|---|")
        print(f"| {len(season.nights):,} | {read:.1f} s | {added:.1f} s | {most:.0f} MiB |")
        print(f"\nA night's gallery: {1000 * gallery / len(season.nights):.1f} ms. {', '.join(sizes)}.")
        print(f"All at the end of a batch: {first:.1f} s; where flagged pixels were listed before, {again:.1f} s.")
    finally:
        shutil.rmtree(outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
