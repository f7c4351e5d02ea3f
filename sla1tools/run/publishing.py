"""The outputs folder: a night is built beside its place and moved in whole, and nothing that is not ours is touched.

A folder is an outputs folder once our mark is in it. ``.staging`` holds what runs are building, each in a marked folder
of its own, which alone is ever deleted whole. ``.aside`` holds, for the moment of a swap, the folder that was replaced;
what a killed swap leaves there is settled by the next command: the user's files are moved, and products deleted one by
one, by name and digest. ``.failed`` holds the last failed run of a night, ``.locks`` a lock file for every night.
"""

import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import chain, count
from pathlib import Path

from filelock import FileLock, Timeout

from sla1tools.errors import BusyError, ParametersError, Sla1Error
from sla1tools.parameters import Parameters
from sla1tools.places import missing
from sla1tools.published import ASIDE, FAILED, KEPT, LOCKS, MANIFEST, MARK, PAGES, STAGING, night_path, read_manifest
from sla1tools.published.folder import make_folders, sync_folder, take_outputs, using
from sla1tools.published.formats import sha256_of

LOCK_PATIENCE = 1.0  # seconds: longer than another command needs to settle this night's leftovers
RUN = "run-"  # begins the name of a run's folder below the night's in `.staging`


def refuse_to_mix(parameters: Parameters, outputs: str | Path) -> None:
    """Refuse outputs that would put a night among its raw files, or in their place, or in that of a page.

    Raises
    ------
    ParametersError
        If the night's folder of the outputs and its capture folder are one, or lie in one another; links are followed.
    """
    if parameters.capture_date in (*PAGES, KEPT):
        raise ParametersError(f"capture_date: {parameters.capture_date} is a name that the outputs need")
    places = (Path(outputs) / night_path(parameters), parameters.capture_directory)
    place, capture = (Path(os.path.realpath(path)) for path in places)
    if place.is_relative_to(capture) or capture.is_relative_to(place):
        raise ParametersError(f"{outputs}: would mix the night's outputs with its raw files in {capture}")


@dataclass(frozen=True)
class Claim:
    """A night whose lock is held: where it is built, and where it goes. `run` is this run's own, private folder."""

    outputs: Path
    night: Path
    run: Path

    @property
    def staging(self) -> Path:
        """The folder to build in; empty when the claim begins."""
        return self.run / "night"

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
        place, failed = self._swap(self.night), self.outputs / FAILED / self.night
        with suppress(OSError):
            if not _own_entries(failed):
                _remove_products(failed)
        return place

    def publish_failed(self) -> Path:
        """Move what a failed run left, with its manifest, to ``.failed``; the night's place is not touched."""
        return self._swap(Path(FAILED) / self.night)

    def _swap(self, slot: Path) -> Path:
        place, aside = self.outputs / slot, self.outputs / ASIDE / slot
        if not (self.staging / MANIFEST).is_file():
            raise FileNotFoundError(f"{self.staging / MANIFEST}: a night without its manifest is not published")
        _sync(self.staging)
        make_folders(place.parent)
        try:
            if place.exists():
                make_folders(aside.parent)
                _move(place, aside)
                sync_folder(aside.parent)
            os.replace(self.staging, place)
            sync_folder(place.parent)
        finally:  # the earlier folder goes back where the new one is not in its place
            try:
                _settle(self.outputs, slot)
            except Sla1Error as error:
                logging.getLogger(__name__).warning("%s", error)
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
        If the outputs folder cannot be used, or the night's place in it holds what may not be moved.
    """
    outputs = Path(outputs).absolute()
    take_outputs(outputs)
    recover(outputs)
    slot = outputs / STAGING / night
    with _lock(outputs, night, LOCK_PATIENCE):
        _refuse_place(outputs / night)
        with using(outputs):
            _settle_night(outputs, night)
            (outputs / night).parent.mkdir(parents=True, exist_ok=True)
            slot.mkdir(parents=True, exist_ok=True)
            claimed = Claim(outputs, night, Path(tempfile.mkdtemp(prefix=RUN, dir=slot)))  # nobody else may enter it
            (claimed.run / MARK).touch()
            claimed.staging.mkdir()
        try:
            yield claimed
        finally:
            _clear_staging(slot)


def _refuse_place(place: Path) -> None:
    """Refuse a night's place that is no folder, or a folder of raw frames that no run of ours published."""
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise ParametersError(f"{place}: must be a folder, not a file or a link, to be replaced by a new run")
    if place.is_dir() and not read_manifest(place):
        names = (name for _, _, names in os.walk(place) for name in names)
        frame = next((name for name in names if fnmatch(name.lower(), "*.fit*")), None)
        if frame:
            raise ParametersError(f"{place}: holds {frame} and no manifest of ours: name another outputs folder")


