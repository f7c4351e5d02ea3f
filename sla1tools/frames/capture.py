"""The night reader: every file of a capture folder gets one verdict, and good frames give their raw counts."""

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sla1tools.errors import FrameError, NightError, ParametersError, Reason
from sla1tools.frames.codes import CODES, code_histogram, positive
from sla1tools.frames.fits import Image, Stored, decode, read_bytes
from sla1tools.frames.headers import HEADER_KEYS, Facts, read_facts
from sla1tools.frames.known_pixels import read_known_pixels
from sla1tools.frames.sampling import Sample, clip_code, sample_frame
from sla1tools.frames.sessions import is_in_part
from sla1tools.frames.together import judge_together
from sla1tools.parameters import Parameters, require_capture
from sla1tools.text import is_text, listed, printable

LEAST_FRAMES = 3
SATURATED_SHARE = 0.05
FROZEN_DECIMALS = 4  # a thermometer that repeats more digits than these in every frame is not read at all


@dataclass(frozen=True)
class Frame(Facts):
    """One usable dark: what its header says, and where its counts are.

    `rows` reads raw counts on demand, so a night of hundreds of frames costs no memory. `level` is the median in raw
    counts. `header` holds a few further keys as the file gives them; its texts are untrusted.
    """

    name: str
    path: Path
    shape: tuple[int, int]
    level: float
    sha256: str
    header: dict = field(repr=False)
    stored: Stored = field(repr=False)

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

    def found_in(self, directory: Path) -> "Frame":
        """Find this frame's file again in a folder.

        Raises
        ------
        FrameError
            If there is no such file, or it holds anything else than when it was judged.
        """
        path = directory / self.path.name
        contents, signature = read_bytes(path, self.shape)
        if hashlib.sha256(contents).hexdigest() != self.sha256:
            raise FrameError(Reason.NOT_A_FILE, "is another file than was measured")
        return replace(self, path=path, stored=decode(contents, self.shape, signature).stored)


@dataclass(frozen=True)
class Rejected:
    """One file that was not used, and why; `sha256` is None where its bytes were not read."""

    name: str
    reason: Reason
    detail: str
    sha256: str | None = None


@dataclass(frozen=True)
class Capture:
    """A night of darks: usable frames in file order, rejected files, ignored files.

    `histogram` counts the raw codes of all used frames, (65536,) int64. `notes` are remarks that degrade nothing,
    `doubts` what does. `known` is the user's mask of bad pixels, (ny, nx) bool, None without one.
    `parameters` are the given ones, but for `top_code` where every frame's pixels are clipped below it. `noise` is a
    pixel's in one frame, in counts, NaN where no three frames agree; `highest` the highest code but for the first and
    last row, which hold metadata.
    """

    parameters: Parameters
    frames: tuple[Frame, ...]
    rejected: tuple[Rejected, ...]
    ignored: tuple[str, ...]
    notes: tuple[str, ...]
    histogram: np.ndarray = field(repr=False)
    known: np.ndarray | None = field(default=None, repr=False)
    doubts: tuple[str, ...] = ()
    noise: float = math.nan
    highest: int = CODES - 1

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of every frame."""
        return self.parameters.frame_shape

    @cached_property
    def names(self) -> list[str]:
        """File names of the used frames, in order."""
        return [frame.name for frame in self.frames]

    def times(self, names) -> np.ndarray:
        """When the exposures of frames of these names began, (n,) texts in UTC, as ISO 8601; empty where unknown."""
        known = {frame.name: frame.start.isoformat(timespec="milliseconds") for frame in self.frames if frame.start}
        return np.array([known.get(name, "") for name in np.asarray(names).tolist()], "U23")

    @property
    def camera(self) -> str | None:
        """The camera's name, as the first used frame that gives one writes it."""
        names = (str(frame.header.get("INSTRUME", "")).strip() for frame in self.frames)
        return next(filter(None, names), None)

    @property
    def pixel_size(self) -> float:
        """Side of a pixel in micrometres: the first XPIXSZ that a header gives, else that of the parameters."""
        sizes = (positive(frame.header.get("XPIXSZ")) for frame in self.frames)
        return next(filter(None, sizes), self.parameters.pixel_size)

    @cached_property
    def offsets(self) -> np.ndarray:
        """Whole counts by which each frame's median level lies above the night's, (N,) int."""
        levels = np.array([frame.level for frame in self.frames])
        return np.rint(levels - np.median(levels)).astype(int) if len(levels) else np.zeros(0, int)

    def rows(self, k: int, start: int, stop: int) -> np.ndarray:
        """Counts of some rows of frame k, (stop - start, nx) uint16.

        With `level_correction` the frame's offset is taken off, except from pixels at a rail, which stay there; no
        other pixel is moved onto a rail.
        """
        return self.correct(k, self.frames[k].rows(start, stop))

    def correct(self, k: int, counts: np.ndarray) -> np.ndarray:
        """Take frame k's offset off raw counts if `level_correction` asks for it; the counts themselves else."""
        if not self.parameters.level_correction or self.offsets[k] == 0:
            return counts
        railed = (counts == 0) | (counts >= self.parameters.top_code)
        shifted = np.clip(counts.astype(np.int32) - self.offsets[k], 1, self.parameters.top_code - 1).astype(np.uint16)
        return np.where(railed, counts, shifted)

    def band(self, start: int, stop: int) -> np.ndarray:
        """Counts of some rows in every frame, as `rows` gives them, (N, stop - start, nx) uint16."""
        return np.stack([self.rows(k, start, stop) for k in range(len(self.frames))])

    def require_frame(self, k: int) -> None:
        """Raise `ParametersError` if there is no frame of that index."""
        if k not in range(len(self.frames)):
            raise ParametersError(f"frame {k}: there is none; this night's frames are 0 to {len(self.frames) - 1}")

    def _unmatched(self) -> str:
        there = listed(list(map(printable, self.ignored))) or "nothing"
        return f"file_pattern {self.parameters.file_pattern} fits no other name; there is: {there}"

    def require_usable(self) -> None:
        """Raise `NightError` if there are fewer frames than a held-out statistic needs."""
        if len(self.frames) < LEAST_FRAMES:
            reasons = Counter(item.reason.value for item in self.rejected)
            counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or self._unmatched()
            raise NightError(
                f"{self.parameters.capture_directory}: not tested: {len(self.frames)} usable frames ({counts}), "
                f"a held-out reference needs {LEAST_FRAMES}"
            )


