"""What bad input gets: every row of the table of faults, files that change while they are read, hostile texts."""

import hashlib
import os
import threading
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from fault_table import FAULTS, HEADER, PIXELS, SHAPE, SPOILED, contents, cut, raw_card, replaced
from simulated import simulate_counts, write_night
from small_nights import parameters_of

import sla1tools.frames.fits
from sla1tools.errors import NightError, Reason
from sla1tools.frames.capture import judge_capture, readable
from sla1tools.text import printable

MOST_MEMORY = 80e6  # bytes: an unpacked file may have 17 MB at this shape, and is held a few times over
MOST_SECONDS = 5.0


@pytest.fixture(scope="module")
def counts():
    return simulate_counts(frames=6, shape=SHAPE, seed=4, glow=0.0)


@pytest.fixture
def night_of(counts, tmp_path):
    def write(**keys):
        parameters = parameters_of(tmp_path, SHAPE, **keys)
        write_night(parameters.capture_directory, counts)
        return parameters

    return write


def verdicts_of(night) -> dict[str, str]:
    """Verdict of each file; a file that has two appears in the assertion."""
    pairs = [(frame.name, "used") for frame in night.frames]
    pairs += [(item.name, item.reason.value) for item in night.rejected]
    pairs += [(name, "ignored") for name in night.ignored]
    assert len(pairs) == len(dict(pairs))
    return dict(pairs)


def remarks_on(night, name) -> str:
    remarks = {frame.name: "; ".join(frame.notes) for frame in night.frames}
    return (remarks | {item.name: item.detail for item in night.rejected}).get(name, "")


def digests(directory) -> dict[str, str]:
    """Of every plain file with bytes in the folder, but for the giant."""
    files = [path for path in directory.iterdir() if path.is_file() and path.stat().st_size < 10**9]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def judged_within_bounds(parameters):
    tracemalloc.start()
    begun = time.monotonic()
    try:
        night = judge_capture(parameters)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.monotonic() - begun < MOST_SECONDS
    assert peak < MOST_MEMORY
    return night


@pytest.mark.parametrize("name", FAULTS)
def test_fault(night_of, counts, name):
    fault = FAULTS[name]
    if name == "unreadable" and os.geteuid() == 0:
        pytest.skip("root may read everything")
    parameters = night_of(**fault.keys)
    directory = parameters.capture_directory
    spoiled = fault.make(directory / SPOILED) or directory / SPOILED
    before = digests(directory)
    night = judged_within_bounds(parameters)
    verdicts = verdicts_of(night)
    name = readable(spoiled.name)
    assert set(verdicts) == {*os.listdir(directory)} - {spoiled.name} | {name}
    assert verdicts[name] == fault.verdict
    assert fault.remark in remarks_on(night, name)
    good = [f"{k:05d}.fits" for k in (1, 2, 4, 5, 6)]
    assert [verdicts[other] for other in good] == ["used"] * 5
    for other, raw in zip(good, np.delete(counts.counts, 2, axis=0), strict=True):
        np.testing.assert_array_equal(night.rows(night.names.index(other), 0, 64), raw)
    if fault.verdict == "used":
        used = night.rows(night.names.index(name), 0, 64)
        with warnings.catch_warnings(action="ignore"), fits.open(spoiled) as hdus:
            expected = hdus[0].data if hdus[0].data is not None else hdus[1].data
            np.testing.assert_array_equal(used, np.squeeze(expected))
    assert digests(directory) == before


