"""From a night's frames to its tables and numbers: the one pure function that everything else reads."""

from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from astropy.table import Table

from sla1tools import verdict
from sla1tools.candidates.criteria import CRITERIA, CUTS, candidate_noise, candidates
from sla1tools.candidates.detection import detect_night
from sla1tools.candidates.psf import psf_of
from sla1tools.candidates.rates import CONFIDENCE, poisson_rate, telegraph_expectation
from sla1tools.candidates.rows import Floors
from sla1tools.darks.classes import PixelClass
from sla1tools.darks.model import DarkModel, characterize
from sla1tools.darks.reference import Reference
from sla1tools.darks.telegraph import jump_together
from sla1tools.errors import NightError, ParametersError
from sla1tools.frames.capture import Capture, judge_capture
from sla1tools.frames.codes import CountsAudit, audit_capture
from sla1tools.injections import completeness
from sla1tools.injections.counts import count_settings, tradeoff
from sla1tools.injections.injection import Injections, holds_a_stamp, inject
from sla1tools.injections.operating_point import operating_point
from sla1tools.parameters import Parameters, validate
from sla1tools.published.formats import from_half, to_half
from sla1tools.verdict import Doubt, Opinion

SELECTING = (
    *(*CUTS, "criterion", "excluded_classes", "false_alarm_budget", "night_hours", "interactive", "published"),
    "products_directory",
)
"""Parameters that measuring does not depend on; any other, a new one too, makes a night another to be measured."""
FACTS = ("night", "frames", "counts", "dark", "pixels")  # of the summary, which no cut moves
SURROUNDINGS = 7  # pixels to either side


