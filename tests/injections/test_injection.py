"""Injection: the local shortcut is the whole pipeline, every star counts, and every miss has its reason."""

import hashlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.table import Table
from simulated import simulate_counts, write_night
from small_nights import parameters_of, with_counts, with_parameters, write_small_night
from starred_frames import (
    awkward_stars,
    capture_stars,
    defective_night,
    frame_leaders,
    near,
    put_into_frame,
    stars_at,
)

from sla1tools.candidates.criteria import CRITERIA, candidates
from sla1tools.candidates.leaders import cut_stamps, find_leaders
from sla1tools.candidates.psf import gaussian, pixel_integrated_gaussian
from sla1tools.candidates.rows import LEADER_COLUMNS, Floors, Patches, detect_patches
from sla1tools.darks.classes import BLOCKING
from sla1tools.darks.model import characterize
from sla1tools.errors import ParametersError
from sla1tools.frames.capture import judge_capture
from sla1tools.injections import injection
from sla1tools.injections.injection import add_stars, inject, put_fake, random_stars
from sla1tools.measure import measure_night
from sla1tools.parameters import Parameters, validate


@pytest.fixture(scope="module")
def defective(tmp_path_factory):
    return defective_night(tmp_path_factory.mktemp("night"))


def quiet_stars(monkeypatch):
    """Stars without Poisson noise: what a constructed case says is then certain."""

    class Expected:
        def poisson(self, expected):
            return expected

    real = injection.add_stars
    monkeypatch.setattr(
        injection,
        "add_stars",
        lambda counts, stars, psf, scale, top_code, rng: real(counts, stars, psf, scale, top_code, Expected()),
    )


SETTINGS = [
    (method, reference, frames, level_correction)
    for method in ("median", "average")
    for reference in ("leave_one_out", "all")
    for frames in (5, 6)
    for level_correction in (False, True)
]


@pytest.mark.parametrize(("method", "reference", "frames", "level_correction"), SETTINGS)
@pytest.mark.slow
def test_the_shortcut_is_the_whole_pipeline(defective, monkeypatch, method, reference, frames, level_correction):
    night, bad = defective
    # frames of unlike level, so that the correction has something to do
    moved = [replace(frame, level=frame.level + 40 * k) for k, frame in enumerate(night.frames[:frames])]
    night = with_parameters(
        replace(night, frames=tuple(moved)),
        combination_method=method,
        reference=reference,
        level_correction=level_correction,
        threshold=150.0,
        ratio=0.25,
    )
    dark = characterize(night)
    floors = Floors.of(night.parameters, dark.median_noise)
    stars = awkward_stars(night, bad, frames)
    made = capture_stars(monkeypatch)
    trials = inject(night, dark, floors, stars).trials
    by_place = {(star["x_true"], star["y_true"]): patch for star, patch in made}
    before = [frame_leaders(night, dark, k, floors) for k in range(frames)]
    rows = fits = found = 0
    apart = []
    for trial, star in zip(trials, stars, strict=True):
        k = int(star["frame_number"])
        raw = night.frames[k].rows(0, night.shape[0])
        starred = with_counts(night, k, put_into_frame(raw, star, by_place[star["x_true"], star["y_true"]]))
        dark_after = characterize(starred)
        after = frame_leaders(starred, dark_after, k, floors)
        there = after[near(after, star)]
        old = before[k][near(before[k], star)]
        assert trial["frame"] == night.names[k]
        passed = neighbor_rule(old, night.parameters).any()
        assert trial["recovered_neighbor_ratio"] == (neighbor_rule(there, night.parameters).any() and not passed)
        if trial["peak"] is np.ma.masked:
            assert not (there["peak"] > floors.peak).any()
            continue
        rows += 1
        (match,) = there[(there["x"] == trial["x"]) & (there["y"] == trial["y"])]
        assert match["peak"] == trial["peak"], "bit for bit"
        assert match["neighbor_min"] == trial["neighbor_min"], "bit for bit"
        np.testing.assert_array_equal(match["stamp"], trial["stamp"])
        if not same_flags(dark, dark_after, trial):
            continue
        assert match["dq"] & BLOCKING == trial["dq"] & BLOCKING
        assert (match["snr"] is np.ma.masked) == (trial["snr"] is np.ma.masked)
        if trial["snr"] is not np.ma.masked:
            fits += 1
            if method == "average" and star["flux_true"] > 2500:
                continue  # the average of a few frames carries so bright a star into the level, and that into the noise
            for name in ("snr", "flux", "chi2"):
                apart.append(abs(match[name] / trial[name] - 1))
            for name in ("x_fit", "y_fit"):
                assert match[name] == pytest.approx(trial[name], abs=0.1 if method == "average" else 0.01), name
            assert match["dof"] == trial["dof"]
            passes = (match["snr"] >= 6) and (match["p_value"] >= 1e-3) and not (match["dq"] & BLOCKING)
            found += passes
            assert not passes or trial["recovered_psf_chi2"] or candidates(old, night.parameters, "psf_chi2").any()
    # the whole pipeline learns its noise from the starred frames too; an average carries the star into the level
    assert np.median(apart) < (5e-3 if method == "average" else 2e-3)
    assert np.max(apart) < (0.25 if method == "average" else 0.01)
    assert rows >= 20
    assert fits >= 12
    assert found >= 8


