"""One file of a capture folder: its bytes, judged, become a few header values and raw counts.

The only module that reads raw FITS files. They are opened read-only and never memory-mapped: a file that shrinks while
mapped would kill the process. No world coordinates are built: the capture program's headers would only raise warnings.
"""

import errno
import io
import math
import os
import stat
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits

from sla1tools.errors import FrameError, NightError, Reason
from sla1tools.frames.headers import read_values, with_primary
from sla1tools.frames.tiles import unpack

BLOCK = 2880
MOST_AXES = 999  # and table columns, says the standard
MOST_CARDS, MOST_UNITS, MOST_MEMBERS = 10_000, 1_000, 10_000  # of a header, a file, a gzip stream: more take too long
FIRST_CARD = b"SIMPLE  ="
ASK = "was the frame already subtracted or scaled?"


@dataclass(frozen=True)
class Stored:
    """Where a frame's counts are: unsigned 16-bit words at an offset of the file, or an array already decoded.

    `signature` tells whether the file is still the one that was judged: its size, times of change and number on
    the disk.
    """

    offset: int = 0
    signature: tuple[int, ...] | None = None
    counts: np.ndarray | None = None

    def rows(self, path: Path, start: int, stop: int, nx: int) -> np.ndarray:
        """Counts of some rows, (stop - start, nx) uint16; `NightError` if the file is no longer the one judged."""
        if self.counts is not None:
            return self.counts[start:stop].copy()
        size = 2 * nx * (stop - start)
        try:
            with open(path, "rb") as file:
                unchanged = _signature(os.fstat(file.fileno())) == self.signature
                file.seek(self.offset + 2 * nx * start)
                words = file.read(size)
        except OSError as error:
            _refuse_to_blame(path, error)
            raise NightError(f"{path}: can no longer be read: {error.strerror}; run again") from None
        if not unchanged or len(words) != size:
            raise NightError(f"{path}: changed while it was being used; run again")
        return _words_to_counts(words).reshape(-1, nx)


@dataclass(frozen=True)
class Image:
    """What one file holds: `header` values as plain bool, int, float, text or None, and (ny, nx) uint16 counts."""

    header: dict
    counts: np.ndarray
    stored: Stored
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    """One header-and-data unit: its header begins at byte `begin`, its data at `start` and has `size` bytes."""

    text: str
    header: fits.Header
    begin: int
    start: int
    size: int

    @property
    def end(self) -> int:
        return self.start + _whole_blocks(self.size)


def read_bytes(path: Path, shape: tuple[int, int]) -> tuple[bytes, tuple[int, ...]]:
    """Read a whole file, and the signature it had when it was opened.

    Raises
    ------
    FrameError
        `not_a_file`, `empty`, or `shape` where it is far larger than one frame needs: then nothing is read.
    NightError
        If this process may open no more files.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FrameError(Reason.NOT_A_FILE, "is not a regular file")
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size == 0:
                raise FrameError(Reason.EMPTY, "has no bytes; normal for the newest file while observing")
            if status.st_size > _most_bytes(shape):
                raise FrameError(Reason.SHAPE, f"{status.st_size} bytes are not one frame of this shape")
            return file.read(status.st_size), _signature(status)
    except OSError as error:
        _refuse_to_blame(path, error)
        raise FrameError(Reason.NOT_A_FILE, f"cannot be read: {error.strerror}") from None


def _refuse_to_blame(path: Path, error: OSError) -> None:
    """Raise `NightError` where this process may open no more files: that is not this one's fault."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise NightError(f"{path}: {error.strerror}: raise the limit (ulimit -n), and run again") from None