def judge_capture(parameters: Parameters) -> Capture:
    """Judge every file of the capture folder once.

    Every file ends as exactly one of used, rejected (with a reason) or ignored (its name does not match
    `file_pattern`, is hidden, or is not valid UTF-8). Files are in the order of their names, numbers by value: 9.fits
    before 10.fits. One bad file never stops the night; whether enough frames are left is asked by
    `Capture.require_usable`.

    Raises
    ------
    ParametersError
        If there is no such capture folder.
    NightError
        If it cannot be listed.
    ParametersError
        If `known_pixels` cannot be used; no frame was read.
    """
    known = read_known_pixels(parameters)
    directory = parameters.capture_directory
    require_capture(parameters)
    try:
        names = sorted(os.listdir(directory), key=_numbers_by_value)
    except OSError as error:
        raise NightError(f"{directory}: cannot be listed: {error.strerror}") from None
    wanted = [name for name in names if is_text(name) and _is_asked_for(directory / name, parameters)]
    asked_for = set(wanted)
    ignored = tuple(readable(name) for name in names if name not in asked_for)
    seen: dict[str, Sample] = {}
    first_with: dict[bytes, str] = {}
    judged: dict[str, Frame | Rejected] = {}
    for name in sorted(wanted, key=lambda name: _is_copy(name, names)):
        judged[name] = _judge_file(directory / name, parameters, first_with, seen)
    verdicts = {readable(name): judged[name] for name in wanted}
    verdicts |= _unlike_majority(_used(verdicts))
    verdicts |= {frame.name: frame for frame in _thaw(_used(verdicts))}
    frames = _used(verdicts)
    agreement = judge_together(
        [frame.name for frame in frames],
        [seen[frame.name] for frame in frames],
        [frame.temperature for frame in frames],
        parameters,
    )
    for k, why in agreement.misfits.items():
        verdicts[frames[k].name] = Rejected(frames[k].name, *why, frames[k].sha256)
    frames = _note_exposure_changes(verdicts)
    used = [seen[frame.name] for frame in frames]
    clipped_at = clip_code(used, parameters.top_code)
    notes = [*_night_notes(frames), *agreement.notes]
    if clipped_at is not None:
        notes.append(f"pixels are clipped at {clipped_at:,} counts, below top_code {parameters.top_code:,}: saturated")
        parameters = parameters.model_copy(update={"top_code": clipped_at})
    histogram = np.zeros(CODES, np.int64)
    for sample in used:
        histogram[sample.codes] += sample.numbers
    return Capture(
        parameters,
        tuple(frames),
        tuple(verdict for verdict in verdicts.values() if isinstance(verdict, Rejected)),
        ignored,
        tuple(notes),
        histogram,
        known,
        doubts=tuple(agreement.doubts),
        noise=agreement.noise,
        highest=max((sample.highest for sample in used), default=CODES - 1),
    )


def _used(verdicts: Mapping[str, Frame | Rejected]) -> list[Frame]:
    return [verdict for verdict in verdicts.values() if isinstance(verdict, Frame)]


def _is_asked_for(path: Path, parameters: Parameters) -> bool:
    matches = fnmatch(path.name.lower(), parameters.file_pattern.lower()) and not path.name.startswith(".")
    return matches and (not parameters.part or is_in_part(path, parameters))


def _is_copy(name: str, present: Sequence[str]) -> bool:
    """Tell the names that systems give to a second copy of a file that is there: x (1).fit, x - Copy.fit."""
    original = re.sub(r"( ?\(\d+\)| - Copy)(?=\.)", "", name)
    return original != name and original in present


