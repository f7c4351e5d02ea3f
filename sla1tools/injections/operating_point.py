"""The operating point: over a grid of settings, what each costs in false alarms and how faint a star it finds."""

from dataclasses import dataclass

import numpy as np
from astropy.table import Table, vstack

from sla1tools.candidates.criteria import brightest_of_each_star, resembles_psf, same_star
from sla1tools.candidates.detection import Floors
from sla1tools.candidates.rates import Rate, grid_histogram, poisson_rate, upper_limit
from sla1tools.injections.completeness import bin_of_flux, crossings, flux_bins

RATIOS = np.round(np.arange(0.0, 0.625, 0.025), 3)
P_MINS = np.array([0.0, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.05])
CRITERIA = {"neighbor_ratio": ("threshold", "ratio"), "psf_chi2": ("snr_min", "p_min")}


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


def tradeoff(leaders: Table, trials: Table, frames: list[str], floors: Floors, parameters) -> Table:
    """False alarms and 50 % flux over the grids of both criteria.

    Parameters
    ----------
    leaders, trials : Table
        The night's two tables; of `leaders` the rows of the configured reference count.
    frames : list of str
        Names of the used frames, in file order.
    floors : Floors
        Where the grids begin.
    parameters : Parameters
        `reference`, `injection_flux_range` and the configured cuts, which are on the grid.

    Returns
    -------
    grid : Table
        `criterion`, `threshold`, `ratio`, `snr_min`, `p_min` (NaN where not the criterion's), `even`, `odd` (false
        alarms in the frames at even and odd positions), `flux_50` (electrons; NaN where half are never found).
    """
    own = leaders[np.asarray(leaders["reference"]) == parameters.reference]
    odd = np.array([frames.index(name) % 2 for name in own["frame"]], int) if len(own) else np.zeros(0, int)
    edges = flux_bins(parameters.injection_flux_range)
    flux_bin = bin_of_flux(np.asarray(trials["flux_true"]), edges)
    injected = np.bincount(flux_bin, minlength=len(edges) - 1)
    fresh = ~np.asarray(trials["prior"]) & ~_mask(trials["peak"])
    arguments = (own, odd, trials[fresh], flux_bin[fresh], injected, edges, floors, parameters)
    return vstack([_ratio_grid(*arguments), _psf_grid(*arguments)])


def _mask(column) -> np.ndarray:
    return np.ma.getmaskarray(np.ma.asarray(column))


def _grid(low: float, high: float, own: float, steps: int = 40) -> np.ndarray:
    return np.unique(np.append(np.geomspace(low, high, steps), own))


def _ratio_grid(own, odd, trials, flux_bin, injected, edges, floors, parameters) -> Table:
    thresholds = _grid(floors.peak, max(10 * floors.peak, 2 * parameters.threshold), parameters.threshold)
    ratios = np.unique(np.append(RATIOS, parameters.ratio))
    alarms = grid_histogram(own, thresholds, ratios, odd, 2)
    found = grid_histogram(trials, thresholds, ratios, flux_bin, len(injected))
    threshold, ratio = (axis.ravel() for axis in np.meshgrid(thresholds, ratios, indexing="ij"))
    flux_50 = _flux_50(np.moveaxis(found, 0, -1).reshape(len(threshold), -1), injected, edges)
    return _table("neighbor_ratio", {"threshold": threshold, "ratio": ratio}, alarms.reshape(2, -1), flux_50)


def _psf_grid(own, odd, trials, flux_bin, injected, edges, floors, parameters) -> Table:
    snr_mins = _grid(floors.snr, max(5 * floors.snr, 2 * parameters.snr_min), parameters.snr_min, 30)
    settings = [(s, p) for s in snr_mins for p in np.unique(np.append(P_MINS, parameters.p_min))]
    own_row, star_row = (np.flatnonzero(~_mask(rows["snr"])) for rows in (own, trials))
    own, odd, trials, flux_bin = own[own_row], odd[own_row], trials[star_row], flux_bin[star_row]
    snr, pairs = np.asarray(own["snr"]), same_star(own)
    alarms, found = np.zeros((2, len(settings))), np.zeros((len(settings), len(injected)))
    for i, (snr_min, p_min) in enumerate(settings):
        passes = resembles_psf(own, snr_min, p_min)
        passes &= brightest_of_each_star(np.where(passes, snr, 0), pairs[passes[pairs].all(axis=1)])
        alarms[:, i] = np.bincount(odd[passes], minlength=2)
        # a star is alone in its frame: nothing near it competes
        found[i] = np.bincount(flux_bin[resembles_psf(trials, snr_min, p_min)], minlength=len(injected))
    snr_min, p_min = np.array(settings).T
    return _table("psf_chi2", {"snr_min": snr_min, "p_min": p_min}, alarms, _flux_50(found, injected, edges))


def _flux_50(found, injected, edges) -> np.ndarray:
    some = injected > 0
    if np.count_nonzero(some) < 2:
        return np.full(len(found), np.nan)
    center = np.log(edges[1:] * edges[:-1]) / 2
    return np.exp(crossings(center[some], found[:, some] / injected[some], 0.5))


def _table(criterion, cuts, alarms, flux_50) -> Table:
    nothing = np.full(len(flux_50), np.nan)
    columns = {name: cuts.get(name, nothing) for names in CRITERIA.values() for name in names}
    even, odd = alarms.astype(int)
    columns |= {"even": even, "odd": odd, "flux_50": flux_50}
    return Table({"criterion": np.full(len(flux_50), criterion, "U14")} | columns)


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
        {name: float(best[name]) for name in CRITERIA[criterion]},
        float(best["flux_50"]),
        poisson_rate(int(best["even"]), choosing),
        poisson_rate(int(best["odd"]), quoting),
        bool(keeps_budget),
    )
