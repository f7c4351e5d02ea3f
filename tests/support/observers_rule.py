"""The observers' rule as its statement reads, pixel by pixel: what the fast functions are held to.

A hot pixel is strictly above the threshold. It leads if its value is at least that of each neighbour, so that equal
ones both lead. A leader is a candidate if no neighbour is strictly below ratio times its peak. Neighbours are the four
that share an edge or all eight; those beyond the frame, and NaN, do not count.
"""

import math

import numpy as np


def neighbours_of(residual, x, y, neighbors):
    height, width = residual.shape
    for row in range(max(y - 1, 0), min(y + 2, height)):
        for column in range(max(x - 1, 0), min(x + 2, width)):
            shares_edge = abs(row - y) + abs(column - x) == 1
            itself = (row, column) == (y, x)
            value = float(residual[row, column])
            if not itself and (shares_edge or neighbors == 8) and not math.isnan(value):
                yield value


def find_leaders(residual, threshold, neighbors=4):
    """List (x, y, peak) of every leader, row by row."""
    leaders = []
    for y, x in np.argwhere(residual > threshold).tolist():
        peak = float(residual[y, x])
        if all(peak >= value for value in neighbours_of(residual, x, y, neighbors)):
            leaders.append((x, y, peak))
    return leaders


def find_candidates(residual, threshold, ratio, neighbors=4):
    """List (x, y, peak) of every candidate, row by row."""
    candidates = []
    for x, y, peak in find_leaders(residual, threshold, neighbors):
        if not any(value < ratio * peak for value in neighbours_of(residual, x, y, neighbors)):
            candidates.append((x, y, peak))
    return candidates
