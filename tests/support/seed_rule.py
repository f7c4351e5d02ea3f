"""The observers' own loops, kept plain: the oracle of the fast kernels.

Two lines differ from their notebook: the offsets are a parameter, so that eight neighbours can be tried as well, and
the comparison with a NaN neighbour is written out, which the notebook never met.
"""

from collections import namedtuple
from math import floor

import numpy as np

Pixel = namedtuple("Pixel", "x y value")

FOUR = [(-1, 0), (0, 1), (1, 0), (0, -1)]
EIGHT = [*FOUR, (-1, -1), (-1, 1), (1, 1), (1, -1)]


def neighbors_of(pixel, residual, offsets):
    height, width = residual.shape
    for offset_y, offset_x in offsets:
        j = floor(pixel.y + offset_y)
        i = floor(pixel.x + offset_x)
        if j < 0 or j >= height or i < 0 or i >= width:
            continue
        if np.isnan(residual[j, i]):
            continue
        yield residual[j, i]


def is_leader(pixel, residual, offsets):
    return all(pixel.value >= neighbor for neighbor in neighbors_of(pixel, residual, offsets))


def find_hot_pixel_leaders(residual, threshold, offsets=FOUR):
    exceedances = residual > threshold
    values = residual[exceedances]
    indices = np.nonzero(exceedances)
    rows = np.transpose([indices[1], indices[0], values])
    pixels = [Pixel(row[0], row[1], row[2]) for row in rows]
    return [pixel for pixel in pixels if is_leader(pixel, residual, offsets)]


def is_candidate_psf(pixel, residual, ratio, offsets):
    return not any(neighbor < ratio * pixel.value for neighbor in neighbors_of(pixel, residual, offsets))


def find_psf_candidates(leaders, residual, ratio, offsets=FOUR):
    return [leader for leader in leaders if is_candidate_psf(leader, residual, ratio, offsets)]