def neighbor_rule(leaders, parameters):
    return candidates(leaders, parameters, "neighbor_ratio")


def same_flags(dark, after, trial):
    """With few frames a bright star may change what its own pixels are classed as; the shortcut keeps the night's."""
    y, x = int(trial["y"]), int(trial["x"])
    stamp = np.s_[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
    return np.array_equal(dark.classes.dq[stamp] & BLOCKING, after.classes.dq[stamp] & BLOCKING)


def test_nothing_given_is_changed_and_nothing_on_disk(defective, monkeypatch):
    night, bad = defective
    night = with_parameters(night, injections=300)
    files = sorted(night.parameters.capture_directory.iterdir())
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    dark = characterize(night)
    maps = (dark.reference.exact, dark.mean, dark.variance, dark.prior, dark.classes.dq)
    kept = [values.copy() for values in maps]
    stars = awkward_stars(night, bad, 6)
    stars_before = stars.copy()
    inject(night, dark, Floors(120.0, 4.0))
    inject(night, dark, Floors(120.0, 4.0), stars)
    for old, new in zip(kept, maps, strict=True):
        np.testing.assert_array_equal(old, new)
    assert all((stars[name] == stars_before[name]).all() for name in stars.colnames)
    assert sorted(night.parameters.capture_directory.iterdir()) == files
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in files] == digests


def test_stars_are_seeded_stratified_and_uniform_over_frames_and_area():
    parameters = Parameters(injections=8000, injection_flux_range=(300.0, 15000.0))
    shape = (200, 300)
    stars = random_stars(parameters, 7, shape)
    again, other = (
        random_stars(parameters, 7, shape),
        random_stars(parameters.model_copy(update={"random_seed": 2}), 7, shape),
    )
    for name in stars.colnames:
        np.testing.assert_array_equal(stars[name], again[name])
    assert (stars["x_true"] != other["x_true"]).all()
    strata = np.floor(8000 * np.log(stars["flux_true"] / 300) / np.log(50)).astype(int)
    np.testing.assert_array_equal(np.sort(strata), np.arange(8000), "one star a stratum")
    assert np.ptp(np.bincount(stars["frame_number"], minlength=7)) <= 1
    assert abs(np.corrcoef(stars["frame_number"], stars["flux_true"])[0, 1]) < 0.04
    for name, size in (("x_true", 300), ("y_true", 200)):
        assert -0.5 <= stars[name].min() < 0, "the edge pixels too"
        assert size - 1 < stars[name].max() < size - 0.5
        assert np.ptp(np.bincount(np.rint(stars[name] % 1 * 8).astype(int) % 8)) < 200, "every sub-pixel phase"
        histogram, _ = np.histogram(stars[name], 8, (-0.5, size - 0.5))
        assert np.abs(histogram - 1000).max() < 5 * np.sqrt(1000)
    errors = np.array([0.1, 0.1, 0.1])
    np.testing.assert_allclose(stars["modes"].std(axis=0), errors, rtol=0.05)
    np.testing.assert_allclose(stars["fwhm_true"], 2.0 * (1 + stars["modes"][:, 0]))
    exact = random_stars(parameters.model_copy(update={"psf_size_error": 0.0, "psf_shape_error": 0.0}), 7, shape)
    assert not exact["modes"].any()
    assert set(exact["fwhm_true"]) == {2.0}
    np.testing.assert_array_equal(exact["x_true"], stars["x_true"])


