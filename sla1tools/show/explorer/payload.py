"""What the candidate explorer carries into the browser, and the numbers it must show there.

The front end (`explorer.js`) selects on the same two tables by the same rules. `live_numbers` is the definition it is
tested against.
"""

import base64
import gzip
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from astropy.table import Table

from sla1tools.candidates import criteria, rates
from sla1tools.candidates.detection import Floors
from sla1tools.candidates.leaders import STAMP_SIZE
from sla1tools.darks.classes import BLOCKING, PixelClass
from sla1tools.injections import completeness
from sla1tools.parameters import Parameters
from sla1tools.text import printable

ROWS = 50_000  # leaders carried: about 1 MB, and a selection in under 5 ms
CUTOUTS = 3_000
STORY_VALUES = 200_000
LIMITS_LISTED = 200  # exact limits to this count, Wilson-Hilferty beyond
HELD_OUT = "leave_one_out"
INFINITE, UNKNOWN = 2**31 - 1, -(2**31)  # how the integer columns spell infinity and NaN
P_OPEN = 1e-12  # the p slider's lower end, which cuts nothing


def live_numbers(
    leaders: Table, trials: Table | None, parameters: Parameters, n_frames: int, flux: float
) -> dict[str, Any]:
    """Count what a setting lets through and what it finds: the numbers beside the gallery.

    Parameters
    ----------
    leaders, trials : Table
        The night's leader and trial tables; `trials` may be None or empty: nothing was injected. A bool column
        `prior` in `trials` marks a candidate that was there before the injection: no recovery.
    parameters : Parameters
        The setting: criterion and its cuts.
    n_frames : int
        Frames searched.
    flux : float
        Where completeness is wanted, in electrons.

    Returns
    -------
    numbers : dict
        `held_out`, `in_sample` (candidates against each reference); `rate`, `limit` (false alarms a frame against the
        configured reference, and the 95 % upper limit); `completeness`, `low`, `high`, `found`, `injected` in the flux
        bin that holds `flux` (None where nothing was injected); `flux_50` (electrons; None where completeness never
        rises through 0.5).
    """
    passes = criteria.candidates(leaders, parameters)
    held = np.asarray(leaders["reference"]) == HELD_OUT
    held_out, in_sample = int(np.sum(passes & held)), int(np.sum(passes & ~held))
    rate = rates.poisson_rate(held_out if parameters.reference == HELD_OUT else in_sample, n_frames)
    numbers = {
        "held_out": held_out,
        "in_sample": in_sample,
        "rate": rate.rate,
        "limit": rate.high,
        **dict.fromkeys(("completeness", "low", "high", "found", "injected", "flux_50")),
    }
    if trials is None or len(trials) == 0:
        return numbers
    edges = completeness.flux_bins(parameters.injection_flux_range)
    curve = completeness.completeness_curve(np.asarray(trials["flux_true"]), recovered(trials, parameters), edges)
    place = curve[int(completeness.bin_of_flux(np.array([flux]), edges)[0])]
    numbers |= {"found": int(place["recovered"]), "injected": int(place["injected"])}
    if place["injected"]:
        numbers |= {name: float(place[name]) for name in ("completeness", "low", "high")}
    some = curve[np.asarray(curve["injected"]) > 0]
    if len(some) > 1:
        crossing = completeness.crossings(
            np.log(np.asarray(some["flux"])), np.asarray(some["completeness"])[None], 0.5
        )[0]
        numbers["flux_50"] = float(np.exp(crossing)) if np.isfinite(crossing) else None
    return numbers


def recovered(trials: Table, parameters: Parameters) -> np.ndarray:
    """Which injected stars a setting finds, (n,) bool.

    Every trial is an experiment of its own: stars injected near one another never compete.
    """
    alone = Table(
        {name: trials[name] for name in ("peak", "neighbor_min", "snr", "p_value", "x", "y", "dq")}, copy=False
    )
    alone["frame"] = np.arange(len(trials))
    alone["reference"] = HELD_OUT
    found = criteria.candidates(alone, parameters)
    return found & ~np.asarray(trials["prior"], bool) if "prior" in trials.colnames else found


