"""Finding the nights of darks in a tree of captures, by name and by what the headers say."""

import gzip
import logging
import math
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from sla1tools.errors import FrameError
from sla1tools.frames.headers import EXPOSURE_NAMES, SET_POINT, TEMPERATURE_NAMES, card_text, chip_temperature
from sla1tools.parameters import COLDEST, NIGHT_KEYS, WARMEST, Parameters, validate
from sla1tools.published import MANIFEST
from sla1tools.text import printable

HEADER_BYTES = 20 * 2880  # a capture program's header, and that of the extension a packed image lies in
LEAST_FRAMES = 3
DARK_NAME = re.compile(
    r"(?<![a-z])(dark(s|frames?| frames?)?|bias(es)?)(?![a-z])(?![\W_]*(flat|nebula|cloud|sky|matter))", re.I
)
DARK_TYPE = re.compile(r"(dark|bias|zero)([ _-]*frame)?s?", re.I)


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
    folder's name or a header's OBJECT must say dark, as SharpCap's do. Biases are darks of 0 s.
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


def nights_in(folder: Path, base: Parameters) -> list[Parameters]:
    """Return the parameters of a folder's nights: a ladder's and a cooling series' states are nights of their own.

    The exposure is that of the headers, whatever `dark_exposure` is. A folder is split where three or more frames each
    have several exposures, or temperatures further apart than twice `temperature_tolerance`.

    Raises
    ------
    ParametersError
        As from `night_in`.
    """
    night = night_in(folder, base)
    names = sorted(name for name in os.listdir(folder) if fnmatch(name.lower(), base.file_pattern.lower()))
    groups = _groups([state for state in (frame_state(folder / name, base) for name in names) if state], base)
    nights = []
    for group in groups:
        usual = abs(group[0] - base.dark_exposure) <= base.exposure_tolerance * base.dark_exposure
        own = {"dark_exposure": base.dark_exposure if usual else group[0], "part": group if len(groups) > 1 else None}
        nights.append(validate(night.model_dump() | own, str(folder)))
    return nights or [night]


def _groups(states: list[tuple[float, float]], base: Parameters) -> list[tuple[float, float, float]]:
    """Exposure, coldest and warmest of each state of three frames or more, the largest of each exposure first."""
    groups = []
    for exposure, _ in Counter(exposure for exposure, _ in states).most_common():
        own = [heat for value, heat in states if abs(value - exposure) <= base.exposure_tolerance * exposure]
        states = [state for state in states if abs(state[0] - exposure) > base.exposure_tolerance * exposure]
        windows, known = [], np.sort([heat for heat in own if np.isfinite(heat)])
        while len(known):
            ends = np.searchsorted(known, known + 2 * base.temperature_tolerance, side="right")
            first = int(np.argmax(ends - np.arange(len(known))))
            windows.append((exposure, *map(float, known[[first, ends[first] - 1]]), ends[first] - first))
            known = np.delete(known, np.s_[first : ends[first]])
        whole = [window[:3] for window in windows if window[3] >= LEAST_FRAMES]
        if len(whole) > 1:
            groups += whole
        elif len(own) >= LEAST_FRAMES:
            groups.append((exposure, COLDEST, WARMEST))
    return groups


def frame_state(path: Path, parameters: Parameters) -> tuple[float, float] | None:
    """Return exposure (s) and temperature (C, NaN unknown) of a file's header; None where it states no exposure."""
    header = {}
    for key, text in cards(path, (*EXPOSURE_NAMES, *TEMPERATURE_NAMES, SET_POINT)).items():
        with suppress(ValueError):
            header[key] = float(text)
    exposure = next((header[name] for name in EXPOSURE_NAMES if math.isfinite(header.get(name, math.nan))), None)
    heat = None
    with suppress(FrameError):
        heat = chip_temperature(header, parameters)[0]
    return None if exposure is None else (exposure, math.nan if heat is None else heat)


def is_in_part(path: Path, parameters: Parameters) -> bool:
    """Whether a file's header says that it belongs to the parameters' `part` of its folder."""
    state, part = frame_state(path, parameters), parameters.part
    if state is None or part is None:
        return part is None
    near = abs(state[0] - part[0]) <= parameters.exposure_tolerance * part[0]
    return near and not (state[1] < part[1] or state[1] > part[2])


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
            if len(values) == len(wanted):
                break
    return values


def _holds_darks(folder: Path, names: list[str]) -> bool:
    headers = [cards(folder / name, ("IMAGETYP", "OBJECT")) for name in names]
    stated = [header["IMAGETYP"] for header in headers if header.get("IMAGETYP")]
    if not stated:
        objects = [header.get("OBJECT", "") for header in headers]
        return any(DARK_NAME.search(text) for text in [folder.name, *objects])
    darks = sum(DARK_TYPE.fullmatch(text) is not None for text in stated)
    if 0 < darks < len(stated):
        told = "%s: left out: %d of %d frames are darks, the others are not"
        logging.getLogger(__name__).warning(told, printable(folder), darks, len(stated))
    return darks == len(stated)


def _unreadable(error: OSError) -> None:
    logging.getLogger(__name__).warning("%s: cannot be searched: %s", printable(error.filename), error.strerror)
