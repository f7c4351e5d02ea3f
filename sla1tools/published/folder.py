"""The outputs folder on the disk: taken for ours, or refused; names and files brought to the disk."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sla1tools.errors import ParametersError
from sla1tools.published import ASIDE, FAILED, FOLDERS, KEPT, MANIFEST, MARK, PAGES, TRENDS, read_manifest
from sla1tools.text import is_text

MARK_TEXT = (
    "sla1 made the hidden folders beside this file, and deletes in them what it made. Without this file it refuses.\n"
)


def take_outputs(outputs: Path) -> None:
    """Make sure that a folder is ours to write in: made where missing, marked where it is new, empty, or of old.

    Raises
    ------
    ParametersError
        If it cannot be written, if one of our names in it is a link or of another kind, or if something has our names
        though there is neither our mark nor a night with our manifest.
    """
    if not is_text(str(outputs)):
        raise ParametersError(f"{outputs}: is not valid UTF-8: name another outputs folder")
    mark, cure = outputs / MARK, "move it away, or name another outputs folder"
    with using(outputs):
        make_folders(outputs)
        for path in (mark, *(outputs / name for name in (*FOLDERS, KEPT))):
            there = os.path.lexists(path)  # asked first: another command may make it meanwhile
            right = path.is_file() if path == mark else path.is_dir()
            if there and (path.is_symlink() or not right):
                raise ParametersError(f"{path}: is not what sla1 made; {cure}")
        if mark.exists():
            return
        strange = next((name for name in (*FOLDERS, *PAGES) if os.path.lexists(outputs / name)), None)
        # asked again: another command may have marked the folder since
        if strange and not holds_outputs(outputs):
            raise ParametersError(f"{outputs}: holds a {strange} that sla1 did not make; {cure}")
        mark.write_text(MARK_TEXT, encoding="utf-8")


@contextmanager
def using(outputs: Path) -> Iterator[None]:
    """Raise `ParametersError` where the disk refuses something in an outputs folder."""
    try:
        yield
    except OSError as error:
        raise ParametersError(f"{outputs}: cannot be used for outputs: {error.strerror or error}") from None


def holds_outputs(outputs: Path) -> bool:
    """Whether a folder has our mark, or a night of ours from before there was one."""
    roots = (outputs, outputs / FAILED, outputs / ASIDE)
    nights = (path.parent for root in roots for path in root.glob(f"*/*/*/{MANIFEST}"))
    return (outputs / MARK).exists() or any(map(read_manifest, nights))


def make_folders(path: Path) -> None:
    """Make a folder and those above it, and bring their names to the disk."""
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in new:
        sync_folder(folder.parent)


def write_whole(outputs: Path, name: str, write: Callable[[Path], Any]) -> None:
    """Write a file of the outputs folder by `write(path)` in `TRENDS`, and move it to its place, on the disk too."""
    unfinished, target = outputs / TRENDS / f"{Path(name).name}.part", outputs / name
    write(unfinished)
    with open(unfinished, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(unfinished, target)
    sync_folder(target.parent)


def sync_folder(directory: Path) -> None:
    """Bring a folder's names to the disk."""
    if os.name != "posix":  # elsewhere a folder cannot be opened, and a rename is journalled
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