def test_the_same_seed_gives_the_same_trials_and_another_does_not(defective):
    night, _ = defective
    dark = characterize(night)
    trials, again, other = (
        inject(with_parameters(night, injections=200, random_seed=seed), dark, Floors(120.0, 4.0)).trials
        for seed in (1, 1, 2)
    )
    for name in trials.colnames:
        np.testing.assert_array_equal(np.ma.getmaskarray(trials[name]), np.ma.getmaskarray(again[name]))
        np.testing.assert_array_equal(np.ma.getdata(trials[name]), np.ma.getdata(again[name]))
    assert (trials["x_true"] != other["x_true"]).all()
    assert trials.colnames == [
        *LEADER_COLUMNS,
        *("x_true", "y_true", "flux_true", "fwhm_true"),
        *(f"recovered_{name}" for name in CRITERIA),
        *("miss_reason", "stamp"),
    ]


class Recorded:
    """A generator that gives each expectation exactly, and remembers it."""

    def poisson(self, expected):
        self.expected = expected
        return np.rint(expected)


def test_a_star_is_added_in_counts_quantised_and_clipped():
    counts = np.random.default_rng(1).integers(14_000, 16_000, (3, 7, 7)).astype(np.uint16)
    counts[1, 3, 4] = 65535  # already at the rail
    counts[2, 0, 0] = 60_500  # above this camera's top code
    before = counts.copy()
    stars = stars_at([(0, 10.2, 20.4, 3000.0), (0, 4.5, 7.5, 200_000.0), (0, 3.0, 3.0, 1000.0)])
    rng, scale = Recorded(), 1.39 / 16
    starred = add_stars(counts, stars, gaussian(2.0), scale, 60_000, rng)
    np.testing.assert_array_equal(counts, before)
    assert starred.dtype == np.uint16
    for i, (x, y, flux) in enumerate(zip(stars["x_true"], stars["y_true"], stars["flux_true"], strict=True)):
        (share,) = pixel_integrated_gaussian(x - np.rint(x), y - np.rint(y), 2.0, 7)
        np.testing.assert_allclose(rng.expected[i], flux * share)
    wanted = np.rint(before + np.rint(rng.expected) / scale)
    free = (wanted < 60_000) & (before < 60_000)
    np.testing.assert_array_equal(starred[free], wanted[free], "to the nearest whole count")
    assert (starred[1] == 60_000).sum() > 5, "clipped at the top code"
    assert starred[1, 3, 4] == 65535, "a star does not lower a count"
    assert starred[2, 0, 0] == 60_500
    noisy = add_stars(
        np.full((4000, 7, 7), 100, np.uint16), stars[[0] * 4000], gaussian(2.0), 0.5, 65535, np.random.default_rng(2)
    )
    electrons = (noisy - 100.0) * 0.5
    np.testing.assert_allclose(electrons.mean(axis=0), rng.expected[0], atol=5 * np.sqrt(600 / 4000))
    np.testing.assert_allclose(electrons.var(axis=0), rng.expected[0], rtol=0.12, atol=0.5)


def reason_of(night, monkeypatch, star, **changes):
    """Miss reason and recovery of one noiseless star in frame 0."""
    night = with_parameters(night, **changes)
    quiet_stars(monkeypatch)
    dark = characterize(night)
    (trial,) = inject(night, dark, Floors.of(night.parameters, dark.median_noise), stars_at([(0, *star)])).trials
    recovered = bool(trial[f"recovered_{night.parameters.criterion}"])
    assert recovered == (trial["miss_reason"] == "")
    return str(trial["miss_reason"])


@pytest.fixture
def flat(tmp_path):
    """Five frames of little noise; frame 0 has a fake star of 4000 e- at (40, 20) and a lone pixel at (20, 40)."""
    simulated = simulate_counts(5, (64, 60), 3, noise=5.0, level=1000.0, glow=0.0, clean=True)
    electrons = 4000 * pixel_integrated_gaussian(0.1, 0.2, 2.0, 7)[0]
    simulated.counts[0, 17:24, 37:44] += np.rint(electrons / (1.39 / 16)).astype(np.uint16)
    simulated.counts[0, 40, 20] += 20_000
    listed = tmp_path / "known.ecsv"
    Table({"x": [50], "y": [50]}).write(listed, format="ascii.ecsv")
    parameters = parameters_of(tmp_path, (64, 60), known_pixels=str(listed))
    write_night(parameters.capture_directory, simulated)
    return judge_capture(parameters)


