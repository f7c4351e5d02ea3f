"""The night reader: every file of a capture folder gets one verdict, and good frames give their raw counts.

The only module that reads FITS. Files are opened read-only and never memory-mapped: a file that shrinks while mapped
would kill the process. No world coordinates are built: the capture program's headers would only raise warnings.
"""

import gzip
import hashlib
import io
import math
import os
import re
import stat
import warnings
import zlib
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from sla1tools.counts import code_histogram
from sla1tools.errors import FrameError, NightError, ParametersError, Reason
from sla1tools.parameters import Parameters, from_checkout

LEAST_FRAMES = 3
LEVEL_TOLERANCE = 0.25  # of the night's median level: a light leak or an open cover, not a warm evening
TEMPERATURE_TOLERANCE = 1.0  # kelvin from the night's median
SATURATED_SHARE = 0.05
COUNT_UNITS = ("", "adu", "count", "counts", "ct", "dn")
UNKNOWN_ALLOWED = ("GAIN", "CCD-TEMP", "FILTER")
READ_KEYS = ("EXPTIME", "FILTER", "BUNIT", "DATE-OBS", "DATE-END", "XBINNING", "YBINNING", "CCD-TEMP", "GAIN")
HEADER_KEYS = ("OBJECT", "IMAGETYP", "INSTRUME", "OFFSET", "EGAIN", "EGAINSAV", "ADCBITS", "SET-TEMP", "SWCREATE")


@dataclass(frozen=True)
class Frame:
    """One usable dark: what its header says, and where its counts are.

    `rows` reads raw counts on demand, so a night of hundreds of frames costs no memory. `level` is the median in raw
    counts. `start` and `end` are naive UTC datetimes or None. `header` holds a few further keys as the file gives
    them; its texts are untrusted.
    """

    name: str
    path: Path
    shape: tuple[int, int]
    exposure: float
    start: datetime | None
    end: datetime | None
    temperature: float | None
    gain: float | None
    binning: tuple[int, int] | None
    filter_name: str | None
    level: float
    sha256: str
    notes: tuple[str, ...]
    header: dict = field(repr=False)
    stored: "_Stored" = field(repr=False)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Read raw counts of some rows.

        Parameters
        ----------
        start, stop : int
            Half-open range of rows, within the frame.

        Returns
        -------
        counts : (stop - start, nx) uint16 array

        Raises
        ------
        NightError
            If the file is no longer the one that was judged.
        """
        return self.stored.rows(self.path, start, stop, self.shape[1])


@dataclass(frozen=True)
class Rejected:
    """One file that was not used, and why; `sha256` is None where there were no bytes to read."""

    name: str
    reason: Reason
    detail: str
    sha256: str | None = None


@dataclass(frozen=True)
class Night:
    """A night of darks: usable frames in file order, rejected files, ignored files.

    `histogram` counts the raw codes of all used frames, (65536,) int64. `notes` are remarks that degrade nothing.
    """

    parameters: Parameters
    frames: tuple[Frame, ...]
    rejected: tuple[Rejected, ...]
    ignored: tuple[str, ...]
    notes: tuple[str, ...]
    histogram: np.ndarray = field(repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of every frame."""
        return self.parameters.frame_shape

    @cached_property
    def names(self) -> list[str]:
        """File names of the used frames, in order."""
        return [frame.name for frame in self.frames]

    @cached_property
    def offsets(self) -> np.ndarray:
        """Whole counts by which each frame's median level lies above the night's, (N,) int."""
        levels = np.array([frame.level for frame in self.frames])
        return np.rint(levels - np.median(levels)).astype(int) if len(levels) else np.zeros(0, int)

    def rows(self, k: int, start: int, stop: int) -> np.ndarray:
        """Counts of some rows of frame k, (stop - start, nx) uint16.

        With `level_correction` the frame's offset is taken off, except from pixels at a rail, which stay there.
        """
        return self.correct(k, self.frames[k].rows(start, stop))

    def correct(self, k: int, counts: np.ndarray) -> np.ndarray:
        """Take frame k's offset off raw counts if `level_correction` asks for it; the counts themselves else."""
        if not self.parameters.level_correction or self.offsets[k] == 0:
            return counts
        railed = (counts == 0) | (counts >= self.parameters.top_code)
        shifted = np.clip(counts.astype(np.int32) - self.offsets[k], 0, 65535).astype(np.uint16)
        return np.where(railed, counts, shifted)

    def band(self, start: int, stop: int) -> np.ndarray:
        """Counts of some rows in every frame, as `rows` gives them, (N, stop - start, nx) uint16."""
        return np.stack([self.rows(k, start, stop) for k in range(len(self.frames))])

    def require_usable(self) -> None:
        """Raise `NightError` if there are fewer frames than a held-out statistic needs."""
        if len(self.frames) < LEAST_FRAMES:
            reasons = Counter(item.reason.value for item in self.rejected)
            told = ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "none rejected"
            raise NightError(
                f"{self.parameters.capture_directory}: not tested: {len(self.frames)} usable frames ({told}), "
                f"a held-out reference needs {LEAST_FRAMES}"
            )


