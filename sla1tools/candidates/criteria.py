"""What makes a leader a PSF candidate. Change a rule here, or add one, and everything follows.

Sliders, gallery, tables, trade-off, miss reasons, recommendation and pages read this list. A new criterion is one more
`Criterion` in it; `parameters.py` names it among the values of `criterion` and has a field for each new cut, which the
camera file and the notebooks' parameters cells set.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from astropy.table import Table

from sla1tools.candidates.psf import psf_of
from sla1tools.candidates.rates import gaussian_expectation, gaussian_peaks
from sla1tools.candidates.selection import Criterion, Cut, Term
from sla1tools.darks.classes import BLOCKING, PixelClass, bits_of
from sla1tools.darks.model import DarkModel
from sla1tools.parameters import Parameters


def _peaks_of_noise(noise: np.ndarray, own: Parameters) -> float:
    share = np.mean(~np.ma.getmaskarray(noise))
    return gaussian_peaks(noise.shape, own.snr_min, psf_of(own)) * (1 - own.p_min) * float(share)


LIST = (
    # The observers' rule. The lowest neighbour is compared, never the quotient: dividing would break exact ties.
    Criterion(
        name="neighbor_ratio",
        meaning="The observers' criterion: the peak is above threshold, no neighbour is below ratio times it.",
        color="#0072B2",
        cuts=(
            Cut("threshold", "threshold", 1.0, 1000.0, floor="peak", unit="e-"),
            Cut("ratio", "ratio", 0.01, 1.0),
        ),
        terms=(
            Term("peak", ">", "threshold", miss="below threshold"),
            Term("neighbor_min", ">=", "ratio", factor="peak", miss="ratio"),
        ),
        expected=lambda noise, own: gaussian_expectation(noise, own.threshold, own.ratio, own.neighbors),
    ),
    # The criterion they wished for: probably the PSF plus noise, on an unflagged centre.
    Criterion(
        name="psf_chi2",
        meaning="The other criterion: the light is at least snr_min times its noise, and the pixels around the peak "
        "fit a star's image so well that a share of at least p_min of real stars would fit worse.",
        color="#D55E00",
        cuts=(
            Cut("snr_min", "S/N ≥", 0.1, 30.0, low=3.0, floor="snr"),
            Cut("p_min", "p ≥", 0.05, 0.999, low=1e-12, log=True),
        ),
        terms=(
            Term("dq", "has no bit of", int(PixelClass.SATURATED), miss="saturated"),
            Term("dq", "has no bit of", int(BLOCKING), miss="flagged"),
            Term("snr", ">=", "snr_min", miss="snr"),
            Term("p_value", ">=", "p_min", miss="chi2"),
        ),
        expected=_peaks_of_noise,
        best="snr",
    ),
)
CRITERIA = {criterion.name: criterion for criterion in LIST}
CUTS = {cut.name: cut for criterion in LIST for cut in criterion.cuts}


def criteria_of(parameters: Parameters) -> dict[str, Criterion]:
    """Return the criteria as these parameters ask for them: no pixel of `excluded_classes` makes a candidate.

    Without them no criterion has a further term, and `neighbor_ratio` never reads `dq`.
    """
    bits = bits_of(parameters.excluded_classes)
    if not bits:
        return CRITERIA
    term = Term("dq", "has no bit of", bits, miss="excluded")
    return {name: replace(criterion, terms=(term, *criterion.terms)) for name, criterion in CRITERIA.items()}


def candidate_noise(dark: DarkModel, parameters: Parameters) -> np.ma.MaskedArray:
    """1-sigma of a residual that the level suggests, (ny, nx) electrons, masked where a pixel's class is excluded."""
    return np.ma.array(
        dark.level_sigma(parameters.reference), mask=dark.classes.dq & bits_of(parameters.excluded_classes) != 0
    )


def candidates(leaders: Table, parameters: Parameters, criterion: str | None = None) -> np.ndarray:
    """Select by the configured criterion and cuts; `criterion` names another one.

    Returns
    -------
    candidates : (n,) bool array
        For both references alike: the table's `reference` column tells them apart.
    """
    chosen = criteria_of(parameters)[criterion or parameters.criterion]
    return chosen.select(leaders, chosen.configured(parameters))


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
    return CRITERIA["neighbor_ratio"].select(leaders, {"threshold": threshold, "ratio": ratio})


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
    return CRITERIA["psf_chi2"].select(leaders, {"snr_min": snr_min, "p_min": p_min})


def in_words(cuts: Mapping[str, float]) -> str:
    """Write a setting for reading.

    >>> in_words({"threshold": 200.0, "ratio": 0.3}), in_words({"snr_min": 6.0, "p_min": 0.001})
    ('threshold 200 e-, ratio 0.3', 'S/N ≥ 6, p ≥ 0.001')
    """
    return ", ".join(CUTS[name].words(value) if name in CUTS else f"{name} {value:.4g}" for name, value in cuts.items())
