"""What bad input gets: one spoiled file in a small night, made for real, and the verdict that the contract names."""

import gzip
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.io import fits

SHAPE = (64, 80)
SPOILED = "00003.fits"
HEADER, PIXELS = 2880, 64 * 80 * 2  # bytes


@dataclass(frozen=True)
class Fault:
    """How to spoil a good frame, and what that gets.

    `make` returns the spoiled file's new path where it has one. `remark` is part of the rejection's detail, or of a
    note of the used frame. `keys` are parameters.
    """

    make: Callable[[Path], Path | None]
    verdict: str
    remark: str = ""
    keys: dict = field(default_factory=dict)


def cut(size):
    return lambda path: path.write_bytes(path.read_bytes()[:size]) and None


def contents(change):
    return lambda path: path.write_bytes(change(path.read_bytes())) and None


def raw_card(key, value):
    """Overwrite the value of a card in place, byte for byte: no FITS library has a say."""

    def change(old):
        at = old.index(f"{key:8}=".encode())
        return old[: at + 10] + value.ljust(70)[:70] + old[at + 80 :]

    return contents(change)


def cards(**changes):
    """Set header cards (CCD_TEMP means CCD-TEMP, but EXP_TIME itself), or delete those that are None."""

    def make(path):
        counts, header = fits.getdata(path), fits.getheader(path)
        for key, value in changes.items():
            key = key if key == "EXP_TIME" else key.replace("_", "-")
            header.pop(key, None)
            if value is not None:
                header[key] = value
        fits.writeto(path, counts, header, overwrite=True)

    return make


def pixels(change, **options):
    """Write other pixels under the same header, so far as it describes the frame and not its layout."""

    def make(path):
        changed = change(fits.getdata(path))
        header = fits.getheader(path)
        for key in ("BZERO", "BSCALE"):
            header.pop(key, None)
        fits.writeto(path, changed, header, overwrite=True, **options)

    return make


def float_pixels(value=None):
    def change(counts):
        changed = counts.astype(np.float32)
        if value is not None:
            changed[5, 7] = value
        return changed

    return pixels(change)


def some_saturated(share):
    def change(counts):
        counts = counts.copy()
        counts.ravel()[: round(share * counts.size)] = 65535
        return counts

    return pixels(change)


def brighter(factor, ramp=0):
    def change(counts):
        leak = np.linspace(0, ramp, counts.size).reshape(counts.shape)
        return np.clip(np.rint(counts * factor + leak), 0, 65535).astype(np.uint16)

    return pixels(change)


def wider(factor):
    """Multiply deviations from the median, as another gain does."""

    def change(counts):
        middle = np.median(counts)
        return np.clip(np.rint(middle + factor * (counts - middle)), 0, 65535).astype(np.uint16)

    return pixels(change)


def less_dark_signal(share):
    """Leave a share of what stands out over the median, as in the frames after a switch of the exposure."""

    def change(counts):
        excess = np.maximum(counts - np.median(counts) - 2000, 0)
        return np.rint(counts - (1 - share) * excess).astype(np.uint16)

    return pixels(change)


def garbage(rows, columns):
    def change(counts):
        counts = counts.copy()
        counts[rows, columns] = np.random.default_rng(8).integers(0, 65535, counts[rows, columns].shape)
        return counts

    return pixels(change)


def second_card(key, value):
    """Add a second card of a key that is there."""

    def make(path):
        with fits.open(path, mode="update") as hdus:
            hdus[0].header.append((key, value))

    return make


def keys_in_primary(**in_extension):
    def make(path):
        counts, header = fits.getdata(path), fits.getheader(path)
        primary = fits.PrimaryHDU()
        primary.header.extend(header, unique=True)
        fits.HDUList([primary, fits.ImageHDU(counts, fits.Header(in_extension))]).writeto(path, overwrite=True)

    return make


def replaced(make):
    """Remove the frame, then put something else in its place."""

    def spoil(path):
        path.unlink()
        return make(path)

    return spoil


def to_extension(path):
    counts, header = fits.getdata(path), fits.getheader(path)
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(counts, header)]).writeto(path, overwrite=True)


