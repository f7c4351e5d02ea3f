"""Noise model: exact sums, held-out sigmas that are what they say, on simulated Gaussian nights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from sla1tools.darks.noise import (
    fit_noise_model,
    leave_one_out_variance,
    median_variance,
    pixel_statistics,
    residual_factor,
)

SCALE = 1.39 / 16
LEVELS = (1000, 1400, 2000, 3000, 4000)
bands = hnp.arrays(
    np.uint16, st.tuples(st.integers(3, 12), st.integers(1, 3), st.integers(1, 4)), elements=st.integers(0, 65535)
)


def gaussian_night(seed, n, shape, electrons):
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((n, *shape)) * np.sqrt(electrons)
    return np.clip(np.rint((electrons + noise) / SCALE), 0, 65535).astype(np.uint16)


def zones(shape, levels=LEVELS):
    """Half the frame at the lowest level, an eighth at each of the others."""
    eighth = shape[1] // 8
    widths = [shape[1] - 4 * eighth, *[eighth] * 4]
    return np.broadcast_to(np.repeat(np.array(levels, float), widths), shape)


def model_of(counts, **options):
    statistics = pixel_statistics(counts)
    level = np.median(counts, axis=0)
    model = fit_noise_model(level, statistics.variance, len(counts), **options)
    return statistics, level, model


def held_out_ratios(counts, reference="leave_one_out", **options):
    """Residual over noise of every frame, the residual from the slow definition."""
    statistics, level, model = model_of(counts, **options)
    prior = model.variance(level)
    combine = np.mean if options.get("method") == "average" else np.median
    ratios = []
    for k, frame in enumerate(counts):
        compared = counts if reference == "all" else np.delete(counts, k, axis=0)
        sigma = model.held_out_sigma(frame, statistics.mean, statistics.variance, prior, reference)
        ratios.append((frame - combine(compared, axis=0)) / sigma)
    return np.array(ratios), model


@given(bands)
@settings(max_examples=60, deadline=None)
def test_statistics_are_numpys(band):
    before = band.copy()
    statistics = pixel_statistics(band)
    wide = band.astype(np.float64)
    np.testing.assert_allclose(statistics.mean, wide.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(statistics.variance, wide.var(axis=0, ddof=1), rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(statistics.minimum, band.min(axis=0))
    np.testing.assert_array_equal(statistics.maximum, band.max(axis=0))
    assert statistics.frames == len(band)
    assert statistics.mean.dtype == statistics.variance.dtype == np.float32
    np.testing.assert_array_equal(band, before)


def test_statistics_do_not_overflow_at_the_rail():
    band = np.full((200, 2, 3), 65535, np.uint16)
    band[0, 0, 0] = 0
    statistics = pixel_statistics(band)
    assert statistics.variance[0, 0] == pytest.approx(65535**2 / 200)
    assert (statistics.variance.ravel()[1:] == 0).all()


@given(bands)
@settings(max_examples=60, deadline=None)
def test_leave_one_out_variance_is_that_of_the_others(band):
    wide = band.astype(np.float64)
    mean, variance = wide.mean(axis=0), wide.var(axis=0, ddof=1)
    for k in range(len(band)):
        left = leave_one_out_variance(band[k], mean, variance, len(band))
        expected = np.delete(wide, k, axis=0).var(axis=0, ddof=1)
        np.testing.assert_allclose(left, expected, rtol=1e-6, atol=1e-4)
        single = leave_one_out_variance(band[k], mean.astype(np.float32), variance.astype(np.float32), len(band))
        assert single.dtype == np.float32
        np.testing.assert_allclose(single, expected, rtol=1e-5, atol=2e-6 * np.max(variance, initial=1) + 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 3, 4, 9, 10, 50, 199])
def test_variance_of_a_median(n):
    medians = np.median(np.random.default_rng(n).standard_normal((n, 40_000)), axis=0)
    assert median_variance(n) == pytest.approx(medians.var(), rel=5 * np.sqrt(2 / 40_000))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["median", "average"])
@pytest.mark.parametrize("reference", ["leave_one_out", "all"])
@pytest.mark.parametrize("n", [3, 4, 10, 11])
def test_variance_of_a_residual(n, reference, method):
    frames = np.random.default_rng(n).standard_normal((n, 60_000))
    combine = np.median if method == "median" else np.mean
    residual = frames[0] - combine(frames[1:] if reference == "leave_one_out" else frames, axis=0)
    assert residual_factor(n, method, reference) == pytest.approx(residual.var(), rel=5 * np.sqrt(2 / 60_000))


@pytest.mark.parametrize("n", [3, 5, 10, 50])
@pytest.mark.slow
def test_held_out_ratios_are_standard_at_every_level(n):
    """At N = 3 one degree of freedom is left: the level model carries the noise."""
    shape = (256, 512) if n < 50 else (96, 256)
    counts = gaussian_night(n, n, shape, zones(shape))
    ratios, model = held_out_ratios(counts)
    assert model.prior_dof > 100
    for level in LEVELS:
        own = ratios[:, zones(shape) == level]
        assert own.std() == pytest.approx(1, abs=0.02)
        assert 1.4826 * np.median(np.abs(own)) == pytest.approx(1, abs=0.02)
    for sigma in (3, 4):
        expected = 2 * stats.norm.sf(sigma) * ratios.size
        # A sigma 0.3 % off moves the 3-sigma share by 3 %.
        assert abs((np.abs(ratios) > sigma).sum() - expected) < 4 * np.sqrt(expected) + 0.03 * expected


def test_ratios_are_standard_on_a_chip_of_one_level():
    for seed in range(3):
        ratios, _ = held_out_ratios(gaussian_night(seed, 5, (200, 200), np.full((200, 200), 1300.0)))
        assert ratios.std() == pytest.approx(1, abs=0.02)
        assert 1.4826 * np.median(np.abs(ratios)) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("method", "reference"), [("average", "leave_one_out"), ("median", "all"), ("average", "all")])
def test_other_references_are_standard_too(method, reference):
    counts = gaussian_night(7, 10, (160, 256), zones((160, 256)))
    ratios, _ = held_out_ratios(counts, reference, method=method)
    assert ratios.std() == pytest.approx(1, abs=0.02)


def test_pixels_of_their_own_noise_set_the_prior():
    """Variances scattered as scaled inverse chi-square of 12: found again, and the ratio is Student's."""
    rng = np.random.default_rng(8)
    shape, n = (256, 256), 10
    variance = 1300 * 12 / rng.chisquare(12, shape)
    counts = np.rint((rng.standard_normal((n, *shape)) * np.sqrt(variance) + 1300) / SCALE).astype(np.uint16)
    ratios, model = held_out_ratios(counts)
    assert 9 < model.prior_dof < 16
    assert ratios.std() == pytest.approx(np.sqrt(20 / 18), abs=0.02)
    share = (np.abs(ratios) > 4).mean()
    assert share == pytest.approx(2 * stats.t.sf(4, 20), rel=0.25)
    assert share > 5 * 2 * stats.norm.sf(4)


