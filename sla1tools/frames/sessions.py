"""Finding the nights of darks in a tree of captures, by name and by what the headers say."""

import gzip
import logging
import os
import re
import zlib
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from sla1tools.frames.fits import card_text
from sla1tools.parameters import NIGHT_KEYS, Parameters, validate
from sla1tools.published import MANIFEST
from sla1tools.text import printable

HEADER_BYTES = 20 * 2880  # a capture program's header, and that of the extension a packed image lies in
DARK_NAME = re.compile(r"(?<![a-z])dark(s|frames?| frames?)?(?![a-z])(?![\W_]*(flat|nebula|cloud|sky|matter))", re.I)
DARK_TYPE = re.compile(r"dark([ _-]*frame)?s?", re.I)


def find_nights(directory: str | Path, pattern: str = "*.fit*") -> list[Path]:
    """Find every folder below a directory, or the directory itself, whose FITS frames are darks.

    Parameters
    ----------
    directory : path
        Searched to any depth; hidden folders are not entered. Links to folders are followed, each folder once, so that
        a loop of links ends.
    pattern : str
        Names of the frames, in any case.

    Returns
    -------
    folders : list of Path
        Absolute, sorted, no folder twice. A folder that a run published (it holds a manifest) is none of them.

    Notes
    -----
    Where headers state IMAGETYP (N.I.N.A., MaxIm DL, APT, Seestar), all that state it must be darks: a folder of darks
    and lights together is named in a warning and left out, as is one of dark flats or of master darks. Else the
    folder's name or a header's OBJECT must say dark, as SharpCap's do.
    """
    root = Path(directory).absolute()
    seen: set[str] = set()
    found = []
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=_unreadable):
        place = os.path.realpath(folder)
        if place in seen:
            subfolders.clear()
            continue
        seen.add(place)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        frames = [name for name in sorted(names) if not name.startswith(".") and fnmatch(name.lower(), pattern.lower())]
        if frames and MANIFEST not in names and _holds_darks(Path(folder), frames):
            found.append(Path(folder))
    return sorted(found)


def night_in(folder: Path, base: Parameters) -> Parameters:
    """Return the parameters of the night in a folder: its last three names become date, time and object.

    Raises
    ------
    ParametersError
        If the path has fewer names, or one of them cannot name a folder of the outputs.
    """
    names = ("", "", "", *folder.parts[1:])[-3:]
    night = dict(zip(NIGHT_KEYS, (str(folder.parent.parent.parent), *names), strict=True))
    return validate(base.model_dump() | night, str(folder))


def cards(path: Path, keys: Iterable[str]) -> dict[str, str]:
    """Read a few header values of a FITS file as text, the first of each; {} where the file cannot be read.

    Only the start of the file is read, unpacked if it is gzipped. Nothing else of the file is trusted or judged.
    """
    if not path.is_file():  # a pipe would never end
        return {}
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb") as file:
            start = file.read(HEADER_BYTES)
    except (OSError, EOFError, zlib.error):
        return {}
    wanted, values = set(keys), {}
    for at in range(0, len(start) if start.startswith(b"SIMPLE") else 0, 80):
        key, equals, value = start[at : at + 80].decode("latin-1").partition("= ")
        key = key.rstrip()
        if equals and key in wanted and key not in values:
            values[key] = card_text(value)
    return values


def _holds_darks(folder: Path, names: list[str]) -> bool:
    headers = [cards(folder / name, ("IMAGETYP", "OBJECT")) for name in names]
    stated = [header["IMAGETYP"] for header in headers if header.get("IMAGETYP")]
    if not stated:
        objects = [header.get("OBJECT", "") for header in headers]
        return any(DARK_NAME.search(text) for text in [folder.name, *objects])
    darks = sum(DARK_TYPE.fullmatch(text) is not None for text in stated)
    if 0 < darks < len(stated):
        logging.getLogger(__name__).warning(
            "%s: left out: %d of %d frames are darks, the others are not", printable(folder), darks, len(stated)
        )
    return darks == len(stated)


def _unreadable(error: OSError) -> None:
    logging.getLogger(__name__).warning("%s: cannot be searched: %s", printable(error.filename), error.strerror)
