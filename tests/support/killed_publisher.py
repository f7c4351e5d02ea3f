"""Run by test_publish.py as a program of its own: publish a night over an earlier one, killed at every step in turn.

For every n, a fork is killed (SIGKILL) just before its n-th change or opening of a file below the outputs folder; the
next command then settles what is left. One line of JSON a step: the files found, by relative path, with their text.
"""

import json
import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

from sla1tools.published import MARK, write_manifest
from sla1tools.run import publishing as publish

NIGHT = Path("2024-05-08", "03_38_48", "Dark30s")
EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


def build(directory, version):
    for name in ("leaders.fits", "report.html", "summary.json"):
        (directory / name).write_text(f"{name} {version}")
    write_manifest(directory, {"version": version})


def publish_night(outputs, version, failed=False):
    with publish.claim(outputs, NIGHT) as claimed:
        build(claimed.staging, version)
        claimed.publish_failed() if failed else claimed.publish()


def add_own_files(place):
    (place / "notes.txt").write_text("mine")
    (place / "summary.json").write_text("product I changed")
    (place / "plots" / "deep").mkdir(parents=True)
    (place / "plots" / "deep" / "a.png").write_text("mine too")


def in_fork(action):
    pid = os.fork()
    if pid == 0:
        action()
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def killed_before(step, outputs, action):
    seen = 0

    def hook(event, arguments):
        nonlocal seen
        if event in EVENTS and str(outputs) in str(arguments[0]):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

    def hooked():
        sys.addaudithook(hook)
        action()

    return in_fork(hooked) != 0


def snapshot(outputs):
    files = (
        path for path in sorted(outputs.rglob("*")) if path.is_file() and not {publish.LOCKS, MARK} & {*path.parts}
    )
    return {path.relative_to(outputs).as_posix(): path.read_text() for path in files}


def main(root, failed):
    step, killed = 1, True
    while killed:
        outputs = root / str(step)
        in_fork(partial(publish_night, outputs, "old", failed))
        add_own_files(outputs / publish.FAILED / NIGHT if failed else outputs / NIGHT)
        killed = killed_before(step, outputs, partial(publish_night, outputs, "new", failed))
        in_fork(partial(publish.recover, outputs))
        print(json.dumps({"step": step, "killed": killed, "files": snapshot(outputs)}), flush=True)
        shutil.rmtree(outputs)
        step += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), failed=sys.argv[2] == "failed")
