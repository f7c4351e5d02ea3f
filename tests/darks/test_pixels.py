"""Pixel classes: found where the simulated camera has them, absent where it has not, silent where untestable."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from simulated import simulate_counts

from sla1tools.darks.classes import BLOCKING, MEANINGS, Evidence, PixelClass, classify
from sla1tools.darks.noise import fit_noise_model, pixel_statistics
from sla1tools.darks.telegraph import two_levels
from sla1tools.simulate.night import Star
from sla1tools.simulate.scores import truth_scores

SCALE = 1.39 / 16
CHANCE_CLASSES = ("metadata", "zero_variance", "saturated", "hot", "warm", "column_row", "noisy", "unstable")


def classes_of(counts, step=1, known=None, top_code=65535):
    statistics = pixel_statistics(counts)
    level = np.sort(counts, axis=0)[len(counts) // 2]
    model = fit_noise_model(level, statistics.variance, len(counts), scale=SCALE)
    parameters = SimpleNamespace(scale=SCALE, top_code=top_code)
    stack = SimpleNamespace(band=lambda a, b: counts[:, a:b], known=known, parameters=parameters)
    return classify(stack, Evidence(statistics, level, model, model.variance(level), step))


@cache
def camera_night(n=10):
    return simulate_counts(n, (384, 384), seed=5)


@cache
def camera_classes(n=10):
    return classes_of(camera_night(n).counts)


def flat_night(seed, n=10, shape=(256, 256), step=1):
    noise = np.random.default_rng(seed).standard_normal((n, *shape)) * 37
    return (np.rint((1300 + noise) / SCALE / step) * step).astype(np.uint16)


def flagged(classes, flag):
    return classes.dq & flag != 0


def test_every_bit_is_its_own_and_explained():
    assert [int(flag) for flag in PixelClass] == [1, 2, 4, 8, 16, 32, 64, 128, 512, 2048, 8192]
    assert set(MEANINGS) == set(PixelClass)
    assert (PixelClass.HOT, PixelClass.UNSTABLE, PixelClass.WARM) == (16, 32, 64)
    assert not BLOCKING & (PixelClass.EDGE | PixelClass.WARM | PixelClass.COLUMN_ROW | PixelClass.COSMIC_RAY)


# Ten frames limit the recall of noisy and telegraph pixels (`power`); two in 100 noisy ones look like two levels.
@pytest.mark.parametrize(
    ("name", "recall", "precision"),
    [
        ("metadata", 1, 1),
        ("zero_variance", 1, 1),
        ("saturated", 1, 1),
        ("column_row", 1, 1),
        ("hot", 0.95, 0.85),
        ("warm", 0.95, 0.95),
        ("noisy", 0.5, 0.95),
        ("unstable", 0.5, 0.7),
    ],
)
def test_finds_the_simulated_defects(name, recall, precision):
    scores = truth_scores(camera_classes().dq, camera_night().truth)
    (row,) = scores[scores["class"] == name]
    assert row["n_true"] > 0
    assert row["recall"] >= recall
    assert row["precision"] >= precision


def test_counts_are_those_of_the_planes():
    classes = camera_classes()
    assert classes.dq.dtype == np.uint16
    for flag in PixelClass:
        if flag is not PixelClass.COSMIC_RAY:
            assert classes.counts[flag.name.lower()] == np.count_nonzero(flagged(classes, flag))
    assert all(classes.tested.values())


@pytest.mark.slow
def test_gaussian_pixels_are_flagged_no_oftener_than_stated():
    """Twelve clean nights: at most one noisy and one unstable pixel a night by chance, and nothing else."""
    totals = dict.fromkeys(CHANCE_CLASSES, 0)
    for seed in range(12):
        classes = classes_of(flat_night(seed))
        for name in CHANCE_CLASSES:
            totals[name] += classes.counts[name]
        assert classes.expected_false["noisy"] == 1
        assert classes.expected_false["unstable"] <= 1
    assert totals["noisy"] <= 24
    assert totals["unstable"] <= 24
    assert totals["noisy"] + totals["unstable"] > 0
    assert sum(totals[name] for name in CHANCE_CLASSES[:-2]) <= 2


def test_a_glow_makes_no_warm_pixels():
    classes = classes_of(simulate_counts(8, (256, 256), seed=2, clean=True).counts)
    assert classes.counts["warm"] + classes.counts["hot"] <= 2
    assert classes.counts["column_row"] == 0
    assert classes.counts["metadata"] == 0


@pytest.mark.parametrize("flux", [1000, 5000, 20_000])
def test_a_flash_does_not_class_the_pixels_it_falls_on(flux):
    """Twelve flashes in one of ten frames: a self-included variance would call their pixels noisy."""
    places = [(20 + 18 * i, 30 + 13 * i) for i in range(12)]
    stars = [Star(flux, 2.0, x, y, frame=4) for y, x in places]
    counts = simulate_counts(10, (256, 256), seed=3, clean=True, stars=stars).counts
    classes = classes_of(counts)
    struck = tuple(np.array(places).T)
    assert not (classes.dq[struck] & (PixelClass.NOISY | PixelClass.UNSTABLE | PixelClass.HOT | PixelClass.WARM)).any()
    own = counts.var(axis=0, ddof=1)
    if flux > 1000:
        assert (own[struck] > 5 * np.median(own)).all()


def test_a_flash_in_two_frames_is_a_pixel():
    counts = flat_night(4)
    counts[2, 50, 60] += 6000
    counts[7, 50, 60] += 6000
    assert classes_of(counts).dq[50, 60] & (PixelClass.NOISY | PixelClass.UNSTABLE)


@pytest.mark.parametrize("n", [3, 4])
def test_few_frames_are_not_tested(n):
    classes = camera_classes(n)
    assert classes.tested["noisy"] is classes.tested["unstable"] is False
    assert classes.counts["noisy"] == classes.counts["unstable"] == 0
    assert classes.power == {}
    scores = truth_scores(classes.dq, camera_night(n).truth)
    assert (scores["recall"][np.isin(scores["class"], ["metadata", "saturated", "column_row"])] == 1).all()


def test_coarse_codes_repeat_by_chance_and_then_constancy_means_nothing():
    counts = flat_night(5, n=3, shape=(384, 384), step=64)
    counts[:, 9, 9], counts[:, 9, 19], counts[:, 9, 29] = 0, 65535, 12800
    by_chance = (counts.min(axis=0) == counts.max(axis=0)).sum() - 3
    classes = classes_of(counts, step=64)
    assert not classes.tested["zero_variance"]
    assert classes.expected_false["zero_variance"] == pytest.approx(by_chance, abs=5 * np.sqrt(by_chance))
    assert by_chance > 50
    assert classes.counts["zero_variance"] == 2
    fine = classes_of(flat_night(5, n=3))
    assert fine.tested["zero_variance"]
    assert fine.counts["zero_variance"] == 0


def test_two_levels_is_as_rare_as_it_says_whatever_the_noise():
    for n in (5, 10, 30):
        readings = np.random.default_rng(n).standard_normal((n, 50_000)) * np.geomspace(1, 100, 50_000)
        assert two_levels(readings).mean() == pytest.approx(0.02, rel=0.25)


def test_two_levels_needs_two_frames_on_each_side():
    readings = np.random.default_rng(1).standard_normal((10, 5000))
    once, twice = readings.copy(), readings.copy()
    once[3] += 100
    twice[3:5] += 100
    assert two_levels(once).mean() < 0.05
    assert two_levels(twice).all()


def test_power_is_what_simulated_pixels_show():
    n, rng = 10, np.random.default_rng(6)
    counts = flat_night(6, n)
    place = (slice(2, None, 16), slice(2, None, 16))
    struck = counts[0][place].shape
    up = rng.random((n, *struck)) < 0.3
    counts[(slice(None), *place)] += np.rint(5 * 37 / SCALE * up).astype(np.uint16)
    noisy_place = (slice(8, None, 16), slice(8, None, 16))
    counts[(slice(None), *noisy_place)] = np.rint((1300 + 3 * 37 * rng.standard_normal((n, *struck))) / SCALE)
    classes = classes_of(counts)
    error = 5 * 0.5 / np.sqrt(np.prod(struck))
    found = (classes.dq[place] & PixelClass.UNSTABLE != 0).mean()
    assert found == pytest.approx(classes.power["unstable"], abs=error)
    noisy = (classes.dq[noisy_place] & PixelClass.NOISY != 0).mean()
    assert noisy == pytest.approx(classes.power["noisy"], abs=error)
    assert classes.power["unstable_10_percent"] < 0.3 < classes.power["unstable"]


def test_edges_known_pixels_and_saturation():
    known = np.zeros((256, 256), bool)
    known[100, 7] = True
    counts = flat_night(7)
    counts[3, 40, 41] = 65535
    before = counts.copy()
    classes = classes_of(counts, known=known)
    assert classes.counts["edge"] == 256**2 - 252**2
    assert flagged(classes, PixelClass.EDGE)[:2].all()
    assert not flagged(classes, PixelClass.EDGE)[2:-2, 2:-2].any()
    np.testing.assert_array_equal(flagged(classes, PixelClass.KNOWN), known)
    np.testing.assert_array_equal(np.argwhere(flagged(classes, PixelClass.SATURATED)), [[40, 41]])
    assert classes_of(counts, top_code=60000).counts["saturated"] == 1
    np.testing.assert_array_equal(counts, before)


def test_a_bad_first_row_is_no_metadata():
    counts = flat_night(8)
    counts[:, 0] += 5000
    classes = classes_of(counts)
    assert classes.counts["metadata"] == 0
    assert flagged(classes, PixelClass.COLUMN_ROW)[0].all()
    counts = flat_night(8)
    counts[:, 0, :22] = np.random.default_rng(0).integers(0, 65536, (10, 22))
    classes = classes_of(counts)
    assert classes.counts["metadata"] == 22
    assert flagged(classes, PixelClass.METADATA)[0, :22].all()


@pytest.mark.slow
@pytest.mark.parametrize("size", [5, 22, 32])
@pytest.mark.parametrize("row", [0, -1])
@pytest.mark.parametrize("end", [1, -1])
def test_metadata_at_either_end_of_the_first_or_last_row(size, row, end):
    counts = flat_night(8)
    counts[:, row, ::end][:, :size] = np.random.default_rng(size).integers(0, 65536, (10, size))
    classes = classes_of(counts)
    assert classes.counts["metadata"] == size
    assert flagged(classes, PixelClass.METADATA)[row, ::end][:size].all()


def test_the_ramp_of_an_amplifier_is_no_metadata():
    counts = flat_night(8).astype(float)
    counts[:, :40, :40] += 30000 * np.exp(-np.add.outer(np.arange(40), np.arange(40)) / 8)
    counts[:, :, -30:] += 20000 * np.exp(-np.arange(30)[::-1] / 6)
    classes = classes_of(np.rint(counts).astype(np.uint16))
    assert classes.counts["metadata"] == 0


def test_odd_columns_and_rows_whole_and_a_noisy_one():
    counts = flat_night(9).astype(float)
    counts[:, :, 77] += 60 / SCALE
    counts[:, 33] -= 60 / SCALE
    counts[:, :, 150] += np.random.default_rng(9).normal(0, 50 / SCALE, counts[:, :, 150].shape)
    classes = classes_of(np.rint(counts).astype(np.uint16))
    lines = flagged(classes, PixelClass.COLUMN_ROW)
    assert lines[:, 77].all()
    assert lines[33].all()
    assert lines[:, 150].all()
    assert lines.sum() == 3 * 256 - 2
    assert flagged(classes, PixelClass.NOISY)[:, 150].all()
    assert flagged(classes, PixelClass.NOISY)[:, 77].sum() <= 1
    assert classes.counts["warm"] <= 1


@pytest.mark.parametrize("step", [1, 16])
def test_many_frames_make_no_odd_lines_of_rounding(step):
    """The median of 60 frames is good to a few counts: whole-count profiles all but agree, and their scatter is 0."""
    for seed in range(3):
        noise = np.random.default_rng(seed).standard_normal((60, 160, 160)) * 8 / SCALE
        counts = (np.rint((1300 / SCALE + noise) / step) * step).astype(np.uint16)
        assert classes_of(counts, step=step).counts["column_row"] == 0


def test_scores_of_nothing_are_not_numbers():
    night = simulate_counts(3, (32, 32), seed=1, clean=True)
    scores = truth_scores(np.zeros((32, 32), np.uint16), night.truth)
    assert (scores["n_true"] == 0).all()
    assert np.isnan(scores["recall"]).all()
    assert np.isnan(scores["precision"]).all()


@pytest.mark.parametrize("width", [1, 6, 64])
def test_a_narrow_frame_is_classed(width):
    classes = classes_of(flat_night(3, shape=(256, width)))
    assert classes.counts["metadata"] == 0
