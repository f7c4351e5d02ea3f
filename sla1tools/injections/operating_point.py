"""The operating point: of all settings, the one that finds the faintest stars and keeps the budget of false alarms."""

import math
from dataclasses import dataclass

import numpy as np
from astropy.table import Table

from sla1tools.candidates.criteria import CRITERIA
from sla1tools.candidates.rates import Rate, poisson_rate, upper_limit


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
        False alarms in the half that chose the setting (frames at even positions in file order; of a season every other
        night), and in the other half, which did not.
    """

    criterion: str
    cuts: dict[str, float]
    flux_50: float
    chosen_on: Rate
    quoted_on: Rate


def operating_point(grid: Table, criterion: str, frames: int, budget: float) -> OperatingPoint | None:
    """Choose the deepest setting whose upper limit keeps the budget, on the even frames; quote it on the odd ones.

    Parameters
    ----------
    grid : Table
        From `counts.tradeoff`.
    criterion : str
        Which rule to choose for.
    frames : int
        Number of used frames.
    budget : float
        Highest 95 % upper limit of false alarms per frame.

    Returns
    -------
    point : OperatingPoint or None
        None where no setting keeps the budget and finds half of the stars at any flux injected: so always where the
        frames are `too_few`.
    """
    choosing, quoting = (frames + 1) // 2, frames // 2
    best = deepest(grid, criterion, upper_limit(grid["even"]) / choosing, budget)
    if best is None or quoting == 0:
        return None
    rates = poisson_rate(int(grid["even"][best]), choosing), poisson_rate(int(grid["odd"][best]), quoting)
    return OperatingPoint(criterion, cuts_of(grid[best]), float(grid["flux_50"][best]), *rates)


def deepest(grid: Table, criterion: str, high: np.ndarray, budget: float) -> int | None:
    """Row of the criterion's lowest `flux_50` among those whose upper limit `high` keeps the budget; of equals the
    one of the lower limit.
    """
    kept = (np.asarray(grid["criterion"]) == criterion) & np.isfinite(grid["flux_50"]) & (high <= budget * (1 + 1e-12))
    rows = np.flatnonzero(kept)
    return int(rows[np.lexsort((high[rows], grid["flux_50"][rows]))[0]]) if len(rows) else None


def cuts_of(row) -> dict[str, float]:
    """Cuts of a row of the grid, by name."""
    return {cut.name: float(row[cut.name]) for cut in CRITERIA[row["criterion"]].cuts}


def too_few(frames: int, budget: float) -> str:
    """Say that so many frames cannot choose a setting, and how many could; empty where they can.

    >>> too_few(10, 0.5)
    'half of 10 frames cannot show a budget of 0.5 false alarms a frame kept: 11 frames would do'
    >>> too_few(11, 0.5)
    ''
    """
    needed = 2 * math.ceil(upper_limit(0) / budget * (1 - 1e-12)) - 1
    if frames >= max(needed, 2):
        return ""
    return (
        f"half of {frames} frames cannot show a budget of {budget:g} false alarms a frame kept: "
        f"{max(needed, 2):,} frames would do"
    )