@dataclass(frozen=True)
class _Stored:
    """Where a frame's counts are: unsigned 16-bit words at an offset of the file, or an array already decoded."""

    offset: int = 0
    signature: tuple[int, int] | None = None
    counts: np.ndarray | None = None

    def rows(self, path: Path, start: int, stop: int, nx: int) -> np.ndarray:
        if self.counts is not None:
            return self.counts[start:stop]
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            file.seek(self.offset + 2 * nx * start)
            words = file.read(2 * nx * (stop - start))
        if (status.st_size, status.st_mtime_ns) != self.signature or len(words) != 2 * nx * (stop - start):
            raise NightError(f"{path}: changed while it was being used; run again")
        return _words_to_counts(words).reshape(-1, nx)


def _words_to_counts(words: bytes) -> np.ndarray:
    """FITS stores unsigned 16-bit as signed with BZERO 32768: flipping the sign bit is that addition."""
    return np.frombuffer(words, ">u2").astype(np.uint16) ^ np.uint16(0x8000)


def judge_night(parameters: Parameters) -> Night:
    """Judge every file of the capture folder once.

    Every file ends as exactly one of used, rejected (with a reason) or ignored (its name does not match
    `file_pattern`, or is hidden). One bad file never stops the night; whether enough frames are left is asked by
    `Night.require_usable`.

    Raises
    ------
    NightError
        If the capture folder cannot be listed.
    """
    directory = parameters.capture_directory
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise NightError(f"{directory}: cannot be listed: {error.strerror}") from None
    frames: list[Frame] = []
    rejected: list[Rejected] = []
    ignored: list[str] = []
    histograms: dict[str, np.ndarray] = {}
    for name in names:
        if name.startswith(".") or not fnmatch(name.lower(), parameters.file_pattern.lower()):
            ignored.append(name)
            continue
        verdict, histogram = _judge_file(directory / name, parameters, frames, histograms)
        if isinstance(verdict, Frame):
            frames.append(verdict)
            histograms[name] = histogram
        else:
            rejected.append(verdict)
    for judge in (_unlike_majority, _off_temperature, _off_level):
        outliers = judge(frames)
        frames = [frame for frame in frames if frame.name not in outliers]
        rejected += outliers.values()
    rejected.sort(key=lambda item: names.index(item.name))
    total = sum((histograms[frame.name] for frame in frames), np.zeros(65536, np.int64))
    return Night(parameters, tuple(frames), tuple(rejected), tuple(ignored), tuple(_night_notes(frames)), total)


def _judge_file(path, parameters, frames, histograms):
    """One verdict: (Frame, histogram) or (Rejected, None). The one place that catches `FrameError`."""
    sha256 = None
    try:
        contents, status = _read_regular_file(path, parameters)
        sha256 = hashlib.sha256(contents).hexdigest()
        header, counts, stored, notes = _decode(contents, parameters)
        frame = _frame_from_header(path, header, parameters, sha256, notes)
        histogram = code_histogram(counts)
        _judge_pixels(histogram, parameters)
        _refuse_duplicate(counts, histogram, frames, histograms)
    except FrameError as error:
        return Rejected(path.name, error.reason, error.detail, sha256), None
    stored = replace(stored, signature=(status.st_size, status.st_mtime_ns))
    return replace(frame, level=_median_code(histogram), stored=stored), histogram


def _most_bytes(parameters: Parameters) -> int:
    """More than any one-frame file of this shape needs: 64-bit pixels, thrice over, and a long header."""
    return 24 * math.prod(parameters.frame_shape) + 2**24


