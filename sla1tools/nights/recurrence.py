"""Pixels over the nights: which became bad, recovered, came back; and which make candidates again and again.

One night's DQ image is in memory at a time; of the others there are lists of bad pixels.
"""

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial, reduce
from itertools import chain
from operator import or_
from pathlib import Path
from tokenize import TokenError
from types import MappingProxyType

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import ArrayLike
from scipy import special

from sla1tools.candidates.criteria import CRITERIA
from sla1tools.darks.classes import BLOCKING, PixelClass, bits_of
from sla1tools.frames.fits import read_plane
from sla1tools.nights.trends import MASTER, METRICS, UNREADABLE, NightRecord, of_latest_camera, unreadable
from sla1tools.published import TRENDS
from sla1tools.published.folder import write_whole
from sla1tools.text import open_regular, read_regular

BAD = BLOCKING & ~(PixelClass.METADATA | PixelClass.KNOWN)
# Those that leave a PSF fit: warm pixels and columns come and go by chance at their cuts, and only add a constant.
LISTED = int(BAD | PixelClass.KNOWN)
KNOWN_PIXELS = "known_pixels.fits"
LEAST_NIGHTS = 2  # with candidates, for a pixel to be called recurrent
AGED = 0.05  # chance of so long a silence, below which a pixel leaves the list
Pixel = tuple[int, int]


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


def bad_pixels(record: NightRecord, outputs: Path, keep: bool) -> np.ndarray | None:
    """List a published night's bad and known pixels.

    Parameters
    ----------
    record : NightRecord
    outputs : Path
        Its folder.
    keep : bool
        Read the list as it was made before, else keep it for the next time: by what it was made of, so never stale.

    Returns
    -------
    listed : (n, 2) int32 array or None
        Flat index and DQ value, by index; None where there is no DQ image of that shape.
    """
    shape, kept = record.shape, _kept_as(record) if keep else None
    if kept:
        with suppress(OSError, ValueError, EOFError, MemoryError, TokenError), open_regular(outputs / kept) as file:
            listed = np.lib.format.read_array(file, allow_pickle=False)
            ours = listed.dtype == np.int32 and listed.shape[1:] == (2,)
            if ours and ((listed[:, 0] >= 0) & (listed[:, 0] < math.prod(shape))).all():
                return listed
    dq = read_plane(outputs / record.path / MASTER, "DQ", shape)
    if dq is None or dq.dtype.kind not in "iu":
        return None
    dq = dq.astype(np.uint16)
    index = np.flatnonzero(dq & LISTED)
    listed = np.stack([index, dq.ravel()[index]], axis=1).astype(np.int32)
    if kept:
        np.save(data := io.BytesIO(), listed)
        with suppress(OSError):  # a full or foreign disk: the list is made again next time
            write_whole(outputs, kept, partial(Path.write_bytes, data=data.getvalue()))
    return listed


def _kept_as(record: NightRecord) -> str | None:
    """Name a night's list by what it was made of, and by which classes were listed; None where that is unknown."""
    return f"{TRENDS}/{record.sha256[MASTER]}-{LISTED}.npy" if MASTER in record.sha256 else None


class PixelHistory:
    """What is known of each pixel of one camera after each night, nights added in order of time.

    Memory: 14 bytes a pixel, whatever the number of nights.
    """

    def __init__(self, shape: tuple[int, int]):
        self.shape, self.count, pixels = shape, 0, math.prod(shape)
        self._nights, self._classes = np.zeros((2, pixels), np.uint16)
        self._first, self._last = np.full(pixels, -1, np.int32), np.full(pixels, -2, np.int32)
        self._steady = np.zeros(0, np.int64)

    def add(self, listed: np.ndarray) -> Changes:
        """Add a night's list, as `bad_pixels` gives it, and return what changed; nothing is new on the first night."""
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
        end, named = self.count - 1, np.array([*names, ""])
        states = {
            "vanished": last < end,
            "new": (first == end) & (end > 0),
            "steady": nights == end - first + 1,
        }
        state = np.select([*states.values()], [*states], "recurrent")
        x, y = self._places(index).T.astype(np.int32)
        columns = [x, y, self._classes[index], nights, named[first], named[last], state]
        return Table(columns, names=("x", "y", "dq", "nights", "first", "last", "state"))


def candidate_pixels(path: Path, shape: tuple[int, int]) -> list[tuple[int, int]] | None:
    """Read the pixels (x, y) of a `candidates.ecsv`, row by row; None where that fails, or one is off the frame."""
    try:
        # Not by astropy, which takes twenty times as long: a thousand nights are read for one page.
        lines = read_regular(path).decode("utf-8").splitlines()
        rows = csv.reader((line for line in lines if not line.startswith("#")), delimiter=" ")
        x, y = map(next(rows, []).index, "xy")
        pixels = [(int(row[x]), int(row[y])) for row in rows if row]
    except (OSError, ValueError, IndexError, csv.Error):
        return None
    return pixels if all(0 <= x < shape[1] and 0 <= y < shape[0] for x, y in pixels) else None