PLAIN = (10.0, 10.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("star", "changes", "reason"),
    [
        ((*PLAIN, 3000.0), {}, ""),
        ((*PLAIN, 900.0), {}, "below threshold"),  # a peak of 180 e-
        ((*PLAIN, 30.0), {}, "below threshold"),  # lost in the noise, whoever leads
        ((*PLAIN, 3000.0), {"neighbors": 8}, "ratio"),  # corners of a star of 2 px are at 0.29
        ((*PLAIN, 1500.0), {"ratio": 0.6}, "ratio"),
        ((22.2, 40.0, 2500.0), {}, ""),  # two pixels beside a lone hot one: no neighbour of the peak
        ((40.0, 20.0, 3000.0), {}, "already there"),
        ((40.0, 22.0, 600.0), {}, "out-led"),
        ((*PLAIN, 3000.0), {"criterion": "psf_chi2"}, ""),
        ((*PLAIN, 70.0), {"criterion": "psf_chi2"}, "snr"),
        ((50.0, 50.0, 3000.0), {"criterion": "psf_chi2"}, "flagged"),
        ((50.0, 50.0, 300.0), {"criterion": "psf_chi2"}, "flagged"),  # its leader stands below the peak floor
        ((*PLAIN, 60_000.0), {"criterion": "psf_chi2"}, "saturated"),
        ((22.2, 40.0, 2500.0), {"criterion": "psf_chi2"}, "chi2"),
        ((40.0, 20.0, 3000.0), {"criterion": "psf_chi2"}, "already there"),
    ],
)
def test_every_miss_has_its_reason(flat, monkeypatch, star, changes, reason):
    assert reason_of(flat, monkeypatch, star, **changes) == reason


def test_all_stars_are_in_the_denominator(defective):
    night, _ = defective
    measured = measure_night(night.parameters.model_copy(update={"injections": 700}))
    trials = measured.trials
    assert len(trials) == 700
    for criterion in CRITERIA:
        curve = measured.summary["completeness"][criterion]["curve"]
        assert sum(point["injected"] for point in curve) == 700
        assert sum(point["recovered"] for point in curve) == trials[f"recovered_{criterion}"].sum() > 50
    missed = ~trials["recovered_neighbor_ratio"]
    np.testing.assert_array_equal(trials["miss_reason"] != "", missed)
    assert {"below threshold", "ratio"} <= set(trials["miss_reason"][missed])


def test_nothing_injected_is_not_tested_and_not_a_failure(defective):
    night, _ = defective
    measured = measure_night(night.parameters)
    assert len(measured.trials) == 0
    assert measured.trials["recovered_psf_chi2"].dtype == bool
    assert any("no star was injected" in note for note in measured.summary["notes"])
    for criterion in CRITERIA:
        completeness = measured.summary["completeness"][criterion]
        assert completeness == {name: {"flux": None, "low": None, "high": None} for name in ("flux_50", "flux_90")} | {
            "curve": []
        }
        assert measured.summary["operating_point"][criterion] is None
        assert measured.summary["candidates"][criterion]["held_out"] >= 0
    assert measured.summary["verdict"] == "ok"


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_handful_of_stars_is_enough_to_run(defective, number):
    night, _ = defective
    measured = measure_night(night.parameters.model_copy(update={"injections": number}))
    assert len(measured.trials) == number
    assert len(measured.summary["completeness"]["psf_chi2"]["curve"]) > 0


@pytest.mark.parametrize("shape", [(4, 64), (3, 40)])
def test_a_frame_smaller_than_a_stamp_is_measured_but_not_injected(tmp_path, shape):
    night, _ = write_small_night(tmp_path, 5, shape, 9)
    measured = measure_night(night.parameters)
    assert len(measured.trials) == 0
    assert measured.summary["verdict"] == "degraded"
    assert any("completeness could not be tested" in reason for reason in measured.summary["reasons"])
    assert measured.summary["completeness"]["neighbor_ratio"]["curve"] == []
    assert measured.summary["dark"]["noise"] == pytest.approx(40, rel=0.2)


def test_what_cannot_be_injected_is_refused_with_the_parameters():
    with pytest.raises(ParametersError, match=r"injection_flux_range: must be \[low, high\], low < high"):
        validate({"injection_flux_range": [15000.0, 300.0]}, "here")
    with pytest.raises(ParametersError, match=r"a 5x5 stamp can judge stars of 0.5 to 5 px"):
        validate({"seeing_fwhm": 9.0, "pixel_scale": 1.5}, "here")
    with pytest.raises(ParametersError, match="injections"):
        validate({"injections": -1}, "here")