def payload(
    leaders: Table,
    trials: Table | None,
    parameters: Parameters,
    frames: Sequence[str],
    floors: Floors,
    stories: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    show: str = "candidates",
) -> dict[str, Any]:
    """Pack both tables and the cutouts for the front end; plain JSON, no NaN.

    Parameters
    ----------
    leaders, trials : Table
        With the columns of `leaders.fits` and `injections.fits` and, in memory, `stamp` (n, 5, 5) in electrons.
    parameters : Parameters
        The night's own setting: where the sliders start.
    frames : sequence of str
        Names of all frames searched, in order.
    floors : Floors
        What the leaders exceed: the sliders' minima.
    stories : callable, optional
        ``stories(x, y)`` gives (n, N) held-out residuals of n pixels in every frame, in units of their noise.
    show : {'candidates', 'injections'}
        Whose cutouts are shown.

    Notes
    -----
    At most `ROWS` leaders are carried. Beyond that the sliders' floors rise, never above the configured cuts, so that
    every count above the floors stays exact; where even that is not enough the brightest are carried and
    `carried.complete` is False.
    """
    rows, floors, complete = carried(leaders, parameters, floors)
    leaders, total = leaders[rows], len(leaders)
    pictured = leaders if show == "candidates" else trials
    chosen = _pictured(leaders, parameters) if show == "candidates" else _spread(trials)
    bounds = _bounds(parameters, floors)
    return {
        "show": show,
        "own": int(parameters.reference == HELD_OUT),
        "interactive": True,
        "frames": [printable(name) for name in frames],
        "shape": list(parameters.frame_shape),
        "exposure": parameters.dark_exposure,
        "budget": parameters.false_alarm_budget,
        "setting": setting(parameters),
        "bounds": bounds,
        "carried": {"rows": len(leaders), "total": total, "complete": complete, "floors": asdict(floors)},
        "leaders": _pack_rows(leaders, parameters, frames),
        "trials": _pack_trials(trials, parameters, frames),
        "cutouts": _pack_cutouts(pictured, chosen),
        "stories": _pack_stories(pictured, chosen, stories, len(frames)),
        "classes": dq_classes(),
        "limits": [round(rates.poisson_rate(n, 1).high, 6) for n in range(LIMITS_LISTED)],
    }


