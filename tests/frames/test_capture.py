import hashlib
import os
import pickle
import re
import tracemalloc
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from conftest import SHARED
from small_nights import parameters_of, with_parameters, write_small_night

from sla1tools.errors import FrameError, NightError, ParametersError, Reason
from sla1tools.frames.capture import judge_capture
from sla1tools.frames.fits import decode
from sla1tools.frames.known_pixels import read_known_pixels

SHAPE = (48, 64)
HEADERS = SHARED / "data" / "headers"


@pytest.fixture
def small(tmp_path):
    return write_small_night(tmp_path, frames=6, shape=SHAPE, clean=False)


def paths_of(parameters) -> list[Path]:
    return sorted(parameters.capture_directory.glob("0*"))


def digests(directory) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def edit(path, **cards):
    """Set header cards (DATE_OBS means DATE-OBS), or delete those that are None."""
    with fits.open(path, mode="update") as hdus:
        for key, value in cards.items():
            key = key.replace("_", "-")
            if value is None:
                del hdus[0].header[key]
            else:
                hdus[0].header[key] = value


def test_counts_are_what_astropy_reads(small):
    night, simulated = small
    assert night.shape == SHAPE
    assert night.names == [f"{k:05d}.fits" for k in range(1, 7)]
    for k, frame in enumerate(night.frames):
        counts = frame.rows(0, SHAPE[0])
        assert counts.dtype == np.uint16
        np.testing.assert_array_equal(counts, fits.getdata(frame.path))
        np.testing.assert_array_equal(counts, simulated.counts[k])
        assert frame.level == np.median(counts)
    assert night.rejected == ()
    assert night.ignored == ("truth.ecsv",)


def test_bands_are_rows_of_every_frame(small):
    night, simulated = small
    for start, stop in ((0, 48), (0, 1), (7, 20), (47, 48), (9, 9)):
        band = night.band(start, stop)
        assert band.shape == (6, stop - start, 64)
        np.testing.assert_array_equal(band, simulated.counts[:, start:stop])
    np.testing.assert_array_equal(night.rows(2, 3, 9), simulated.counts[2, 3:9])


def test_histogram_counts_the_codes_of_the_used_frames_alone(small):
    night, simulated = small
    np.testing.assert_array_equal(night.histogram, np.bincount(simulated.counts.ravel(), minlength=65536))
    edit(paths_of(night.parameters)[1], EXPTIME=60.0)
    edit(paths_of(night.parameters)[4], GAIN=9)
    fewer = judge_capture(night.parameters)
    used = np.delete(simulated.counts, [1, 4], axis=0)
    np.testing.assert_array_equal(fewer.histogram, np.bincount(used.ravel(), minlength=65536))


def test_files_are_in_the_order_of_their_numbers(small):
    night, simulated = small
    for number, path in zip([2, 10, 9, 100, 1, 11], paths_of(night.parameters), strict=True):
        path.rename(path.with_name(f"dark-{number}.fits"))
    renamed = judge_capture(night.parameters)
    assert renamed.names == [f"dark-{number}.fits" for number in (1, 2, 9, 10, 11, 100)]
    np.testing.assert_array_equal(renamed.band(5, 9), simulated.counts[[4, 0, 2, 1, 5, 3], 5:9])


def test_header_facts(small):
    night, _ = small
    for frame, path in zip(night.frames, paths_of(night.parameters), strict=True):
        header = fits.getheader(path)
        assert (frame.exposure, frame.gain, frame.binning, frame.filter_name) == (30.0, 5.0, (1, 1), None)
        assert frame.temperature == header["CCD-TEMP"]
        assert frame.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert frame.header["SWCREATE"] == header["SWCREATE"]
        assert frame.header["EGAINSAV"] == header["EGAINSAV"]


def test_times_are_repaired_from_their_ends(small):
    night, _ = small
    for k, frame in enumerate(night.frames):
        assert frame.end == datetime(2024, 5, 8, 3, 38, 48, 700000) + k * timedelta(seconds=30)
        assert frame.start == frame.end - timedelta(seconds=30)
        assert "start is DATE-END minus EXPTIME, as DATE-OBS is not sane: 0001-01-01T00:00:00.0000000" in frame.notes
    cadence = {(after.start - before.start).total_seconds() for before, after in pairwise(night.frames)}
    assert cadence == {30.0}
    assert "start is DATE-END minus EXPTIME, as DATE-OBS is not sane (6 of 6 frames)" in night.notes
    assert any("may be off by one exposure" in note for note in night.notes)


