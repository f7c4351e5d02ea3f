"""Dark current of a chip, from published captures at several exposures or temperatures; nothing is read from raw files.

    level = pedestal + rate x,   x = exposure 2^((T - T0) / doubling)

The mean level of good pixels and the mean excess of hot ones share x; each capture's temperature is good to 0.05 K.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

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
from sla1tools.published import TRENDS, replace_file
from sla1tools.text import shown

LEAST_RUNGS, MOST_RUNGS = 3, 8
MOST_TRIED = 3  # captures alike in exposure and temperature that are looked at for one of the same chip
SAME_KELVIN = 1.0
LEAST_SPAN = 3.0  # K, below which temperatures are one
TEMPERATURE_ERROR = 0.05  # K, that a cooler and its thermometer repeat
TYPICAL_DOUBLING = 6.0  # K, of silicon near 250 K: only to turn that error into one of the level
CORRELATION, SIGMAS = 0.02, 7.0  # that fixed patterns of one chip exceed; 1 sigma is 1.4 / sqrt(pixels)
SAMPLED = 1 << 18
PATTERN_SIGMAS = 5.0  # at which a pattern is clipped: hot pixels alone must not make it
HOT_ERRORS = 20.0  # by which a pixel stands out in the highest capture to count as hot
LEAST_HOT = 10
PRECISION = 0.25  # relative 95 % error above which a number is not quoted
Z_95 = 1.959964
MEDIAN_LOSS = 1.3  # errors of a robust variance over those of a mean square
UNUSABLE = PixelClass.METADATA | PixelClass.ZERO_VARIANCE | PixelClass.SATURATED
DARK_CURRENT = "dark_current.fits"
MAPS = {"RATE": "electron/s", "RATE_ERR": "electron/s", "PEDESTAL": "electron", "PED_ERR": "electron"}


@dataclass(frozen=True)
class Value:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class DarkCurrent:
    """What a ladder of captures of one chip tells; None where its range is too little.

    Attributes
    ----------
    reason : str
        What was found, or what is missing.
    rungs : Table
        One row a capture: `night`, `exposure` (s), `temperature` (C, NaN unknown), `frames`, `signal` (the exposure at
        `temperature` that it is worth), `level`, `fitted`, `error` (electrons, means over ordinary pixels), `variance`,
        `variance_error`, `variance_fitted` (of one frame, electrons squared).
    temperature : float
        Degrees Celsius that the rate holds for; NaN where unknown.
    rate, pedestal : Value or None
        Electrons a second and electrons, of the half of the pixels whose level is nearest to the median one.
    doubling : Value or None
        Kelvin.
    gain, read_noise : Value or None
        Electrons per count, and electrons: variance against level over the captures, with the pedestal known.
    p_value : float
        Chance that the captures lie so far from the fit; NaN without one.
    hot : Table
        The ten brightest pixels: `x`, `y`, `rate`, `error`.
    maps : dict of str to array
        `MAPS`: (ny, nx) float32; NaN where fewer than two captures tell.
    """

    reason: str
    rungs: Table = field(default_factory=Table)
    temperature: float = np.nan
    rate: Value | None = None
    pedestal: Value | None = None
    doubling: Value | None = None
    gain: Value | None = None
    read_noise: Value | None = None
    p_value: float = np.nan
    hot: Table = field(default_factory=Table, repr=False)
    maps: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def numbers(self) -> dict:
        """Return the numbers in plain types, in the shape of `season.json`; None where not tested."""
        values = {
            "electrons_per_second": self.rate,
            "pedestal": self.pedestal,
            "doubling_kelvin": self.doubling,
            "gain": self.gain,
            "read_noise": self.read_noise,
        }
        told = {"reason": self.reason, "temperature": self.temperature if np.isfinite(self.temperature) else None}
        return {name: value and asdict(value) for name, value in values.items()} | told


@dataclass(frozen=True)
class _Rung:
    """A capture with its maps: master, 1 sigma of a frame and of the master (electrons), bit planes."""

    record: NightRecord
    exposure: float
    temperature: float
    master: np.ndarray
    spread: np.ndarray
    uncertainty: np.ndarray
    dq: np.ndarray


def measure_dark_current(records: Sequence[NightRecord], outputs: Path) -> DarkCurrent:
    """Measure the chip that was captured at most exposures and temperatures; of several the one of the latest night.

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
    ladders: dict[tuple, list[list[NightRecord]]] = {}
    for record in reversed([record for record in records if record.published and record.frames and record.shape]):
        slots = ladders.setdefault((record.shape, record.instrument, *record.chip), [])
        slot = next((slot for slot in slots if _alike(slot[0], record)), None)
        if slot is None:
            slots.append([record])
        else:
            slot.append(record)
    best = max(ladders.values(), key=len, default=[])
    rungs: list[_Rung] = []
    for first in range(len(best)):  # where another chip's capture comes first, nothing correlates with it
        rungs, others = _of_one_chip([*best[first:], *best[:first]], outputs)
        if len(rungs) >= LEAST_RUNGS:
            return _fit(rungs, others)
    return DarkCurrent(_missing(rungs))


