"""Dark current of a chip, from published captures at several exposures or temperatures; nothing is read from raw files.

    level = pedestal + rate x,   x = exposure 2^((T - T0) / doubling)

The mean level of ordinary pixels and the mean excess of hot ones share x; each capture's temperature is good to 0.05 K.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits
from astropy.table import Table
from scipy import special

from sla1tools.darks.classes import PixelClass
from sla1tools.darks.noise import combined_variance, residual_factor
from sla1tools.darks.structure import line_medians, smooth_level
from sla1tools.darks.variance import variance_ratio_ppf
from sla1tools.frames.fits import read_plane
from sla1tools.nights.trends import MASTER, NightRecord
from sla1tools.published import TRENDS
from sla1tools.published.folder import write_whole
from sla1tools.published.formats import DAMAGE, read_archive, write_archive
from sla1tools.text import chance_text

LEAST, MOST = 3, 8  # captures
MOST_TRIED = 3  # captures alike in exposure and temperature that are looked at for one of the same chip
SAME_KELVIN, LEAST_SPAN = 1.0, 3.0  # K within which temperatures are one, and that a series spans
TEMPERATURE_ERROR = 0.05  # K, that a cooler and its thermometer repeat
TYPICAL_DOUBLING = 6.0  # K, of silicon near 250 K: without a series, only to turn that error into one of the level
CORRELATION, SIGMAS = 0.02, 7.0  # that fixed patterns of one chip exceed; 1 sigma is 1.4 / sqrt(pixels)
PATTERN_SIGMAS = 5.0  # at which a pattern is clipped: hot pixels alone must not make it
SAMPLED = 1 << 18
HOT_ERRORS, LEAST_HOT = 20.0, 10  # by which a pixel of the highest capture stands out to count as hot; pixels
PRECISION = 0.25  # relative 95 % error above which a number is not quoted
MEDIAN_LOSS = 1.3  # errors of a robust variance over those of a mean square
BENT = 1e-3  # chance below which captures do not lie on the line
UNKNOWN = 1e9  # 1 sigma of what nothing tells
Z_95 = 1.959964
UNUSABLE = PixelClass.METADATA | PixelClass.ZERO_VARIANCE | PixelClass.SATURATED
STEADY = ~np.uint16(PixelClass.EDGE | PixelClass.WARM | PixelClass.HOT)
DARK_CURRENT, KEPT = "dark_current.fits", f"{TRENDS}/dark_current.npz"
MAPS = {"RATE": "electron/s", "RATE_ERR": "electron/s", "PEDESTAL": "electron", "PED_ERR": "electron"}


@dataclass(frozen=True)
class Value:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class DarkCurrent:
    """What a ladder of captures of one chip tells.

    Attributes
    ----------
    reason : str
        What was found, or what is missing.
    captures : Table
        A row each: `night`, `exposure` (s), `temperature` (C, NaN unknown), `frames`; `signal` (x, s); `level`,
        `error` and `fitted` (electrons, mean of ordinary pixels), `variance` and `variance_error` (of one frame,
        electrons squared). No rows where nothing was fitted.
    temperature : float
        T0, degrees Celsius; NaN where unknown.
    values : dict of str to Value
        `electrons_per_second` and `pedestal` (electrons) of the half of the pixels whose level is nearest to the median
        one, `doubling_kelvin`, and `gain` (electrons per count: variance against level over the captures, so without
        a free pedestal); what the range is too little for is missing.
    hot : list of tuple
        x, y, rate and its error of the ten brightest pixels, electrons a second.
    maps : dict of str to array
        `MAPS`: (ny, nx) float32; NaN where fewer than two captures tell. `follow_dark_current` gives none.
    digest : str
        Of the captures that it was measured from, where `follow_dark_current` measured it.
    """

    reason: str
    captures: Table = field(default_factory=Table)
    temperature: float = np.nan
    values: dict[str, Value] = field(default_factory=dict)
    hot: list[tuple] = field(default_factory=list)
    maps: dict[str, Any] = field(default_factory=dict, repr=False)
    digest: str = ""

    def numbers(self) -> dict:
        """Return the numbers in the shape of `season.json`: plain types, None where not tested."""
        names = ("electrons_per_second", "pedestal", "doubling_kelvin", "gain")
        values = {name: asdict(self.values[name]) if name in self.values else None for name in names}
        return values | {"temperature": None if np.isnan(self.temperature) else self.temperature, "reason": self.reason}


class _Rung(NamedTuple):
    """A capture with its maps: master, 1 sigma of a frame and of the master (electrons), bit planes."""

    record: NightRecord
    master: np.ndarray
    spread: np.ndarray
    error: np.ndarray
    dq: np.ndarray


def measure_dark_current(records: Sequence[NightRecord], outputs: Path) -> DarkCurrent:
    """Measure the chip that was captured at most exposures and temperatures.

    Parameters
    ----------
    records : sequence of NightRecord
        In order of time.
    outputs : Path
        Their folder.

    Notes
    -----
    Captures of one chip have the same instrument, shape, gain, offset and scale, and fixed patterns that correlate. Of
    captures alike in exposure and temperature the latest is used. Three or more exposures of one temperature give rate
    and pedestal, three or more temperatures the doubling, too. Intervals hold the scatter about the fit, with few
    captures at a Student's quantile.
    """
    best = _ladder(records)
    if len(best) < LEAST:
        return _missing([slot[0] for slot in best])
    for first in range(len(best)):  # where another chip's capture comes first, nothing correlates with it
        rungs, others = _of_one_chip([*best[first:], *best[:first]], outputs)
        if len(rungs) >= LEAST:
            return _fit(rungs, others)
    return _missing([rung.record for rung in rungs])


def _ladder(records: Sequence[NightRecord]) -> list[list[NightRecord]]:
    """Put captures of one camera and setting into slots of one exposure and temperature, the latest first."""
    ladders: dict[tuple, list[list[NightRecord]]] = {}
    for record in reversed([record for record in records if record.published and record.frames and any(record.shape)]):
        slots = ladders.setdefault((record.shape, record.instrument, *record.chip), [])
        slot = next((slot for slot in slots if _alike(_state(slot[0]), _state(record))), None)
        if slot is None:
            slots.append(slot := [])
        slot.append(record)
    return max(ladders.values(), key=len, default=[])


def _state(record: NightRecord) -> tuple[float, float]:
    """Exposure and temperature; NaN where unknown."""
    heat = record.values.get("temperature")
    return float(record.parameters["dark_exposure"]), np.nan if heat is None else heat


def _alike(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] == other[0] and not abs(one[1] - other[1]) > SAME_KELVIN


def _missing(records: Sequence[NightRecord]) -> DarkCurrent:
    states = [f"{exposure:g} s" + f" at {heat:g} °C" * (heat == heat) for exposure, heat in map(_state, records)]
    found = f"of one chip there is only {' and '.join(states)}" if states else "there is no capture"
    found += ", and two points fit any line" * (len(states) == 2)
    return DarkCurrent(
        f"not tested: {found}. Dark current and pedestal take captures at three exposures (biases of 0 s count) or "
        "temperatures, with nothing else changed"
    )


def _of_one_chip(slots: list[list[NightRecord]], outputs: Path) -> tuple[list[_Rung], list[str]]:
    """Take of each slot the latest capture whose pattern is that of one before, and say which are of another chip."""
    rungs: list[_Rung] = []
    patterns: list[np.ndarray] = []
    others = []
    for slot in slots[:MOST]:
        for rung in filter(None, (_read(record, outputs) for record in slot[:MOST_TRIED])):
            pattern = _pattern(rung)
            if not patterns or any(_correlate(pattern, other) for other in patterns):
                rungs, patterns = [*rungs, rung], [*patterns, pattern]
                break
            others.append(f"{rung.record.night} is of another chip: its pattern does not correlate")
    return rungs, others


def _read(record: NightRecord, outputs: Path) -> _Rung | None:
    path, shape = outputs / record.path / MASTER, record.shape
    master, spread, noise, dq = (read_plane(path, name, shape) for name in ("MASTER", "STDDEV", "NOISE", "DQ"))
    if master is None or spread is None or noise is None or dq is None:
        return None
    frames, method = record.frames, str(record.parameters["combination_method"])
    error = noise * np.sqrt(combined_variance(frames, method) / residual_factor(frames, method))
    master, spread, error = (np.asarray(plane, np.float32) for plane in (master, spread, error))
    return _Rung(record, master, spread, error, dq.astype(np.uint16))


def _pattern(rung: _Rung) -> np.ndarray:
    """Fixed pattern of single pixels against their row neighbours, clipped, columns' offsets taken off, 0 if flagged.

    Glow and rows, which chips of one model share, are no part of it.
    """
    apart = rung.master[:, 1:-1] - (rung.master[:, :-2] + rung.master[:, 2:]) / 2
    apart -= line_medians(apart, 0).astype(np.float32)
    limit = PATTERN_SIGMAS * 1.4826 * float(np.median(np.abs(apart)))
    pattern = np.where(rung.dq[:, 1:-1] & UNUSABLE, 0, np.clip(apart, -limit, limit))
    return pattern[:: max(1, pattern.size // SAMPLED)].ravel()


def _correlate(one: np.ndarray, other: np.ndarray) -> bool:
    r = float(one @ other) / max(float(np.sqrt((one @ one) * (other @ other))), 1e-9)
    return r > max(CORRELATION, SIGMAS / np.sqrt(one.size))


def _fit(rungs: list[_Rung], others: list[str]) -> DarkCurrent:
    """Fit the captures' means, then every pixel at the temperatures that the means found."""
    exposure, heat = np.array([_state(rung.record) for rung in rungs]).T
    exposed = np.sort(heat[exposure > 0])
    steps = int(np.count_nonzero(np.diff(exposed) > SAME_KELVIN))
    series = bool(steps >= LEAST - 1 and exposed[-1] - exposed[0] >= LEAST_SPAN)
    if not series:  # the temperature of most exposures
        near = max(~(np.abs(heat[:, None] - heat) > LEAST_SPAN / 2), key=lambda near: len(set(exposure[near])))
        rungs = [rung for rung, alike in zip(rungs, near, strict=True) if alike]
        if len(set(exposure[near])) < LEAST:
            return _missing([rung.record for rung in rungs])
    captures, excess = _means(rungs)
    zero, values, p_value = _fit_means(captures, excess, series)
    if gain := _gain(captures, values["pedestal"].value, rungs[0].record):
        values["gain"] = gain
    quoted = {
        name: value
        for name, value in values.items()
        if name == "pedestal" or value.high - value.low < 2 * PRECISION * value.value
    }
    maps = _maps(rungs, captures["signal"].data)
    rate = np.where(np.isfinite(maps["RATE"]), maps["RATE"], -np.inf)
    y, x = np.unravel_index(np.argsort(-rate, axis=None)[:10], rate.shape)
    told = {
        f"{len(rungs)} captures of one chip": True,
        f"they do not lie on one line (p {chance_text(p_value, digits=1)})": p_value < BENT,
        "too little range for a dark current": "electrons_per_second" not in quoted,
        "a doubling temperature takes three temperatures, 3 K apart in all": not series,
    }
    reason = "; ".join([*(text for text, holds in told.items() if holds), *others])
    hot = list(zip(x.tolist(), y.tolist(), rate[y, x].tolist(), maps["RATE_ERR"][y, x].tolist(), strict=True))
    return DarkCurrent(reason, captures, zero, quoted, hot, maps)


