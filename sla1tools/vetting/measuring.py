"""A flash at a place of a science frame, measured by the functions that measure the leaders of darks."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from astropy.table import Table

from sla1tools.candidates.detection import stamp_places
from sla1tools.candidates.leaders import cut_stamps
from sla1tools.candidates.psf import psf_of
from sla1tools.candidates.rows import PATCH_SIZE, Floors, Patches, detect_patches
from sla1tools.candidates.search import raw_frame
from sla1tools.candidates.star_frames import StarFrame
from sla1tools.darks.classes import BLOCKING
from sla1tools.darks.model import DarkModel
from sla1tools.frames.lights import read_light
from sla1tools.parameters import Parameters

LEAST_RING, RING_WIDTH = 5.0, 10.0  # px: inner radius, farther out for wide stars, and width
RING_FWHM = 2.5  # inner radius, in widths of the star
LEAST_SKY_PIXELS = 100
DAZZLED = 9.0  # px from a saturated pixel: a bright star's wing
NEARBY = 5  # px: a star's wing, and its noise
MOST_AT_ONCE = 4096  # places
MEDIAN_VARIANCE = np.pi / 2  # of many values, over that of their mean
EVERYTHING = Floors(-np.inf, -np.inf)


@dataclass(frozen=True)
class ScienceFrame:
    """A frame of the sky and the darks that judge it.

    Attributes
    ----------
    name : str
    counts : (ny, nx) uint16 array
        Raw.
    dark : DarkModel
    parameters : Parameters
        Of the darks.
    time : str
        Start of its exposure (UTC, ISO 8601); empty where unknown.
    """

    name: str
    counts: np.ndarray
    dark: DarkModel
    parameters: Parameters
    time: str = ""

    @classmethod
    def of(cls, source, dark: DarkModel, parameters: Parameters, **stated) -> "ScienceFrame":
        """Take a frame given as a path, or as an array of raw counts.

        Raises
        ------
        FrameError
            Where a file is not a frame of the darks' shape and exposure, and of what is `stated` of gain and camera.
        ParametersError
            Where an array is not one of raw counts of the darks' shape.
        """
        if isinstance(source, str | Path):
            light = read_light(Path(source), parameters, **stated)
            time = light.start.isoformat(timespec="milliseconds") if light.start else ""
            return cls(Path(source).name, light.counts, dark, parameters, time)
        return cls("", raw_frame(source, parameters.frame_shape), dark, parameters)

    @cached_property
    def field(self) -> StarFrame:
        """The frame less dark and smooth sky, with the gain that the sky's own variance gives."""
        return StarFrame.of(self.name, self.counts, self.dark, self.parameters.top_code)

    @cached_property
    def electrons(self) -> np.ndarray:
        """The frame less the master dark, (ny, nx) float64, by the frame's own gain."""
        return self.dark.residual(self.counts, "outside") * (self.field.gain / self.dark.scale)

    def noise(self, where, sky, sky_pixels) -> np.ndarray:
        """1-sigma of `electrons` less `sky`, without the flash: of a dark, the master, the sky's light and its median.

        What a median of so many pixels errs by is common to all pixels of a stamp, and the filter adds it up: it counts
        as often as a star covers pixels.
        """
        dark = self.dark.sigma(self.counts[where], where, "outside") * (self.field.gain / self.dark.scale)
        (image,) = psf_of(self.parameters).images(np.zeros(1), np.zeros(1))
        covered = image.sum() ** 2 / (image**2).sum()
        return np.sqrt((dark**2 + np.maximum(sky, 0)) * (1 + MEDIAN_VARIANCE * covered / sky_pixels))


