"""What makes a leader a PSF candidate: selections on a leader table, at any setting."""

import numpy as np
from astropy.table import Table

from sla1tools.darks.classes import BLOCKING
from sla1tools.parameters import Parameters

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
    passes = resembles_psf(leaders, snr_min, p_min)
    rows = np.flatnonzero(passes)
    passes[rows] = brightest_of_each_star(leaders["snr"][rows], same_star(leaders[rows]))
    return passes


def resembles_psf(leaders: Table, snr_min: float, p_min: float) -> np.ndarray:
    """Apply the cuts of `psf_chi2` to each row for itself, (n,) bool."""
    snr, p_value = (np.ma.filled(np.ma.asarray(leaders[name]), np.nan) for name in ("snr", "p_value"))
    return (snr >= snr_min) & (p_value >= p_min) & (np.asarray(leaders["dq"]) & BLOCKING == 0)


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


def same_star(leaders: Table) -> np.ndarray:
    """Pairs of rows within 2 px (Chebyshev) of one another in the same frame against the same reference, (m, 2)."""
    from scipy.spatial import cKDTree

    if len(leaders) < 2:
        return np.zeros((0, 2), int)
    _, frame = np.unique(leaders["frame"], return_inverse=True)
    _, reference = np.unique(leaders["reference"], return_inverse=True)
    apart = 10 * SAME_STAR  # frames lie on planes too far apart to be neighbours
    places = np.column_stack([leaders["x"], leaders["y"], apart * frame, apart * reference])
    return cKDTree(places).query_pairs(SAME_STAR, p=np.inf, output_type="ndarray")


def brightest_of_each_star(snr: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Of rows that belong together keep the highest snr, greedily from the top; the first among equals.

    Parameters
    ----------
    snr : (n,) array
        Without masked or NaN values.
    pairs : (m, 2) int array
        Rows within reach of one another.

    Returns
    -------
    kept : (n,) bool array
    """
    rank = np.empty(len(snr), int)
    row_of_rank = np.argsort(-np.asarray(snr), kind="stable")
    rank[row_of_rank] = np.arange(len(snr))
    kept = np.ones(len(snr), bool)
    for high, low in sorted(map(sorted, rank[pairs].tolist())):
        if kept[row_of_rank[high]]:
            kept[row_of_rank[low]] = False
    return kept