def _state(record: NightRecord) -> tuple[float, float]:
    """Exposure and temperature; NaN where unknown."""
    heat = record.values.get("temperature")
    return float(record.parameters["dark_exposure"]), np.nan if heat is None else heat


def _alike(one: NightRecord, other: NightRecord) -> bool:
    (exposure, heat), (second, warmth) = _state(one), _state(other)
    return exposure == second and not abs(heat - warmth) > SAME_KELVIN


def _missing(rungs: list[_Rung]) -> str:
    found = " and ".join(f"{rung.exposure:g} s at {shown(rung.temperature)} C" for rung in rungs)
    return (
        f"not tested: of one chip there is {found or 'nothing'}, and two points fit any line. Dark current and "
        "pedestal take captures at three exposures (biases of 0 s count) or temperatures, with nothing else changed"
    )


def _of_one_chip(slots: list[list[NightRecord]], outputs: Path) -> tuple[list[_Rung], list[str]]:
    """Take of each slot the latest capture whose pattern is that of one before, and say which are of another chip."""
    rungs: list[_Rung] = []
    patterns: list[np.ndarray] = []
    others = []
    for slot in slots[:MOST_RUNGS]:
        for record in slot[:MOST_TRIED]:
            rung = _read(record, outputs)
            if rung is None:
                continue
            pattern = _pattern(rung)
            if patterns and not any(_correlate(pattern, other) for other in patterns):
                others.append(f"{record.night} is of another chip: its pattern does not correlate")
                continue
            rungs.append(rung)
            patterns.append(pattern)
            break
    return rungs, others