def test_all_that_is_wrong_with_one_header_is_told_at_once(night_of):
    """Also where the shape or the pixels end it: the first reason is the verdict, the others stand beside it."""
    parameters = night_of(filter_name="U")
    wrong = {"EXPTIME": 10.0, "IMAGETYP": "Light Frame", "FILTER": "R", "BUNIT": "electron"}
    folder, told = parameters.capture_directory, "exposure: EXPTIME 10 s, not 30 s; filter: FILTER 'R', not 'U'; unit: "
    counts, header = fits.getdata(folder / SPOILED), fits.getheader(folder / SPOILED)
    header.update(wrong)
    pixels = {"00007.fits": counts, "00008.fits": counts[:9], "00009.fits": counts - 1e5, "00010.fits": counts}
    for name, values in pixels.items():
        fits.writeto(folder / name, values, header)
    (folder / "00010.fits").write_bytes((folder / "00010.fits").read_bytes()[:-3000])
    rejected = {item.name: item for item in judge_capture(parameters).rejected}
    assert [rejected[name].reason.value for name in pixels] == ["imagetype", "shape", "range", "truncated"]
    assert rejected["00007.fits"].detail.startswith(f"IMAGETYP 'Light Frame' is no dark; {told}")
    for name in list(pixels)[1:]:
        assert f"; imagetype: IMAGETYP 'Light Frame' is no dark; {told}" in rejected[name].detail


def test_every_reason_is_in_the_table():
    assert {fault.verdict for fault in FAULTS.values()} == {*Reason, "used", "ignored"}


@pytest.mark.slow
def test_all_faults_at_once(night_of):
    parameters = night_of()
    directory = parameters.capture_directory
    spare = fits.getdata(directory / SPOILED).copy()
    header = fits.getheader(directory / SPOILED)
    expected = {}
    # A frame that is good in itself would be a second copy of these pixels.
    together = ("used", "ignored", "level", "noise", "transition", "geometry", "rows", "codes")
    alone = {name: fault for name, fault in FAULTS.items() if fault.verdict not in together}
    for number, (name, fault) in enumerate(alone.items(), start=100):
        if fault.keys or name in ("unreadable", "sparse giant", "gzip bomb", "same pixels, other header"):
            continue
        path = directory / f"{number:05d}.fits"
        fits.writeto(path, np.roll(spare, number, axis=1), header)
        expected[(fault.make(path) or path).name] = fault.verdict
    verdicts = verdicts_of(judge_capture(parameters))
    assert set(verdicts) == set(os.listdir(directory))
    assert {name: verdicts[name] for name in expected} == expected
    assert [verdicts[f"{k:05d}.fits"] for k in range(1, 7)] == ["used"] * 6
    assert len(expected) > 40


class FailingFile:
    """An open file whose reading fails, as on a broken disk or a lost network."""

    def __init__(self, file, error):
        self.file, self.error = file, error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def fileno(self):
        return self.file.fileno()

    def read(self, size):
        raise self.error


def open_failing(error, at_read):
    def opened(path, mode):
        if Path(path).name != SPOILED:
            return open(path, mode)
        if at_read:
            return FailingFile(open(path, mode), error)
        raise error

    return opened


@pytest.mark.parametrize("at_read", [False, True])
@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_file_that_the_system_does_not_give(night_of, monkeypatch, error, at_read):
    parameters = night_of()
    monkeypatch.setattr(sla1tools.frames.fits, "open", open_failing(error, at_read), raising=False)
    night = judge_capture(parameters)
    assert verdicts_of(night)[SPOILED] == "not_a_file"
    assert error.strerror in remarks_on(night, SPOILED)
    assert len(night.frames) == 5


def open_after(change):
    """Open the file, and only then let another program change it."""

    def opened(path, mode):
        file = open(path, mode)  # noqa: SIM115
        if Path(path).name == SPOILED:
            change(Path(path))
        return file

    return opened


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (lambda path: os.truncate(path, HEADER + 100), "truncated"),
        (lambda path: os.truncate(path, 0), "empty"),
        (lambda path: path.unlink(), "used"),
        (lambda path: os.truncate(path, 2 * HEADER + PIXELS + 99), "used"),
    ],
    ids=["shrinks", "emptied", "deleted", "grows"],
)
def test_file_that_changes_once_it_is_open(night_of, monkeypatch, change, verdict):
    parameters = night_of()
    monkeypatch.setattr(sla1tools.frames.fits, "open", open_after(change), raising=False)
    night = judge_capture(parameters)
    assert verdicts_of(night)[SPOILED] == verdict
    assert len(night.frames) == 5 + (verdict == "used")


