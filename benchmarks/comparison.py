"""Ours and the peers', side by side: what was timed, the ratio, and whether it is the ratio wanted."""

import importlib.metadata
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

PACKAGES = ("numpy", "scipy", "astropy", "ccdproc", "photutils", "sep", "bottleneck", "papermill", "nbconvert")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    `wanted` is the least ratio of the peer's figure to ours, or with `at_most` the greatest of ours to the peer's.
    """

    work: str
    against: str
    ours: float
    peer: float
    wanted: float
    at_most: bool = False
    unit: str = "s"

    @property
    def ratio(self) -> float:
        """Ours to the peer's where a share is wanted, else how many times ours is the smaller."""
        return self.ours / self.peer if self.at_most else self.peer / self.ours

    @property
    def met(self) -> bool:
        """Whether the ratio is the one wanted."""
        return self.ratio <= self.wanted if self.at_most else self.ratio >= self.wanted

    def cells(self) -> tuple[str, ...]:
        """Texts of the table's columns."""
        ours, theirs = (
            f"{value:.3g} {self.unit}" if value < 100 else f"{value:,.0f} {self.unit}"
            for value in (self.ours, self.peer)
        )
        sign = "≤ " if self.at_most else "≥ "
        ratio = f"{self.ratio:,.0f}" if self.ratio >= 100 else f"{self.ratio:.3g}"
        verdict = "yes" if self.met else "**no**"
        return self.work, ours, self.against, theirs, f"{ratio} ×", f"{sign}{self.wanted:g} ×", verdict


@dataclass
class Comparison:
    """Rows of the table, the results that are compared, and remarks under it; `done` names the parts that ran."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    results: dict[str, object] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)

    def ours(self, benchmark, work: str, function, rounds: int = 3):
        """Time our side of a row; the best of the rounds counts."""
        result = _timed(benchmark, work, "sla1tools", function, rounds)
        self.seconds[work], self.results[work] = benchmark.stats.stats.min, result
        return result

    def peer(self, benchmark, work: str, name: str, function, wanted: float, rounds=3, times=1, at_most=False):
        """Time the peer's side of a row; `times` extrapolates from a part of the work."""
        result = _timed(benchmark, work, name, function, rounds)
        seconds = benchmark.stats.stats.min * times
        self.rows.append(Row(work, name, self.seconds[work], seconds, wanted, at_most))
        return result


def _timed(benchmark, group, name, function, rounds):
    benchmark.group, benchmark.name = group, name
    return benchmark.pedantic(function, rounds=rounds, iterations=1)


def markdown(comparison: Comparison) -> str:
    """Write the table, the machine it was measured on, and the remarks."""
    head = ("work", "ours", "against", "theirs", "ratio", "wanted", "met")
    lines = ["# Side by side", "", machine(), ""]
    lines += table(head, [row.cells() for row in comparison.rows])
    for part in comparison.tables:
        lines += ["", part]
    lines += ["", *(f"- {note}" for note in comparison.notes), ""]
    return "\n".join(lines)


def table(head, rows) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def machine() -> str:
    """Name processor, cores and versions."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return (
        f"Measured on {_processor()}, {os.cpu_count()}"
        f" cores, {platform.system()}, Python {platform.python_version()}, {versions}; OPENBLAS_NUM_THREADS=1."
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
