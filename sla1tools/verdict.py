"""The verdict on a night: what its numbers cannot be relied on for, what that means, and the one thing to do about it.

Each test speaks up on one of 10,000 sound nights at most. What a night cannot tell is no doubt: it is a note.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec

import numpy as np
from astropy.table import Table
from scipy import special
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from sla1tools.darks.telegraph import Together
from sla1tools.darks.transfer import PhotonTransfer
from sla1tools.frames.capture import Capture
from sla1tools.frames.codes import CountsAudit, positive
from sla1tools.frames.together import EIGHT_BIT, LEVEL_NOTED
from sla1tools.parameters import Parameters
from sla1tools.text import counted, listed, printable

SOUND_NIGHTS = 1e-4  # share of sound nights that a test may doubt
SIGMAS = -float(special.ndtri(SOUND_NIGHTS / 2))
BEYOND_BUDGET = 10.0
LEAST_NOISE = 0.2  # electrons: no camera's frame has less, one that counts single photons has 0.27
MOST_PEDESTAL = 0.25  # of the range of codes
BITS = (8, 10, 12, 14)  # of converters; those of 16 fill the files' words
SCALE_FACTOR = 1.5  # either way: gains of one camera as several people quote them differ by 1.3
TRACK_REACH = 5.0  # pixels between candidates of one track
LEAST_TRACK = 3
MOST_TRACED = 20_000


@dataclass(frozen=True)
class Doubt:
    """A reason why a night is not sound.

    Attributes
    ----------
    reason : str
        What was found, with its number.
    meaning : str
        What it does to the night's other numbers.
    cure : str
        The one thing to do.
    """

    reason: str
    meaning: str
    cure: str


@dataclass(frozen=True)
class Opinion:
    """Doubts, which degrade a night, and notes, which do not."""

    doubts: tuple[Doubt, ...] = ()
    notes: tuple[str, ...] = ()

    def __add__(self, other: "Opinion") -> "Opinion":
        """Both opinions, in order."""
        return Opinion(self.doubts + other.doubts, self.notes + other.notes)


Given = ParamSpec("Given")


def _opinion(judge: Callable[Given, Iterator[Doubt | str]]) -> Callable[Given, Opinion]:
    """Gather what a judge yields: a doubt, or the text of a note."""

    @wraps(judge)
    def judged(*args: Given.args, **named: Given.kwargs) -> Opinion:
        told = list(judge(*args, **named))
        doubts = tuple(one for one in told if isinstance(one, Doubt))
        return Opinion(doubts, tuple(one for one in told if isinstance(one, str)))

    return judged


@_opinion
def judge_frames(capture: Capture) -> Iterator[Doubt | str]:
    """Doubt a night whose files did not all belong to it."""
    cure = "look at the rejected files in the list of files: each says what was found"
    for reason, number in Counter(item.reason.value for item in capture.rejected).items():
        told = f"{counted(number, 'frame')} rejected: {reason}"
        yield Doubt(told, "the night's numbers are those of the frames that are left", cure)
    for told in capture.doubts:
        yield Doubt(
            told, "every number is that of a mixture", "give one state of the camera a folder, or a file_pattern"
        )
    yield from capture.notes


@_opinion
def judge_scale(capture: Capture, audit: CountsAudit, transfer: PhotonTransfer | None = None) -> Iterator[Doubt | str]:
    """Doubt a scale that photon transfer, the headers or the codes deny.

    Parameters
    ----------
    capture : Capture
        The first used frame's header is read.
    audit : CountsAudit
        Of the night's codes.
    transfer : PhotonTransfer, optional
        Where it can tell, a header's or the codes' word against a scale that it confirms is a note.

    Notes
    -----
    Codes off the configured padding, or few of them, deny the scale only where nothing confirms it: a camera may fill
    the low bits, and a bias has low codes. But headers do not outweigh steps that no converter makes, or a noise below
    any camera's: they tell of the counts before these were multiplied or cut.
    Photon transfer that hot pixels do not bear out may be that of a bias pattern: it confirms nothing, and headers that
    agree with the scale outweigh it.
    """
    parameters = capture.parameters
    stated, confirmed = _stated_scales(capture), False
    agreeing = [name for name, scale in stated.items() if not _apart(scale, parameters.scale)]
    if transfer is not None and transfer.can_tell:
        told = f"photon transfer measures {transfer.gain:.4f} ± {transfer.gain_error:.4f} electrons per count"
        told += "" if transfer.dark_signal else " if the level is dark signal, which a second exposure would tell"
        far = abs(1 / parameters.scale - transfer.slope) > SIGMAS * transfer.slope_error
        denied = far and _apart(transfer.gain, parameters.scale)
        confirmed = transfer.dark_signal and not denied
        if denied and (transfer.dark_signal or not agreeing):
            yield _wrong_scale(told, transfer.gain, parameters)
        elif not transfer.dark_signal or transfer.agrees_with(parameters.scale) is False:
            yield f"{told}, configured are {parameters.scale:.4f}"
    elif transfer is not None:
        yield f"photon transfer cannot tell the gain: {transfer.reason}"
    if stated and not agreeing:
        name, scale = next(iter(stated.items()))
        doubt = _wrong_scale(f"the headers' {name} is {scale:.4g} electrons per count", scale, parameters)
        yield f"{doubt.reason}, which photon transfer confirms" if confirmed else doubt
    changed = _changed_counts(capture, audit)
    if changed:
        told, scale, certain = changed
        doubt = _wrong_scale(told, scale, parameters)
        yield f"{doubt.reason}: {doubt.meaning}" if confirmed or (agreeing and not certain) else doubt
        return
    if not audit.padding_holds or audit.step > parameters.scale_due_to_padding:
        codes, step = audit.verdict.rstrip("."), audit.step if audit.padding_holds else 1
        denied = not (confirmed or agreeing)
        yield _wrong_scale(codes, parameters.scale_due_to_gain / step, parameters) if denied else f"{codes}."
    yield from _fewer_bits(capture, audit)


def _changed_counts(capture: Capture, audit: CountsAudit) -> tuple[str, float, bool] | None:
    """What shows that counts were cut or multiplied, electrons per count if so, and whether no sound night shows it."""
    parameters, highest, range_ = capture.parameters, capture.highest, capture.parameters.top_code + 1
    padding, noise = parameters.scale_due_to_padding, capture.noise * parameters.scale
    level = float(np.median([frame.level for frame in capture.frames]))
    least = (level - MOST_PEDESTAL * range_) / capture.noise**2  # electrons per count, if the rest is dark signal
    odd = audit.step // (audit.step & -audit.step or 1)
    quiet = f"a frame's noise is {noise:.2g} e-, and no camera has less than {LEAST_NOISE:g} e-"
    if odd > 1 and audit.step != padding:
        told = f"the codes go in steps of {audit.step}, as where counts were multiplied by {odd} after they were read"
        return told, parameters.scale / odd, True
    if noise < LEAST_NOISE and highest < EIGHT_BIT <= range_ / 16:
        told = f"no code is above {EIGHT_BIT - 1}: 8 bits, and top_code is {parameters.top_code:,}; {quiet}"
        return told, parameters.scale * range_ / EIGHT_BIT, True
    if noise < LEAST_NOISE:
        return quiet, parameters.scale * LEAST_NOISE / noise, True
    if least > SCALE_FACTOR * parameters.scale:
        told = (
            f"a noise of {capture.noise:.0f} counts is too little for the dark signal in a level of {level:,.0f} counts"
        )
        return f"{told}: flats, or another gain", least, True
    if highest < range_ / padding and not audit.padding_holds:
        told = f"no code is above {highest:,}, as without the padding of {padding:g}"
        return told, parameters.scale_due_to_gain, False
    return None


def _fewer_bits(capture: Capture, audit: CountsAudit) -> Iterator[str]:
    """Note codes that a converter of fewer bits could have made; bits that were cut off all frames cannot be told."""
    bits = next((bits for bits in BITS if capture.highest < 2**bits <= capture.parameters.top_code // 2), 0)
    if bits and audit.step <= 1:
        rail = 2**bits - 1
        yield f"no code is above {rail:,}: if the converter has {bits} bits, set top_code to {rail}, to find its rail"


def _apart(one: float, other: float) -> bool:
    return not 1 / SCALE_FACTOR <= one / other <= SCALE_FACTOR


def _stated_scales(capture: Capture) -> dict[str, float]:
    """Electrons per raw count as headers state them: EGAINSAV says it; EGAIN may be at the ADC's own depth."""
    header = capture.frames[0].header if capture.frames else {}
    saved, true = (positive(header.get(key)) for key in ("EGAINSAV", "EGAIN"))
    if saved:
        return {"EGAINSAV": saved}
    return {"EGAIN": true, "EGAIN over the padding": true / capture.parameters.scale_due_to_padding} if true else {}


