"""Structure of the dark: known glow, columns, nonuniformity and drift are found again."""

import numpy as np
import pytest
from scipy import ndimage, stats

from sla1tools.darks.structure import (
    block_medians,
    deviation_histogram,
    frame_drift,
    frame_offsets,
    line_medians,
    smooth_level,
    spatial_variances,
    trend,
)


def test_smooth_level_follows_the_glow_and_ignores_pixels_and_columns():
    y, x = np.mgrid[:256, :256]
    glow = 15000 + 8000 * np.exp(-(y**2 + x**2) / (2 * 80.0**2))
    rng = np.random.default_rng(1)
    level = glow + rng.normal(0, 150, glow.shape)
    level[rng.random(level.shape) < 0.02] = 60000
    level[:, 100] += 3000
    counts = np.rint(level).astype(np.uint16)
    before = counts.copy()
    smooth = smooth_level(counts)
    assert smooth.dtype == np.float32
    assert np.abs(smooth - glow).max() < 400
    assert np.std(smooth - glow) < 60
    np.testing.assert_array_equal(counts, before)


@pytest.mark.parametrize("shape", [(64, 64), (100, 70), (5, 9), (33, 200)])
def test_smooth_level_of_a_plane_is_the_plane_between_block_centres(shape):
    y, x = np.mgrid[: shape[0], : shape[1]]
    plane = 100.0 + 3 * y - 2 * x
    smooth = smooth_level(plane, block=8)
    assert smooth.shape == shape
    inner = (slice(4, shape[0] // 8 * 8 - 4), slice(4, shape[1] // 8 * 8 - 4))
    np.testing.assert_allclose(smooth[inner], plane[inner], rtol=1e-5)


@pytest.mark.parametrize(("block_y", "block_x"), [(4, 4), (3, 5)])
def test_block_medians_are_medians_of_blocks(block_y, block_x):
    level = np.random.default_rng(2).integers(0, 65536, (26, 33), dtype=np.uint16)
    medians = block_medians(level, block_y, block_x)
    assert medians.shape == (26 // block_y, 33 // block_x)
    for j in range(medians.shape[0]):
        for i in range(medians.shape[1]):
            block = level[j * block_y : (j + 1) * block_y, i * block_x : (i + 1) * block_x]
            assert medians[j, i] == np.median(block)


@pytest.mark.parametrize("shape", [(8, 9), (9, 8)])
@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.float32])
def test_line_medians_are_medians(shape, kind):
    level = np.random.default_rng(3).integers(0, 30000, shape).astype(kind)
    level[0, 0] = level[0, 1] = np.iinfo(np.int16).max
    for axis in (0, 1):
        np.testing.assert_array_equal(line_medians(level, axis), np.median(level.astype(float), axis=axis))


def test_pairs_of_large_integers_do_not_wrap():
    assert line_medians(np.array([[60000, 65534]], np.uint16), 1)[0] == 62767


def test_spatial_variances_recover_rows_columns_and_pixels():
    found = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        shape, frames = (200, 300), 8
        fixed = 1300 + rng.normal(0, 6, (200, 1)) + rng.normal(0, 9, (1, 300)) + rng.normal(0, 12, shape)
        counts = fixed + rng.normal(0, 40, (frames, *shape))
        split = spatial_variances(counts.mean(axis=0), counts.var(axis=0, ddof=1), frames)
        assert split.total == pytest.approx(split.row + split.column + split.pixel)
        found.append([split.row, split.column, split.pixel])
    row, column, pixel = np.mean(found, axis=0)
    assert row == pytest.approx(36, rel=5 * np.sqrt(2 / 1600))
    assert column == pytest.approx(81, rel=5 * np.sqrt(2 / 2400))
    assert pixel == pytest.approx(144, rel=0.02)


def test_spatial_variances_of_noise_alone_are_about_zero():
    rng = np.random.default_rng(9)
    counts = 1300 + rng.normal(0, 40, (5, 200, 200))
    split = spatial_variances(counts.mean(axis=0), counts.var(axis=0, ddof=1), 5)
    assert abs(split.row) < 5 * 320 / 200 * np.sqrt(2 / 200)
    assert abs(split.pixel) < 5 * 320 * np.sqrt(2 / 40_000) * 2


def test_spatial_variances_leave_out_unusable_pixels():
    rng = np.random.default_rng(10)
    mean, variance = rng.normal(0, 12, (100, 100)), np.zeros((100, 100))
    usable = np.ones((100, 100), bool)
    clean = spatial_variances(mean, variance, 10)
    mean[0, :22], usable[0, :22] = 6e4, False
    assert spatial_variances(mean, variance, 10, usable).pixel == pytest.approx(clean.pixel, rel=0.02)
    assert spatial_variances(mean, variance, 10).pixel > 100 * clean.pixel


def test_deviation_histogram_counts_everyone_beside_a_gaussian():
    deviation = np.random.default_rng(11).normal(0, 12, 100_000)
    deviation[:50] = 500
    histogram = deviation_histogram(deviation, bins=200)
    assert histogram.pixels.sum() == 100_000
    assert histogram.sigma == pytest.approx(12, rel=0.02)
    assert histogram.pixels[-1] == 50
    assert histogram.gaussian[-1] < 1e-6
    bulk = histogram.gaussian > 50
    chi2 = ((histogram.pixels - histogram.gaussian)[bulk] ** 2 / histogram.gaussian[bulk]).sum()
    assert stats.chi2.sf(chi2, bulk.sum()) > 1e-4
    flat = deviation_histogram(np.zeros((3, 4)))
    assert flat.pixels.sum() == 12
    assert flat.gaussian.sum() == pytest.approx(12)


def drifting_night(offsets, n_pixels=20_000, seed=12, step=1):
    rng = np.random.default_rng(seed)
    level = rng.normal(15000, 300, n_pixels)
    reading = level + np.asarray(offsets, float)[:, None] + rng.normal(0, 420, (len(offsets), n_pixels))
    reading[:, rng.random(n_pixels) < 0.01] += 20_000 * (rng.random((len(offsets), 1)) < 0.5)
    return (np.rint(reading / step) * step).astype(np.uint16)


@pytest.mark.parametrize("step", [1, 16])
def test_offsets_are_found_finer_than_a_code(step):
    offsets = np.array([30.0, 12.5, 4.0, 0, 0, -3, -3, -5, -8, -9])
    sample = drifting_night(offsets, step=step)
    before = sample.copy()
    found, error = frame_offsets(sample, np.median(sample, axis=0))
    pulls = ((found - found.mean()) - (offsets - offsets.mean())) / error
    assert np.abs(pulls).max() < 4.5
    assert (error < 5).all()
    np.testing.assert_array_equal(sample, before)


def test_drift_table_gives_level_and_noise():
    sample = drifting_night(np.linspace(0, 50, 6))
    drift = frame_drift(sample, np.median(sample, axis=0))
    assert drift.colnames == ["frame", "level", "offset", "offset_error", "noise"]
    np.testing.assert_allclose(drift["noise"], 420, rtol=0.04)
    np.testing.assert_allclose(drift["level"], np.median(sample, axis=1))
    line = trend(drift["frame"], drift["offset"])
    assert line.slope == pytest.approx(10, abs=4 * 0.9)  # 420 counts over 20,000 pixels and six frames
    assert len(frame_drift(sample[:1], sample[0])) == 1


@pytest.mark.parametrize("step", [1, 16])
def test_each_frame_has_its_own_noise(step):
    """One frame of twice the noise: its neighbours in time stay as they are, and it is not shared out."""
    rng = np.random.default_rng(15)
    true = np.array([100.0, 100, 200, 100, 100, 100])
    sample = 15000 + rng.normal(0, 300, 40_000) + rng.normal(0, 1, (6, 40_000)) * true[:, None]
    sample = (np.rint(sample / step) * step).astype(np.uint16)
    np.testing.assert_allclose(frame_drift(sample, np.median(sample, axis=0))["noise"], true, rtol=0.03)


def test_noise_does_not_alternate_where_a_pattern_does():
    """Two groups whose column pattern differs: beside the next frame alone, every second noise was higher."""
    rng = np.random.default_rng(16)
    sample = 15000 + rng.normal(0, 100, (12, 30_000))
    sample[[2, 3, 6, 7, 10, 11]] += 150 * (np.arange(30_000) % 3 == 0)
    noise = frame_drift(np.rint(sample).astype(np.uint16), np.median(sample, axis=0))["noise"]
    assert np.ptp(noise) < 0.05 * noise.mean()


def test_trend_has_an_honest_error():
    rng = np.random.default_rng(13)
    x = np.arange(10)
    lines = [trend(x, 2.5 * x + rng.normal(0, 3, 10)) for _ in range(400)]
    pulls = np.array([(line.slope - 2.5) / line.error for line in lines])
    assert (np.abs(pulls) < stats.t.ppf(0.975, 8)).mean() == pytest.approx(0.95, abs=0.04)


def test_trend_needs_three_frames_that_differ():
    unknown = trend([-20, np.nan, -20.1, np.nan], [1.0, 2.0, 3.0, 4.0])
    assert np.isnan(unknown.slope)
    assert unknown.frames == 2
    assert np.isnan(trend([-20, -20, -20], [1.0, 2.0, 3.0]).slope)


def test_smooth_level_agrees_with_a_median_filter():
    """The slow equivalent, within what blocks can do."""
    rng = np.random.default_rng(14)
    level = ndimage.gaussian_filter(rng.normal(0, 1, (128, 128)), 30) * 3e4 + 15000 + rng.normal(0, 50, (128, 128))
    filtered = ndimage.median_filter(level, size=15)
    inner = (slice(8, -8), slice(8, -8))
    assert np.abs(smooth_level(level) - filtered)[inner].max() < 60
