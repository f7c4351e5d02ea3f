"""All nights in order of time: their numbers, and which nights differ from those before."""

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median  # a hundred times as quick as numpy's for twenty numbers
from typing import Any

import numpy as np

from sla1tools import published
from sla1tools.candidates.criteria import CUTS
from sla1tools.frames.sessions import cards
from sla1tools.published import FAILED, MANIFEST, MasterCards
from sla1tools.text import is_text, printable, shown

SENSOR_KEYS = ("frame_shape", "dark_exposure", "scale_due_to_padding", "scale_due_to_gain")
CUT_KEYS = (
    *("combination_method", "reference", "criterion", *CUTS, "neighbors"),
    *("pixel_scale", "seeing_fwhm", "psf", "psf_size_error", "psf_shape_error", "psf_light_error"),
    "injection_flux_range",
    "excluded_classes",
)
WINDOW = 20  # predecessors that a night is compared with: a slow drift shows in the plots
LEAST_NIGHTS = 5
MASTER, UNREADABLE = "master_dark.fits", "unreadable"
NO_CARDS = MasterCards.model_validate({})
# Half width of the control limits in units of 1.4826 MAD, by predecessors. Three for infinitely many; the median and
# MAD of few scatter so much that three would flag 15 % of sound Gaussian nights at 5 and 2 % at 20; these flag 0.3 %.
WIDTHS = {5: 27.0, 6: 14.0, 7: 12.5, 8: 9.0, 10: 7.0, 12: 6.0, 15: 5.3, 20: 4.5}


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
        ok, degraded, failed, or unreadable: a file of its folder is not what a run writes.
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
    chip : tuple
        Gain, offset and scales: captures of one chip at one setting have the same.
    sha256 : mapping
        Of its products, by name.
    star : StarImage or None
        The image of the stars that it injected.
    seen_on_known : set or None
        Known pixels (x, y) that made candidates, or would have, were they not listed; None where it does not tell.
    expected : dict
        Criterion to the candidates a frame that Gaussian noise alone would make.
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
    chip: tuple = ()
    sha256: Mapping[str, str] = field(default_factory=dict)
    star: published.StarImage | None = None
    seen_on_known: set[tuple[int, int]] | None = None
    expected: dict[str, float] = field(default_factory=dict)
    changes: Any = None

    @property
    def published(self) -> bool:
        """Whether there are products."""
        return not self.path.startswith(FAILED)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of its frames; (0, 0) where the manifest does not tell."""
        ny, nx = self.parameters.get("frame_shape", (0, 0))
        return ny, nx

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
            if not is_text(str(path)):
                logging.getLogger(__name__).warning("%s: left out: its name is not valid UTF-8", printable(path))
            elif root != outputs or not path.parts[0].startswith("."):
                records.append(_record(outputs, path))
    records.sort(key=lambda record: (record.when or datetime.max, record.path))
    for metric in METRICS:
        _set_limits(records, metric)
    return records


def of_latest_camera(records: Sequence[NightRecord]) -> list[NightRecord]:
    """Select the published nights of the latest one's camera and shape."""
    known = [record for record in records if record.published and any(record.shape)]
    return [one for one in known if (one.instrument, one.shape) == (known[-1].instrument, known[-1].shape)]


def _record(outputs: Path, path: Path) -> NightRecord:
    folder, failed = outputs / path, path.parts[0] == FAILED
    read: dict[str, Any] = {MANIFEST: published.read_manifest(folder)}
    if not failed:
        summary = published.read_json(folder / "summary.json", published.Summary)
        read |= {"summary.json": summary, MASTER: _read_cards(folder / MASTER)}
    damaged = [name for name, found in read.items() if found is None]
    manifest = read[MANIFEST] or published.Manifest(outputs={})
    master = read.get(MASTER) or NO_CARDS
    date, time, name = path.parts[-3:]
    here = f"{os.path.join(time, name)}: "  # ends the capture folder, which some reasons begin with
    stated = _checked({"DATE-BEG": f"{date}T{time.replace('_', ':')}"}) or NO_CARDS
    record = NightRecord(
        path=path.as_posix(),
        night=f"{date} {time} {name}",
        when=master.when or stated.when,
        verdict=UNREADABLE if damaged else "failed" if failed else manifest.verdict,
        reasons=(*(unreadable(name) for name in damaged), *(text.rpartition(here)[2] for text in manifest.reasons)),
        parameters=manifest.parameters,
        instrument=master.instrument,
        chip=(master.gain, master.offset, *(str(manifest.parameters.get(key)) for key in SENSOR_KEYS[2:])),
        sha256=manifest.outputs,
        star=manifest.star,
    )
    if record.published and not damaged:
        _fill(record, read["summary.json"], master)
    return record


def unreadable(name: str) -> str:
    """Say why a night is unreadable."""
    return f"its {name} is damaged, or none of ours: run the night again, or take it out of the outputs"


def _read_cards(path: Path) -> MasterCards | None:
    return _checked(cards(path, ("DATE-BEG", "INSTRUME", "CCD-TEMP", "GAIN", "OFFSET")))


def _checked(values: Mapping[str, str]) -> MasterCards | None:
    with suppress(ValueError):
        return MasterCards.model_validate({**values, "DATE-BEG": values.get("DATE-BEG", "")[:19] or None})
    return None


def _fill(record: NightRecord, summary: published.Summary, master: MasterCards) -> None:
    criterion, (ny, nx) = record.parameters.get("criterion", ""), record.shape
    alarms = summary.false_alarms_per_frame.get(criterion, published.Limits())
    flux = summary.completeness.get(criterion, published.Completeness()).flux_50
    point = summary.operating_point.get(criterion) or published.OperatingPoint()
    record.frames = len(summary.frames.used)
    record.seen_on_known = None if alarms.known is None else {(x, y) for x, y in alarms.known if x < nx and y < ny}
    told = {name: limits.gaussian_expectation for name, limits in summary.false_alarms_per_frame.items()}
    record.expected = {name: expected for name, expected in told.items() if expected is not None}
    record.values = {
        "level": summary.dark.level,
        "noise": summary.dark.noise,
        "gain": summary.dark.gain_measured,
        **{name: summary.pixels.get(name) for name in ("hot", "warm", "unstable")},
        "alarms": alarms.rate,
        "flux_50": flux.flux,
        "temperature": master.temperature,
    }
    for name, block in (("alarms", alarms), ("flux_50", flux)):
        if block.low is not None and block.high is not None:
            record.intervals[name] = block.low, block.high
    record.recommended = tuple(f"{name} {shown(value)}" for name, value in point.cuts.items())


def control_limits(values: Sequence[float]) -> tuple[float, float] | None:
    """Limits that the values before a new one set: median ± so many robust sigma; None for fewer than five.

    The sigma is 1.4826 times the median absolute deviation; how many, widens for few values (`WIDTHS`).
    """
    if len(values) < LEAST_NIGHTS:
        return None
    middle = median(values)
    sigma = 1.4826 * median(abs(value - middle) for value in values)
    width = float(np.interp(len(values), list(WIDTHS), list(WIDTHS.values()))) * sigma
    return middle - width, middle + width


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