def test_where_every_pixel_is_flagged_the_psf_criterion_finds_nothing(tmp_path):
    ny, nx = 48, 40
    y, x = np.indices((ny, nx)).reshape(2, -1)
    listed = tmp_path / "known.ecsv"
    Table({"x": x, "y": y}).write(listed, format="ascii.ecsv")
    night, _ = write_small_night(tmp_path, 5, (ny, nx), 4, changes={"known_pixels": str(listed), "injections": 500})
    measured = measure_night(night.parameters)
    assert len(measured.trials) == 500
    assert not measured.trials["recovered_psf_chi2"].any()
    assert measured.trials["recovered_neighbor_ratio"].sum() > 50, "the observers' rule never consults DQ"
    completeness = measured.summary["completeness"]["psf_chi2"]
    assert completeness["flux_50"] == {"flux": None, "low": None, "high": None}
    assert sum(point["injected"] for point in completeness["curve"]) == 500
    assert np.ma.getmaskarray(measured.leaders["snr"]).all()
    by_psf = measure_night(night.parameters.model_copy(update={"criterion": "psf_chi2"}))
    assert set(by_psf.trials["miss_reason"]) <= {"flagged", "out-led"}
    assert (by_psf.trials["miss_reason"] == "flagged").mean() > 0.5


def test_flagged_pixels_cost_completeness(tmp_path):
    """1 % of the pixels are flagged: 22 % of the stamps miss a pixel, 1 % of the stars their centre."""
    ny, nx = 128, 128
    places = np.random.default_rng(8).permutation(ny * nx)[: ny * nx // 100]
    listed = tmp_path / "known.ecsv"
    Table({"x": places % nx, "y": places // nx}).write(listed, format="ascii.ecsv")
    changes = {"known_pixels": str(listed), "injections": 6000, "injection_flux_range": (3000.0, 8000.0)}
    night, _ = write_small_night(tmp_path, 5, (ny, nx), 4, changes=changes)
    trials = inject(night, characterize(night), Floors(120.0, 4.0)).trials
    dof = np.ma.filled(trials["dof"], 0)
    inner = (np.abs(trials["x"] - 63.5) < 61) & (np.abs(trials["y"] - 63.5) < 61) & ~np.ma.getmaskarray(trials["snr"])
    touched = np.mean(dof[inner.filled(False)] < 21)
    assert touched == pytest.approx(1 - 0.99**24, abs=0.03)
    assert 0.97 < trials["recovered_psf_chi2"].mean() < 0.995


def test_the_fake_stays():
    residual = np.random.default_rng(4).normal(0, 40, (300, 200))
    before = residual.copy()
    faked = put_fake(residual)
    np.testing.assert_array_equal(residual, before)
    assert faked[250, 150] == 300.0
    assert [faked[250 + dy, 150 + dx] for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1))] == [100.0] * 4
    assert (faked != residual).sum() == 5
    for x, y in ((0, 250), (199, 250), (150, 0), (150, 299), (500, 500)):
        with pytest.raises(ParametersError, match=f"x={x}, y={y}"):
            put_fake(residual, x, y)


@pytest.mark.parametrize("neighbors", [4, 8])
@pytest.mark.slow
def test_patches_are_searched_as_the_frame_is(neighbors):
    """Patches around every pixel of a frame full of ties and gaps have the leaders and stamps of the frame."""
    rng = np.random.default_rng(neighbors)
    shape = (23, 31)
    residual = rng.integers(0, 9, shape) * 40.0
    residual[rng.random(shape) < 0.05] = np.nan
    residual[10:14, 10:14] = 400.0
    y, x = (places.ravel() for places in np.mgrid[: shape[0], : shape[1]])
    reach = np.arange(7) - 3
    rows, columns = np.broadcast_arrays(y[:, None, None] + reach[:, None], x[:, None, None] + reach)
    around = cut_stamps(residual, y, x, radius=3)
    patches = Patches(rows, columns, np.zeros(around.shape, np.uint16), around, np.full(around.shape, 40.0))
    dark = SimpleNamespace(classes=SimpleNamespace(dq=np.zeros(shape, np.uint16)))
    found = detect_patches(dark, patches, "all", Floors(-np.inf, 4.0), Parameters(neighbors=neighbors))
    whole = find_leaders(residual, -np.inf, neighbors)
    stamps = cut_stamps(residual, whole["y"], whole["x"])
    assert (np.diff(found["star"]) >= 0).all()
    assert 100 < len(whole) < len(found)
    for star in range(len(x)):
        there = found[found["star"] == star]
        near = np.maximum(abs(whole["x"] - x[star]), abs(whole["y"] - y[star])) <= 1
        for name in ("x", "y", "peak", "neighbor_min"):
            np.testing.assert_array_equal(there[name], whole[name][near])
        np.testing.assert_array_equal(there["stamp"], stamps[near].astype(np.float32))
