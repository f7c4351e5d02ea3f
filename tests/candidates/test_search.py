"""A frame from outside the stack: measured as a frame that was left out, with the noise that such a frame has."""

import numpy as np
import pytest
from simulated import simulate_counts
from small_nights import with_parameters, write_small_night

from sla1tools import Darks, neighbor_ratio, psf_chi2
from sla1tools.candidates.detection import detect_night
from sla1tools.candidates.rates import gaussian_expectation
from sla1tools.candidates.rows import LEADER_COLUMNS
from sla1tools.darks.classes import PixelClass
from sla1tools.darks.model import characterize
from sla1tools.darks.structure import smooth_level
from sla1tools.errors import ParametersError
from sla1tools.simulate.night import Star

SCALE = 1.39 / 16


@pytest.fixture(scope="module")
def two_nights():
    """Ten darks of noise alone with a glow, and ten more of the same chip."""
    counts = np.stack([*simulate_counts(20, (256, 256), 5, clean=True).counts])
    return counts[:10], counts[10:]


@pytest.mark.parametrize("method", ["median", "average"])
@pytest.mark.parametrize("frames", [5, 6])
def test_a_frame_left_out_is_measured_as_in_its_night(tmp_path, frames, method):
    stars = [Star(3000.0, 2.0, 30.3, 40.1, frame=1), Star(9000.0, 2.0, 0.2, 95.4, frame=2)]
    capture, _ = write_small_night(tmp_path, frames, (96, 112), 3, clean=False, noise=37.0, stars=stars)
    capture = with_parameters(capture, combination_method=method)
    dark = characterize(capture)
    leaders, _, floors = detect_night(capture, dark)
    counts = capture.band(0, 96)
    for k in (1, 2):
        own = leaders[(leaders["frame"] == capture.names[k]) & (leaders["reference"] == "leave_one_out")]
        darks = Darks(np.delete(counts, k, axis=0), SCALE, combination_method=method)
        found = darks.search(counts[k], threshold=floors.peak)
        assert found.colnames == [*LEADER_COLUMNS, "stamp"]
        bright = [table[table["peak"] > floors.peak] for table in (own, found)]
        assert len(bright[0]) > 10
        for name in ("x", "y", "peak", "neighbor_min"):
            np.testing.assert_array_equal(*(table[name] for table in bright))
        hits = [table["dq"] & PixelClass.COSMIC_RAY for table in bright]
        assert hits[0].any()
        np.testing.assert_array_equal(*hits)
        held = dark.sigma(counts[k], np.s_[:, :], "leave_one_out")
        assert abs(np.median(darks.sigma(counts[k]) / held) - 1) < 0.02


def test_the_noise_is_that_of_one_frame_and_of_the_master(two_nights):
    """Width 1 at every level; the held-out noise of a stack's own frames would be 1.2 % too wide."""
    stack, outside = two_nights
    darks = Darks(stack, SCALE)
    scaled = np.stack([darks.residual(frame) / darks.sigma(frame) for frame in outside])
    for pixels in np.array_split(np.argsort(smooth_level(darks.model.master), axis=None), 4):
        values = scaled.reshape(10, -1)[:, pixels]
        assert abs(values.std() - 1) < 0.02
        assert abs(1.4826 * np.median(np.abs(values - np.median(values))) - 1) < 0.02
    assert abs(scaled.std() - 1) < 0.006
    by_level = np.stack([darks.residual(frame) for frame in outside]) / darks.model.level_sigma("outside")
    assert abs(by_level.std() - 1) < 0.006


def test_noise_alone_makes_as_many_candidates_as_the_gaussian_expectation(two_nights):
    stack, outside = two_nights
    darks = Darks(stack, SCALE)
    for threshold, ratio in ((100.0, 0.0), (90.0, 0.1)):
        rows = [darks.search(frame, threshold=threshold) for frame in outside]
        count = sum(int(neighbor_ratio(leaders, threshold, ratio).sum()) for leaders in rows)
        expected = 10 * gaussian_expectation(darks.model.level_sigma("outside"), threshold, ratio)
        assert expected > 100
        assert abs(count - expected) < 3 * np.sqrt(expected)


def test_a_flash_of_the_next_frame_is_measured():
    stars = [Star(5000.0, 2.0, 30.3, 40.1, frame=5)]
    counts = np.stack([*simulate_counts(6, (96, 96), 7, clean=True, glow=0.0, stars=stars).counts])
    found = Darks(list(counts[:5]), SCALE).search(counts[5])
    (star,) = found[psf_chi2(found, 10.0, 1e-3)]
    assert (star["x"], star["y"], star["reference"]) == (30, 40, "outside")
    assert abs(star["flux"] - 5000) < 500
    assert np.hypot(star["x_fit"] - 30.3, star["y_fit"] - 40.1) < 0.1


def test_a_pixel_that_saturates_only_now_is_flagged_and_leaves_the_fit():
    counts = np.stack([*simulate_counts(6, (64, 64), 7, clean=True, glow=0.0).counts])
    counts[5, 20, 30] = 65535
    found = Darks(counts[:5], SCALE).search(counts[5])
    (row,) = found[found["peak"] > 3000]
    assert row["dq"] & PixelClass.SATURATED
    assert not psf_chi2(found, 4.0, 0.0)[found["peak"] > 3000].any()


def test_nothing_given_is_changed_and_the_same_frame_gives_the_same_table(two_nights):
    stack, outside = two_nights[0].copy(), two_nights[1][0].copy()
    darks = Darks(stack, SCALE)
    first, second = darks.search(outside), darks.search(outside.astype(float))
    np.testing.assert_array_equal(stack, two_nights[0])
    np.testing.assert_array_equal(outside, two_nights[1][0])
    assert list(first["peak"]) == list(second["peak"])


def test_settings_are_the_parameters(two_nights):
    stack, outside = two_nights
    eight = Darks(stack, SCALE, neighbors=8).search(outside[0])
    assert 0 < len(eight) < len(Darks(stack, SCALE).search(outside[0]))
    with pytest.raises(ParametersError, match="neighbours: there is no such parameter; did you mean neighbors"):
        Darks(stack, SCALE, neighbours=8)
    with pytest.raises(ParametersError, match="scale_due_to_gain"):
        Darks(stack, -1.0)


@pytest.mark.parametrize(
    ("stack", "message"),
    [
        (np.zeros((2, 8, 8), np.uint16), "2 frames; noise and reference need at least 3"),
        (np.zeros((8, 8), np.uint16), r"an array \(N, rows, columns\) of raw counts; its shape is \[8, 8\]"),
        (np.full((4, 8, 8), 0.5), "whole numbers from 0 to 65535, not yet scaled"),
        (np.full((4, 8, 8), np.nan), "whole numbers"),
        (np.full((4, 8, 8), -1), "whole numbers"),
        (np.full((4, 8, 8), "1"), "whole numbers"),
        ([np.zeros((8, 8)), np.zeros((8, 9)), np.zeros((8, 8))], "of different shapes"),
    ],
    ids=["two", "plane", "scaled", "nan", "negative", "text", "shapes"],
)
def test_a_stack_that_is_none_is_refused(stack, message):
    with pytest.raises(ParametersError, match=message):
        Darks(stack, SCALE)


def test_a_frame_of_another_shape_is_refused(two_nights):
    darks = Darks(two_nights[0], SCALE)
    with pytest.raises(ParametersError, match=r"frame: its shape is \[256, 255\], that of the darks \[256, 256\]"):
        darks.search(two_nights[1][0][:, 1:])
    assert len(repr(darks).splitlines()) == 1
