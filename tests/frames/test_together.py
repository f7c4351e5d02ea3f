"""Frames that do not belong together: each is made from a sound night, and the largest group must be found."""

from collections import Counter

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from simulated import SimulatedNight, simulate_counts, write_night
from small_nights import parameters_of

from sla1tools.errors import NightError
from sla1tools.frames.capture import judge_capture
from sla1tools.frames.codes import code_histogram
from sla1tools.frames.sampling import sample_frame
from sla1tools.frames.together import judge_together
from sla1tools.parameters import Parameters

SHAPE = (256, 320)
SCALE = 1.39 / 16
SIGMA = 37 / SCALE  # of a frame, counts


@pytest.fixture(scope="module")
def sound():
    return simulate_counts(20, SHAPE, seed=11).counts


def as_counts(values):
    return np.clip(np.rint(values), 0, 65535).astype(np.uint16)


def judged(stack, temperatures=None, names=None, **options):
    samples = [sample_frame(counts, code_histogram(counts)) for counts in stack]
    names = names or [f"{k + 1:05d}.fits" for k in range(len(stack))]
    parameters = Parameters(frame_shape=stack.shape[1:], **options)
    return judge_together(names, samples, temperatures or [None] * len(stack), parameters)


def reasons(agreement) -> dict[int, str]:
    """Reason of each frame that is left out, by its number from 1."""
    return {k + 1: reason.value for k, (reason, _) in sorted(agreement.misfits.items())}


def wider(stack, factor, frames):
    """Deviations from the pixels' medians times a factor: noise and hits, at the same level."""
    middle, changed = np.median(stack, axis=0), stack.astype(float)
    changed[frames] = middle + factor * (changed[frames] - middle)
    return as_counts(changed)


def dimmer(stack, factors):
    """The dark signal of hot pixels of the first frames times a factor each."""
    middle, changed = np.median(stack, axis=0), stack.astype(float)
    hot = middle > np.median(middle) + 700 / SCALE
    for k, factor in enumerate(factors):
        changed[k][hot] -= (1 - factor) * (middle - np.median(middle))[hot]
    return as_counts(changed)


def drifting(stack, sigmas, hot_to=1.0):
    """Levels that fall evenly, and the hot pixels' signal with them."""
    middle, steps = np.median(stack, axis=0), np.linspace(0, 1, len(stack))[:, None, None]
    return as_counts(stack - steps * (sigmas * SIGMA + (1 - hot_to) * np.maximum(middle - np.median(middle), 0)))


def striped(stack, phases):
    """A column pattern of period 3 and 2 sigma, whose phase changes between frames."""
    wave = 2 * SIGMA * np.array([1.0, -1.0, 0.0])[(np.arange(SHAPE[1]) + np.array(phases)[:, None]) % 3]
    return as_counts(stack + wave[:, None, :])


def test_a_sound_night_is_one_group(sound):
    for frames in (3, 4, 5, 10, 20):
        agreement = judged(sound[:frames])
        assert (agreement.misfits, agreement.notes, agreement.doubts) == ({}, [], [])


def test_inputs_are_left_alone(sound):
    counts = sound[0].copy()
    sample = sample_frame(counts, code_histogram(counts))
    sample.in_rows[:] = 0
    sample.in_columns[:] = 0
    np.testing.assert_array_equal(counts, sound[0])


def test_another_gain_in_the_first_frame(sound):
    agreement = judged(wider(sound[:10], 2, [0]))
    assert reasons(agreement) == {1: "noise"}
    assert "1.9" in agreement.misfits[0][1]
    assert "limit 1.15" in agreement.misfits[0][1]


def test_frames_after_an_exposure_switch(sound):
    agreement = judged(dimmer(sound[:10], (0.4, 0.7, 0.9)))
    assert reasons(agreement) == dict.fromkeys((1, 2, 3), "transition")
    assert "as after a switch of the exposure" in agreement.misfits[0][1]
    scales = [float(agreement.misfits[k][1].split()[3]) for k in range(3)]
    np.testing.assert_allclose(scales, (0.4, 0.7, 0.9), atol=0.05)


MOVES = {
    "upside down": lambda frame: frame[::-1],
    "mirrored": lambda frame: frame[:, ::-1],
    "turned by 180 degrees": lambda frame: frame[::-1, ::-1],
    "shifted by +2 columns and -1 rows": lambda frame: np.roll(frame, (-1, 2), (0, 1)),
    "mirrored, shifted by +1 columns and +0 rows": lambda frame: np.roll(frame[:, ::-1], 1, 1),
}


@pytest.mark.parametrize("name", MOVES)
def test_moved_frames(sound, name):
    moved = sound[:10].copy()
    moved[5:] = [MOVES[name](frame) for frame in moved[5:]]
    agreement = judged(moved)
    assert reasons(agreement) == dict.fromkeys(range(6, 11), "geometry")
    assert agreement.misfits[7][1].startswith(f"{name}: ")


