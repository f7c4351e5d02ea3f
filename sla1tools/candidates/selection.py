"""What a criterion is: cuts that users set, terms that a leader must fulfil, and which of one star's leaders counts.

Terms are data. Python evaluates them here; the explorer's front end (`show/explorer/selection.js`) is handed the same
list and evaluates it again, so that a rule is written down once, in `criteria.py`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from astropy.table import Table

from sla1tools.parameters import Parameters

FACTOR = 1.05  # between the settings of a cut that begins at a floor
SAME_STAR = 2  # pixels: under four neighbours one star can lead twice, on the diagonal
COMPARISONS: dict[str, Callable] = {
    ">": np.greater,
    ">=": np.greater_equal,
    "<": np.less,
    "<=": np.less_equal,
    "has no bit of": lambda values, bits: values & bits == 0,
}


@dataclass(frozen=True)
class Cut:
    """A number that users set: a parameter, a slider, an axis of the trade-off.

    Attributes
    ----------
    name : str
        The parameter's name.
    label, unit : str
        What is written before and after its value.
    step : float
        Of the slider; of the decimal logarithm where `log`.
    low, high : float
        The slider's ends; of the fixed axis, too.
    floor : {'peak', 'snr'}, optional
        The slider begins at this floor of the leader table, at whole steps where the configured value leaves room for
        them, and ends at five times the configured value or at `high`, whichever is larger.
    log : bool
        The slider is logarithmic; unless it begins at a floor its low end stands for 0 (`opens`).
    """

    name: str
    label: str
    step: float
    high: float
    low: float = 0.0
    floor: Literal["peak", "snr"] | None = None
    unit: str = ""
    log: bool = False

    @property
    def opens(self) -> bool:
        """Whether the slider's low end stands for 0, which it cannot reach."""
        return self.log and self.floor is None

    def ends(self, parameters: Parameters, floors) -> tuple[float, float]:
        """Ends of the slider."""
        if self.floor is None:
            return self.low, self.high
        own = getattr(parameters, self.name)
        low = round(math.ceil(getattr(floors, self.floor) / self.step - 1e-9) * self.step, 9)
        return min(low, own), max(self.high, 5 * own)

    @property
    def axis(self) -> np.ndarray:
        """Rising settings at which every night is counted, whatever it holds: they do not depend on any night.

        From a fiftieth (or `low`, if that is higher) to twice the high end in powers of 1.05 where the slider begins at
        a floor; 0 and powers of ten where it is logarithmic; twenty equal steps else.
        """
        if self.floor:
            low = max(self.low, self.high / 50)
            powers = np.arange(math.ceil(math.log(low, FACTOR)), math.log(2 * self.high, FACTOR))
            return np.round(FACTOR**powers, 4)
        if self.log:
            decades = range(math.ceil(math.log10(self.low)), math.ceil(math.log10(self.high)))
            return np.array([0.0, *(float(f"1e{decade}") for decade in decades)])
        return np.round(np.linspace(self.low, self.high, 21), 12)

    def words(self, value: float) -> str:
        """Write it with a value, for reading."""
        return f"{self.label} {value:.4g} {self.unit}".strip()


@dataclass(frozen=True)
class Term:
    """One comparison that a row must fulfil; a NaN or masked value never does.

    Attributes
    ----------
    column : str
        Of the leader table.
    comparison : str
        One of `COMPARISONS`.
    bound : str or float
        What the column is compared with: the cut of that name, or a number (bits).
    miss : str
        Why a star is missed whose leader fails here first.
    factor : str, optional
        A column that multiplies the bound.
    """

    column: str
    comparison: Literal[">", ">=", "<", "<=", "has no bit of"]
    bound: str | float
    miss: str
    factor: str | None = None

    def limit(self, rows, cuts: Mapping[str, float]):
        """What the column is compared with, a number or a value a row."""
        bound = cuts[self.bound] if isinstance(self.bound, str) else self.bound
        return bound if self.factor is None else bound * column_of(rows, self.factor)

    def holds(self, rows, cuts: Mapping[str, float]) -> np.ndarray:
        """Which rows fulfil it, (n,) bool."""
        return COMPARISONS[self.comparison](column_of(rows, self.column), self.limit(rows, cuts))


