import os
from datetime import datetime
from itertools import pairwise

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from photutils.psf import CircularGaussianPRF
from scipy import stats
from simulated import simulate_counts, write_night

from sla1tools.errors import ParametersError
from sla1tools.simulate.camera import Camera
from sla1tools.simulate.night import TRUTH_NAME, Star, parse_star, simulate_night

SCALE = 1.39 / 16
KINDS = {"hot", "warm", "noisy", "rts", "column", "stuck", "saturated", "metadata", "muon"}


@pytest.fixture(scope="module")
def night():
    return simulate_counts(frames=60, shape=(300, 260), seed=7)


@pytest.fixture(scope="module")
def clean_night():
    return simulate_counts(frames=30, shape=(200, 240), seed=11, clean=True)


def of_kind(night, kind):
    """Truth rows of a kind, and their readings in electrons, (N, rows); pixels that a muon struck are left out."""
    truth = night.truth
    struck = {(row["x"], row["y"]) for row in truth[truth["kind"] == "muon"]}
    rows = truth[truth["kind"] == kind]
    rows = rows[[(row["x"], row["y"]) not in struck for row in rows]]
    return rows, night.counts[:, rows["y"], rows["x"]] * SCALE


def test_metadata_pixels_are_the_ones_the_observers_printed():
    counts = simulate_counts(frames=10, shape=(4, 40)).counts
    assert (counts[5, 0, :3] * SCALE).tolist() == [556.0, pytest.approx(5354.80125), 0.0]
    assert np.median(counts[:, 0, :3], axis=0) * SCALE == pytest.approx([556.0, 5343.68125, 0.3040625])
    assert (np.diff(counts[:, 0, 1].astype(int)) == 256).all()


def test_files_hold_the_counts_and_the_truth(tmp_path, night):
    before = night.counts.copy()
    paths = write_night(tmp_path / "made" / "here", night)
    assert [path.name for path in paths] == [f"{k:05d}.fits" for k in range(1, 61)]
    assert sorted(path.name for path in paths[0].parent.iterdir()) == [*(p.name for p in paths), TRUTH_NAME]
    for path, counts in zip(paths, night.counts, strict=True):
        frame = fits.getdata(path)
        assert frame.dtype == np.uint16
        np.testing.assert_array_equal(frame, counts)
    truth = Table.read(paths[0].parent / TRUTH_NAME)
    assert truth.colnames == night.truth.colnames
    assert dict(truth.meta) == night.truth.meta == {"frames": 60, "seed": 7, "scale": SCALE}
    for name in truth.colnames:
        np.testing.assert_array_equal(truth[name], night.truth[name])
    np.testing.assert_array_equal(night.counts, before)


