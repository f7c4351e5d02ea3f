"""Which nights are comparable, and the sum of their counts: nothing is detected again, and memory does not grow."""

import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from sla1tools.candidates.criteria import CRITERIA
from sla1tools.candidates.psf import PSF
from sla1tools.candidates.rates import SeasonRate, dispersed_limits
from sla1tools.candidates.rows import PSF_COLUMNS
from sla1tools.injections.counts import BELOW, FLUX_EDGES
from sla1tools.nights.trends import SENSOR_KEYS, NightRecord
from sla1tools.published import StarImage
from sla1tools.text import read_regular

COUNTS = "settings.npy"
MOST_HEADER = 4096  # bytes
# Parameters that decide what a leader is, and in what units: nights are comparable where all are equal.
SAME_KEYS = (
    *(*SENSOR_KEYS, "top_code", "level_correction"),
    *("combination_method", "reference", "neighbors", "excluded_classes"),
)
# Criteria whose false alarms depend on the star's image. How many stars a criterion finds always does.
PSF_CRITERIA = {name for name, one in CRITERIA.items() if {term.column for term in one.terms} & set(PSF_COLUMNS)}


@dataclass
class Group:
    """Comparable nights, in order of time.

    `others` are comparable but for their star's image: their false alarms count where a criterion does not use it.
    """

    nights: list[NightRecord] = field(default_factory=list)
    others: list[NightRecord] = field(default_factory=list)
    name: str = ""


def comparable(records: Sequence[NightRecord]) -> list[Group]:
    """Group the published nights whose counts add up: the group of most frames first, and of equals the latest.

    Camera and `SAME_KEYS` are equal, and the widths of the stars' images differ by less than their stated errors from
    that of the group's first night.
    """
    alike: dict[tuple, list[Group]] = {}
    for record in records:
        if record.star is None or not record.frames:
            continue
        groups = alike.setdefault(_series(record), [])
        group = next((group for group in groups if same_image(group.nights[0].star, record.star)), None)
        if group is None:
            groups.append(group := Group())
        group.nights.append(record)
    found = [group for groups in alike.values() for group in groups]
    for groups in alike.values():
        for group in groups:
            group.others = [record for other in groups if other is not group for record in other.nights]
    place = {id(record): number for number, record in enumerate(records)}
    found.sort(key=lambda group: (sum(one.frames for one in group.nights), place[id(group.nights[-1])]), reverse=True)
    _name(found)
    return found


def same_image(one: StarImage | None, other: StarImage | PSF) -> bool:
    """Whether the widths of two stars' images differ by less than the larger of their stated errors."""
    if one is None:
        return False
    return abs(math.log(one.fwhm / other.fwhm)) <= math.log1p(max(one.size_error, other.size_error))


def identity(camera: str | None, parameters: Mapping[str, Any]) -> dict[str, str]:
    """What comparable nights share; parameters as JSON has them."""
    return {"camera": camera or "unknown"} | {key: str(parameters.get(key)) for key in SAME_KEYS}


def _series(record: NightRecord) -> tuple[str, ...]:
    return tuple(identity(record.instrument, record.parameters).values())


def _name(groups: list[Group]) -> None:
    """Name each group by its camera and by what differs between the groups."""
    series = [_series(group.nights[0]) for group in groups]
    differ = [len(set(values)) > 1 for values in zip(*series, strict=True)]
    for group, (camera, *values) in zip(groups, series, strict=True):
        told = [f"{key} {value}" for key, value, one in zip(SAME_KEYS, values, differ[1:], strict=True) if one]
        star = group.nights[0].star
        told += [f"stars of {star.fwhm:.3g} px"] if group.others and star else []
        group.name = ", ".join([camera, *told])


