"""What the candidate explorer carries into the browser: both tables, the criteria as data, and the cutouts.

The front end (`selection.js`) selects on these tables by these criteria.
"""

import base64
import gzip
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from astropy.table import Table

from sla1tools.candidates import criteria, rates
from sla1tools.candidates.criteria import CRITERIA, CUTS
from sla1tools.candidates.leaders import STAMP_SIZE
from sla1tools.candidates.rows import UNITS, Floors
from sla1tools.candidates.selection import SAME_STAR, Criterion
from sla1tools.darks.classes import PixelClass, names_in
from sla1tools.injections import completeness
from sla1tools.injections.injection import ALREADY_THERE, Injections
from sla1tools.parameters import Parameters
from sla1tools.text import printable

ROWS = 50_000  # leaders carried: about 1 MB, and a selection in under 5 ms
CUTOUTS = 8_000  # a quarter of a megabyte
CLOSER_LOOKS = 200  # rows with wide cutouts
HISTORY_VALUES = 100_000
ZIPPED = 4  # level: 6 takes three times as long for 6 % less
LIMITS_LISTED = 200  # exact limits to this count, Wilson-Hilferty beyond
HELD_OUT = "leave_one_out"
FLUX: dict[str, Any] = {"label": "completeness at", "unit": "e-", "step": 0.05, "log": True, "opens": False}
SLIDERS = {name: {key: getattr(cut, key) for key in FLUX} for name, cut in CUTS.items()} | {"flux": FLUX}
# Of a leader, whatever the criteria ask: shown, sorted by, saved.
SHOWN = ("x", "y", "peak", "neighbor_min", "snr", "flux", "p_value", "rival_margin", "dq")


@dataclass(frozen=True)
class Exhibit:
    """What an explorer shows.

    Attributes
    ----------
    leaders : Table
        With the columns of `leaders.fits` and, in memory, `stamp` (n, 5, 5) in electrons. A column `night` (text) makes
        it an exhibit of many nights, which can be filtered by it; `frame` is then unique over all of them.
    injections : Injections or None
        As `inject` returns them; None where nothing was injected.
    parameters : Parameters
        The night's own setting: where the sliders start.
    frames : sequence of str
        Names of all frames searched, in order.
    floors : Floors
        What the leaders exceed: the sliders' minima.
    times : sequence of str
        When the frames began, UTC; none if not known.
    raw : Measurement, optional
        Whose raw frames are asked for a pixel's history and surroundings; None where there are none.
    show : {'candidates', 'injections'}
        Whose cutouts: the camera's candidates, or the injected stars, found and missed.
    """

    leaders: Table
    injections: Injections | None
    parameters: Parameters
    frames: Sequence[str]
    floors: Floors
    times: Sequence[str] = ()
    raw: Any = field(default=None, repr=False)
    show: str = "candidates"

    @classmethod
    def of(cls, night, show: str = "candidates") -> "Exhibit":
        """Exhibit a `measure.Measurement`. Stars are in no raw frame: they have stamps alone."""
        names, raw = night.capture.names, night if show == "candidates" and night.has_frames else None
        frames = names, night.floors, night.capture.times(names).tolist()
        return cls(night.leaders, night.injections, night.parameters, *frames, raw, show)

    @cached_property
    def carried(self) -> tuple[np.ndarray, Floors, bool]:
        """Rows of the leaders that are carried, as from `carried`."""
        return carried(self.leaders, self.parameters, self.floors)

    @cached_property
    def table(self) -> Table:
        """Rows that can be pictured: the carried leaders, or the injected stars."""
        stars = self.leaders[:0] if self.injections is None else self.injections.trials
        return self.leaders[self.carried[0]] if self.show == "candidates" else stars

    def stamps(self, rows) -> np.ndarray:
        """Residuals of 5x5 pixels around pictured rows, (n, 5, 5) electrons."""
        return np.asarray(self.table["stamp"][rows], np.float32).reshape(-1, STAMP_SIZE, STAMP_SIZE)

    def closer(self, rows) -> np.ndarray:
        """Residual, frame and reference of 15x15 pixels around rows, over the reference's median, (n, 3, 15, 15) e-."""
        frame, reference = np.moveaxis(self.raw.surroundings(*self._places(rows)), 1, 0)
        level = np.nanmedian(reference, axis=(1, 2), keepdims=True)
        return np.stack([frame - reference, frame - level, reference - level], axis=1)

    def history(self, rows) -> np.ndarray:
        """Residuals of rows' pixels in every frame, held out and in sample, over one noise, (n, N, 2)."""
        return np.asarray(self.raw.history(*self._places(rows)), np.float64)

    def _places(self, rows):
        shown = self.table["x", "y", "frame"][rows]
        return np.asarray(shown["x"]), np.asarray(shown["y"]), _frames_of(shown, self.frames)


