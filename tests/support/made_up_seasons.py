"""Counts of nights drawn from a known truth, for the tests of a season's sum."""

import numpy as np

from sla1tools.candidates.criteria import CRITERIA
from sla1tools.injections.counts import BELOW, FLUX_CENTERS, settings
from sla1tools.parameters import Parameters

PEAK, SNR = 120.0, 4.0  # floors, from which alarms fall off exponentially
FALL, SNR_FALL = 40.0, 1.0
INJECTED = np.where((FLUX_CENTERS > 300) & (FLUX_CENTERS < 15000), 500, 0)


def mean_alarms(table):
    """Expected share of a night's alarms at every setting, 0 below the floors."""
    with np.errstate(invalid="ignore"):
        ratio = np.exp((PEAK - np.asarray(table["threshold"])) / FALL) * (1 - np.asarray(table["ratio"]))
        psf = np.exp((SNR - np.asarray(table["snr_min"])) / SNR_FALL) * (1 - np.asarray(table["p_min"]))
    return np.nan_to_num(np.where(np.asarray(table["criterion"]) == "neighbor_ratio", ratio, psf))


def true_flux_50(table):
    """Flux found half of the time at every setting, electrons."""
    ratio = 8 * np.asarray(table["threshold"]) * (0.5 + np.asarray(table["ratio"]))
    psf = 120 * np.asarray(table["snr_min"]) * (1 + 0.2 * np.asarray(table["p_min"]) ** 0.25)
    return np.where(np.asarray(table["criterion"]) == "neighbor_ratio", ratio, psf)


class Nights:
    """Draws nights' `settings.npy`: alarms are nested, as one that passes a strict cut passes every looser one."""

    def __init__(self, parameters=None, frames=10):
        self.parameters, self.frames = parameters or Parameters(), frames
        self.table = settings(self.parameters)
        self.below = (np.asarray(self.table["threshold"]) < PEAK) | (np.asarray(self.table["snr_min"]) < SNR)
        share = 1 / (1 + (true_flux_50(self.table)[:, None] / FLUX_CENTERS) ** 6)
        self.found = np.rint(INJECTED * share).astype(np.int32)

    def draw(self, rng, rate):
        """Counts of one night of so many alarms a frame above the floors, of each criterion."""
        counts = np.zeros((1 + len(self.table), 2 + len(INJECTED)), np.int32)
        counts[0] = (self.frames + 1) // 2, self.frames // 2, *INJECTED
        counts[1:, 2:] = self.found
        for name, (first, second) in {n: [c.name for c in one.cuts] for n, one in CRITERIA.items()}.items():
            rows = np.asarray(self.table["criterion"]) == name
            floor, fall = (PEAK, FALL) if name == "neighbor_ratio" else (SNR, SNR_FALL)
            for half, frames in enumerate(counts[0, :2]):
                n = rng.poisson(rate * frames)
                height, other = floor + rng.exponential(fall, n), rng.random(n)
                x, y = (np.asarray(self.table[cut][rows])[:, None] for cut in (first, second))
                counts[1:, half][rows] = ((height > x) & (other >= y)).sum(axis=1)
        counts[1:][self.below] = BELOW
        return counts
