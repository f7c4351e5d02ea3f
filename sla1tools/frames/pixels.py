"""Going through the pixels of a frame: by bands of rows, which stay in a core's cache, and by their places."""

from collections.abc import Callable, Iterator

import numpy as np

BAND_ROWS = 40  # ten frames of such a band stay in a core's cache


def bands(rows: int, height: int = BAND_ROWS) -> Iterator[slice]:
    """Cut so many rows into bands of a height, the last as high as is left.

    >>> [(band.start, band.stop) for band in bands(100)]
    [(0, 40), (40, 80), (80, 100)]
    """
    return (slice(top, min(top + height, rows)) for top in range(0, rows, height))


def places_where(told: Callable[[slice], np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Flat indices of the pixels of a frame for which `told` is True, asked of one band of rows after the other."""
    return np.concatenate([np.flatnonzero(told(rows)) + rows.start * shape[1] for rows in bands(shape[0])])


def tiles(shape: tuple[int, int], margin: int, height: int, values: Callable[[slice], np.ndarray]) -> Iterator:
    """Cut a frame into bands of rows with so many rows and columns more on each side.

    Parameters
    ----------
    shape : (ny, nx)
        Of the frame.
    margin, height : int
        Pixels around, and rows of a band.
    values : callable
        Gives the pixels of some rows, (h, nx).

    Yields
    ------
    rows : slice
        Of the band.
    tile : (h + 2 margin, nx + 2 margin) array
        Their pixels and those around them; 0 beyond the frame.
    """
    for rows in bands(shape[0], height):
        wide = slice(max(rows.start - margin, 0), min(rows.stop + margin, shape[0]))
        inside, first = values(wide), wide.start - rows.start + margin
        tile = np.zeros((rows.stop - rows.start + 2 * margin, shape[1] + 2 * margin), inside.dtype)
        tile[first : first + len(inside), margin:-margin] = inside
        yield rows, tile


def pixels_at(plane: np.ndarray, where) -> np.ndarray:
    """Return the pixels of a frame or map that an index selects: slices, or arrays of rows and columns.

    Single pixels are looked up in the plane as it lies in memory, which numpy does six times as fast.
    """
    if isinstance(where[0], np.ndarray):
        return plane.take(where[0] * plane.shape[1] + where[1])
    return plane[where]


def index_in(places: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Look up places among others, which are all different: their indices, and which are there, (n,) int and bool."""
    order = np.argsort(places, kind="stable")
    at = order[np.minimum(np.searchsorted(places, wanted, sorter=order), len(places) - 1)]
    return at, places[at] == wanted


def touching_pairs(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Pair up the pixels, all different, that touch at an edge or a corner, (2, m) indices.

    >>> touching_pairs(np.array([0, 1, 1]), np.array([3, 0, 2])).tolist()
    [[0], [2]]
    """
    width = int(x.max(initial=0)) + 2  # the ends of two rows do not touch
    place, pairs = np.asarray(y, np.int64) * width + x, []
    for step in (1, width - 1, width, width + 1):
        at, there = index_in(place, place + step)
        pairs.append(np.stack([np.flatnonzero(there), at[there]]))
    return np.concatenate(pairs, axis=1)
