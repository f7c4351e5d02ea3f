"""Detection: a fast table that holds what a fit of every leader would have found, and nothing else."""

from dataclasses import asdict

import numpy as np
import pytest
from astropy.table import Table
from fitted import fit_stamps
from small_nights import with_counts, with_parameters, write_small_night

from sla1tools.candidates import detection, rows
from sla1tools.candidates.criteria import candidates
from sla1tools.candidates.detection import FirstLook, detect, detect_night
from sla1tools.candidates.leaders import cut_stamps, find_leaders
from sla1tools.candidates.psf import gaussian, psf_of
from sla1tools.candidates.rows import LEADER_COLUMNS, PSF_COLUMNS, Floors
from sla1tools.darks.classes import BLOCKING, PixelClass
from sla1tools.darks.model import characterize
from sla1tools.errors import ParametersError
from sla1tools.measure import measure_night
from sla1tools.show import tables
from sla1tools.show.explorer.payload import Exhibit, payload
from sla1tools.simulate.night import Star

FITTED = ("snr", "flux", "x_fit", "y_fit", "chi2", "dof", "p_value", "rival_margin")


def faint_stars(number, fwhm, seed=3):
    """Stars about the floor in the matched filter: S/N 3.5 to 7 at 43 e- of held-out noise."""
    rng = np.random.default_rng(seed)
    area = np.sqrt(4 * np.pi) * fwhm / 2.3548 if fwhm > 1 else 1.2 + fwhm  # S/N is about flux / (noise * area)
    return [Star(float(snr * 43 * area), fwhm) for snr in rng.uniform(3.5, 7, number)]


def night_of_stars(directory, fwhm, seed=4, shape=(192, 192), number=900, **options):
    changes = {"pixel_scale": 1.0, "seeing_fwhm": fwhm}
    stars = faint_stars(number, fwhm)
    return write_small_night(directory, 5, shape, seed, changes=changes, stars=stars, **options)


def slow_residual(night, k, reference):
    """The definition, in electrons."""
    stack = np.stack([frame.rows(0, night.shape[0]) for frame in night.frames]).astype(float)
    combine = np.median if night.parameters.combination_method == "median" else np.mean
    return (stack[k] - combine(np.delete(stack, k, axis=0) if reference == "leave_one_out" else stack, axis=0)) * (
        night.parameters.scale
    )


def slow_leaders(night, dark, k, reference):
    """Every leader of the frame, fitted without any first look; then the floors."""
    parameters, counts = night.parameters, night.rows(k, 0, night.shape[0])
    residual = slow_residual(night, k, reference)
    leaders = find_leaders(np.rint(residual * 1e6) / 1e6, -np.inf, parameters.neighbors)
    y, x = leaders["y"], leaders["x"]
    noise = cut_stamps(dark.sigma(counts, np.s_[:, :], reference), y, x)
    usable = (dark.classes.dq & BLOCKING == 0) & (counts < parameters.top_code)
    fits = fit_stamps(cut_stamps(residual, y, x), noise, cut_stamps(usable, y, x, False), psf_of(parameters))
    fits["x_fit"] += x
    fits["y_fit"] += y
    for name in PSF_COLUMNS:
        leaders[name] = fits[name]
    return leaders[
        Floors.of(parameters, dark.median_noise).keep(np.asarray(leaders["peak"]), np.asarray(leaders["snr"]))
    ]


def fast_leaders(night, dark, k, reference):
    parameters = night.parameters
    look = FirstLook.of(dark, reference, psf_of(parameters))
    counts = night.rows(k, 0, night.shape[0])
    residual, floors = dark.residual(counts, reference), Floors.of(parameters, dark.median_noise)
    return detect(dark, look, night.names[k], counts, residual, reference, floors, parameters)


def places(table):
    return [(int(x), int(y)) for x, y in zip(table["x"], table["y"], strict=True)]