def test_file_that_shrinks_between_its_status_and_its_bytes(night_of, monkeypatch):
    parameters = night_of()
    path = parameters.capture_directory / SPOILED
    number, status_of = path.stat().st_ino, os.fstat

    def status_then_shrink(descriptor):
        status = status_of(descriptor)
        if status.st_ino == number:
            os.truncate(path, 0)
        return status

    monkeypatch.setattr(os, "fstat", status_then_shrink)
    assert verdicts_of(judge_capture(parameters))[SPOILED] == "truncated"


def test_file_that_goes_while_the_folder_is_read(night_of, monkeypatch):
    parameters = night_of()
    listed = [*os.listdir(parameters.capture_directory), "00007.fits"]
    monkeypatch.setattr(os, "listdir", lambda _: listed)
    night = judge_capture(parameters)
    assert verdicts_of(night)["00007.fits"] == "not_a_file"
    assert len(night.frames) == 6


@pytest.mark.slow
def test_files_that_are_written_while_the_folder_is_read(night_of, counts):
    """A camera at work: every file that was there gets a verdict, and a frame is used with all its pixels or not."""
    parameters = night_of()
    directory = parameters.capture_directory
    whole = [path.read_bytes() for path in sorted(directory.glob("*.fits"))]
    done = threading.Event()

    def camera():
        for number in range(7, 100_000):
            with open(directory / f"{number:05d}.fits", "wb") as file:
                for begin in range(0, len(whole[0]), 2000):
                    file.write(whole[number % 6][begin : begin + 2000])
                    file.flush()
                    if done.is_set():
                        return

    thread = threading.Thread(target=camera)
    thread.start()
    try:
        while not (directory / "00008.fits").exists():
            time.sleep(0.01)
        nights = [judge_capture(parameters) for _ in range(3)]
    finally:
        done.set()
        thread.join()
    for night in nights:
        verdicts = verdicts_of(night)
        assert [verdicts[f"{k:05d}.fits"] for k in range(1, 7)] == ["used"] * 6
        assert set(verdicts.values()) <= {"used", "ignored", "duplicate", "truncated", "empty"}
    assert len(verdicts) > 7


def rewrite(path):
    counts, header = fits.getdata(path), fits.getheader(path)
    later = path.stat().st_mtime_ns + 1_000_000
    fits.writeto(path, counts[::-1], header, overwrite=True)
    os.utime(path, ns=(later, later))


def swap(path):
    """Put another frame of the same size in its place, with the same time of change."""
    counts, header, time = fits.getdata(path), fits.getheader(path), path.stat().st_mtime_ns
    other = path.with_name("other")
    fits.writeto(other, counts[::-1], header)
    os.utime(other, ns=(time, time))
    other.replace(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rewrite, "changed while it was being used; run again"),
        (swap, "changed while it was being used; run again"),
        (cut(HEADER + 100), "changed while it was being used; run again"),
        (contents(lambda old: old + bytes(HEADER)), "changed while it was being used; run again"),
        (lambda path: path.unlink(), "can no longer be read: No such file or directory; run again"),
        (replaced(lambda path: path.mkdir()), "can no longer be read: Is a directory; run again"),
    ],
    ids=["rewritten", "another of equal size and time", "cut", "longer", "deleted", "a folder now"],
)
def test_file_that_changes_after_its_verdict(night_of, counts, change, message):
    night = judge_capture(night_of())
    change(night.parameters.capture_directory / SPOILED)
    with pytest.raises(NightError, match=f"{SPOILED}: {message}"):
        night.band(0, 8)
    np.testing.assert_array_equal(night.rows(1, 0, 64), counts.counts[1])


@pytest.mark.parametrize(
    "name", ["with spaces", "[x]", "{night}", 'it\'s "q"', "N\u00e4chte \u661f", "$HOME `x` ;", "%s\\n"]
)
def test_folders_with_awkward_names(counts, tmp_path, name):
    object_name = name if name.isprintable() and "\\" not in name else "Dark30s"
    parameters = parameters_of(tmp_path / name, SHAPE, object_name=object_name)
    write_night(parameters.capture_directory, counts)
    night = judge_capture(parameters)
    assert len(night.frames) == 6
    np.testing.assert_array_equal(night.band(3, 9), counts.counts[:, 3:9])