def _means(rungs: list[_Rung]) -> tuple[Table, np.ndarray]:
    """Mean level and variance of the half of the unflagged pixels whose surroundings are nearest to the median level.

    And the mean excess of hot pixels with its error, (2, captures); (2, 0) where there are too few.
    """
    flagged = np.bitwise_or.reduce([rung.dq for rung in rungs])
    highest = max(rungs, key=lambda rung: float(np.median(rung.master)))
    smooth = smooth_level(highest.master)
    good, away = flagged & ~np.uint16(PixelClass.EDGE) == 0, np.abs(smooth - np.median(smooth))
    usual = good & (away <= np.median(away[good]))
    hot = (highest.master - smooth > HOT_ERRORS * highest.error) & (flagged & STEADY == 0)
    rows, excess = [], []
    for rung in rungs:
        frames = rung.record.frames
        variance = _fine_median(rung.spread[usual]) ** 2 / variance_ratio_ppf(0.5, frames - 1)
        loss = MEDIAN_LOSS * np.sqrt(2 / ((frames - 1) * max(int(usual.sum()), 1)))
        level = (rung.master[usual].mean(dtype=float), _mean_error(rung.error[usual]))
        rows.append((rung.record.night, *_state(rung.record), frames, *level, variance, loss * variance))
        if np.count_nonzero(hot) >= LEAST_HOT:
            above = (rung.master - smooth_level(rung.master))[hot]
            excess.append((above.mean(dtype=float), _mean_error(rung.error[hot])))
    names = ("night", "exposure", "temperature", "frames", "level", "error", "variance", "variance_error")
    return Table(rows=rows, names=names), np.array(excess).reshape(-1, 2).T


