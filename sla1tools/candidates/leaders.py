"""Hot pixel leaders: the pixels that none of their neighbours outshines, and the 5x5 stamps around them."""

import numpy as np
from astropy.table import Column, Table

from sla1tools.frames.pixels import pixels_at

STAMP_RADIUS = 2
STAMP_SIZE = 2 * STAMP_RADIUS + 1
_EDGES = ((-1, 0), (0, 1), (1, 0), (0, -1))
OFFSETS = {4: _EDGES, 8: (*_EDGES, (-1, -1), (-1, 1), (1, 1), (1, -1))}


def find_leaders(residual: np.ndarray, threshold: float, neighbors: int = 4) -> Table:
    """Find the pixels above a threshold that no neighbour outshines.

    Parameters
    ----------
    residual : (ny, nx) float or integer array
        Dark minus its reference. NaN marks an unusable pixel. Not changed.
    threshold : float
        Only pixels strictly above it can lead, in the residual's unit.
    neighbors : {4, 8}
        Edge neighbours, or edge and corner neighbours.

    Returns
    -------
    leaders : Table
        A row a leader in the order of rows, then columns: `x`, `y` (pixel), `peak`, `neighbor_min` (the lowest
        neighbour; in the residual's unit, electrons in the pipeline); no rows where none leads.

    Notes
    -----
    Equal neighbours both lead. Neighbours beyond the edge, and NaN neighbours, do not count; a NaN pixel never leads.
    `neighbor_min` is infinite where no neighbour counts.

    Examples
    --------
    The hot pixel at x=1 is outshone by none of its neighbours; the one at x=2 by its left neighbour.

    >>> residual = np.array([[0, 20, 0, 0], [30, 300, 250, 10], [0, 90, 0, 0]])
    >>> for leader in find_leaders(residual, threshold=200).iterrows():
    ...     print(*map(float, leader))
    1.0 1.0 300.0 20.0
    """
    y, x, neighbor_min = leading_pixels(residual, np.flatnonzero(residual > threshold), neighbors)
    return Table(
        {
            "x": Column(x.astype(np.int32), unit="pix"),
            "y": Column(y.astype(np.int32), unit="pix"),
            "peak": Column(residual[y, x].astype(np.float64), format=".1f"),
            "neighbor_min": Column(neighbor_min, format=".1f"),
        }
    )


def leading_pixels(residual: np.ndarray, asked: np.ndarray, neighbors: int = 4):
    """Find the leaders among the pixels asked for.

    Parameters
    ----------
    residual : (ny, nx) array
        Dark minus its reference.
    asked : (m,) int array
        Flat indices, rising, of the pixels that may lead; all of them are compared with all their neighbours.
    neighbors : {4, 8}
        Edge neighbours, or edge and corner neighbours.

    Returns
    -------
    y, x : (n,) int64 arrays
        Rows and columns of the leaders, in the order of rows, then columns.
    neighbor_min : (n,) float64 array
        The lowest neighbour; infinite where none counts.

    Notes
    -----
    A NaN pixel never leads.
    """
    y, x = np.divmod(asked, residual.shape[1])
    (ny, nx), peak = residual.shape, pixels_at(residual, (y, x))
    leads = ~np.isnan(peak)
    neighbor_min = np.full(len(peak), np.inf)
    for dy, dx in OFFSETS[neighbors]:
        inside = (y + dy >= 0) & (y + dy < ny) & (x + dx >= 0) & (x + dx < nx)
        value = pixels_at(residual, (np.where(inside, y + dy, 0), np.where(inside, x + dx, 0)))
        leads &= ~(inside & (value > peak))
        np.fmin(neighbor_min, value, out=neighbor_min, where=inside)
    return y[leads], x[leads], neighbor_min[leads]


def cut_stamps(image: np.ndarray, y, x, fill=np.nan, radius: int = STAMP_RADIUS) -> np.ndarray:
    """Cut square stamps around pixels, whole even at the edges.

    Parameters
    ----------
    image : (ny, nx) array
        Any frame or map; not changed.
    y, x : (n,) integer arrays
        Rows and columns of the stamps' centres, within the frame.
    fill : scalar
        What stands beyond the edge of the frame.
    radius : int
        Stamps are (2 radius + 1) pixels wide.

    Returns
    -------
    stamps : (n, size, size) array, [row, column] as in the image
        Of the image's type; float64 where an integer image is to be filled with NaN.

    Examples
    --------
    The corner pixel of a 2x2 frame: what lies beyond the frame is filled.

    >>> cut_stamps(np.array([[1, 2], [3, 4]]), [0], [0], fill=0, radius=1)
    array([[[0, 0, 0],
            [0, 1, 2],
            [0, 3, 4]]])
    """
    (ny, nx), reach = image.shape, np.arange(-radius, radius + 1)
    rows = np.asarray(y)[:, None, None] + reach[:, None]
    columns = np.asarray(x)[:, None, None] + reach
    inside = ((rows >= 0) & (rows < ny)) & ((columns >= 0) & (columns < nx))
    return np.where(inside, pixels_at(image, (rows.clip(0, ny - 1), columns.clip(0, nx - 1))), fill)


def caption(x: int, y: int, peak: float, shape: tuple[int, int]) -> str:
    """Name a stamp as the observers' notebook does, cut to the frame.

    Examples
    --------
    >>> caption(150, 250, 300.0, (2048, 2048))
    'x=148:152, y=248:252 around Pixel(x=150, y=250, value=300.0)'
    >>> caption(0, 2047, 214.52, (2048, 2048))
    'x=0:2, y=2045:2047 around Pixel(x=0, y=2047, value=214.5)'
    """
    left, right = max(x - STAMP_RADIUS, 0), min(x + STAMP_RADIUS, shape[1] - 1)
    bottom, top = max(y - STAMP_RADIUS, 0), min(y + STAMP_RADIUS, shape[0] - 1)
    return f"x={left}:{right}, y={bottom}:{top} around Pixel(x={x}, y={y}, value={peak:.1f})"
