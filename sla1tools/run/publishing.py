"""The outputs folder: a night is built beside its place and moved in whole.

``OUTPUTS/.staging`` holds what is being built and may be deleted at any time. ``OUTPUTS/.aside`` holds, for the moment
of a swap, the folder that was replaced; what a killed swap leaves there is settled by the next command.
``OUTPUTS/.failed`` holds the last failed run of a night. ``OUTPUTS/.locks`` holds a lock file for every night.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from sla1tools.errors import BusyError, ParametersError
from sla1tools.parameters import Parameters
from sla1tools.published import ASIDE, FAILED, LOCKS, MANIFEST, STAGING, night_path, sha256_of

LOCK_PATIENCE = 1.0  # seconds: longer than another command needs to settle this night's leftovers


def refuse_to_mix(parameters: Parameters, outputs: str | Path) -> None:
    """Refuse outputs that would put a night among its raw files, or in their place.

    Raises
    ------
    ParametersError
        If the night's folder of the outputs and its capture folder are one, or lie in one another; links are followed.
    """
    places = (Path(outputs) / night_path(parameters), parameters.capture_directory)
    place, capture = (Path(os.path.realpath(path)) for path in places)
    if place.is_relative_to(capture) or capture.is_relative_to(place):
        raise ParametersError(f"{outputs}: would mix the night's outputs with its raw files in {capture}")


@dataclass(frozen=True)
class Claim:
    """A night whose lock is held: where it is built, and where it goes."""

    outputs: Path
    night: Path

    @property
    def staging(self) -> Path:
        """The folder to build in; empty when the claim begins."""
        return self.outputs / STAGING / self.night

    def publish(self) -> Path:
        """Move the finished night to its place, and the user's own files of an earlier run along with it.

        Returns
        -------
        place : Path
            The night's folder.

        Raises
        ------
        FileNotFoundError
            If `manifest.json`, which is written last, is missing.
        OSError
            If the folder cannot be moved; the earlier one is then back in its place.
        """
        place = self._swap(self.night)
        _remove_if_all_ours(self.outputs / FAILED / self.night)
        return place

    def publish_failed(self) -> Path:
        """Move what a failed run left, with its manifest, to ``.failed``; the night's place is not touched."""
        return self._swap(Path(FAILED) / self.night)

    def _swap(self, slot: Path) -> Path:
        place, aside = self.outputs / slot, self.outputs / ASIDE / slot
        if not (self.staging / MANIFEST).is_file():
            raise FileNotFoundError(f"{self.staging / MANIFEST}: a night without its manifest is not published")
        _sync(self.staging)
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists():
            aside.parent.mkdir(parents=True, exist_ok=True)
            os.replace(place, aside)
        try:
            os.replace(self.staging, place)
        except OSError:
            if aside.exists():
                os.replace(aside, place)
            raise
        _sync_folder(place.parent)
        try:
            _settle(self.outputs, slot, self.staging)
        except OSError as error:
            logging.getLogger(__name__).warning(
                "%s: published; files of the earlier run are still in %s: %s", place, aside, error
            )
        return place


@contextmanager
def claim(outputs: str | Path, night: Path) -> Iterator[Claim]:
    """Hold a night's lock, settle what killed commands left, and give an empty staging folder.

    Parameters
    ----------
    outputs : path
        The outputs folder, made where missing.
    night : Path
        The night's folder relative to it.

    Raises
    ------
    BusyError
        If another process or thread holds this night's lock.
    ParametersError
        If the outputs folder cannot be used.
    """
    outputs = Path(outputs).absolute()
    place = outputs / night
    recover(outputs)
    with _lock(outputs, night, LOCK_PATIENCE):
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise ParametersError(f"{place}: must be a folder, not a file or a link, to be replaced by a new run")
        claimed = Claim(outputs, night)
        try:
            _settle_night(outputs, night)
            place.parent.mkdir(parents=True, exist_ok=True)
            claimed.staging.mkdir(parents=True)
        except OSError as error:
            raise ParametersError(f"{outputs}: cannot be used for outputs: {error.strerror}") from None
        try:
            yield claimed
        finally:
            shutil.rmtree(claimed.staging, ignore_errors=True)