def test_streamed_and_written_nights_are_the_same_bytes(tmp_path):
    choices = {"frames": 3, "shape": (48, 80), "seed": 5, "noise": 40.0, "stars": [Star(3000, 2.0)]}
    streamed = simulate_night(tmp_path / "a", **choices)
    write_night(tmp_path / "b", simulate_counts(**choices))
    for name in [*(path.name for path in streamed), TRUTH_NAME]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_seed_decides_every_pixel():
    first, again, other = (simulate_counts(frames=2, shape=(64, 64), seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.counts, again.counts)
    assert (first.counts != other.counts).mean() > 0.9
    assert (first.counts[0] != first.counts[1]).mean() > 0.9


def test_short_night_is_the_start_of_a_long_one():
    star = Star(5000, 2.0, frame=1)
    short, long = (simulate_counts(frames=n, shape=(200, 150), seed=3, stars=[star]) for n in (2, 40))
    np.testing.assert_array_equal(short.counts, long.counts[:2])
    for name in short.truth.colnames:
        np.testing.assert_array_equal(short.truth[name], long.truth[name][long.truth["frame"] < 2])


def test_star_changes_only_its_own_neighbourhood():
    star = Star(5000, 2.0, x=30.3, y=20.8, frame=1)
    dark, lit = (simulate_counts(frames=3, shape=(64, 64), seed=3, stars=s).counts for s in ([], [star]))
    frame, y, x = np.nonzero(dark != lit)
    assert set(frame) == {1}
    assert np.hypot(x - 30.3, y - 20.8).max() < 6


def test_low_bits_are_all_used(night):
    normal = night.counts[:, 1:]
    assert np.gcd.reduce(np.unique(normal)) == 1
    for bit in range(4):
        assert ((normal >> bit) & 1).mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("shape", [(64, 64), (48, 80), (90, 33), (2000, 24)])
def test_small_night_shows_every_kind(shape):
    truth = simulate_counts(frames=3, shape=shape).truth
    assert set(truth["kind"]) == KINDS
    fixed = truth[truth["frame"] == -1]
    assert len(set(zip(fixed["x"], fixed["y"], strict=True))) == len(fixed), "two defects on one pixel"
    assert (truth["x"] >= 0).all()
    assert (truth["x"] < shape[1]).all()
    assert (truth["y"] >= 0).all()
    assert (truth["y"] < shape[0]).all()
    assert (truth["kind"] == "column").sum() == shape[0]


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (3, 3), (30, 1), (5, 22), (2, 23)])
def test_tiny_frames_do_not_break(shape):
    assert simulate_counts(frames=2, shape=shape, stars=[Star(1000, 2.0)]).counts.shape == (2, *shape)


def test_shares_of_defects_follow_the_area():
    counts = [simulate_counts(frames=1, shape=(n, n)).truth["kind"].tolist().count("warm") for n in (200, 400)]
    assert counts == [80, 320]


@pytest.mark.parametrize("kind", ["hot", "warm", "column"])
def test_excess_pixels_exceed_the_level_by_their_value(night, kind):
    rows, readings = of_kind(night, kind)
    dark = night.level_map[rows["y"], rows["x"]]
    variance = night.noise_map[rows["y"], rows["x"]] ** 2 * (4 if kind == "column" else 1)
    variance = variance + (0 if kind == "column" else rows["value"])
    error = np.sqrt(variance / len(readings) + 4.0**2)
    pull = (readings.mean(axis=0) - dark - rows["value"]) / error
    assert np.abs(pull).max() < 4.5
    median_pull = (np.median(readings, axis=0) - dark - rows["value"]) / np.sqrt(
        1.58 * variance / len(readings) + 4.0**2
    )
    assert np.abs(median_pull).max() < 4.5
    spread = (readings.var(axis=0, ddof=1) / variance).mean()
    assert spread == pytest.approx(1, abs=5 * np.sqrt(2 / 59 / len(rows)))


def test_hot_and_warm_ranges(night):
    assert of_kind(night, "hot")[0]["value"].min() >= 800
    assert of_kind(night, "hot")[0]["value"].max() > 1500
    warm = of_kind(night, "warm")[0]["value"]
    assert 150 <= warm.min() < 250
    assert 700 < warm.max() <= 800


def test_noisy_pixels_have_their_noise(night):
    rows, readings = of_kind(night, "noisy")
    excess = rows["value"] / night.noise_map[rows["y"], rows["x"]]
    assert 2 <= excess.min() < excess.max() <= 4
    ratio = readings.var(axis=0, ddof=1) / rows["value"] ** 2
    assert ratio.mean() == pytest.approx(1, abs=4 * np.sqrt(2 / 59 / len(rows)))