def _wrong_scale(told: str, scale: float, parameters: Parameters) -> Doubt:
    really = parameters.threshold * scale / parameters.scale
    return Doubt(
        f"{told}, configured are {parameters.scale:.4g}",
        f"if {scale:.4g} electrons per count is right, your {parameters.threshold:,.0f} e- are {really:,.0f} e-",
        "look up the gain and the padding of this read mode, and set scale_due_to_gain and scale_due_to_padding",
    )


@_opinion
def judge_crowd(left_out: int, kept: int) -> Iterator[Doubt | str]:
    """Doubt a night with more leaders than were measured."""
    every = kept + left_out
    if left_out:
        yield Doubt(
            f"this is no night of darks, or it drifts: of {every:,} leaders the {kept:,} highest were measured",
            "no rate is known; a criterion that fits the PSF is counted among the measured leaders alone",
            "look at the frames in notebook 02: flats and stars do not belong here, and a drift needs level_correction",
        )


@_opinion
def judge_alarms(low: float | None, per_frame: dict[str, int], capture: Capture, noise: float) -> Iterator[Doubt | str]:
    """Doubt a night whose configured criterion alarms far beyond the budget, or in one frame far more than in others.

    Parameters
    ----------
    low : float or None
        Lower limit of the false alarms per frame; None where no rate is known.
    per_frame : dict of str to int
        Candidates in each used frame; those of one track count once (`event_sizes`).
    capture : Capture
        Its levels tell whether a drift explains it.
    noise : float
        Median noise of a residual, in electrons.
    """
    parameters, cure = capture.parameters, _cure_of_drift(capture, noise)
    rule, budget = parameters.criterion, parameters.false_alarm_budget
    if low is not None and low > BEYOND_BUDGET * budget:
        yield Doubt(
            f"false alarms of {rule}: more than {low:,.3g} a frame, and the budget is {budget:g}",
            "a flash in a science frame means nothing at this setting",
            cure or "choose a setting that keeps the budget with the sliders of notebook 02",
        )
    total, frames = sum(per_frame.values()), len(per_frame)
    chances = {  # of so many or more, binomial
        name: frames * special.betainc(count, total - count + 1, 1 / frames) for name, count in per_frame.items()
    }
    odd = {name: count for name, count in per_frame.items() if chances[name] < SOUND_NIGHTS}
    if odd:
        told = f"candidates of {rule} stand out in {len(odd)} of {frames} frames"
        counts = listed([f"{count:,} in {name}" for name, count in odd.items()], most=3)
        yield Doubt(
            f"{told}: {counts}; {total - sum(odd.values()):,} in all others together",
            "a rate per frame describes neither these frames nor the others",
            cure or f"look at {next(iter(odd))}, and move it away if it is no dark like the others",
        )


