"""What a measured night comes to: the numbers of `summary.json`, and all that can be said against the night."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
from astropy.table import Table

from sla1tools import verdict
from sla1tools.candidates.criteria import CRITERIA, candidate_noise, candidates
from sla1tools.candidates.psf import psf_of
from sla1tools.candidates.rates import CONFIDENCE, poisson_rate, telegraph_expectation
from sla1tools.candidates.rows import Floors
from sla1tools.darks.classes import PixelClass
from sla1tools.darks.model import DarkModel
from sla1tools.darks.telegraph import jump_together
from sla1tools.frames.capture import Capture
from sla1tools.injections import completeness
from sla1tools.injections.injection import holds_a_stamp
from sla1tools.injections.operating_point import operating_point
from sla1tools.parameters import Parameters
from sla1tools.verdict import Doubt, Opinion

FACTS = ("night", "frames", "counts", "dark", "pixels")  # which no cut moves
BY_CRITERION = ("candidates", "false_alarms_per_frame", "completeness", "operating_point")


def facts_of(capture, dark, audit) -> dict[str, Any]:
    """Return what `summary.json` says of the night whatever its cuts are: `FACTS`."""
    parameters, transfer = capture.parameters, dark.noise_model.photon_transfer
    rejected: dict[str, list[str]] = {}
    for item in capture.rejected:
        rejected.setdefault(item.reason.value, []).append(item.name)
    return {
        "night": {key: getattr(parameters, key) for key in ("capture_date", "capture_time", "object_name")},
        "frames": {"used": capture.names, "rejected": rejected, "ignored": list(capture.ignored)},
        "counts": {
            "low_bit_use": [float(share) for share in audit.low_bit_use],
            "step": audit.step,
            "top_code_seen": audit.top_code_seen,
            "padding_holds": audit.padding_holds,
        },
        "dark": {
            "level": float(np.median(dark.master, overwrite_input=True)),
            "noise": dark.median_noise,
            "gain_measured": _finite(transfer.gain) if transfer.dark_signal else None,
            "gain_configured": parameters.scale,
            "pedestal": _finite(transfer.pedestal * parameters.scale),
        },
        "pixels": dict(dark.classes.counts),
    }


def summarize(night) -> tuple[dict[str, Any], tuple[Doubt, ...]]:
    """Put the night's numbers together in the shape of `summary.json`: plain types, None where not tested.

    Beside them the doubts whose reasons the summary names. `night` is a `measure.Measurement` whose own summary has no
    more than its facts yet.
    """
    parameters, noise, grid = night.parameters, candidate_noise(night.dark, night.parameters), night.grid
    numbers = {name: _criterion_numbers(night, name, noise, grid) for name in CRITERIA}
    opinion = _judge(night, numbers[parameters.criterion])
    summary = {
        "night": night.summary["night"],
        "verdict": "degraded" if opinion.doubts else "ok",
        "reasons": [doubt.reason for doubt in opinion.doubts],
        "notes": [
            *opinion.notes,
            *_floors_note(Floors.of(parameters, night.summary["dark"]["noise"]), night.floors),
            *verdict.name_telegraph(night.dark.classes.telegraph, night.telegraph),
        ],
        "floors": asdict(night.floors),
        **night.summary,
        **{key: {name: own[key] for name, own in numbers.items()} for key in BY_CRITERION},
    }
    return summary, opinion.doubts


def _judge(night, numbers) -> Opinion:
    """Everything that can be said against the night, the gravest first."""
    capture, dark, parameters = night.capture, night.dark, night.parameters
    found = night.leaders[candidates(night.leaders, parameters) & (night.leaders["reference"] == parameters.reference)]
    own = {name: found[found["frame"] == name] for name in capture.names}
    events = {name: verdict.event_sizes(np.asarray(rows["x"]), np.asarray(rows["y"])) for name, rows in own.items()}
    seen = numbers["candidates"]["per_frame"] if night.floors.left_out else map(len, events.values())
    per_frame = dict(zip(capture.names, seen, strict=True))
    low, noise = numbers["false_alarms_per_frame"]["low"], night.summary["dark"]["noise"]
    chance, shares = numbers["between_frames"]
    frames, fits = len(capture.frames), holds_a_stamp(capture.shape)
    return (
        verdict.judge_crowd(night.floors.left_out, len(night.leaders))
        + verdict.judge_scale(capture, night.audit, dark.noise_model.photon_transfer)
        + verdict.judge_alarms(low, per_frame, capture, noise)
        + verdict.name_tracks(events, capture.shape[0] * capture.shape[1])
        + verdict.judge_completeness(chance, shares, numbers["completeness"]["flux_50"]["flux"])
        + verdict.judge_frames(capture)
        + verdict.judge_star_image(psf_of(parameters).camera, capture.camera)
        + verdict.judge_power(dark.classes.tested, frames, fits, parameters.injections)
    )


def telegraph_numbers(capture: Capture, dark: DarkModel, leaders: Table) -> dict:
    """Return what a night's telegraph pixels come to, in plain types; {} where they are not tested.

    `frames`; `power` to list a pixel that is up by 5 sigma in 30 % and 10 % of the frames; `by_chance`, Gaussian pixels
    listed; `predicted`, candidates of the observers' rule a frame that these pixels alone raise (none if excluded), and
    `seen`, those on them; `together`, as `telegraph.Together`.
    """
    classes, found = dark.classes, dark.classes.telegraph
    excluded = "telegraph" in capture.parameters.excluded_classes
    if not classes.tested["unstable"]:
        return {}
    passing = leaders[candidates(leaders, capture.parameters, "neighbor_ratio")]
    own = passing[passing["reference"] == capture.parameters.reference]
    seen = np.count_nonzero(np.asarray(own["dq"]) & PixelClass.UNSTABLE)
    return {
        "frames": len(capture.frames),
        "power": [classes.power["unstable"], classes.power["unstable_10_percent"]],
        "by_chance": classes.expected_false["unstable"],
        "predicted": 0.0 if excluded else telegraph_expectation(dark, capture.parameters),
        "seen": seen / len(capture.frames),
        "together": asdict(jump_together(found, capture.shape)),
    }


def _floors_note(usual: Floors, floors: Floors) -> list[str]:
    if replace(floors, left_out=0) == usual:
        return []
    return [
        f"too many leaders for one table: its floors were raised to {floors.peak:.0f} e- or S/N {floors.snr:.1f}; "
        "the configured cuts lie above them still"
    ]


def _finite(value) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None


def _known_that_flash(leaders: Table, parameters: Parameters, criterion: str) -> list[tuple[int, int]]:
    """List the known pixels (x, y) that make candidates, or would if they were not listed."""
    unlisted = Table(leaders, copy=False)
    unlisted["dq"] = leaders["dq"] & ~np.int32(PixelClass.KNOWN)
    flash = candidates(unlisted, parameters.model_copy(update={"excluded_classes": ()}), criterion)
    own = leaders[flash & (leaders["dq"] != unlisted["dq"]) & (leaders["reference"] == parameters.reference)]
    return sorted(set(zip(own["x"].tolist(), own["y"].tolist(), strict=True)))


def _criterion_numbers(night, criterion: str, noise: np.ndarray, grid: Table) -> dict[str, Any]:
    leaders, floors, parameters, frames = night.leaders, night.floors, night.parameters, len(night.capture.frames)
    passing = leaders[candidates(leaders, parameters, criterion)]
    references = ("leave_one_out", "all")
    counts = {name: night.per_frame(passing[passing["reference"] == name]).tolist() for name in references}
    for reference, counted in leaders.meta.get("counted", {}).items():
        counts[reference] = [frame[criterion] for frame in counted]

    def limits_of(count):
        rate = poisson_rate(count, frames)
        return {end: None if floors.left_out else getattr(rate, end) for end in ("rate", "low", "high")}

    alarms = limits_of(sum(counts[parameters.reference]))
    if parameters.excluded_classes:
        anywhere = candidates(leaders, parameters.model_copy(update={"excluded_classes": ()}), criterion)
        anywhere &= np.asarray(leaders["reference"] == parameters.reference)
        alarms["every_pixel"] = limits_of(int(anywhere.sum()))
    if night.dark.classes.counts["known"]:
        alarms["known"] = _known_that_flash(leaders, parameters, criterion)
    stars, edges = night.trials, completeness.flux_bins(parameters.injection_flux_range)
    frame, flux, recovered = (np.asarray(stars[name]) for name in ("frame", "flux_true", f"recovered_{criterion}"))
    curve = completeness.completeness_curve(flux, recovered, edges)
    limits = {level: completeness.flux_limit(curve, level) for level in (0.5, 0.9)}
    chance, shares = completeness.frames_differ(frame, flux, recovered, edges)
    if chance < verdict.SOUND_NIGHTS:
        limits = {level: completeness.flux_limit_over_frames(frame, flux, recovered, edges, level) for level in limits}
    point = operating_point(grid, criterion, frames, parameters.false_alarm_budget)
    return {
        "candidates": {
            "held_out": sum(counts["leave_one_out"]),
            "in_sample": sum(counts["all"]),
            "per_frame": counts[parameters.reference],
        },
        "false_alarms_per_frame": {
            **alarms,
            "confidence": CONFIDENCE,
            "gaussian_expectation": CRITERIA[criterion].expected(noise, parameters),
        },
        "completeness": {
            "flux_50": asdict(limits[0.5]),
            "flux_90": asdict(limits[0.9]),
            "curve": [{name: _finite(row[name]) for name in curve.colnames} for row in curve] if len(stars) else [],
        },
        "between_frames": (chance, shares),
        "operating_point": asdict(point) if point else None,
    }
