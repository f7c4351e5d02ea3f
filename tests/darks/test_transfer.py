"""Photon transfer: gain and pedestal of simulated cameras, and the honesty of their errors."""

import numpy as np
import pytest
from scipy import stats
from simulated import simulate_counts

from sla1tools.darks.transfer import photon_transfer
from sla1tools.darks.variance import variance_ratio_isf, variance_ratio_ppf

GAIN = 1.39 / 16


def glowing_night(
    seed, n=10, shape=(128, 128), gain=GAIN, pedestal=0.0, read_noise=3.0, glow=1100.0, dsnu=20.0, step=1
):
    """Counts of a night whose dark current is smooth, with a fixed pattern of offsets that carry no shot noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]] / np.array(shape)[:, None, None]
    dark = 1300 + glow * np.exp(-(y**2 + x**2) / 0.2)
    offset = rng.normal(0, dsnu, shape)
    signal = dark + offset + rng.standard_normal((n, *shape)) * np.sqrt(dark + read_noise**2)
    return (np.rint((signal / gain + pedestal) / step) * step).astype(np.uint16)


def transfer_of(counts):
    return photon_transfer(np.median(counts, axis=0), counts.var(axis=0, ddof=1), len(counts))


@pytest.mark.parametrize("n", [3, 5, 10, 30])
@pytest.mark.parametrize("gain", [GAIN, 0.25])
def test_recovers_the_gain(n, gain):
    shape = (512, 512) if n < 10 else (256, 256)
    transfer = transfer_of(glowing_night(n, n, shape, gain=gain))
    assert transfer.can_tell
    assert transfer.gain == pytest.approx(gain, rel=0.05)
    assert transfer.gain_error < 0.03 * gain
    assert transfer.agrees_with(gain)
    assert not transfer.agrees_with(1.25 * gain)
    assert not transfer.agrees_with(gain / 16)


def test_intervals_cover_as_often_as_they_say():
    transfers = [transfer_of(glowing_night(100 + seed, 8, (96, 96))) for seed in range(60)]
    told = [transfer for transfer in transfers if transfer.can_tell]
    assert len(told) >= 55
    covered = sum(transfer.agrees_with(GAIN) for transfer in told)
    low, high = stats.binom.ppf([0.001, 0.9999], len(told), 0.95)
    assert low <= covered <= high
    pulls = np.array([(transfer.slope - 1 / GAIN) / transfer.slope_error for transfer in told])
    assert 0.7 < pulls.std() < 1.3
    assert abs(pulls.mean()) < 4 / np.sqrt(len(told))


def test_pedestal_and_read_noise_are_one_intercept():
    """A pedestal of 4000 counts and no read noise, no pedestal and 30 e-: each is found under its own assumption."""
    with_pedestal = transfer_of(glowing_night(1, 20, (256, 256), pedestal=4000.0, read_noise=0.0))
    assert with_pedestal.pedestal == pytest.approx(4000, abs=4 * with_pedestal.pedestal_error)
    assert with_pedestal.pedestal_error < 800
    assert with_pedestal.intercept < 0
    with_read_noise = transfer_of(glowing_night(2, 20, (256, 256), read_noise=30.0))
    assert with_read_noise.gain * np.sqrt(with_read_noise.intercept) == pytest.approx(30, abs=4)
    assert with_read_noise.pedestal < 0
    both = transfer_of(glowing_night(3, 20, (256, 256), pedestal=4000.0, read_noise=20.0))
    assert both.pedestal < 4000 - 2 * both.pedestal_error


def test_pixels_with_telegraph_noise_do_not_move_the_gain():
    counts = glowing_night(4, 10, (256, 256)).astype(float)
    rng = np.random.default_rng(4)
    struck = rng.random(counts.shape[1:]) < 0.02
    counts[:, struck] += 6000 * (rng.random((10, struck.sum())) < 0.4)
    assert transfer_of(counts).gain == pytest.approx(GAIN, rel=0.05)


def test_grouping_by_the_noisy_level_would_flatten_the_slope():
    """The trap that the neighbours' level avoids: on a gentle slope a pixel's own noise decides its group."""
    counts = glowing_night(5, 3, (512, 512), glow=120.0, dsnu=0.0)
    level, variance = np.median(counts, axis=0), counts.var(axis=0, ddof=1)
    by_own_level = np.polyfit(level.ravel(), variance.ravel(), 1)[0]
    transfer = photon_transfer(level, variance, 3)
    assert abs(by_own_level - 1 / GAIN) > 0.3 / GAIN
    assert abs(transfer.slope - 1 / GAIN) < 4 * transfer.slope_error


def test_cannot_tell_from_one_level():
    transfer = transfer_of(glowing_night(6, 10, glow=0.0))
    assert not transfer.can_tell
    assert np.isnan([transfer.gain, transfer.gain_error, transfer.pedestal]).all()
    assert transfer.agrees_with(GAIN) is None
    assert "no gain" in transfer.reason
    assert len(transfer.level) == len(transfer.variance) == len(transfer.error) > 3


def test_cannot_tell_from_constant_frames():
    transfer = photon_transfer(np.full((64, 64), 15000.0), np.zeros((64, 64)), 5)
    assert not transfer.can_tell
    assert "distinguishable" in transfer.reason
    assert np.isnan([transfer.slope, transfer.slope_error, transfer.intercept]).all()


def test_cannot_tell_from_levels_that_all_but_agree():
    """Sixty padded frames of a flat chip: the groups' levels differ by hundredths of a count."""
    noise = np.random.default_rng(10).standard_normal((60, 160, 160)) * 8
    counts = np.rint((1300 + noise) / GAIN / 16) * 16
    transfer = transfer_of(counts)
    assert not transfer.can_tell
    level = 14952 + 1e-3 * np.random.default_rng(11).random((160, 160))
    alike = photon_transfer(level, counts.var(axis=0, ddof=1), 60)
    assert not alike.can_tell
    assert np.isnan(alike.slope), "thousandths of a count are no lever: no slope of 1e13"


