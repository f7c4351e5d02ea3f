"""Run by test_disk.py as a program of its own: `sla1 run` over a published night, on disks that fail.

Prints one line of JSON a case: exit status, what was said, and what is to be found below the outputs afterwards.
With "apart", after a folder, this program has a namespace of mounts of its own, and tries a real small disk as well.
"""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from forked_runs import begin, contents, is_whole, write_night

from sla1tools.published.formats import INDEX
from sla1tools.run import publishing as publish

PLACE = Path("2024-05-08", "03_38_48", "Dark30s")
SIZES = (0, 30_000)  # bytes that a file may have
FILES = ("leaders.fits", "summary.json", "index.html", "manifest.json")


def limit(size):
    import resource  # which Windows has not, where pytest looks for examples in here

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def full_when_opened(name):
    """Let no file grow any more once `name` is opened for writing."""

    def hook(event, arguments):
        if event == "open" and Path(str(arguments[0])).name == name and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            limit(0)

    sys.addaudithook(hook)


def mount(*arguments):
    subprocess.run(["mount", *map(str, arguments)], check=True)


class Night:
    """A published night with a file of the user's, to be run again."""

    def __init__(self, root, outputs):
        self.file, self.outputs = write_night(root), outputs
        assert self.run() == 0, self.said
        (outputs / PLACE / "notes.txt").write_text("mine")
        self.good, self.around = contents(outputs / PLACE), set(contents(outputs))

    def run(self, **options):
        run = begin("run", self.file, "--outputs", self.outputs, **{"notebooks": ""} | options)
        status = run.wait()
        self.said = run.told()
        return status

    def tell(self, case, status):
        found = set(contents(self.outputs)) - self.around
        others = sorted(name for name in found if not name.startswith((".locks", str(PLACE))))
        kept = contents(self.outputs / PLACE) == self.good
        print(json.dumps({"case": case, "status": status, "said": self.said, "kept": kept, "left": others}), flush=True)

    def tell_of_run(self, case, **options):
        self.tell(case, self.run(**options))


def no_file_can_grow(here):
    for size in SIZES:
        here.tell_of_run(f"{size} bytes", before=partial(limit, size))
    for name in FILES:
        here.tell_of_run(name, before=partial(full_when_opened, name))
    for name in ("0.npy", INDEX, "good.ipynb", "good.html"):
        here.tell_of_run(name, before=partial(full_when_opened, name), notebooks="good")


def full_disk(here):
    """A real one: ENOSPC, then a disk that turned read-only, then room again."""
    ballast = here.outputs / "ballast"
    for free in (200_000, 0):
        space = os.statvfs(here.outputs)
        ballast.write_bytes(bytes(max(space.f_bavail * space.f_frsize - free, 0)))
        here.tell_of_run(f"{free} bytes free")
        ballast.unlink()
    mount("-o", "remount,ro", here.outputs)
    here.tell_of_run("read-only")
    mount("-o", "remount,rw", here.outputs)


def two_at_once(here):
    """Both begin, one is told that the other is at it."""
    impatient = partial(setattr, publish, "LOCK_PATIENCE", 0.1)
    runs = [begin("run", here.file, "--outputs", here.outputs, before=impatient) for _ in range(2)]
    print(json.dumps({"case": "two at once", "status": sorted(run.wait() for run in runs)}), flush=True)
    assert is_whole(here.outputs / PLACE)
    assert (here.outputs / PLACE / "notes.txt").read_text() == "mine"
    here.good = contents(here.outputs / PLACE)


def main(root, may_mount):
    here = Night(root, root / "outputs")
    two_at_once(here)
    no_file_can_grow(here)
    assert here.run() == 0, here.said
    assert is_whole(here.outputs / PLACE)
    if may_mount:
        small = root / "small disk"
        small.mkdir()
        mount("-t", "tmpfs", "-o", "size=4m", "none", small)
        there = Night(root / "for the small disk", small)
        full_disk(there)
        assert there.run() == 0, there.said
        assert is_whole(small / PLACE)


if __name__ == "__main__":
    main(Path(sys.argv[1]), may_mount=sys.argv[2:] == ["apart"])
