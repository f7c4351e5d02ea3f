"""`make soak`: kill -9 of whole runs at random moments, over and over, and what the next command makes of it.

Nights are published with files of the user's among their outputs; each run is over an earlier one, with the other of
two settings. After every kill the next command settles what is left, and is itself killed now and then. A night's
folder must then be the old one to the byte, or wholly the new one, as runs that nobody disturbed gave it: what is in
between, a lost file of the user's, another night that changed, or anything left over, is a loss.
"""

import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
from forked_runs import Run, begin, contents, is_whole, write_night

from sla1tools.published import MANIFEST, MARK, PAGES
from sla1tools.run import publishing as publish

SETTINGS = {"one": ("-p", "threshold", "200.0"), "other": ("-p", "threshold", "150.0")}
OWN = {f"notes {number} [x] {{y}} é.txt": f"mine {number}" for number in range(30)} | {"plots/deep/a.png": "mine too"}
OF_THE_MOMENT = ("index.html", MANIFEST)  # they say when they were written
MOMENTS = (  # once this file is there, within so many seconds; at first, anywhere in the run
    None,
    (publish.STAGING, "good.ipynb", 1.0),
    (publish.STAGING, MANIFEST, 0.02),
    (publish.ASIDE, MANIFEST, 0.002),
)
WHOM = ("sla1", "sla1", "sla1 and its kernels", "its kernels")