def test_coarse_counts_make_no_difference():
    assert transfer_of(glowing_night(7, 10, (256, 256), step=16)).gain == pytest.approx(GAIN, rel=0.05)


def test_arguments_stay_as_they_are():
    counts = glowing_night(8, 5)
    level, variance = np.median(counts, axis=0), counts.var(axis=0, ddof=1)
    before = level.copy(), variance.copy()
    photon_transfer(level, variance, 5)
    np.testing.assert_array_equal(level, before[0])
    np.testing.assert_array_equal(variance, before[1])


@pytest.mark.parametrize("dof", [1, 2, 9, 49])
def test_variance_ratios_are_chi_square_and_f(dof):
    for p in (0.5, 1e-3, 2.4e-7):
        assert variance_ratio_isf(p, dof) == pytest.approx(stats.chi2.isf(p, dof) / dof, rel=1e-9)
        assert variance_ratio_isf(p, dof, 20.0) == pytest.approx(stats.f.isf(p, dof, 20), rel=1e-6)
    assert variance_ratio_ppf(0.25, dof) == pytest.approx(stats.chi2.ppf(0.25, dof) / dof)
    assert variance_ratio_ppf(0.25, dof, 20.0) == pytest.approx(stats.f.ppf(0.25, dof, 20))


def test_levels_in_steps_bias_nothing():
    """Groups that straddle a step hold two levels and two variances, whose medians do not belong together."""
    rng = np.random.default_rng(9)
    dark = np.broadcast_to(np.repeat([1000.0, 1400, 2000, 3000, 4000], [256, 64, 64, 64, 64]), (256, 512))
    counts = np.rint((dark + rng.standard_normal((10, 256, 512)) * np.sqrt(dark)) / GAIN).astype(np.uint16)
    transfer = transfer_of(counts)
    assert transfer.gain_error < 0.007 * GAIN
    assert transfer.gain == pytest.approx(GAIN, rel=0.015)


def test_the_verdict_says_what_was_measured_beside_the_configured_gain():
    transfer = transfer_of(glowing_night(1, 10, (256, 256)))
    assert transfer.verdict(GAIN).startswith("If the level is dark signal, ")  # no hot pixels
    told = f"gain is {transfer.gain:.4f} ± {transfer.gain_error:.4f} e- per count; it agrees with"
    assert told in transfer.verdict(GAIN)
    assert "it disagrees with the configured 1.3900" in transfer.verdict(1.39)
    flat = transfer_of(glowing_night(1, 10, (128, 128), glow=0.0, dsnu=0.0))
    assert flat.verdict(GAIN) == f"Not tested: {flat.reason}."


