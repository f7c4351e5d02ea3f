"""From a night's frames to its tables and numbers: the one pure function that everything else reads."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from astropy.table import Table

from sla1tools.candidates.criteria import CRITERIA, CUTS, candidates
from sla1tools.candidates.detection import detect_night
from sla1tools.candidates.rows import Floors
from sla1tools.darks.model import DarkModel, characterize
from sla1tools.darks.reference import Reference
from sla1tools.errors import NightError, ParametersError
from sla1tools.frames.capture import Capture, judge_capture
from sla1tools.frames.codes import CountsAudit, audit_capture
from sla1tools.injections.counts import count_settings, tradeoff
from sla1tools.injections.injection import Injections, inject
from sla1tools.parameters import Parameters, validate
from sla1tools.published.formats import from_half, to_half
from sla1tools.summary import FACTS, facts_of, summarize, telegraph_numbers
from sla1tools.verdict import Doubt

SELECTING = (
    *(*CUTS, "criterion", "excluded_classes", "false_alarm_budget", "night_hours", "interactive", "published"),
    "products_directory",
)
"""Parameters that measuring does not depend on; any other, a new one too, makes a night another to be measured."""
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
        What its telegraph pixels come to (`summary.telegraph_numbers`).
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
    injections = injections.judged(capture.parameters)
    counts = count_settings(leaders, injections, capture.names, floors, capture.parameters, before)
    facts = facts or facts_of(capture, dark, audit)
    telegraph = telegraph_numbers(capture, dark, leaders)
    parts = (capture, dark, leaders, injections, hits, floors, counts, audit)
    night = Measurement(*parts, summary=facts, telegraph=telegraph)
    summary, doubts = summarize(night)
    return replace(night, summary=summary, doubts=doubts)


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
