"""Leader and trial tables of a made-up night, for the explorer's tests: every number has a known source.

They have the columns of a measured night's tables, in their order: held by test_measure.py.
"""

import numpy as np
from astropy.table import MaskedColumn, Table
from scipy.stats import chi2

from sla1tools.candidates.criteria import CRITERIA
from sla1tools.candidates.rows import LEADER_COLUMNS
from sla1tools.injections.injection import Injections
from sla1tools.parameters import Parameters

SIGMA = 40.0


def parameters(**changes) -> Parameters:
    return Parameters(**({"frame_shape": (512, 512), "injection_flux_range": (300.0, 6000.0)} | changes))


def frame_names(number: int) -> list[str]:
    return [f"{k + 1:05d}.fits" for k in range(number)]


def _star_stamps(rng, flux, x_off, y_off):
    from scipy.special import erf

    edge = np.arange(-2.5, 3)
    width = 2 / 2.3548

    def share(offset):
        cumulative = 0.5 * (1 + erf((edge[None, :] - offset[:, None]) / (np.sqrt(2) * width)))
        return np.diff(cumulative, axis=1)

    stamps = flux[:, None, None] * share(y_off)[:, :, None] * share(x_off)[:, None, :]
    return (stamps + rng.normal(0, SIGMA, stamps.shape)).astype(np.float32)


def _measured(rng, stamps, flux, x, y, parameters):
    """Peak and lowest neighbour as exact counts times the scale; plausible fits, masked below S/N 4."""
    unit = parameters.scale / 2
    stamps = stamps.astype(np.float64)
    center = np.rint(stamps[:, 2, 2] / unit)
    around = np.stack([stamps[:, 1, 2], stamps[:, 3, 2], stamps[:, 2, 1], stamps[:, 2, 3]])
    snr = flux / (3.2 * SIGMA) + rng.normal(size=len(flux))
    p_value = rng.uniform(size=len(flux)) ** np.where(rng.uniform(size=len(flux)) < 0.5, 1, 8)
    peak, lowest = center * unit, np.rint(around.min(axis=0) / unit) * unit
    fitted = {
        "snr": snr,
        "flux": flux.astype(np.float32),
        "x_fit": x + rng.uniform(-0.5, 0.5, len(flux)),
        "y_fit": y + rng.uniform(-0.5, 0.5, len(flux)),
        "chi2": chi2.isf(p_value, 21),
        "dof": np.full(len(flux), 21, np.int32),
        "p_value": p_value,
        "best_rival": np.where(rng.uniform(size=len(flux)) < 0.5, "single", "pair"),
        "rival_margin": rng.normal(-20, 30, len(flux)).astype(np.float32),
    }
    columns = {"x": x.astype(np.int32), "y": y.astype(np.int32), "peak": peak, "neighbor_min": lowest}
    with np.errstate(divide="ignore", invalid="ignore"):
        columns["neighbor_ratio"] = lowest / peak
    return columns | {name: MaskedColumn(values, mask=snr <= 4) for name, values in fitted.items()}