@pytest.mark.parametrize(
    ("begun", "ended", "start", "end"),
    [
        ("2024-05-08T03:38:18.7", "2024-05-08T03:38:49", "03:38:18.700000", "03:38:49.000000"),
        ("2024-05-08T03:38:18.1234567Z", None, "03:38:18.123456", "03:38:48.123456"),
        ("2024-05-08 03:38:18", "nonsense", "03:38:18.000000", "03:38:48.000000"),
        (None, "2024-05-08T03:38:48", "03:38:18.000000", "03:38:48.000000"),
        ("9999-12-31T23:59:59.9", "2024-05-08T03:38:48", "03:38:18.000000", "03:38:48.000000"),
        ("2024-05-07T20:38:18.25-0700", None, "03:38:18.250000", "03:38:48.250000"),
        ("2024-05-08T05:38:18 +02:00", None, "03:38:18.000000", "03:38:48.000000"),
        ("2024-05-08", "2024-05-08T03:38:48", "03:38:18.000000", "03:38:48.000000"),
        ("9999-12-31T23:59:59.9", None, None, None),
        (20240508, 3.5, None, None),
        ("0001-01-01T00:00:00", "2024-02-30T00:00:00", None, None),
        (None, None, None, None),
    ],
)
def test_time_of_a_frame(small, begun, ended, start, end):
    night, _ = small
    edit(paths_of(night.parameters)[0], DATE_OBS=begun, DATE_END=ended)
    frame = judge_capture(night.parameters).frames[0]
    found = [time and time.strftime("%H:%M:%S.%f") for time in (frame.start, frame.end)]
    assert found == [start, end]
    assert ("time unknown, as neither DATE-OBS nor DATE-END is sane" in frame.notes) == (start is None)


def test_keys_that_only_some_cameras_write(small):
    night, _ = small
    for path in paths_of(night.parameters):
        edit(path, GAIN=None, CCD_TEMP=None, SET_TEMP=None, XBINNING=None)
    edit(paths_of(night.parameters)[0], FILTER="Clear", GAIN="high")
    bare = judge_capture(night.parameters)
    assert len(bare.frames) == 6
    assert {(frame.gain, frame.temperature, frame.binning) for frame in bare.frames} == {(None, None, None)}
    assert [frame.filter_name for frame in bare.frames] == ["Clear", *[None] * 5]
    notes = {"GAIN unknown (6 of 6 frames)", "CCD-TEMP unknown (6 of 6 frames)", "FILTER unknown (5 of 6 frames)"}
    assert notes <= set(bare.notes)


def test_frame_after_an_exposure_change_is_noted(small):
    night, _ = small
    for k in (0, 3):
        edit(paths_of(night.parameters)[k], EXPTIME=1.0)
    changed = judge_capture(night.parameters)
    noted = [frame.name for frame in changed.frames if "first frame after an exposure change" in frame.notes]
    assert noted == ["00002.fits", "00005.fits"]
    assert "first frame after an exposure change (2 of 4 frames)" in changed.notes
    assert not any("exposure change" in note for note in night.notes)


def shift_levels(night, offsets):
    for path, offset in zip(paths_of(night.parameters), offsets, strict=True):
        counts = fits.getdata(path).astype(np.int32)
        counts[1:] += offset
        counts[1, :4] = 0, 65535, 2, 65500
        with fits.open(path, mode="update") as hdus:
            hdus[0].data = np.clip(counts, 0, 65535).astype(np.uint16)


