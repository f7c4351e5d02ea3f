"""Pace and memory of `sla1 batch` on copies of one simulated night, with one worker and with two.

``python benchmarks/bench_batch.py [NIGHTS [SIDE [FRAMES]]]`` prints the table of docs/cluster.md, a row with notebooks
and one without. It wants two free cores.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from sla1tools.simulate.night import simulate_night

SLA1 = [sys.executable, "-P", "-c", "from sla1tools.cli import main; main()"]
NIGHT = Path("03_38_48") / "Dark30s"
HEAD = ("nights", "one worker", "two workers", "ratio", "client", "largest worker")


@dataclass(frozen=True)
class Batch:
    """What was seen of a batch: seconds from its start to each night's end, and MiB of client and largest worker."""

    workers: int
    ends: list[float]
    memory: list[tuple[float, float]]

    @property
    def pace(self) -> float:
        """Seconds a night, from the first that ended of each worker to the last: without start and end of the batch."""
        return (self.ends[-1] - self.ends[self.workers - 1]) / (len(self.ends) - self.workers)


def copies(frames: Path, sessions: Path, nights: int) -> None:
    """Link a night's frames under so many dates."""
    for k in range(nights):
        folder = sessions / f"{2024 + k // 336}-{1 + k // 28 % 12:02d}-{1 + k % 28:02d}" / NIGHT
        folder.mkdir(parents=True)
        for path in frames.iterdir():
            os.link(path, folder / path.name)


def batch(sessions: Path, outputs: Path, camera: Path, workers: int, *options) -> Batch:
    """Run all nights below a folder."""
    words = ["--sessions", sessions, "-f", camera, "--outputs", outputs, "--workers", workers, *options]
    start, ends, sizes = time.perf_counter(), [], []
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen([*SLA1, "batch", *map(str, words)], **quiet) as program:
        client = psutil.Process(program.pid)
        for line in program.stdout:
            if line.startswith("failed"):
                raise SystemExit(line)
            if line.startswith(("ok", "degraded")):
                ends.append(time.perf_counter() - start)
                sizes.append(memory(client))
    return Batch(workers, ends, sizes)


def memory(client: psutil.Process) -> tuple[float, float]:
    """Resident memory of the client and of its largest worker, MiB; kernels are not counted."""
    sizes = [0]
    for worker in client.children():
        try:
            sizes.append(worker.memory_info().rss)
        except psutil.Error:  # it ended while it was asked
            continue
    return client.memory_info().rss / 2**20, max(sizes) / 2**20


def main(nights: int = 20, side: int = 128, frames: int = 6) -> None:
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        camera = root / "camera.yaml"
        camera.write_text(f"frame_shape: [{side}, {side}]\n")
        simulate_night(root / "frames", frames=frames, shape=(side, side))
        copies(root / "frames", root / "sessions", nights)
        for told, *options in (("notebooks run",), ("notebooks left out", "--no-notebooks")):
            one, two = (
                batch(root / "sessions", root / f"{workers}{told}", camera, workers, *options) for workers in (1, 2)
            )
            sizes = [f"{one.memory[nights // 4][n]:.0f} → {one.memory[-1][n]:.0f} MiB" for n in (0, 1)]
            paces = [f"{60 / seen.pace:.1f} nights/min" for seen in (one, two)]
            cells = (f"{nights} of {frames} frames of {side} x {side}, {told}", *paces, f"{one.pace / two.pace:.1f}")
            print(f"| {' | '.join([*cells, *sizes])} |", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
