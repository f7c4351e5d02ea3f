"""The search of a frame from outside the stack: tomorrow's dark, measured against today's by the same functions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table

from sla1tools.candidates.detection import FirstLook, detect, find_hits, flag_hits
from sla1tools.candidates.psf import psf_of
from sla1tools.candidates.rows import Floors
from sla1tools.darks.model import DarkModel, characterize
from sla1tools.errors import ParametersError
from sla1tools.frames.codes import audit_counts, code_histogram
from sla1tools.parameters import Parameters, validate
from sla1tools.text import counted

LEAST_FRAMES = 3


@dataclass(frozen=True)
class Stack:
    """Darks in memory, as `darks.model.characterize` takes them.

    Attributes
    ----------
    parameters : Parameters
        For the shape and how to combine the frames.
    frames : (N, ny, nx) uint16 array
        Raw counts.
    known : (ny, nx) bool array or None
        Pixels known to be bad.
    """

    parameters: Parameters
    frames: np.ndarray
    known: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of every frame."""
        return self.parameters.frame_shape

    def band(self, start: int, stop: int) -> np.ndarray:
        """Counts of some rows in every frame, (N, stop - start, nx) uint16."""
        return self.frames[:, start:stop]


class Darks:
    """A stack of darks, against which any further frame of the same camera can be searched.

    Parameters
    ----------
    stack : (N, ny, nx) array, or sequence of N (ny, nx) arrays
        Raw counts, whole numbers from 0 to 65535, at least three frames. Not changed.
    scale : float
        Electrons per count: the gain, over the padding where counts are padded.
    **settings
        Any of the parameters, as `params/qhy42pro.yaml` explains them: `neighbors`, `seeing_fwhm`, `pixel_scale`,
        `top_code`, `combination_method` and so on. Those that name files mean nothing here.

    Attributes
    ----------
    model : DarkModel
        Reference, noise and pixel classes of the stack.

    Raises
    ------
    ParametersError
        Where the stack is not one of raw counts, or a setting is wrong.

    Examples
    --------
    Four darks of pure noise, and a fifth with a flash on two pixels:

    >>> counts = np.random.default_rng(1).normal(1300 / 0.0869, 40 / 0.0869, (5, 64, 64)).astype(np.uint16)
    >>> counts[4, 20, 30:32] += 6000
    >>> leaders = Darks(counts[:4], scale=1.39 / 16).search(counts[4])
    >>> brightest = leaders[np.argmax(leaders["peak"])]
    >>> int(brightest["x"]) in (30, 31), int(brightest["y"]), bool(brightest["peak"] > 400)
    (True, 20, True)
    """

    def __init__(self, stack, scale: float, **settings: Any):
        counts = _raw_counts(stack, 3, "stack")
        if len(counts) < LEAST_FRAMES:
            raise ParametersError(
                f"stack: {counted(len(counts), 'frame')}; noise and reference need at least {LEAST_FRAMES}"
            )
        given = {"frame_shape": counts.shape[1:], "scale_due_to_gain": scale, "scale_due_to_padding": 1.0} | settings
        self.parameters = validate(given, "Darks")
        codes = audit_counts(code_histogram(counts), self.parameters.top_code, 1.0)
        self.model: DarkModel = characterize(Stack(self.parameters, counts), codes.step)
        self._first_look = FirstLook.of(self.model, "outside", psf_of(self.parameters))

    def __repr__(self) -> str:
        """Say what the stack is in a line."""
        n, (ny, nx) = self.model.reference.frames, self.parameters.frame_shape
        level, noise = np.median(self.model.master), np.median(self.model.level_sigma("outside"))
        return f"Darks: {n} frames of {ny} x {nx}, level {level:.0f} e-, noise of a residual {noise:.1f} e-"

    def residual(self, frame) -> np.ndarray:
        """Subtract the master dark from a frame from outside the stack: (ny, nx) float64 electrons."""
        return self.model.residual(self._checked(frame), "outside")

    def sigma(self, frame) -> np.ndarray:
        """1-sigma of `residual`: of one frame, judged by the stack alone, and of the stack's master; electrons."""
        return self.model.sigma(self._checked(frame), np.s_[:, :], "outside")

    def search(self, frame, threshold: float | None = None, snr_min: float | None = None) -> Table:
        """Find and measure the leaders of a frame from outside the stack.

        Parameters
        ----------
        frame : (ny, nx) array
            Raw counts of the same camera, mode and exposure; not changed.
        threshold, snr_min : float, optional
            A leader is kept if its peak is above `threshold` (electrons) or its matched filter above `snr_min`; three
            times the median noise and 4 by default, or the settings' own cuts where those are lower.

        Returns
        -------
        leaders : Table
            As a night's leader table, with `reference` 'outside' and an empty `frame`: select with `neighbor_ratio` or
            `psf_chi2`. No rows where nothing leads.

        Raises
        ------
        ParametersError
            Where the frame is not one of raw counts of the stack's shape.

        Notes
        -----
        The frame is compared with the median (or average) of all of the stack. Its noise is that of one frame, judged
        by the stack, and that of the master: a frame that was left out of its night is measured here as it was there.
        """
        counts, usual = self._checked(frame), Floors.of(self.parameters, self.model.median_noise)
        floors = Floors(usual.peak if threshold is None else threshold, usual.snr if snr_min is None else snr_min)
        residual = self.model.residual(counts, "outside")
        hits = find_hits(self.model, "", residual, "outside")
        leaders = detect(self.model, self._first_look, "", counts, residual, "outside", floors, self.parameters)
        flag_hits(leaders, hits)
        return leaders

    def _checked(self, frame) -> np.ndarray:
        return raw_frame(frame, self.parameters.frame_shape)


def raw_frame(frame, shape: tuple[int, int]) -> np.ndarray:
    """Return a frame's raw counts as uint16; `ParametersError` where it holds anything else, or is of another shape."""
    counts = _raw_counts(frame, 2, "frame")
    if counts.shape != shape:
        raise ParametersError(f"frame: its shape is {list(counts.shape)}, that of the darks {list(shape)}")
    return counts


def _raw_counts(values, dimensions: int, name: str) -> np.ndarray:
    """Return raw counts as uint16, without a copy where they are that."""
    try:
        counts = np.asarray(values)
    except ValueError:
        raise ParametersError(f"{name}: its frames are of different shapes") from None
    if counts.ndim != dimensions or counts.size == 0:
        axes = ", ".join(("N", "rows", "columns")[-dimensions:])
        raise ParametersError(f"{name}: must be an array ({axes}) of raw counts; its shape is {list(counts.shape)}")
    if counts.dtype != np.uint16:
        known = counts.dtype.kind in "iuf" and bool(((counts >= 0) & (counts <= 65535)).all())
        if not known or not np.array_equal(counts, np.rint(counts)):
            raise ParametersError(f"{name}: must hold raw counts, whole numbers from 0 to 65535, not yet scaled")
    return counts.astype(np.uint16, copy=False)