def test_turned_frames_of_a_square_chip():
    stack = simulate_counts(6, (256, 256), seed=3).counts.copy()
    stack[4] = stack[4].T
    stack[5] = np.rot90(stack[5])
    agreement = judged(stack)
    assert reasons(agreement) == {5: "geometry", 6: "geometry"}
    assert agreement.misfits[4][1].startswith("transposed: ")
    assert agreement.misfits[5][1].startswith("transposed, mirrored: ")


def test_two_halves_are_named_with_the_pattern_that_chooses_the_other(sound):
    agreement = judged(wider(sound[:10], 3, range(5, 10)))
    assert reasons(agreement) == dict.fromkeys(range(6, 11), "noise")
    (note,) = agreement.notes
    assert "5 frames are used, 5 others (00006.fits to 00010.fits)" in note
    assert 'file_pattern: "000[01][06789].fits"' in note


def test_no_pattern_is_named_where_none_can_choose(sound):
    names = ["a.fits", "b.fits", "c.fits", "night.fits", "x-long-name.fits", "y.fits", "z.fits"]
    (note,) = judged(wider(sound[:7], 3, range(4, 7)), names=names).notes
    assert "file_pattern" not in note
    assert "3 others (x-long-name.fits to z.fits)" in note


def test_the_larger_group_is_used_wherever_it_lies(sound):
    assert reasons(judged(wider(sound[:10], 3, range(4)))) == dict.fromkeys(range(1, 5), "noise")
    assert reasons(judged(wider(sound[:10], 3, range(4, 10)))) == dict.fromkeys(range(1, 5), "noise")


def test_codes_of_eight_bits_and_of_a_step(sound):
    coarse = sound[:10].copy()
    coarse[5:] //= 256
    assert reasons(judged(coarse)) == dict.fromkeys(range(6, 11), "codes")
    coarse = sound[:10].copy()
    coarse[:5] //= 256
    assert reasons(judged(coarse)) == dict.fromkeys(range(1, 6), "codes"), "of two groups of five that of more bits"
    stepped = sound[:10].copy()
    stepped[7] -= stepped[7] % 4
    agreement = judged(stepped)
    assert reasons(agreement) == {8: "codes"}
    assert "in steps of 4, the group's in steps of 1" in agreement.misfits[7][1]


def test_garbage_rows(sound):
    frames, rng = sound[:11].copy(), np.random.default_rng(0)
    for k in (3, 7):
        frames[k, 100:102] = rng.integers(0, 65535, (2, SHAPE[1]))
    agreement = judged(frames)
    assert reasons(agreement) == {4: "rows", 8: "rows"}
    assert "garbage in 2 of its rows, the first at 100" in agreement.misfits[3][1]


def test_a_line_that_is_wild_in_every_frame_is_the_chips(sound):
    frames, rng = sound[:10].copy(), np.random.default_rng(0)
    frames[:, 100] = rng.integers(9000, 22000, (10, SHAPE[1]))
    assert reasons(judged(frames)) == {}


def test_three_frames_can_lose_a_garbage_line_alone(sound):
    frames = sound[:3].copy()
    frames[1, 30] = np.random.default_rng(0).integers(0, 65535, SHAPE[1])
    assert reasons(judged(frames)) == {2: "rows"}


def test_temperatures(sound):
    assert reasons(judged(sound[:10], [-20.0] * 5 + [5.0] * 5)) == dict.fromkeys(range(6, 11), "temperature")
    assert reasons(judged(sound[:10], [-11.5, -8.5] * 5)) == {}
    assert reasons(judged(sound[:10], [-11.5, -8.5] * 4 + [-8.4, None])) == {9: "temperature"}
    drift = [-20 + 0.5 * k for k in range(10)]
    agreement = judged(sound[:10], drift)
    assert reasons(agreement) == dict.fromkeys((8, 9, 10), "temperature")
    assert "the group's middle is -18.50 C (limit 1.5 K)" in agreement.misfits[7][1]


def test_a_drift_of_the_offset(sound):
    fallen = drifting(sound, 18)
    agreement = judged(fallen)
    used = [k for k in range(20) if k not in agreement.misfits]
    assert len(used) == 7
    assert np.ptp(used) == 6
    assert set(reasons(agreement).values()) == {"level"}
    assert "level_correction would take it off" in agreement.misfits[19][1]
    assert any("level_correction takes offsets off" in note for note in agreement.notes)
    assert reasons(judged(drifting(sound, 6), level_correction=True)) == {}


