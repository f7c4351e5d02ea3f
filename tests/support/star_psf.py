"""Three PSFs on the real stars and hits: the exact Gaussian, a wide one that may be wrong, one measured on stars."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from astropy.table import Table
from fitted import fit_stamps
from real_stars import EDGES, P_MIN, REACH, SNR_MIN, Field, leaders_of, stamps_of
from scipy.spatial import cKDTree
from scipy.stats import kstest

from sla1tools.candidates import criteria
from sla1tools.candidates.psf import GAUSSIAN, GAUSSIAN_ERRORS, PSF
from sla1tools.candidates.psf_measuring import measure_psf
from sla1tools.candidates.star_frames import StarFrame

WIDE = 1.1  # of the best FWHM
HIT_BANDS = ((6, 8), (8, 20), (20, 50), (50, 100), (100, np.inf))  # snr of the exact Gaussian
CAUSE_BAND = (6, 20)
STARS_LOST = 0.01


@dataclass(frozen=True)
class Way:
    """One kind of PSF: a PSF for each frame, and what becomes of isolated stars and hits.

    `found`, `p_value`, `lead` (chi2 of the star less that of the best rival), `snr` and `flux` are of the isolated
    stars of all frames, `frame` says which; `passed` and `hit_lead`, (3, n), of the hits by the PSF of each frame.
    """

    psfs: list
    stars: Table
    passed: np.ndarray
    hit_lead: np.ndarray


def star_frames(field: Field) -> list[StarFrame]:
    """The frames as `sla1 psf` prepares them."""
    master = field.dark.reference.master
    return [StarFrame.of(str(k), field.counts[k] + master, field.dark, 65535) for k in range(3)]


def ways(field: Field, fwhm: float, stars: list[Table], hits: Table) -> dict[str, Way]:
    """Judge every frame's stars three ways; measured is the PSF of the two other frames."""
    frames = star_frames(field)
    others = [[frame for j, frame in enumerate(frames) if j != k] for k in range(3)]
    psfs = {
        "exact Gaussian": [PSF(fwhm)] * 3,
        "no star frame": [PSF(WIDE * fwhm, GAUSSIAN, *GAUSSIAN_ERRORS)] * 3,
        "measured": [measure_psf(pair, 2.0).psf for pair in others],
    }
    return {name: _judge(field, three, stars, hits) for name, three in psfs.items()}


def _judge(field, psfs, stars, hits):
    rows, passed, lead = [], [], []
    for k, psf in enumerate(psfs):
        alone = stars[k][stars[k]["isolated"]]
        leaders = leaders_of(field, k, psf)
        chosen = criteria.psf_chi2(leaders, SNR_MIN, P_MIN)
        tree = cKDTree(np.column_stack([leaders["x"], leaders["y"]])[chosen])
        distance = tree.query(np.column_stack([alone["x"], alone["y"]]))[0]
        places = tuple(np.rint(alone[axis]).astype(int) for axis in ("x", "y"))
        fits = fit_stamps(*stamps_of(field, k, alone), True, psf, places=places)
        rows.append((np.full(len(alone), k), alone["flux"], distance <= REACH, *_columns(fits)))
        of_hits = fit_stamps(hits["stamp"], hits["sigma"], True, psf, places=(hits["x"], hits["y"]))
        passed.append((of_hits["snr"] >= SNR_MIN) & (of_hits["p_value"] >= P_MIN))
        lead.append(of_hits["rival_margin"])
    names = ("frame", "flux", "found", "snr", "p_value", "lead")
    table = Table({name: np.concatenate(parts) for name, parts in zip(names, zip(*rows, strict=True), strict=True)})
    return Way(psfs, table, np.array(passed), np.array(lead))


def _columns(fits):
    return fits["snr"], fits["p_value"], fits["rival_margin"]


def recall(way: Way) -> list[float]:
    """Per cent of isolated stars that are found, in the eight ranges of flux from 1,000 e-."""
    found = np.asarray(way.stars["found"])
    return [100 * np.mean(found[_between(way, *edges)]) for edges in pairwise(EDGES[1:])]


def distance_from_uniform(way: Way) -> list[float]:
    """Kolmogorov and Smirnov's distance of p from uniform, in the five ranges from 2,000 to 100,000 e-."""
    p_value = np.asarray(way.stars["p_value"])
    return [kstest(p_value[_between(way, *edges)], "uniform").statistic for edges in pairwise(EDGES[3:9])]


def _between(way, low, high):
    flux = np.asarray(way.stars["flux"])
    return (flux >= low) & (flux < high)


def hits_that_pass(way: Way, hits: Table) -> np.ndarray:
    """(3, 5): number of hits that pass by the PSF of each frame, in `HIT_BANDS`."""
    snr = np.asarray(hits["snr"])
    return np.array([way.passed[:, (snr >= low) & (snr < high)].sum(axis=1) for low, high in HIT_BANDS]).T


def cut_by_cause(way: Way, hits: Table) -> list[tuple[float, float, int, int]]:
    """A bound on how far a rival may lead, chosen on two frames to lose 1 % of faint stars, on the third.

    Returns a row a frame: the bound, share of its stars that it loses, hits that pass without it and with it.
    """
    stars, snr = way.stars, np.asarray(hits["snr"])
    faint = (stars["snr"] >= CAUSE_BAND[0]) & (stars["snr"] < CAUSE_BAND[1]) & (stars["p_value"] >= P_MIN)
    band, rows = (snr >= CAUSE_BAND[0]) & (snr < CAUSE_BAND[1]), []
    for k in range(3):
        bound = np.quantile(stars["lead"][faint & (stars["frame"] != k)], 1 - STARS_LOST)
        lost = np.mean(stars["lead"][faint & (stars["frame"] == k)] > bound)
        passed = way.passed[k] & band
        rows.append((float(bound), float(lost), int(passed.sum()), int((passed & (way.hit_lead[k] <= bound)).sum())))
    return rows
