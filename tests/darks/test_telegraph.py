"""Telegraph pixels: levels, states and chance as planted; touching pairs tested against shuffled frames."""

import numpy as np
import pytest
from astropy.table import Table
from simulated import simulate_counts

from sla1tools.candidates.criteria import neighbor_ratio
from sla1tools.candidates.leaders import find_leaders
from sla1tools.candidates.rates import telegraph_expectation
from sla1tools.candidates.search import Stack
from sla1tools.darks.model import characterize
from sla1tools.darks.telegraph import jump_together, two_levels
from sla1tools.parameters import Parameters

SCALE = 1.39 / 16
NOISE = 37.0
SHAPE = (256, 256)


def parameters_of(shape=SHAPE, **changes):
    return Parameters(frame_shape=shape, **changes)


def planted(seed, n=10, height=8 * NOISE, duty=0.4, step=8):
    """A flat night with a telegraph pixel every few rows and columns; counts, and the states (N, ny, nx)."""
    rng = np.random.default_rng(seed)
    readings = 1300 + NOISE * rng.standard_normal((n, *SHAPE))
    states = np.zeros(readings.shape, bool)
    inner = states[:, 4:-4:step, 4:-4:step]
    inner[:] = rng.random(inner.shape) < duty
    return np.rint((readings + height * states) / SCALE).astype(np.uint16), states


def dark_of(counts, **changes):
    return characterize(Stack(parameters_of(counts.shape[1:], **changes), counts))


def random_states(rng, pixels, n, duty=0.3):
    """Listed states: two frames or more in either level."""
    states = rng.random((3 * pixels, n)) < duty
    up = states.sum(axis=1)
    return states[(up >= 2) & (up <= n - 2)][:pixels]


def listed(states, x, y):
    return Table({"x": x, "y": y, "up": states.sum(axis=1), "states": states})