def test_a_drift_of_offset_and_dark_signal(sound):
    for corrected in (False, True):
        agreement = judged(drifting(sound, 18, hot_to=0.5), level_correction=corrected)
        assert 3 <= 20 - len(agreement.misfits) <= 8
        assert set(reasons(agreement).values()) == {"level", "transition"}
    assert not any("level_correction would" in told for _, told in agreement.misfits.values())


def test_a_pattern_that_moves(sound):
    agreement = judged(striped(sound, [0] * 9 + [1] * 6 + [2] * 5))
    assert reasons(agreement) == dict.fromkeys(range(10, 21), "noise")
    assert all("a pattern that moves" in told for _, told in agreement.misfits.values())
    assert "a pattern" not in judged(wider(sound[:10], 3, [4])).misfits[4][1]


@pytest.mark.parametrize(("frames", "left_out"), [(4, [3]), (5, [3, 4]), (6, [4, 5])])
def test_three_must_agree_to_leave_a_frame_out(sound, frames, left_out):
    assert sorted(judged(wider(sound[:frames], 3, left_out)).misfits) == left_out


def test_no_three_that_agree(sound):
    two_and_two = sound[:4].astype(float)
    two_and_two[2:] += 6 * SIGMA
    agreement = judged(as_counts(two_and_two))
    assert agreement.misfits == {}
    assert "no three frames agree" in agreement.doubts[0]


def test_of_more_frames_of_which_no_three_agree_two_at_most_are_left(sound):
    agreement = judged(as_counts(sound[:7] + np.arange(7)[:, None, None] * 4 * SIGMA))
    assert len(agreement.misfits) >= 5
    assert set(reasons(agreement).values()) == {"level"}
    assert agreement.doubts == []
    hotter = judged(sound[:7], [-20.0 + 4 * k for k in range(7)])
    assert set(reasons(hotter).values()) == {"temperature"}
    assert len(hotter.misfits) >= 5


