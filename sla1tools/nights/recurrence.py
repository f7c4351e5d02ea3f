"""Pixels over the nights: which became bad, recovered, came back; and which make candidates again and again.

One night's DQ image is in memory at a time; of the others there are lists of bad pixels.
"""

import csv
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError

import numpy as np
from astropy.io import fits
from astropy.table import Table

from sla1tools.darks.classes import BLOCKING, PixelClass
from sla1tools.frames.fits import read_plane
from sla1tools.nights.trends import MASTER, METRICS, UNREADABLE, NightRecord, unreadable
from sla1tools.published import TRENDS, replace_file
from sla1tools.text import open_regular, read_regular

BAD = BLOCKING & ~(PixelClass.METADATA | PixelClass.KNOWN)
"""Classes that make a pixel bad here: those that leave a PSF fit. Warm pixels and columns come and go by chance at
their cuts, and only add a constant.
"""
LISTED = int(BAD | PixelClass.KNOWN)
KNOWN_PIXELS = "known_pixels.fits"
LEAST_NIGHTS = 2  # with candidates, for a pixel to be called recurrent


@dataclass(frozen=True)
class Changes:
    """Bad pixels of a night against those of the nights before it, each an (n, 2) int array of x, y.

    `new` were never bad before, `returned` were bad before but not on the previous night, `vanished` were bad on the
    previous night only. `bad` counts all.
    """

    bad: int
    new: np.ndarray
    returned: np.ndarray
    vanished: np.ndarray


def bad_pixels(directory: Path, shape: tuple[int, int], sha256: str | None, cache: Path | None) -> np.ndarray | None:
    """List a published night's bad and known pixels.

    Parameters
    ----------
    directory : Path
        The night's folder, with `master_dark.fits`.
    shape : (ny, nx)
        Of its frames.
    sha256 : str or None
        Of `master_dark.fits`, under which the list is kept in the cache.
    cache : Path or None
        Folder for lists already made; what is there is named by content, and never stale.

    Returns
    -------
    listed : (n, 2) int32 array or None
        Flat index and DQ value, by index; None where there is no DQ image of that shape.
    """
    stored = cache / _kept_as(sha256) if cache and sha256 else None
    if stored:
        with suppress(OSError, ValueError, EOFError, MemoryError, TokenError), open_regular(stored) as file:
            listed = np.lib.format.read_array(file, allow_pickle=False)
            if listed.dtype == np.int32 and listed.shape[1:] == (2,) and _inside(listed[:, 0], math.prod(shape)):
                return listed
    dq = read_plane(directory / "master_dark.fits", "DQ", shape)
    if dq is None or dq.dtype.kind not in "iu":
        return None
    dq = dq.astype(np.uint16)
    index = np.flatnonzero(dq & LISTED)
    listed = np.stack([index, dq.ravel()[index]], axis=1).astype(np.int32)
    if stored:
        with suppress(OSError):  # a full or foreign disk: the list is made again next time
            unfinished = stored.with_suffix(".part")
            with open(unfinished, "wb") as file:
                np.save(file, listed)
            replace_file(unfinished, stored)
    return listed


def _kept_as(sha256: str) -> str:
    """Name a list by what it was made of, and by which classes were listed."""
    return f"{sha256}-{LISTED}.npy"


def _inside(index: np.ndarray, pixels: int) -> bool:
    return bool(np.all((index >= 0) & (index < pixels)))