def test_level_correction_takes_whole_counts_off(tmp_path):
    night, _ = write_small_night(tmp_path, frames=5, shape=SHAPE, noise=1.0)
    shift_levels(night, [900, 450, 0, -450, -900])
    night = judge_capture(night.parameters)
    assert night.offsets.dtype.kind == "i"
    assert night.offsets.tolist() == [
        round(frame.level - np.median([frame.level for frame in night.frames])) for frame in night.frames
    ]
    assert abs(night.offsets - [900, 450, 0, -450, -900]).max() <= 2
    raw = night.band(0, 48)
    corrected = with_parameters(night, level_correction=True)
    band = corrected.band(0, 48)
    assert band.dtype == np.uint16
    # The rails stay, and nothing else is moved onto them.
    offsets = night.offsets
    np.testing.assert_array_equal(band[:, 1, 0], 0)
    np.testing.assert_array_equal(band[:, 1, 1], 65535)
    np.testing.assert_array_equal(band[:, 1, 2], np.maximum(2 - offsets, 1))
    np.testing.assert_array_equal(band[:, 1, 3], np.minimum(65500 - offsets, 65534))
    expected = raw[:, 2:].astype(int) - night.offsets[:, None, None]
    np.testing.assert_array_equal(band[:, 2:], expected)
    np.testing.assert_array_equal(corrected.rows(0, 2, 9), expected[0, :7])
    levels = np.median(band[:, 2:], axis=(1, 2))
    assert np.ptp(levels) <= 1
    np.testing.assert_array_equal(night.band(0, 48), raw)


def test_level_correction_leaves_its_input_alone(tmp_path):
    night, _ = write_small_night(tmp_path, frames=3, shape=SHAPE, changes={"level_correction": True}, noise=1.0)
    shift_levels(night, [500, 0, -500])
    night = judge_capture(night.parameters)
    counts = np.full((2, 3), 9000, np.uint16)
    assert night.correct(0, counts).tolist() == [[9000 - night.offsets[0]] * 3] * 2
    assert (counts == 9000).all()
    np.testing.assert_array_equal(night.correct(1, counts), counts)


def test_packed_frames_are_read_from_memory_and_not_shared(small):
    night, simulated = small
    path = paths_of(night.parameters)[2]
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(fits.getdata(path), fits.getheader(path))]).writeto(
        path.with_name("00003.fits.fz")
    )
    path.unlink()
    packed = judge_capture(night.parameters)
    np.testing.assert_array_equal(packed.band(0, 48), simulated.counts)
    packed.frames[2].rows(0, 48)[:] = 7
    np.testing.assert_array_equal(packed.rows(2, 4, 9), simulated.counts[2, 4:9])


def test_a_night_can_be_sent_to_another_process(small):
    night, simulated = small
    again = pickle.loads(pickle.dumps(night))
    assert again.names == night.names
    assert again.notes == night.notes
    np.testing.assert_array_equal(again.band(0, 48), simulated.counts)


def test_raw_files_are_left_as_they_are(small):
    night, _ = small
    directory = night.parameters.capture_directory
    before = digests(directory)
    times = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    judge_capture(night.parameters).band(0, 48)
    assert digests(directory) == before
    assert {path.name: path.stat().st_mtime_ns for path in directory.iterdir()} == times


@pytest.mark.slow
def test_a_night_is_read_by_bands(tmp_path):
    night, _ = write_small_night(tmp_path, frames=24, shape=(768, 768), noise=40.0)
    stack = 24 * 768 * 768 * 2
    tracemalloc.start()
    try:
        judged = judge_capture(night.parameters)
        held, judging = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for row in range(0, 768, 16):
            judged.band(row, row + 16)
        reading = tracemalloc.get_traced_memory()[1] - held
    finally:
        tracemalloc.stop()
    assert len(judged.frames) == 24
    assert held < 0.2 * stack
    assert judging < 0.6 * stack
    assert reading < 0.2 * stack


def test_capture_folder_that_cannot_be_listed(tmp_path):
    parameters = parameters_of(tmp_path, SHAPE)
    with pytest.raises(ParametersError, match=r"there is no 2024-05-08 in .*; it is empty"):
        judge_capture(parameters)
    parameters.capture_directory.parent.mkdir(parents=True)
    parameters.capture_directory.write_text("not a folder")
    with pytest.raises(NightError, match="cannot be listed: Not a directory"):
        judge_capture(parameters)


@pytest.mark.parametrize("usable", [0, 1, 2, 3])
def test_a_night_needs_three_usable_frames(small, usable):
    night, _ = small
    for k, path in enumerate(paths_of(night.parameters)[: 6 - usable]):
        path.write_bytes(b"") if k % 2 else edit(path, EXPTIME=60.0)
    night = judge_capture(night.parameters)
    assert len(night.frames) == usable
    if usable < 3:
        with pytest.raises(NightError, match=rf"not tested: {usable} usable frames \(\d exposure, \d empty\)"):
            night.require_usable()
    else:
        night.require_usable()


