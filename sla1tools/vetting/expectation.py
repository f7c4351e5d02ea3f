"""How many flashes the camera alone makes in what was searched, at least as bright and as like a star as one given."""

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from astropy.table import Table

from sla1tools.candidates.criteria import criteria_of
from sla1tools.candidates.rates import upper_limit
from sla1tools.candidates.selection import column_of
from sla1tools.parameters import Parameters
from sla1tools.text import counted

MOST_DARKS = 10**7


@dataclass(frozen=True)
class CameraFlashes:
    """The leaders of a night's darks that pass for stars, by their S/N.

    Attributes
    ----------
    snr : (n,) array
        Rising.
    frames : int
        Darks that they were found in.
    """

    snr: np.ndarray
    frames: int

    @classmethod
    def of(cls, held: Table, frames: int, parameters: Parameters) -> "CameraFlashes":
        """Select by `psf_chi2`, at any S/N above the floor, from the leaders of a night's held-out frames."""
        starlike = held[criteria_of(parameters)["psf_chi2"].select(held, {"snr_min": 0.0, "p_min": parameters.p_min})]
        return cls(np.sort(column_of(starlike, "snr")), frames)

    @property
    def seen(self) -> str:
        """What they were seen in, in words."""
        return counted(self.frames, "dark")

    def at_least(self, snr) -> np.ndarray:
        """Count those of at least this S/N."""
        return len(self.snr) - np.searchsorted(self.snr, snr)

    def rate(self, snr) -> tuple[np.ndarray, np.ndarray]:
        """Rate a frame, and its 95 % upper limit."""
        count = self.at_least(snr)
        return count / self.frames, upper_limit(count) / self.frames

    def expected(self, snr, searched) -> tuple[np.ndarray, np.ndarray]:
        """Expected number in what was searched (frames times the share of their area), and its 95 % upper limit."""
        rate, high = self.rate(snr)
        return rate * searched, high * searched

    def darks_to_clear(self, snr: float, searched: float, level: float) -> int | None:
        """Darks that bring the upper limit to `level` if the camera goes on as it did; None where no number does."""
        rate = float(self.rate(snr)[0])
        if rate * searched >= level:
            return None

        def enough(darks: int) -> bool:
            return bool(upper_limit(np.floor(rate * darks)) * searched / darks <= level)

        needed = 1 + bisect_left(range(1, MOST_DARKS), True, key=enough)
        return needed if needed < MOST_DARKS else None