def _cure_of_drift(capture: Capture, noise: float) -> str:
    levels = [frame.level * capture.parameters.scale for frame in capture.frames]
    drifts = np.ptp(levels) > LEVEL_NOTED * noise and not capture.parameters.level_correction
    return "set level_correction: true, for the level drifts" if drifts else ""


def event_sizes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Candidates in each event: those of one track are one, each within 5 pixels of another of its event."""
    if len(x) < 2 or len(x) > MOST_TRACED:
        return np.ones(len(x), int)
    pairs = cKDTree(np.column_stack([x, y])).query_pairs(TRACK_REACH, output_type="ndarray")
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(x), len(x)))
    return np.bincount(connected_components(graph, directed=False)[1])


@_opinion
def name_tracks(sizes: dict[str, np.ndarray], area: int) -> Iterator[Doubt | str]:
    """Note frames in which three or more candidates lie in one track, as particles leave them.

    Parameters
    ----------
    sizes : dict of str to array
        `event_sizes` of each frame.
    area : int
        Pixels of a frame: nothing is named where so many candidates would lie together by chance.
    """
    total = sum(int(events.sum()) for events in sizes.values())
    for name, events in sizes.items():
        longest, number = int(events.max(initial=0)), int(events.sum())
        near = number * np.pi * TRACK_REACH**2 / area
        if longest >= LEAST_TRACK and number * near**2 < SOUND_NIGHTS:
            yield f"{longest} of the {total:,} candidates lie in one track, in {name}"


def name_telegraph(found: Table, numbers: dict) -> list[str]:
    """Note the night's telegraph pixels in a sentence; nothing where there are none.

    Parameters
    ----------
    found : Table
        As `telegraph.telegraph_pixels` gives it.
    numbers : dict
        As `summary.telegraph_numbers` gives them.
    """
    if not len(found):
        return []
    often, seldom = numbers["power"]
    return [
        f"{counted(len(found), 'telegraph pixel')} ({numbers['by_chance']:.2g} by chance; {numbers['frames']} frames "
        f"list {often:.0%} of those that are up by 5 sigma in 30 % of the time, {seldom:.0%} of those in 10 %): by "
        f"themselves they raise {numbers['predicted']:.2g} candidates of neighbor_ratio a frame, {numbers['seen']:.2g} "
        f"are seen on them; {Together(**numbers['together'])}"
    ]


@_opinion
def judge_completeness(chance: float, shares: dict[str, float], flux: float | None) -> Iterator[Doubt | str]:
    """Doubt completeness that differs between frames by more than chance.

    Parameters
    ----------
    chance : float
        Of such differences between frames that find alike (`completeness.frames_differ`).
    shares : dict of str to float
        Stars found over stars expected, by frame.
    flux : float or None
        The 50 % flux, for the words.
    """
    if chance < SOUND_NIGHTS:
        least, *_, most = sorted(shares, key=lambda name: shares[name])
        told = "the 50 % flux" if flux is None else f"the 50 % flux of {flux:,.0f} e-"
        yield Doubt(
            f"of the same stars {most} finds {shares[most] / shares[least]:.2f} times as many as {least}",
            f"{told} is an average over unlike frames, and its interval is that of a draw of frames",
            f"compare {least} with the others: its level, its noise, and what came before it",
        )


@_opinion
def judge_star_image(measured_on: str, camera: str | None) -> Iterator[Doubt | str]:
    """Doubt a PSF that was measured with another camera, as far as both are named."""
    if measured_on and camera and measured_on != printable(camera):
        yield Doubt(
            f"the star's image was measured with {measured_on}, these darks with {printable(camera)}",
            "p_value and completeness hold for the other camera's stars",
            "measure the star's image on frames of this camera (sla1 psf), or leave psf out",
        )


@_opinion
def judge_power(tested: dict[str, bool], frames: int, holds_a_stamp: bool, injections: int) -> Iterator[Doubt | str]:
    """Doubt a night that is too small to tell; a class that its camera cannot show is a note.

    Parameters
    ----------
    tested : dict of str to bool
        Pixel classes, and whether the night tells them.
    frames : int
        Used frames.
    holds_a_stamp : bool
        Whether a 5x5 stamp fits into a frame.
    injections : int
        Stars injected.
    """
    if injections == 0:
        yield "no star was injected: completeness is not tested"
    for name in (name for name, told in tested.items() if not told):
        if name == "zero_variance":
            yield "pixels of zero variance are not tested: at this noise good pixels repeat their count by chance"
        else:
            few = f"{frames} frames are too few to flag pixels that are {name}"
            yield Doubt(f"pixel class {name} could not be tested", few, "take at least five darks")
    if not holds_a_stamp:
        told = "completeness could not be tested: a frame is smaller than a 5x5 stamp"
        yield Doubt(told, "it is unknown how deep the night reaches", "check frame_shape")