@dataclass(frozen=True)
class Criterion:
    """A rule that selects rows of a leader table, at any setting of its cuts.

    Attributes
    ----------
    name : str
        Its one name: the parameter's value, the ending of its columns, and what figures, tables and pages call it.
    meaning : str
        What it asks of a leader, in a sentence for the glossary.
    color : str
        Of its curves, #rrggbb.
    cuts : tuple of Cut
        What users set. The first is the one along which a trade-off is drawn.
    terms : tuple of Term
        All of them must hold; the first that does not is why a star is missed.
    expected : callable
        ``expected(noise, parameters)``: candidates of one frame from Gaussian noise alone, given the 1-sigma noise of
        its residual, (ny, nx) electrons, masked where a pixel makes none; None where no formula is known. Where the
        parameters' first cut is an (n,) array, for each of them.
    best : str, optional
        Of leaders within 2 px of one another in one frame only the highest in this column counts; by default all do.

    Raises
    ------
    ValueError
        If no term keeps `peak` (strictly) or `snr` above a cut whose slider begins at that floor: the leader table
        holds nothing below its floors, and such a criterion would silently lose candidates.
    """

    name: str
    meaning: str
    color: str
    cuts: tuple[Cut, ...]
    terms: tuple[Term, ...]
    expected: Callable[[np.ndarray, Parameters], Any]
    best: str | None = None

    def __post_init__(self):
        floor = {cut.name: cut.floor for cut in self.cuts}
        kept = {"peak": (">",), "snr": (">", ">=")}  # peaks are whole counts, of which some equal their floor
        if not any(
            floor.get(str(term.bound)) == term.column and term.comparison in kept[term.column] for term in self.terms
        ):
            raise ValueError(
                f"criterion {self.name}: one of its terms must keep peak or snr above a cut with that floor, "
                "as threshold and snr_min are: no leader below the floors is measured"
            )

    def configured(self, parameters: Parameters) -> dict[str, float]:
        """Its cuts among the parameters."""
        return {cut.name: getattr(parameters, cut.name) for cut in self.cuts}

    def passes(self, rows, cuts: Mapping[str, float]) -> np.ndarray:
        """Which rows fulfil all terms, each judged for itself, (n,) bool."""
        return np.logical_and.reduce([term.holds(rows, cuts) for term in self.terms])

    def select(self, leaders: Table, cuts: Mapping[str, float]) -> np.ndarray:
        """Which rows of a leader table are candidates, (n,) bool: they pass, and are the best of their star."""
        passes = self.passes(leaders, cuts)
        if self.best is None:
            return passes
        rows = np.flatnonzero(passes)
        chosen = leaders[rows]
        passes[rows] = one_per_star(np.ones(len(rows), bool), same_star(chosen, column_of(chosen, self.best)))
        return passes


def first_failed(terms, rows, cuts: Mapping[str, float], otherwise: str) -> np.ndarray:
    """Miss reason of the first of some terms that each row fails, (n,) str; `otherwise` where all hold."""
    reason = np.full(len(rows["peak"]), otherwise, "U20")
    for term in reversed(terms):
        reason[~term.holds(rows, cuts)] = term.miss
    return reason


def column_of(rows, name: str) -> np.ndarray:
    """Values of a column of numbers: NaN where a float is masked, all bits where an integer is."""
    values = rows[name]
    if np.ma.isMaskedArray(values):
        return np.asarray(np.ma.filled(values, np.nan if values.dtype.kind == "f" else -1))
    return np.asarray(values)


def same_star(leaders: Table, values: np.ndarray) -> np.ndarray:
    """Pairs of rows within 2 px (Chebyshev) of one another in the same frame against the same reference.

    Parameters
    ----------
    leaders : Table
        With `frame`, `reference`, `x`, `y`.
    values : (n,) array
        By which the better of two rows is told; the first of equals is better.

    Returns
    -------
    pairs : (m, 2) int array
        Better and worse row, the pairs of the best rows first.
    """
    from scipy.spatial import cKDTree

    if len(leaders) < 2:
        return np.zeros((0, 2), int)
    _, frame = np.unique(leaders["frame"], return_inverse=True)
    _, reference = np.unique(leaders["reference"], return_inverse=True)
    apart = 10 * SAME_STAR  # frames lie on planes too far apart to be neighbours
    places = np.column_stack([leaders["x"], leaders["y"], apart * frame, apart * reference])
    pairs = cKDTree(places).query_pairs(SAME_STAR, p=np.inf, output_type="ndarray")
    row_of_rank = np.argsort(-values, kind="stable")
    rank = np.empty(len(values), int)
    rank[row_of_rank] = np.arange(len(values))
    ranks = np.sort(rank[pairs], axis=1)
    return row_of_rank[ranks[np.lexsort((ranks[:, 1], ranks[:, 0]))]]


def one_per_star(passes: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Of passing rows that belong together keep the best, greedily from the top.

    Parameters
    ----------
    passes : (n,) bool array
    pairs : (m, 2) int array
        From `same_star`.

    Returns
    -------
    kept : (n,) bool array
        A row that is not kept removes no other.
    """
    kept = passes.copy()
    for better, worse in pairs[passes[pairs].all(axis=1)].tolist():
        if kept[better]:
            kept[worse] = False
    return kept