def test_rts_pixels_have_two_levels(night):
    rows, readings = of_kind(night, "rts")
    tall = rows["value"] > 400
    assert tall.sum() >= 5
    rows, readings = rows[tall], readings[:, tall]
    excess = readings - night.level_map[rows["y"], rows["x"]]
    up = excess > rows["value"] / 2
    expected = rows["duty"] * len(readings)
    assert abs((up.sum(axis=0) - expected).sum()) < 4 * np.sqrt((expected * (1 - rows["duty"])).sum())
    for i in range(len(rows)):
        assert excess[~up[:, i], i].mean() == pytest.approx(0, abs=40)
        assert excess[up[:, i], i].mean() == pytest.approx(rows["value"][i], abs=120)
        between = np.abs(excess[:, i] / rows["value"][i] - 0.5) < 0.1
        assert between.mean() < 0.05
    assert len({tuple(states) for states in up.T}) == len(rows), "every pixel blinks on its own"


def test_stuck_and_saturated_pixels_never_change():
    star = Star(9000, 2.0, x=20, y=20, frame=0)
    night = simulate_counts(frames=4, shape=(700, 600), seed=2, stars=[star])
    for kind in ("stuck", "saturated"):
        rows = night.truth[night.truth["kind"] == kind]
        readings = night.counts[:, rows["y"], rows["x"]]
        assert len(rows) >= 1
        assert (readings == readings[0]).all()
        assert readings[0] * SCALE == pytest.approx(rows["value"])
    assert (readings == 65535).all()


def test_muons_leave_what_the_truth_says(night):
    rows = night.truth[night.truth["kind"] == "muon"]
    background = np.median(night.counts, axis=0) * SCALE
    fixed = night.truth[night.truth["frame"] == -1]
    at_defect = set(zip(fixed["x"], fixed["y"], strict=True))
    alone = rows[[(row["x"], row["y"]) not in at_defect for row in rows]]
    frame, y, x = alone["frame"], alone["y"], alone["x"]
    excess = night.counts[frame, y, x] * SCALE - background[y, x]
    pull = (excess - alone["value"]) / (1.1 * night.noise_map[y, x])
    assert np.abs(pull).max() < 4.5
    for track in np.unique(rows["track"]):
        hits = rows[rows["track"] == track]
        assert len(np.unique(hits["frame"])) == 1
        assert np.ptp(hits["x"]) <= 24
        assert np.ptp(hits["y"]) <= 24
        assert hits["value"].sum() < 8500


@pytest.mark.slow
def test_muon_rate_is_poisson():
    # The truth of 400 full frames, without drawing their pixels.
    camera = Camera(400, (2048, 2048), seed=4)
    muons = camera.truth()
    muons = muons[muons["kind"] == "muon"]
    tracks = muons.group_by("track").groups
    assert tracks.keys["track"].tolist() == list(range(len(tracks)))
    first = [track[0] for track in tracks]
    hits = np.bincount([row["frame"] for row in first], minlength=400)[1:]
    low, high = stats.poisson.interval(0.999, 2.5 * 399)
    assert low <= sum(hits) <= high
    assert np.var(hits) / np.mean(hits) == pytest.approx(1, abs=4 * np.sqrt(2 / 399))
    for name in ("x", "y"):
        assert stats.kstest([row[name] / 2048 for row in first], "uniform").pvalue > 1e-3
    total = np.array([track["value"].sum() for track in tracks])
    assert total.min() > 0
    assert 7500 < total.max() < 8500
    assert np.percentile(total, 5) > 900
    length = np.array([np.hypot(np.ptp(track["x"]), np.ptp(track["y"])) for track in tracks])
    assert length.max() < 24
    assert (length < 8).mean() > 0.3
    assert (length > 13).mean() > 0.2


def test_defects_lie_all_over_the_frame():
    truth = simulate_counts(frames=1, shape=(400, 300), seed=1).truth
    warm = truth[truth["kind"] == "warm"]
    assert stats.kstest((warm["x"] + 0.5) / 300, "uniform").pvalue > 1e-3
    assert stats.kstest((warm["y"] + 0.5) / 400, "uniform").pvalue > 1e-3


def test_readings_are_rounded_not_cut():
    night = simulate_counts(frames=1, shape=(8, 8), noise=0, clean=True, level=1000.75 * SCALE, glow=0)
    assert (night.counts == 1001).all()