@pytest.mark.parametrize(("n", "spike", "inflation"), [(10, 190, 1.9), (3, 190, 3.0), (10, 800, 6.9), (3, 800, 12.5)])
def test_a_spike_does_not_judge_itself(n, spike, inflation):
    """A spike in one frame, at 37 e- of noise: the pixel's own deviation swallows it, the others' does not."""
    shape = (128, 128)
    quiet = gaussian_night(9, n, shape, np.full(shape, 37.0**2))
    spiked = quiet.copy()
    spiked[0, 5::8, 5::8] += round(spike / SCALE)
    ratios, _ = held_out_ratios(spiked)
    others = np.median(np.delete(spiked, 0, axis=0), axis=0)
    own_deviation = spiked.std(axis=0, ddof=1)[5::8, 5::8]
    self_included = (spiked[0] - others)[5::8, 5::8] / (own_deviation * np.sqrt(residual_factor(n)))
    true_ratio = spike / (37 * np.sqrt(residual_factor(n)))
    assert ratios[0, 5::8, 5::8].mean() == pytest.approx(true_ratio, rel=0.1)
    assert np.median(own_deviation) / 37 * SCALE == pytest.approx(inflation, rel=0.1)
    assert self_included.mean() < 0.7 * true_ratio
    if n == 3:  # width 1, and yet it can never exceed this
        in_sample = (spiked - spiked.mean(axis=0)) / np.where(spiked.std(axis=0), spiked.std(axis=0), 1)
        assert in_sample.std() == pytest.approx(1, abs=0.01)
        assert in_sample.max() < 1.4143