def _mean_error(errors: np.ndarray) -> float:
    return float(np.sqrt(np.square(errors, dtype=float).sum())) / max(len(errors), 1)


def _fine_median(values: np.ndarray) -> float:
    """Median of values that were rounded to steps: each is spread over its own, else the median is one of them."""
    step = min(np.diff(np.unique(values)).min(initial=np.inf), np.ptp(values))
    return float(np.median(values + np.random.default_rng(0).uniform(-0.5, 0.5, values.shape) * step))


def _fit_means(captures: Table, excess: np.ndarray, series: bool) -> tuple[float, dict[str, Value], float]:
    """Fit pedestal, rate, doubling and the temperatures; add `signal` and `fitted` to the captures."""
    from scipy import optimize  # slow to import, and seldom needed

    hot, hot_error = excess
    exposure, level, error = (np.asarray(captures[name]) for name in ("exposure", "level", "error"))
    zero, number = float(np.median(captures["temperature"])), len(captures)
    apart = np.nan_to_num(captures["temperature"] - zero)

    def signal(doubling, shifts):
        return exposure * 2 ** ((apart + shifts) / doubling)

    def model(_, pedestal, rate, height, doubling, *shifts):
        x = signal(doubling, np.array(shifts))
        return np.concatenate([pedestal + rate * x, height * x[: len(hot)], [height, doubling], shifts])

    data = np.concatenate([level, hot, [0, TYPICAL_DOUBLING], np.zeros(number)])
    width = [UNKNOWN, UNKNOWN if series else 1e-3, *np.full(number, TEMPERATURE_ERROR)]
    sigma = np.concatenate([error, hot_error, width])
    slope, start = np.polyfit(signal(TYPICAL_DOUBLING, 0), level, 1)
    first = [start, slope, hot.max(initial=1.0) / exposure.max(), TYPICAL_DOUBLING, *np.zeros(number)]
    bounds = np.full((2, len(first)), [[-np.inf], [np.inf]])
    bounds[:, 3] = 1.0, 100.0
    best, covariance = optimize.curve_fit(
        model, None, data, first, sigma, absolute_sigma=True, bounds=bounds, x_scale="jac"
    )
    chi2 = float((((model(None, *best) - data) / sigma) ** 2).sum())
    dof = number + len(hot) - 2 - (len(hot) > 0) - series
    half = _half_width(chi2, dof) * np.sqrt(np.diag(covariance))
    pedestal, rate, _, doubling = (Value(*map(float, row)) for row in np.array([best, best - half, best + half]).T[:4])
    captures["signal"] = signal(best[3], best[4:])
    captures["fitted"] = pedestal.value + rate.value * captures["signal"]
    values = {"electrons_per_second": rate, "pedestal": pedestal} | ({"doubling_kelvin": doubling} if series else {})
    return zero, values, float(special.chdtrc(dof, chi2)) if dof else 1.0