@pytest.mark.parametrize(
    ("noise", "pedestal", "glow_variance"),
    [
        (37.0, 0.0, 2469),  # 1300 shot + 69 read; the glow adds its own shot noise
        (37.0, 300.0, 2469),
        (26.0, 0.0, 676 * 2400 / 1300),  # less than shot noise: no read noise, shot noise scaled
    ],
)
def test_noise_map_follows_the_level(noise, pedestal, glow_variance):
    night = simulate_counts(frames=1, shape=(100, 120), noise=noise, pedestal=pedestal, clean=True)
    assert night.level_map.dtype == night.noise_map.dtype == np.float32
    assert night.level_map[0, 0] == pytest.approx(1300)
    assert night.level_map[50, 60] == pytest.approx(1300, abs=0.1)
    assert night.level_map[-1, -1] == night.level_map.max() == pytest.approx(2400)
    assert night.noise_map[0, 0] == pytest.approx(noise)
    assert night.noise_map[-1, -1] ** 2 == pytest.approx(glow_variance, rel=1e-4)


def test_clean_night_is_its_level_and_noise(clean_night):
    assert len(clean_night.truth) == 0
    assert clean_night.truth.colnames[:6] == ["x", "y", "x_true", "y_true", "kind", "frame"]
    pull = (clean_night.counts * SCALE - clean_night.level_map) / clean_night.noise_map
    assert pull.mean() == pytest.approx(0, abs=4 / np.sqrt(pull.size))
    assert pull.var() == pytest.approx(1, abs=4 * np.sqrt(2 / pull.size))
    assert (np.abs(pull) > 3).mean() == pytest.approx(0.0026998, rel=0.1)
    for band in (clean_night.level_map < 1301, clean_night.level_map > 2000):
        part = pull[:, band]
        assert part.mean() == pytest.approx(0, abs=4 / np.sqrt(part.size))
        assert part.var() == pytest.approx(1, abs=4 * np.sqrt(2 / part.size))
    neighbours = (pull[:, :, 1:] * pull[:, :, :-1]).mean(), (pull[1:] * pull[:-1]).mean()
    assert neighbours == pytest.approx((0, 0), abs=4 / np.sqrt(pull.size))


@pytest.mark.parametrize(("x", "y", "fwhm"), [(20.0, 15.0, 2.0), (20.37, 14.81, 2.0), (11.5, 9.5, 1.4), (0.2, 29.4, 3)])
def test_star_is_the_pixel_integrated_gaussian(x, y, fwhm):
    # Without noise and repeated over frames, what remains is the star's own Poisson noise.
    flux, frames, level = 12000.0, 60, 10000 * SCALE
    stars = [Star(flux, fwhm, x, y, k) for k in range(frames)]
    night = simulate_counts(frames, (30, 40), noise=0, stars=stars, clean=True, level=level, glow=0)
    rows, columns = np.mgrid[:30, :40]
    oracle = CircularGaussianPRF(flux=flux, x_0=x, y_0=y, fwhm=fwhm)(columns, rows)
    excess = night.counts * SCALE - level
    assert night.counts.max() < 65535, "nothing clips"
    error = np.sqrt((oracle + SCALE**2) / frames)
    bright = oracle > 5
    assert np.abs((excess.mean(axis=0) - oracle) / error)[bright].max() < 4.5
    assert excess[:, ~bright].sum() == pytest.approx(oracle[~bright].sum() * frames, abs=5 * np.sqrt(5 * 30 * frames))
    variance = excess.var(axis=0, ddof=1)[bright] / oracle[bright]
    assert variance.mean() == pytest.approx(1, abs=5 * np.sqrt(2 / 59 / bright.sum()))
    assert excess.sum() / frames == pytest.approx(oracle.sum(), abs=4 * np.sqrt(oracle.sum() / frames))
    assert (night.truth["x_true"] == x).all()
    assert (night.truth["x"] == round(x)).all()
    assert (night.truth["value"] == flux).all()
    assert (night.truth["fwhm"] == fwhm).all()
    assert night.truth["frame"].tolist() == list(range(frames))