def patterned_night(seed, n, steeper, gain=2.5, glow=0.0, shape=(256, 256)):
    """A level of bias pattern, whose read noise rises with it by some share, and hot pixels of known gain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]] / np.array(shape)[:, None, None]
    bump = np.exp(-(y**2 + x**2) / 0.2)
    dark = 20 * rng.gamma(1, 1, shape) + glow * bump
    hot = rng.random(shape) < 0.02
    dark[hot] += rng.exponential(800, hot.sum())
    noise = 8 * (1 + steeper * bump)
    counts = (rng.poisson(dark, (n, *shape)) + rng.standard_normal((n, *shape)) * noise) / gain
    return np.rint(counts + 1000 + (300 * bump if steeper else 0)).astype(np.uint16)


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 20])
@pytest.mark.parametrize("steeper", [0.5, 1.0, 6.0])
def test_a_bias_pattern_gives_no_gain(n, steeper):
    """Its slope alone would give 24, 11 or 1.1 electrons per count, each to a few per cent, where 2.5 are true."""
    transfer = transfer_of(patterned_night(n, n, steeper))
    assert transfer.slope_error < 0.1 * transfer.slope, "a confident slope"
    assert abs(1 / transfer.slope - 2.5) > 0.4 * 2.5, "and a wrong one"
    assert not transfer.can_tell
    assert np.isnan(transfer.gain)
    assert "not dark signal alone" in transfer.reason
    assert transfer.verdict(2.5).startswith("Not tested: ")


def chip_of_bias_pattern(seed, exposure, rate, steeper, n=10, shape=(256, 256)):
    """Darks of 2.5 e- a count whose level is a pattern of columns and rows, more noisy where it is high.

    `rate` is that of the hot pixels, electrons a second; of all others 0.02. The exposure is in seconds.
    """
    rng = np.random.default_rng(seed)
    walks = [np.cumsum(rng.normal(0, 1, size)) for size in shape]
    rows, columns = ((walk - walk.min()) / np.ptp(walk) for walk in walks)
    pattern, dark = (rows[:, None] + columns) / 2, 0.02 * rng.gamma(1, 1, shape)
    hot = rng.random(shape) < 0.01
    dark[hot] += rng.exponential(rate, hot.sum())
    noise = 8 * np.sqrt(1 + steeper * pattern)
    electrons = rng.poisson(dark * exposure, (n, *shape)) + rng.standard_normal((n, *shape)) * noise
    return np.rint(electrons / 2.5 + 1000 + 120 * pattern).astype(np.uint16)


@pytest.mark.slow
@pytest.mark.parametrize("exposure", [120, 300, 900])
@pytest.mark.parametrize("rate", [0.1, 0.3, 2.0])
@pytest.mark.parametrize("steeper", [1.0, 3.0])
def test_no_exposure_of_a_chip_of_bias_pattern_states_a_wrong_gain(exposure, rate, steeper):
    """The slopes alone give 12 or 3.9 electrons a count, to 3 %, where 2.5 are true."""
    transfer = transfer_of(chip_of_bias_pattern(1, exposure, rate, steeper))
    assert transfer.slope_error < 0.1 * transfer.slope, "a confident slope"
    assert abs(1 / transfer.slope / 2.5 - 1) > 0.4, "and a wrong one"
    assert not transfer.dark_signal
    told = ("Not tested: ", "If the level is dark signal, which a second exposure would tell, ")
    assert transfer.verdict(2.5).startswith(told)


@pytest.mark.parametrize("n", [3, 5, 20])
def test_a_glow_of_dark_signal_keeps_its_gain_and_the_hot_pixels_confirm_it(n):
    transfer = transfer_of(patterned_night(n, n, 0.0, glow=1500.0))
    assert transfer.gain == pytest.approx(2.5, rel=0.05)
    assert transfer.dark_signal
    assert transfer.verdict(2.5).startswith("The measured gain is ")
    assert "bear it out to a factor of 1.3" in transfer.verdict(2.5)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_defects_of_a_simulated_night_deny_no_gain(n):
    """Telegraph, noisy and stuck pixels, muons and columns are no hot pixels of another gain."""
    for seed in (1, 2, 3):
        transfer = transfer_of(simulate_counts(n, (256, 256), seed, glow=1100.0).counts)
        assert transfer.can_tell, transfer.reason