def silence_chance(nights, until, silent):
    """Chance that a pixel stays silent so long if it is what it was.

    Parameters
    ----------
    nights, until, silent : int or arrays
        Nights with candidates; nights that looked at it from the first to the last of these; nights that looked since.

    Notes
    -----
    From the first to the last the pixel made candidates on ``nights - 1`` of the ``until - 1`` nights after the first:
    with Jeffreys' prior its share of nights is Beta(nights - 1/2, until - nights + 1/2), over which the chance of
    silence is averaged. A pixel seen on each of two nights leaves the list after five silent ones, one seen on 2 of 20
    after a hundred and twenty.
    """
    a, b = nights - 0.5, until - nights + 0.5
    return np.exp(special.betaln(a, b + silent) - special.betaln(a, b))


def recurrent_pixels(
    candidates: Mapping[str, set[Pixel]],
    blind: Mapping[Pixel, Sequence[int]] = MappingProxyType({}),
    earlier: Mapping[Pixel, tuple[int, str, str]] = MappingProxyType({}),
) -> Table:
    """Find the pixels that made candidates on several nights, and how long they have been silent.

    Parameters
    ----------
    candidates : mapping of str to set
        Night, in order of time, to the pixels (x, y) that made its candidates, however often.
    blind : mapping of pixel to sequence of int, optional
        Positions of the nights that could not show a pixel.
    earlier : mapping of pixel to (int, str, str), optional
        Number, first and last of the nights on which a pixel was seen before nights left it out: such nights cannot
        show it again, and without this a list that is used would forget what it is used for.

    Returns
    -------
    recurrent : Table
        x, y, nights (with candidates), looked (nights from the first on that could show it), first, last, chance
        (`silence_chance`; below `AGED` it is no longer listed); the most frequent first.
    """
    names, found = [*candidates], dict[Pixel, tuple[int, int, int]]()
    for k, pixels in enumerate(candidates.values()):
        for pixel in pixels:
            nights, first, _ = found.get(pixel, (0, k, k))
            found[pixel] = nights + 1, first, k
    place = {name.decode(): k for k, name in enumerate(_ascii(names).tolist())}
    for pixel, (nights, *ends) in earlier.items():
        first, last = (place.get(end, 0) for end in ends)
        now = found.get(pixel, (0, first, last))
        found[pixel] = max(nights, now[0]), min(first, now[1]), max(last, now[2])
    rows = []
    for (x, y), (nights, first, last) in found.items():
        if nights >= LEAST_NIGHTS:
            unseen = np.asarray(blind.get((x, y), ()), int)
            until = max(nights, last - first + 1 - int(np.sum((unseen >= first) & (unseen <= last))))
            silent = len(names) - 1 - last - int(np.sum(unseen > last))
            chance = float(silence_chance(nights, until, silent))
            rows.append((x, y, nights, until + silent, names[first], names[last], chance))
    rows.sort(key=lambda row: (-row[2], row[1], row[0]))
    text = f"U{max(map(len, names), default=1)}"
    columns = {"x": "i4", "y": "i4", "nights": "i4", "looked": "i4", "first": text, "last": text, "chance": "f8"}
    return Table(rows=rows or None, names=[*columns], dtype=[*columns.values()])


def read_list(path: Path, shape: tuple[int, int]) -> dict[Pixel, tuple[int, str, str]]:
    """Read an earlier list as `recurrent_pixels` takes it; nothing where there is none of that shape."""
    found: dict[Pixel, tuple[int, str, str]] = {}
    if read_plane(path, 0, shape) is not None:
        with suppress(OSError, LookupError, ValueError, TypeError, fits.VerifyError):
            with fits.open(path, memmap=False) as hdus:
                rows = Table(hdus["RECURRENT"].data)
            for row in rows:
                x, y = int(row["x"]), int(row["y"])
                if 0 <= x < shape[1] and 0 <= y < shape[0]:
                    found[x, y] = int(row["nights"]), str(row["first"]), str(row["last"])
    return found


