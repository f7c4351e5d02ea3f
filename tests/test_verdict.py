"""A verdict that can say no: each test doubts what it should, and hardly ever a sound night."""

import re
from dataclasses import replace

import numpy as np
import pytest
from simulated import simulate_counts, write_night
from small_nights import parameters_of, with_parameters, write_small_night

from sla1tools.darks.model import characterize
from sla1tools.frames.capture import judge_capture
from sla1tools.frames.codes import audit_capture
from sla1tools.injections.completeness import flux_bins, flux_limit_over_frames, frames_differ
from sla1tools.injections.injection import inject
from sla1tools.measure import measure_night
from sla1tools.verdict import (
    SOUND_NIGHTS,
    Opinion,
    event_sizes,
    judge_alarms,
    judge_completeness,
    judge_power,
    judge_scale,
    judge_star_image,
    name_tracks,
)

SHAPE = (160, 160)
SCALE = 1.39 / 16


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """A sound night with a glow, whose headers state EGAIN, EGAINSAV and the depth of the ADC."""
    return write_small_night(tmp_path_factory.mktemp("night"), 6, SHAPE, glow=2000.0, pedestal=200.0)[0]


def stating(night, **cards):
    """The same night with other cards in its headers; None takes a card away."""
    frames = [
        replace(frame, header={key: value for key, value in (frame.header | cards).items() if value is not None})
        for frame in night.frames
    ]
    return replace(night, frames=tuple(frames))


def test_a_scale_that_the_headers_confirm_is_not_doubted(night):
    opinion = judge_scale(night, audit_capture(night))
    assert opinion.doubts == ()
    assert any("padding of 16 does not hold" in note for note in opinion.notes)


@pytest.mark.parametrize(
    ("cards", "named"),
    [
        ({"EGAINSAV": 0.0869 * 24}, "EGAINSAV is 2.086"),
        ({"EGAINSAV": None, "EGAIN": 0.0869 / 24}, "EGAIN is 0.003621"),
    ],
)
def test_a_scale_that_the_headers_deny(night, cards, named):
    opinion = judge_scale(stating(night, **cards), audit_capture(night))
    assert named in opinion.doubts[0].reason
    assert "configured are 0.08687" in opinion.doubts[0].reason
    assert opinion.doubts[0].meaning.startswith("if ")
    assert "scale_due_to_gain" in opinion.doubts[0].cure


@pytest.mark.parametrize("egain", [1.39, 1.39 / 16, 1.1])
def test_egain_may_be_at_the_depth_of_the_adc_or_of_the_file(night, egain):
    stated = stating(night, EGAINSAV=None, EGAIN=egain)
    assert judge_scale(stated, audit_capture(stated)).doubts == ()


def test_codes_deny_a_padding_that_nothing_confirms(night):
    silent = stating(night, EGAINSAV=None, EGAIN=None, ADCBITS=None)
    (doubt,) = judge_scale(silent, audit_capture(silent)).doubts
    assert "padding of 16 does not hold" in doubt.reason
    assert "your 200 e- are 3,200 e-" in doubt.meaning


def times(factor):
    return lambda counts: np.clip(counts.astype(int) * factor, 0, 65535)