def recover(outputs: str | Path) -> None:
    """Finish or roll back every interrupted swap, and delete every abandoned staging folder.

    Nights whose lock is held are someone's work in progress and left alone, and so is a folder that may only be read.
    An outputs folder that does not exist needs no recovery.
    """
    outputs = Path(outputs).absolute()
    aside = outputs / ASIDE
    left = {path.relative_to(outputs / STAGING) for path in (outputs / STAGING).glob("*/*/*")}
    left |= {path.relative_to(aside) for path in aside.glob("*/*/*") if path.relative_to(aside).parts[0] != FAILED}
    left |= {path.relative_to(aside / FAILED) for path in (aside / FAILED).glob("*/*/*")}
    for night in sorted(left):
        try:
            with _lock(outputs, night, 0):
                _settle_night(outputs, night)
        except (BusyError, ParametersError):
            continue
        except OSError as error:
            logging.getLogger(__name__).warning("%s: cannot settle an interrupted run yet: %s", night, error)


@contextmanager
def _lock(outputs: Path, night: Path, patience: float) -> Iterator[None]:
    path = outputs / LOCKS / night.with_name(night.name + ".lock")
    lock = FileLock(path, timeout=patience)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise BusyError(f"{outputs / night}: is being run by someone else") from None
    except OSError as error:
        raise ParametersError(f"{outputs}: cannot be used for outputs: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()


def _settle_night(outputs: Path, night: Path) -> None:
    staging = outputs / STAGING / night
    for slot in (night, Path(FAILED) / night):
        _settle(outputs, slot, staging)
    if staging.exists():
        shutil.rmtree(staging)


def _settle(outputs: Path, slot: Path, staging: Path) -> None:
    """End a swap from wherever it stands: the new folder is in place, or the old one goes back."""
    place, aside = outputs / slot, outputs / ASIDE / slot
    if not aside.exists():
        return
    if (place / MANIFEST).is_file():
        _carry_own_files(aside, place)
        if staging.exists():
            shutil.rmtree(staging)
        # Through the disposable folder, so that a kill while deleting leaves nothing that looks like a swap.
        staging.parent.mkdir(parents=True, exist_ok=True)
        os.replace(aside, staging)
        shutil.rmtree(staging)
    else:
        if place.exists():
            _carry_own_files(place, aside)
            place.rmdir()
        os.replace(aside, place)


def _carry_own_files(old: Path, new: Path) -> None:
    """Move all that the user made: whatever the old manifest does not name, and products changed since."""
    for entry in sorted(_own_entries(old), key=lambda path: os.path.lexists(new / path.name)):
        os.replace(entry, _free_name(new / entry.name))


def _own_entries(directory: Path) -> list[Path]:
    entries = sorted(directory.iterdir())
    try:
        products = dict(json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["outputs"])
    except (OSError, ValueError, KeyError, TypeError):
        return entries
    return [
        path
        for path in entries
        if path.name != MANIFEST
        and (path.is_symlink() or not path.is_file() or products.get(path.name) != sha256_of(path))
    ]


def _free_name(path: Path) -> Path:
    """Return the path, or where that is taken, ``name.kept.ext``, ``name.kept2.ext`` ..."""
    free, number = path, 1
    while os.path.lexists(free):
        free = path.with_name(f"{path.stem}.kept{number if number > 1 else ''}{path.suffix}")
        number += 1
    return free


def _remove_if_all_ours(directory: Path) -> None:
    if directory.is_dir() and not _own_entries(directory):
        shutil.rmtree(directory, ignore_errors=True)


def _sync(directory: Path) -> None:
    """Bring a folder's files to the disk before it takes the place of another."""
    for path in filter(Path.is_file, directory.iterdir()):
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
    _sync_folder(directory)


def _sync_folder(directory: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened, and a rename is journalled
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