def decode(contents: bytes, shape: tuple[int, int], signature: tuple[int, ...] | None = None) -> Image:
    """Decode the first image of a FITS file, plain, in an extension, gzipped or tile-compressed.

    Parameters
    ----------
    contents : bytes
        The whole file.
    shape : (ny, nx)
        The only shape that is decoded: what a header promises is compared with it before memory is spent.
    signature : tuple of int, optional
        As `read_bytes` gives it, for `Stored`.

    Raises
    ------
    FrameError
        With the reason; whatever else a broken file makes a FITS reader raise becomes `not_fits`.
    """
    packed = contents.startswith(b"\x1f\x8b")
    if packed:
        contents = _gunzip(contents, _most_bytes(shape))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header, counts, offset, notes = _decode_first_image(contents, shape)
    except FrameError:
        raise
    except Exception as error:  # a broken header can raise almost anything in a FITS reader
        raise FrameError(Reason.NOT_FITS, f"cannot be decoded: {type(error).__name__}: {error}") from None
    if packed:
        offset, notes = None, ["unpacked from gzip", *notes]
    stored = Stored(counts=counts) if offset is None else Stored(offset, signature)
    return Image(header, counts, stored, tuple(notes))


def read_plane(path: Path, name: str | int, shape: tuple[int, int]) -> np.ndarray | None:
    """Read an image of one of our own files, plain or tile-compressed.

    Parameters
    ----------
    path : Path
        The file, which may since have become anything.
    name : str or int
        EXTNAME, or the number of the unit.
    shape : (ny, nx)
        The only shape that is read.

    Returns
    -------
    image : (ny, nx) array or None
        None where there is none of that shape and name, whole and decodable.
    """
    try:
        return plane_of(read_bytes(path, shape)[0], name, shape)
    except FrameError:
        return None


def plane_of(contents: bytes, name: str | int, shape: tuple[int, int], scaled: bool = True) -> np.ndarray | None:
    """Read an image of a file's contents, as `read_plane` does; or its numbers as they were packed, not `scaled`."""
    try:
        as_packed = {"memmap": False, "disable_image_compression": True, "do_not_scale_image_data": not scaled}
        with fits.open(io.BytesIO(contents), **as_packed) as hdus:
            hdu = hdus[name]
            if "ZIMAGE" in hdu.header:
                if _sides(hdu.header, "ZNAXIS")[::-1] != shape:
                    return None
                first, own = hdus[0].fileinfo(), hdu.fileinfo()
                head = contents[: first["datLoc"] + first["datSpan"]]
                alone = head + contents[own["hdrLoc"] : own["datLoc"] + own["datSpan"]]
                return unpack(alone, 1, hdu.header, shape, scaled)
            return hdu.data if getattr(hdu, "shape", None) == shape else None
    except (FrameError, OSError, LookupError, ValueError, TypeError, MemoryError, fits.VerifyError):
        return None