def payload(exhibit: Exhibit) -> dict[str, Any]:
    """Pack both tables and the cutouts for the front end; plain JSON, no NaN.

    Notes
    -----
    At most `ROWS` leaders are carried. Beyond that the sliders' floors rise, never above the configured cuts, so that
    every count above the floors stays exact; where even that is not enough the brightest are carried and
    `carried.complete` is False.
    """
    parameters = exhibit.parameters
    rows, floors, complete = exhibit.carried
    leaders = exhibit.leaders[rows]
    low, high = parameters.injection_flux_range
    bounds = {name: list(cut.ends(parameters, floors)) for name, cut in CUTS.items()} | {"flux": [low, high]}
    chosen = _pictured(leaders, parameters, bounds) if exhibit.show == "candidates" else with_stamp(exhibit.table)
    cutouts = _first(chosen, ROWS if "night" in leaders.colnames else CUTOUTS, exhibit.show)
    return {
        "show": exhibit.show,
        "criteria": [_rule(criterion) for criterion in criteria.criteria_of(parameters).values()],
        "same_star": SAME_STAR,
        "sliders": SLIDERS,
        "units": {name: UNITS.get(name, "") for name in SHOWN},
        "already": ALREADY_THERE,
        "own": int(parameters.reference == HELD_OUT),
        "interactive": True,
        "frames": [printable(name) for name in exhibit.frames],
        "times": list(exhibit.times),
        "shape": list(parameters.frame_shape),
        "hours": parameters.night_hours,
        "frames_per_night": parameters.frames_per_night,
        "budget": parameters.false_alarm_budget,
        "zero_point": parameters.zero_point,
        "setting": setting(parameters),
        "bounds": bounds,
        "carried": {
            "rows": len(leaders),
            "total": len(exhibit.leaders) + floors.left_out,
            "complete": complete and not floors.left_out,
            "floors": asdict(floors),
        },
        "leaders": _pack_leaders(leaders, exhibit),
        "trials": _pack_trials(exhibit),
        "cutouts": _pack_cutouts(exhibit, cutouts) | {"possible": len(chosen)},
        "histories": _pack_histories(exhibit, cutouts),
        "classes": [[int(flag), names_in(flag)] for flag in PixelClass],
        "limits": [round(rates.poisson_rate(n, 1).high, 6) for n in range(LIMITS_LISTED)],
    }


def _rule(criterion: Criterion) -> dict[str, Any]:
    """Put a criterion into plain JSON: what the front end selects by."""
    terms = [{key: value for key, value in asdict(term).items() if value is not None} for term in criterion.terms]
    cuts = [cut.name for cut in criterion.cuts]
    return {"name": criterion.name, "color": criterion.color, "cuts": cuts, "terms": terms, "best": criterion.best}


def setting(parameters: Parameters) -> dict[str, Any]:
    """Where the sliders start: the night's own cuts, and a flux to ask completeness at."""
    low, high = parameters.injection_flux_range
    cuts = {name: max(getattr(parameters, name), cut.low if cut.opens else -np.inf) for name, cut in CUTS.items()}
    return {"criterion": list(CRITERIA).index(parameters.criterion), **cuts, "flux": min(max(1000.0, low), high)}


def cuts_of(values: Mapping[str, float]) -> dict[str, float]:
    """Cuts that the sliders' values stand for: the low end of one that opens there is 0."""
    return {name: 0.0 if cut.opens and values[name] <= cut.low else values[name] for name, cut in CUTS.items()}


