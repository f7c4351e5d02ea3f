"""Finding nights in trees as capture programs lay them out."""

import gzip
import logging
import os

import pytest
from astropy.io import fits

from sla1tools.errors import ParametersError
from sla1tools.frames.capture import judge_capture
from sla1tools.frames.sessions import cards, find_nights, night_in, nights_in
from sla1tools.parameters import COLDEST, WARMEST, Parameters, validate
from sla1tools.published import night_path
from sla1tools.simulate.night import simulate_night


def frame(path, **header):
    path.parent.mkdir(parents=True, exist_ok=True)
    hdu = fits.PrimaryHDU()
    for key, value in header.items():
        hdu.header[key] = value
    hdu.writeto(path)
    return path


def names(root, **options):
    return [path.relative_to(root).as_posix() for path in find_nights(root, **options)]


@pytest.mark.parametrize("name", ["Dark30s", "darks", "Dark 60 s", "DARK_FRAMES", "my dark frames", "30s-dark"])
def test_sharpcap_names(tmp_path, name):
    frame(tmp_path / "2024 SLA [1]" / "2024-05-08" / "03_38_48" / name / "00001.fits")
    assert names(tmp_path) == [f"2024 SLA [1]/2024-05-08/03_38_48/{name}"]


@pytest.mark.parametrize("name", ["M31", "Dark Nebula B33", "darkflat", "Dark_Flats", "Darkness", "notdark1"])
def test_other_names(tmp_path, name):
    frame(tmp_path / "2024-05-08" / "03_38_48" / name / "00001.fits")
    assert names(tmp_path) == []


def test_object_of_a_header(tmp_path):
    frame(tmp_path / "2024-05-08" / "03_38_48" / "Capture" / "00001.fits", OBJECT="Dark30s")
    assert names(tmp_path) == ["2024-05-08/03_38_48/Capture"]


@pytest.mark.parametrize("kind", ["DARK", "Dark Frame", "Dark", "Dark Frame   ", "Bias Frame", "zero"])
def test_types_of_nina_maxim_apt_seestar(tmp_path, kind):
    frame(tmp_path / "Images" / "DARK" / "a.FIT", IMAGETYP=kind, OBJECT="M17")
    assert names(tmp_path) == ["Images/DARK"]


@pytest.mark.parametrize("kind", ["LIGHT", "Light Frame", "DARKFLAT", "Master Dark"])
def test_the_stated_type_wins_over_the_name(tmp_path, kind):
    frame(tmp_path / "2024-05-08" / "03_38_48" / "Dark30s" / "1.fits", IMAGETYP=kind, OBJECT="Dark30s")
    assert names(tmp_path) == []


def test_mixed_folder_is_left_out_and_named(tmp_path, caplog):
    frame(tmp_path / "all" / "1.fits", IMAGETYP="DARK")
    frame(tmp_path / "all" / "2.fits", IMAGETYP="LIGHT")
    with caplog.at_level(logging.WARNING):
        assert names(tmp_path) == []
    assert "1 of 2 frames are darks" in caplog.text


def test_sorted_without_links_twice_or_for_ever(tmp_path):
    for day in (9, 8, 10):
        frame(tmp_path / "archive" / f"2024-05-{day:02d}" / "03_38_48" / "Dark30s" / "1.fits")
    (tmp_path / "archive" / "again").symlink_to(tmp_path / "archive")
    (tmp_path / "archive" / "2024-05-08" / "up").symlink_to("..")
    (tmp_path / "archive" / "self").symlink_to("self")
    (tmp_path / "archive" / "dangling.fits").symlink_to("nowhere")
    found = names(tmp_path)
    assert [path.split("/")[-3] for path in found] == ["2024-05-08", "2024-05-09", "2024-05-10"]
    assert names(tmp_path / "archive" / "2024-05-08" / "03_38_48" / "Dark30s") == ["."]


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path):
    frame(tmp_path / "disk2" / "2024-05-08" / "03_38_48" / "Dark30s" / "1.fits")
    (tmp_path / "sessions").mkdir()
    (tmp_path / "sessions" / "old").symlink_to(tmp_path / "disk2")
    assert names(tmp_path / "sessions") == ["old/2024-05-08/03_38_48/Dark30s"]


def test_published_hidden_and_empty_folders_are_none(tmp_path):
    published = frame(tmp_path / "2024-05-08" / "03_38_48" / "Dark30s" / "master_dark.fits").parent
    (published / "manifest.json").touch()
    frame(tmp_path / ".trash" / "2024-05-08" / "Dark30s" / "1.fits")
    (tmp_path / "2024-05-08" / "04_00_00" / "Dark30s").mkdir(parents=True)
    frame(tmp_path / "2024-05-08" / "05_00_00" / "Dark30s" / "._1.fits")
    assert names(tmp_path) == []
    assert find_nights(tmp_path / "missing") == []


def test_the_pattern_chooses_the_frames(tmp_path):
    frame(tmp_path / "2024-05-08" / "03_38_48" / "Dark30s" / "1.fts")
    assert names(tmp_path) == []
    assert len(find_nights(tmp_path, "*.FTS")) == 1