def measure(frame: ScienceFrame, x, y) -> tuple[Table, np.ndarray]:
    """Measure what is at some places of a science frame.

    Parameters
    ----------
    frame : ScienceFrame
        Not changed.
    x, y : (n,) float arrays
        Columns and rows, 0-based; the flash is the leader on the pixel that they fall on, else the brightest leader
        within one pixel (Chebyshev) of it. NaN where unknown.

    Returns
    -------
    flashes : Table
        A row a flash that could be measured: columns of the leader table and `stamp`; `place` (index into x and y),
        `sky` (electrons, median of the `sky_pixels` usable pixels of a ring around, which starts 5 px or 2.5 FWHM away
        and is 10 px wide), `height` (peak in sigma of what its level and the sky suggest), `nearby`
        (electrons of the brightest pixel within 5 px). PSF columns are masked where the peak is flagged.
    problems : (n,) str array
        Why a place could not be measured, '' where it could.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    (ny, nx), problems = frame.counts.shape, np.full(len(x), "", "U80")
    problems[~np.isfinite(x + y)] = "x or y is not given"
    outside = np.isfinite(x + y) & ~((x >= -0.5) & (x < nx - 0.5) & (y >= -0.5) & (y < ny - 0.5))
    problems[outside] = f"outside the frame of {nx} columns and {ny} rows"
    place = np.flatnonzero(problems == "")
    column, row = (np.rint(values[place]).astype(int) for values in (x, y))
    sky, sky_pixels, dazzled = _surroundings(frame, row, column)
    flashes = _brightest(frame, row, column, sky, sky_pixels)
    none = np.ones(len(place), bool)
    none[flashes["star"]] = False
    problems[place[none]] = "no pixel here outshines its neighbours: the wing of something brighter"
    problems[place[dazzled]] = "saturated, or in the wing of a saturated star"
    problems[place[np.isnan(sky)]] = "too few usable pixels around to tell the sky"
    flashes["place"] = place[flashes["star"]]
    flashes.remove_column("star")
    return flashes[problems[flashes["place"]] == ""], problems


def _surroundings(frame: ScienceFrame, row, column):
    """Median electrons and number of the pixels around each place, and whether one near it is saturated now."""
    inner = max(LEAST_RING, RING_FWHM * psf_of(frame.parameters).fwhm)
    reach = int(np.ceil(inner + RING_WIDTH))
    away = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1])
    ring, usable = (away >= inner) & (away < inner + RING_WIDTH), frame.dark.classes.dq & BLOCKING == 0
    electrons = np.where(usable, frame.electrons, np.nan)
    saturated = usable & (frame.counts >= frame.parameters.top_code)
    sky, pixels, dazzled = np.full(len(row), np.nan), np.zeros(len(row), int), np.zeros(len(row), bool)
    for start in range(0, len(row), MOST_AT_ONCE):
        some = np.arange(start, min(start + MOST_AT_ONCE, len(row)))
        around = cut_stamps(electrons, row[some], column[some], radius=reach)[:, ring]
        pixels[some] = np.isfinite(around).sum(axis=1)
        told = pixels[some] >= LEAST_SKY_PIXELS
        sky[some[told]] = np.nanmedian(around[told], axis=1)
        dazzled[some] = cut_stamps(saturated, row[some], column[some], False, reach)[:, away < DAZZLED].any(axis=1)
    return sky, pixels, dazzled


def _brightest(frame: ScienceFrame, row, column, sky, sky_pixels) -> Table:
    """Measure the brightest leader near each place that has a sky; `star` is its index."""
    ny, nx = frame.counts.shape
    half = np.arange(PATCH_SIZE) - PATCH_SIZE // 2
    rows, columns = np.broadcast_arrays(row[:, None, None] + half[:, None], column[:, None, None] + half)
    inside = (rows >= 0) & (rows < ny) & (columns >= 0) & (columns < nx)
    where = np.clip(rows, 0, ny - 1), np.clip(columns, 0, nx - 1)
    level, pixels = sky[:, None, None], np.maximum(sky_pixels, 1)[:, None, None]
    residual = np.where(inside, frame.electrons[where] - level, np.nan)
    patches = Patches(rows, columns, frame.counts[where], residual, frame.noise(where, level, pixels))
    leaders = detect_patches(frame.dark, patches, "outside", EVERYTHING, frame.parameters)
    own = (leaders["x"] == column[leaders["star"]]) & (leaders["y"] == row[leaders["star"]])
    order = np.lexsort((-np.asarray(leaders["peak"]), ~own, leaders["star"]))
    found = leaders[order[np.unique(np.asarray(leaders["star"])[order], return_index=True)[1]]]
    star, at = found["star"], (np.asarray(found["y"]), np.asarray(found["x"]))
    gain = frame.field.gain / frame.dark.scale
    level_noise = frame.dark.level_sigma("outside")[at] * gain
    found["sky"], found["sky_pixels"] = sky[star], sky_pixels[star]
    found["height"] = found["peak"] / np.sqrt(level_noise**2 + np.maximum(sky[star], 0))
    for column, text in (("frame", frame.name), ("time", frame.time)):
        found[column] = np.full(len(found), text)
    nearby = cut_stamps(frame.electrons, *at, radius=NEARBY)
    found["nearby"] = np.nanmax(nearby, axis=(1, 2), initial=0) - found["sky"]
    return found


def stamps_of(frame: ScienceFrame, flashes: Table):
    """Return stamps, noise and valid pixels of measured flashes, (n, 5, 5) each, as they were fitted."""
    at = np.asarray(flashes["y"]), np.asarray(flashes["x"])
    sky, pixels = (np.asarray(flashes[name])[:, None, None] for name in ("sky", "sky_pixels"))
    noise = frame.noise(stamp_places(*at, frame.counts.shape), sky, pixels)
    usable = (frame.dark.classes.dq & BLOCKING == 0) & (frame.counts < frame.parameters.top_code)
    return np.asarray(flashes["stamp"]), noise, cut_stamps(usable, *at, False)
