"""The observers' notebook as functions: what sla1tools is compared with. Its loops are kept as they were printed."""

from collections import namedtuple
from math import floor

import numpy as np
from astropy import units as u
from astropy.nddata import CCDData
from ccdproc import combine, subtract_dark

Pixel = namedtuple("Pixel", "x y value")


def read_darks(directory, scale):
    """Read and scale every dark of a capture folder."""
    return [_scaled_image(path, scale) for path in sorted(directory.glob("*.fits"))]


def _scaled_image(path, scale):
    image = CCDData.read(path, unit=u.adu)
    image.data = image.data * scale
    return image


def subtracted(darks, master, exposure):
    """Subtract the master dark from each dark."""
    exposure = exposure * u.second
    return [subtract_dark(dark, master, data_exposure=exposure, dark_exposure=exposure, scale=False) for dark in darks]


def run(parameters):
    """Read, combine, subtract and find, for all frames: a list of (leaders, candidates)."""
    darks = read_darks(parameters.capture_directory, parameters.scale)
    master = combine(darks, method=parameters.combination_method)
    residuals = subtracted(darks, master, parameters.dark_exposure)
    return [find(residual.data, parameters) for residual in residuals]


def held_out(darks, k, parameters):
    """Combine the others, subtract and find, for one frame: (leaders, candidates)."""
    master = combine([*darks[:k], *darks[k + 1 :]], method=parameters.combination_method)
    return find(subtracted([darks[k]], master, parameters.dark_exposure)[0].data, parameters)


def find(residual, parameters):
    """Find the leaders of one residual, and which of them are candidates."""
    leaders = find_hot_pixel_leaders(residual, parameters.threshold)
    return leaders, find_psf_candidates(leaders, residual, parameters.ratio)


def is_winner_or_tied(candidate_leader, i, j, data):
    return candidate_leader.value >= data[j, i]


def is_leader(candidate_leader, data):
    data_height, data_width = data.shape
    for offset_y, offset_x in [(-1, 0), (0, 1), (1, 0), (0, -1)]:
        j = floor(candidate_leader.y + offset_y)
        i = floor(candidate_leader.x + offset_x)
        if j < 0 or j >= data_height or i < 0 or i >= data_width:
            continue
        if not is_winner_or_tied(candidate_leader, i, j, data):
            return False
    return True


def find_hot_pixel_leaders(data, threshold):
    exceedances = data > threshold
    values_of_exceedances = data[exceedances]
    exceedance_indices = np.nonzero(exceedances)
    candidate_leaders = np.transpose([exceedance_indices[1], exceedance_indices[0], values_of_exceedances])
    leaders = []
    for i in range(candidate_leaders.shape[0]):
        row = candidate_leaders[i]
        candidate_leader = Pixel(row[0], row[1], row[2])
        if is_leader(candidate_leader, data):
            leaders.append(candidate_leader)
    return leaders


def is_too_discontinuous(candidate_psf, i, j, data, ratio):
    return data[j, i] < ratio * candidate_psf.value


def is_candidate_psf(candidate_psf, data, ratio):
    data_height, data_width = data.shape
    for offset_y, offset_x in [(-1, 0), (0, 1), (1, 0), (0, -1)]:
        j = floor(candidate_psf.y + offset_y)
        i = floor(candidate_psf.x + offset_x)
        if j < 0 or j >= data_height or i < 0 or i >= data_width:
            continue
        if is_too_discontinuous(candidate_psf, i, j, data, ratio):
            return False
    return True


def find_psf_candidates(leaders, data, ratio):
    return [leader for leader in leaders if is_candidate_psf(leader, data, ratio)]