def write_known_pixels(path: Path, recurrent: Table, bad: Table, shape: tuple[int, int]) -> None:
    """Write the recurrence list as a mask that `known_pixels` takes, with the histories beside it.

    HDUs: the mask (uint8, 1 where a pixel made candidates on two or more nights and was not silent for too long since),
    RECURRENT (`recurrent_pixels`) and BAD_PIXELS (every pixel that was ever bad). The file is replaced whole.
    """
    mask = np.zeros(shape, np.uint8)
    listed = recurrent[recurrent["chance"] >= AGED]
    mask[np.asarray(listed["y"], int), np.asarray(listed["x"], int)] = 1
    first = fits.PrimaryHDU(mask)
    first.header["CONTENT"] = ("recurrent pixels", "candidates on two or more nights")
    whole = fits.HDUList([first])
    for name, table in (("RECURRENT", recurrent), ("BAD_PIXELS", bad)):
        plain = Table(table, copy=False)
        plain["first"], plain["last"] = _ascii(table["first"]), _ascii(table["last"])
        whole.append(fits.table_to_hdu(plain, name=name))
    for hdu in whole:
        hdu.add_checksum(when="")
    write_whole(path.parent, path.name, partial(whole.writeto, overwrite=True))


def _ascii(names: ArrayLike) -> np.ndarray:
    return np.char.encode(np.asarray(names, str), "ascii", "backslashreplace")


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
        As `recurrent_pixels` gives it, of the latest night's camera; no rows where there is no night.
    latest : NightRecord or None
        The latest published night.
    """
    published = [record for record in records if record.published and any(record.shape)]
    if not published:
        return recurrent_pixels({}), None
    latest = published[-1]
    mine = of_latest_camera(records)
    found = {record.night: _candidates_of(record, outputs) for record in mine}
    earlier = read_list(outputs / KNOWN_PIXELS, latest.shape)
    times = Counter(chain.from_iterable(found.values()))
    asked = sorted({*earlier, *(pixel for pixel, nights in times.items() if nights >= LEAST_NIGHTS)})
    blind: dict[Pixel, list[int]] = {}
    told: set[Pixel] = set()
    place = {id(record): k for k, record in enumerate(mine)}
    groups: dict[tuple, list[NightRecord]] = {}
    for record in published:
        groups.setdefault((record.shape, record.series(METRICS[0])), []).append(record)
    history: PixelHistory | None = None
    for (shape, _), group in sorted(groups.items(), key=lambda item: item[1][-1] is latest):  # the latest night's last
        history = None
        names: list[str] = []
        for record in group:
            listed = bad_pixels(record, outputs, keep=write)
            if listed is None:
                continue
            history = history or PixelHistory(shape)  # not before a file has that many pixels
            record.changes = history.add(listed)
            names.append(record.night)
            if id(record) in place:
                dq = _dq_of(listed, asked, shape)
                told |= {asked[i] for i in np.flatnonzero(dq & int(PixelClass.KNOWN))}
                of_latest = group[-1] is latest  # another exposure need not show what this one shows
                for i in np.flatnonzero(dq & _left_out(record)) if of_latest else range(len(asked)):
                    blind.setdefault(asked[i], []).append(place[id(record)])
    recurrent = recurrent_pixels(found, blind, {pixel: row for pixel, row in earlier.items() if pixel in told})
    if history is not None and write:
        write_known_pixels(outputs / KNOWN_PIXELS, recurrent, history.table(names), history.shape)
        used = {outputs / kept for record in published if (kept := _kept_as(record))}
        for path in set((outputs / TRENDS).iterdir()) - used:
            if re.fullmatch(r"[0-9a-f]{64}-\d+\.npy", path.name):
                path.unlink(missing_ok=True)
    return recurrent, latest


def _candidates_of(record: NightRecord, outputs: Path) -> set[Pixel]:
    """Pixels that made a night's candidates, or would have; where its list is damaged, the night is unreadable."""
    pixels = candidate_pixels(outputs / record.path / "candidates.ecsv", record.shape)
    if pixels is None:
        record.verdict, record.reasons = UNREADABLE, (*record.reasons, unreadable("candidates.ecsv"))
    return {*(pixels or ()), *(record.seen_on_known or ())}


def _dq_of(listed: np.ndarray, pixels: Sequence[Pixel], shape: tuple[int, int]) -> np.ndarray:
    """DQ values of pixels, 0 where they are not in a night's list."""
    flat = np.array([y * shape[1] + x for x, y in pixels], int)
    at = np.minimum(np.searchsorted(listed[:, 0], flat), max(len(listed) - 1, 0))
    return np.where(listed[at, 0] == flat, listed[at, 1], 0) if len(listed) else 0 * flat


def _left_out(record: NightRecord) -> int:
    """Bits of a pixel that makes no candidate of a night, so that the night cannot show it.

    A night that tells what its known pixels do shows them, though they make no candidate.
    """
    rule = CRITERIA.get(record.parameters.get("criterion", ""))
    terms = [int(term.bound) for term in rule.terms if term.column == "dq"] if rule else []
    bits = reduce(or_, terms, bits_of(set(record.parameters.get("excluded_classes", ()))))
    return bits if record.seen_on_known is None else bits & ~PixelClass.KNOWN
