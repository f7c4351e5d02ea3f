"""From judged frames to leaders at one floor: the package's kernels in a row, beside the observers' computation."""

import numpy as np
from astropy.table import Table

from sla1tools.candidates.leaders import leading_pixels
from sla1tools.darks.reference import DarkReference, middle_counts

BAND_ROWS = 128


def flashes(night, floor, reference="leave_one_out") -> list:
    """Read and combine the frames, and find the leaders of every residual above a floor, one band of rows at a time.

    Parameters
    ----------
    capture : Capture
        Judged: what its headers and checksums say is known.
    floor : float
        Electrons.
    reference : {'leave_one_out', 'all'}
        What each frame is compared with.

    Returns
    -------
    leaders : list of Table
        One a frame: `x`, `y`, `peak`, `neighbor_min` (electrons).
    """
    (ny, nx), n = night.shape, len(night.frames)
    buffer = np.empty((n, BAND_ROWS + 2, nx), np.uint16)  # for all bands: fresh memory costs as much as reading
    found = [[] for _ in range(n)]
    for top in range(0, ny, BAND_ROWS):
        first, stop = max(top - 1, 0), min(top + BAND_ROWS + 1, ny)
        band = buffer[:, : stop - first]
        for k in range(n):
            band[k] = night.rows(k, first, stop)
        dark = DarkReference(n, "median", middle_counts(band))
        for k, counts in enumerate(band):
            residual = dark.residual(counts, reference, scale=night.parameters.scale)
            asked = residual > floor
            asked[: top - first] = asked[top + BAND_ROWS - first :] = False  # the neighbouring bands' own rows
            y, x, neighbor_min = leading_pixels(residual, np.flatnonzero(asked), night.parameters.neighbors)
            found[k].append((x, y + first, residual[y, x], neighbor_min))
    names = ("x", "y", "peak", "neighbor_min")
    return [Table([np.concatenate(part) for part in zip(*parts, strict=True)], names=names) for parts in found]
