"""All nights in order of time: their numbers, and which nights differ from those before."""

import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from sla1tools.candidates.criteria import CUTS
from sla1tools.frames.sessions import cards
from sla1tools.published import FAILED, MANIFEST, read_manifest
from sla1tools.text import shown

SENSOR_KEYS = ("frame_shape", "dark_exposure", "scale_due_to_padding", "scale_due_to_gain")
CUT_KEYS = (
    *("combination_method", "reference", "criterion", *CUTS, "neighbors"),
    *("pixel_scale", "seeing_fwhm", "injection_flux_range"),
)
WINDOW = 20  # predecessors that a night is compared with: a slow drift shows in the plots
LEAST_NIGHTS = 5
WIDTHS = {5: 27.0, 6: 14.0, 7: 12.5, 8: 9.0, 10: 7.0, 12: 6.0, 15: 5.3, 20: 4.5}
"""Half width of the control limits in units of 1.4826 MAD, by predecessors. Three for infinitely many; the median and
MAD of few scatter so much that three would flag 15 % of sound Gaussian nights at 5 and 2 % at 20; these flag 0.3 %.
"""


@dataclass(frozen=True)
class Metric:
    """A number that is followed over the nights.

    `keys` are the parameters that must be equal for two nights to be comparable, and the instrument always. `least` is
    the smallest half width of its limits, from the median and the number of frames: less would not matter.
    """

    name: str
    label: str
    unit: str
    keys: tuple[str, ...]
    least: Callable[[float, int], float]


def _share(share: float) -> Callable[[float, int], float]:
    return lambda median, frames: share * abs(median)


def _chance(median: float, frames: int) -> float:
    """Three Poisson sigma of a count."""
    return 3 * math.sqrt(max(median, 1))


def _chance_per_frame(median: float, frames: int) -> float:
    return _chance(median * frames, 1) / frames


METRICS = (
    Metric("level", "dark level", "e-", SENSOR_KEYS, _share(0.015)),
    Metric("noise", "noise", "e-", SENSOR_KEYS, _share(0.015)),
    Metric("gain", "gain", "e-/count", SENSOR_KEYS, _share(0.03)),
    Metric("hot", "hot pixels", "", SENSOR_KEYS, _chance),
    Metric("warm", "warm pixels", "", SENSOR_KEYS, _chance),
    Metric("unstable", "unstable pixels", "", SENSOR_KEYS, _chance),
    Metric("alarms", "false alarms a frame", "", SENSOR_KEYS + CUT_KEYS, _chance_per_frame),
    Metric("flux_50", "50 % flux", "e-", SENSOR_KEYS + CUT_KEYS, _share(0.06)),
    Metric("temperature", "temperature", "°C", SENSOR_KEYS, lambda median, frames: 1.0),
)


@dataclass
class NightRecord:
    """One night's folder, published or failed, as the page shows it.

    Attributes
    ----------
    path : str
        The folder below the outputs, with slashes.
    night : str
        Date, time and object.
    when : datetime or None
        Start of its first frame, else what date and time say.
    verdict : str
        ok, degraded or failed.
    reasons : tuple of str
        Why it is not ok.
    parameters : mapping
        As its manifest holds them.
    frames : int
        Used.
    values : dict
        Metric's name to number, None where not tested.
    intervals : dict
        Low and high of a value, where it has them.
    limits : dict
        Low and high that the nights before it set, where they are enough.
    differs : list of str
        What differs from the nights before, in words.
    recommended : tuple of str
        The cuts of the operating point.
    instrument : str
        As headers name it.
    sha256 : str or None
        Of its master dark.
    changes : recurrence.Changes or None
        Bad pixels against the nights before.
    """

    path: str
    night: str
    when: datetime | None
    verdict: str
    reasons: tuple[str, ...]
    parameters: Mapping[str, Any]
    frames: int = 0
    values: dict[str, float | None] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    limits: dict[str, tuple[float, float]] = field(default_factory=dict)
    differs: list[str] = field(default_factory=list)
    recommended: tuple[str, ...] = ()
    instrument: str = ""
    sha256: str | None = None
    changes: Any = None

    @property
    def published(self) -> bool:
        """Whether there are products."""
        return not self.path.startswith(FAILED)

    @property
    def shape(self) -> tuple[int, int] | None:
        """Rows and columns of its frames; None where the manifest does not tell."""
        shape = self.parameters.get("frame_shape")
        if isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and 0 < n < 65536 for n in shape):
            return shape[0], shape[1]
        return None

    def outside(self, metric: Metric) -> bool:
        """Whether its value lies outside the limits that the nights before it set."""
        value, (low, high) = self.values.get(metric.name), self.limits.get(metric.name, (-math.inf, math.inf))
        return value is not None and not low <= value <= high

    def series(self, metric: Metric) -> tuple:
        """What must be equal for this night's value to be compared with another's."""
        return (self.instrument, *(str(self.parameters.get(key)) for key in metric.keys))