def _half_width(chi2: float, dof: int) -> float:
    """Half width of a 95 % interval in errors: by the scatter about the fit, where that is more than they say."""
    return max(Z_95, float(special.stdtrit(dof, 0.975) * np.sqrt(chi2 / dof))) if dof else Z_95


def _gain(captures: Table, pedestal: float, record: NightRecord) -> Value | None:
    """Gain of the line through variance against level over the captures; None where it does not rise."""
    level, variance, error = (np.asarray(captures[name], float) for name in ("level", "variance", "variance_error"))
    line, covariance = np.polyfit(level - pedestal, variance, 1, w=1 / error, cov="unscaled")
    chi2 = float((((np.polyval(line, level - pedestal) - variance) / error) ** 2).sum())
    half = _half_width(chi2, len(level) - 2) * float(np.sqrt(covariance[0, 0]))
    scale = float(record.parameters["scale_due_to_gain"]) / float(record.parameters["scale_due_to_padding"])
    slope = float(line[0])
    return Value(scale / slope, scale / (slope + half), scale / (slope - half)) if slope > half else None


def _maps(rungs: list[_Rung], signal: np.ndarray) -> dict[str, np.ndarray]:
    """Weighted line of every pixel's levels against the signal, some rows at a time."""
    shape, x = rungs[0].master.shape, signal[:, None, None]
    maps = {name: np.full(shape, np.nan, np.float32) for name in MAPS}
    # Weights of whole captures: a pixel's own error follows its level's noise, and would pull the line down.
    whole = np.array([1 / np.median(rung.error) ** 2 for rung in rungs])[:, None, None]
    for top in range(0, shape[0], 128):
        rows = np.s_[top : top + 128]
        level, error = (np.stack([getattr(rung, name)[rows] for rung in rungs]) for name in ("master", "error"))
        weight = whole * np.stack([rung.dq[rows] & UNUSABLE == 0 for rung in rungs])
        total = np.maximum(weight.sum(axis=0), 1e-30)
        centre, middle = (weight * x).sum(axis=0) / total, (weight * level).sum(axis=0) / total
        lever = (weight * (x - centre) ** 2).sum(axis=0)
        arm = weight * (x - centre) / np.where(lever > 1e-9 * total * signal.max() ** 2, lever, np.nan)
        maps["RATE"][rows] = (arm * level).sum(axis=0)
        maps["PEDESTAL"][rows] = middle - maps["RATE"][rows] * centre
        maps["RATE_ERR"][rows] = np.sqrt(((arm * error) ** 2).sum(axis=0))
        maps["PED_ERR"][rows] = np.sqrt((((weight / total - centre * arm) * error) ** 2).sum(axis=0))
    return maps