class Soak:
    """Some published nights, and the tally of what befell them."""

    def __init__(self, root: Path, nights: int, seed: int):
        self.root, self.outputs, self.random = root, root / "outputs [1] {a}", random.Random(seed)
        self.files = {f"2024-05-{day:02d}": None for day in range(1, nights + 1)}
        self.stages, self.ends, self.losses, self.kernels = Counter(), Counter(), [], set()
        self.kills, self.kills_of_settling, self.late = 0, 0, 0
        self.expected, self.setting = {}, {}
        for number, date in enumerate(self.files, start=1):
            self.files[date] = write_night(root, date, seed=number)
            for setting in reversed(SETTINGS):
                begun = time.monotonic()
                if (run := self.run(date, setting)).wait():
                    raise RuntimeError(run.told())
                self.seconds = time.monotonic() - begun
                self.expected[date, setting] = self.lasting(date)
            self.setting[date] = "one"
            for name, text in OWN.items():
                path = self.place(date) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        self.own = {name: sha for name, sha in contents(self.place(date)).items() if name in OWN}

    def place(self, date: str) -> Path:
        return self.outputs / date / "03_38_48" / "Dark30s"

    def run(self, date: str, setting: str) -> Run:
        return begin("run", self.files[date], *SETTINGS[setting], "--outputs", self.outputs)

    def lasting(self, date: str) -> dict[str, str]:
        """What a night's folder holds, but for the files that say when they were written."""
        return {name: sha for name, sha in contents(self.place(date)).items() if name not in OF_THE_MOMENT}

    def kill_one(self) -> None:
        """Begin a run, kill it, let the next command settle it, and look at everything."""
        date = self.random.choice(list(self.files))
        setting = "one" if self.setting[date] == "other" else "other"
        before = {other: contents(self.place(other)) for other in self.files}
        run, whom = self.run(date, setting), self.random.choice(WHOM)
        self.wait_for_a_moment(date, run)
        told = self.kill(run, whom)
        if told is None:
            self.late += 1
        else:
            self.kills += 1
            self.stages[self.stage(date, told)] += 1
        self.settle()
        after = {other: contents(self.place(other)) for other in self.files}
        complaints = [f"{other} changed" for other in self.files if other != date and after[other] != before[other]]
        complaints += [f"left over: {name}" for name in self.leftovers()]
        new = self.lasting(date) == self.expected[date, setting] | self.own and is_whole(self.place(date))
        if new:
            self.setting[date] = setting
        elif after[date] != before[date]:
            complaints.append(
                f"{date} is neither old nor new: {sorted(set(after[date].items()) ^ set(before[date].items()))}"
            )
        self.ends["new" if new else "old"] += told is not None
        self.losses += [f"after kill {self.kills}, {told!r}: {complaint}" for complaint in complaints]

    def wait_for_a_moment(self, date: str, run: Run) -> None:
        moment = self.random.choice(MOMENTS)
        if moment is None:
            time.sleep(self.random.uniform(0, 0.9 * self.seconds))
            return
        slot, name, spread = moment
        awaited = self.outputs / slot / self.place(date).relative_to(self.outputs)
        inside = f"{publish.RUN}*/night/{name}" if slot == publish.STAGING else name
        with suppress(FileNotFoundError):  # a folder that goes while it is looked into: the moment is now
            while not (any(awaited.glob(inside)) or run.has_ended()):
                pass  # asleep, it would miss a swap
        time.sleep(self.random.uniform(0, spread))

    def kill(self, run: Run, whom: str) -> str | None:
        """Kill -9, of `sla1` where there is no kernel yet; what the run had said by then, or None if it had ended."""
        parent = psutil.Process(run.pid)
        kernels = parent.children(recursive=True)
        self.kernels.update(kernels)
        for victim in {"sla1": [parent], "its kernels": kernels or [parent]}.get(whom, [parent, *kernels]):
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        status = run.wait()
        told = run.told()
        return told if status else None

    def stage(self, date: str, told: str) -> str:
        """Where in the run the kill fell: by what the run had said, and by how the folders lie."""
        night = self.place(date).relative_to(self.outputs)
        if (self.outputs / publish.ASIDE / night).exists():
            return "new night in place, old one aside" if self.place(date).exists() else "between the two renames"
        if any((self.outputs / publish.STAGING / night).glob(f"{publish.RUN}*/night/{MANIFEST}")):
            return "new night written, not moved yet"
        said = [line for line in told.splitlines() if not line.startswith(("failed:", "sla1:", "ok:", " "))]
        return f"after '{said[-1]}'" if said else "at the start"

    def settle(self) -> None:
        """The next command; a quarter of them are killed at work, and followed by another."""
        while self.random.random() < 0.25:
            run = begin("trends", "--outputs", self.outputs)
            time.sleep(self.random.uniform(0, 0.05))
            self.kills_of_settling += self.kill(run, "sla1") is not None
        if (run := begin("trends", "--outputs", self.outputs)).wait():
            self.losses.append(f"the next command failed: {run.told()}")

    def leftovers(self) -> list[str]:
        """Files that are neither a night's, nor locks, nor the verdict of a night's last failed run."""
        of_nights = (*self.files, f"{publish.LOCKS}/", f"{publish.FAILED}/", ".trends/", MARK)
        left = [name for name in contents(self.outputs) if not name.startswith(of_nights) and name not in PAGES]
        failed = [path for path in (self.outputs / publish.FAILED).glob("*/*/*/*") if path.suffix not in KEPT]
        staging, aside = self.outputs / publish.STAGING, self.outputs / publish.ASIDE
        folders = [*staging.glob("*/*/*"), *aside.glob("[!.]*/*/*"), *aside.glob(f"{publish.FAILED}/*/*/*")]
        return [*left, *map(str, failed), *map(str, folders)]

    def report(self) -> str:
        lines = [f"{self.kills} runs killed over {len(self.files)} nights; {self.late} had ended before their kill"]
        lines += [f"{count:6}  {stage}" for stage, count in sorted(self.stages.items())]
        lines += [
            f"{self.kills_of_settling:6}  more kills, of the next command",
            f"after the next command: {self.ends['old']} nights wholly old, {self.ends['new']} wholly new",
        ]
        return "\n".join([*lines, f"losses = {len(self.losses)}", *self.losses])


KEPT = (".json", ".ipynb")


def main(kills: int, seed: int) -> int:
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sla1-soak-") as root:
        soak = Soak(Path(root), nights=max(1, min(3, kills // 10)), seed=seed)
        while soak.kills < kills and not soak.losses:
            soak.kill_one()
        _gone, alive = psutil.wait_procs(soak.kernels, timeout=30)
        soak.losses += [f"a kernel outlives its run: {kernel}" for kernel in alive]
        print(soak.report())
    print(f"{len(soak.kernels)} kernels seen, {len(alive)} left alone\n{time.monotonic() - begun:.0f} s, seed {seed}")
    return int(bool(soak.losses))


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:]]
    sys.exit(main(*given, *(120, time.time_ns() % 10**6)[len(given) :]))