def _read(record: NightRecord, outputs: Path) -> _Rung | None:
    path, shape = outputs / record.path / MASTER, record.shape or (0, 0)
    master, noise, spread, dq = (read_plane(path, name, shape) for name in ("MASTER", "NOISE", "STDDEV", "DQ"))
    if master is None or noise is None or spread is None or dq is None:
        return None
    frames, method = record.frames, str(record.parameters["combination_method"])
    share = combined_variance(frames, method) / residual_factor(frames, method)
    error = np.asarray(noise, np.float32) * np.float32(np.sqrt(share))
    return _Rung(record, *_state(record), np.asarray(master, np.float32), spread, error, dq.astype(np.uint16))


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
    heat = np.array([rung.temperature for rung in rungs])
    exposed = np.array([rung.exposure for rung in rungs]) > 0
    series = _distinct(heat[exposed]) >= LEAST_RUNGS and np.ptp(heat[exposed]) >= LEAST_SPAN
    if not series:  # of two temperatures, that of most exposures
        near = np.abs(heat[:, None] - heat) <= LEAST_SPAN / 2 if np.isfinite(heat).all() else np.ones((len(heat),) * 2)
        rungs = [rung for rung, keep in zip(rungs, near[near.sum(axis=1).argmax()], strict=True) if keep]
        if len(rungs) < LEAST_RUNGS:
            return DarkCurrent(_missing(rungs))
    means = _means(rungs)
    found = _fit_means(means, series)
    maps = _maps(rungs, found.signal)
    gain, read_noise, fitted = _gain(means, found.pedestal.value, rungs[0].record)
    table = Table(
        {
            "night": [rung.record.night for rung in rungs],
            "exposure": [rung.exposure for rung in rungs],
            "temperature": [rung.temperature for rung in rungs],
            "frames": [rung.record.frames for rung in rungs],
            "signal": found.signal,
            "level": means.level,
            "fitted": found.fitted,
            "error": means.error,
            "variance": means.variance,
            "variance_error": means.variance_error,
            "variance_fitted": fitted,
        }
    )
    top = np.argsort(np.where(np.isfinite(maps["RATE"]), maps["RATE"], -np.inf), axis=None)[:-11:-1]
    y, x = np.unravel_index(top, maps["RATE"].shape)
    hot = Table({"x": x, "y": y, "rate": maps["RATE"][y, x], "error": maps["RATE_ERR"][y, x]})
    bent = "" if found.p_value > 1e-3 else f"; they do not lie on one line (p {found.p_value:.1g})"
    untested = (
        "" if found.doubling else "; too few temperatures for a doubling temperature: three, 3 K apart, are needed"
    )
    narrow = "" if _quoted(found.rate) else "; too little range for a dark current"
    reason = f"{len(rungs)} captures of one chip{bent}{narrow}{untested}"
    return DarkCurrent(
        "; ".join([reason, *others]),
        table,
        found.temperature,
        _quoted(found.rate),
        found.pedestal,
        _quoted(found.doubling),
        _quoted(gain),
        read_noise,
        found.p_value,
        hot,
        maps,
    )


def _distinct(values: np.ndarray) -> int:
    """Values that are more than a kelvin apart."""
    return 1 + int(np.count_nonzero(np.diff(np.sort(values)) > SAME_KELVIN)) if len(values) else 0


def _quoted(value: Value | None) -> Value | None:
    """A positive number whose error is small enough to be one."""
    return value if value and value.high - value.low < 2 * PRECISION * value.value else None


@dataclass(frozen=True)
class _Means:
    """Of each capture: mean level and variance of ordinary pixels, mean excess of the hot ones (none: empty)."""

    exposure: np.ndarray
    temperature: np.ndarray
    level: np.ndarray
    error: np.ndarray
    hot: np.ndarray
    hot_error: np.ndarray
    variance: np.ndarray
    variance_error: np.ndarray


def _means(rungs: list[_Rung]) -> _Means:
    """Of the half of the unflagged pixels whose surroundings are nearest to the median level, and of hot pixels."""
    flagged = np.bitwise_or.reduce([rung.dq for rung in rungs]) & ~np.uint16(PixelClass.EDGE)
    highest = max(rungs, key=lambda rung: float(np.median(rung.master)))
    smooth = smooth_level(highest.master)
    away = np.abs(smooth - np.median(smooth))
    usual = (flagged == 0) & (away <= np.median(away[flagged == 0]))
    odd = PixelClass.UNSTABLE | PixelClass.NOISY | PixelClass.COLUMN_ROW | UNUSABLE
    hot = (highest.master - smooth > HOT_ERRORS * highest.uncertainty) & (flagged & odd == 0)
    pixels, number = np.count_nonzero(hot), max(np.count_nonzero(usual), 1)
    frames = np.array([rung.record.frames for rung in rungs])
    excess = [rung.master - smooth_level(rung.master) for rung in rungs if pixels >= LEAST_HOT]
    variance = np.array([_fine_median(rung.spread[usual]) ** 2 for rung in rungs])
    variance /= [variance_ratio_ppf(0.5, n - 1) for n in frames]
    return _Means(
        exposure=np.array([rung.exposure for rung in rungs]),
        temperature=np.array([rung.temperature for rung in rungs]),
        level=np.array([rung.master[usual].mean(dtype=float) for rung in rungs]),
        error=np.array([_mean_error(rung.uncertainty[usual]) for rung in rungs]),
        hot=np.array([above[hot].mean(dtype=float) for above in excess]),
        hot_error=np.array([_mean_error(rung.uncertainty[hot]) for rung, _ in zip(rungs, excess, strict=False)]),
        variance=variance,
        variance_error=MEDIAN_LOSS * variance * np.sqrt(2 / ((frames - 1) * number)),
    )