@dataclass(frozen=True)
class Measurement:
    """A measured night.

    Attributes
    ----------
    capture : Capture
        Frames and verdicts.
    dark : DarkModel
        Reference, noise, pixel classes.
    leaders : Table
        Every leader above the floors, against both references, with a `stamp` column: electrons, rounded to a 16th of
        the night's noise (`published.to_half`).
    injections : Injections
        Every injected star (`trials`, with a `stamp` column), and every leader that decides whether one is found.
    hits : Table
        Cosmic-ray-like hits of all frames.
    floors : Floors
        What the leaders exceed.
    counts : (1 + settings, 2 + flux bins) int32 array
        Candidates and found stars at every setting of every criterion (`counts.count_settings`).
    audit : CountsAudit
        What the raw codes say about the padding.
    summary : dict
        The numbers, in the shape of `summary.json`.
    doubts : tuple of Doubt
        What keeps the night from being sound, the gravest first; their reasons are the summary's.
    telegraph : dict
        What its telegraph pixels come to (`telegraph_numbers`).
    """

    capture: Capture
    dark: DarkModel
    leaders: Table
    injections: Injections
    hits: Table
    floors: Floors
    counts: np.ndarray
    audit: CountsAudit
    summary: dict = field(repr=False)
    doubts: tuple[Doubt, ...] = ()
    telegraph: dict = field(default_factory=dict, repr=False)

    @property
    def parameters(self) -> Parameters:
        """The night's parameters."""
        return self.capture.parameters

    @property
    def trials(self) -> Table:
        """Every injected star."""
        return self.injections.trials

    @property
    def grid(self) -> Table:
        """False alarms and 50 % flux at every setting (`counts.tradeoff`)."""
        return tradeoff(self.counts, self.parameters)

    @property
    def with_frames(self) -> "Measurement":
        """The same with its raw frames at hand: what is asked below is asked of it."""
        return self

    @cached_property
    def has_frames(self) -> bool:
        """Whether the raw frames are there to be asked, and those that were measured."""
        try:
            return bool(self.with_frames)
        except NightError:
            return False

    def residual(self, k: int, reference: Reference | None = None) -> np.ndarray:
        """Subtract frame k's reference (the configured one by default) from it, (ny, nx) float64 electrons.

        Raises
        ------
        ParametersError
            Where the night has no such frame.
        """
        night = self.with_frames
        night.capture.require_frame(k)
        counts = night.capture.rows(k, 0, night.capture.shape[0])
        return night.dark.residual(counts, reference or self.parameters.reference)

    def histories(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Held-out residuals of n pixels in every frame, in units of their noise, (n, N)."""
        night, where = self.with_frames, (np.asarray(y), np.asarray(x))
        scaled = []
        for k in range(len(night.capture.frames)):
            counts = night.capture.rows(k, 0, night.capture.shape[0])[where]
            residual = night.dark.residual(counts, "leave_one_out", where)
            scaled.append(residual / night.dark.sigma(counts, where, "leave_one_out"))
        return np.stack(scaled, axis=1)

    def history(self, x: np.ndarray, y: np.ndarray, frame: np.ndarray) -> np.ndarray:
        """Residuals of n pixels in every frame, over one noise a pixel, held out and in sample, (n, N, 2).

        The noise is that of a held-out residual by the frames other than `frame`, (n,) indices: a flash in that frame
        has no part in it.
        """
        night, where, own = self.with_frames, (np.asarray(y), np.asarray(x)), np.asarray(frame)
        noise, residuals = np.full(len(own), np.nan), []
        for k in range(len(night.capture.frames)):
            counts = night.capture.rows(k, 0, night.capture.shape[0])[where]
            residuals.append([night.dark.residual(counts, reference, where) for reference in ("leave_one_out", "all")])
            noise = np.where(own == k, night.dark.sigma(counts, where, "leave_one_out"), noise)
        return np.moveaxis(np.array(residuals), 2, 0) / noise[:, None, None]

    def surroundings(self, x: np.ndarray, y: np.ndarray, frame: np.ndarray) -> np.ndarray:
        """Cut 15x15 pixels around n pixels out of their frames and of what these are compared with, (n, 2, 15, 15).

        In electrons, without a reference subtracted; NaN beyond the edge. `frame` are (n,) indices.
        """
        cut = np.full((len(x), 2, 2 * SURROUNDINGS + 1, 2 * SURROUNDINGS + 1), np.nan)
        night, (ny, nx), reach = self.with_frames, self.capture.shape, np.arange(-SURROUNDINGS, SURROUNDINGS + 1)
        for pair, row, column, k in zip(cut, np.asarray(y), np.asarray(x), np.asarray(frame), strict=True):
            rows, columns = row + reach, column + reach
            inside = np.ix_((rows >= 0) & (rows < ny), (columns >= 0) & (columns < nx))
            where = np.s_[max(rows[0], 0) : rows[-1] + 1, max(columns[0], 0) : columns[-1] + 1]
            counts = night.capture.rows(k, where[0].start, min(where[0].stop, ny))[:, where[1]]
            pair[0][inside] = counts * night.dark.scale
            pair[1][inside] = pair[0][inside] - night.dark.residual(counts, self.parameters.reference, where)
        return cut

    def per_frame(self, rows: Table) -> np.ndarray:
        """Count the rows of a table in each used frame, (N,) int, in file order."""
        frames = np.asarray(rows["frame"])
        return np.array([np.count_nonzero(frames == name) for name in self.capture.names])

    def candidates(self, criterion: str | None = None, reference: str | None = None, **cuts: float) -> Table:
        """Select the leaders that pass a criterion, at any cuts; nothing is measured again.

        Parameters
        ----------
        criterion : str, optional
            Name of one of `CRITERIA`; the configured one by default.
        reference : {'leave_one_out', 'all'}, optional
            What the frames are compared with: the configured one by default.
        **cuts : float
            Cuts of that criterion, each as the parameter of its name; the configured ones else.

        Raises
        ------
        ParametersError
            Where a cut is not one of the criterion's, or lies below what the leaders were kept from.
        """
        chosen = validate(
            self.parameters.model_dump()
            | {"criterion": criterion or self.parameters.criterion, "reference": reference or self.parameters.reference}
            | cuts,
            "candidates",
        )
        own = CRITERIA[chosen.criterion].configured(chosen)
        for name in cuts:
            if name not in own:
                told = " and ".join(own)
                raise ParametersError(f"candidates: {name} is no cut of {chosen.criterion}, whose cuts are {told}")
        self.floors.refuse_below(chosen)
        held = self.leaders["reference"] == chosen.reference
        return self.timed(self.leaders[candidates(self.leaders, chosen) & held])

    def timed(self, rows: Table) -> Table:
        """Return rows of a table with `time`, when their frame's exposure began (UTC), beside `frame`."""
        rows = rows.copy(copy_data=False)
        rows.add_column(self.capture.times(rows["frame"]), index=rows.colnames.index("frame") + 1, name="time")
        return rows


def measure_night(parameters: Parameters, progress=None) -> Measurement:
    """Read, characterize, detect, inject and sum up one night.

    Parameters
    ----------
    parameters : Parameters
        Which night, and how.
    progress : callable, optional
        Called with a word for each step that is done.

    Raises
    ------
    NightError
        Where the night is unusable: no such folder, or fewer than three usable frames.
    """
    step = progress or (lambda _: None)
    capture = judge_capture(parameters)
    capture.require_usable()
    step("frames judged")
    audit = audit_capture(capture)
    dark = characterize(capture, audit.step)
    step("darks characterized")
    leaders, hits, floors = detect_night(capture, dark)
    step("leaders measured")
    injections = inject(capture, dark, floors)
    step("stars injected")
    # as a published night keeps them: opened again it is the same
    leaders["stamp"], stamps = (
        from_half(to_half(np.asarray(part), dark.median_noise), dark.median_noise)
        for part in (leaders["stamp"], injections.stamps)
    )
    measured = _summed_up(capture, dark, leaders, replace(injections, stamps=stamps), hits, floors, audit)
    step("night summed up")
    return measured


def _summed_up(capture, dark, leaders, injections, hits, floors, audit, facts=None, before=None) -> Measurement:
    """Count, judge and sum up; `facts` and the counts `before` are taken over from other cuts, where they are known."""
    parameters, injections = capture.parameters, injections.judged(capture.parameters)
    counts = count_settings(leaders, injections, capture.names, floors, parameters, before)
    grid = tradeoff(counts, parameters)
    facts = facts or _facts(capture, dark, audit)
    telegraph = telegraph_numbers(capture, dark, leaders)
    summary, doubts = summarize(capture, dark, leaders, injections.trials, floors, grid, audit, facts, telegraph)
    return Measurement(capture, dark, leaders, injections, hits, floors, counts, audit, summary, doubts, telegraph)


def depends_on(parameters: Parameters) -> dict[str, Any]:
    """Return the parameters that measuring depends on, in plain types: all but what only selects and shows."""
    return parameters.model_dump(mode="json", exclude=set(SELECTING))


def selected_again(measured: Measurement, parameters: Parameters) -> Measurement | None:
    """Sum up a measured night at other cuts, or by another criterion.

    Parameters
    ----------
    measured : Measurement
        Of parameters that `depends_on` tells not from the new ones, and of the same files.
    parameters : Parameters
        What to select by.

    Returns
    -------
    night : Measurement or None
        What `measure_night` would return; None where the new cuts have other floors than leaders were kept above.
    """
    chosen = {name: getattr(parameters, name) for name in SELECTING}
    capture = replace(measured.capture, parameters=measured.parameters.model_copy(update=chosen))
    if capture.parameters == measured.parameters:
        return measured
    facts = {name: measured.summary[name] for name in FACTS}
    if measured.floors != Floors.of(capture.parameters, facts["dark"]["noise"]):
        return None
    before = measured.counts if parameters.excluded_classes == measured.parameters.excluded_classes else None
    parts = (measured.dark, measured.leaders, measured.injections, measured.hits, measured.floors, measured.audit)
    return _summed_up(capture, *parts, facts, before)


def _facts(capture, dark, audit) -> dict[str, Any]:
    """Return what `summary.json` says of the night whatever its cuts are: `FACTS`."""
    parameters, transfer = capture.parameters, dark.noise_model.photon_transfer
    rejected = dict.fromkeys(item.reason.value for item in capture.rejected)
    return {
        "night": {key: getattr(parameters, key) for key in ("capture_date", "capture_time", "object_name")},
        "frames": {
            "used": capture.names,
            "rejected": {
                reason: [item.name for item in capture.rejected if item.reason.value == reason] for reason in rejected
            },
            "ignored": list(capture.ignored),
        },
        "counts": {
            "low_bit_use": [float(share) for share in audit.low_bit_use],
            "step": audit.step,
            "top_code_seen": audit.top_code_seen,
            "padding_holds": audit.padding_holds,
        },
        "dark": {
            "level": float(np.median(dark.master)),
            "noise": dark.median_noise,
            "gain_measured": _finite(transfer.gain) if transfer.dark_signal else None,
            "gain_configured": parameters.scale,
            "pedestal": _finite(transfer.pedestal * parameters.scale),
        },
        "pixels": dict(dark.classes.counts),
    }


def summarize(capture, dark, leaders, trials, floors, grid, audit, facts, telegraph) -> tuple[dict, tuple[Doubt, ...]]:
    """Put the night's numbers together in the shape of `summary.json`: plain types, None where not tested.

    Beside them the doubts whose reasons the summary names.
    """
    parameters, median_noise = capture.parameters, facts["dark"]["noise"]
    noise = candidate_noise(dark, parameters)
    per_criterion = {
        name: _criterion_numbers(name, capture, dark, noise, leaders, trials, floors, grid) for name in CRITERIA
    }
    opinion = _judge(capture, dark, leaders, floors, audit, median_noise, per_criterion[parameters.criterion])
    summary = {
        "night": facts["night"],
        "verdict": "degraded" if opinion.doubts else "ok",
        "reasons": [doubt.reason for doubt in opinion.doubts],
        "notes": [
            *opinion.notes,
            *_floors_note(Floors.of(parameters, median_noise), floors),
            *verdict.name_telegraph(dark.classes.telegraph, telegraph),
        ],
        "floors": asdict(floors),
        **facts,
        "candidates": {name: numbers["candidates"] for name, numbers in per_criterion.items()},
        "false_alarms_per_frame": {name: numbers["false_alarms"] for name, numbers in per_criterion.items()},
        "completeness": {name: numbers["completeness"] for name, numbers in per_criterion.items()},
        "operating_point": {name: numbers["operating_point"] for name, numbers in per_criterion.items()},
    }
    return summary, opinion.doubts


def _judge(capture, dark, leaders, floors, audit, median_noise, numbers) -> Opinion:
    """Everything that can be said against the night, the gravest first."""
    parameters = capture.parameters
    found = leaders[candidates(leaders, parameters) & (leaders["reference"] == parameters.reference)]
    own = {name: found[found["frame"] == name] for name in capture.names}
    events = {name: verdict.event_sizes(np.asarray(rows["x"]), np.asarray(rows["y"])) for name, rows in own.items()}
    seen = numbers["candidates"]["per_frame"] if floors.left_out else map(len, events.values())
    per_frame = dict(zip(capture.names, seen, strict=True))
    chance, shares = numbers["between_frames"]
    frames, fits = len(capture.frames), holds_a_stamp(capture.shape)
    return (
        verdict.judge_crowd(floors.left_out, len(leaders))
        + verdict.judge_scale(capture, audit, dark.noise_model.photon_transfer)
        + verdict.judge_alarms(numbers["false_alarms"]["low"], per_frame, capture, median_noise)
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


def _criterion_numbers(criterion, capture, dark, noise, leaders, trials, floors, grid) -> dict:
    parameters = capture.parameters
    passing = leaders[candidates(leaders, parameters, criterion)]
    counts = {
        reference: [int(np.count_nonzero(own["frame"] == name)) for name in capture.names]
        for reference in ("leave_one_out", "all")
        for own in [passing[passing["reference"] == reference]]
    }
    for reference, frames in leaders.meta.get("counted", {}).items():
        counts[reference] = [counted[criterion] for counted in frames]

    def limits_of(count):
        rate = poisson_rate(count, len(capture.frames))
        return {end: None if floors.left_out else getattr(rate, end) for end in ("rate", "low", "high")}

    alarms = limits_of(sum(counts[parameters.reference]))
    if parameters.excluded_classes:
        anywhere = candidates(leaders, parameters.model_copy(update={"excluded_classes": ()}), criterion)
        anywhere &= np.asarray(leaders["reference"] == parameters.reference)
        alarms["every_pixel"] = limits_of(int(anywhere.sum()))
    if dark.classes.counts["known"]:
        alarms["known"] = _known_that_flash(leaders, parameters, criterion)
    flux, recovered = np.asarray(trials["flux_true"]), np.asarray(trials[f"recovered_{criterion}"])
    frame, edges = np.asarray(trials["frame"]), completeness.flux_bins(parameters.injection_flux_range)
    curve = completeness.completeness_curve(flux, recovered, edges)
    limits = {level: completeness.flux_limit(curve, level) for level in (0.5, 0.9)}
    chance, shares = completeness.frames_differ(frame, flux, recovered, edges)
    if chance < verdict.SOUND_NIGHTS:
        limits = {level: completeness.flux_limit_over_frames(frame, flux, recovered, edges, level) for level in limits}
    point = operating_point(grid, criterion, len(capture.frames), parameters.false_alarm_budget)
    return {
        "candidates": {
            "held_out": sum(counts["leave_one_out"]),
            "in_sample": sum(counts["all"]),
            "per_frame": counts[parameters.reference],
        },
        "false_alarms": {
            **alarms,
            "confidence": CONFIDENCE,
            "gaussian_expectation": CRITERIA[criterion].expected(noise, parameters),
        },
        "completeness": {
            "flux_50": asdict(limits[0.5]),
            "flux_90": asdict(limits[0.9]),
            "curve": [{name: _finite(row[name]) for name in curve.colnames} for row in curve] if len(trials) else [],
        },
        "between_frames": (chance, shares),
        "operating_point": asdict(point) if point else None,
    }
