"""What a night's darks say about every pixel: reference, noise, classes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sla1tools.darks.classes import Evidence, PixelClasses, classify
from sla1tools.darks.noise import (
    NoiseModel,
    PixelStatistics,
    combined_variance,
    fit_noise_model,
    pixel_statistics,
    residual_factor,
)
from sla1tools.darks.reference import DarkReference, Reference, middle_counts, middle_places
from sla1tools.darks.structure import fast_median
from sla1tools.errors import NightError
from sla1tools.frames.pixels import bands, pixels_at


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        """Say what it is in a line; a published model decodes no image for it."""
        own = self.noise_model
        return f"{type(self).__name__}: {own.method} of {own.frames} frames, {self.scale:.4g} e- a count"

    @property
    def master(self) -> np.ndarray:
        """Master dark of all frames, (ny, nx) float32 electrons."""
        master = np.empty(self.reference.exact.shape[1:], np.float32)
        for rows in bands(len(master)):
            master[rows] = replace(self.reference, exact=self.reference.exact[:, rows]).master * self.scale
        return master

    @property
    def noise(self) -> np.ndarray:
        """1-sigma of a held-out residual, from all frames, (ny, nx) float32 electrons."""
        return self.noise_model.noise_map(self.variance, self.prior, self.scale)

    @cached_property
    def median_noise(self) -> float:
        """Median of `noise`, in electrons: what floors and hot pixels are measured by."""
        return float(fast_median(self.noise.ravel()))

    @property
    def hollow(self) -> "DarkModel":
        """The same without its maps: what a published night keeps beside `master_dark.fits`."""
        none = np.zeros(0)
        reference, classes = replace(self.reference, exact=none), replace(self.classes, dq=none)
        return DarkModel(self.scale, reference, none, none, none, self.noise_model, classes)

    @property
    def uncertainty_factor(self) -> float:
        """1-sigma of the master itself over `noise`."""
        frames, method = self.reference.frames, self.reference.method
        return float(np.sqrt(combined_variance(frames, method) / residual_factor(frames, method)))

    def residual(self, counts: np.ndarray, reference: Reference, where=np.s_[:, :], own=None) -> np.ndarray:
        """Subtract the reference from a frame, in float64 electrons; parameters as for `DarkReference.residual`."""
        return self.reference.residual(counts, reference, where, self.scale, own)

    def level_sigma(self, reference: Reference, where=np.s_[:, :]) -> np.ndarray:
        """1-sigma of a residual that the pixel's level alone suggests, float32 electrons: (ny, nx), or at `where`."""
        factor = residual_factor(self.noise_model.frames, self.noise_model.method, reference)
        variance = pixels_at(self.prior, where) * np.float32(factor * self.scale**2)
        return np.sqrt(variance, out=variance)

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
        mean, variance, prior = (pixels_at(own, where) for own in (self.mean, self.variance, self.prior))
        return self.noise_model.held_out_sigma(counts, mean, variance, prior, reference) * np.float32(self.scale)


