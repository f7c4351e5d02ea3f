"""What all comparable published nights say of a flash: their star-like leaders at fixed settings, their candidates."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sla1tools.candidates.criteria import CRITERIA
from sla1tools.candidates.psf import psf_of
from sla1tools.frames.capture import Capture
from sla1tools.injections.counts import settings
from sla1tools.nights.pooling import COUNTS, Adder, Sums, comparable, identity, read_counts, same_image
from sla1tools.nights.recurrence import candidate_pixels
from sla1tools.nights.trends import NightRecord, read_nights
from sla1tools.published import night_path
from sla1tools.text import counted
from sla1tools.vetting.expectation import CameraFlashes
from sla1tools.vetting.judging import Witness


@dataclass(frozen=True)
class SeasonFlashes(CameraFlashes):
    """The star-like leaders of comparable nights, counted at fixed S/N (`snr`): for a flash at the next below its own.

    Attributes
    ----------
    sums : Sums
        Over the nights.
    rows : (n,) int array
        Rows of `snr` in them.
    nights : int
    """

    sums: Sums
    rows: np.ndarray
    nights: int

    @property
    def seen(self) -> str:
        """What they were seen in, in words."""
        return f"{counted(self.frames, 'dark')} of {self.nights} nights"

    def at_least(self, snr) -> np.ndarray:
        """Count those of at least the S/N below."""
        return self.sums.alarms[self._row(snr)]

    def rate(self, snr) -> tuple[np.ndarray, np.ndarray]:
        """Rate a frame and its upper limit, which holds where nights differ."""
        row = self._row(snr)
        return self.sums.alarms[row] / np.maximum(self.sums.frames[row], 1), self.sums.limits()[1][row]

    def _row(self, snr):
        return self.rows[np.maximum(np.searchsorted(self.snr, snr, side="right") - 1, 0)]


def with_season(witness: Witness, capture: Capture, counts: np.ndarray, outputs: Path) -> Witness:
    """Let all comparable nights of an outputs folder speak, beside this one.

    Parameters
    ----------
    witness : Witness
        Of one night.
    capture : Capture
        That night's.
    counts : (1 + settings, 2 + flux bins) int array
        That night's, as `counts.count_settings` gives them.
    outputs : Path
        Whose published nights are read; a night that cannot be counted is left out.

    Returns
    -------
    witness : Witness
        The same where no other night is comparable.
    """
    parameters = capture.parameters
    table, this = settings(parameters), night_path(parameters).as_posix()
    records = [record for record in _comparable(read_nights(outputs), capture) if record.path != this]
    adder, others = Adder(len(table)), []
    adder.add(counts)
    for record in records:
        try:
            adder.add(read_counts(outputs / record.path, record.sha256.get(COUNTS), len(table)))
        except ValueError:
            continue
        others.append(record)
    if not others:
        return witness
    grid = np.arange(len(table)) >= len(CRITERIA)  # before it stand the configured cuts, which differ between nights
    own = grid & (np.asarray(table["criterion"]) == "psf_chi2")
    p_min = max(p for p in np.unique(table["p_min"][own]) if p <= parameters.p_min)
    rows = np.flatnonzero(own & (np.asarray(table["p_min"]) == p_min))
    frames = len(capture.frames) + sum(record.frames for record in others)
    flashes = SeasonFlashes(np.asarray(table["snr_min"])[rows], frames, adder.sums, rows, 1 + len(others))
    paths = [outputs / record.path / "candidates.ecsv" for record in others]
    pixels = [np.array(candidate_pixels(path, parameters.frame_shape) or (), int).reshape(-1, 2) for path in paths]
    candidates = np.concatenate([witness.candidates, *pixels])
    return replace(witness, flashes=flashes, candidates=candidates)


def _comparable(records: list[NightRecord], capture: Capture) -> list[NightRecord]:
    """Return the nights whose counts of stars' images add up with this one's."""
    own, star = identity(capture.camera, capture.parameters.model_dump(mode="json")), psf_of(capture.parameters)
    for group in comparable(records):
        first = group.nights[0]
        if identity(first.instrument, first.parameters) == own and same_image(first.star, star):
            return group.nights
    return []