def _read_regular_file(path: Path, parameters: Parameters) -> tuple[bytes, os.stat_result]:
    """Return the file's bytes and its status, taken from the same open file."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FrameError(Reason.NOT_A_FILE, "is not a regular file")
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size == 0:
                raise FrameError(Reason.EMPTY, "has no bytes; normal for the newest file while observing")
            if status.st_size > _most_bytes(parameters):
                raise FrameError(Reason.SHAPE, f"{status.st_size} bytes are not one frame of this shape")
            return file.read(status.st_size), status
    except (OSError, ValueError) as error:
        raise FrameError(Reason.NOT_A_FILE, f"cannot be read: {getattr(error, 'strerror', error)}") from None


def _decode(contents: bytes, parameters: Parameters):
    """Return header (plain dict), counts (ny, nx) uint16, where they are stored, and notes."""
    packed = contents.startswith(b"\x1f\x8b")
    if packed:
        contents = _gunzip(contents, _most_bytes(parameters))
    if not contents.startswith(b"SIMPLE  ="):
        raise FrameError(Reason.NOT_FITS, "does not begin with SIMPLE =")
    if not any(contents[i : i + 80] == b"END".ljust(80) for i in range(0, len(contents), 80)):
        raise FrameError(Reason.TRUNCATED, "the header has no END")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(io.BytesIO(contents), memmap=False) as hdus:
                header, counts, stored, notes = _decode_image(_first_image(hdus), contents, parameters)
    except FrameError:
        raise
    except Exception as error:  # a broken header can raise almost anything in a FITS reader
        raise FrameError(Reason.NOT_FITS, f"cannot be decoded: {type(error).__name__}: {error}") from None
    return header, counts, _Stored(counts=counts) if packed else stored, notes


def _gunzip(contents: bytes, most: int) -> bytes:
    try:
        unpacked = gzip.GzipFile(fileobj=io.BytesIO(contents)).read(most + 1)
    except EOFError:
        raise FrameError(Reason.TRUNCATED, "the gzip stream ends early") from None
    except (OSError, zlib.error) as error:
        raise FrameError(Reason.NOT_FITS, f"a broken gzip stream: {error}") from None
    if len(unpacked) > most:
        raise FrameError(Reason.SHAPE, f"unpacks to more than {most} bytes, not one frame of this shape")
    return unpacked


def _first_image(hdus):
    for hdu in hdus:
        if hdu.is_image and hdu.header.get("NAXIS", 0) > 0:
            return hdu
    raise FrameError(Reason.SHAPE, "holds no image")


def _decode_image(hdu, contents, parameters):
    """Decode what the header promises, once the promise has been found affordable."""
    compressed = isinstance(hdu, fits.CompImageHDU)
    if hdu.shape != parameters.frame_shape:
        found, wanted = (" x ".join(map(str, shape)) for shape in (hdu.shape, parameters.frame_shape))
        raise FrameError(Reason.SHAPE, f"{found} pixels, not {wanted} (rows x columns)")
    notes = [] if isinstance(hdu, fits.PrimaryHDU) else ["image in an extension"]
    header = {key: _card(hdu.header, key) for key in (*READ_KEYS, *HEADER_KEYS) if key in hdu.header}
    offset = hdu.fileinfo()["datLoc"]
    if not compressed:
        notes += _missing_bytes(contents, offset, abs(hdu.header["BITPIX"]) // 8 * math.prod(hdu.shape))
    for key, verify in (("CHECKSUM", hdu.verify_checksum), ("DATASUM", hdu.verify_datasum)):
        if key in hdu.header and verify() == 0:
            raise FrameError(Reason.CHECKSUM, f"{key} does not match the file's contents")
    zero, slope = hdu.header.get("BZERO", 0), hdu.header.get("BSCALE", 1)
    if compressed or hdu.header["BITPIX"] != 16 or slope != 1 or zero != 32768 or "BLANK" in hdu.header:
        counts = _whole_counts(hdu.data)
        return header, counts, _Stored(counts=counts), notes
    counts = _words_to_counts(contents[offset : offset + 2 * math.prod(hdu.shape)]).reshape(hdu.shape)
    return header, counts, _Stored(offset), notes


def _missing_bytes(contents: bytes, offset: int, size: int) -> list[str]:
    if len(contents) < offset + size:
        raise FrameError(Reason.TRUNCATED, f"{max(len(contents) - offset, 0)} of {size} bytes of pixels")
    whole_blocks = -(-(offset + size) // 2880) * 2880
    return ["padding of the last 2880-byte block missing"] if len(contents) < whole_blocks else []


def _card(header: fits.Header, key: str):
    """Return a header value as plain bool, int, float or text; None where the card is undefined or unreadable."""
    try:
        value = header[key]
    except fits.VerifyError:
        return None
    return value.strip() if isinstance(value, str) else value if isinstance(value, bool | int | float) else None


def _whole_counts(pixels: np.ndarray) -> np.ndarray:
    """Convert any other pixel type to raw counts, refusing what 16 bits cannot hold exactly."""
    if not np.isfinite(pixels).all():
        raise FrameError(Reason.NOT_FINITE, f"{np.count_nonzero(~np.isfinite(pixels))} pixels are not finite")
    if pixels.min() < 0 or pixels.max() > 65535:
        raise FrameError(Reason.RANGE, f"pixels from {pixels.min():g} to {pixels.max():g}, not within 0 to 65535")
    counts = pixels.astype(np.uint16)
    if not np.array_equal(counts, pixels):
        raise FrameError(Reason.RANGE, "pixels are not whole raw counts")
    return counts


def _frame_from_header(path, header, parameters, sha256, notes):
    exposure = _number(header, "EXPTIME")
    if exposure is None:
        raise FrameError(Reason.KEYWORD, f"EXPTIME must be a number of seconds; got {header.get('EXPTIME')!r}")
    if not math.isclose(exposure, parameters.dark_exposure, rel_tol=1e-3):
        raise FrameError(Reason.EXPOSURE, f"EXPTIME {exposure:g} s, not {parameters.dark_exposure:g} s")
    filter_name = header.get("FILTER")
    if parameters.filter_name and filter_name is not None and filter_name != parameters.filter_name:
        raise FrameError(Reason.FILTER, f"FILTER {filter_name!r}, not {parameters.filter_name!r}")
    if str(header.get("BUNIT") or "").lower() not in COUNT_UNITS:
        raise FrameError(Reason.UNIT, f"BUNIT {header['BUNIT']!r}, but raw counts are wanted")
    notes = [*notes, *(f"{key} unknown" for key in UNKNOWN_ALLOWED if header.get(key) is None)]
    start, end, repaired = _times(header, exposure)
    binning = (_number(header, "XBINNING"), _number(header, "YBINNING"))
    return Frame(
        name=path.name,
        path=path,
        shape=parameters.frame_shape,
        exposure=exposure,
        start=start,
        end=end,
        temperature=_number(header, "CCD-TEMP"),
        gain=_number(header, "GAIN"),
        binning=None if None in binning else (int(binning[0]), int(binning[1])),
        filter_name=None if filter_name is None else str(filter_name),
        level=math.nan,
        sha256=sha256,
        notes=(*notes, *repaired),
        header={key: header[key] for key in HEADER_KEYS if key in header},
        stored=_Stored(),
    )


def _number(header: dict, key: str) -> float | None:
    value = header.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _times(header: dict, exposure: float) -> tuple[datetime | None, datetime | None, list[str]]:
    """Start and end in UTC. Without a GPS lock SharpCap writes DATE-OBS in year 1: then DATE-END minus EXPTIME."""
    start, end = _sane_time(header.get("DATE-OBS")), _sane_time(header.get("DATE-END"))
    if start is None and end is not None:
        start = end - timedelta(seconds=exposure)
        return start, end, [f"DATE-OBS is {header.get('DATE-OBS')}: start is DATE-END minus EXPTIME"]
    if start is None:
        return None, None, ["time unknown: neither DATE-OBS nor DATE-END is usable"]
    return start, end or start + timedelta(seconds=exposure), []


def _sane_time(text) -> datetime | None:
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(\.\d{1,6})?\d*Z?", str(text))
    if match is None:
        return None
    try:
        time = datetime.fromisoformat(f"{match[1]}T{match[2]}{match[3] or ''}")
    except ValueError:
        return None
    return time if time.year >= 1990 else None


def _judge_pixels(histogram: np.ndarray, parameters: Parameters) -> None:
    if np.count_nonzero(histogram) == 1:
        raise FrameError(Reason.CONSTANT, f"every pixel is {int(histogram.argmax())} counts")
    saturated = histogram[parameters.top_code :].sum() / histogram.sum()
    if saturated > SATURATED_SHARE:
        raise FrameError(Reason.SATURATED, f"{saturated:.1%} of the pixels at {parameters.top_code} counts or above")


def _refuse_duplicate(counts, histogram, frames, histograms):
    """Equal histograms first: only a frame that agrees there is read again."""
    for frame in frames:
        if np.array_equal(histograms[frame.name], histogram) and np.array_equal(frame.rows(0, len(counts)), counts):
            raise FrameError(Reason.DUPLICATE, f"the same pixels as {frame.name}")


def _median_code(histogram: np.ndarray) -> float:
    """Median of the codes in a histogram, the mean of the two middle ones for an even number."""
    cumulative = np.cumsum(histogram)
    middle = np.searchsorted(cumulative, [(cumulative[-1] + 1) // 2, cumulative[-1] // 2 + 1])
    return float(middle.mean())


def _unlike_majority(frames: list[Frame]) -> dict[str, Rejected]:
    """Reject gain or binning unlike most frames that state one."""
    outliers = {}
    for reason, key in ((Reason.GAIN, "gain"), (Reason.BINNING, "binning")):
        stated = Counter(getattr(frame, key) for frame in frames if getattr(frame, key) is not None)
        for frame in frames:
            value = getattr(frame, key)
            if value is not None and value != stated.most_common(1)[0][0]:
                detail = f"{key} {value}, most frames have {stated.most_common(1)[0][0]}"
                outliers[frame.name] = Rejected(frame.name, reason, detail, frame.sha256)
    return outliers


def _off_temperature(frames: list[Frame]) -> dict[str, Rejected]:
    known = [frame for frame in frames if frame.temperature is not None]
    median = float(np.median([frame.temperature for frame in known])) if known else 0.0
    return {
        frame.name: Rejected(
            frame.name,
            Reason.TEMPERATURE,
            f"{frame.temperature:.2f} C, the night's median is {median:.2f} C",
            frame.sha256,
        )
        for frame in known
        if abs(frame.temperature - median) > TEMPERATURE_TOLERANCE
    }


def _off_level(frames: list[Frame]) -> dict[str, Rejected]:
    median = float(np.median([frame.level for frame in frames])) if frames else 0.0
    return {
        frame.name: Rejected(
            frame.name, Reason.LEVEL, f"median {frame.level:g} counts, the night's is {median:g}", frame.sha256
        )
        for frame in frames
        if abs(frame.level - median) > LEVEL_TOLERANCE * median
    }


def _night_notes(frames: list[Frame]) -> list[str]:
    """Gather the frames' notes, a line a note with the number of frames it holds for."""
    notes = Counter(re.sub(r" is \d.*?:", " is not sane:", note) for frame in frames for note in frame.notes)
    lines = [f"{note} ({count} of {len(frames)} frames)" for note, count in notes.items()]
    if any("DATE-END minus" in note for note in notes):
        lines.append("a time from DATE-END alone may be off by one exposure if the program stamped the frame's start")
    return lines


def read_known_pixels(parameters: Parameters) -> np.ndarray | None:
    """Read the list of pixels known to be bad: an ECSV table with columns `x` and `y`.

    Returns
    -------
    known : (ny, nx) bool array or None
        None where `known_pixels` is not set.

    Raises
    ------
    ParametersError
        If the file cannot be read, or a pixel lies outside the frame.
    """
    if parameters.known_pixels is None:
        return None
    path = from_checkout(parameters.known_pixels)
    try:
        listed = Table.read(path, format="ascii.ecsv")
        x, y = (np.asarray(listed[name], int) for name in ("x", "y"))
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ParametersError(f"known_pixels: {path} is not an ECSV table with columns x and y: {error}") from None
    ny, nx = parameters.frame_shape
    if len(x) and (min(x.min(), y.min()) < 0 or x.max() >= nx or y.max() >= ny):
        raise ParametersError(f"known_pixels: {path} lists pixels outside a frame of {ny} x {nx}")
    known = np.zeros((ny, nx), bool)
    known[y, x] = True
    return known
