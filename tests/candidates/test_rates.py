"""Rates: limits that cover, expectations that simulated noise meets, completeness that the physics demands."""

import numpy as np
import pytest
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import integrate, stats
from scipy.optimize import brentq
from small_nights import with_parameters, write_small_night

from sla1tools.candidates.criteria import CRITERIA, neighbor_ratio, psf_chi2
from sla1tools.candidates.detection import detect_night
from sla1tools.candidates.fit import fit_stamps
from sla1tools.candidates.leaders import cut_stamps, find_leaders
from sla1tools.candidates.matched_filter import greatest_snr
from sla1tools.candidates.psf import pixel_integrated_gaussian
from sla1tools.candidates.rates import (
    dispersed_limits,
    frame_area,
    gaussian_expectation,
    gaussian_peaks,
    poisson_rate,
    season_rate,
    upper_limit,
)
from sla1tools.candidates.rows import Floors
from sla1tools.darks.model import characterize
from sla1tools.injections.completeness import (
    FLUX_BINS,
    FluxLimit,
    bin_of_flux,
    completeness_curve,
    crossings,
    flux_bins,
    flux_limit,
)
from sla1tools.injections.injection import inject
from sla1tools.parameters import Parameters

FULL = (2048, 2048)


@pytest.mark.parametrize(
    ("count", "frames", "low", "high"),
    [
        (0, 1, 0.0, 2.9957),
        (0, 10, 0.0, 0.29957),
        (1, 1, 0.05129, 4.7439),
        (3, 1, 0.81769, 7.7537),
        (10, 5, 1.0851, 3.3924),
    ],
)
def test_poisson_limits_are_those_of_the_tables(count, frames, low, high):
    rate = poisson_rate(count, frames)
    assert (rate.count, rate.frames, rate.rate) == (count, frames, count / frames)
    assert rate.low == pytest.approx(low, rel=1e-4)
    assert rate.high == pytest.approx(high, rel=1e-4)
    assert rate.confidence == 0.95


def test_none_in_ten_frames_still_allows_288_a_night():
    assert round(poisson_rate(0, 10).high * Parameters().frames_per_night) == 288
    assert frame_area(FULL, 1.5) == pytest.approx(0.728, abs=1e-3)


def test_poisson_limits_have_their_definition_and_cover():
    counts = np.arange(60)
    high = upper_limit(counts)
    np.testing.assert_allclose(stats.poisson.cdf(counts, high), 0.05, rtol=1e-9)
    low = np.array([poisson_rate(int(count), 1).low for count in counts])
    np.testing.assert_allclose(stats.poisson.sf(counts[1:] - 1, low[1:]), 0.05, rtol=1e-9)
    for mean in (0.05, 0.7, 3.2, 12.0):
        seen = np.random.default_rng(7).poisson(mean, 4000)
        assert np.mean(upper_limit(seen) >= mean) >= 0.945, "at least 95 %, whatever the mean"
        assert np.mean(np.array([poisson_rate(int(count), 1).low for count in seen]) <= mean) >= 0.945