def to_tiles(algorithm="RICE_1", checksum=False):
    def make(path):
        counts, header = fits.getdata(path), fits.getheader(path)
        packed = fits.CompImageHDU(counts, header, compression_type=algorithm, tile_shape=(16, 80))
        fits.HDUList([fits.PrimaryHDU(), packed]).writeto(path.with_name(path.name + ".fz"), checksum=checksum)
        path.unlink()
        return path.with_name(path.name + ".fz")

    return make


def to_gzip(path):
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return packed


def then(*steps):
    """Spoil, and spoil the outcome."""

    def make(path):
        for step in steps:
            path = step(path) or path
        return path

    return make


def renamed(name):
    return lambda path: path.rename(path.with_name(name))


def gzip_bomb(path):
    """A good header, then 300 MB of zeros, in 0.3 MB."""
    squeeze = zlib.compressobj(1, zlib.DEFLATED, 31)
    packed = squeeze.compress(path.read_bytes()[:HEADER])
    packed += b"".join(squeeze.compress(bytes(10**6)) for _ in range(300)) + squeeze.flush()
    path.write_bytes(packed)


def link_elsewhere(path):
    target = path.parents[1] / "kept elsewhere.fits"
    path.rename(target)
    path.symlink_to(target)


def link_loop(path):
    path.symlink_to(path.with_name("99999.dat"))
    path.with_name("99999.dat").symlink_to(path)


def link_to_itself(path):
    path.symlink_to(path)


def copy_of_previous(path):
    counts, header = fits.getdata(path.with_name("00002.fits")), fits.getheader(path)
    fits.writeto(path, counts, header, overwrite=True)


def flipped_copy(path):
    counts, header = fits.getdata(path.with_name("00002.fits"))[::-1], fits.getheader(path)
    fits.writeto(path, counts, header, overwrite=True)


def with_checksum(path):
    with fits.open(path, mode="update", checksum=True) as hdus:
        hdus[0].add_checksum()


def with_datasum(path):
    with fits.open(path, mode="update") as hdus:
        hdus[0].add_datasum()


def flip_last_pixel(path):
    spoiled = bytearray(path.read_bytes())
    spoiled[HEADER + PIXELS - 1] ^= 1
    path.write_bytes(spoiled)


def flip_a_tile(path):
    spoiled = bytearray(path.read_bytes())
    spoiled[3 * HEADER + 600] ^= 1
    path.write_bytes(spoiled)


def undefined_pixels(path):
    frame = fits.PrimaryHDU(fits.getdata(path).astype(np.int32), fits.getheader(path))
    frame.header["BLANK"] = int(frame.data[9, 9])
    frame.writeto(path, overwrite=True)


def sparse_giant(path):
    """A header, then a hole of 4 TB: no bytes on disk, but no memory could hold it."""
    with path.open("r+b") as file:
        file.truncate(2**42)


def only_table(path):
    table = fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1, 2])])
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path, overwrite=True)


def random_bytes(size):
    return contents(lambda old: np.random.default_rng(5).bytes(size))


def million_cards(old):
    """A good header with as many blank cards before its end as a file of this shape may have bytes."""
    at = old.index(b"END".ljust(80))
    return old[:at] + b" " * 80 * 200_000 + old[at:]


def parts_without_image(old):
    part = b"XTENSION= 'IMAGE   '".ljust(80) + b"BITPIX  =                    8".ljust(80)
    return (part + b"NAXIS   =                    0".ljust(80) + b"END".ljust(80)).ljust(2880)


def nul_padded_end(old):
    at = old.index(b"END".ljust(80))
    return old[:at] + b"END" + bytes(HEADER - at - 3) + old[HEADER:]


NO_IMAGE = fits.PrimaryHDU().header.tostring().encode()