def _fine_median(values: np.ndarray) -> float:
    """Median of values that were rounded to steps: each is spread over its own, else the median is one of them."""
    step = np.diff(np.unique(values)).min(initial=np.inf)
    spread = np.random.default_rng(0).uniform(-0.5, 0.5, values.shape) * (step if np.isfinite(step) else 0)
    return float(np.median(values + spread))


def _mean_error(errors: np.ndarray) -> float:
    return float(np.sqrt(np.square(errors, dtype=float).sum())) / len(errors)


@dataclass(frozen=True)
class _Found:
    """Fit of the means: `signal` is x, the seconds at `temperature` that a capture is worth; `fitted` its level."""

    temperature: float
    signal: np.ndarray
    fitted: np.ndarray
    pedestal: Value
    rate: Value
    doubling: Value | None
    p_value: float


def _fit_means(means: _Means, series: bool) -> _Found:
    from scipy import optimize  # slow to import, and seldom needed

    captures, heat = len(means.level), means.temperature
    zero = float(np.median(heat)) if np.isfinite(heat).all() else np.nan
    apart = np.where(np.isfinite(heat - zero), heat - zero, 0.0)

    def signal(shifts, doubling):
        return means.exposure * 2 ** ((apart + shifts) / doubling)

    def pulls(values):
        pedestal, rate, hot, doubling = values[:4]
        x = signal(values[4:], doubling)
        return np.concatenate(
            [
                (pedestal + rate * x - means.level) / means.error,
                (hot * x[: len(means.hot)] - means.hot) / means.hot_error,
                values[4:] / TEMPERATURE_ERROR,
                [] if series else [(doubling - TYPICAL_DOUBLING) / 1e-3],
            ]
        )

    start = np.polyfit(signal(0, TYPICAL_DOUBLING), means.level, 1)
    hot = means.hot.max(initial=1.0) / means.exposure.max()
    first = np.concatenate([[start[1], start[0], hot, TYPICAL_DOUBLING], np.zeros(captures)])
    bounds = np.full((2, len(first)), [[-np.inf], [np.inf]])
    bounds[:, 3] = 1.0, 100.0
    best = optimize.least_squares(pulls, first, bounds=bounds, x_scale="jac")
    free = 2 + (len(means.hot) > 0) + series
    dof, chi2 = captures + len(means.hot) - free, 2 * best.cost
    error = np.sqrt(np.diag(np.linalg.pinv(best.jac.T @ best.jac)))
    width = _width(chi2, dof)
    pedestal, rate, _, doubling = (
        Value(float(value), float(value - half), float(value + half))
        for value, half in zip(best.x[:4], width * error[:4], strict=True)
    )
    x = signal(best.x[4:], best.x[3])
    fitted = pedestal.value + rate.value * x
    p_value = float(special.chdtrc(dof, chi2)) if dof else np.nan
    return _Found(zero, x, fitted, pedestal, rate, doubling if series else None, p_value)


def _width(chi2: float, dof: int) -> float:
    """Half width of a 95 % interval in errors: by the scatter about the fit, where that is more than they say."""
    return max(Z_95, float(special.stdtrit(dof, 0.975) * np.sqrt(chi2 / dof))) if dof else Z_95


