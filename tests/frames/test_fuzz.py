"""Damaged files without a plan: whatever the bytes, the outcome is a verdict, soon, and in bounded memory."""

import functools
import gzip
import io
import itertools
import os
import time
import tracemalloc

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from small_nights import parameters_of

from sla1tools.errors import FrameError, Reason
from sla1tools.frames import tiles
from sla1tools.frames.capture import judge_capture
from sla1tools.frames.fits import decode
from sla1tools.frames.headers import HEADER_KEYS, READ_KEYS

SHAPE = (24, 20)
MOST_MEMORY = 80e6  # bytes; an unpacked file may have 17 MB at this shape
MOST_SECONDS = 5.0
TILED = tuple(f"{algorithm} {kind}" for kind in ("u2", "i2", "i4", "f4", "f8") for algorithm in ("RICE_1", "GZIP_2"))
KINDS = ("plain", "extension", "floats", *TILED, "gzip", "checksums")
LAYOUT_KEYS = (
    *("SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "EXTEND", "GROUPS", "PCOUNT", "GCOUNT", "BZERO"),
    *("BSCALE", "BLANK", "CHECKSUM", "DATASUM", "TFIELDS", "TFORM1", "TTYPE1", "THEAP", "ZIMAGE", "ZCMPTYPE"),
    *("ZBITPIX", "ZNAXIS", "ZNAXIS1", "ZNAXIS2", "ZTILE1", "ZTILE2", "ZNAME1", "ZVAL1", "ZVAL2", "ZBLANK", "END"),
)
BOUNDED = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@functools.cache
def good_file(kind: str) -> bytes:
    counts = np.random.default_rng(8).integers(14000, 16000, SHAPE).astype(np.uint16)
    header = fits.Header([("EXPTIME", 30.0), ("GAIN", 5), ("CCD-TEMP", -20.0), ("OBJECT", "Dark"), ("FILTER", "No")])
    header.update({"DATE-OBS": "0001-01-01T00:00:00", "DATE-END": "2024-05-08T03:38:48.7", "XBINNING": 1})
    if kind in TILED:
        algorithm, pixels = kind.split()
        quantized = (
            1e6 if algorithm == "RICE_1" else 0
        )  # floats in steps so fine that whole numbers stay so, or as they are
        frame = fits.CompImageHDU(
            counts.astype(pixels), header, compression_type=algorithm, tile_shape=(6, 20), quantize_level=quantized
        )
    else:
        frame = fits.ImageHDU(counts.astype(np.float32) if kind == "floats" else counts, header)
    single = kind in ("plain", "floats", "gzip", "checksums")
    hdus = [fits.PrimaryHDU(frame.data, frame.header)] if single else [fits.PrimaryHDU(), frame]
    written = io.BytesIO()
    fits.HDUList(hdus).writeto(written, checksum=kind == "checksums")
    return gzip.compress(written.getvalue(), mtime=0) if kind == "gzip" else written.getvalue()


def outcome(contents: bytes) -> str:
    """What a file of these bytes gets from the decoder, within its bounds of memory and time."""
    tracemalloc.start()
    begun = time.monotonic()
    try:
        image = decode(contents, SHAPE)
    except FrameError as error:
        return Reason(error.reason).value
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MOST_MEMORY
        assert time.monotonic() - begun < MOST_SECONDS
    assert image.counts.shape == SHAPE
    assert image.counts.dtype == np.uint16
    assert all(value is None or type(value) in (bool, int, float, str) for value in image.header.values())
    return "used"


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_good_before_they_are_damaged(kind):
    # what is packed with losses is read, and is then no raw count
    assert outcome(good_file(kind)) in ({"used", "range"} if kind == "RICE_1 f8" else {"used"})


damaged_bytes = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=12)


@BOUNDED
@given(kind=st.sampled_from(KINDS), damage=damaged_bytes)
@pytest.mark.slow
def test_flipped_bytes(kind, damage):
    contents = bytearray(good_file(kind))
    for place, value in damage:
        contents[int(place * len(contents))] = value
    found = outcome(bytes(contents))
    if kind == "checksums" and bytes(contents) != good_file(kind) and found == "used":
        # Only bytes of the checksum cards themselves, and layout cards that then hide them, escape the sum.
        changed = np.flatnonzero(np.frombuffer(contents, "u1") != np.frombuffer(good_file(kind), "u1"))
        assert changed.max() < 2880


@BOUNDED
@given(kind=st.sampled_from(KINDS), kept=st.floats(0, 1), tail=st.binary(max_size=200))
@pytest.mark.slow
def test_cut_files(kind, kept, tail):
    contents = good_file(kind)
    found = outcome(contents[: int(kept * len(contents))] + tail)
    if not tail and kept < 0.1:
        assert found in ("truncated", "shape")


@BOUNDED
@given(kind=st.sampled_from(KINDS), begin=st.floats(0, 1), length=st.integers(1, 6000))
@pytest.mark.slow
def test_bytes_missing_inside(kind, begin, length):
    contents = good_file(kind)
    at = int(begin * len(contents))
    assume(at < len(contents))
    outcome(contents[:at] + contents[at + length :])


