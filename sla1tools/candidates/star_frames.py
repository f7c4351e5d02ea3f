"""Frames of stars, and which of their stars can show the PSF."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table

from sla1tools.candidates.fit import fit_stamps
from sla1tools.candidates.leaders import cut_stamps, find_leaders
from sla1tools.candidates.matched_filter import POSITION_BOUND, greatest_snr
from sla1tools.candidates.psf import GAUSSIAN, PSF
from sla1tools.darks.classes import BLOCKING
from sla1tools.darks.model import DarkModel
from sla1tools.errors import FrameError, NightError
from sla1tools.frames.capture import Capture
from sla1tools.frames.lights import read_light

SKY_BOX = 64  # px
LEAST_SKY = 0.3  # of a pixel's variance: with less of it the sky does not tell the gain
STAR_SNR = 50.0
NEIGHBOR_SNR = 5.0
MOST_PEAK = 0.8  # of the top code
EDGE = 6  # px
CLEAN_RADIUS = 4  # px: a star's 9x9 pixels are unflagged
NEIGHBOR_REACH = 8.0  # px
SAME_STAR = 2.0  # px
MOST_NEIGHBOR_LIGHT = 0.02  # of the star's
FIRST_ERRORS = (0.2, 0.1, 0.1)  # of size, shape and light, for the Gaussian that the search begins with


@dataclass(frozen=True)
class StarFrame:
    """One frame of stars, less dark and sky.

    Attributes
    ----------
    name : str
    electrons, sigma : (ny, nx) arrays
        Above the sky, and 1-sigma noise without a star's own.
    usable, saturated : (ny, nx) bool arrays
        Not flagged by the darks; at `MOST_PEAK` of the top code or above.
    gain : float
        Electrons per count, by the sky's own variance; the darks' scale where the sky is too dark for that.
    """

    name: str
    electrons: np.ndarray
    sigma: np.ndarray
    usable: np.ndarray
    saturated: np.ndarray
    gain: float

    @classmethod
    def of(cls, name: str, raw: np.ndarray, dark: DarkModel, top_code: int) -> "StarFrame":
        """Take dark and sky off raw counts, and measure the gain on the sky."""
        from scipy.ndimage import binary_dilation, gaussian_filter

        counts = raw - dark.reference.master
        sky = box_medians(counts)
        dark_variance = (dark.level_sigma("outside") / dark.scale) ** 2
        above = counts - sky
        smooth = gaussian_filter(above, 1.5)
        blank = ~binary_dilation(smooth > 2 * _lower_sigma(smooth), iterations=3)
        variance, level = _lower_sigma(above[blank]) ** 2, float(np.median(sky[blank]))
        of_sky = variance - float(np.median(dark_variance[blank]))
        gain = level / of_sky if level > 0 and of_sky > LEAST_SKY * variance else dark.scale
        sigma = np.sqrt(np.maximum(sky, 0) * gain + dark_variance * gain**2)
        return cls(name, above * gain, sigma, dark.classes.dq & BLOCKING == 0, raw >= MOST_PEAK * top_code, gain)


def read_star_frames(paths: Sequence[Path], dark: DarkModel, capture: Capture) -> list[StarFrame]:
    """Read frames of stars of the darks' camera, shape and exposure, all through one filter.

    Parameters
    ----------
    paths : sequence of path
    dark, capture : DarkModel and Capture
        The darks, and their frames.

    Raises
    ------
    NightError
        Where a frame cannot be read, or is not of that camera, shape and exposure; where filters differ.
    """
    frames, filters = [], {}
    for path in paths:
        try:
            light = read_light(path, capture.parameters, capture.frames[0].gain, capture.camera)
        except FrameError as error:
            raise NightError(
                f"{path}: {error.detail}; name a night of darks of its camera, shape and exposure (-f)"
            ) from None
        filters[str(light.filter_name)] = path.name
        frames.append(StarFrame.of(path.name, light.counts, dark, capture.parameters.top_code))
    if len(filters) > 1:
        told = ", ".join(f"{name} ({file})" for name, file in filters.items())
        raise NightError(f"the frames were taken through different filters: {told}; measure one PSF for each")
    return frames


def box_medians(image: np.ndarray) -> np.ndarray:
    """Return the background of an image: medians of boxes of `SKY_BOX` pixels, smoothed and interpolated."""
    from scipy.ndimage import map_coordinates, median_filter

    rows, columns = (np.linspace(0, n, max(round(n / SKY_BOX), 1) + 1).astype(int) for n in image.shape)
    boxes = [
        [np.median(part) for part in np.split(band, columns[1:-1], axis=1)] for band in np.split(image, rows[1:-1])
    ]
    smooth = median_filter(np.array(boxes), 3)
    places = [(np.arange(n) + 0.5) * k / n - 0.5 for n, k in zip(image.shape, smooth.shape, strict=True)]
    return map_coordinates(smooth, np.meshgrid(*places, indexing="ij"), order=1, mode="nearest")


def _lower_sigma(values) -> float:
    """Standard deviation by the lower half of the values: stars are above the sky."""
    low, middle = np.percentile(values, [15.865, 50])
    return float(middle - low)


def find_stars(frame: StarFrame, fwhm: float) -> Table:
    """List the bright stars of a frame, and why some of them cannot show the PSF.

    Parameters
    ----------
    frame : StarFrame
        Not changed.
    fwhm : float
        About that of its stars, pixels.

    Returns
    -------
    stars : Table
        `frame` (name), `x`, `y`, `snr`, `flux`, `reason` ('' for those chosen, else the first that holds of
        'saturated', 'edge', 'flagged', 'neighbor'), for each star of `STAR_SNR` or more.
    """
    psf = PSF(fwhm, GAUSSIAN, *FIRST_ERRORS)
    leaders = find_leaders(frame.electrons, 2 * float(np.median(frame.sigma)))
    x, y = (np.asarray(leaders[axis], int) for axis in ("x", "y"))
    images = ((frame.electrons, np.nan), (frame.sigma, 1.0), (frame.usable, False))
    values, noise, valid = (cut_stamps(image, y, x, fill) for image, fill in images)
    bright = greatest_snr(values, noise, valid, psf) > NEIGHBOR_SNR
    x, y, noise = x[bright], y[bright], noise[bright]
    fits = fit_stamps(values[bright], noise, valid[bright], psf)
    # On a star's wing any noise peak has a large snr: what counts is the flux above the fitted background; and a fit
    # that runs away from its leader has found the star.
    astray = np.maximum(np.abs(fits["x_fit"]), np.abs(fits["y_fit"])) >= POSITION_BOUND
    local = np.sqrt(noise[:, 2, 2] ** 2 + np.maximum(fits["background"], 0))
    share = np.sqrt((psf.images(np.zeros(1), np.zeros(1)) ** 2).sum())
    flux = np.where((fits["flux"] * share > NEIGHBOR_SNR * local) & ~astray, fits["flux"], 0.0)
    stars = Table({"frame": np.full(len(x), frame.name), "x": x, "y": y, "snr": fits["snr"], "flux": flux})
    stars = stars[(stars["snr"] >= STAR_SNR) & (flux > 0)]
    if not len(stars):
        stars["reason"] = np.zeros(0, "U10")
        return stars
    stars = stars[stars["flux"] >= _near(stars, x, y, flux, SAME_STAR, np.maximum)]
    others = _near(stars, x, y, flux, NEIGHBOR_REACH, np.add) - _near(stars, x, y, flux, SAME_STAR, np.add)
    (ny, nx), at = frame.electrons.shape, (stars["y"], stars["x"])
    reasons = {
        "saturated": cut_stamps(frame.saturated, *at, False, CLEAN_RADIUS).any((1, 2)),
        "edge": (at[1] < EDGE) | (at[0] < EDGE) | (at[1] >= nx - EDGE) | (at[0] >= ny - EDGE),
        "flagged": ~cut_stamps(frame.usable, *at, False, CLEAN_RADIUS).all((1, 2)),
        "neighbor": others >= MOST_NEIGHBOR_LIGHT * stars["flux"],
    }
    stars["reason"] = np.select(list(reasons.values()), list(reasons), "").astype("U10")
    return stars


def _near(stars, x, y, flux, reach, gather):
    """Gather the flux of what lies within reach of each star, itself included."""
    from scipy.spatial import cKDTree

    pairs = cKDTree(np.column_stack([x, y])).query_ball_point(np.column_stack([stars["x"], stars["y"]]), reach)
    return np.array([gather.reduce(flux[near]) for near in pairs])