@pytest.mark.parametrize("clean", [True, False], ids=["clean", "with bad pixels"])
@pytest.mark.parametrize("fwhm", [0.5, 0.8, 1.2, 1.6, 2.0, 3.0, 5.0])
@pytest.mark.slow
def test_the_first_look_loses_no_leader_above_the_floor(tmp_path, fwhm, clean):
    night, _ = night_of_stars(tmp_path, fwhm, clean=clean)
    dark = characterize(night)
    rows = lost = 0
    for k in range(len(night.frames)):
        slow, fast = (find(night, dark, k, "leave_one_out") for find in (slow_leaders, fast_leaders))
        rows, lost = rows + len(slow), lost + len(set(places(slow)) - set(places(fast)))
        assert not set(places(fast)) - set(places(slow)), "a row that a fit of every leader would not have kept"
        assert set(places(slow[slow["peak"] > 120])) <= set(places(fast)), "the peak floor needs no first look"
    assert rows > 1000
    assert lost == 0, f"{lost} of {rows} lost"


@pytest.mark.parametrize("neighbors", [4, 8])
@pytest.mark.parametrize("reference", ["leave_one_out", "all"])
@pytest.mark.parametrize("method", ["median", "average"])
@pytest.mark.parametrize("frames", [4, 5])
@pytest.mark.slow
def test_a_row_says_what_the_definitions_say(tmp_path, frames, method, reference, neighbors):
    night, _ = write_small_night(tmp_path, frames, (128, 100), 5, clean=False, stars=faint_stars(150, 2.0))
    night = with_parameters(night, combination_method=method, neighbors=neighbors, reference=reference)
    dark = characterize(night)
    slow, fast = (find(night, dark, 1, reference) for find in (slow_leaders, fast_leaders))
    assert places(fast) == places(slow), "the order of rows, then columns"
    assert fast.colnames == [*LEADER_COLUMNS, "stamp"]
    assert set(fast["frame"]) == {"00002.fits"}
    assert set(fast["reference"]) == {reference}
    np.testing.assert_allclose(fast["peak"], slow["peak"], atol=1e-5)
    np.testing.assert_allclose(fast["neighbor_min"], slow["neighbor_min"], atol=1e-5)
    np.testing.assert_allclose(fast["neighbor_ratio"], fast["neighbor_min"] / fast["peak"], rtol=1e-12)
    np.testing.assert_array_equal(fast["dq"], dark.classes.dq[fast["y"], fast["x"]])
    fitted = np.asarray(slow["snr"]) > 4
    assert 20 < fitted.sum() < len(fast)
    for name in FITTED:
        np.testing.assert_array_equal(np.ma.getmaskarray(fast[name]), ~fitted)
        np.testing.assert_allclose(fast[name][fitted], slow[name][fitted], rtol=1e-4, atol=1e-4, err_msg=name)
    assert list(fast["best_rival"][fitted]) == list(slow["best_rival"][fitted])
    residual = slow_residual(night, 1, reference)
    np.testing.assert_allclose(fast["stamp"], cut_stamps(residual, slow["y"], slow["x"]), atol=1e-3)


@pytest.fixture(scope="module")
def defective(tmp_path_factory):
    night, _ = write_small_night(tmp_path_factory.mktemp("night"), 6, (128, 128), 7, clean=False, noise=37.0)
    return night


@pytest.mark.slow
def test_a_night_has_every_frame_against_both_references(defective):
    night = with_parameters(defective, threshold=80.0)
    dark = characterize(night)
    leaders, hits, floors = detect_night(night, dark)
    assert floors == Floors(80.0, 4.0)
    pairs = [(str(row["reference"]), str(row["frame"])) for row in leaders]
    order = [(reference, name) for reference in ("leave_one_out", "all") for name in night.names]
    assert sorted(set(pairs), key=order.index) == order, "every frame and reference has rows"
    assert [order.index(pair) for pair in pairs] == sorted(order.index(pair) for pair in pairs)
    for reference, name in (("leave_one_out", night.names[3]), ("all", night.names[0])):
        alone = fast_leaders(night, dark, night.names.index(name), reference)
        there = leaders[(leaders["reference"] == reference) & (leaders["frame"] == name)]
        assert places(there) == places(alone)
        np.testing.assert_array_equal(there["peak"], alone["peak"])
    assert set(hits["frame"]) <= set(night.names)


