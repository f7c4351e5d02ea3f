"""The season's statement: false alarms, depth and setting over all comparable nights, with limits that hold when nights
differ.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from astropy.table import Table
from scipy import special

from sla1tools.candidates.criteria import CRITERIA
from sla1tools.candidates.rates import SeasonRate, season_rate
from sla1tools.errors import ParametersError
from sla1tools.injections.completeness import FluxLimit, flux_limit
from sla1tools.injections.counts import BELOW, FLUX_CENTERS, flux_50, settings, tradeoff
from sla1tools.injections.operating_point import OperatingPoint, cuts_of, deepest, operating_point, too_few
from sla1tools.nights import pooling
from sla1tools.nights.pooling import Group, Sums
from sla1tools.nights.recurrence import candidate_pixels
from sla1tools.nights.trends import NightRecord
from sla1tools.parameters import Parameters, validate
from sla1tools.text import shown

DIFFER = 0.01  # chance below which nights are said to differ
MOST_WORST = 3
SETTINGS = len(settings(Parameters()))
LEAST_SHARE = 0.95  # of the nights must have counted a setting that is recommended: the worst may have higher floors


@dataclass(frozen=True)
class Statement:
    """What a season says of one criterion at the configured cuts.

    Attributes
    ----------
    cuts : dict
        Those of the season's latest night.
    alarms : SeasonRate
        False alarms a frame, over the nights that were counted at these cuts.
    without_recurrent : SeasonRate or None
        Without candidates within 1 px (Chebyshev) of one on another night, over the nights whose candidates are listed
        by this criterion at these cuts; None where fewer than two are.
    expected : float or None
        From Gaussian noise alone, a frame.
    worst : tuple of str
        Where nights differ more than chance, those that stand out most, with what they have and would have.
    flux_50, flux_90 : FluxLimit
        Electrons.
    point : OperatingPoint or None
        Chosen on every other night, quoted on the others; of one night on its frames.
    lacking : str
        Why there is none; else empty.
    """

    cuts: dict[str, float]
    alarms: SeasonRate
    without_recurrent: SeasonRate | None
    expected: float | None
    worst: tuple[str, ...]
    flux_50: FluxLimit
    flux_90: FluxLimit
    point: OperatingPoint | None
    lacking: str


@dataclass(frozen=True)
class Season:
    """Comparable nights and what they say together.

    Attributes
    ----------
    name : str
        The camera, and what sets these nights apart from others.
    parameters : Parameters
        Of the latest night.
    nights : list of NightRecord
        That count, in order of time.
    statements : dict
        By criterion.
    grid : Table
        As `counts.tradeoff` gives it, `even` and `odd` for nights.
    left_out : dict
        Night to reason.
    other_groups : list of Season
        Comparable among themselves; without a grid, the largest first.
    """

    name: str
    parameters: Parameters
    nights: list[NightRecord]
    statements: dict[str, Statement]
    grid: Table
    left_out: dict[str, str] = field(default_factory=dict)
    other_groups: list["Season"] = field(default_factory=list)

    @property
    def frames(self) -> int:
        """Frames of all nights."""
        return sum(record.frames for record in self.nights)

    @property
    def identity(self) -> dict[str, str]:
        """What its nights share."""
        return pooling.identity(self.nights[0].instrument, self.nights[0].parameters)


def sum_season(records: Sequence[NightRecord], outputs: Path) -> Season | None:
    """Add up the comparable nights of an outputs folder, one night in memory at a time.

    Parameters
    ----------
    records : sequence of NightRecord
        As `trends.read_nights` gives them.
    outputs : Path
        Their folder.

    Returns
    -------
    season : Season or None
        Of the group of most frames; None where no night can be counted.
    """
    left_out = {record.path: "; ".join(record.reasons) or record.verdict for record in records if not record.frames}
    summed = [_sum_group(group, outputs, left_out) for group in pooling.comparable(records)]
    seasons = sorted((season for season in summed if season), key=lambda season: -season.frames)
    if not seasons:
        return None
    first, *others = seasons
    for other in others:
        left_out |= {record.path: f"not comparable: {other.name}" for record in other.nights}
    return replace(first, left_out=left_out, other_groups=others)


def _sum_group(group: Group, outputs: Path, left_out: dict[str, str]) -> Season | None:
    """Sum a group at the cuts of its latest night that can be counted; name the nights that cannot."""
    pool = _pool_of(group, outputs)
    for record, mine in [*((record, True) for record in group.nights), *((record, False) for record in group.others)]:
        try:
            counts = _read(record, outputs)
        except ValueError as error:
            left_out |= {record.path: str(error)} if mine else {}
        else:
            if pool:
                pool.add(record, counts, mine)
    if pool is None:
        return None
    statements = {name: pool.statement(name, outputs) for name in CRITERIA}
    return Season(group.name, pool.parameters, [one.record for one in pool.nights if one.stars], statements, pool.grid)


def _pool_of(group: Group, outputs: Path) -> "_Pool | None":
    for record in reversed(group.nights):
        with suppress(ParametersError, ValueError):
            _read(record, outputs)
            return _Pool(validate(record.parameters, record.path))
    return None


def _read(record: NightRecord, outputs: Path) -> np.ndarray:
    return pooling.read_counts(outputs / record.path, record.sha256.get(pooling.COUNTS), SETTINGS)


@dataclass(frozen=True)
class _Counted:
    """A night that was added: its alarms at the stated cuts of each criterion (`BELOW`: not counted), its frames."""

    record: NightRecord
    alarms: dict[str, int]
    frames: int
    stars: bool

    def has(self, cuts: Mapping[str, float]) -> bool:
        """Whether it was run with these cuts."""
        return all(self.record.parameters.get(name) == value for name, value in cuts.items())


class _Pool:
    """The sums over every other night and over the rest, and each night's alarms at the stated cuts."""

    def __init__(self, parameters: Parameters):
        self.parameters = parameters
        self.table = settings(parameters)
        self.cuts = {name: criterion.configured(parameters) for name, criterion in CRITERIA.items()}
        # cuts on the fixed grid, as those of an adopted setting, are counted on nights that were run with others, too
        self.stated = {name: int(pooling.rows_of(self.table, name, own)[-1]) for name, own in self.cuts.items()}
        self._adders = pooling.Adder(len(self.table)), pooling.Adder(len(self.table))
        self.nights: list[_Counted] = []
        self.first = np.zeros(0, np.int32)

    def add(self, record: NightRecord, counts: np.ndarray, stars: bool) -> None:
        """Add a night's counts, which are changed: what it shares with the others is left of them."""
        night = _Counted(record, {}, int(counts[0, :2].sum()), stars)
        self.first = counts.copy() if not self.nights else self.first
        for row, own in enumerate(self.cuts.values(), start=1):
            if not night.has(own):
                counts[row] = BELOW
        if not stars:  # of another image: nor what it finds, nor the criteria that use it
            counts[1:][np.isin(self.table["criterion"], list(pooling.PSF_CRITERIA))] = BELOW
            counts[:, 2:] = np.minimum(counts[:, 2:], 0)
        for name, row in self.stated.items():
            night.alarms[name] = int(counts[1 + row, :2].sum()) if counts[1 + row, 0] != BELOW else BELOW
        self._adders[len(self.nights) % 2].add(counts)
        self.nights.append(night)

    @cached_property
    def halves(self) -> tuple[Sums, Sums]:
        """Sums over every other night, and over the rest, once all are added."""
        return self._adders[0].sums, self._adders[1].sums

    @cached_property
    def total(self) -> Sums:
        """Sums over all nights."""
        return self.halves[0] + self.halves[1]

    @cached_property
    def grid(self) -> Table:
        """Settings that nearly every night counted: as `counts.tradeoff` gives them, and `setting`, their row."""
        criterion, nights = np.asarray(self.table["criterion"]), self.total.nights
        least = {name: max(1.0, LEAST_SHARE * nights[criterion == name].max()) for name in CRITERIA}
        kept = nights >= [least[name] for name in criterion.tolist()]
        grid = self.table[kept]
        grid["even"], grid["odd"] = (half.alarms[kept] for half in self.halves)
        grid["rate"] = self.total.alarms[kept] / self.total.frames[kept]
        grid["flux_50"] = flux_50(self.total.found[kept], self.total.injected[kept])
        grid["setting"] = np.flatnonzero(kept)
        return grid

    def statement(self, name: str, outputs: Path) -> Statement:
        """What the nights say of a criterion."""
        nights = [one for one in self.nights if one.alarms[name] != BELOW]
        alarms = season_rate([one.alarms[name] for one in nights], [one.frames for one in nights])
        own = [one for one in nights if one.has(self.cuts[name])]
        told = [(one.record.expected[name], one.frames) for one in own if name in one.record.expected]
        stars = [FLUX_CENTERS, *(values[self.stated[name]] for values in (self.total.injected, self.total.found))]
        point = self._point(name)
        curve = Table(stars, names=("flux", "injected", "recovered"))
        listed = [one for one in own if one.record.parameters.get("criterion") == name]
        return Statement(
            self.cuts[name],
            alarms,
            _without_recurrent(listed, outputs),
            sum(rate * frames for rate, frames in told) / sum(frames for _, frames in told) if told else None,
            _worst(nights, name, alarms),
            flux_limit(curve, 0.5),
            flux_limit(curve, 0.9),
            point,
            "" if point else self._lacking(),
        )

    def _point(self, name: str) -> OperatingPoint | None:
        grid, budget = self.grid, self.parameters.false_alarm_budget
        if len(self.nights) == 1:
            return operating_point(tradeoff(self.first, self.parameters), name, self.nights[0].frames, budget)
        choosing, quoting = self.halves
        best = deepest(grid, name, choosing.limits()[1][grid["setting"]], budget)
        if best is None or not quoting.nights[grid["setting"][best]]:
            return None
        rates = [half.rate(grid["setting"][best]) for half in self.halves]
        return OperatingPoint(name, cuts_of(grid[best]), float(grid["flux_50"][best]), *rates)

    def _lacking(self) -> str:
        budget, nights = self.parameters.false_alarm_budget, len(self.nights)
        if nights == 1 and (lacking := too_few(self.nights[0].frames, budget)):
            return lacking
        if nights > 1 and self.halves[0].limits()[1].min() > budget:
            return f"every other one of {nights} nights cannot show a budget of {budget:g} false alarms a frame kept"
        return "none keeps the budget and finds half of the stars"