def test_a_noisy_pixel_keeps_its_own_noise():
    shape = (128, 128)
    electrons = np.full(shape, 1300.0)
    counts = gaussian_night(10, 10, shape, electrons).astype(float)
    wild = (slice(None), slice(4, None, 16), slice(4, None, 16))
    counts[wild] += np.random.default_rng(10).normal(0, 5 * 36 / SCALE, counts[wild].shape)
    ratios, _ = held_out_ratios(np.rint(counts).astype(np.uint16))
    assert np.median(np.abs(ratios[wild])) * 1.4826 < 1.3


def test_pixels_above_all_levels_get_shot_noise():
    flat = gaussian_night(11, 10, (128, 128), np.full((128, 128), 1300.0))
    _, level, told = model_of(flat, scale=SCALE)
    _, _, untold = model_of(flat)
    bright = np.uint16(np.median(level) + 2000 / SCALE)
    assert told.variance(bright) * SCALE**2 == pytest.approx(3300, rel=0.06)
    assert untold.variance(bright) * SCALE**2 == pytest.approx(1300, rel=0.06)
    counts = gaussian_night(12, 10, (256, 256), zones((256, 256)))
    _, _, learned = model_of(counts)
    assert learned.variance(np.uint16(5000 / SCALE)) * SCALE**2 == pytest.approx(5000, rel=0.06)


def test_levels_are_rounded_and_cut():
    _, _, model = model_of(gaussian_night(13, 5, (64, 64), np.full((64, 64), 1300.0)))
    levels = np.array([-5.0, 15000.4, 99999.0])
    np.testing.assert_array_equal(model.variance(levels), model.lut[[0, 15000, 65535]])
    assert model.variance(levels).dtype == np.float32


def test_noise_map_is_that_of_a_held_out_residual_in_electrons():
    shape = (128, 256)
    statistics, level, model = model_of(gaussian_night(14, 10, shape, zones(shape)))
    noise = model.noise_map(statistics.variance, model.variance(level), SCALE)
    assert noise.dtype == np.float32
    for value in LEVELS:
        expected = np.sqrt(value * residual_factor(10))
        assert np.median(noise[zones(shape) == value]) == pytest.approx(expected, rel=0.02)


def test_gathered_pixels_have_the_sigma_of_the_whole_frame():
    counts = gaussian_night(15, 6, (64, 64), np.full((64, 64), 1300.0))
    statistics, level, model = model_of(counts)
    maps = (counts[2], statistics.mean, statistics.variance, model.variance(level))
    before = [values.copy() for values in maps]
    whole = model.held_out_sigma(*maps)
    place = np.random.default_rng(15).integers(0, 64, (2, 7, 5, 5))
    gathered = model.held_out_sigma(*(values[tuple(place)] for values in maps))
    np.testing.assert_array_equal(gathered, whole[tuple(place)])
    for values, copy in zip(maps, before, strict=True):
        np.testing.assert_array_equal(values, copy)


def test_constant_frames_have_quantisation_noise():
    _, level, model = model_of(np.full((3, 32, 32), 15000, np.uint16))
    assert model.variance(level) == pytest.approx(1 / 12)
