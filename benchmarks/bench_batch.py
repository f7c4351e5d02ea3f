"""Nights per minute of `sla1 batch` with one worker and with two, and memory over the nights.

``python benchmarks/bench_batch.py [NIGHTS [SIDE [FRAMES]]]`` prints a table. It wants two free cores.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from sla1tools.simulate.night import simulate_night

SLA1 = [sys.executable, "-c", "from sla1tools.cli import main; main()"]


def memory(client: psutil.Process) -> tuple[float, float]:
    """Resident memory, MiB, of the client and of its largest worker (its kernels are not counted)."""
    sizes = []
    for worker in client.children():
        try:
            sizes.append(worker.memory_info().rss)
        except psutil.Error:
            continue
    return client.memory_info().rss / 2**20, max(sizes, default=0) / 2**20


def run(sessions: Path, outputs: Path, camera: Path, workers: int) -> dict:
    """Run all nights; seconds from the first finished night to the last, and memory at both."""
    command = [*SLA1, "batch", "--sessions", sessions, "-f", camera, "--outputs", outputs, "--workers", str(workers)]
    start, seen = time.perf_counter(), []
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as batch:
        client = psutil.Process(batch.pid)
        for line in batch.stdout:
            if line.startswith(("ok", "degraded", "failed")):
                seen.append((line.split()[0], time.perf_counter() - start, *memory(client)))
    if {verdict for verdict, *_ in seen} & {"failed"}:
        raise SystemExit("a night failed")
    return {"whole": time.perf_counter() - start, "seen": seen}


def single(sessions: Path, outputs: Path, camera: Path) -> float:
    """Seconds of `sla1 run` on the first night, its kernels side by side."""
    night = next(sessions.iterdir())
    keys = {"sessions_directory": sessions, "capture_date": night.name, "capture_time": "03_38_48"}
    overrides = [text for key, value in keys.items() for text in ("-p", key, str(value))]
    command = [*SLA1, "run", camera, *overrides, "-p", "object_name", "Dark30s", "--outputs", outputs]
    start = time.perf_counter()
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return time.perf_counter() - start


def main(nights: int = 20, side: int = 128, frames: int = 6) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sessions, camera = root / "sessions", root / "camera.yaml"
        camera.write_text(f"frame_shape: [{side}, {side}]\ninjections: 500\n")
        for k in range(nights):
            date = f"2024-{1 + k // 28:02d}-{1 + k % 28:02d}"
            simulate_night(sessions / date / "03_38_48" / "Dark30s", frames=frames, shape=(side, side), seed=k)
        print(
            f"{nights} nights of {frames} frames of {side} x {side}, "
            f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        )
        print(f"sla1 run, one night: {single(sessions, root / 'single', camera):.1f} s")
        print("| workers | nights/min | s/night/worker | whole [s] | client [MiB] | worker [MiB] | load |")
        print("|---|---|---|---|---|---|---|")
        for workers in (1, 2):
            told = run(sessions, root / f"out{workers}", camera, workers)
            seen = told["seen"]
            pace = (len(seen) - workers) / (seen[-1][1] - seen[workers - 1][1])
            sizes = [f"{seen[len(seen) // 4][n]:.0f} → {seen[-workers][n]:.0f}" for n in (2, 3)]
            row = (workers, f"{60 * pace:.1f}", f"{workers / pace:.1f}", f"{told['whole']:.0f}", *sizes)
            print("|", " | ".join(map(str, row)), f"| {os.getloadavg()[0]:.1f} |", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