def make_leaders(n, parameters, frames=10, seed=1, stars=0.05) -> Table:
    """Mostly noise and single hot pixels, some star-like; every fifth in sample; some pairs two pixels apart."""
    rng = np.random.default_rng(seed)
    ny, nx = parameters.frame_shape
    flux = np.where(rng.uniform(size=n) < stars, rng.uniform(400, 4000, n), 0.0)
    stamps = _star_stamps(rng, flux, *rng.uniform(-0.5, 0.5, (2, n)))
    stamps[:, 2, 2] = np.maximum(stamps[:, 2, 2], 121 + rng.exponential(60, n))
    x, y = rng.integers(0, nx, n), rng.integers(0, ny, n)
    x[1::7], y[1::7] = np.minimum(x[0::7][: len(x[1::7])] + 2, nx - 1), y[0::7][: len(y[1::7])]
    frame = rng.integers(0, frames, n)
    frame[1::7] = frame[0::7][: len(frame[1::7])]
    columns = _measured(rng, stamps, np.maximum(flux, rng.exponential(500, n)), x, y, parameters)
    stamps[x == 0, :, :2] = np.nan
    columns |= {
        "frame": np.array(frame_names(frames))[frame],
        "reference": np.where(np.arange(n) // 7 % 5 == 4, "all", "leave_one_out"),
        "dq": np.where(rng.uniform(size=n) < 0.1, 16, np.where(rng.uniform(size=n) < 0.05, 1, 0)).astype(np.int32),
        "stamp": stamps,
    }
    return Table(columns)[[*LEADER_COLUMNS, "stamp"]]


def make_injections(n, parameters, seed=2) -> Injections:
    """A leader a star; for every fourth a brighter pixel beside it; for a few one that was there before, or none."""
    rng = np.random.default_rng(seed)
    ny, nx = parameters.frame_shape
    flux = np.exp(rng.uniform(*np.log(parameters.injection_flux_range), n))
    star = np.concatenate([np.arange(n), np.arange(0, n, 4), np.flatnonzero(rng.uniform(size=n) < 0.01)])
    before = np.arange(len(star)) >= n + len(range(0, n, 4))
    stamps = _star_stamps(rng, flux[star], *rng.uniform(-0.5, 0.5, (2, len(star))))
    stamps[n:, 2, 2] += rng.exponential(100, len(star) - n)
    x, y = rng.integers(0, nx, n), rng.integers(0, ny, n)
    columns = _measured(rng, stamps, flux[star], x[star], y[star], parameters)
    columns["dq"] = np.where(rng.uniform(size=len(star)) < 0.01, 128, 0).astype(np.int32)
    leaders = Table(columns)[[name for name in LEADER_COLUMNS if name in columns]]
    leaders["star"], leaders["before"] = star, before
    rows = np.lexsort((-leaders["peak"], leaders["before"], leaders["star"]))
    rows = rows[star[rows] % 50 != 7]  # they have no leader above the floors
    leaders, stamps = leaders[rows], stamps[rows]
    with_star = np.flatnonzero(~leaders["before"])
    leader = np.full(n, -1)
    leader[leaders["star"][with_star]] = with_star
    trials = Table(leaders[leader], masked=True)
    for name in trials.colnames:
        trials[name].mask |= leader < 0
    trials["reference"] = "leave_one_out"
    trials["frame"] = np.array(frame_names(10))[rng.integers(0, 10, n)]
    trials = trials[list(LEADER_COLUMNS)]
    trials["x_true"], trials["y_true"] = (places + rng.uniform(-0.5, 0.5, n) for places in (x, y))
    trials["flux_true"], trials["fwhm_true"] = flux, parameters.fwhm
    injections = Injections(trials, leaders)
    for name, criterion in CRITERIA.items():
        trials[f"recovered_{name}"] = injections.recovered(criterion, criterion.configured(parameters))
    missed = np.where(leader < 0, "out-led", "below threshold")
    trials["miss_reason"] = np.where(trials[f"recovered_{parameters.criterion}"], "", missed)
    trials["stamp"] = np.where((leader < 0)[:, None, None], np.nan, stamps[leader])
    return injections


def make_histories(x, y, frame):
    rng = np.random.default_rng(3)
    residuals = rng.normal(size=(len(x), 10)) + 8 * (rng.uniform(size=(len(x), 10)) < 0.1)
    return np.stack([residuals, 0.9 * residuals], axis=2)


def make_surroundings(x, y, frame):
    """A frame on a sloping reference; the pixel itself is the frame's number of hundreds above it."""
    rng = np.random.default_rng(4)
    reference = 1300 + np.arange(15.0) + rng.normal(0, 5, (len(x), 15, 15))
    taken = reference + rng.normal(0, 40, reference.shape)
    taken[:, 7, 7] = reference[:, 7, 7] + 100 * np.asarray(frame)
    return np.stack([taken, reference], axis=1)