def test_cards_of_packed_broken_and_absent_files(tmp_path):
    plain = frame(tmp_path / "1.fits", IMAGETYP="Dark 'x'", EXPTIME=30.0)
    packed = tmp_path / "1.fits.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    broken = tmp_path / "broken.fits.gz"
    broken.write_bytes(packed.read_bytes()[:-30])
    for path in (plain, packed):
        assert cards(path, ("IMAGETYP", "EXPTIME", "NONE")) == {"IMAGETYP": "Dark 'x'", "EXPTIME": "30.0"}
    empty = tmp_path / "0.fits"
    empty.touch()
    for path in (broken, empty, tmp_path, tmp_path / "none"):
        assert cards(path, ("IMAGETYP",)) == {}


def test_night_in_a_folder(tmp_path):
    base = Parameters(threshold=180.0, sessions_directory="elsewhere")
    found = night_in(tmp_path / "Images [1]" / "2024" / "DARK é", base)
    assert found.capture_directory == tmp_path / "Images [1]" / "2024" / "DARK é"
    assert found.threshold == 180.0
    for folder in (tmp_path / "a" / ".hidden" / "Dark", tmp_path / "a\n" / "b" / "Dark", tmp_path.parents[-1] / "Dark"):
        with pytest.raises(ParametersError):
            night_in(folder, base)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path, caplog):
    (tmp_path / "locked").mkdir(mode=0)
    assert find_nights(tmp_path) == []
    assert "locked" in caplog.text


def states(folder, *groups):
    """Write frames of so many, of an exposure, of temperatures; None states none."""
    number = 0
    for count, exposure, *heats in groups:
        for k in range(count):
            number += 1
            header = {} if heats == [None] else {"CCD-TEMP": heats[k % len(heats)]}
            frame(folder / f"{number:03d}.fits", EXPTIME=exposure, **header)
    return folder


@pytest.mark.parametrize(
    ("groups", "found"),
    [
        ([(10, 30.0, -20.0)], [(30.0, None)]),
        ([(10, 60.0, -20.0)], [(60.0, None)]),
        ([(10, 30.07, -20.0)], [(30.0, None)]),
        ([(10, 0.0, -20.0)], [(0.0, None)]),
        ([(10, 60.0, None)], [(60.0, None)]),
        ([(10, 30.0, -20.0), (2, 60.0, -20.0)], [(30.0, None)]),
        ([(10, 30.0, -20.0), (2, 30.0, -10.0)], [(30.0, None)]),
        ([(9, 30.0, -21.4, -20.0, -18.6)], [(30.0, None)]),
        (
            [(5, 30.0, -20.0), (4, 60.0, -20.0), (3, 0.0, -20.0)],
            [(30.0, (COLDEST, WARMEST)), (60.0, (COLDEST, WARMEST)), (0.0, (COLDEST, WARMEST))],
        ),
        (
            [(5, 30.0, -20.1, -20.0), (4, 30.0, -15.0), (2, 30.0, -17.5), (3, 30.0, -10.0)],
            [(30.0, (-20.1, -17.5)), (30.0, (-15.0, -15.0)), (30.0, (-10.0, -10.0))],
        ),
        ([(4, 30.0, -20.0), (4, 60.0, None)], [(30.0, (COLDEST, WARMEST)), (60.0, (COLDEST, WARMEST))]),
        ([(2, 30.0, -20.0)], [(30.0, None)]),
        ([(3, 30.0, -20.0), (2, 30.0, None)], [(30.0, None)]),
    ],
)
def test_states_of_a_folder_become_nights_of_their_own(tmp_path, groups, found):
    folder = states(tmp_path / "2024-05-08" / "03_38_48" / "Dark30s", *groups)
    nights = nights_in(folder, Parameters())
    assert [(night.dark_exposure, night.part and night.part[1:]) for night in nights] == found
    assert all(night.part is None or night.part[0] == night.dark_exposure for night in nights)
    assert {night.capture_directory for night in nights} == {folder}
    assert len({night_path(night) for night in nights}) == len(nights)
    if len(nights) > 1:
        assert str(night_path(nights[0])).startswith("2024-05-08/03_38_48/Dark30s_")


def test_frames_of_other_parts_are_ignored(tmp_path):
    folder = tmp_path / "2024-05-08" / "03_38_48" / "Dark30s"
    for number, (exposure, heat) in enumerate([(30.0, -20.0), (30.0, -12.0), (10.0, -20.0)]):
        place = tmp_path / str(number)
        kinds = {"shape": (64, 96), "chip_seed": 1, "seed": number, "exposure": exposure, "temperature": heat}
        for path in simulate_night(place, frames=4, **kinds):
            folder.mkdir(parents=True, exist_ok=True)
            path.rename(folder / f"{number}{path.name}")
    nights = nights_in(folder, Parameters(frame_shape=(64, 96)))
    assert [night_path(night).name for night in nights] == ["Dark30s_30s_-20C", "Dark30s_30s_-12C", "Dark30s_10s"]
    for number, night in enumerate(nights):
        capture = judge_capture(night)
        assert [name[0] for name in capture.names] == [str(number)] * 4
        assert not capture.rejected
        assert len(capture.ignored) == 8
    one = judge_capture(Parameters(**nights[0].model_dump() | {"part": None}))
    assert {item.reason.value for item in one.rejected} == {"temperature", "exposure"}


@pytest.mark.parametrize(
    "part", [[30.0, -10.0, -20.0], [-1.0, -20.0, -20.0], [30.0, -300.0, 0.0], [30.0], [1e7, 0.0, 0.0]]
)
def test_a_part_has_its_bounds(part):
    with pytest.raises(ParametersError, match="part"):
        validate({"part": part}, "here")