def test_what_the_observers_rule_finds_is_in_the_table_whatever_the_cuts(defective):
    for cuts in ({"threshold": 200.0}, {"threshold": 90.0, "ratio": 0.1}, {"snr_min": 3.0, "neighbors": 8}):
        night = with_parameters(defective, **cuts)
        dark = characterize(night)
        parameters = night.parameters
        leaders, _, floors = detect_night(night, dark)
        assert floors.peak <= parameters.threshold
        assert floors.snr <= parameters.snr_min
        held_out = leaders[leaders["reference"] == "leave_one_out"]
        for k, name in enumerate(night.names):
            all_leaders = find_leaders(
                np.rint(slow_residual(night, k, "leave_one_out") * 1e6) / 1e6,
                parameters.threshold,
                parameters.neighbors,
            )
            in_table = held_out[(held_out["frame"] == name) & (held_out["peak"] > parameters.threshold)]
            assert places(in_table) == places(all_leaders)


def test_floors_are_in_units_of_the_nights_noise(tmp_path):
    """A camera of a quarter of the usual noise can be searched far below 12 sigma, whatever its threshold is."""
    star = Star(600.0, 2.5, 40.0, 40.0, frame=2)
    night, _ = write_small_night(tmp_path, 8, (96, 96), 3, {"injections": 0}, noise=9.0, level=81.0, stars=[star])
    measured = measure_night(night.parameters)
    noise = measured.summary["dark"]["noise"]
    assert 9.0 < noise < 11.0
    assert measured.floors == Floors(3 * noise, 4.0)
    found = measured.candidates(threshold=40.0)
    assert (40, 40) in set(zip(found["x"], found["y"], strict=True))
    assert not len(measured.candidates(threshold=120.0))
    with pytest.raises(ParametersError, match="below the night's floor"):
        measured.candidates(threshold=20.0)
    assert detect_night(with_parameters(night, threshold=20.0), measured.dark)[2].peak == 20.0


@pytest.mark.slow
def test_too_many_rows_raise_the_floors_aloud_and_lose_nothing_above_the_cuts(defective, monkeypatch):
    night = with_parameters(defective, injections=0)
    usual = measure_night(night.parameters)
    assert usual.floors == Floors(3 * usual.dark.median_noise, 4.0)
    assert not any("floors were raised" in note for note in usual.summary["notes"])
    most = len(usual.leaders) // 2
    monkeypatch.setattr(detection, "MOST_ROWS", most)
    raised = measure_night(night.parameters)
    assert usual.floors.peak < raised.floors.peak <= 200.0
    assert 4.0 < raised.floors.snr <= 6.0
    assert len(raised.leaders) <= most
    assert raised.summary["floors"] == asdict(raised.floors)
    (note,) = (note for note in raised.summary["notes"] if "floors were raised" in note)
    assert f"{raised.floors.peak:.0f} e-" in note
    kept = usual.leaders[raised.floors.keep(usual.leaders["peak"], np.ma.filled(usual.leaders["snr"], np.nan))]
    assert places(raised.leaders) == places(kept)
    fitted = ~np.ma.getmaskarray(raised.leaders["snr"])
    assert fitted.any()
    assert (raised.leaders["snr"][fitted] > raised.floors.snr).all(), "one floor holds for all rows"
    monkeypatch.setattr(detection, "MOST_ROWS", 3)
    strict = measure_night(night.parameters)
    assert strict.floors == Floors(200.0, 6.0), "never above the configured cuts"
    for criterion in ("neighbor_ratio", "psf_chi2"):
        wanted, found = (m.leaders[candidates(m.leaders, night.parameters, criterion)] for m in (usual, strict))
        assert places(found) == places(wanted)
        assert strict.summary["candidates"][criterion] == usual.summary["candidates"][criterion]