def carried(
    leaders: Table, parameters: Parameters, floors: Floors, most: int = ROWS
) -> tuple[np.ndarray, Floors, bool]:
    """Choose the leaders to carry: all, or those above raised floors that leave at most `most`.

    Returns
    -------
    index : (n,) int array
        Rows of the table, in its order.
    floors : Floors
        Every leader with a peak above the one or an S/N above the other is carried.
    complete : bool
        False if even the configured cuts leave more than `most`: only the brightest are carried.
    """
    peak, snr = (np.nan_to_num(filled(leaders[name]), nan=-np.inf) for name in ("peak", "snr"))
    if len(leaders) <= most:
        return np.arange(len(leaders)), floors, True
    highest = Floors.highest(parameters)
    snr_floor = _floor(snr, most // 2, floors.snr, highest.snr)
    rest = max(most - int(np.count_nonzero(snr >= snr_floor)), most // 2)
    raised = Floors(_floor(peak, rest, floors.peak, highest.peak), snr_floor, floors.left_out)
    # A slider may stand on its floor, where a criterion may take an S/N equal to it.
    index = np.flatnonzero(raised.keep(peak, snr) | (snr == raised.snr))
    if len(index) <= most:
        return index, raised, True
    brightest = np.argsort(-np.maximum(peak[index] / highest.peak, snr[index] / highest.snr))[:most]
    return np.sort(index[brightest]), raised, False


def _floor(values: np.ndarray, most: int, floor: float, cut: float) -> float:
    """Return the least floor that at most so many values exceed, never above the configured cut."""
    return min(cut, max(floor, float(np.partition(values, -most - 1)[-most - 1])))


def filled(column) -> np.ndarray:
    """Float values of a column, NaN where masked."""
    return np.ma.filled(np.ma.asarray(column).astype(np.float64), np.nan)


def reachable(leaders: Table, parameters: Parameters, bounds: Mapping[str, Sequence[float]]) -> np.ndarray:
    """Which leaders of the configured reference are candidates at some setting of the sliders, (n,) bool.

    A few more may be among them: of a star that leads twice only one counts at a time.
    """
    ends = [{name: float(bounds[name][end]) for name in CUTS} for end in (0, 1)]
    cuts = [cuts_of(values) for values in ends]
    passes = [
        np.all([term.holds(leaders, cuts[0]) | term.holds(leaders, cuts[1]) for term in criterion.terms], axis=0)
        for criterion in criteria.criteria_of(parameters).values()
    ]
    return np.any(passes, axis=0) & (np.asarray(leaders["reference"]) == parameters.reference)


def _pictured(leaders: Table, parameters: Parameters, bounds: Mapping[str, Sequence[float]]) -> np.ndarray:
    """Rows that can be shown at all: the configured candidates first, then those nearest to being any's."""
    rows = np.flatnonzero(reachable(leaders, parameters, bounds))
    some, rules = leaders[rows], criteria.criteria_of(parameters).values()
    near = np.max([_nearness(rule, some, parameters) for rule in rules], axis=0)
    near[criteria.candidates(leaders, parameters)[rows]] = np.inf
    return rows[np.lexsort((-np.asarray(some["peak"]), -near))]  # as the gallery begins: the brightest first


def _nearness(criterion: Criterion, rows: Table, parameters: Parameters) -> np.ndarray:
    """How near each row is to passing: the least share of a bound that it reaches, 1 if it passes."""
    cuts, nearest = criterion.configured(parameters), np.ones(len(rows))
    for term in criterion.terms:
        share = term.holds(rows, cuts).astype(float)
        if term.comparison != "has no bit of":
            value, limit = filled(rows[term.column]), term.limit(rows, cuts)
            part, whole = (value, limit) if term.comparison in (">", ">=") else (limit, value)
            with np.errstate(divide="ignore", invalid="ignore"):
                share = np.maximum(share, np.clip(np.nan_to_num(part / whole), 0, 1))
        nearest = np.minimum(nearest, share)
    return nearest


def with_stamp(trials: Table) -> np.ndarray:
    """Trials that have a cutout: those with a leader, whatever became of it."""
    return np.flatnonzero(np.isfinite(trials["stamp"][:, 2, 2])) if len(trials) else np.zeros(0, int)


def _first(rows: np.ndarray, most: int, show: str) -> np.ndarray:
    """Rows whose cutouts are carried where not all can be: the nearest candidates, or stars evenly over all."""
    if len(rows) <= most or show == "candidates":
        return rows[:most]
    return rows[np.linspace(0, len(rows) - 1, most).astype(int)]


def pack_column(values) -> dict[str, Any]:
    """Pack a column so that the front end gets back exactly these numbers, in few bytes.

    Parameters
    ----------
    values : (n,) array
        Integers, booleans or floats; masked floats become NaN.

    Returns
    -------
    packed : dict
        `type` (u1, u2, i4, f4 or f8, little-endian) and `zip` (base64 of gzip).
    """
    values = np.ma.asarray(values)
    if values.dtype.kind == "f":
        values = filled(values)
        with np.errstate(over="ignore"):
            single = values.astype("<f4")
        same = np.array_equal(single.astype(np.float64), values, equal_nan=True)
        return {"type": "f4", "zip": _zip(single)} if same else {"type": "f8", "zip": _zip(values.astype("<f8"))}
    values = np.ma.filled(values, 0).astype(np.int64)
    top, least = (int(values.max()), int(values.min())) if len(values) else (0, 0)
    kind = "i4" if least < 0 or top >= 2**16 else "u2" if top >= 2**8 else "u1"
    return {"type": kind, "zip": _zip(values.astype(f"<{kind}"))}


def _zip(values: np.ndarray) -> str:
    return base64.b64encode(gzip.compress(np.ascontiguousarray(values).tobytes(), ZIPPED, mtime=0)).decode()


def _words(column) -> tuple[list[str], np.ndarray]:
    """Distinct texts of a column and each row's place among them."""
    texts = np.ma.filled(np.ma.asarray(column).astype(str), "")
    names, place = np.unique(texts, return_inverse=True)
    return [str(name) for name in names], place


def _pack_rows(rows: Table, shown: Sequence[str], more: dict[str, np.ndarray]) -> dict[str, Any]:
    """Pack what the criteria ask of a leader, what is shown of it, and further columns."""
    asked = [name for rule in CRITERIA.values() for term in rule.terms for name in (term.column, term.factor) if name]
    rivals, rival = _words(rows["best_rival"][: len(rows) if shown is SHOWN else 0])
    columns = {name: rows[name] for name in dict.fromkeys((*shown, *asked))} | {"rival": rival} | more
    return {"n": len(rows), "rivals": rivals} | {name: pack_column(values) for name, values in columns.items()}


def _frames_of(rows: Table, frames: Sequence[str]) -> np.ndarray:
    order = {str(name): k for k, name in enumerate(frames)}
    return np.array([order.get(name, 0) for name in np.asarray(rows["frame"]).tolist()], np.int64)


def _pack_leaders(leaders: Table, exhibit: Exhibit) -> dict[str, Any]:
    more = {"frame": _frames_of(leaders, exhibit.frames), "held": np.asarray(leaders["reference"]) == HELD_OUT}
    nights: list[str] = []
    if "night" in leaders.colnames:
        nights, more["night"] = _words(leaders["night"])
    shown = SHOWN if exhibit.show == "candidates" else ("x", "y")  # places tell which lead twice
    return _pack_rows(leaders, shown, more) | {"nights": nights}


def _pack_trials(exhibit: Exhibit) -> dict[str, Any] | None:
    """Pack every star, and under `leaders` the rows that decide whether it is found."""
    injections = exhibit.injections
    if injections is None or len(injections.trials) == 0:
        return None
    shown = SHOWN if exhibit.show == "injections" else ()
    trials, leaders = injections.trials, injections.leaders
    edges = completeness.flux_bins(exhibit.parameters.injection_flux_range)
    flux = np.asarray(trials["flux_true"], np.float64)
    return {
        "n": len(trials),
        "edges": [float(edge) for edge in edges],
        "bin": pack_column(completeness.bin_of_flux(flux, edges)),
        "flux": pack_column(flux.astype(np.float32)),
        "frame": pack_column(_frames_of(trials, exhibit.frames)),
        "leader": pack_column(injections.shown),
        "leaders": _pack_rows(leaders, shown, {"star": leaders["star"], "before": leaders["before"]}),
    }


def stretch(stamps: np.ndarray) -> dict[str, float]:
    """One asinh stretch for a whole gallery, so that brightness means the same at every setting.

    Parameters
    ----------
    stamps : (n, 5, 5) array
        Electrons; NaN beyond the frame.

    Returns
    -------
    stretch : dict
        `soft` (electrons, where the stretch turns from linear to logarithmic: the noise of the stamps' rims), `low`
        and `high` (electrons, black and white).
    """
    rim = np.concatenate([stamps[:, 0].ravel(), stamps[:, -1].ravel()])
    rim = rim[np.isfinite(rim)]
    soft = float(1.4826 * np.median(np.abs(rim - np.median(rim)))) if len(rim) else 1.0
    soft = soft if soft > 0 else 1.0
    finite = stamps[np.isfinite(stamps)]
    top = float(np.quantile(finite, 0.999)) if len(finite) else 0.0
    return {"soft": soft, "low": -3 * soft, "high": max(top, 10 * soft)}


def shades(stamps: np.ndarray, scale: Mapping[str, float]) -> np.ndarray:
    """Grey levels of stamps, uint8: 0 (low) to 254 (high), 255 where NaN."""
    black, white = (math.asinh(scale[end] / scale["soft"]) for end in ("low", "high"))
    level = np.clip((np.arcsinh(stamps / scale["soft"]) - black) / (white - black), 0, 1) * 254
    return np.where(np.isnan(level), 255, np.rint(np.nan_to_num(level))).astype(np.uint8)


def _pack_cutouts(exhibit: Exhibit, chosen: np.ndarray) -> dict[str, Any]:
    stamps = exhibit.stamps(chosen)
    scale = stretch(stamps)
    packed = scale | {"rows": pack_column(chosen), "shades": pack_column(shades(stamps, scale).ravel())}
    if exhibit.raw is None:
        return packed
    return packed | {"closer": pack_column(shades(exhibit.closer(chosen[:CLOSER_LOOKS]), scale).ravel())}


def _pack_histories(exhibit: Exhibit, chosen: np.ndarray) -> dict[str, Any] | None:
    frames = len(exhibit.frames)
    if exhibit.raw is None or len(chosen) == 0 or frames == 0:
        return None
    shown = chosen[: max(HISTORY_VALUES // frames, 1)]
    sigmas = np.clip(exhibit.history(shown), -1e6, 1e6).round(1)
    return {"shown": len(shown), "sigmas": pack_column(sigmas.ravel().astype(np.float32))}
