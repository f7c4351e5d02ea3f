"""What can be judged, what cannot and why; and how flashes are read."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from vetted import SHAPE, open_darks, sky_counts

from sla1tools.candidates.fit import fit_stamps
from sla1tools.darks.classes import BLOCKING
from sla1tools.errors import FrameError, NightError, ParametersError
from sla1tools.vetting.flashes import read_flashes
from sla1tools.vetting.judging import COLUMNS, OWN_COLUMNS, Witness
from sla1tools.vetting.measuring import measure

CARDS = {"EXPTIME": 30.0, "GAIN": 5, "IMAGETYP": "Light"}


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    return open_darks(tmp_path_factory.mktemp("night"))[0]


@pytest.fixture(scope="module")
def quiet(night):
    """A place with no flagged pixel near, far from the edges."""
    from scipy.ndimage import maximum_filter

    near = maximum_filter(night.dark.classes.dq & int(BLOCKING), 21)
    near[:40] = near[-40:] = near[:, :40] = near[:, -40:] = 1
    y, x = np.argwhere(near == 0)[0]
    return float(x) + 0.2, float(y) - 0.3


def write(path, counts, **cards):
    fits.PrimaryHDU(counts, fits.Header({**CARDS, **cards})).writeto(path)
    return path


def test_a_row_says_what_was_measured_searched_and_expected(night, quiet):
    counts = sky_counts(1, [quiet], [8000.0])
    before = counts.copy()
    judged = night.vet(counts, *quiet, searched=3)
    np.testing.assert_array_equal(counts, before)
    assert judged.colnames == [*COLUMNS, *OWN_COLUMNS, "stamp"]
    (row,) = judged
    assert (row["x"], row["y"], row["reference"]) == (*np.rint(quiet), "outside")
    assert np.hypot(row["x_fit"] - quiet[0], row["y_fit"] - quiet[1]) < 0.2
    assert row["searched"] == 3
    assert row["expected"] == 0
    assert row["expected_high"] == pytest.approx(3 * 2.9957 / 12, rel=1e-3)
    assert row["verdict"] == "not told apart"
    assert "180 darks in all would clear it" in row["reasons"]
    assert night.vet(counts, *quiet, known_place=True)["verdict"][0] == "not the camera's"


def test_a_file_gives_the_same_row_as_its_counts(night, quiet, tmp_path):
    counts = sky_counts(1, [quiet], [8000.0])
    path = write(tmp_path / "1.fits", counts)
    bytes_before = path.read_bytes()
    rows = [night.vet(source, *quiet)[0] for source in (path, str(path), counts, counts.astype(float))]
    assert [row["frame"] for row in rows] == ["1.fits", "1.fits", "", ""]
    assert len({(row["snr"], row["chi2"], row["verdict"], row["reasons"]) for row in rows}) == 1
    assert path.read_bytes() == bytes_before


def test_the_level_decides_between_not_told_apart_and_not_the_cameras(night, quiet):
    from dataclasses import replace

    counts = sky_counts(1, [quiet], [8000.0])
    high = float(night.vet(counts, *quiet)["expected_high"][0])
    for level, verdict in ((high * 1.001, "not the camera's"), (high * 0.999, "not told apart")):
        witness = replace(night.witness, parameters=night.parameters.model_copy(update={"vet_level": level}))
        assert witness.vet(witness.take(counts), *np.array(quiet)[:, None], 1)["verdict"][0] == verdict


def test_noise_and_sky_are_those_of_the_frame(night):
    """In a frame of a sky as bright as its dark: the median is the sky, and pulls of the blank sky have width 1."""
    rng = np.random.default_rng(1)
    places = rng.integers(20, (SHAPE[1] - 20, SHAPE[0] - 20), (3000, 2))
    frame = night.witness.take(sky_counts(9))
    found, _ = measure(frame, *places.T)
    gain = frame.field.gain / night.parameters.scale
    assert np.median(found["sky"]) == pytest.approx(800 * gain, rel=0.02), "by the frame's own gain"
    assert gain == pytest.approx(1, abs=0.08)
    x, y = places[found["place"]].T
    noise = frame.noise((y, x), np.asarray(found["sky"]), np.asarray(found["sky_pixels"]))
    pulls = (frame.electrons[y, x] - found["sky"]) / noise
    assert 1.4826 * np.median(np.abs(pulls)) == pytest.approx(0.99, abs=0.05)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ((-0.6, 50.0), "outside the frame of 384 columns and 320 rows"),
        ((50.0, 319.5), "outside the frame"),
        ((np.nan, 50.0), "x or y is not given"),
        ((50.0, np.inf), "x or y is not given"),
    ],
)
def test_a_place_that_is_none_is_not_judged(night, place, reason):
    judged = night.vet(sky_counts(1), *place)
    assert judged["verdict"][0] == "not judged"
    assert reason in judged["reasons"][0]
    assert all(judged[name].mask.all() for name in COLUMNS)


def test_blank_sky_a_saturated_star_and_its_wing_are_not_judged(night, quiet):
    blank = night.vet(sky_counts(1), *quiet)
    assert blank["verdict"][0] == "not judged"
    assert "nothing above the noise: S/N" in blank["reasons"][0]
    bright = sky_counts(1, [quiet], [2e5])
    for dx in (0, 1, 4, 8):
        judged = night.vet(bright, quiet[0] + dx, quiet[1])
        assert judged["verdict"][0] == "not judged"
        assert "saturated" in judged["reasons"][0]


def test_the_wing_of_a_star_that_is_not_saturated_is_no_camera_like_flash(night, quiet):
    counts = sky_counts(1, [quiet], [1.2e4])
    wing = [night.vet(counts, quiet[0] + dx, quiet[1] + dy)[0] for dx, dy in ((3, 0), (0, 4), (3, 3), (-4, 1))]
    assert {row["verdict"] for row in wing} <= {"not judged"}


def test_flashes_on_edges_and_corners_are_judged_or_say_why(night):
    places = np.array([(0.2, 0.1), (383.2, 319.3), (0.0, 200.0), (200.0, 319.0), (1.4, 40.0)])
    judged = night.vet(sky_counts(2, places + 0, np.full(5, 9000.0)), *places.T)
    assert len(judged) == 5
    assert set(judged["verdict"][1:]) <= {"not told apart", "camera-like", "camera"}
    assert judged["verdict"][0] in ("camera", "not judged"), "the first pixels hold the camera's metadata"


@pytest.mark.parametrize(
    ("cards", "message"),
    [({"EXPTIME": 60.0}, "EXPTIME 60 s, not 30 s"), ({"GAIN": 7}, "gain 7, the darks' is 5")],
)
def test_a_frame_of_another_exposure_or_gain_is_refused(night, quiet, tmp_path, cards, message):
    path = write(tmp_path / "x.fits", sky_counts(1), **cards)
    with pytest.raises(FrameError, match=message):
        night.vet(path, *quiet)


def test_a_frame_of_another_shape_is_refused(night, quiet, tmp_path):
    path = write(tmp_path / "x.fits", np.ones((64, 80), np.uint16))
    with pytest.raises(FrameError, match="64 x 80 pixels, not 320 x 384"):
        night.vet(path, *quiet)
    with pytest.raises(ParametersError, match=r"its shape is \[64, 80\], that of the darks \[320, 384\]"):
        night.vet(np.ones((64, 80), np.uint16), *quiet)
    with pytest.raises(ParametersError, match="whole numbers"):
        night.vet(np.full(SHAPE, np.nan), *quiet)
    with pytest.raises(ParametersError, match="at least one frame"):
        night.vet(sky_counts(1), *quiet, searched=0)


def test_a_pixel_that_jumped_in_a_dark_is_the_cameras(night, quiet):
    from dataclasses import replace

    counts = sky_counts(1, [quiet], [8000.0])
    for highest, verdict in ((25.0, "camera"), (4.9, "not the camera's"), (9.0, "not the camera's")):
        history = np.array([[0.1] * 11 + [highest]])
        witness = replace(night.witness, histories=lambda x, y, history=history: history)
        row = witness.vet(witness.take(counts), *np.array(quiet)[:, None], 0)[0]
        assert row["verdict"] == verdict, "a jump of less than half of the flash does not explain it"
        assert f"highest of its 12 darks: {highest:.1f} σ" in row["reasons"]


def test_stored_mean_and_variance_bound_the_highest_of_the_darks(night):
    """Never below what the frames say, and reached by a pixel that jumped once."""
    from sla1tools.vetting.judging import highest_of

    y, x = (values.ravel() for values in np.mgrid[10:310:7, 10:370:7])
    highest = night.histories(x, y).max(axis=1)
    bound = highest_of(night.dark, x, y)[:, 0]
    deviation = (night.capture.band(0, SHAPE[0])[:, y, x].astype(float) - night.dark.mean[y, x]).max(axis=0)
    own = deviation / np.sqrt(night.dark.prior[y, x])
    assert (bound >= own - 1e-3).all()
    once = np.flatnonzero((highest > 8) & (np.sort(night.histories(x, y), axis=1)[:, -2] < 3))
    assert (bound[once] < 1.2 * own[once]).all()


def test_darks_whose_leaders_were_left_out_judge_nothing(night):
    from dataclasses import replace

    floors = replace(night.floors, left_out=7)
    with pytest.raises(NightError, match="7 leaders of these darks were not measured"):
        Witness.of(night.capture, night.dark, night.leaders, floors, night.histories)


def test_a_candidate_of_the_darks_within_a_pixel_makes_it_the_cameras(night, quiet):
    from dataclasses import replace

    x, y = np.rint(quiet)
    counts = sky_counts(1, [quiet], [8000.0])
    for away, verdict in ((1, "camera"), (2, "not the camera's")):
        witness = replace(night.witness, candidates=np.array([[x + away, y - away]]))
        assert witness.vet(witness.take(counts), *np.array(quiet)[:, None], 0)["verdict"][0] == verdict


def test_a_single_pixel_is_camera_like_and_named(night, quiet):
    counts = sky_counts(1)
    x, y = np.rint(quiet).astype(int)
    counts[y, x] += 20_000
    (row,) = night.vet(counts, *quiet, known_place=True)
    assert row["verdict"] == "camera-like"
    assert "p < 1e-45, p_min 0.001; a single pixel fits better" in row["reasons"]


def test_a_whole_chunk_of_flagged_centres_is_not_fitted():
    fits_of = fit_stamps(np.zeros((3, 5, 5)), 1.0, np.zeros((3, 5, 5), bool), 2.0)
    assert (fits_of["dof"] == 0).all()


def csv(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_tables_keep_their_columns_and_rows(tmp_path):
    (tmp_path / "a b.fits").touch()
    listed = csv(tmp_path / "f.csv", 'file,x,y,who\n"a b.fits",10.5,20,"Ann, B"\na b.fits,nan,3,\na b.fits,x,4,C\n')
    flashes, paths = read_flashes(listed)
    assert flashes.colnames == ["file", "x", "y", "who"]
    assert paths == {"a b.fits": tmp_path / "a b.fits"}
    np.testing.assert_array_equal(flashes["x"], [10.5, np.nan, np.nan])
    ecsv = tmp_path / "f.ecsv"
    Table({"file": ["a b.fits"], "x": [1], "y": [2], "mag": [12.5]}, units={"mag": "mag"}).write(ecsv)
    flashes, _ = read_flashes(ecsv)
    assert str(flashes["mag"].unit) == "mag"
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "a b.fits").touch()
    assert read_flashes(ecsv, folder)[1]["a b.fits"] == folder / "a b.fits"


def test_regions_of_ds9_count_from_one(tmp_path):
    for name in ("1.fits", "b 2.fits"):
        (tmp_path / name).touch()
    text = "# Region file format: DS9 version 4.1\nglobal color=green\nimage\npoint(11,21) # point=x text={1.fits}\n"
    regions = csv(tmp_path / "f.reg", text + "circle( 3.5, 4.5, 4) # text={b 2.fits} color=red\n")
    flashes, _ = read_flashes(regions)
    assert [tuple(row) for row in flashes] == [("1.fits", 10, 20), ("b 2.fits", 2.5, 3.5)]
    flashes, _ = read_flashes(csv(tmp_path / "g.reg", "image;circle(1,1,4) # text={1.fits}\n"))
    assert tuple(flashes[0]) == ("1.fits", 0, 0)


def test_every_mistake_of_a_region_file_is_named(tmp_path):
    text = "point(1,2) # text={1.fits}\nimage\nbox(1,2,3,4,0) # text={1.fits}\ncircle(5,6,4)\nfk5\ncircle(1d,2,3)\n"
    with pytest.raises(ParametersError) as refused:
        read_flashes(csv(tmp_path / "f.reg", text))
    message = str(refused.value)
    assert "5 mistakes" in message
    assert all(f"line {number}" in message for number in (1, 3, 4, 5, 6))


def test_every_file_that_is_not_there_is_named_and_nothing_else_is_read(tmp_path):
    rows = "".join(f"{k}.fits,1,2\n" for k in range(5))
    (tmp_path / "3.fits").touch()
    with pytest.raises(ParametersError) as refused:
        read_flashes(csv(tmp_path / "f.csv", f"file,x,y\n{rows}"))
    assert all((f"{k}.fits" in str(refused.value)) == (k != 3) for k in range(5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,x\n1,2\n", "no column file, y; there is: name, x"),
        ("file,x,y\n", "names no flash"),
        ("", "f.csv"),
        ("# %ECSV 1.0\nfile x\n", "is no CSV or ECSV table"),
    ],
)
def test_what_is_no_table_of_flashes_is_refused(tmp_path, text, message):
    with pytest.raises(ParametersError, match=message):
        read_flashes(csv(tmp_path / "f.csv", text))
    with pytest.raises(ParametersError, match=r"there is no g\.csv"):
        read_flashes(tmp_path / "g.csv")


@pytest.mark.slow
def test_ten_thousand_rows_take_seconds(night, quiet):
    import time

    counts = sky_counts(1, [quiet], [8000.0])
    rng = np.random.default_rng(2)
    x, y = rng.uniform(0, SHAPE[1] - 1, 10_000), rng.uniform(0, SHAPE[0] - 1, 10_000)
    begin = time.process_time()
    judged = night.vet(counts, x, y)
    assert len(judged) == 10_000
    assert time.process_time() - begin < 40