def _signature(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns


def _most_bytes(shape: tuple[int, int]) -> int:
    """More than any one-frame file of this shape needs: 64-bit pixels, thrice over, and a long header."""
    return 24 * math.prod(shape) + 2**24


def _gunzip(contents: bytes, most: int) -> bytes:
    unpacked, at = bytearray(), 0
    for _ in range(MOST_MEMBERS):
        member = zlib.decompressobj(wbits=31)
        while not member.eof:
            piece = contents[at : at + 65536]
            if not piece:
                raise FrameError(Reason.TRUNCATED, "the gzip stream ends early")
            try:
                unpacked += member.decompress(piece, most + 1 - len(unpacked))
            except zlib.error as error:
                raise FrameError(Reason.NOT_FITS, f"a broken gzip stream: {error}") from None
            if len(unpacked) > most:
                raise FrameError(Reason.SHAPE, f"unpacks to more than {most} bytes, not one frame of this shape")
            at += len(piece) - len(member.unused_data) - len(member.unconsumed_tail)
        if not contents[at : at + 65536].strip(b"\0"):  # the end, or a tape's padding
            return bytes(unpacked)
    raise FrameError(Reason.NOT_FITS, f"a gzip stream of more than {MOST_MEMBERS} members")


def _decode_first_image(contents: bytes, shape: tuple[int, int]):
    """Return header values, counts, the offset of their words in the file (None: stored otherwise) and notes."""
    part, number = _find_image(contents)
    more: list[str] = []
    values = read_values(part.text, part.header)
    if number:
        first = _part_at(contents, 0)
        values, more = with_primary(values, read_values(first.text, first.header))
    try:
        counts, offset, notes = _decode_part(contents, part, number, shape)
    except FrameError as error:
        error.header = values
        raise
    return values, counts, offset, notes + more


def _decode_part(contents: bytes, part: _Part, number: int, shape: tuple[int, int]):
    tiled = part.header.get("XTENSION") == "BINTABLE"
    found = _sides(part.header, "ZNAXIS" if tiled else "NAXIS")[::-1]
    notes = ["unpacked from compressed tiles"] if tiled else ["image in an extension"] if number else []
    if len(found) == 3 and found[0] == 1:
        found = found[1:]
        notes.append("a cube of one plane")
    if found != shape:
        raise FrameError(Reason.SHAPE, _unlike_shape(found, shape))
    notes += _missing_padding(contents, part)
    _verify_checksums(contents, part)
    if tiled:
        return _whole_counts(unpack(contents, number, part.header, shape)).reshape(shape), None, notes
    if not _holds_plain_words(part.header):
        with fits.open(io.BytesIO(contents), memmap=False) as hdus:
            return _whole_counts(hdus[number].data).reshape(shape), None, notes
    words = memoryview(contents)[part.start : part.start + 2 * math.prod(shape)]
    counts = _words_to_counts(words).reshape(shape)
    return counts, part.start, notes


def _unlike_shape(found: tuple[int, ...], shape: tuple[int, int]) -> str:
    texts = (" x ".join(map(str, sides)) or "no" for sides in (found, shape))
    message = "{} pixels, not {} (rows x columns)".format(*texts)
    if found in ((2 * shape[0], shape[1]), (shape[0], 2 * shape[1])):
        message += ": two halves of two gains, as from a camera that saves both? Set its read mode to one gain"
    return message


def _find_image(contents: bytes) -> tuple[_Part, int]:
    """Return the first unit that holds an image, and its number.

    The walk from unit to unit is done here because a reader that trusts NAXIS = 2000000000 counts that far.
    """
    if not contents.startswith(FIRST_CARD):
        if FIRST_CARD.startswith(contents):
            raise FrameError(Reason.TRUNCATED, "ends within the header's first card")
        raise FrameError(Reason.NOT_FITS, "does not begin with SIMPLE =")
    part, number = _part_at(contents, 0), 0
    while not _is_image(part):
        if number == MOST_UNITS:
            raise FrameError(Reason.NOT_FITS, f"no image among its first {MOST_UNITS} parts")
        if len(contents) < part.end:
            raise FrameError(Reason.TRUNCATED, f"ends within the part before the image, at byte {len(contents)}")
        if not contents.startswith(b"XTENSION", part.end):
            raise FrameError(Reason.SHAPE, "holds no image")
        part, number = _part_at(contents, part.end), number + 1
    return part, number


def _is_image(part: _Part) -> bool:
    kind = part.header.get("XTENSION", "IMAGE")
    return (kind == "IMAGE" and part.header["NAXIS"] > 0) or (kind == "BINTABLE" and "ZIMAGE" in part.header)


def _part_at(contents: bytes, begin: int) -> _Part:
    cards = range(begin, len(contents), 80)
    end = next((at + 80 for at in cards if contents[at : at + 80].rstrip(b" \0") == b"END"), len(contents) + 1)
    start = begin + _whole_blocks(end - begin)
    if len(contents) < start:
        raise FrameError(Reason.TRUNCATED, "ends within a header")
    if start - begin > 80 * MOST_CARDS:
        raise FrameError(Reason.NOT_FITS, f"a header of more than {MOST_CARDS} cards")
    text = contents[begin : end - 80].decode("latin-1")
    header = fits.Header.fromstring(text)
    sides = _sides(header, "NAXIS")
    pixels = _integer(header, "GCOUNT", 1) * (_integer(header, "PCOUNT", 0) + math.prod(sides)) if sides else 0
    size = abs(_integer(header, "BITPIX")) // 8 * pixels
    if size < 0 or _integer(header, "TFIELDS", 0) > MOST_AXES:
        raise FrameError(Reason.NOT_FITS, "the header's promises make no sense")
    return _Part(text, header, begin, start, size)


def _sides(header: fits.Header, key: str) -> tuple[int, ...]:
    """Lengths of the axes, the fastest first."""
    axes = _integer(header, key)
    if not 0 <= axes <= MOST_AXES:
        raise FrameError(Reason.NOT_FITS, f"{key} is {axes}")
    return tuple(_integer(header, f"{key}{i}") for i in range(1, axes + 1))


def _integer(header: fits.Header, key: str, default: int | None = None) -> int:
    # A text left as it is would be repeated, not multiplied: 'abc' times 2000000000 is 6 GB.
    return int(header[key] if default is None else header.get(key, default))


def _whole_blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _missing_padding(contents: bytes, part: _Part) -> list[str]:
    if len(contents) < part.start + part.size:
        raise FrameError(Reason.TRUNCATED, f"{len(contents) - part.start} of {part.size} bytes of pixels")
    return [f"padding of the last {BLOCK}-byte block missing"] if len(contents) < part.end else []


def _verify_checksums(contents: bytes, part: _Part) -> None:
    """Ones' complement sums of 32-bit words: DATASUM is that of the data, that of the whole unit is 0.

    FITS standard 4.0, appendix J. A card without a value says that there is no checksum.
    """
    data_sum, checksum = (str(part.header.get(key, "")).strip() for key in ("DATASUM", "CHECKSUM"))
    if data_sum and _sum_words(contents[part.start : part.end], -int(data_sum)):
        raise FrameError(Reason.CHECKSUM, "DATASUM does not match the file's contents")
    if checksum and _sum_words(contents[part.begin : part.end]):
        raise FrameError(Reason.CHECKSUM, "CHECKSUM does not match the file's contents")


def _sum_words(block: bytes, add: int = 0) -> int:
    words = np.frombuffer(block + bytes(-len(block) % 4), ">u4")
    return (int(words.sum(dtype=np.uint64)) + add) % (2**32 - 1)


def _holds_plain_words(header: fits.Header) -> bool:
    layout = [header["BITPIX"], header.get("BZERO", 0), header.get("BSCALE", 1)]
    return layout == [16, 32768, 1] and "BLANK" not in header


def _words_to_counts(words: bytes | memoryview) -> np.ndarray:
    """FITS stores unsigned 16-bit as signed with BZERO 32768: flipping the sign bit is that addition."""
    counts = np.frombuffer(words, ">u2").astype(np.uint16)
    counts ^= np.uint16(0x8000)
    return counts


def _whole_counts(pixels: np.ndarray) -> np.ndarray:
    """Convert any other pixel type to raw counts, refusing what 16 bits cannot hold exactly."""
    infinite = np.count_nonzero(~np.isfinite(pixels))
    if infinite:
        raise FrameError(Reason.NOT_FINITE, f"{infinite} pixels are not finite")
    if pixels.min() < 0 or pixels.max() > 65535:
        raise FrameError(
            Reason.RANGE, f"pixels from {pixels.min():g} to {pixels.max():g}, not within 0 to 65535; {ASK}"
        )
    counts = pixels.astype(np.uint16)
    if not np.array_equal(counts, pixels):
        raise FrameError(Reason.RANGE, f"pixels are not whole raw counts; {ASK}")
    return counts