def _thaw(frames: list[Frame]) -> list[Frame]:
    """Make a temperature unknown that repeats to five or more decimals in every frame: no thermometer does."""
    stated = {frame.temperature for frame in frames}
    value = stated.pop() if len(frames) > 1 and len(stated) == 1 else None
    if value is None or round(value, FROZEN_DECIMALS) == value:
        return frames
    note = f"temperature unknown, as it is the same to all digits in every frame: {value}"
    return [replace(frame, temperature=None, notes=(*frame.notes, note)) for frame in frames]


def _numbers_by_value(name: str) -> tuple[list[tuple[str, int]], str]:
    return [(text, int(digits or -1)) for text, digits in re.findall(r"([^0-9]*)([0-9]*)", name)], name


def readable(name: str) -> str:
    """Escape what cannot be printed of a file name, and backslashes: two names that differ never read alike."""
    return printable(name.replace("\\", "\\\\"))


def _judge_file(
    path: Path, parameters: Parameters, first_with: dict[bytes, str], seen: dict[str, Sample]
) -> Frame | Rejected:
    """Judge one file by itself, and keep what was seen of a good one. The one place that catches `FrameError`."""
    sha256 = None
    try:
        contents, signature = read_bytes(path, parameters.frame_shape)
        sha256 = hashlib.sha256(contents).hexdigest()
        image = decode(contents, parameters.frame_shape, signature)
        histogram = code_histogram(image.counts)
        frame = _frame_of(path, image, parameters, sha256, _median_code(histogram))
        _judge_pixels(histogram, parameters)
        pixels = hashlib.sha256(image.counts.data).digest()
        if pixels in first_with:
            raise FrameError(Reason.DUPLICATE, f"the same pixels as {first_with[pixels]}")
    except FrameError as error:
        error = _with_its_header(error, parameters)
        return Rejected(readable(path.name), error.reason, error.detail, sha256)
    first_with[pixels] = frame.name
    seen[frame.name] = sample_frame(image.counts, histogram)
    return frame


def _with_its_header(error: FrameError, parameters: Parameters) -> FrameError:
    """Add what is wrong with the header of a frame that is refused by its shape: all is told at once."""
    try:
        if error.header is not None:
            read_facts(error.header, parameters)
    except FrameError as more:
        return error.and_then(more)
    return error


def _frame_of(path: Path, image: Image, parameters: Parameters, sha256: str, level: float) -> Frame:
    facts = vars(read_facts(image.header, parameters))
    return Frame(
        **facts | {"notes": (*image.notes, *facts["notes"])},
        name=readable(path.name),
        path=path,
        shape=parameters.frame_shape,
        level=level,
        sha256=sha256,
        header={key: image.header[key] for key in HEADER_KEYS if key in image.header},
        stored=image.stored,
    )


def _judge_pixels(histogram: np.ndarray, parameters: Parameters) -> None:
    if np.count_nonzero(histogram) == 1:
        raise FrameError(Reason.CONSTANT, f"every pixel is {int(histogram.argmax())} counts")
    saturated = histogram[parameters.top_code :].sum() / histogram.sum()
    if saturated > SATURATED_SHARE:
        raise FrameError(Reason.SATURATED, f"{saturated:.1%} of the pixels at {parameters.top_code} counts or above")


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
        usual = stated.most_common(1)[0][0] if stated else None
        for frame in frames:
            value = getattr(frame, key)
            if value not in (None, usual):
                detail = f"{key} {value}, most frames have {usual}"
                outliers[frame.name] = Rejected(frame.name, reason, detail, frame.sha256)
    return outliers


def _note_exposure_changes(verdicts: Mapping[str, Frame | Rejected]) -> list[Frame]:
    """Return the used frames, with a note on those that follow one of another exposure: its state may linger."""
    frames, changed = [], False
    for verdict in verdicts.values():
        if isinstance(verdict, Frame):
            note = ("first frame after an exposure change",) * changed
            frames.append(replace(verdict, notes=(*verdict.notes, *note)))
        changed = isinstance(verdict, Rejected) and verdict.reason == Reason.EXPOSURE
    return frames


def _night_notes(frames: list[Frame]) -> list[str]:
    """Gather the frames' notes, a line a note with the number of frames it holds for."""
    notes = Counter(note.partition(": ")[0] for frame in frames for note in frame.notes)
    lines = [f"{note} ({count} of {len(frames)} frames)" for note, count in notes.items()]
    if any("DATE-END minus" in note for note in notes):
        lines.append("a time from DATE-END alone may be off by one exposure if the program stamped the frame's start")
    return lines


def judged_files(capture) -> list[dict[str, Any]]:
    """One mapping a file of the capture folder: name, verdict, reason, detail and SHA-256, for the manifest."""
    rows = [
        {"name": frame.name, "verdict": "used", "detail": "; ".join(frame.notes), "sha256": frame.sha256}
        for frame in capture.frames
    ]
    rows += [{"name": item.name, "verdict": "rejected"} | asdict(item) for item in capture.rejected]
    rows += [{"name": name, "verdict": "ignored"} for name in capture.ignored]
    return sorted(rows, key=lambda row: row["name"])