FAULTS = {
    # Bytes that are not all there.
    "cut inside the first card": Fault(cut(5), "truncated", "first card"),
    "cut after the first card": Fault(cut(80), "truncated", "header"),
    "cut in mid header": Fault(cut(1000), "truncated", "header"),
    "cut before the header's last byte": Fault(cut(HEADER - 1), "truncated", "header"),
    "cut at the header's end": Fault(cut(HEADER), "truncated", "0 of 10240 bytes"),
    "cut in mid pixels": Fault(cut(HEADER + 4001), "truncated", "4001 of 10240 bytes"),
    "cut one byte before the pixels' end": Fault(cut(HEADER + PIXELS - 1), "truncated", "10239 of 10240 bytes"),
    "padding missing": Fault(cut(HEADER + PIXELS), "used", "padding of the last 2880-byte block missing"),
    "padding cut short": Fault(cut(HEADER + PIXELS + 5), "used", "padding of the last 2880-byte block missing"),
    "bytes after the end": Fault(contents(lambda old: old + b"later " * 99), "used"),
    "zero length": Fault(cut(0), "empty", "newest file"),
    "extension cut in its header": Fault(then(to_extension, cut(HEADER + 500)), "truncated", "header"),
    "extension cut in its pixels": Fault(then(to_extension, cut(2 * HEADER + 500)), "truncated", "500 of 10240"),
    "tiles cut short": Fault(then(to_tiles(), cut(3 * HEADER + 500)), "truncated", "500 of"),
    "gzip cut short": Fault(then(to_gzip, cut(1000)), "truncated", "gzip"),
    # Not FITS at all.
    "text": Fault(contents(lambda old: b"no frame at all\n"), "not_fits"),
    "random bytes": Fault(random_bytes(20000), "not_fits"),
    "PNG": Fault(contents(lambda old: b"\x89PNG\r\n\x1a\n" + old), "not_fits"),
    "gzip of text": Fault(contents(lambda old: gzip.compress(b"no frame")), "not_fits"),
    "gzip of nothing": Fault(contents(lambda old: gzip.compress(b"")), "truncated"),
    "gzip's magic alone": Fault(contents(lambda old: b"\x1f\x8b" + old), "not_fits", "gzip"),
    "gzip with a wrong sum": Fault(then(to_gzip, contents(lambda old: old[:-8] + bytes(8))), "not_fits", "gzip"),
    "SIMPLE cards for ever": Fault(contents(lambda old: old[:80] * 500), "truncated", "header"),
    "all NUL": Fault(contents(lambda old: bytes(len(old))), "not_fits"),
    # Not a file that can be read.
    "directory": Fault(replaced(lambda path: path.mkdir()), "not_a_file", "not a regular file"),
    "dangling link": Fault(replaced(lambda path: path.symlink_to("nowhere")), "not_a_file", "No such file"),
    "link loop": Fault(replaced(link_loop), "not_a_file", "cannot be read"),
    "link to itself": Fault(replaced(link_to_itself), "not_a_file", "cannot be read"),
    "link to a folder": Fault(replaced(lambda path: path.symlink_to(path.parent)), "not_a_file"),
    "link to a good file": Fault(link_elsewhere, "used"),
    "pipe": Fault(replaced(lambda path: os.mkfifo(path)), "not_a_file", "not a regular file"),
    "unreadable": Fault(lambda path: path.chmod(0), "not_a_file", "Permission denied"),
    # Other containers of the same counts.
    "gzip": Fault(to_gzip, "used", "unpacked from gzip"),
    "tiles": Fault(to_tiles(), "used", "unpacked from compressed tiles"),
    "tiles, gzip inside": Fault(to_tiles("GZIP_2"), "used", "unpacked from compressed tiles"),
    "tiles with a good checksum": Fault(to_tiles(checksum=True), "used"),
    "tiles of a kind that is not read": Fault(to_tiles("HCOMPRESS_1"), "not_fits", "HCOMPRESS_1"),
    "tiles that would kill the decoder": Fault(
        then(pixels(lambda counts: counts.astype(np.int32)), to_tiles(), raw_card("ZVAL2", b"-2".rjust(20))),
        "not_fits",
        "BYTEPIX -2",
    ),
    "tiles of no known size": Fault(then(to_tiles(), raw_card("ZTILE1", b"0".rjust(20))), "not_fits"),
    "image in an extension": Fault(to_extension, "used", "image in an extension"),
    "gzip of an extension": Fault(then(to_extension, to_gzip), "used", "image in an extension"),
    "upper case name": Fault(renamed("00003.FITS"), "used"),
    "header ended with NUL": Fault(contents(nul_padded_end), "used"),
    # Names that are none of the reader's business.
    "hidden": Fault(renamed("._00003.fits"), "ignored"),
    "other ending": Fault(renamed("00003.txt"), "ignored"),
    "spaces and brackets": Fault(renamed("dark [3] {x} 'q' \"é\" \u661f\n.fits"), "used"),
    "not even unicode": Fault(renamed(os.fsdecode(b"dark-\xff\xfe.fits")), "ignored"),
    # Shape, and promises that no memory could keep.
    "wrong shape": Fault(pixels(lambda counts: counts[:60]), "shape", "60 x 80 pixels, not 64 x 80"),
    "transposed": Fault(pixels(lambda counts: counts.T), "shape", "80 x 64"),
    "cube": Fault(pixels(lambda counts: counts[None]), "used", "a cube of one plane"),
    "cube of two planes": Fault(pixels(lambda counts: np.stack([counts, counts])), "shape", "2 x 64 x 80"),
    "two halves": Fault(pixels(lambda counts: np.hstack([counts, counts])), "shape", "Set its read mode to one gain"),
    "line": Fault(pixels(lambda counts: counts[0]), "shape", "80 pixels"),
    "no image": Fault(lambda path: fits.PrimaryHDU().writeto(path, overwrite=True), "shape", "no image"),
    "table only": Fault(only_table, "shape", "no image"),
    "header bomb": Fault(raw_card("NAXIS1", b"2000000000".rjust(20)), "shape", "64 x 2000000000"),
    "axes bomb": Fault(raw_card("NAXIS", b"2000000000".rjust(20)), "not_fits", "NAXIS is 2000000000"),
    "negative side": Fault(raw_card("NAXIS1", b"-64".rjust(20)), "not_fits"),
    "side that is text": Fault(raw_card("NAXIS1", b"'abc'"), "not_fits"),
    "pixels of no known type": Fault(raw_card("BITPIX", b"24".rjust(20)), "truncated"),
    "gzip of very many members": Fault(contents(lambda old: gzip.compress(b"") * 500_000), "not_fits", "members"),
    "a million cards": Fault(contents(lambda old: gzip.compress(million_cards(old))), "not_fits", "cards"),
    "very many parts": Fault(contents(lambda old: NO_IMAGE + parts_without_image(old) * 5000), "not_fits", "parts"),
    "gzip bomb": Fault(gzip_bomb, "shape", "unpacks to more than"),
    "sparse giant": Fault(sparse_giant, "shape", "are not one frame"),
    # Header cards.
    "EXPTIME missing": Fault(cards(EXPTIME=None), "keyword", "got None"),
    "EXPTIME text": Fault(cards(EXPTIME="half a minute"), "keyword", "half a minute"),
    "EXPTIME truth": Fault(cards(EXPTIME=True), "keyword"),
    "EXPTIME NaN": Fault(raw_card("EXPTIME", b"NaN".rjust(20)), "keyword", "NaN"),
    "EXPTIME endless": Fault(raw_card("EXPTIME", b"1E999".rjust(20)), "keyword", "inf"),
    "EXPTIME of another night": Fault(cards(EXPTIME=60.0), "exposure", "60 s, not 30 s"),
    "EXPTIME negative": Fault(cards(EXPTIME=-30.0), "exposure"),
    "EXPTIME a hair off": Fault(cards(EXPTIME=30.001), "used"),
    "EXPTIME whole": Fault(cards(EXPTIME=30), "used"),
    "BUNIT electron": Fault(cards(BUNIT="electron"), "unit", "electron"),
    "BUNIT ADU": Fault(cards(BUNIT="ADU"), "used"),
    "GAIN differs": Fault(cards(GAIN=9), "gain", "gain 9.0, most frames have 5.0"),
    "GAIN absent": Fault(cards(GAIN=None), "used", "GAIN unknown"),
    "GAIN text": Fault(cards(GAIN="high"), "used", "GAIN unknown"),
    "XBINNING differs": Fault(cards(XBINNING=2), "binning", "(2, 1)"),
    "CCD-TEMP off": Fault(cards(CCD_TEMP=-15.0), "temperature", "-15.00 C, the group's middle is -20.00 C"),
    "CCD-TEMP within a kelvin": Fault(cards(CCD_TEMP=-19.3), "used"),
    "CCD-TEMP absent": Fault(cards(CCD_TEMP=None), "used", "temperature read from SET-TEMP"),
    "no temperature": Fault(cards(CCD_TEMP=None, SET_TEMP=None), "used", "CCD-TEMP unknown"),
    "no thermometer": Fault(cards(CCD_TEMP=-273.15), "used", "CCD-TEMP is that of no camera: -273.15"),
    "CCDTEMP": Fault(cards(CCD_TEMP=None, CCDTEMP=-20.2), "used", "temperature read from CCDTEMP"),
    "CAMTEMP in kelvin": Fault(cards(CCD_TEMP=None, CAMTEMP=253.1), "used", "CAMTEMP is in kelvin"),
    "CAMTEMP of another night": Fault(cards(CCD_TEMP=None, CAMTEMP=283.15), "temperature", "10.00 C"),
    "two temperatures": Fault(cards(CAMTEMP=263.15), "keyword", "CAMTEMP -10.00 C disagree"),
    "EXPOSURE": Fault(cards(EXPTIME=None, EXPOSURE=30.0), "used", "exposure read from EXPOSURE"),
    "EXP_TIME": Fault(cards(EXPTIME=None, EXP_TIME=30), "used", "exposure read from EXP_TIME"),
    "EXPOSURE of another night": Fault(cards(EXPTIME=None, EXPOSURE=60.0), "exposure", "EXPOSURE 60 s, not 30 s"),
    "EXPOSURE that agrees": Fault(cards(EXPOSURE=30.0), "used"),
    "EXPOSURE that disagrees": Fault(cards(EXPOSURE=60.0), "keyword", "EXPTIME 30 s and EXPOSURE 60 s disagree"),
    "EXPTIME twice": Fault(second_card("EXPTIME", 60.0), "keyword", "EXPTIME is given 2 times"),
    "EXPTIME twice, the same": Fault(second_card("EXPTIME", 30.0), "used"),
    "EXPTIME within tolerance": Fault(cards(EXPTIME=30.0669), "used", "not quite the 30 s of dark_exposure: 30.0669 s"),
    "EXPTIME beyond tolerance": Fault(cards(EXPTIME=30.2), "exposure", "30.2 s"),
    "keys in the primary header": Fault(keys_in_primary(), "used", "header keys read from the primary header"),
    "keys in both, unlike": Fault(keys_in_primary(EXPTIME=60.0), "keyword", "EXPTIME is 30.0 in the primary header"),
    "DATE-OBS with an offset": Fault(cards(DATE_OBS="2024-05-07T20:38:48.5-0700"), "used"),
    "BAYERPAT": Fault(cards(BAYERPAT="RGGB"), "used", "BAYERPAT is that of a colour sensor"),
    "IMAGETYP light": Fault(cards(IMAGETYP="Light Frame"), "imagetype", "'Light Frame' is no dark"),
    "IMAGETYP flat": Fault(cards(IMAGETYP="DARKFLAT"), "imagetype"),
    "IMAGETYP bias": Fault(cards(IMAGETYP="Bias Frame"), "imagetype"),
    "IMAGETYP dark": Fault(cards(IMAGETYP="Dark Frame"), "used"),
    "FILTER differs": Fault(cards(FILTER="Red"), "filter", "'Red', not 'Dark'", {"filter_name": "Dark"}),
    "FILTER as wanted": Fault(cards(FILTER="Dark"), "used", "", {"filter_name": "Dark"}),
    "FILTER a number": Fault(cards(FILTER=3), "used", "", {"filter_name": "3"}),
    "FILTER absent": Fault(lambda path: None, "used", "FILTER unknown", {"filter_name": "Dark"}),
    "FILTER not asked for": Fault(cards(FILTER="Red"), "used"),
    "FILTER not ASCII": Fault(
        then(cards(FILTER="Ha"), raw_card("FILTER", "'H\u03b1'".encode())),
        "filter",
        "'H\u03b1'",
        {"filter_name": "Dark"},
    ),
    "DATE-OBS beyond the calendar": Fault(cards(DATE_OBS="9999-12-31T23:59:59"), "used", "DATE-OBS is not sane"),
    # Checksums.
    "good checksum": Fault(with_checksum, "used"),
    "good checksum, padding missing": Fault(then(with_checksum, cut(HEADER + PIXELS)), "used", "padding"),
    "good data sum": Fault(with_datasum, "used"),
    "checksum of another header": Fault(then(with_checksum, raw_card("OBJECT", b"'Dark31s'")), "checksum", "CHECKSUM"),
    "checksum of other pixels": Fault(then(with_checksum, flip_last_pixel), "checksum", "DATASUM"),
    "data sum of other pixels": Fault(then(with_datasum, flip_last_pixel), "checksum", "DATASUM"),
    "checksum left empty": Fault(cards(CHECKSUM="", DATASUM=""), "used"),
    "tiles' checksum of other tiles": Fault(then(to_tiles(checksum=True), flip_a_tile), "checksum", "DATASUM"),
    # Pixels.
    "whole numbers as floats": Fault(float_pixels(), "used"),
    "NaN": Fault(float_pixels(np.nan), "not_finite", "1 pixels"),
    "infinity": Fault(float_pixels(np.inf), "not_finite"),
    "negative": Fault(float_pixels(-3), "range", "-3"),
    "beyond 16 bits": Fault(float_pixels(65536), "range", "65536"),
    "fraction": Fault(float_pixels(1000.5), "range", "whole"),
    "signed, positive": Fault(pixels(lambda counts: (counts // 2).astype(np.int16)), "level"),
    "32-bit": Fault(pixels(lambda counts: counts.astype(np.int32)), "used"),
    "32-bit, negative": Fault(pixels(lambda counts: counts.astype(np.int32) - 65535), "range"),
    "undefined pixels": Fault(undefined_pixels, "not_finite"),
    "constant": Fault(pixels(lambda counts: np.full_like(counts, 15000)), "constant", "15000"),
    "all zero": Fault(contents(lambda old: old[:HEADER] + b"\x80\x00" * (PIXELS // 2)), "constant", "0 counts"),
    "all saturated": Fault(some_saturated(1.0), "constant", "65535"),
    "6 % saturated": Fault(some_saturated(0.06), "saturated", "65535"),
    "4 % saturated": Fault(some_saturated(0.04), "used"),
    "6 % at a lower top code": Fault(some_saturated(0.06), "saturated", "60000", {"top_code": 60000}),
    "same pixels, other header": Fault(copy_of_previous, "duplicate", "00002.fits"),
    "same codes, other places": Fault(flipped_copy, "geometry", "upside down"),
    "short of dark signal": Fault(less_dark_signal(0.7), "transition", "as after a switch of the exposure"),
    "light leak": Fault(brighter(1, ramp=20000), "level"),
    "lamp": Fault(brighter(1.3), "level", "sigma of a frame from the group's"),
    "twice the gain": Fault(brighter(2), "level"),
    "half the gain": Fault(brighter(0.5), "level"),
    "a warm evening": Fault(brighter(1.05), "used"),
    "the gain of another mode": Fault(wider(2), "noise", "(limit 1.2"),
    "garbage in two rows": Fault(garbage(slice(20, 22), slice(None)), "rows", "in 2 of its rows, the first at 20"),
    "garbage in a column": Fault(garbage(slice(None), 33), "rows", "garbage in 1 of its columns, the first at 33"),
    "8 bit": Fault(pixels(lambda counts: counts // 256), "codes", "8 bit"),
    "BITPIX 8": Fault(pixels(lambda counts: (counts // 256).astype(np.uint8)), "codes", "8 bit"),
    "in steps of four": Fault(pixels(lambda counts: counts // 4 * 4), "codes", "in steps of 4"),
}  # fmt: skip