def _worst(nights: Sequence[_Counted], name: str, alarms: SeasonRate) -> tuple[str, ...]:
    """Name the nights of most alarms over what the season's rate gives them, where nights differ."""
    if alarms.dispersion_p is None or alarms.dispersion_p >= DIFFER:
        return ()
    usual = [one.frames * alarms.rate for one in nights]
    chance = [special.pdtrc(one.alarms[name] - 1, mean) for one, mean in zip(nights, usual, strict=True)]
    return tuple(
        f"{nights[k].record.night}: {nights[k].alarms[name]:,}, where {shown(usual[k], digits=2)} would be usual"
        for k in np.argsort(chance, kind="stable")[:MOST_WORST]
        if nights[k].alarms[name] > usual[k]
    )


def _without_recurrent(nights: Sequence[_Counted], outputs: Path) -> SeasonRate | None:
    """Rate of the candidates that no other night has within 1 px."""
    found = [(one, candidate_pixels(outputs / one.record.path / "candidates.ecsv", one.record.shape)) for one in nights]
    listed = [(one, np.array(pixels, int).reshape(-1, 2)) for one, pixels in found if pixels is not None]
    if len(listed) < 2:
        return None
    ny, nx = listed[0][0].record.shape
    near = np.zeros((ny + 2, nx + 2), np.int32)  # nights with a candidate within 1 px
    for _, pixels in listed:
        x, y = np.unique((pixels[:, None] + np.argwhere(np.ones((3, 3)))).reshape(-1, 2), axis=0).T
        near[y, x] += 1
    counts = [np.count_nonzero(near[pixels[:, 1] + 1, pixels[:, 0] + 1] < 2) for _, pixels in listed]
    return season_rate(counts, [one.frames for one, _ in listed])