class PublishedDark(DarkModel):
    """What `master_dark.fits` says about every pixel: enough to judge any frame but the night's own.

    An image is decoded when it is first asked for. `mean` and `variance` are rounded, for looking at; the master, its
    level, and `noise` are exact.

    Parameters
    ----------
    hollow : DarkModel
        The model without its maps.
    image : callable
        Gives an image of that file by its name, (ny, nx) electrons; with ``scaled=False`` as it was packed.
    """

    def __init__(self, hollow: DarkModel, image: Callable[..., np.ndarray]):
        self._hollow, self._image = hollow, image
        vars(self).update(scale=hollow.scale, noise_model=hollow.noise_model)  # a frozen dataclass's own fields

    @property
    def hollow(self) -> DarkModel:
        """The same without its maps."""
        return self._hollow

    @cached_property
    def classes(self) -> PixelClasses:  # type: ignore[override]
        return replace(self._hollow.classes, dq=self._image("DQ"))

    @cached_property
    def _parts(self) -> np.ndarray:
        """The master in whole parts of a count, (ny, nx) uint32."""
        return self._image("MASTER", scaled=False).astype(np.uint32)

    @cached_property
    def reference(self) -> DarkReference:  # type: ignore[override]
        own = self._hollow.reference
        if own.method == "average":
            return replace(own, exact=self._parts[None])
        low = self._parts // own.parts
        return replace(own, exact=np.stack([low, self._parts - low] if own.parts == 2 else [low] * 3).astype(np.uint16))

    @cached_property
    def mean(self) -> np.ndarray:  # type: ignore[override]
        return (self._image("MEAN") / self.scale).astype(np.float32)

    @cached_property
    def variance(self) -> np.ndarray:  # type: ignore[override]
        return np.square(self._image("STDDEV") / self.scale).astype(np.float32)

    @cached_property
    def prior(self) -> np.ndarray:  # type: ignore[override]
        own = self._hollow.reference
        if own.method == "average":
            return self._image("PRIOR")
        level = np.rint(np.divide(self._parts, own.parts, dtype=np.float32))  # exact: halves of 16-bit numbers
        return self.noise_model.variance(level.astype(np.uint16))

    @cached_property
    def noise(self) -> np.ndarray:
        """1-sigma of a held-out residual, from all frames, (ny, nx) float32 electrons."""
        return self._image("NOISE")

    def residual(self, counts, reference, where=np.s_[:, :], own=None) -> np.ndarray:
        """Subtract the master from a frame; `NightError` where the night's other frames are needed."""
        self._refuse_held_out(reference)
        return super().residual(counts, reference, where, own)

    def sigma(self, counts, where, reference) -> np.ndarray:
        """1-sigma of the residual of a frame from outside; `NightError` for one of the night's own."""
        self._refuse_held_out("leave_one_out" if reference == "all" else reference)
        n, method = self.reference.frames, self.reference.method
        ratio = residual_factor(n, method, reference) / residual_factor(n, method)
        return self.noise[where] * np.float32(np.sqrt(ratio))

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
    statistics, reference, level = _combine(capture)
    model = fit_noise_model(level, statistics.variance, reference.frames, reference.method, parameters.scale)
    prior = model.variance(level)
    classes = classify(capture, Evidence(statistics, level, model, prior, step))
    return DarkModel(parameters.scale, reference, statistics.mean, statistics.variance, prior, model, classes)


def combine_again(capture, dark: DarkModel) -> DarkModel:
    """Give a published model the exact statistics of its frames; noise model and classes are taken over."""
    statistics, reference, level = _combine(capture)
    own = dark.noise_model
    return DarkModel(
        dark.scale, reference, statistics.mean, statistics.variance, own.variance(level), own, dark.classes
    )


def _combine(capture) -> tuple[PixelStatistics, DarkReference, np.ndarray]:
    """Combine the frames band by band; the level is their median, in whole counts.

    The median for the average too: a bright star must not raise its own noise.
    """
    n, shape, method = len(capture.frames), capture.shape, capture.parameters.combination_method
    level, *maps = (np.empty(shape, kind) for kind in ("u2", "f4", "f4", "u2", "u2"))
    whole = PixelStatistics(n, *maps)
    exact = np.empty((len(middle_places(n)), *shape), np.uint16) if method == "median" else np.empty((1, *shape), "u4")
    for rows in bands(shape[0]):
        band = capture.band(rows.start, rows.stop)
        own, middle = pixel_statistics(band), middle_counts(band)
        for name in ("mean", "variance", "minimum", "maximum"):
            getattr(whole, name)[rows] = getattr(own, name)
        exact[:, rows] = middle if method == "median" else band.sum(axis=0, dtype=np.uint32)
        level[rows] = np.rint(DarkReference(n, "median", middle).master)
    return whole, DarkReference(n, method, exact), level