def pairs_of(states):
    """The states as touching pairs, far from one another."""
    x = np.tile([0, 1], len(states) // 2)
    return listed(states, x, np.repeat(10 * np.arange(len(states) // 2), 2))


def test_levels_and_states_are_those_that_were_planted():
    counts, states = planted(1)
    dark = dark_of(counts)
    found = dark.classes.telegraph
    true = states.any(axis=0)
    own = found[true[found["y"], found["x"]]]
    assert len(own) > 0.9 * (states.sum(axis=0)[true] >= 2).sum()
    assert len(found) - len(own) <= 3, "one by chance is stated"
    right = own["states"] == states[:, own["y"], own["x"]].T
    assert right.mean() > 0.999
    np.testing.assert_array_equal(own["up"], own["states"].sum(axis=1))
    np.testing.assert_allclose(own["duty"], own["up"] / 10)
    for name, level, frames in (("low", 1300, 10 - own["up"]), ("high", 1300 + 8 * NOISE, own["up"])):
        pull = (own[name] - level) / (NOISE / np.sqrt(frames))
        assert abs(pull.mean()) < 4 / np.sqrt(len(own)) + 0.1
        assert pull.std() == pytest.approx(1, abs=0.15)
    plane = np.zeros(SHAPE, bool)
    plane[found["y"], found["x"]] = True
    np.testing.assert_array_equal(plane, dark.classes.dq & 32 != 0)


@pytest.mark.slow
@pytest.mark.parametrize("n", [6, 10])
def test_variance_and_split_of_gaussian_pixels_are_independent(n):
    """So that the product of their tails is the chance that is stated."""
    readings = np.random.default_rng(n).standard_normal((n, 400_000))
    variance = readings.var(axis=0, ddof=1)
    for tail in (0.1, 0.01):
        high = variance > np.quantile(variance, 1 - tail)
        both = np.count_nonzero(two_levels(readings) & high)
        assert both == pytest.approx(400_000 * tail * 0.02, rel=0.25)


@pytest.mark.slow
def test_chance_is_the_share_of_gaussian_pixels_that_look_so():
    """Over twelve sound nights: so many pixels as stated are listed at a chance below any value."""
    chances = []
    for seed in range(12):
        counts = np.rint((1300 + NOISE * np.random.default_rng(seed).standard_normal((10, *SHAPE))) / SCALE)
        chances += list(dark_of(counts.astype(np.uint16)).classes.telegraph["chance"])
    assert 3 <= len(chances) <= 24, "one a night is stated"
    # variance beyond 1 / (pixels x 0.02) and split beyond 0.02: chance is 1 / pixels at most
    assert max(chances) < 1.5 / (SHAPE[0] * SHAPE[1])
    assert min(chances) > 1e-4 / (SHAPE[0] * SHAPE[1])


@pytest.mark.parametrize("n", [3, 4])
def test_few_frames_list_none(n):
    counts, _ = planted(2, n)
    assert len(dark_of(counts).classes.telegraph) == 0


def test_p_value_of_pairs_is_that_of_shuffled_frames():
    rng = np.random.default_rng(3)
    found = pairs_of(random_states(rng, 40, 10))
    together = jump_together(found, SHAPE)
    assert together.pairs == 20
    states = np.asarray(found["states"])
    shuffled = [rng.permuted(states, axis=1) for _ in range(4000)]
    both = np.array([(one[::2] & one[1::2]).sum() for one in shuffled])
    assert together.expected == pytest.approx(both.mean(), abs=4 * both.std() / np.sqrt(4000))
    share = (both >= together.both_up).mean()
    assert together.p_value == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 4000) + 1e-3)


@pytest.mark.slow
def test_pixels_that_switch_alone_are_seldom_called_together():
    rng = np.random.default_rng(4)
    p_values = [jump_together(pairs_of(random_states(rng, 60, 10)), SHAPE).p_value for _ in range(400)]
    for level in (0.01, 0.05, 0.2):
        assert np.mean(np.array(p_values) < level) <= level + 3 * np.sqrt(level * (1 - level) / 400)


def test_power_is_what_pairs_that_switch_together_show():
    rng = np.random.default_rng(5)
    stated, seen = [], []
    for _ in range(200):
        states = random_states(rng, 24, 10)
        joined = rng.random(12) < 0.5
        states[1::2][joined] = states[::2][joined]
        together = jump_together(pairs_of(states), SHAPE)
        stated.append(together.power)
        seen.append(together.p_value < 0.01)
    assert 0.5 < np.mean(stated) < 0.99
    assert np.mean(seen) == pytest.approx(np.mean(stated), abs=0.12)


@pytest.mark.parametrize(("y", "x", "pairs"), [(0, 1, 1), (1, 0, 1), (1, 1, 1), (1, -1, 1), (0, 2, 0), (2, 0, 0)])
def test_pixels_touch_at_edges_and_corners_and_not_around_the_frame(y, x, pairs):
    states = random_states(np.random.default_rng(6), 4, 10)
    found = listed(states, np.array([5, 5 + x, 255, 0]), np.array([9, 9 + y, 20, 21]))
    assert jump_together(found, SHAPE).pairs == pairs


def test_no_pair_tells_nothing():
    none = jump_together(dark_of(planted(2, 3)[0]).classes.telegraph, SHAPE)
    assert (none.pairs, none.both_up, none.p_value, none.power) == (0, 0, 1.0, 0.0)
    assert "too few to test" in str(none)


@pytest.mark.slow
@pytest.mark.parametrize(("pairs", "words"), [(0, "too few to test"), (60, "and switch together")])
def test_pairs_of_the_simulated_camera_are_recovered(pairs, words):
    night = simulate_counts(16, (600, 600), seed=7, chip_seed=3, telegraph_pairs=pairs)
    found = dark_of(night.counts).classes.telegraph
    column = night.truth["x"][night.truth["kind"] == "column"][0]
    together = jump_together(found[found["x"] != column], (600, 600))
    assert words in str(together)
    assert (together.p_value < 1e-3) == (pairs > 0)
    assert together.pairs > 10 * together.by_chance or not pairs


@pytest.mark.parametrize("reference", ["leave_one_out", "all"])
@pytest.mark.parametrize("method", ["median", "average"])
@pytest.mark.slow
def test_candidates_on_telegraph_pixels_are_as_many_as_predicted(reference, method):
    """At cuts that noise beside the pixel passes often: 2 of the 4 neighbours switch, too."""
    cuts = {"threshold": 120.0, "ratio": 0.02, "reference": reference, "combination_method": method}
    predicted = seen = 0.0
    for seed in range(4):
        counts, states = planted(20 + seed)
        beside = np.roll(states, 1, axis=2) & (np.random.default_rng(seed).random((10, 1, 1)) < 0.8)
        counts = counts + np.rint(8 * NOISE / SCALE * beside).astype(np.uint16)
        dark = dark_of(counts, **cuts)
        listed = np.zeros(SHAPE, bool)
        listed[dark.classes.telegraph["y"], dark.classes.telegraph["x"]] = True
        predicted += 10 * telegraph_expectation(dark, parameters_of(**cuts))
        for frame in counts:
            leaders = find_leaders(dark.residual(frame, reference), 120.0)
            found = leaders[neighbor_ratio(leaders, threshold=120.0, ratio=0.02)]
            seen += listed[found["y"], found["x"]].sum()
    assert seen > 300
    assert seen == pytest.approx(predicted, abs=4 * np.sqrt(seen) + 0.03 * seen)