def read_nights(outputs: str | Path) -> list[NightRecord]:
    """Read every night of an outputs folder, failed ones too, in order of time, each judged by those before it.

    A folder without a manifest is none of ours. What a manifest or summary lacks is not tested; nothing in them is
    trusted.
    """
    outputs = Path(outputs)
    records = []
    for root in (outputs, outputs / FAILED):
        for manifest in sorted(root.glob(f"*/*/*/{MANIFEST}")):
            path = manifest.parent.relative_to(outputs)
            if root != outputs or not path.parts[0].startswith("."):
                records.append(_record(outputs, path))
    records.sort(key=lambda record: (record.when or datetime.max, record.path))
    for metric in METRICS:
        _set_limits(records, metric)
    return records


def _record(outputs: Path, path: Path) -> NightRecord:
    manifest = read_manifest(outputs / path)
    try:
        summary = json.loads((outputs / path / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        summary = {}
    failed = path.parts[0] == FAILED
    header = {} if failed else cards(outputs / path / "master_dark.fits", ("DATE-BEG", "INSTRUME", "CCD-TEMP"))
    date, time, name = path.parts[-3:]
    reasons, parameters = _at(manifest, "reasons"), _at(manifest, "parameters")
    here = f"{os.path.join(time, name)}: "  # ends the capture folder, which some reasons begin with
    record = NightRecord(
        path=path.as_posix(),
        night=f"{date} {time} {name}",
        when=_moment(header.get("DATE-BEG", "")) or _moment(f"{date}T{time.replace('_', ':')}"),
        verdict="failed" if failed or not manifest else str(manifest.get("verdict", "failed")),
        reasons=tuple(str(text).rpartition(here)[2] for text in reasons)
        if isinstance(reasons, list)
        else ("its manifest cannot be read",),
        parameters=parameters if isinstance(parameters, dict) else {},
        instrument=header.get("INSTRUME", ""),
        sha256=_checksum(_at(manifest, "outputs", "master_dark.fits")),
    )
    if record.published:
        _fill(record, summary, header)
    return record


def _fill(record: NightRecord, summary: Any, header: Mapping[str, str]) -> None:
    criterion = str(record.parameters.get("criterion"))
    alarms, flux = _at(summary, "false_alarms_per_frame", criterion), _at(summary, "completeness", criterion, "flux_50")
    used = _at(summary, "frames", "used")
    record.frames = len(used) if isinstance(used, list) else 0
    found = {
        "level": _at(summary, "dark", "level"),
        "noise": _at(summary, "dark", "noise"),
        "gain": _at(summary, "dark", "gain_measured"),
        **{name: _at(summary, "pixels", name) for name in ("hot", "warm", "unstable")},
        "alarms": _at(alarms, "rate"),
        "flux_50": _at(flux, "flux"),
        "temperature": header.get("CCD-TEMP"),
    }
    record.values = {name: _number(value) for name, value in found.items()}
    for name, block in (("alarms", alarms), ("flux_50", flux)):
        low, high = _number(_at(block, "low")), _number(_at(block, "high"))
        if low is not None and high is not None:
            record.intervals[name] = low, high
    cuts = _at(summary, "operating_point", criterion, "cuts")
    if isinstance(cuts, dict):
        record.recommended = tuple(f"{name} {shown(_number(value))}" for name, value in cuts.items())


def _at(value: Any, *keys: str) -> Any:
    """Follow keys into nested mappings; None where one is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _number(value: Any) -> float | None:
    try:
        number = None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number is not None and math.isfinite(number) else None


def _checksum(value: Any) -> str | None:
    return value if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) else None


def _moment(text: str) -> datetime | None:
    match = re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", text)
    try:
        return datetime.fromisoformat(match[0]) if match else None
    except ValueError:
        return None


def control_limits(values: Sequence[float]) -> tuple[float, float] | None:
    """Limits that the values before a new one set: median ± so many robust sigma; None for fewer than five.

    The sigma is 1.4826 times the median absolute deviation; how many, widens for few values (`WIDTHS`).
    """
    if len(values) < LEAST_NIGHTS:
        return None
    median = float(np.median(values))
    sigma = 1.4826 * float(np.median(np.abs(np.asarray(values) - median)))
    width = float(np.interp(len(values), list(WIDTHS), list(WIDTHS.values()))) * sigma
    return median - width, median + width


def _set_limits(records: Sequence[NightRecord], metric: Metric) -> None:
    before: dict[tuple, list[float]] = {}
    for record in records:
        value = record.values.get(metric.name)
        if value is None:
            continue
        earlier = before.setdefault(record.series(metric), [])
        limits = control_limits(earlier[-WINDOW:])
        if limits:
            middle = sum(limits) / 2
            half = max(limits[1] - middle, metric.least(middle, max(record.frames, 1)))
            low, high = middle - half, middle + half
            low = low if metric.unit == "°C" else max(low, 0.0)
            record.limits[metric.name] = low, high
            if record.outside(metric):
                record.differs.append(
                    f"{metric.label} {shown(value)}, {'above' if value > high else 'below'} the "
                    f"{shown(low)} to {shown(high)} of the {min(len(earlier), WINDOW)} nights before"
                )
        earlier.append(value)