def follow_dark_current(records: Sequence[NightRecord], outputs: Path) -> DarkCurrent:
    """Measure as `measure_dark_current` and write `dark_current.fits`; of the same captures nothing is read again."""
    masters = [(record.path, record.sha256.get(MASTER)) for slot in _ladder(records) for record in slot]
    digest = hashlib.sha256(repr(masters).encode()).hexdigest()
    if (outputs / DARK_CURRENT).is_file():
        with suppress(*DAMAGE):
            before = read_archive(DarkCurrent, outputs / KEPT)
            if before.digest == digest:
                return before
    found = measure_dark_current(records, outputs)
    write_dark_current(found, outputs)
    kept = replace(found, maps={}, digest=digest)
    if found.maps:
        with suppress(OSError):  # a full or foreign disk: it is measured again next time
            write_whole(outputs, KEPT, partial(write_archive, kept))
    return kept


def write_dark_current(found: DarkCurrent, outputs: Path) -> None:
    """Write `dark_current.fits`: the maps, and the captures as a table; take an old one away where there is none."""
    if not found.maps:
        (outputs / DARK_CURRENT).unlink(missing_ok=True)
        return
    captures = found.captures.copy()
    captures["night"] = [text.encode("ascii", "backslashreplace") for text in captures["night"]]
    whole = fits.HDUList([fits.PrimaryHDU(), *(fits.ImageHDU() for _ in range(len(MAPS) - 1))])
    for hdu, (name, unit) in zip(whole, MAPS.items(), strict=True):
        hdu.data, hdu.name, hdu.header["BUNIT"] = found.maps[name], name, unit
    if not np.isnan(found.temperature):
        whole[0].header["CCD-TEMP"] = (found.temperature, "degree Celsius that RATE holds for")
    whole.append(fits.table_to_hdu(captures, name="CAPTURES"))
    for hdu in whole:
        hdu.add_checksum(when="")
    write_whole(outputs, DARK_CURRENT, partial(whole.writeto, overwrite=True))
