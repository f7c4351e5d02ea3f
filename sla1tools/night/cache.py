"""What was measured by hand, kept in `.cache` of the outputs: other cuts of a night are then a selection.

Kept as a run hands nights over; named by what measuring depends on. It may be deleted at any time.
"""

import hashlib
import json
import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

from sla1tools import __version__
from sla1tools.errors import FrameError, NightError, ParametersError
from sla1tools.frames.fits import read_bytes
from sla1tools.measure import Measurement, depends_on
from sla1tools.parameters import Parameters
from sla1tools.places import from_working_folder, outputs_folder
from sla1tools.published import CACHE
from sla1tools.published.folder import take_outputs
from sla1tools.published.formats import sha256_of, store, stored

MOST_KEPT = 5 * 10**9  # bytes of all nights together


def place_of(parameters: Parameters) -> Path | None:
    """Return where a night's measurement is kept; None without usable outputs in the working folder, or without files.

    The name is a digest of the files that measuring reads and of the parameters that it depends on, not of the cuts.
    """
    outputs, directory = outputs_folder(), parameters.capture_directory
    try:
        files = {name: contents_of(directory / name, parameters.frame_shape) for name in sorted(os.listdir(directory))}
        if not outputs.is_dir():
            return None
        take_outputs(outputs)
        (outputs / CACHE).mkdir(exist_ok=True)
    except (OSError, NightError, ParametersError) as error:
        logging.getLogger(__name__).info("nothing is kept: %s", error)
        return None
    named = [digest_of(name) for name in (parameters.psf, parameters.known_pixels)]
    told = [__version__, os.path.abspath(directory), depends_on(parameters), files, named]
    return outputs / CACHE / hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def contents_of(path: Path, shape: tuple[int, int]) -> tuple[str | None, ...]:
    """SHA-256 of what a run would read of a file, and what tells that it is still that file; (None,) for nothing."""
    try:
        contents, signature = read_bytes(path, shape)
    except FrameError:
        return (None,)
    return hashlib.sha256(contents).hexdigest(), *map(str, signature)


def digest_of(name: str | None) -> str | None:
    """SHA-256 of the file that a parameter names; None where it names none, or one that is not there."""
    path = name and from_working_folder(name)
    return sha256_of(path) if path and path.is_file() else None


def kept(place: Path) -> Measurement | None:
    """Open what is kept; None where it is not, or is damaged and forgotten."""
    with suppress(OSError):
        os.utime(place)  # it is in use: others are the oldest
    if not place.is_dir():
        return None
    try:
        return stored(Measurement, place)
    except NightError:
        shutil.rmtree(place, ignore_errors=True)
        return None


def keep(measured: Measurement, place: Path) -> None:
    """Keep a measurement, in the place of one with other floors, and forget the oldest of too many bytes."""
    shutil.rmtree(place, ignore_errors=True)
    try:
        store(measured, place)
    except OSError as error:  # a full disk, or another kernel keeps the same night
        logging.getLogger(__name__).info("%s: not kept: %s", place, error)
        if not isinstance(error, FileExistsError):
            shutil.rmtree(place, ignore_errors=True)
    with suppress(OSError):
        entries = sorted(place.parent.iterdir(), key=lambda entry: entry.lstat().st_mtime, reverse=True)
        total = 0
        for entry in (entry for entry in entries if len(entry.name) == len(place.name) and not entry.is_symlink()):
            total += sum(file.stat().st_size for file in entry.iterdir())
            if total > MOST_KEPT:
                shutil.rmtree(entry, ignore_errors=True)
