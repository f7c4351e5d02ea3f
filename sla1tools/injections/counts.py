"""Counts over fixed settings: a night's candidates and found stars at every setting of every criterion.

The settings are the same for every night, and so are the flux bins: counts of comparable nights add up, and a season is
a sum.
"""

from collections.abc import Iterator

import numpy as np
from astropy.table import Table, vstack

from sla1tools.candidates.criteria import CRITERIA, CUTS, criteria_of
from sla1tools.candidates.rows import Floors
from sla1tools.candidates.selection import Criterion, column_of, one_per_star, same_star
from sla1tools.injections.completeness import bin_of_flux, crossings
from sla1tools.injections.injection import Injections

FLUX_EDGES = 10 ** (np.arange(10, 51) / 10)
"""Edges of the flux bins in electrons, 10 to 100,000; what is fainter or brighter counts in the first or last bin."""
FLUX_CENTERS = np.sqrt(FLUX_EDGES[1:] * FLUX_EDGES[:-1])
BELOW = -1  # counts that a night cannot tell: its leaders were not measured that deep


def count_settings(
    leaders: Table,
    injections: Injections,
    frames: list[str],
    floors: Floors,
    parameters,
    before: np.ndarray | None = None,
) -> np.ndarray:
    """Count candidates and found stars at every setting.

    Parameters
    ----------
    leaders : Table
        The night's leaders; those of the configured reference count.
    injections : Injections
        The night's injected stars.
    frames : list of str
        Names of the used frames, in file order.
    floors : Floors
        What the leaders exceed.
    parameters : Parameters
        `reference`, and the configured cuts.
    before : array, optional
        What this function returned of the same night at other cuts, whose fixed grids are then not counted again.

    Returns
    -------
    counts : (1 + settings, 2 + flux bins) int32 array
        First what is counted in: frames at even and at odd positions, stars injected in each flux bin. Then a row for
        each of `settings`: candidates in even and in odd frames, stars found. A row is `BELOW` where its setting lies
        below the floors, and every one is where leaders were left out of the table.
    """
    held = np.asarray(leaders["reference"]) == parameters.reference
    own = Table({name: leaders[name][held] for name in leaders.colnames if name != "stamp"}, copy=False)
    half = {name: k % 2 for k, name in enumerate(frames)}
    odd = np.array([half[name] for name in np.asarray(own["frame"]).tolist()], int)
    flux_bin = bin_of_flux(np.asarray(injections.trials["flux_true"]), FLUX_EDGES)
    parts = [np.append([(len(frames) + 1) // 2, len(frames) // 2], _binned(flux_bin))[None]]
    for criterion, axes in list(_planes(parameters))[: None if before is None else len(CRITERIA)]:
        lowest = {cut.name: getattr(floors, cut.floor) if cut.floor else -np.inf for cut in criterion.cuts}
        above = np.logical_and.reduce([values >= lowest[name] for name, values in _grid(axes).items()])
        above &= floors.left_out == 0
        part = np.full((len(above), 1 + len(FLUX_EDGES)), BELOW)
        if above.any():
            measured = {name: values[values >= lowest[name]] for name, values in axes.items()}
            part[above, :2] = list(_alarms(criterion, own, odd, measured))
            part[above, 2:] = list(_found(criterion, injections, flux_bin, measured))
        parts.append(part)
    rest = [] if before is None else [before[1 + len(CRITERIA) :]]
    return np.concatenate([*parts, *rest]).astype(np.int32)


def settings(parameters) -> Table:
    """Every setting that is counted, a row each: the configured cuts of each criterion, then the fixed grids.

    Returns
    -------
    settings : Table
        `criterion` and a column for every cut (NaN where it is not the criterion's); the last cut runs fastest.
    """
    rows = []
    for criterion, axes in _planes(parameters):
        grid = _grid(axes)
        n = len(grid[criterion.cuts[0].name])
        rows.append(Table({"criterion": [criterion.name] * n} | dict.fromkeys(CUTS, np.full(n, np.nan)) | grid))
    return vstack(rows)


def tradeoff(counts: np.ndarray, parameters) -> Table:
    """False alarms and 50 % flux at every setting that a night could count.

    Parameters
    ----------
    counts : (1 + settings, 2 + flux bins) int array
        From `count_settings`.
    parameters : Parameters
        The configured cuts.

    Returns
    -------
    grid : Table
        Rows of `settings`, with `even`, `odd` (false alarms in the frames at even and odd positions), `rate` (false
        alarms a frame) and `flux_50` (electrons; NaN where half are never found).
    """
    counted = counts[1:, 0] != BELOW
    grid = settings(parameters)[counted]
    grid["even"], grid["odd"] = counts[1:][counted, :2].T
    grid["rate"] = (grid["even"] + grid["odd"]) / counts[0, :2].sum()
    grid["flux_50"] = flux_50(counts[1:][counted, 2:], counts[0, 2:])
    return grid


def flux_50(found: np.ndarray, injected: np.ndarray) -> np.ndarray:
    """Flux in electrons at which half of the injected stars are found, (n,), NaN where half never are.

    Parameters
    ----------
    found : (n, bins) int array
    injected : (bins,) or (n, bins) int array
        In the bins between `FLUX_EDGES`.
    """
    injected = np.broadcast_to(injected, found.shape)
    flux = np.full(len(found), np.nan)
    for tried in np.unique(injected > 0, axis=0):
        if np.count_nonzero(tried) > 1:
            rows = ((injected > 0) == tried).all(axis=1)
            shares = found[rows][:, tried] / injected[rows][:, tried]
            flux[rows] = np.exp(crossings(np.log(FLUX_CENTERS[tried]), shares, 0.5))
    return flux


def _planes(parameters) -> Iterator[tuple[Criterion, dict]]:
    criteria = criteria_of(parameters).values()
    for criterion in criteria:
        yield criterion, {name: np.array([value]) for name, value in criterion.configured(parameters).items()}
    for criterion in criteria:
        yield criterion, {cut.name: cut.axis for cut in criterion.cuts}


def _grid(axes: dict) -> dict[str, np.ndarray]:
    return dict(zip(axes, (values.ravel() for values in np.meshgrid(*axes.values(), indexing="ij")), strict=True))


def _settings(criterion: Criterion, table: Table, axes: dict) -> Iterator[np.ndarray]:
    """Rows of a table that pass at every setting, each judged for itself; the last cut runs fastest."""
    columns = {name for term in criterion.terms for name in (term.column, term.factor) if name}
    rows = {name: column_of(table, name) for name in columns} | {"": np.arange(len(table))}
    return _passing(criterion, rows, [("", [0.0]), *axes.items()])


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


def _alarms(criterion: Criterion, own: Table, odd: np.ndarray, axes: dict) -> Iterator[np.ndarray]:
    """False alarms in even and odd frames at every setting, (2,) each."""
    pairs = np.zeros((0, 2), int)
    if criterion.best:
        fitted = np.flatnonzero(~np.isnan(column_of(own, criterion.best)))
        pairs = fitted[same_star(own[fitted], column_of(own[fitted], criterion.best))]
    for index in _settings(criterion, own, axes):
        if len(pairs):
            passes = np.zeros(len(own), bool)
            passes[index] = True
            index = np.flatnonzero(one_per_star(passes, pairs))
        yield np.bincount(odd[index], minlength=2)


def _found(criterion: Criterion, injections: Injections, flux_bin: np.ndarray, axes: dict) -> Iterator[np.ndarray]:
    """Stars found at every setting, by flux bin: as `Injections.recovered` finds them."""
    for index in _settings(criterion, injections.leaders, axes):
        yield _binned(flux_bin[injections.found_by(index)])


def _binned(flux_bin: np.ndarray) -> np.ndarray:
    return np.bincount(flux_bin, minlength=len(FLUX_EDGES) - 1)