def test_frames_of_which_no_two_can_be_compared_are_no_sound_night(sound):
    steps = 2 ** np.arange(7, dtype=np.uint16)[:, None, None]
    agreement = judged(sound[:7] // steps * steps)
    assert agreement.misfits == {}
    assert "no three frames agree" in agreement.doubts[0]


def test_three_frames_in_three_states_are_kept_with_a_doubt(sound):
    agreement = judged(dimmer(sound[:3], (0.4, 0.7)))
    assert agreement.misfits == {}
    assert "no three frames agree" in agreement.doubts[0]


def test_three_groups(sound):
    stack = wider(sound[:11], 3, range(3)).astype(float)
    stack[8:] += 8 * SIGMA
    agreement = judged(as_counts(stack))
    assert reasons(agreement) == dict.fromkeys((1, 2, 3), "noise") | dict.fromkeys((9, 10, 11), "level")
    assert "5 frames are used, 3 others" in agreement.notes[0]


def test_of_three_frames_a_misfit_leaves_too_few(sound):
    assert reasons(judged(wider(sound[:3], 3, [1]))) == {2: "noise"}
    assert judged(sound[:2]).misfits == {}


@pytest.mark.parametrize(("frames", "nights"), [(4, 10), (6, 10), (20, 3)])
@pytest.mark.slow
def test_power(frames, nights):
    """Every fault of these sizes is found, in every night, and nothing else is left out."""
    for seed in range(nights):
        stack = simulate_counts(frames, SHAPE, seed=200 + seed).counts
        last, higher = frames - 1, stack.astype(float)
        higher[last] += 4 * SIGMA
        assert reasons(judged(as_counts(higher))) == {frames: "level"}
        assert reasons(judged(wider(stack, 1.4, [last]))) == {frames: "noise"}
        assert reasons(judged(dimmer(stack[::-1], (0.8,))[::-1])) == {frames: "transition"}
        flipped = stack.copy()
        flipped[last] = flipped[last][::-1]
        assert reasons(judged(flipped)) == {frames: "geometry"}


def false_rejections(total, sizes=(5, 10, 20, 100)) -> Counter:
    found: Counter = Counter()
    for frames in sizes:
        for seed in range(total // frames):
            found[frames] += len(judged(simulate_counts(frames, (128, 128), seed=1000 + seed).counts).misfits)
    return found


@pytest.mark.slow
def test_sound_frames_are_kept():
    # Nine of 5,000 are allowed: of 300 more than three would be as rare as 1 in 350.
    assert max(false_rejections(300).values()) <= 3


@pytest.fixture
def night_of(sound, tmp_path):
    """Write ten frames and change their header cards; returns the night as it is judged."""

    def write(stack=None, change=lambda k, header: None, **keys):
        parameters = parameters_of(tmp_path, SHAPE, **keys)
        counts = sound[:10] if stack is None else stack
        truth = Table(meta={"frames": len(counts), "seed": 11, "scale": SCALE})
        write_night(parameters.capture_directory, SimulatedNight(counts, truth, SHAPE, SHAPE))
        for k, path in enumerate(sorted(parameters.capture_directory.glob("*.fits"))):
            with fits.open(path, mode="update") as hdus:
                change(k, hdus[0].header)
        return judge_capture(parameters)

    return write


def rejected(night) -> dict[int, str]:
    return {int(item.name.removesuffix(".fits")): item.reason.value for item in night.rejected}


def test_verdicts_of_a_capture(night_of, sound):
    night = night_of(wider(sound[:10], 3, range(5, 10)))
    assert night.names == [f"{k:05d}.fits" for k in range(1, 6)]
    assert rejected(night) == dict.fromkeys(range(6, 11), "noise")
    assert any("5 others" in note for note in night.notes)
    chosen = parameters_of(night.parameters.sessions_directory, SHAPE, file_pattern="000[01][06789].fits")
    other = judge_capture(chosen)
    assert other.names == [f"{k:05d}.fits" for k in range(6, 11)]
    assert other.rejected == ()


def test_no_three_that_agree_is_a_doubt(night_of, sound):
    stack = sound[:4].astype(float)
    stack[2:] += 6 * SIGMA
    night = night_of(as_counts(stack))
    assert len(night.frames) == 4
    assert "no three frames agree" in night.doubts[0]


def test_a_misfit_of_three_leaves_the_night_untested(night_of, sound):
    night = night_of(wider(sound[:3], 3, [1]))
    with pytest.raises(NightError, match=r"not tested: 2 usable frames \(1 noise\)"):
        night.require_usable()


def test_image_types(night_of):
    def three_lights(k, header):
        header["IMAGETYP"] = "Light Frame" if k < 3 else "Dark Frame"

    assert rejected(night_of(change=three_lights)) == dict.fromkeys((1, 2, 3), "imagetype")


def test_a_night_of_biases(night_of):
    night = night_of(change=lambda k, header: header.update(IMAGETYP="Bias Frame"))
    assert rejected(night) == dict.fromkeys(range(1, 11), "imagetype")


def test_temperatures_of_a_capture(night_of):
    frozen = night_of(change=lambda k, header: header.update({"CCD-TEMP": -20.1234567}))
    assert {frame.temperature for frame in frozen.frames} == {None}
    assert any("the same to all digits in every frame (10 of 10 frames)" in note for note in frozen.notes)
    rounded = night_of(change=lambda k, header: header.update({"CCD-TEMP": -20.5}))
    assert {frame.temperature for frame in rounded.frames} == {-20.5}
    held = night_of(change=lambda k, header: header.update({"CCD-TEMP": -10 + 1.5 * (-1) ** k}))
    assert held.rejected == ()
    strict = night_of(change=lambda k, header: header.update({"CCD-TEMP": -10 + (k == 4)}), temperature_tolerance=0.4)
    assert rejected(strict) == {5: "temperature"}


def test_an_exposure_that_is_not_quite_the_configured_one(night_of):
    night = night_of(change=lambda k, header: header.update(EXPTIME=30.0669))
    assert night.rejected == ()
    assert "exposure is not quite the 30 s of dark_exposure (10 of 10 frames)" in night.notes
    strict = night_of(change=lambda k, header: header.update(EXPTIME=30.0669), exposure_tolerance=0.001)
    assert rejected(strict) == dict.fromkeys(range(1, 11), "exposure")


def test_the_size_of_a_pixel_is_the_headers(night_of):
    night = night_of(change=lambda k, header: header.update(XPIXSZ=9.0))
    assert night.pixel_size == 9.0
    assert "XPIXSZ is not the 11 um of pixel_size (10 of 10 frames)" in night.notes
    silent = night_of(change=lambda k, header: header.remove("XPIXSZ"), pixel_size=5.4)
    assert silent.pixel_size == 5.4
    assert not any("XPIXSZ" in note for note in silent.notes)


def test_pixels_clipped_below_the_top_code(night_of, sound):
    stack = np.minimum(sound[:10], 57532)
    stack[:, 40:43, 50:53] = 57532
    night = night_of(stack)
    assert night.parameters.top_code == 57532
    assert any("clipped at 57,532 counts, below top_code 65,535" in note for note in night.notes)
    assert night_of().parameters.top_code == 65535


def test_copies_give_way_to_their_originals(night_of):
    night = night_of()
    folder = night.parameters.capture_directory
    for name in ("00003 (1).fits", "00004 - Copy.fits", "00005(2).fits"):
        (folder / name).write_bytes((folder / f"{name[:5]}.fits").read_bytes())
    again = judge_capture(night.parameters)
    assert again.names == night.names
    assert {(item.name, item.reason.value) for item in again.rejected} == {
        ("00003 (1).fits", "duplicate"),
        ("00004 - Copy.fits", "duplicate"),
        ("00005(2).fits", "duplicate"),
    }