@pytest.mark.parametrize("limit", ["MOST_IN_FRAME", "MOST_KEPT"])
@pytest.mark.slow
def test_more_leaders_than_can_be_measured_are_counted_and_the_highest_kept(defective, monkeypatch, limit):
    """At thresholds of half a sigma noise alone leads at every fifth pixel."""
    night = with_parameters(defective, injections=50, threshold=20.0)
    usual = measure_night(night.parameters)
    assert usual.floors.left_out == 0
    assert "measured" not in tables.candidate_counts(usual).data
    share = len(usual.leaders) // (4 * len(night.frames))
    monkeypatch.setattr(detection, "MOST_KEPT", share * 2 * len(night.frames))
    monkeypatch.setattr(detection, "MOST_IN_FRAME", share if limit == "MOST_IN_FRAME" else 50_000)
    crowded = measure_night(night.parameters)
    assert len(crowded.leaders) + crowded.floors.left_out >= len(usual.leaders) > len(crowded.leaders) > 0
    assert crowded.summary["verdict"] == "degraded"
    assert crowded.summary["reasons"][0].startswith("this is no night of darks, or it drifts: ")
    for rate in crowded.summary["false_alarms_per_frame"].values():
        assert (rate["rate"], rate["low"], rate["high"]) == (None, None, None)
    assert set(crowded.summary["operating_point"].values()) == {None}
    told, whole = (m.summary["candidates"]["neighbor_ratio"] for m in (crowded, usual))
    assert told == whole, "counted before the table was cut"
    assert whole["held_out"] > np.count_nonzero(candidates(crowded.leaders, night.parameters))
    assert f"of {len(crowded.leaders) + crowded.floors.left_out:,} leaders" in tables.candidate_counts(crowded).data
    ((label, counted),) = tables.per_frame(crowded).items()
    assert (label, counted.tolist()) == ("held out, counted", whole["per_frame"])
    exhibit = Exhibit(crowded.leaders, None, night.parameters, night.names, crowded.floors)
    carried = payload(exhibit)["carried"]
    assert (carried["total"] - carried["rows"], carried["complete"]) == (crowded.floors.left_out, False)
    html = tables.false_alarms(crowded).data
    assert f">{sum(whole['per_frame'])}<" in html
    assert "&lt;" not in html.split(">one-off")[1], "no limit, no rate"
    for frame in night.names:
        own, all_of_it = (m.leaders[m.leaders["frame"] == frame] for m in (crowded, usual))
        assert 0 < len(own) <= 2 * share
        if limit == "MOST_KEPT":  # by their peaks; else by their peaks over the noise of their places
            for reference in ("leave_one_out", "all"):
                peaks = np.sort(all_of_it["peak"][all_of_it["reference"] == reference])[-share:]
                np.testing.assert_array_equal(np.sort(own["peak"][own["reference"] == reference]), peaks)


@pytest.mark.slow
def test_a_frame_that_lies_high_is_no_crowd(tmp_path, monkeypatch):
    """A sigma of offset lets the first look see stars at every other pixel: they are looked at again, then counted."""
    night, _ = write_small_night(tmp_path, 8, (128, 128), 6, {"injections": 0})
    high = with_counts(night, 0, night.rows(0, 0, 128) + np.uint16(45 / night.parameters.scale))
    dark = characterize(high)
    usual, _, floors = detect_night(high, dark)
    _, largest = np.unique(list(zip(usual["frame"], usual["reference"], strict=True)), axis=0, return_counts=True)
    most = int(1.2 * largest.max())
    monkeypatch.setattr(detection, "MOST_KEPT", 16 * most)
    monkeypatch.setattr(detection, "MOST_IN_FRAME", most)
    monkeypatch.setattr(detection, "LOOKED_AT_AGAIN", 0)
    assert detect_night(high, dark)[2] != floors, "else the first look alone is enough"
    monkeypatch.setattr(detection, "LOOKED_AT_AGAIN", 4)
    again, _, same = detect_night(high, dark)
    assert same == floors
    assert places(again) == places(usual)


@pytest.mark.slow
def test_an_empty_night_gives_tables_of_no_rows(tmp_path, defective, monkeypatch):
    monkeypatch.setattr(rows, "PEAK_FLOOR", 10.0)
    night, _ = write_small_night(tmp_path, 5, (24, 20), 2, noise=9.0, level=90.0)
    measured = measure_night(night.parameters.model_copy(update={"injections": 0}))
    full, _, _ = detect_night(defective, characterize(defective))
    assert len(measured.leaders) == len(measured.trials) == len(measured.hits) == len(measured.candidates()) == 0
    for table in (measured.leaders, measured.trials):
        assert isinstance(table, Table)
        names = [name for name in full.colnames if name in table.colnames]
        assert set(full.colnames) <= set(table.colnames)
        assert [table[name].dtype.kind for name in names] == [full[name].dtype.kind for name in names]
        assert table["stamp"].shape == (0, 5, 5)
        assert table["peak"].unit == "electron"