def forget(outputs: str | Path, night: Path) -> list[Path]:
    """Take a night out of the outputs, published or failed; the user's own files in it go to ``OUTPUTS/kept``.

    Returns
    -------
    kept : list of Path
        Where the user's own files are now: what no manifest names, and products changed since.

    Raises
    ------
    BusyError
        If another process or thread holds this night's lock.
    ParametersError
        If the outputs hold no such night of ours.
    """
    outputs = Path(outputs).absolute()
    own = outputs / KEPT / night
    slots = [outputs / slot for slot in (night, Path(FAILED) / night)]
    if not any(read_manifest(place) for place in slots):
        told = "" if slots[0].exists() else f": {missing(slots[0])}"
        name = night.as_posix()
        raise ParametersError(f"{outputs}: holds no night {name} that a run of ours published or failed{told}")
    take_outputs(outputs)
    recover(outputs)
    kept = []
    with _lock(outputs, night, LOCK_PATIENCE):
        for path in (*slots, own):
            refuse_links(outputs, path)
        for place in filter(read_manifest, slots):
            kept += _dissolve(place, own)
            with suppress(OSError):  # other nights are in it
                place.parent.rmdir()
                place.parent.parent.rmdir()
    return kept


def recover(outputs: str | Path) -> None:
    """Finish or roll back every interrupted swap in outputs of ours, and delete every abandoned run's folder.

    Nights whose lock is held are someone's work in progress and left alone, and so is a folder that may only be read.
    """
    outputs = Path(outputs).absolute()
    roots = (outputs / STAGING, outputs / ASIDE, outputs / ASIDE / FAILED)
    for night in sorted({path.relative_to(root) for root in roots for path in root.glob("[!.]*/*/*")}):
        try:
            with _lock(outputs, night, 0):
                _settle_night(outputs, night)
        except BusyError:
            continue
        except (Sla1Error, OSError) as error:
            logging.getLogger(__name__).warning("%s: an interrupted run is not settled yet: %s", night, error)


@contextmanager
def _lock(outputs: Path, night: Path, patience: float) -> Iterator[None]:
    path = outputs / LOCKS / night.with_name(night.name + ".lock")
    refuse_links(outputs, path)
    with using(outputs):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            held = FileLock(path, timeout=patience).acquire()
        except Timeout:
            raise BusyError(f"{outputs / night}: is being run by someone else") from None
    with held:
        yield


def refuse_links(outputs: Path, path: Path) -> None:
    """Raise `ParametersError` if a path below the outputs leads elsewhere: what is there is none of ours."""
    straight = os.path.join(os.path.realpath(outputs), path.relative_to(outputs))
    if os.path.normcase(os.path.realpath(path)) != os.path.normcase(straight):
        raise ParametersError(f"{path}: leads elsewhere by a link, which is not followed; remove the link")


def _settle_night(outputs: Path, night: Path) -> None:
    for slot in (night, Path(FAILED) / night):
        _settle(outputs, slot)
    refuse_links(outputs, outputs / STAGING / night)
    _clear_staging(outputs / STAGING / night)