def test_stars_without_a_place_spread_over_the_night():
    stars = [Star(1000, 2.0)] * 300
    truth = simulate_counts(frames=4, shape=(20, 200), stars=stars, clean=True).truth
    assert set(truth["frame"]) == {0, 1, 2, 3}
    for name, size in (("x_true", 200), ("y_true", 20)):
        assert stats.kstest((truth[name] + 0.5) / size, "uniform").pvalue > 1e-3
        assert (truth[name] % 1 != 0).all(), "sub-pixel"


def test_bright_star_clips_at_the_top_code():
    night = simulate_counts(frames=1, shape=(21, 21), stars=[Star(60000, 2.0, 10, 10)], clean=True)
    assert night.counts.max() == night.counts[0, 10, 10] == 65535


@pytest.mark.parametrize(
    ("folder", "first"),
    [
        ("2024-05-08/03_38_48/Dark30s", "2024-05-08T03:38:48.7"),
        ("2023-12-31/23_59_59/Anything", "2023-12-31T23:59:59.7"),
        ("demo", "2024-05-08T03:38:48.7"),
        ("2024-13-08/03_38_48/Dark30s", "2024-05-08T03:38:48.7"),
    ],
)
def test_headers_are_sharpcaps(tmp_path, folder, first):
    paths = simulate_night(tmp_path / folder, frames=4, shape=(16, 24))
    headers = [fits.getheader(path) for path in paths]
    for header in headers:
        assert (header["BITPIX"], header["BZERO"], header["NAXIS1"], header["NAXIS2"]) == (16, 32768, 24, 16)
        assert header["DATE-OBS"] == "0001-01-01T00:00:00.0000000"
        assert header["EXPTIME"] == 30.0
        assert header["INSTRUME"] == "QHY42PRO"
        assert header["OBJECT"] == "Dark30s"
        assert (header["XPIXSZ"], header["YPIXSZ"], header["XBINNING"], header["YBINNING"]) == (11.0, 11.0, 1, 1)
        assert (header["GAIN"], header["ADCBITS"], header["ROWORDER"]) == (5, 12, "TOP-DOWN")
        assert header["EGAIN"] / header["EGAINSAV"] == pytest.approx(16)
        assert header["CCD-TEMP"] == pytest.approx(-20, abs=0.25)
        assert not any(card.startswith(("CTYPE", "CRVAL", "CD1_")) for card in header)
    ends = [datetime.fromisoformat(header["DATE-END"]) for header in headers]
    assert ends[0] == datetime.fromisoformat(first)
    assert {(b - a).total_seconds() for a, b in pairwise(ends)} == {30.0}
    assert len({header["CCD-TEMP"] for header in headers}) > 1


def test_exposure_sets_time_and_cadence_alone(tmp_path):
    night = simulate_counts(frames=2, shape=(16, 24))
    paths = write_night(tmp_path, night, exposure=60)
    headers = [fits.getheader(path) for path in paths]
    assert [header["EXPTIME"] for header in headers] == [60.0, 60.0]
    assert headers[1]["DATE-END"].startswith("2024-05-08T03:39:48.7")
    with pytest.raises(ParametersError, match="exposure"):
        write_night(tmp_path, night, exposure=float("nan"))
    np.testing.assert_array_equal(fits.getdata(paths[0]), night.counts[0])