def corner_night(directory, known=None, **star):
    """A bright star in a quiet night, frame 2, of exactly the image that is fitted."""
    changes = {"psf_size_error": 0.0, "psf_shape_error": 0.0, "psf_light_error": 0.0}
    if known is not None:
        directory.mkdir()
        listed = directory / "known.ecsv"
        Table({"x": [known[0]], "y": [known[1]]}).write(listed, format="ascii.ecsv")
        changes["known_pixels"] = str(listed)
    bright = Star(**({"flux": 8000.0, "fwhm": 2.0, "frame": 2} | star))
    night, _ = write_small_night(directory, 5, (48, 40), 6, noise=30.0, stars=[bright], changes=changes)
    return night, fast_leaders(night, characterize(night), 2, "leave_one_out")


@pytest.mark.parametrize(
    ("x", "y", "dof"),
    [(0, 0, 5), (39, 47, 5), (0, 20, 11), (20, 47, 11), (1, 20, 16), (20, 20, 21), (1, 1, 12)],
)
def test_a_star_at_the_edge_is_fitted_with_what_there_is_of_it(tmp_path, x, y, dof):
    _, leaders = corner_night(tmp_path, x=float(x), y=float(y))
    (row,) = leaders[(leaders["x"] == x) & (leaders["y"] == y)]
    assert row["dof"] == dof
    assert np.isfinite(row["stamp"]).sum() == dof + 4
    assert np.isfinite(row["stamp"][2, 2])
    assert row["flux"] == pytest.approx(8000, rel=0.1)
    assert abs(row["x_fit"] - x) < 0.1
    assert abs(row["y_fit"] - y) < 0.1
    assert row["neighbor_ratio"] > 0.4
    assert bool(row["dq"] & PixelClass.EDGE) == (dof < 21)
    assert candidates(leaders, night_parameters(), "psf_chi2").sum() == 1


def night_parameters():
    from sla1tools.parameters import Parameters

    return Parameters()


def test_a_flagged_neighbour_leaves_the_fit_and_a_flagged_centre_rejects(tmp_path):
    _, beside = corner_night(tmp_path / "a", known=(21, 20), x=20.0, y=20.0)
    (row,) = beside[(beside["x"] == 20) & (beside["y"] == 20)]
    assert row["dof"] == 20
    assert row["dq"] == 0
    assert row["flux"] == pytest.approx(8000, rel=0.05)
    _, on_it = corner_night(tmp_path / "b", known=(20, 20), x=20.0, y=20.0)
    (row,) = on_it[(on_it["x"] == 20) & (on_it["y"] == 20)]
    assert row["dq"] == PixelClass.KNOWN
    assert row["dof"] == 21, "what the list alone flags is fitted: so it can be seen to go on, or to have stopped"
    one = Table(on_it[(on_it["x"] == 20) & (on_it["y"] == 20)])
    assert not candidates(one, night_parameters(), "psf_chi2").any()
    assert candidates(one, night_parameters(), "neighbor_ratio").all(), "the observers' rule does not consult DQ"


def test_a_clipped_star_is_flagged_saturated_and_not_fitted(tmp_path):
    _, leaders = corner_night(tmp_path, x=20.0, y=20.0, flux=60_000.0)
    clipped = leaders[(abs(leaders["x"] - 20) < 2) & (abs(leaders["y"] - 20) < 2)]
    assert len(clipped) > 0
    assert (clipped["dq"] & PixelClass.SATURATED > 0).all()
    assert np.ma.getmaskarray(clipped["snr"]).all()
    assert not candidates(clipped, night_parameters(), "psf_chi2").any()


def test_frames_and_model_are_not_changed(defective):
    dark = characterize(defective)
    kept = [dark.reference.exact.copy(), dark.mean.copy(), dark.variance.copy(), dark.classes.dq.copy()]
    counts = defective.rows(0, 0, 128).copy()
    before = counts.copy()
    look = FirstLook.of(dark, "leave_one_out", gaussian(2.0))
    residual = dark.residual(counts, "leave_one_out")
    detect(dark, look, "a", counts, residual, "leave_one_out", Floors(120.0, 4.0), defective.parameters)
    np.testing.assert_array_equal(counts, before)
    for old, new in zip(kept, (dark.reference.exact, dark.mean, dark.variance, dark.classes.dq), strict=True):
        np.testing.assert_array_equal(old, new)