def _clear_staging(slot: Path) -> None:
    """Delete the folders of a night's runs by their marks, which go last; whatever else lies there stays."""
    for run in slot.glob(f"{RUN}*"):
        if not run.is_symlink() and (run / MARK).is_file():
            for folder in [entry for entry in run.iterdir() if entry.name != MARK]:
                shutil.rmtree(folder, ignore_errors=True)
            if [path.name for path in run.iterdir()] == [MARK]:
                (run / MARK).unlink()
        with suppress(OSError):  # not empty: not ours
            run.rmdir()
    with suppress(OSError):
        slot.rmdir()


def _settle(outputs: Path, slot: Path) -> None:
    """End a swap from wherever it stands: the new folder is in place, or the old one goes back."""
    place, aside = outputs / slot, outputs / ASIDE / slot
    if not aside.exists():
        return
    refuse_links(outputs, aside)
    try:
        if (place / MANIFEST).is_file():
            _dissolve(aside, place)
        else:
            if place.exists():
                _dissolve(place, aside)
            _move(aside, place)
    except OSError as error:
        raise ParametersError(
            f"{aside}: holds files of an earlier run, or of your own, that cannot be moved back to {place} "
            f"({error.filename}: {error.strerror}): move what you want to keep by hand, and delete the rest"
        ) from None
    sync_folder(place.parent)
    sync_folder(aside.parent)


def _dissolve(old: Path, new: Path) -> list[Path]:
    """Move all that the user made in a folder into another, delete the rest, and return where the user's files are."""
    kept = []
    for entry in sorted(_own_entries(old), key=lambda path: os.path.lexists(new / path.name)):
        make_folders(new)
        kept.append(_free_name(new / entry.name))
        _move(entry, kept[-1])
    _remove_products(old)
    return kept


def _move(source: Path, target: Path) -> None:
    """Rename, also a folder that may not be written: it may for that moment."""
    mode = source.lstat().st_mode
    locked = stat.S_ISDIR(mode) and not mode & stat.S_IWUSR
    if locked:
        source.chmod(stat.S_IMODE(mode) | stat.S_IRWXU)
    try:
        os.replace(source, target)
    finally:
        if locked:
            (source if source.exists() else target).chmod(stat.S_IMODE(mode))


def _own_entries(directory: Path) -> list[Path]:
    """Return what the user made: whatever the folder's manifest does not name, and products changed since."""
    manifest = read_manifest(directory)
    products = manifest.outputs if manifest else {}
    return [
        path
        for path in sorted(directory.iterdir())
        if not (manifest and path.name == MANIFEST) and not _is_product(path, products.get(path.name))
    ]


def _is_product(path: Path, sha256: str | None) -> bool:
    """Whether a file is as a run wrote it; one that its manifest does not name is not read."""
    with suppress(OSError):
        return sha256 is not None and not path.is_symlink() and sha256_of(path) == sha256
    return False


def _remove_products(directory: Path) -> None:
    """Delete a folder from which the user's own files are gone; its manifest, which tells what they are, last."""
    for path in [path for path in directory.iterdir() if path.name != MANIFEST]:
        path.unlink()
    (directory / MANIFEST).unlink(missing_ok=True)
    directory.rmdir()


def _free_name(path: Path) -> Path:
    """Return the path, or where that is taken, ``name.kept.ext``, ``name.kept2.ext`` ..."""
    kept = (path.with_name(f"{path.stem}.kept{n if n > 1 else ''}{path.suffix}") for n in count(1))
    return next(name for name in chain([path], kept) if not os.path.lexists(name))


def _sync(directory: Path) -> None:
    """Bring a folder's files to the disk before it takes the place of another."""
    for path in filter(Path.is_file, directory.iterdir()):
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
    sync_folder(directory)
