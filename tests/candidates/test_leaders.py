import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from observers_rule import find_candidates
from observers_rule import find_leaders as find_leaders_slowly

from sla1tools.candidates.criteria import neighbor_ratio
from sla1tools.candidates.leaders import caption, cut_stamps, find_leaders

# few distinct values make ties, plateaus and exact 0.3 quotients common
few_values = st.sampled_from([-60.0, -3.0, 0.0, 30.0, 60.0, 90.0, 100.0, 200.0, 300.0, 1000.0, float("nan")])
shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=8)
residuals = st.one_of(
    hnp.arrays(np.float64, shapes, elements=few_values),
    hnp.arrays(np.float64, shapes, elements=st.floats(-1e4, 1e4, width=32)),
)


def as_rows(leaders):
    return [(row["x"], row["y"], row["peak"]) for row in leaders]


@settings(max_examples=400, deadline=None)
@given(
    residuals, st.sampled_from([-100.0, 0.0, 20.0, 99.0, 100.0, 200.0]), st.sampled_from([0.0, 0.1, 0.3, 1 / 3, 1.0])
)
@pytest.mark.parametrize("neighbors", [4, 8])
@pytest.mark.slow
def test_leaders_and_candidates_are_the_observers(neighbors, residual, threshold, ratio):
    before = residual.copy()
    leaders = find_leaders(residual, threshold, neighbors)
    assert as_rows(leaders) == find_leaders_slowly(residual, threshold, neighbors)
    chosen = leaders[neighbor_ratio(leaders, threshold, ratio)]
    if threshold >= 0:  # the rule's quotient only has a meaning above zero
        assert as_rows(chosen) == find_candidates(residual, threshold, ratio, neighbors)
    np.testing.assert_array_equal(residual, before)


@settings(max_examples=200, deadline=None)
@given(residuals, st.floats(0, 300), st.floats(0, 300), st.floats(0, 1), st.floats(0, 1))
def test_a_lower_cut_never_loses_a_candidate(residual, threshold_a, threshold_b, ratio_a, ratio_b):
    leaders = find_leaders(residual, 0.0)
    strict = neighbor_ratio(leaders, max(threshold_a, threshold_b), max(ratio_a, ratio_b))
    loose = neighbor_ratio(leaders, min(threshold_a, threshold_b), min(ratio_a, ratio_b))
    assert not (strict & ~loose).any()


def test_leaders_of_noise_are_the_observers():
    residual = np.random.default_rng(1).normal(0, 40, (150, 211))
    leaders = find_leaders(residual, 50.0)
    assert as_rows(leaders) == find_leaders_slowly(residual, 50.0)
    assert len(leaders) > 1000


def test_integer_counts_lead_as_their_scaled_values_do():
    counts = np.random.default_rng(2).integers(-500, 5000, (60, 70))
    whole = find_leaders(counts, 2300)
    scaled = find_leaders(counts * (1.39 / 16), 2300 * (1.39 / 16))
    np.testing.assert_array_equal(whole["x"], scaled["x"])
    np.testing.assert_array_equal(whole["y"], scaled["y"])


def test_the_observers_fake_is_found_and_nothing_else_changes():
    residual = np.random.default_rng(3).normal(0, 30, (400, 300))
    before = find_leaders(residual, 200.0)
    injected = residual.copy()
    for x, y, value in [(150, 250, 300), (149, 250, 100), (151, 250, 100), (150, 249, 100), (150, 251, 100)]:
        injected[y, x] = value
    after = find_leaders(injected, 200.0)
    chosen = after[neighbor_ratio(after, 200.0, 0.3)]
    assert as_rows(chosen) == [(150, 250, 300.0)]
    assert len(after) == len(before) + 1
    assert caption(150, 250, 300.0, residual.shape).startswith("x=148:152, y=248:252 around Pixel(x=150")


@settings(max_examples=200, deadline=None)
@given(hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9), st.randoms(use_true_random=False))
def test_stamps_are_slices_where_whole_and_filled_beyond(shape, random):
    image = np.arange(shape[0] * shape[1], dtype=float).reshape(shape)
    y, x = random.randrange(shape[0]), random.randrange(shape[1])
    (stamp,) = cut_stamps(image, [y], [x])
    padded = np.pad(image, 2, constant_values=np.nan)
    np.testing.assert_array_equal(stamp, padded[y : y + 5, x : x + 5])


def test_no_leader_gives_an_empty_table():
    leaders = find_leaders(np.zeros((4, 5)), 1.0)
    assert len(leaders) == 0
    assert leaders.colnames == ["x", "y", "peak", "neighbor_min"]
    assert cut_stamps(np.zeros((4, 5)), leaders["y"], leaders["x"]).shape == (0, 5, 5)
