"""What a night's darks say about every pixel: reference, noise, classes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sla1tools.darks.classes import Evidence, PixelClasses, classify
from sla1tools.darks.noise import (
    NoiseModel,
    combined_variance,
    fit_noise_model,
    join_statistics,
    pixel_statistics,
    residual_factor,
)
from sla1tools.darks.reference import BAND_ROWS, DarkReference, Reference, middle_counts
from sla1tools.errors import NightError


@dataclass(frozen=True)
class DarkModel:
    """What a night's darks say about every pixel: reference, noise, classes.

    Attributes
    ----------
    scale : float
        Electrons per count.
    reference : DarkReference
        Exact in counts.
    mean, variance : (ny, nx) float32 arrays
        Over all frames, in counts and counts squared.
    prior : (ny, nx) float32 array
        Variance of one frame that the pixel's level alone suggests, counts squared.
    noise_model : NoiseModel
        How level and a pixel's own frames make its noise.
    classes : PixelClasses
        DQ bit planes.
    """

    scale: float
    reference: DarkReference
    mean: np.ndarray
    variance: np.ndarray
    prior: np.ndarray
    noise_model: NoiseModel
    classes: PixelClasses

    @property
    def master(self) -> np.ndarray:
        """Master dark of all frames, (ny, nx) float32 electrons."""
        return (self.reference.master * self.scale).astype(np.float32)

    @property
    def noise(self) -> np.ndarray:
        """1-sigma of a held-out residual, from all frames, (ny, nx) float32 electrons."""
        return self.noise_model.noise_map(self.variance, self.prior, self.scale)

    @cached_property
    def median_noise(self) -> float:
        """Median of `noise`, in electrons: what floors and hot pixels are measured by."""
        return float(np.median(self.noise))

    @property
    def uncertainty_factor(self) -> float:
        """1-sigma of the master itself over `noise`."""
        frames, method = self.reference.frames, self.reference.method
        return float(np.sqrt(combined_variance(frames, method) / residual_factor(frames, method)))

    def residual(self, counts: np.ndarray, reference: Reference, where=np.s_[:, :], own=None) -> np.ndarray:
        """Subtract the reference from a frame, in float64 electrons; parameters as for `DarkReference.residual`."""
        return self.reference.residual(counts, reference, where, self.scale, own)

    def level_sigma(self, reference: Reference) -> np.ndarray:
        """1-sigma of a residual that the pixel's level alone suggests, (ny, nx) float32 electrons."""
        factor = residual_factor(self.reference.frames, self.reference.method, reference)
        return np.sqrt(self.prior * np.float32(factor * self.scale**2))

    def sigma(self, counts: np.ndarray, where, reference: Reference) -> np.ndarray:
        """1-sigma in electrons of the residual of a frame's pixels, judged by the other frames.

        Parameters
        ----------
        counts : uint16 array
            The frame's counts at the pixels, as they went into the statistics.
        where : index
            The pixels' place in the frame.
        reference : {'leave_one_out', 'all', 'outside'}
            What the residual was taken against; a frame from outside is judged by all frames.
        """
        maps = (self.mean[where], self.variance[where], self.prior[where])
        return self.noise_model.held_out_sigma(counts, *maps, reference) * np.float32(self.scale)


@dataclass(frozen=True)
class PublishedDark(DarkModel):
    """What `master_dark.fits` says about every pixel: enough to judge any frame but the night's own.

    Attributes
    ----------
    noise_image : (ny, nx) float32 array
        `noise`, exactly. `mean` and `variance` are rounded, for looking at; the master and its level are exact.
    """

    noise_image: np.ndarray

    @classmethod
    def of(cls, kept: DarkModel, maps: Mapping[str, np.ndarray]) -> "PublishedDark":
        """Put a model whose maps are empty together with the images of `master_dark.fits`, in electrons."""
        own, scale = kept.reference, kept.scale
        parts = np.rint(maps["MASTER"] / (scale / own.parts)).astype(np.int64)
        if own.method == "average":
            exact, prior = parts.astype(np.uint32)[None], maps["PRIOR"]
        else:
            low = parts // own.parts
            exact = np.stack([low, parts - low] if own.parts == 2 else [low] * 3).astype(np.uint16)
            prior = kept.noise_model.variance(np.rint(parts / own.parts))
        return cls(
            scale=scale,
            reference=DarkReference(own.frames, own.method, exact),
            mean=(maps["MEAN"] / scale).astype(np.float32),
            variance=np.square(maps["STDDEV"] / scale).astype(np.float32),
            prior=prior,
            noise_model=kept.noise_model,
            classes=replace(kept.classes, dq=maps["DQ"]),
            noise_image=maps["NOISE"],
        )

    @property
    def noise(self) -> np.ndarray:
        """1-sigma of a held-out residual, from all frames, (ny, nx) float32 electrons."""
        return self.noise_image

    def residual(self, counts, reference, where=np.s_[:, :], own=None) -> np.ndarray:
        """Subtract the master from a frame; `NightError` where the night's other frames are needed."""
        self._refuse_held_out(reference)
        return super().residual(counts, reference, where, own)

    def sigma(self, counts, where, reference) -> np.ndarray:
        """1-sigma of the residual of a frame from outside; `NightError` for one of the night's own."""
        self._refuse_held_out("leave_one_out" if reference == "all" else reference)
        n, method = self.reference.frames, self.reference.method
        ratio = residual_factor(n, method, reference) / residual_factor(n, method)
        return self.noise_image[where] * np.float32(np.sqrt(ratio))

    def _refuse_held_out(self, reference) -> None:
        if reference == "leave_one_out":
            raise NightError("a published night's products cannot judge its own frames: that takes their raw files")


def characterize(capture, step: int = 1) -> DarkModel:
    """Measure reference, noise and pixel classes of a night, one band of rows at a time.

    Parameters
    ----------
    capture : Capture, or candidates.search.Stack
        With at least three frames.
    step : int
        Greatest common step of the codes.
    """
    parameters = capture.parameters
    n, (ny, _) = len(capture.frames), capture.shape
    method = parameters.combination_method
    parts, exact, levels = [], [], []
    for top in range(0, ny, BAND_ROWS):
        band = capture.band(top, min(top + BAND_ROWS, ny))
        parts.append(pixel_statistics(band))
        middle = middle_counts(band)
        exact.append(middle if method == "median" else band.sum(axis=0, dtype=np.uint32)[None])
        levels.append(np.rint(DarkReference(n, "median", middle).master).astype(np.uint16))
    statistics = join_statistics(parts)
    reference = DarkReference(n, method, np.concatenate(exact, axis=1))
    level = np.concatenate(levels)  # the median, for the average too: a bright star must not raise its own noise
    model = fit_noise_model(level, statistics.variance, n, method, parameters.scale)
    prior = model.variance(level)
    classes = classify(capture, Evidence(statistics, level, model, prior, step))
    return DarkModel(parameters.scale, reference, statistics.mean, statistics.variance, prior, model, classes)