def exact_expectation(shape, sigma, threshold, ratio, neighbors):
    """The formula for one noise everywhere, by adaptive quadrature; edges and corners have fewer neighbours."""

    def one(number):
        def density(v):
            between = stats.norm.cdf(v / sigma) - stats.norm.cdf(ratio * v / sigma)
            return stats.norm.pdf(v / sigma) / sigma * between**number

        return integrate.quad(density, threshold, threshold + 12 * sigma, epsabs=0, epsrel=1e-10)[0]

    inner, edge = (shape[0] - 2) * (shape[1] - 2), 2 * (shape[0] + shape[1] - 4)
    there = (4, 3, 2) if neighbors == 4 else (8, 5, 3)
    return sum(pixels * one(number) for pixels, number in zip((inner, edge, 4), there, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sigma", "threshold", "ratio", "neighbors", "stated"),
    [
        (40, 200, 0.3, 4, 1.706e-5),
        (45, 100, 0.3, 4, 125.4),
        (40, 184, 0.1, 4, 0.0885),
        (40, 200, 0.3, 8, 2.513e-9),
        (37, 100, 0.0, 4, 890.9),
        (40, 80, 0.6, 8, None),
    ],
)
def test_gaussian_expectation_is_the_formula(sigma, threshold, ratio, neighbors, stated):
    found = gaussian_expectation(np.full(FULL, float(sigma)), threshold, ratio, neighbors)
    assert found == pytest.approx(exact_expectation(FULL, sigma, threshold, ratio, neighbors), rel=1e-9)
    if stated:
        assert found == pytest.approx(stated, rel=1e-3)


def test_gaussian_expectation_by_simulation():
    rng = np.random.default_rng(9)
    seen = 0
    for _ in range(12):
        leaders = find_leaders(rng.normal(0, 45, (700, 700)), 100.0)
        seen += neighbor_ratio(leaders, 100.0, 0.3).sum()
    expected = 12 * gaussian_expectation(np.full((700, 700), 45.0), 100.0, 0.3)
    assert 150 < expected < 200
    assert abs(seen - expected) < 3 * np.sqrt(expected)


def slow_expectation(noise, threshold, ratio):
    """The sum over pixels and their neighbours, each with its own noise, by the trapezoidal rule."""
    usable = np.isfinite(noise) & (noise > 0)
    total = 0.0
    for y, x in np.argwhere(usable):
        v = np.linspace(threshold, threshold + 9 * noise[y, x], 4001)
        density = stats.norm.pdf(v / noise[y, x]) / noise[y, x]
        for row, column in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= row < noise.shape[0] and 0 <= column < noise.shape[1] and usable[row, column]:
                sigma = noise[row, column]
                density *= stats.norm.cdf(v / sigma) - stats.norm.cdf(ratio * v / sigma)
        total += integrate.trapezoid(density, v)
    return total


@pytest.mark.slow
def test_gaussian_expectation_of_uneven_noise_is_the_sum_over_its_pixels():
    gentle = 40 + 0.3 * np.add.outer(np.arange(30), np.arange(20))
    found = gaussian_expectation(gentle, 150.0, 0.3)
    assert found == pytest.approx(slow_expectation(gentle, 150.0, 0.3), rel=5e-3), "steps of 1 % are fine enough"
    rough = np.random.default_rng(1).uniform(30, 55, (17, 16))
    rough[3, 3], rough[0, 2], rough[16, 15] = np.nan, 0.0, np.inf
    before = rough.copy()
    found = gaussian_expectation(rough, 100.0, 0.3)
    np.testing.assert_array_equal(rough, before)
    assert found == pytest.approx(slow_expectation(rough, 100.0, 0.3), rel=0.1), "neighbours unlike by half"


@pytest.mark.parametrize("neighbors", [4, 8])
@pytest.mark.slow
def test_simulated_nights_have_the_expected_false_alarms_in_every_cell(tmp_path, neighbors):
    """A level gradient, held out: thresholds from 2 sigma, every ratio."""
    night, _ = write_small_night(tmp_path, 10, (480, 460), 5, noise=37.0, glow=1100.0, changes={"threshold": 75.0})
    night = with_parameters(night, neighbors=neighbors)
    dark = characterize(night)
    leaders, _, floors = detect_night(night, dark)
    thresholds, ratios = np.arange(80.0, 260.0, 5.0), np.arange(0.0, 0.65, 0.05)
    assert floors.peak < 80
    noise = dark.level_sigma("leave_one_out")
    assert 1.3 < noise.max() / noise.min() < 1.5
    own = leaders[leaders["reference"] == "leave_one_out"]
    seen = np.array([[neighbor_ratio(own, high, ratio).sum() for ratio in ratios] for high in thresholds])
    expected = np.array(
        [[10 * gaussian_expectation(noise, high, ratio, neighbors) for ratio in ratios] for high in thresholds]
    )
    many = expected >= 20
    assert many.sum() > (70 if neighbors == 4 else 12)
    off = (seen - expected) / np.sqrt(expected)
    # neighbouring cells share their candidates, so few of them are independent; frames share their reference
    assert np.abs(off[many]).max() < 4.0
    assert np.sqrt(np.mean(off[many] ** 2)) < 2.0
    assert (seen <= stats.poisson.isf(1e-4, expected))[~many].all()


def noise_peaks(fwhm, side, seed, floor=4.0):
    """All fitted leaders of one frame of unit Gaussian noise, without a first look of their own."""
    noise = np.random.default_rng(seed).normal(0, 1, (side, side))
    leaders = find_leaders(noise, 0.0)
    stamps = cut_stamps(noise, leaders["y"], leaders["x"])
    some = greatest_snr(stamps, 1.0, np.isfinite(stamps), fwhm) > 0.85 * floor
    fits = fit_stamps(stamps[some], 1.0, np.isfinite(stamps[some]), fwhm)
    columns = {name: np.asarray(leaders[name])[some] for name in ("x", "y")}
    nothing = np.zeros(some.sum(), int)
    columns |= {"frame": nothing, "reference": nothing, "dq": nothing, "snr": fits["snr"], "p_value": fits["p_value"]}
    return Table(columns)


@pytest.mark.parametrize(
    ("fwhm", "low", "high"), [(1.2, 0.78, 1.02), (2.0, 0.78, 1.08), (3.0, 1.05, 1.6)], ids=["1.2 px", "2 px", "3 px"]
)
@pytest.mark.slow
def test_gaussian_peaks_are_those_of_simulated_noise(fwhm, low, high):
    """At 3 px a star does not fit into its stamp, and the formula is a third too low, as its notes say."""
    peaks = [noise_peaks(fwhm, 1024, seed) for seed in range(4)]
    for snr_min in (4.0, 4.5):
        seen = sum(psf_chi2(table, snr_min, 1e-3).sum() for table in peaks)
        expected = 4 * gaussian_peaks((1024, 1024), snr_min, fwhm)
        spread = 3 / np.sqrt(expected) if snr_min > 4 else 0
        print(f"FWHM {fwhm} px, S/N {snr_min}: {seen} peaks, {expected:.0f} expected, ratio {seen / expected:.2f}")
        assert low - spread < seen / expected < high + spread


def test_gaussian_peaks_scale_with_area_and_tend_to_the_smooth_field():
    assert gaussian_peaks((100, 200), 5.0, 2.0) == pytest.approx(2e4 / 2048**2 * gaussian_peaks(FULL, 5.0, 2.0))
    sigma = 2.5 / np.sqrt(8 * np.log(2))
    smooth = 5 * np.exp(-12.5) / (2 * np.pi) ** 1.5 / (2 * (sigma**2 + 1 / 12)) * 1e6  # pixels widen the filter
    assert gaussian_peaks((1000, 1000), 5.0, 2.5) == pytest.approx(smooth, rel=0.03)


def test_flux_bins_hold_both_ends():
    edges = flux_bins((300.0, 15000.0))
    assert len(edges) == FLUX_BINS + 1
    flux = np.array([300.0, 15000.0, edges[7], np.nextafter(edges[7], 0), 299.0, 20000.0])
    assert bin_of_flux(flux, edges).tolist() == [0, FLUX_BINS - 1, 7, 6, 0, FLUX_BINS - 1]


def test_a_curve_counts_and_its_wilson_intervals_cover():
    edges = flux_bins((300.0, 15000.0))
    flux = np.array([310.0, 310.0, 15000.0])
    curve = completeness_curve(flux, np.array([True, False, True]), edges)
    assert (curve["injected"].sum(), curve["recovered"].sum()) == (3, 2)
    assert curve["completeness"][0] == 0.5
    assert np.isnan(curve["completeness"][5])
    assert np.isnan(curve["low"][5])
    np.testing.assert_allclose((curve["low"][0], curve["high"][0]), (0.09453, 0.90547), atol=1e-5)
    np.testing.assert_allclose((curve["low"][-1], curve["high"][-1]), (0.20655, 1.0), atol=1e-5)
    rng, covered = np.random.default_rng(3), []
    center = np.sqrt(edges[1:] * edges[:-1])
    for share in (0.05, 0.3, 0.5, 0.9):
        found = np.concatenate([np.repeat(center, 100)] * 5)
        for _ in range(20):
            curve = completeness_curve(found, rng.random(len(found)) < share, edges)
            covered.append(np.mean((curve["low"] <= share) & (share <= curve["high"])))
    assert 0.935 < np.mean(covered) < 0.975


def sharp(flux):
    return 1 / (1 + (flux / 740.0) ** -8)


def slow(flux):
    return 0.8 / (1 + (flux / 1500.0) ** -3)


@pytest.mark.parametrize(
    ("curve", "level", "stars", "bias"),
    [(sharp, 0.5, 4000, 0.01), (sharp, 0.9, 4000, 0.02), (slow, 0.5, 4000, 0.03), (sharp, 0.5, 500, 0.03)],
)
@pytest.mark.slow
def test_the_interval_of_a_flux_covers_the_truth_and_the_flux_is_unbiased(curve, level, stars, bias):
    truth = brentq(lambda flux: curve(flux) - level, 300, 15000)
    edges, limits = flux_bins((300.0, 15000.0)), []
    for seed in range(240):
        rng = np.random.default_rng(seed)
        flux = 300 * 50 ** ((np.arange(stars) + rng.random(stars)) / stars)
        limits.append(flux_limit(completeness_curve(flux, rng.random(stars) < curve(flux), edges), level))
    covered = np.mean([(it.low or 0) <= truth <= (it.high or np.inf) for it in limits])
    assert covered >= 0.90
    assert np.median([it.flux for it in limits]) == pytest.approx(truth, rel=bias)
    width = np.median([np.log(it.high / it.low) for it in limits])
    assert width == pytest.approx(3.92 * np.std(np.log([it.flux for it in limits])), rel=0.35), (
        "no wider than it must be"
    )


def isotonic(values):
    """Pool adjacent violators, the textbook loop."""
    blocks = []
    for value in values:
        blocks.append([value, 1])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (a, n), (b, m) = blocks[-2:]
            blocks[-2:] = [[(a * n + b * m) / (n + m), n + m]]
    return np.concatenate([[mean] * number for mean, number in blocks])


@settings(max_examples=300, deadline=None)
@given(
    hnp.arrays(float, st.integers(2, 12), elements=st.sampled_from([0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.9, 1.0])),
    st.sampled_from([0.4531, 0.7013, 0.9507]),  # no mean of these shares, which rounding would put on either side
)
def test_crossings_are_those_of_the_isotonic_curve(curve, level):
    top = int(curve.argmax())
    rising = np.append(isotonic(curve[: top + 1]), [curve.max()] * (len(curve) - top - 1))
    x = np.arange(len(curve)) * 2.0
    (found,) = crossings(x, curve[None], level)
    up = np.flatnonzero((rising[:-1] < level) & (rising[1:] >= level))
    if len(up) == 0:
        assert np.isnan(found)
    else:
        i = up[0]
        assert found == pytest.approx(x[i] + 2 * (level - rising[i]) / (rising[i + 1] - rising[i]))


@pytest.mark.parametrize(
    ("curve", "crossing"),
    [
        ([0.6, 0.8, 1.0], np.nan),  # above the level from the first: where it rose lies below what was injected
        ([0.5, 0.8, 1.0], np.nan),  # at the level
        ([0.0, 0.2, 0.4], np.nan),
        ([0.0, 0.0, 0.0], np.nan),
        ([1.0, 1.0, 1.0], np.nan),
        ([0.0, 1.0, 1.0], 0.5),
        ([0.0, 0.4, 0.5], 2.0),  # reaches it
        ([0.0, 1.0, 0.0], 0.5),  # bright stars clip and are lost again
        ([0.7, 0.1, 1.0], 1.0 + 0.1 / 0.6),  # a lucky first bin is no crossing
    ],
)
def test_crossings_at_the_ends(curve, crossing):
    np.testing.assert_allclose(crossings(np.arange(3.0), np.array([curve, curve]), 0.5), [crossing, crossing])


def curve_of(injected, recovered):
    edges = flux_bins((300.0, 15000.0))[: len(injected) + 1]
    flux = np.sqrt(edges[1:] * edges[:-1])
    every = np.repeat(flux, injected)
    found = np.concatenate([np.arange(n) < k for n, k in zip(injected, recovered, strict=True)])
    return completeness_curve(every, found.astype(bool), edges)


@pytest.mark.parametrize(
    ("injected", "recovered"),
    [([0, 0, 0], [0, 0, 0]), ([5, 0, 0], [5, 0, 0]), ([9, 9, 9], [0, 0, 0])],
    ids=["nothing injected", "one bin", "none found"],
)
def test_no_crossing_is_none_and_never_nan(injected, recovered):
    limit = flux_limit(curve_of(injected, recovered), 0.5)
    assert limit.flux is None
    assert limit.low is None
    assert limit.high is None


def test_an_end_beyond_the_fluxes_injected_is_none():
    limit = flux_limit(curve_of([8, 8, 8, 8], [0, 1, 3, 5]), 0.5)
    assert limit.flux is not None
    assert limit.high is None
    gaps = flux_limit(curve_of([50, 0, 50, 0, 50], [0, 0, 20, 0, 50]), 0.5)
    assert gaps.low < gaps.flux < gaps.high
    assert flux_limit(curve_of([50, 50], [0, 50]), 0.5, seed=1) == flux_limit(curve_of([50, 50], [0, 50]), 0.5, seed=1)
    assert isinstance(gaps, FluxLimit)


def rule_completeness(fwhm, neighbors=4, number=4000, seed=1):
    """Share of noiseless stars, uniform in sub-pixel phase, that the observers' rule keeps."""
    dx, dy = np.random.default_rng(seed).uniform(-0.5, 0.5, (2, number))
    sky = np.zeros((9 * 64, 9 * -(-number // 64)))
    for i, star in enumerate(pixel_integrated_gaussian(dx, dy, fwhm, 7)):
        y, x = 9 * (i % 64), 9 * (i // 64)
        sky[y + 1 : y + 8, x + 1 : x + 8] = 1e6 * star
    leaders = find_leaders(sky, 200.0, neighbors)
    chosen = leaders[neighbor_ratio(leaders, 200.0, 0.3)]
    return len(np.unique(chosen["y"] // 9 * 10_000 + chosen["x"] // 9)) / number


@pytest.mark.parametrize(
    ("fwhm", "share"), [(1.4, 0.005), (1.6, 0.105), (1.8, 0.38), (2.0, 0.892), (2.03, 0.993), (2.04, 1.0), (2.5, 1.0)]
)
def test_what_the_observers_rule_costs_without_noise(fwhm, share):
    found = rule_completeness(fwhm)
    assert found == pytest.approx(share, abs=0.005 + 3 * np.sqrt(share * (1 - share) / 4000))
    if share == 1:
        assert found == 1


def test_eight_neighbours_pass_no_star_of_two_pixels():
    assert rule_completeness(2.0, neighbors=8) == 0
    assert rule_completeness(2.6, neighbors=8) > 0


@pytest.fixture(scope="module")
def gaussian_night(tmp_path_factory):
    """Ten frames of Gaussian noise, 37 e- a frame: 40 held out; and its model. The stars' image is known exactly."""
    changes = {"injections": 20_000, "injection_flux_range": (300.0, 6000.0)}
    changes |= {"psf_size_error": 0.0, "psf_shape_error": 0.0, "psf_light_error": 0.0}
    night, _ = write_small_night(tmp_path_factory.mktemp("night"), 10, (320, 320), 5, noise=37.0, changes=changes)
    dark = characterize(night)
    assert np.median(dark.level_sigma("leave_one_out")) == pytest.approx(40, rel=0.01)
    return night, dark


def limits_of(night, dark):
    trials = inject(night, dark, Floors.of(night.parameters, dark.median_noise)).trials
    edges, flux = flux_bins(night.parameters.injection_flux_range), np.asarray(trials["flux_true"])
    curves = {name: completeness_curve(flux, np.asarray(trials[f"recovered_{name}"]), edges) for name in CRITERIA}
    return curves, {name: flux_limit(curve, 0.5) for name, curve in curves.items()}


@pytest.mark.slow
def test_at_their_default_cuts_the_psf_finds_stars_of_less_than_half_the_flux(gaussian_night):
    night, dark = gaussian_night
    curves, limits = limits_of(night, dark)
    ratio, psf = (limits[name] for name in CRITERIA)
    alarms = gaussian_expectation(np.full(FULL, 40.0), 200.0, 0.3), gaussian_peaks(FULL, 6.0, 2.0)
    print(f"200 e-, 0.3: half at {ratio.flux:.0f} e- ({ratio.low:.0f} to {ratio.high:.0f}), {alarms[0]:.1e} a frame")
    print(f"S/N 6, 0.001: half at {psf.flux:.0f} e- ({psf.low:.0f} to {psf.high:.0f}), {alarms[1]:.1e} a frame")
    assert ratio.flux == pytest.approx(1960, rel=0.08)
    assert psf.flux == pytest.approx(740, rel=0.03)
    assert psf.flux <= 0.45 * ratio.flux
    assert flux_limit(curves["neighbor_ratio"], 0.9).flux is None, "the rule never reaches 90 %"
    assert flux_limit(curves["psf_chi2"], 0.9).flux < 1000
    bright = np.asarray(curves["psf_chi2"]["flux"]) > 1000
    assert (np.asarray(curves["psf_chi2"]["completeness"])[bright] > 0.97).all()


@pytest.mark.slow
def test_at_equal_false_alarms_the_psf_finds_stars_of_three_quarters_of_the_flux(gaussian_night):
    night, dark = gaussian_night
    snr_min = brentq(lambda cut: gaussian_peaks(FULL, cut, 2.0) - 0.1, 5, 6)
    threshold = brentq(lambda cut: gaussian_expectation(np.full(FULL, 40.0), cut, 0.1) - 0.1, 150, 220)
    assert threshold == pytest.approx(184, abs=2)
    _, limits = limits_of(with_parameters(night, threshold=threshold, ratio=0.1, snr_min=snr_min), dark)
    ratio, psf = (limits[name] for name in CRITERIA)
    print(f"0.1 a frame: {threshold:.0f} e-, 0.10: half at {ratio.flux:.0f} e-; S/N {snr_min:.2f}: {psf.flux:.0f} e-")
    assert ratio.flux == pytest.approx(1050, rel=0.05)
    assert psf.flux == pytest.approx(700, rel=0.03)
    assert psf.flux <= 0.75 * ratio.flux


def test_flux_below_the_faintest_injected_is_said_to_be_below():
    edges = flux_bins((300.0, 3000.0))
    flux = np.geomspace(300, 3000, 4000)
    curve = completeness_curve(flux, np.ones(4000, bool), edges)
    limit = flux_limit(curve, 0.5)
    assert (limit.flux, limit.low) == (None, None)
    assert limit.high == curve["flux"][0]


def drawn_seasons(rng, rate, spread, nights, seasons=1000):
    """Alarms and frames of seasons whose nights' rates lie evenly in the logarithm over a factor of `spread`."""
    frames = rng.integers(8, 21, (seasons, nights))
    factor = spread ** rng.uniform(-0.5, 0.5, (seasons, nights))
    mean = (spread**0.5 - spread**-0.5) / np.log(spread) if spread > 1 else 1.0
    return rng.poisson(rate * factor / mean * frames), frames


@pytest.mark.parametrize("nights", [6, 20, 60])
@pytest.mark.parametrize("spread", [1, 3])
def test_each_limit_of_a_season_holds_whether_nights_are_alike_or_differ(nights, spread):
    for rate in (0.02, 0.1, 0.3, 1.0):
        rng = np.random.default_rng(int(1000 * rate) + nights + spread)
        counts, frames = drawn_seasons(rng, rate, spread, nights)
        low, high = dispersed_limits(
            counts.sum(axis=1), frames.sum(axis=1), (counts**2 / frames).sum(axis=1), np.full(len(counts), nights)
        )
        assert np.mean(high >= rate) >= 0.93
        assert np.mean(low <= rate) >= 0.93


def test_poissons_own_limits_would_not_hold_where_nights_differ():
    """What the dispersion is for: the test above can fail."""
    counts, frames = drawn_seasons(np.random.default_rng(3), 1.0, 3, 20)
    assert np.mean(upper_limit(counts.sum(axis=1)) / frames.sum(axis=1) >= 1.0) < 0.93


def test_limits_of_a_season_are_poissons_where_its_nights_could_not_be_more_alike():
    one, many = season_rate([3], [10]), season_rate([1] * 400, [10] * 400)
    assert (one.low, one.high) == pytest.approx((poisson_rate(3, 10).low, poisson_rate(3, 10).high))
    assert (one.nights, one.dispersion_p) == (1, None)
    assert many.high == pytest.approx(poisson_rate(400, 4000).high, rel=1e-3)
    none = season_rate([0, 0, 0], [10, 10, 10])
    assert (none.rate, none.low, none.dispersion_p) == (0.0, 0.0, None)
    assert none.high > poisson_rate(0, 30).high, "three nights say little of how nights differ"


@pytest.mark.parametrize(("nights", "rate"), [(6, 0.02), (20, 0.05), (20, 1.0), (250, 0.02)])
@pytest.mark.slow
def test_nights_that_are_alike_are_seldom_said_to_differ(nights, rate):
    counts, frames = drawn_seasons(np.random.default_rng(nights), rate, 1, nights, 400)
    chance = [season_rate(c, f).dispersion_p for c, f in zip(counts, frames, strict=True)]
    assert np.mean([p is not None and p < 0.01 for p in chance]) < 0.025
    counts, frames = drawn_seasons(np.random.default_rng(1), 1.0, 9, 40, 50)
    assert np.mean([season_rate(c, f).dispersion_p < 0.01 for c, f in zip(counts, frames, strict=True)]) > 0.95