class PixelHistory:
    """What is known of each pixel of one camera after each night, nights added in order of time.

    Memory: 14 bytes a pixel, whatever the number of nights.
    """

    def __init__(self, shape: tuple[int, int]):
        self.shape = shape
        self.count = 0
        self._nights = np.zeros(shape, np.uint16).ravel()
        self._first = np.full(shape, -1, np.int32).ravel()
        self._last = np.full(shape, -2, np.int32).ravel()
        self._classes = np.zeros(shape, np.uint16).ravel()
        self._steady = np.zeros(0, np.int64)
        self.known = np.zeros(0, np.int64)

    def add(self, listed: np.ndarray) -> Changes:
        """Add a night's list, as `bad_pixels` gives it, and return what changed; nothing is new on the first night."""
        self.known = np.union1d(self.known, listed[listed[:, 1] & int(PixelClass.KNOWN) != 0, 0])
        index, classes = listed[listed[:, 1] & int(BAD) != 0].T
        night, seen = self.count, self._nights[index] > 0
        returned = index[seen & (self._last[index] != night - 1)]
        new = index[~seen] if night else index[:0]
        self._first[index[~seen]] = night
        self._last[index] = night
        self._nights[index] += 1
        self._classes[index] |= classes.astype(np.uint16)
        vanished = self._steady[self._last[self._steady] != night]
        self._steady, self.count = index, night + 1
        return Changes(len(index), *(self._places(group) for group in (new, returned, vanished)))

    def _places(self, index: np.ndarray) -> np.ndarray:
        return np.stack([index % self.shape[1], index // self.shape[1]], axis=1)

    def table(self, names: Sequence[str]) -> Table:
        """One row a pixel that was ever bad: x, y, dq (classes of all nights), nights, first, last, state.

        `state` is new (on the last night), vanished (not bad on the last night), steady (on every night since its
        first) or recurrent (it came back). `names` are those of the nights that were added.
        """
        index = np.flatnonzero(self._nights)
        first, last, nights = self._first[index], self._last[index], self._nights[index]
        end = self.count - 1
        state = np.select(
            [last < end, (first == end) & (end > 0), nights == end - first + 1],
            ["vanished", "new", "steady"],
            "recurrent",
        )
        x, y = self._places(index).T.astype(np.int32)
        named = np.array([*names, ""])
        columns = [x, y, self._classes[index], nights, named[first], named[last], state]
        return Table(columns, names=("x", "y", "dq", "nights", "first", "last", "state"))


def candidate_pixels(path: Path, shape: tuple[int, int]) -> list[tuple[int, int]] | None:
    """Read the pixels (x, y) of a `candidates.ecsv`, row by row; None where that fails, or one is off the frame."""
    try:
        # Not by astropy, which takes twenty times as long: a thousand nights are read for one page.
        lines = read_regular(path).decode("utf-8").splitlines()
        rows = csv.DictReader((line for line in lines if not line.startswith("#")), delimiter=" ")
        pixels = [(int(row["x"]), int(row["y"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return None
    return pixels if all(0 <= x < shape[1] and 0 <= y < shape[0] for x, y in pixels) else None


def recurrent_pixels(candidates: Mapping[str, set[tuple[int, int]]], least: int = LEAST_NIGHTS) -> Table:
    """Find the pixels that made candidates on several nights.

    Parameters
    ----------
    candidates : mapping of str to set
        Night, in order of time, to the pixels (x, y) that made its candidates, however often.
    least : int
        Nights.

    Returns
    -------
    recurrent : Table
        x, y, nights, first, last; the most frequent first.
    """
    seen: dict[tuple[int, int], list[str]] = {}
    for night, pixels in candidates.items():
        for pixel in pixels:
            seen.setdefault(pixel, []).append(night)
    rows = [(x, y, len(nights), nights[0], nights[-1]) for (x, y), nights in seen.items() if len(nights) >= least]
    rows.sort(key=lambda row: (-row[2], row[1], row[0]))
    text = f"U{max(map(len, candidates), default=1)}"
    return Table(rows=rows or None, names=("x", "y", "nights", "first", "last"), dtype=("i4", "i4", "i4", text, text))


def keep_listed(recurrent: Table, path: Path, shape: tuple[int, int], known: np.ndarray) -> Table:
    """Add the pixels of an earlier list that nights have left out because they were listed.

    Such a night could not show them again: without this, a list that is used would forget what it is used for. `known`
    are the flat indices of pixels that any night of this camera was told of.
    """
    if read_plane(path, 0, shape) is None:
        return recurrent
    held = set(known.tolist())
    there = set(zip(recurrent["x"], recurrent["y"], strict=True))
    with suppress(OSError, LookupError, ValueError, TypeError, fits.VerifyError):
        with fits.open(path, memmap=False) as hdus:
            rows = Table(hdus["RECURRENT"].data)
        for row in rows:
            x, y = int(row["x"]), int(row["y"])
            if (x, y) not in there and 0 <= x < shape[1] and 0 <= y < shape[0] and y * shape[1] + x in held:
                recurrent.add_row([row[name] for name in recurrent.colnames])
    return recurrent


def write_known_pixels(path: Path, recurrent: Table, bad: Table, shape: tuple[int, int]) -> None:
    """Write the recurrence list as a mask that `known_pixels` takes, with the histories beside it.

    HDUs: the mask (uint8, 1 where a pixel made candidates on two or more nights), RECURRENT (its rows) and BAD_PIXELS
    (every pixel that was ever bad). The file is replaced whole.
    """
    mask = np.zeros(shape, np.uint8)
    mask[np.asarray(recurrent["y"], int), np.asarray(recurrent["x"], int)] = 1
    first = fits.PrimaryHDU(mask)
    first.header["CONTENT"] = ("recurrent pixels", "candidates on two or more nights")
    tables = {"RECURRENT": recurrent, "BAD_PIXELS": bad}
    whole = fits.HDUList([first, *(fits.table_to_hdu(_ascii(table), name=name) for name, table in tables.items())])
    for hdu in whole:
        hdu.add_checksum(when="")
    unfinished = path.parent / TRENDS / f"{path.name}.part"
    whole.writeto(unfinished, overwrite=True)
    replace_file(unfinished, path)


def _ascii(table: Table) -> Table:
    plain = table.copy()
    for name in ("first", "last"):
        texts = [text.encode("ascii", "backslashreplace") for text in np.asarray(table[name], str)]
        plain[name] = np.array(texts, dtype=f"S{max(map(len, texts), default=1) or 1}")
    return plain


def follow_pixels(
    records: Sequence[NightRecord], outputs: Path, write: bool = False
) -> tuple[Table, NightRecord | None]:
    """Compare each night's bad pixels with those of the nights before, and find the pixels that make candidates again.

    Fills `changes` of the records. Nights are comparable where instrument, shape, exposure and scale are the same; the
    candidates' pixels where instrument and shape are.

    Parameters
    ----------
    records : sequence of NightRecord
        In order of time.
    outputs : Path
        Their folder.
    write : bool
        Write `known_pixels.fits` for the camera of the latest night, and keep lists of bad pixels for the next time.

    Returns
    -------
    recurrent : Table
        x, y, nights, first, last, of the latest night's camera; no rows where there is no night.
    latest : NightRecord or None
        The latest published night.
    """
    cache = outputs / TRENDS
    published = [record for record in records if record.published and record.shape]
    latest = published[-1] if published else None
    groups: dict[tuple, list[NightRecord]] = {}
    for record in published:
        groups.setdefault((record.shape, record.series(METRICS[0])), []).append(record)
    known = np.zeros(0, np.int64)
    history: PixelHistory | None = None
    for (shape, _), group in sorted(groups.items(), key=lambda item: item[1][-1] is latest):  # the latest night's last
        history = None
        names: list[str] = []
        for record in group:
            listed = bad_pixels(outputs / record.path, shape, record.sha256.get(MASTER), cache if write else None)
            if listed is not None:
                history = history or PixelHistory(shape)  # not before a file has that many pixels
                record.changes = history.add(listed)
                names.append(record.night)
        if history and latest and (shape, group[0].instrument) == (latest.shape, latest.instrument):
            known = np.union1d(known, history.known)
    mine = [r for r in published if latest and (r.instrument, r.shape) == (latest.instrument, latest.shape)]
    found = {}
    for record in mine:
        pixels = candidate_pixels(outputs / record.path / "candidates.ecsv", record.shape or (0, 0))
        if pixels is None:
            record.verdict, record.reasons = UNREADABLE, (*record.reasons, unreadable("candidates.ecsv"))
        found[record.night] = set(pixels or ())
    recurrent = recurrent_pixels(found)
    if latest is not None and history is not None:
        recurrent = keep_listed(recurrent, outputs / KNOWN_PIXELS, history.shape, known)
        if write:
            write_known_pixels(outputs / KNOWN_PIXELS, recurrent, history.table(names), history.shape)
            used = {_kept_as(record.sha256[MASTER]) for record in published if MASTER in record.sha256}
            ours = (path for path in cache.iterdir() if re.fullmatch(r"[0-9a-f]{64}-\d+\.npy", path.name))
            for stale in [path for path in ours if path.name not in used]:
                stale.unlink(missing_ok=True)
    return recurrent, latest
