"""What makes a leader a PSF candidate: selections on a leader table, at any setting."""

import numpy as np
from astropy.table import Table

from sla1tools.parameters import Parameters
from sla1tools.pixels import BLOCKING

SAME_STAR = 2  # pixels: under four neighbours one star can lead twice, on the diagonal


def neighbor_ratio(leaders: Table, threshold: float, ratio: float) -> np.ndarray:
    """Select by the observers' rule: a leader above the threshold with no neighbour below ratio times its peak.

    Parameters
    ----------
    leaders : Table
        With columns `peak` and `neighbor_min`, in electrons.
    threshold : float
        The peak must be strictly above it, in electrons.
    ratio : float
        No neighbour may be strictly below this share of the peak.

    Returns
    -------
    candidates : (n,) bool array

    Notes
    -----
    The lowest neighbour is compared, never the quotient: dividing by the peak would decide exact ties differently. DQ
    is not consulted. A lower threshold or ratio never removes a candidate that stands above both.
    """
    peak = np.asarray(leaders["peak"])
    return (peak > threshold) & (np.asarray(leaders["neighbor_min"]) >= ratio * peak)


def psf_chi2(leaders: Table, snr_min: float, p_min: float) -> np.ndarray:
    """Select what is probably the PSF plus noise: `snr` and `p_value` reach their minima on an unflagged centre.

    Parameters
    ----------
    leaders : Table
        With columns `frame`, `reference`, `x`, `y`, `snr`, `p_value`, `dq`; masked or NaN values never pass.
    snr_min, p_min : float
        Least signal-to-noise ratio of the matched filter and least probability of so large a chi-squared.

    Returns
    -------
    candidates : (n,) bool array

    Notes
    -----
    Of leaders within 2 px (Chebyshev) of one another in the same frame only the one of highest `snr` counts (the first
    in the table among equals).
    """
    snr = np.ma.filled(np.ma.asarray(leaders["snr"]), np.nan)
    p_value = np.ma.filled(np.ma.asarray(leaders["p_value"]), np.nan)
    passes = (snr >= snr_min) & (p_value >= p_min) & (np.asarray(leaders["dq"]) & BLOCKING == 0)
    return _brightest_of_each_star(leaders, passes, snr)


def candidates(leaders: Table, parameters: Parameters, criterion: str | None = None) -> np.ndarray:
    """Select by the configured criterion and cuts; `criterion` names the other one.

    Returns
    -------
    candidates : (n,) bool array
        For both references alike: the table's `reference` column tells them apart.
    """
    if (criterion or parameters.criterion) == "neighbor_ratio":
        return neighbor_ratio(leaders, parameters.threshold, parameters.ratio)
    return psf_chi2(leaders, parameters.snr_min, parameters.p_min)


def _brightest_of_each_star(leaders: Table, passes: np.ndarray, snr: np.ndarray) -> np.ndarray:
    """Of passing rows within `SAME_STAR` of one another keep the highest snr, greedily from the top."""
    from scipy.spatial import cKDTree

    kept = passes.copy()
    rows = np.flatnonzero(passes)
    if len(rows) < 2:
        return kept
    _, frame = np.unique(leaders["frame"][rows], return_inverse=True)
    _, reference = np.unique(leaders["reference"][rows], return_inverse=True)
    apart = 10 * SAME_STAR  # frames lie on planes too far apart to be neighbours
    places = np.column_stack([leaders["x"][rows], leaders["y"][rows], apart * frame, apart * reference])
    pairs = cKDTree(places).query_pairs(SAME_STAR, p=np.inf, output_type="ndarray")
    rank = np.empty(len(rows), int)
    rank[np.argsort(-snr[rows], kind="stable")] = np.arange(len(rows))
    better, worse = np.sort(rank[pairs], axis=1).T
    row_of_rank = np.empty(len(rows), int)
    row_of_rank[rank] = rows
    for high, low in sorted(zip(better, worse, strict=True)):
        if kept[row_of_rank[high]]:
            kept[row_of_rank[low]] = False
    return kept