def test_earlier_simulation_is_replaced_whole(tmp_path):
    simulate_night(tmp_path, frames=4, shape=(16, 24), seed=1)
    (tmp_path / "my notes.txt").write_text("mine")
    paths = simulate_night(tmp_path, frames=2, shape=(16, 24), seed=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00001.fits", "00002.fits", "my notes.txt", TRUTH_NAME]
    assert fits.getheader(paths[0])["SIMSEED"] == 2


@pytest.mark.parametrize("name", ["00001.fits", "notes.txt", "Dark_0001.fit", TRUTH_NAME])
def test_foreign_folder_is_refused_untouched(tmp_path, name):
    (tmp_path / name).write_bytes(b"SIMPLE  =                    T")
    with pytest.raises(ParametersError, match=name):
        simulate_night(tmp_path, frames=3, shape=(16, 24))
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(name, b"SIMPLE  =                    T")]


def test_raw_frame_among_simulated_ones_is_never_overwritten(tmp_path):
    simulate_night(tmp_path, frames=3, shape=(16, 24))
    fits.PrimaryHDU(np.ones((16, 24), np.uint16)).writeto(tmp_path / "00002.fits", overwrite=True)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ParametersError, match=r"00002\.fits"):
        simulate_night(tmp_path, frames=1, shape=(16, 24), seed=9)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_interrupted_night_has_no_truth_and_can_be_made_again(tmp_path, monkeypatch):
    moved, calls = os.replace, []

    def fail_on_the_third(source, target):
        calls.append(target)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        moved(source, target)

    monkeypatch.setattr(os, "replace", fail_on_the_third)
    with pytest.raises(OSError, match="No space"):
        simulate_night(tmp_path, frames=4, shape=(16, 24))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00001.fits", "00002.fits"]
    monkeypatch.undo()
    assert len(simulate_night(tmp_path, frames=4, shape=(16, 24))) == 4


def test_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(ParametersError, match="taken"):
        simulate_night(tmp_path / "taken", frames=1, shape=(8, 8))


def test_wrong_parameters_do_not_touch_the_folder(tmp_path):
    simulate_night(tmp_path, frames=1, shape=(16, 24))
    with pytest.raises(ParametersError):
        simulate_night(tmp_path, frames=1, shape=(16, 24), stars=[Star(1000, 2.0, frame=5)])
    assert (tmp_path / TRUTH_NAME).exists()


@pytest.mark.parametrize(
    ("choice", "match"),
    [
        ({"frames": 0}, "frames"),
        ({"frames": 10**12}, "frames"),
        ({"shape": (10**9, 10**9)}, "shape"),
        ({"shape": (30000, 30000)}, "shape"),
        ({"seed": 2**63}, "seed"),
        ({"noise": 1e308}, "noise"),
        ({"shape": (0, 5)}, "shape"),
        ({"shape": (5,)}, "shape"),
        ({"seed": -1}, "seed"),
        ({"noise": -1.0}, "noise"),
        ({"noise": float("nan")}, "noise"),
        ({"scale": 0.0}, "scale"),
        ({"pedestal": 1301.0}, "pedestal"),
        ({"level": float("inf")}, "glow"),
        ({"glow": 5000.0}, "glow"),
        ({"stars": [Star(1000, 2.0, x=24)]}, "outside"),
        ({"stars": [Star(1000, 2.0, y=-0.6)]}, "outside"),
        ({"stars": [Star(1000, 2.0, frame=2)]}, "frames 0 to 1"),
    ],
)
def test_wrong_numbers_are_named(choice, match):
    with pytest.raises(ParametersError, match=match):
        simulate_counts(**{"frames": 2, "shape": (16, 24), **choice})


def test_star_as_the_command_line_writes_it():
    assert parse_star("3000@2.0") == Star(flux=3000.0, fwhm=2.0)
    assert parse_star("1.5e3@1.8") == Star(1500.0, 1.8)


@pytest.mark.parametrize(
    "text", ["3000", "3000@", "@2", "3000@2@1", "a@b", "", "-5@2", "3000@0", "nan@2", "3000@inf", "1e308@2", "9@1e308"]
)
def test_wrong_star_is_explained(text):
    with pytest.raises(ParametersError, match=r"FLUX@FWHM|positive"):
        parse_star(text)