def _gain(means: _Means, pedestal: float, record: NightRecord) -> tuple[Value | None, Value | None, np.ndarray]:
    """Gain and read noise of the line through variance against level over the captures, and that line."""
    dof = len(means.level) - 2
    weights = 1 / means.variance_error
    design = np.stack([means.level - pedestal, np.ones(dof + 2)], axis=1) * weights[:, None]
    covariance = np.linalg.pinv(design.T @ design)
    slope, floor = covariance @ design.T @ (means.variance * weights)
    fitted = design @ [slope, floor] / weights
    chi2 = float(np.sum(((fitted - means.variance) * weights) ** 2))
    width = _width(chi2, dof)
    half = width * np.sqrt(covariance[0, 0])
    if slope <= half:
        return None, None, fitted
    scale = float(record.parameters["scale_due_to_gain"]) / float(record.parameters["scale_due_to_padding"])
    gain = Value(*(float(scale / value) for value in (slope, slope + half, slope - half)))
    if floor <= 0:
        return gain, None, fitted
    # The variance in true electrons is that in configured ones over the slope squared.
    noise = float(np.sqrt(floor) / slope)
    gradient = noise * np.array([-1 / slope, 0.5 / floor])
    half = float(width * np.sqrt(gradient @ covariance @ gradient))
    return gain, Value(noise, noise - half, noise + half), fitted


def _maps(rungs: list[_Rung], signal: np.ndarray) -> dict[str, np.ndarray]:
    """Weighted line of every pixel's levels against the signal, some rows at a time."""
    shape = rungs[0].master.shape
    maps = {name: np.full(shape, np.nan, np.float32) for name in MAPS}
    x = signal[:, None, None]
    for top in range(0, shape[0], 128):
        rows = np.s_[top : top + 128]
        level = np.stack([rung.master[rows] for rung in rungs]).astype(float)
        variance = np.stack([rung.uncertainty[rows] for rung in rungs]).astype(float) ** 2
        # Weights of whole captures: a pixel's own error follows its level's noise, and would pull the line down.
        usable = np.stack([rung.dq[rows] & UNUSABLE == 0 for rung in rungs])
        weight = usable / np.median(variance, axis=(1, 2), keepdims=True)
        total = np.maximum(weight.sum(axis=0), 1e-30)
        centre, middle = (weight * x).sum(axis=0) / total, (weight * level).sum(axis=0) / total
        lever = (weight * (x - centre) ** 2).sum(axis=0)
        tells = lever > 1e-9 * total * signal.max() ** 2
        lever = np.where(tells, lever, np.nan)
        arm = weight * (x - centre) / lever
        rate = (arm * level).sum(axis=0)
        maps["RATE"][rows], maps["PEDESTAL"][rows] = rate, middle - rate * centre
        maps["RATE_ERR"][rows] = np.sqrt((arm**2 * variance).sum(axis=0))
        maps["PED_ERR"][rows] = np.sqrt(((weight / total - centre * arm) ** 2 * variance).sum(axis=0))
    return maps


def write_dark_current(found: DarkCurrent, outputs: Path) -> None:
    """Write `dark_current.fits`: the maps, and the captures as a table; take an old one away where there is none."""
    path, unfinished = outputs / DARK_CURRENT, outputs / TRENDS / f"{DARK_CURRENT}.part"
    if not found.maps:
        path.unlink(missing_ok=True)
        return
    hdus: list = [fits.PrimaryHDU(found.maps["RATE"])]
    hdus += [fits.ImageHDU(found.maps[name], name=name) for name in list(MAPS)[1:]]
    for hdu, (name, unit) in zip(hdus, MAPS.items(), strict=True):
        hdu.name = name
        hdu.header["BUNIT"] = unit
    if np.isfinite(found.temperature):
        hdus[0].header["CCD-TEMP"] = (found.temperature, "degree Celsius that RATE holds for")
    rungs = found.rungs.copy()
    rungs["night"] = [text.encode("ascii", "backslashreplace") for text in rungs["night"]]
    whole = fits.HDUList([*hdus, fits.table_to_hdu(rungs, name="CAPTURES")])
    for hdu in whole:
        hdu.add_checksum(when="")
    whole.writeto(unfinished, overwrite=True)
    replace_file(unfinished, path)