CHANGED = {  # what was done to all frames alike, and what one count is then
    "8 bits": (lambda counts: counts // 256, {}, "no code is above 255: 8 bits, and top_code is 65,535", SCALE * 256),
    "8 bits, no padding": (
        lambda counts: counts // 256,
        {"scale_due_to_padding": 1.0, "scale_due_to_gain": SCALE},
        "and no camera has less than 0.2 e-",
        SCALE * 256,
    ),
    "three times": (times(3), {}, "in steps of 3, as where counts were multiplied by 3", SCALE / 3),
    "padded, then three times": (
        lambda counts: times(3)(counts // 16 * 16),
        {},
        "in steps of 48, as where counts were multiplied by 3",
        SCALE / 3,
    ),
    "flats of one electron a count": (
        lambda counts: np.random.default_rng(0).poisson(25_000, counts.shape),
        {},
        "counts is too little for the dark signal in a level of 25,000 counts: flats, or another gain",
        (25_000 - 16_384) / 25_000,
    ),
    "a scale of 300 times too little": (
        times(1),
        {"scale_due_to_padding": 16 * 300.0},
        "a frame's noise is 0.12 e-, and no camera has less than 0.2 e-",
        SCALE / 300 * 0.2 / 0.123,
    ),
}


@pytest.mark.parametrize("name", CHANGED)
def test_counts_that_were_cut_or_multiplied_in_all_frames_alike(tmp_path, name):
    """The headers tell of the counts before that, and do not outweigh it."""
    change, parameters, told, scale = CHANGED[name]
    night = changed_night(tmp_path, change, **parameters)
    assert night.rejected == ()
    (doubt,) = judge_scale(stating(night, EGAIN=1.39, EGAINSAV=night.parameters.scale), audit_capture(night)).doubts
    assert told in doubt.reason
    really = re.search("if (.*) electrons per count is right, your 200 e- are (.*) e-", doubt.meaning)
    assert float(really[1]) == pytest.approx(scale, rel=0.03)
    assert float(really[2].replace(",", "")) == pytest.approx(200 * scale / night.parameters.scale, rel=0.03)


def changed_night(directory, change, **parameters):
    simulated = simulate_counts(4, SHAPE, 5)
    counts = np.minimum(simulated.counts, 63_999)
    night = parameters_of(directory, SHAPE, **parameters)
    write_night(night.capture_directory, replace(simulated, counts=change(counts).astype(np.uint16)))
    return judge_capture(night)


def test_a_level_of_dark_signal_is_no_flat(tmp_path):
    """Its noise is that of its electrons, at the scale that is configured, however high it is."""

    def hot(counts):
        return np.random.default_rng(0).poisson(40_000 * SCALE, counts.shape) / SCALE + 1000

    night = changed_night(tmp_path, hot)
    assert judge_scale(night, audit_capture(night)).doubts == ()


@pytest.mark.parametrize(("bits", "highest"), [(10, "999"), (12, "3,999")])
def test_low_codes_without_padding_deny_the_scale_where_no_header_states_it(tmp_path, bits, highest):
    """A bias of a camera that fills the low bits has low codes, too: headers that agree make it a note."""
    night = changed_night(tmp_path, lambda counts: counts // 2 ** (16 - bits))
    told = f"no code is above {highest}, as without the padding of 16, configured are 0.08687"
    means = "if 1.39 electrons per count is right, your 200 e- are 3,200 e-"
    (doubt,) = judge_scale(stating(night, EGAIN=None, EGAINSAV=None), audit_capture(night)).doubts
    assert (doubt.reason, doubt.meaning) == (told, means)
    opinion = judge_scale(night, audit_capture(night))
    assert opinion == Opinion(notes=(f"{told}: {means}",))


def test_codes_that_cannot_tell_are_a_note(tmp_path):
    """Fourteen bits of sixteen may be what the camera has; twice the counts may be its own step."""
    night = changed_night(tmp_path / "14", lambda counts: counts // 4)
    opinion = judge_scale(night, audit_capture(night))
    assert opinion.doubts == ()
    assert any("no code is above 16,383: if the converter has 14 bits" in note for note in opinion.notes)
    padded = changed_night(tmp_path / "16", lambda counts: counts // 16 * 16)
    assert judge_scale(padded, audit_capture(padded)) == Opinion()


def test_padding_that_is_not_configured(tmp_path):
    """It denies the scale where no header states it."""
    options = {"scale_due_to_padding": 1.0, "scale_due_to_gain": 1.39}
    night = changed_night(tmp_path, lambda counts: counts // 16 * 16, **options)
    (doubt,) = judge_scale(stating(night, EGAIN=None, EGAINSAV=None), audit_capture(night)).doubts
    assert "the codes' greatest common step is 16" in doubt.reason
    assert "if 0.08687 electrons per count is right, your 200 e- are 12 e-" in doubt.meaning


def test_a_gain_that_hot_pixels_do_not_bear_out_is_no_proof(night):
    """It confirms nothing, and denies a scale only where the headers do not state it."""
    audit = audit_capture(night)
    transfer = characterize(night).noise_model.photon_transfer
    assert transfer.can_tell
    assert not transfer.dark_signal, "there is no hot pixel"
    wrong = replace(transfer, gain=transfer.gain * 4, slope=transfer.slope / 4, slope_error=transfer.slope_error / 4)
    opinion = judge_scale(night, audit, wrong)
    assert opinion.doubts == ()
    assert any("if the level is dark signal, which a second exposure would tell" in note for note in opinion.notes)
    silent = stating(night, EGAINSAV=None, EGAIN=None)
    assert "if the level is dark signal" in judge_scale(silent, audit, wrong).doubts[0].reason
    denied = stating(night, EGAINSAV=2.0)
    assert judge_scale(denied, audit, transfer).doubts[0].reason.startswith("the headers' EGAINSAV")
    assert judge_scale(denied, audit, replace(transfer, dark_signal=True)).doubts == ()
    assert judge_scale(night, audit, replace(wrong, dark_signal=True)).doubts[0].reason.startswith("photon transfer")


def measured(directory, seed, clean=True, **changes):
    options = {"glow": 2400.0, "clean": clean, "seed": seed}
    night, _ = write_small_night(directory, 8, (256, 256), changes={"injections": 300} | changes, **options)
    return measure_night(night.parameters)


@pytest.mark.slow
def test_photon_transfer_denies_a_scale_that_is_wrong_by_far(tmp_path):
    """At the right scale the same frames are not doubted, though their padding does not hold."""
    right = measured(tmp_path / "right", 3)
    assert (right.summary["verdict"], right.summary["reasons"], right.doubts) == ("ok", [], ())
    assert right.summary["dark"]["gain_measured"] is None, "no hot pixel bears it out"
    wrong = measured(tmp_path / "wrong", 3, scale_due_to_padding=1.0, threshold=4800.0)
    assert wrong.summary["verdict"] == "degraded"
    assert wrong.summary["reasons"][0].startswith("photon transfer measures 0.0")
    really = re.search("your 4,800 e- are (.*) e-", wrong.doubts[0].meaning)
    assert float(really[1]) == pytest.approx(300, rel=0.15)


def test_alarms_beyond_ten_times_the_budget(night):
    counts = dict.fromkeys(night.names, 60)
    assert judge_alarms(4.9, counts, night, 40.0).doubts == ()
    (doubt,) = judge_alarms(5.1, counts, night, 40.0).doubts
    assert "more than 5.1 a frame, and the budget is 0.5" in doubt.reason
    assert "level_correction" not in doubt.cure
    levels = np.linspace(0, 3 * 40 / night.parameters.scale, len(night.frames))
    frames = [replace(frame, level=frame.level + more) for frame, more in zip(night.frames, levels, strict=True)]
    drifting = replace(night, frames=tuple(frames))
    assert "level_correction: true" in judge_alarms(5.1, counts, drifting, 40.0).doubts[0].cure
    corrected = with_parameters(drifting, level_correction=True)
    assert "level_correction" not in judge_alarms(5.1, counts, corrected, 40.0).doubts[0].cure


def test_frames_that_stand_out(night):
    counts = dict(zip(night.names, [0, 0, 0, 1, 279, 249], strict=True))
    (doubt,) = judge_alarms(0.1, counts, night, 40.0).doubts
    assert "stand out in 2 of 6 frames: 279 in 00005.fits, 249 in 00006.fits; 1 in all others together" in doubt.reason
    assert "00005.fits" in doubt.cure


@pytest.mark.slow
def test_sound_nights_seldom_have_a_frame_that_stands_out(night):
    """30,000 nights of six frames: 3 are allowed, and 10 have a chance of 1 in 900."""
    rng, doubted = np.random.default_rng(0), 0
    for rate in (0.05, 1.0, 30.0):
        for draw in rng.poisson(rate, (10_000, 6)):
            if draw.max() > 3:  # fewer cannot be odd, and the test is quicker
                doubted += bool(
                    judge_alarms(0.0, dict(zip(night.names, draw.tolist(), strict=True)), night, 40.0).doubts
                )
    assert doubted <= 10
    alone = judge_alarms(0.0, dict(zip(night.names, [0, 0, 0, 3, 0, 0], strict=True)), night, 40.0)
    assert alone.doubts == ()


def test_candidates_of_one_track_are_one_event():
    x, y = np.arange(100, 118, 3), np.arange(50, 68, 3)
    assert event_sizes(x, y).tolist() == [6]
    assert sorted(event_sizes(np.append(x, [10, 300]), np.append(y, [10, 300]))) == [1, 1, 6]
    assert event_sizes(np.array([]), np.array([])).tolist() == []
    assert event_sizes(np.array([5]), np.array([5])).tolist() == [1]


@pytest.mark.slow
def test_a_track_is_named_and_chance_is_not():
    """Six of twelve candidates in one track are; of 10,000 strewn over a frame many lie together by chance."""
    sizes = {"a": np.array([6, 1, 1]), "b": np.array([1, 1, 2]), "c": np.array([], int)}
    assert name_tracks(sizes, 2048 * 2048).notes == ("6 of the 12 candidates lie in one track, in a",)
    rng, named = np.random.default_rng(4), 0
    for number in (10, 100, 10_000):
        for _ in range(100):
            strewn = event_sizes(*rng.integers(0, 2048, (2, number)))
            assert number < 10_000 or strewn.max() >= 3
            named += len(name_tracks({"a": strewn}, 2048 * 2048).notes)
    assert named == 0


def stars(rng, shares, per_frame=500):
    """Injected stars whose chance to be found rises with flux, times each frame's share."""
    frame = np.repeat(np.arange(len(shares)), per_frame)
    flux = np.exp(rng.uniform(np.log(300), np.log(15000), len(frame)))
    chance = np.array(shares)[frame] / (1 + (1500 / flux) ** 4)
    return frame, flux, rng.random(len(frame)) < chance


def test_completeness_of_like_frames_differs_by_chance_alone():
    rng, edges = np.random.default_rng(1), flux_bins((300.0, 15000.0))
    chances = np.array([frames_differ(*stars(rng, [1.0] * 8), edges)[0] for _ in range(300)])
    assert 0.02 <= np.mean(chances < 0.05) <= 0.09  # 3 sigma of 300 are 0.038
    assert chances.min() > SOUND_NIGHTS


def test_completeness_that_differs_between_frames():
    rng, edges = np.random.default_rng(2), flux_bins((300.0, 15000.0))
    frame, flux, found = stars(rng, [1.0] * 7 + [0.5])
    chance, shares = frames_differ(frame, flux, found, edges)
    assert chance < SOUND_NIGHTS
    assert min(shares, key=shares.__getitem__) == 7
    (doubt,) = judge_completeness(chance, {f"{k}.fits": share for k, share in shares.items()}, 1500.0).doubts
    assert "as 7.fits" in doubt.reason
    assert judge_completeness(0.5, {}, None).doubts == ()
    wide = flux_limit_over_frames(frame, flux, found, edges, 0.5)
    like = flux_limit_over_frames(*stars(rng, [1.0] * 8), edges, 0.5)
    assert wide.low < wide.flux < wide.high
    assert wide.high - wide.low > 1.5 * (like.high - like.low)
    assert frames_differ(frame[:0], flux[:0], found[:0], edges) == (1.0, {})


@pytest.fixture(scope="module")
def alike():
    """Eight frames of noise alone."""
    return simulate_counts(8, (128, 128), 5, clean=True, glow=0.0)


def with_levels(directory, simulated, electrons, **changes):
    """Measure the night with each frame's level changed by some electrons."""
    steps = np.rint(np.array(electrons) / SCALE).astype(np.uint16)[:, None, None]
    parameters = parameters_of(directory, (128, 128), **({"injections": 6000} | changes))
    write_night(parameters.capture_directory, replace(simulated, counts=simulated.counts + steps))
    return measure_night(parameters)


@pytest.mark.slow
def test_frames_at_two_levels_within_the_limits_degrade_the_night_by_their_completeness(tmp_path, alike):
    """Levels 1.2 sigma apart are kept; the same threshold then cuts at two depths, and the interval says so."""
    uneven = with_levels(tmp_path / "uneven", alike, [0, 45] * 4)
    assert len(uneven.capture.frames) == 8
    (reason,) = (reason for reason in uneven.summary["reasons"] if "of the same stars" in reason)
    assert uneven.summary["verdict"] == "degraded"
    assert float(reason.split(" finds ")[1].split()[0]) > 1.05
    even = with_levels(tmp_path / "even", alike, [0] * 8)
    assert not any("of the same stars" in reason for reason in even.summary["reasons"])
    wide, narrow = (m.summary["completeness"]["neighbor_ratio"]["flux_50"] for m in (uneven, even))
    assert wide["high"] - wide["low"] > 2 * (narrow["high"] - narrow["low"])


@pytest.mark.slow
def test_stars_in_frames_alike_are_found_alike(tmp_path, alike):
    """Twelve draws of stars into a sound night: none is doubted, and chances below 0.05 are rare."""
    night, chances = with_levels(tmp_path, alike, [0] * 8, injections=0), []
    for seed in range(12):
        capture = with_parameters(night.capture, injections=1500, random_seed=seed)
        trials = inject(capture, night.dark, night.floors).trials
        columns = (np.asarray(trials[name]) for name in ("frame", "flux_true", "recovered_neighbor_ratio"))
        chances.append(frames_differ(*columns, flux_bins(capture.parameters.injection_flux_range))[0])
    assert min(chances) > SOUND_NIGHTS
    assert np.sum(np.array(chances) < 0.05) <= 3


def test_a_class_that_the_camera_cannot_show_is_a_note():
    opinion = judge_power({"zero_variance": False, "noisy": True}, 10, True, 100)
    assert opinion.doubts == ()
    assert "zero variance are not tested" in opinion.notes[0]
    few = judge_power({"zero_variance": True, "noisy": False}, 4, True, 100)
    assert "pixel class noisy could not be tested" in few.doubts[0].reason
    assert "5x5" in judge_power({}, 5, False, 0).doubts[0].reason


def test_a_star_of_another_camera_is_a_doubt():
    assert judge_star_image("QHY42PRO", "QHY42PRO") == Opinion()
    assert judge_star_image("", "QHY42PRO") == judge_star_image("QHY42PRO", None) == Opinion()
    (doubt,) = judge_star_image("ST-10", "QHY42PRO").doubts
    assert "measured with ST-10, these darks with QHY42PRO" in doubt.reason