card_values = st.one_of(
    st.integers(-(10**12), 10**12).map(str),
    st.sampled_from(["0", "1", "2", "-1", "8", "16", "-32", "64", "T", "F", "2000000000", "1e999", "NaN", "", "'"]),
    st.floats().map(repr),
    st.text(st.characters(max_codepoint=255), max_size=70),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=68).map(lambda text: f"'{text}'"),
)
changed_cards = st.lists(st.tuples(st.sampled_from((*LAYOUT_KEYS, *READ_KEYS, *HEADER_KEYS)), card_values), max_size=4)


def with_cards(contents: bytes, changes) -> bytes:
    """Overwrite the cards of these keys, in whichever headers of the file; a key that is in none takes a blank card."""
    for key, value in changes:
        card = f"{key:8}= {value}".encode("latin-1").ljust(80)[:80]
        places = [at for at in range(0, len(contents), 80) if contents[at : at + 8].rstrip() == key.encode()]
        blank = (at for at in range(0, len(contents), 80) if contents[at : at + 80] == b" " * 80)
        for at in places or [next(blank, len(contents))]:
            contents = contents[:at] + card + contents[at + 80 :]
    return contents


SPOILED = ("-1", "0", "1", "3", "2000000000", "1E300", "'x'", "'BYTEPIX'")


@pytest.mark.parametrize("kind", TILED)
@pytest.mark.slow
def test_every_card_of_a_tile_compression(kind):
    """Each card by itself, with values that no packer writes: the file gets a verdict, and the next one is read."""
    good = good_file(kind)
    header = fits.open(io.BytesIO(good), disable_image_compression=True)[1].header
    cards = [key for key in header if key.startswith(("Z", "TFORM", "TTYPE"))]
    for key, value in itertools.product(cards, SPOILED):
        outcome(with_cards(good, [(key, value)]))
    test_files_are_good_before_they_are_damaged(kind)


@pytest.mark.skipif(os.name != "posix", reason="the crash was met on Linux")
@pytest.mark.slow
def test_a_file_that_kills_its_decoder_costs_nothing_else(monkeypatch):
    monkeypatch.setattr(tiles, "SAFE_SETTINGS", {})
    monkeypatch.setattr(tiles, "MOST_MEMORY", 2**45)  # within less the decoder says that it is too little
    spoiled = with_cards(good_file("RICE_1 i4"), [("ZVAL2", "-2")])
    for _ in range(2):
        with pytest.raises(FrameError, match="end the decoder"):
            decode(spoiled, SHAPE)
        assert outcome(good_file("RICE_1 i4")) == "used"


def test_a_decoder_that_takes_too_long_is_ended(monkeypatch):
    assert outcome(good_file("RICE_1 i4")) == "used"
    monkeypatch.setattr(tiles, "MOST_SECONDS", 0.0)
    with pytest.raises(FrameError, match="end the decoder"):
        decode(good_file("RICE_1 i4") + bytes(30_000_000), SHAPE)
    monkeypatch.undo()
    assert outcome(good_file("RICE_1 i4")) == "used"


@BOUNDED
@given(kind=st.sampled_from([kind for kind in KINDS if kind != "gzip"]), changes=changed_cards)
@pytest.mark.slow
def test_changed_cards(kind, changes):
    outcome(with_cards(good_file(kind), changes))


@settings(BOUNDED, max_examples=60)
@given(begin=st.sampled_from([b"", b"SIMPLE  =", good_file("plain")[:2880], b"\x1f\x8b\x08"]), tail=st.binary())
def test_anything_at_all(begin, tail):
    found = outcome(begin + tail)
    if not begin and not tail.startswith((b"S", b"\x1f")):
        assert found == ("not_fits" if tail else "truncated")


@settings(BOUNDED, max_examples=60)
@given(
    name=st.sampled_from(["spoiled.fits", "spoiled.FIT", "spoiled.fits.gz", "._spoiled.fits", "spoiled.txt"]),
    kind=st.sampled_from(KINDS),
    damage=damaged_bytes,
    changes=changed_cards,
)
@pytest.mark.slow
def test_one_damaged_file_never_stops_a_night(tmp_path_factory, name, kind, damage, changes):
    parameters = parameters_of(tmp_path_factory.mktemp("fuzz"), SHAPE)
    directory = parameters.capture_directory
    directory.mkdir(parents=True)
    good = fits.open(io.BytesIO(good_file("plain")))[0]
    for k in range(3):
        fits.writeto(directory / f"{k}.fits", np.roll(good.data, k, axis=0), good.header)
    contents = bytearray(good_file(kind) if kind == "gzip" else with_cards(good_file(kind), changes))
    for place, value in damage:
        contents[int(place * len(contents))] = value
    (directory / name).write_bytes(contents)
    night = judge_capture(parameters)
    assert set(night.names) >= {"0.fits", "1.fits", "2.fits"}
    verdicts = [*night.names, *(item.name for item in night.rejected), *night.ignored]
    assert sorted(verdicts) == sorted(["0.fits", "1.fits", "2.fits", name])
    assert (name in night.ignored) == (name.startswith(".") or name.endswith(".txt"))
    assert night.band(0, 5).shape == (len(night.frames), 5, 20)
