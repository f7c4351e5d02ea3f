"""The operating point: over a grid of settings, what each costs in false alarms and how faint a star it finds."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from astropy.table import Table, vstack

from sla1tools.candidates.criteria import CRITERIA, CUTS
from sla1tools.candidates.detection import Floors
from sla1tools.candidates.rates import Rate, poisson_rate, upper_limit
from sla1tools.candidates.selection import Criterion, column_of, one_per_star, same_star
from sla1tools.injections.completeness import FLUX_BINS, bin_of_flux, crossings, flux_bins
from sla1tools.injections.injection import Injections


@dataclass(frozen=True)
class OperatingPoint:
    """The setting that finds the faintest stars within the false-alarm budget.

    Attributes
    ----------
    criterion : str
        Which rule the cuts belong to.
    cuts : dict
        Parameter name to value.
    flux_50 : float
        Flux found half of the time, electrons.
    chosen_on, quoted_on : Rate
        False alarms in the half of the frames that chose the setting (even positions in file order), and in the other
        half, which did not.
    keeps_budget : bool
        The 95 % upper limit in the choosing half is within the budget. With few frames none can be: then the setting is
        the deepest without a false alarm there.
    """

    criterion: str
    cuts: dict[str, float]
    flux_50: float
    chosen_on: Rate
    quoted_on: Rate
    keeps_budget: bool


def tradeoff(leaders: Table, injections: Injections, frames: list[str], floors: Floors, parameters) -> Table:
    """False alarms and 50 % flux over the grid of settings of every criterion.

    Parameters
    ----------
    leaders : Table
        The night's leaders; those of the configured reference count.
    injections : Injections
        The night's injected stars.
    frames : list of str
        Names of the used frames, in file order.
    floors : Floors
        Where the grids begin.
    parameters : Parameters
        `reference`, `injection_flux_range` and the configured cuts, which are on the grid.

    Returns
    -------
    grid : Table
        `criterion`, a column for every cut (NaN where not the criterion's), `even`, `odd` (false alarms in the frames
        at even and odd positions), `flux_50` (electrons; NaN where half are never found).
    """
    own = leaders[np.asarray(leaders["reference"]) == parameters.reference]
    half = {name: k % 2 for k, name in enumerate(frames)}
    own["odd"] = np.array([half[name] for name in np.asarray(own["frame"]).tolist()], int)
    edges = flux_bins(parameters.injection_flux_range)
    flux_bin = bin_of_flux(np.asarray(injections.trials["flux_true"]), edges)
    injected = np.bincount(flux_bin, minlength=len(edges) - 1)
    grids = []
    for criterion in CRITERIA.values():
        axes = {cut.name: cut.settings(parameters, floors) for cut in criterion.cuts}
        settings = np.stack([axis.ravel() for axis in np.meshgrid(*axes.values(), indexing="ij")])
        columns = dict.fromkeys(CUTS, np.full(settings.shape[1], np.nan)) | dict(zip(axes, settings, strict=True))
        columns["even"], columns["odd"] = _alarms(criterion, own, axes)
        columns["flux_50"] = _flux_50(_found(criterion, injections, flux_bin, axes), injected, edges)
        grids.append(Table({"criterion": [criterion.name] * settings.shape[1]} | columns))
    return vstack(grids)


def _settings(criterion: Criterion, table: Table, axes: dict) -> Iterator[np.ndarray]:
    """Rows of a table that pass at every setting, each judged for itself; the last cut runs fastest."""
    columns = {name for term in criterion.terms for name in (term.column, term.factor) if name}
    rows = {name: column_of(table, name) for name in columns} | {"": np.arange(len(table))}
    fixed = "", [0.0]
    return _passing(criterion, rows, [fixed, *axes.items()])


def _passing(criterion: Criterion, rows: dict, axes: list) -> Iterator[np.ndarray]:
    """Narrow the rows by one cut after the other: each term is asked once a value, of the rows that are left."""
    if not axes:
        yield rows[""]
        return
    (name, values), *rest = axes
    terms = [term for term in criterion.terms if (term.bound if isinstance(term.bound, str) else "") == name]
    for value in values:
        held = np.ones(len(rows[""]), bool)
        for term in terms:
            held &= term.holds(rows, {name: value})
        yield from _passing(criterion, {key: v[held] for key, v in (rows if rest else {"": rows[""]}).items()}, rest)


def _alarms(criterion: Criterion, own: Table, axes: dict) -> np.ndarray:
    """False alarms in even and odd frames at every setting, (2, n) int."""
    odd = np.asarray(own["odd"])
    pairs = np.zeros((0, 2), int)
    if criterion.best:
        fitted = np.flatnonzero(~np.isnan(column_of(own, criterion.best)))
        pairs = fitted[same_star(own[fitted], column_of(own[fitted], criterion.best))]
    alarms = []
    for index in _settings(criterion, own, axes):
        if len(pairs):
            passes = np.zeros(len(own), bool)
            passes[index] = True
            index = np.flatnonzero(one_per_star(passes, pairs))
        alarms.append(np.bincount(odd[index], minlength=2))
    return np.transpose(alarms)


def _found(criterion: Criterion, injections: Injections, flux_bin: np.ndarray, axes: dict) -> np.ndarray:
    """Stars found at every setting, by flux bin, (n, bins) int: as `Injections.recovered` finds them."""
    found = [injections.found_by(index) for index in _settings(criterion, injections.leaders, axes)]
    return np.array([np.bincount(flux_bin[stars], minlength=FLUX_BINS) for stars in found])


def _flux_50(found, injected, edges) -> np.ndarray:
    tried = injected > 0
    if np.count_nonzero(tried) < 2:
        return np.full(len(found), np.nan)
    center = np.log(edges[1:] * edges[:-1]) / 2
    return np.exp(crossings(center[tried], found[:, tried] / injected[tried], 0.5))


def operating_point(grid: Table, criterion: str, frames: int, budget: float) -> OperatingPoint | None:
    """Choose the deepest setting whose upper limit keeps the budget, on the even frames; quote it on the odd ones.

    Parameters
    ----------
    grid : Table
        From `tradeoff`.
    criterion : str
        Which rule to choose for.
    frames : int
        Number of used frames.
    budget : float
        Highest 95 % upper limit of false alarms per frame.

    Returns
    -------
    point : OperatingPoint or None
        None where no setting finds half of the stars at any flux injected, or none is without false alarms enough.
    """
    rows = grid[(np.asarray(grid["criterion"]) == criterion) & np.isfinite(grid["flux_50"])]
    choosing, quoting = (frames + 1) // 2, frames // 2
    keeps_budget = poisson_rate(0, choosing).high <= budget
    allowed = budget if keeps_budget else poisson_rate(0, choosing).high
    rows = rows[upper_limit(rows["even"]) / choosing <= allowed * (1 + 1e-12)]
    if len(rows) == 0 or quoting == 0:
        return None
    best = rows[np.lexsort((rows["even"], rows["flux_50"]))[0]]
    return OperatingPoint(
        criterion,
        {cut.name: float(best[cut.name]) for cut in CRITERIA[criterion].cuts},
        float(best["flux_50"]),
        poisson_rate(int(best["even"]), choosing),
        poisson_rate(int(best["odd"]), quoting),
        bool(keeps_budget),
    )