def read_counts(folder: Path, sha256: str | None, settings: int) -> np.ndarray:
    """Read a night's `settings.npy`: (1 + settings, 2 + flux bins) int32, as `counts.count_settings` gives it.

    Raises
    ------
    ValueError
        Saying why its counts cannot be added to others.
    """
    if sha256 is None:
        raise ValueError(f"an earlier version published it, without {COUNTS}: sla1 batch renews it from its raw files")
    damaged = f"its {COUNTS} is damaged: run the night again"
    shape = 1 + settings, 1 + len(FLUX_EDGES)
    try:
        data = read_regular(folder / COUNTS, MOST_HEADER + 8 * math.prod(shape))
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError("its digest is not the manifest's")
        counts = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError, SyntaxError) as error:
        raise ValueError(damaged) from error
    if counts.shape != shape or counts.dtype != np.int32:
        raise ValueError(f"its {COUNTS} counts other settings, of another version: sla1 batch renews it")
    first, rest = counts[0], counts[1:]
    counted = rest[:, 0] != BELOW
    if first.min() < 0 or rest.min() < BELOW or (rest[~counted] != BELOW).any() or (rest[:, 2:] > first[2:]).any():
        raise ValueError(damaged)
    if not counted.any():
        raise ValueError("it has more leaders than its table holds, so that no setting is counted")
    return counts


@dataclass(frozen=True)
class Sums:
    """Sums over nights at n settings.

    Attributes
    ----------
    alarms, frames, nights : (n,) int64 arrays
        Over the nights that could count a setting.
    squares : (n,) array
        Of a night's alarms squared over its frames.
    found, injected : (n, bins) int64 arrays
        Stars.
    """

    alarms: np.ndarray
    frames: np.ndarray
    nights: np.ndarray
    squares: np.ndarray
    found: np.ndarray
    injected: np.ndarray

    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Limits of the rate a frame at every setting, as `rates.dispersed_limits` gives them; of one night (0, inf):
        it does not bound others.
        """
        low, high = dispersed_limits(self.alarms, np.maximum(self.frames, 1), self.squares, self.nights)
        return np.where(self.nights > 1, low, 0), np.where(self.nights > 1, high, np.inf)

    def rate(self, row: int) -> SeasonRate:
        """Rate a frame at one setting, which a night must have counted."""
        total, frames, nights = (int(values[row]) for values in (self.alarms, self.frames, self.nights))
        low, high = dispersed_limits(total, frames, self.squares[row], nights)
        return SeasonRate(total, frames, total / frames, float(low), float(high), nights=nights)

    def __add__(self, other: "Sums") -> "Sums":
        """Return the sums over the nights of both."""
        return Sums(*(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))


class Adder:
    """Adds up nights, one at a time, at n settings."""

    def __init__(self, settings: int):
        self._counts = np.zeros((settings, 1 + len(FLUX_EDGES)), np.int64)
        self._squares = np.zeros(settings)
        self._of: dict[bytes, np.ndarray] = {}  # by the settings that were counted: nights, frames, stars injected

    def add(self, counts: np.ndarray) -> None:
        """Add a night's counts, as `read_counts` gives them."""
        rest, frames = counts[1:], counts[0, :2].sum()
        counted, alarms = rest[:, 0] != BELOW, rest[:, 0] + rest[:, 1].astype(float)
        self._counts += rest
        self._squares += np.where(counted, alarms**2 / frames, 0)
        of = self._of.setdefault(counted.tobytes(), np.zeros(1 + len(FLUX_EDGES), np.int64))
        of += np.array([1, frames, *counts[0, 2:]])

    @property
    def sums(self) -> Sums:
        """The sums so far."""
        of = np.zeros_like(self._counts)
        for counted, head in self._of.items():
            of[np.frombuffer(counted, bool)] += head
        below = sum(head[0] for head in self._of.values()) - of[:, :1]  # nights whose BELOW was added
        counts = self._counts - BELOW * below
        return Sums(counts[:, :2].sum(axis=1), of[:, 1], of[:, 0], self._squares, counts[:, 2:], of[:, 2:])


def rows_of(settings: Table, criterion: str, cuts: Mapping[str, float]) -> np.ndarray:
    """Rows of these cuts of a criterion: the configured one, and one of the fixed grid where they are on it."""
    same = [np.asarray(settings[name]) == value for name, value in cuts.items()]
    return np.flatnonzero(np.logical_and.reduce([np.asarray(settings["criterion"]) == criterion, *same]))