def setting(parameters: Parameters) -> dict[str, Any]:
    """Where the sliders start: the night's own cuts, and a flux to ask completeness at."""
    low, high = parameters.injection_flux_range
    return {
        "criterion": ("neighbor_ratio", "psf_chi2").index(parameters.criterion),
        "threshold": parameters.threshold,
        "ratio": parameters.ratio,
        "snr_min": parameters.snr_min,
        "p_min": max(parameters.p_min, P_OPEN),
        "flux": min(max(1000.0, low), high),
    }


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
    snr_floor = _floor(snr, most // 2, floors.snr, parameters.snr_min)
    rest = max(most - int(np.count_nonzero(snr >= snr_floor)), most // 2)
    raised = Floors(_floor(peak, rest, floors.peak, parameters.threshold), snr_floor)
    # A slider may stand on its floor, where psf_chi2 takes S/N equal to it.
    index = np.flatnonzero(raised.keep(peak, snr) | (snr == raised.snr))
    if len(index) <= most:
        return index, raised, True
    brightest = np.argsort(-np.maximum(peak[index] / parameters.threshold, snr[index] / parameters.snr_min))[:most]
    return np.sort(index[brightest]), raised, False


def _floor(values: np.ndarray, most: int, floor: float, cut: float) -> float:
    """Return the least floor that at most so many values exceed, never above the configured cut."""
    return min(cut, max(floor, float(np.partition(values, -most - 1)[-most - 1])))


def filled(column) -> np.ndarray:
    """Float values of a column, NaN where masked."""
    return np.ma.filled(np.ma.asarray(column).astype(np.float64), np.nan)


def dq_classes() -> list[list]:
    """Bits and names of the pixel classes, [[bit, name], ...]."""
    return [[int(flag), str(flag.name).lower()] for flag in PixelClass]


def _bounds(parameters: Parameters, floors: Floors) -> dict[str, list[float]]:
    """Ends of the sliders, round numbers where the night's own cuts leave room for them."""
    low, high = parameters.injection_flux_range
    return {
        "threshold": [min(math.ceil(floors.peak), parameters.threshold), max(1000.0, 5 * parameters.threshold)],
        "ratio": [0.0, 1.0],
        "snr_min": [min(math.ceil(10 * floors.snr) / 10, parameters.snr_min), max(30.0, 5 * parameters.snr_min)],
        "p_min": [P_OPEN, 0.999],
        "flux": [low, high],
    }


def _pictured(leaders: Table, parameters: Parameters) -> np.ndarray:
    """Rows of the configured reference that get a cutout: its candidates first, then those other settings let in."""
    own = np.asarray(leaders["reference"]) == parameters.reference
    lowest = np.asarray(leaders["neighbor_min"], np.float64)
    lowest = np.where(np.isfinite(lowest), lowest, np.asarray(leaders["peak"]))
    snr = np.where(filled(leaders["p_value"]) > 1e-6, np.nan_to_num(filled(leaders["snr"])), 0.0)
    rank = np.maximum(np.nan_to_num(lowest) / max(parameters.ratio * parameters.threshold, 1), snr / parameters.snr_min)
    rank[criteria.candidates(leaders, parameters)] = np.inf
    rank[~own] = -np.inf
    return np.argsort(-rank, kind="stable")[: min(CUTOUTS, int(own.sum()))]


def _spread(trials: Table | None) -> np.ndarray:
    """Trials that get a cutout: evenly among those with a leader, whatever became of it."""
    led = np.zeros(0, int) if trials is None else np.flatnonzero(np.isfinite(trials["stamp"][:, 2, 2]))
    return led[np.unique(np.linspace(0, len(led) - 1, min(CUTOUTS, len(led))).astype(int))]


def pack_column(values, unit: float | None = None) -> dict[str, Any]:
    """Pack a column so that the front end gets back exactly these numbers, in few bytes.

    Parameters
    ----------
    values : (n,) array
        Integers, booleans or floats; masked floats become NaN.
    unit : float, optional
        If every finite value is exactly an integer times this, the integers travel.

    Returns
    -------
    packed : dict
        `type` (u1, u2, i4, f4 or f8, little-endian), `zip` (base64 of gzip), and `unit` where integers stand for it.
    """
    values = np.ma.asarray(values)
    if values.dtype.kind == "f":
        values = filled(values)
        with np.errstate(invalid="ignore", over="ignore"):
            whole = np.rint(values / unit) if unit else values
            fits = unit is not None and (whole * unit == values) & (np.abs(whole) < INFINITE)
            exact = unit is not None and np.all(fits | ~np.isfinite(values))
            single = values.astype("<f4")
        if exact and not np.any(values == -np.inf):
            whole = np.select([np.isnan(values), values == np.inf], [UNKNOWN, INFINITE], whole)
            return {"type": "i4", "unit": unit, "zip": _zip(whole.astype("<i4"))}
        same = np.array_equal(single.astype(np.float64), values, equal_nan=True)
        return {"type": "f4", "zip": _zip(single)} if same else {"type": "f8", "zip": _zip(values.astype("<f8"))}
    values = np.ma.filled(values, 0).astype(np.int64)
    top, least = (int(values.max()), int(values.min())) if len(values) else (0, 0)
    kind = "i4" if least < 0 or top >= 2**16 else "u2" if top >= 2**8 else "u1"
    return {"type": kind, "zip": _zip(values.astype(f"<{kind}"))}


def _zip(values: np.ndarray) -> str:
    return base64.b64encode(gzip.compress(np.ascontiguousarray(values).tobytes(), 6, mtime=0)).decode()


def _words(column) -> tuple[list[str], np.ndarray]:
    """Distinct texts of a column and each row's place among them."""
    texts = np.ma.filled(np.ma.asarray(column).astype(str), "")
    names, place = np.unique(texts, return_inverse=True)
    return [str(name) for name in names], place


def _pack_rows(rows: Table, parameters: Parameters, frames: Sequence[str]) -> dict[str, Any]:
    unit = parameters.scale / 2
    order = {str(name): k for k, name in enumerate(frames)}
    rivals, rival = _words(rows["best_rival"])
    dq = np.asarray(np.ma.filled(np.ma.asarray(rows["dq"]), 0))
    packed = {
        "n": len(rows),
        "rivals": rivals,
        "frame": pack_column(np.array([order.get(str(name), 0) for name in rows["frame"]], np.int64)),
        "x": pack_column(rows["x"]),
        "y": pack_column(rows["y"]),
        "peak": pack_column(rows["peak"], unit),
        "neighbor_min": pack_column(rows["neighbor_min"], unit),
        "snr": pack_column(rows["snr"]),
        "p_value": pack_column(rows["p_value"]),
        "rival": pack_column(rival),
        "dq": pack_column(dq),
        "blocked": pack_column((dq & BLOCKING) != 0),
    }
    if "reference" in rows.colnames:
        packed["held"] = pack_column(np.asarray(rows["reference"]) == HELD_OUT)
    return packed


def _pack_trials(trials: Table | None, parameters: Parameters, frames: Sequence[str]) -> dict[str, Any] | None:
    if trials is None or len(trials) == 0:
        return None
    edges = completeness.flux_bins(parameters.injection_flux_range)
    flux = np.asarray(trials["flux_true"], np.float64)
    prior = np.asarray(trials["prior"], bool) if "prior" in trials.colnames else np.zeros(len(trials), bool)
    return _pack_rows(trials, parameters, frames) | {
        "edges": [float(edge) for edge in edges],
        "bin": pack_column(completeness.bin_of_flux(flux, edges)),
        "prior": pack_column(prior),
        "flux": pack_column(flux.astype(np.float32)),
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


def _stamps(table: Table | None, chosen: np.ndarray) -> np.ndarray:
    if table is None or "stamp" not in table.colnames or len(chosen) == 0:
        return np.full((len(chosen), STAMP_SIZE, STAMP_SIZE), np.nan, np.float32)
    return np.asarray(table["stamp"][chosen], np.float32)


def _pack_cutouts(table: Table | None, chosen: np.ndarray) -> dict[str, Any]:
    stamps = _stamps(table, chosen)
    scale = stretch(stamps)
    return scale | {"rows": pack_column(chosen), "shades": pack_column(shades(stamps, scale).ravel())}


def _pack_stories(table, chosen, stories, n_frames) -> dict[str, Any] | None:
    if stories is None or table is None or len(chosen) == 0 or n_frames == 0:
        return None
    told = chosen[: max(STORY_VALUES // n_frames, 1)]
    sigmas = np.asarray(stories(np.asarray(table["x"])[told], np.asarray(table["y"])[told]), np.float64)
    tenths = np.rint(np.clip(sigmas, -1e6, 1e6) * 10)
    return {"told": len(told), "sigmas": pack_column(tenths.ravel() * 0.1, 0.1)}
