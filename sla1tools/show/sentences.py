"""Sentences that read the figures: every number in them is computed from the night they speak of."""

import numpy as np
from astropy.table import Table
from IPython.display import Markdown

from sla1tools.candidates.criteria import in_words
from sla1tools.candidates.hits import expected_muons
from sla1tools.candidates.rates import FRAMES_PER_NIGHT
from sla1tools.darks.structure import trend
from sla1tools.measure import Measurement
from sla1tools.show.characterization import LaCosmic
from sla1tools.show.tables import FakeCheck


def files(night: Measurement) -> Markdown:
    """How many files were used, and what was noted."""
    frames = night.summary["frames"]
    rejected = sum(len(names) for names in frames["rejected"].values())
    text = f"**{len(frames['used'])} frames used**, {rejected} rejected, {len(frames['ignored'])} ignored."
    return Markdown(text + _notes(night.capture.notes))


def _notes(notes) -> str:
    """List remarks; their texts come from file headers and are shown as code, so that nothing in them is markup."""
    return "".join(f"\n- `{note.replace('`', chr(39))}`" for note in notes)


def counts(night: Measurement) -> Markdown:
    """What the raw codes say about the padding."""
    return Markdown(night.audit.verdict)


def level(night: Measurement) -> Markdown:
    """Median level and noise."""
    dark = night.summary["dark"]
    return Markdown(
        f"Half of the pixels lie above **{dark['level']:.0f} e-**; the median noise of a held-out residual is "
        f"**{dark['noise']:.1f} e-**. The long tails of the histograms are the hot and the noisy pixels."
    )


def gain(night: Measurement) -> Markdown:
    """What photon transfer says of the configured gain."""
    transfer, configured = night.dark.noise_model.photon_transfer, night.parameters.scale
    if not transfer.can_tell:
        return Markdown(f"**Not tested:** {transfer.reason}.")
    agrees = "agrees with" if transfer.agrees_with(configured) else "**disagrees** with"
    pedestal = transfer.pedestal * configured
    error = transfer.pedestal_error * configured
    return Markdown(
        f"Measured gain **{transfer.gain:.4f} ± {transfer.gain_error:.4f} e-/count**; it {agrees} the configured "
        f"{configured:.4f} (at 95 %). If there is no read noise the pedestal is {pedestal:.0f} ± {error:.0f} e-."
    )


def muons(night: Measurement) -> Markdown:
    """Hits seen beside the muons expected."""
    frames = len(night.capture.frames)
    expected = expected_muons(night.capture.shape, night.parameters.dark_exposure)
    tracks = int(np.count_nonzero(night.hits["track"]))
    return Markdown(
        f"**{len(night.hits) / frames:.1f} hits per frame** ({tracks} of {len(night.hits)} are tracks); about "
        f"{expected:.1f} muons per frame are expected at sea level on a chip of 11 µm pixels."
    )


def lacosmic(check: LaCosmic) -> Markdown:
    """What L.A.Cosmic would do."""
    return Markdown(
        f"In the middle {check.side} x {check.side} pixels of the first frame, L.A.Cosmic flags {check.groups} groups; "
        f"{check.hits} hits were found there. Of {check.stars} stars of 5000 e- put there it takes "
        f"**{check.stars_flagged / max(check.stars, 1):.0%}** for cosmic rays, so it informs and decides nothing."
    )


def held_still(drift: Table) -> Markdown:
    """How far the level moved through the night, and whether it moved steadily."""
    offset = np.asarray(drift["offset"])
    slope = trend(np.arange(len(offset)), offset)
    noise = float(np.median(drift["noise"]))
    share = np.ptp(offset) / noise
    remark = "small beside the noise" if share < 0.1 else "large enough to matter: consider `level_correction: true`"
    steady = f"{slope.slope:+.2f} ± {slope.error:.2f} e- per frame" if np.isfinite(slope.slope) else "not tested"
    return Markdown(
        f"The frames' levels span **{np.ptp(offset):.1f} e-** ({steady}), {share:.2f} of one frame's noise of "
        f"{noise:.1f} e-: {remark}."
    )


def verdict(night: Measurement) -> Markdown:
    """The night's verdict and its reasons."""
    reasons = night.summary["reasons"]
    return Markdown(f"**Verdict: {night.summary['verdict']}.**" + _notes([*reasons, *night.summary["notes"]]))


def hold_out(night: Measurement) -> Markdown:
    """What holding the frame out changes."""
    numbers = night.summary["candidates"][night.parameters.criterion]
    return Markdown(
        f"Candidates in {len(night.capture.frames)} frames: **{numbers['held_out']} held out**, "
        f"{numbers['in_sample']} in sample. In sample a flash pulls the median it is compared with, and its "
        "noise looks smaller than it is; the held-out number is the one that holds for the next frame."
    )


def false_alarms(night: Measurement) -> Markdown:
    """Rate of false alarms with its limit, beside the Gaussian expectation."""
    rate = night.summary["false_alarms_per_frame"][night.parameters.criterion]
    return Markdown(
        f"At the configured cuts: **{rate['rate']:.2g} false alarms per frame**, below {rate['high']:.2g} at 95 %; "
        f"that is below {rate['high'] * FRAMES_PER_NIGHT:.0f} in an 8 h night of {FRAMES_PER_NIGHT} frames. Gaussian "
        f"noise alone would make {rate['gaussian_expectation']:.2g} per frame; the rest is the camera."
    )


def fake(check: FakeCheck) -> Markdown:
    """Whether the observers' fake was found."""
    found = "is found" if check.found else "is **not** found"
    return Markdown(
        f"The fake at x={check.x}, y={check.y} {found}; other candidates that appeared or vanished: "
        f"{check.others_changed}."
    )


def depth(night: Measurement) -> Markdown:
    """How much deeper one criterion goes than another."""
    flux = {name: limits["flux_50"]["flux"] for name, limits in night.summary["completeness"].items()}
    if not all(flux.values()):
        return Markdown(
            "At least one criterion finds half of the stars at no flux injected, or at all of them: see the curve."
        )
    ratio = max(flux.values()) / min(flux.values())
    limits = ", ".join(f"from **{value:.0f} e-** by `{name}`" for name, value in flux.items())
    return Markdown(
        f"Half of the stars are found {limits}: a factor of {ratio:.1f}, or {2.5 * np.log10(ratio):.1f} mag."
    )


def operating(night: Measurement) -> Markdown:
    """What to set, and how sure that is."""
    point = night.summary["operating_point"][night.parameters.criterion]
    if point is None:
        return Markdown("**Not tested:** no setting of the configured criterion finds half of the injected stars.")
    cuts = in_words(point["cuts"])
    quoted, chosen = point["quoted_on"], point["chosen_on"]
    text = (
        f"Recommended for `{point['criterion']}`: **{cuts}**. It finds half of the stars at {point['flux_50']:.0f} e-, "
        f"and made {quoted['count']} false alarms in the {quoted['frames']} frames that did not choose it "
        f"({quoted['rate']:.2g} per frame, below {quoted['high']:.2g} at 95 %)."
    )
    if not point["keeps_budget"]:
        least = -np.log(0.05) / night.parameters.false_alarm_budget
        text += (
            f" {chosen['frames']} frames without a false alarm only bound the rate below {chosen['high']:.2g}; to show "
            f"that the budget of {night.parameters.false_alarm_budget:g} is kept takes {2 * np.ceil(least):.0f} frames."
        )
    return Markdown(text)