def test_an_empty_folder_is_not_tested(tmp_path):
    parameters = parameters_of(tmp_path, SHAPE)
    parameters.capture_directory.mkdir(parents=True)
    night = judge_capture(parameters)
    assert (night.frames, night.rejected, night.ignored, night.notes) == ((), (), (), ())
    assert night.offsets.shape == (0,)
    assert not night.histogram.any()
    with pytest.raises(NightError, match=r"0 usable frames \(file_pattern .* fits no other name; there is: nothing\)"):
        night.require_usable()
    for number in range(10):
        (parameters.capture_directory / f"{number}.txt").touch()
    with pytest.raises(NightError, match=r"there is: 0\.txt, .*, 7\.txt and 2 more\)"):
        judge_capture(parameters).require_usable()


def test_known_pixels(tmp_path):
    listed = tmp_path / "known.ecsv"
    Table({"x": [5, 63], "y": [7, 47]}).write(listed)
    known = read_known_pixels(parameters_of(tmp_path, SHAPE, known_pixels=str(listed)))
    assert known.dtype == bool
    assert known.shape == SHAPE
    assert np.argwhere(known).tolist() == [[7, 5], [47, 63]]
    assert read_known_pixels(parameters_of(tmp_path, SHAPE)) is None
    with pytest.raises(ParametersError, match=r"known_pixels: .*outside a frame of 47 x 64"):
        read_known_pixels(parameters_of(tmp_path, (47, 64), known_pixels=str(listed)))
    for text in ("", "a b\n1 2\n", "# %ECSV 1.0\n# ---\n# datatype:\n# - {name: x, datatype: int32}\nx\n5\n"):
        listed.write_text(text)
        with pytest.raises(ParametersError, match=r"known_pixels: .*not an ECSV table with columns x and y"):
            read_known_pixels(parameters_of(tmp_path, SHAPE, known_pixels=str(listed)))
    with pytest.raises(ParametersError, match=r"known_pixels: .*absent.ecsv"):
        read_known_pixels(parameters_of(tmp_path, SHAPE, known_pixels=str(tmp_path / "absent.ecsv")))


def test_known_pixels_as_a_fits_mask(tmp_path):
    mask = np.zeros(SHAPE, np.uint8)
    mask[3, 5] = 4
    fits.writeto(tmp_path / "mask.fits", mask)
    known = read_known_pixels(parameters_of(tmp_path, SHAPE, known_pixels=str(tmp_path / "mask.fits")))
    np.testing.assert_array_equal(known, mask != 0)
    with pytest.raises(ParametersError, match=r"known_pixels: .*not a FITS mask"):
        read_known_pixels(parameters_of(tmp_path, (47, 64), known_pixels=str(tmp_path / "mask.fits")))


def test_the_real_night(real_sessions):
    parameters = parameters_of(
        real_sessions,
        (736, 1092),
        capture_date="2012-06-17",
        capture_time="01_32_40",
        object_name="Dark60s",
        file_pattern="*.fit",
        dark_exposure=60.0,
        scale_due_to_padding=1,
        scale_due_to_gain=0.78,
    )
    before = digests(parameters.capture_directory)
    night = judge_capture(parameters)
    assert night.names == [f"tres1-{k:03d}d.fit" for k in range(1, 21)]
    assert night.rejected == night.ignored == ()
    drift = "levels of the used frames differ by 1.3 sigma of a frame: level_correction takes offsets off"
    remarks = ("XPIXSZ is not the 11 um of pixel_size", "GAIN unknown", "FILTER unknown")
    assert night.notes == (*(f"{remark} (20 of 20 frames)" for remark in remarks), drift)
    assert night.pixel_size == pytest.approx(13.6)
    assert night.frames[0].start == datetime(2012, 6, 17, 1, 32, 40)
    assert all((frame.end - frame.start).total_seconds() == 60 for frame in night.frames)
    assert all(0 < (after.start - before.start).total_seconds() < 200 for before, after in pairwise(night.frames))
    assert {frame.binning for frame in night.frames} == {(2, 2)}
    assert np.abs([frame.temperature + 10 for frame in night.frames]).max() < 1
    # A known trait of these files: the level drifts over the first frames.
    assert [frame.level for frame in night.frames][:8] == [158, 162, 156, 153, 150, 150, 150, 148]
    assert {frame.level for frame in night.frames[8:]} == {148, 149}
    for k in (0, 19):
        np.testing.assert_array_equal(night.rows(k, 0, 736), fits.getdata(night.frames[k].path))
    assert digests(parameters.capture_directory) == before