def test_linked_capture_folder(night_of, counts):
    parameters = night_of()
    directory = parameters.capture_directory
    directory.rename(directory.with_name("elsewhere"))
    directory.symlink_to("elsewhere", target_is_directory=True)
    np.testing.assert_array_equal(judge_capture(parameters).band(3, 9), counts.counts[:, 3:9])
    directory.unlink()
    directory.symlink_to(directory)
    with pytest.raises(NightError, match="cannot be listed"):
        judge_capture(parameters)


HOSTILE = {
    "script": (b"'<script>alert(1)</script>'", "<script>alert(1)</script>"),
    "maths": (b"'$\\foo$ $$x$$'", "$\\foo$ $$x$$"),
    "path": (b"'../../etc/passwd'", "../../etc/passwd"),
    "escape codes": (b"'a\x1b[31mred\x07'", "a\x1b[31mred\x07"),
    "NUL": (b"'a\0b'", "a\0b"),
    "line feed": (b"'a\r\nb\tc'", "a\r\nb\tc"),
    "UTF-8": ("'N\u00e4chte \u661f'".encode(), "N\u00e4chte \u661f"),
    "Latin-1": ("'N\u00e4chte'".encode("latin-1"), "N\ufffdchte"),
    "68 characters": (b"'" + b"x" * 68 + b"'", "x" * 68),
    "quotes": (b"'it''s \"q\"'", 'it\'s "q"'),
    "quotes, and not ASCII": (b"'it''s \xc3\xa9'", "it's \u00e9"),
    "never closed": (b"'abc", "'abc"),
    "no quotes": (b"abc def / comment", "abc def"),
    "NaN": (b"NaN", "NaN"),
    "blank": (b"", None),
    "empty": (b"''", ""),
    "a number": (b"42", 42),
    "a complex number": (b"(1.0, 2.0)", None),
    "70 digits": (b"9" * 70, 10**70 - 1),
    "unprintable comment": (b"'Dark' / \x00\x07\xff", "Dark"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("key", ["OBJECT", "INSTRUME"])
@pytest.mark.slow
def test_hostile_header_text_is_kept_as_text(night_of, name, key):
    value, expected = HOSTILE[name]
    parameters = night_of()
    raw_card(key, value)(parameters.capture_directory / SPOILED)
    night = judge_capture(parameters)
    assert verdicts_of(night)[SPOILED] == "used"
    assert night.frames[2].header[key] == expected
    assert len(night.frames) == 6


@pytest.mark.parametrize("key", ["EXPTIME", "GAIN", "CCD-TEMP", "DATE-OBS", "DATE-END", "XBINNING", "EGAIN"])
@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.slow
def test_hostile_text_in_cards_that_are_read(night_of, name, key):
    parameters = night_of()
    raw_card(key, HOSTILE[name][0])(parameters.capture_directory / SPOILED)
    verdicts = verdicts_of(judge_capture(parameters))
    number = name in ("a number", "70 digits")
    expected = {"EXPTIME": "exposure" if number else "keyword"}
    expected |= {"GAIN": "gain", "CCD-TEMP": "temperature", "XBINNING": "binning"} if number else {}
    assert verdicts[SPOILED] == expected.get(key, "used")
    assert sum(verdict == "used" for verdict in verdicts.values()) >= 5


@pytest.mark.skipif(os.name != "posix", reason="such names are POSIX")
def test_names_that_print_alike_stay_two(night_of):
    """One with a line break, one with a backslash and an n."""
    parameters = night_of()
    directory = parameters.capture_directory
    for old, new in (("00001.fits", "a\n.fits"), ("00002.fits", "a\\n.fits")):
        (directory / old).rename(directory / new)
    night = judge_capture(parameters)
    assert len(set(night.names)) == len(night.frames) == 6
    assert {"a\\n.fits", "a\\\\n.fits"} < set(night.names)
    assert night.names == [printable(name) for name in night.names]