# What a program's header makes of a frame of its own shape: the file's reason, or its header facts.
PROGRAMS = {
    "header_apt.txt": {"exposure": 240.0, "gain": 120.0, "start": datetime(2018, 9, 17, 21, 4, 46)},
    "header_maximdl.txt": {"exposure": 300.0, "filter_name": "SII", "temperature": pytest.approx(-34.993802)},
    "header_nina.txt": {"exposure": 30.0, "gain": 120.0, "start": datetime(2021, 3, 2, 20, 19, 0, 455000)},
    "header_sharpcap.txt": {"exposure": 2.0, "start": datetime(2019, 4, 29, 20, 25, 29, 821958)},
    "header_seestar.txt": Reason.SHAPE,
    "sharpcap-4.1.12946-asi183mc-livestack.txt": Reason.SHAPE,
}


def file_with_header(text: str, shape) -> bytes:
    """The header as a program wrote it, but for the sides, over a seeded frame of that shape."""
    # A long comment wraps onto a line of its own in these listings; FITS has no such card.
    cards = [line for line in text.splitlines() if not line.startswith("END")]
    sides = {"NAXIS1  ": shape[1], "NAXIS2  ": shape[0]}
    cards = [f"{line[:10]}{sides[line[:8]]:>20}" if line[:8] in sides else line[:80] for line in cards]
    header = "".join(f"{card:80}" for card in [*cards, "END"])
    header += " " * (-len(header) % 2880)
    counts = np.random.default_rng(len(text)).integers(900, 1100, shape) - 32768
    return header.encode("ascii") + counts.astype(">i2").tobytes()


@pytest.mark.skipif(not HEADERS.is_dir(), reason="the header texts are not beside this checkout")
@pytest.mark.parametrize("name", PROGRAMS)
def test_headers_as_programs_write_them(tmp_path, name):
    facts = PROGRAMS[name]
    text = (HEADERS / name).read_text(encoding="utf-8")
    contents = file_with_header(text, SHAPE)
    if isinstance(facts, Reason):
        with pytest.raises(FrameError, match="3 x 48 x 64 pixels, not 48 x 64") as caught:
            decode(contents, SHAPE)
        assert caught.value.reason == facts
        return
    parameters = parameters_of(tmp_path, SHAPE, dark_exposure=facts["exposure"])
    parameters.capture_directory.mkdir(parents=True)
    (parameters.capture_directory / "light.fit").write_bytes(contents)
    if re.search("IMAGETYP= 'light", text, re.IGNORECASE):
        (rejected,) = judge_capture(parameters).rejected
        assert rejected.reason == Reason.IMAGETYPE
    dark = re.sub("IMAGETYP= 'light", "IMAGETYP= 'Dark ", text, flags=re.IGNORECASE)
    (parameters.capture_directory / "light.fit").write_bytes(file_with_header(dark, SHAPE))
    night = judge_capture(parameters)
    assert [item.detail for item in night.rejected] == []
    (frame,) = night.frames
    assert {key: getattr(frame, key) for key in facts} == facts
    assert frame.level == pytest.approx(1000, abs=20)
    assert "padding of the last 2880-byte block missing" in frame.notes


@pytest.mark.skipif(not HEADERS.is_dir(), reason="the header texts are not beside this checkout")
def test_every_listed_program_is_tried():
    assert {path.name for path in HEADERS.glob("*.txt")} == set(PROGRAMS)


def test_no_file_stays_open(small):
    night, _ = small
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("open files are counted where /proc shows them")
    before = len(os.listdir(folder))
    judge_capture(night.parameters).band(0, 48)
    assert len(os.listdir(folder)) == before


def test_too_few_open_files_are_not_the_frames_fault(small):
    resource = pytest.importorskip("resource")
    night, _ = small
    limits, free = resource.getrlimit(resource.RLIMIT_NOFILE), os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        with pytest.raises(NightError, match=r"raise the limit \(ulimit -n\)"):
            night.rows(0, 0, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert night.rows(0, 0, 1).shape == (1, SHAPE[1])
