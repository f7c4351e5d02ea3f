"""The reference of every dark, exact in raw counts: median or average, of all frames or of the others.

Held-out medians are cheap. With the two (even N) or three (odd N) middle values of a pixel's sorted counts, the median
of the *other* frames depends only on whether the frame's own count lies below, within or above them. So the stack is
sorted once, and only as far as its middle: a network of minima and maxima on whole uint16 tiles.

Residuals are differences of integers over one denominator for all pixels, and become numbers by one multiplication.
So a tie between pixels stays a tie, in counts and in electrons, and what is unequal stays unequal.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np

from sla1tools.frames.pixels import BAND_ROWS, bands, pixels_at

CACHED_ROWS = 2400  # of all frames together, in the cache that cores share
LEAST_ROWS = 12  # of a frame at a time: with fewer the calls cost more than the work
TILE_PIXELS = 1 << 16  # whose residual, with what goes into it, stays in a core's cache

Reference = Literal["leave_one_out", "all", "outside"]  # outside: all frames, for a frame that is none of them
REFERENCES: tuple[Reference, ...] = ("leave_one_out", "all")


@cache
def median_network(n: int) -> tuple[tuple[int, int, bool, bool], ...]:
    """Comparators that leave the middle order statistics of n values in their places.

    Batcher's odd-even merge sort (Knuth, The Art of Computer Programming 3, 5.3.4), cut down to what the two (even n)
    or three (odd n) middle outputs need.

    Parameters
    ----------
    n : int
        At least 2.

    Returns
    -------
    network : tuple of (i, j, keep_low, keep_high)
        In order: replace value i by the minimum (if needed later) and value j by the maximum (if needed later).
    """
    pairs = []
    p = 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                for i in range(min(k, n - j - k)):
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p):
                        pairs.append((i + j, i + j + k))
            k //= 2
        p *= 2
    needed = set(middle_places(n))
    used = []
    for i, j in reversed(pairs):
        if i in needed or j in needed:
            used.append((i, j, i in needed, j in needed))
            needed |= {i, j}
    return tuple(reversed(used))


def middle_places(n: int) -> tuple[int, ...]:
    """Places of the middle order statistics: two for even n, three for odd n.

    Examples
    --------
    >>> middle_places(10), middle_places(9)
    ((4, 5), (3, 4, 5))
    """
    return (n // 2 - 1, n // 2) if n % 2 == 0 else (n // 2 - 1, n // 2, n // 2 + 1)


def middle_counts(band: np.ndarray) -> np.ndarray:
    """Middle order statistics of every pixel over the frames.

    Parameters
    ----------
    band : (N, h, nx) uint16 array
        Raw counts, N at least 3; not changed.

    Returns
    -------
    middle : (2 or 3, h, nx) uint16 array
        The same as ``np.sort(band, axis=0)[list(middle_places(N))]``.
    """
    n = len(band)
    middle = np.empty((len(middle_places(n)), *band.shape[1:]), band.dtype)
    rows = min(max(CACHED_ROWS // n, LEAST_ROWS), BAND_ROWS)
    for top in range(0, band.shape[1], rows):
        tile = slice(top, top + rows)
        values = list(band[:, tile].copy())
        spare = np.empty_like(values[0])
        for i, j, keep_low, keep_high in median_network(n):
            low, high = values[i], values[j]
            if keep_low and keep_high:
                np.minimum(low, high, out=spare)
                np.maximum(low, high, out=high)
                values[i], spare = spare, low
            elif keep_low:
                np.minimum(low, high, out=low)
            else:
                np.maximum(low, high, out=high)
        for place, source in enumerate(middle_places(n)):
            middle[place, tile] = values[source]
    return middle


@dataclass(frozen=True)
class DarkReference:
    """What a night's frames are compared with, exact in counts.

    Attributes
    ----------
    frames : int
        Number of frames, N.
    method : {'median', 'average'}
        How the frames are combined.
    exact : (2 or 3, ny, nx) uint16 array, or (1, ny, nx) uint32 array
        For the median the middle order statistics; for the average the sum over all frames.
    """

    frames: int
    method: Literal["median", "average"]
    exact: np.ndarray

    @property
    def parts(self) -> int:
        """Parts of a count that the master is a whole number of."""
        return self.frames if self.method == "average" else 2 - self.frames % 2

    @property
    def master(self) -> np.ndarray:
        """Master dark of all frames in counts, (ny, nx) float64."""
        if self.method == "average":
            return self.exact[0] / self.frames
        return (self.exact[0].astype(np.float64) + self.exact[-1]) / 2 if self.frames % 2 == 0 else self.exact[1] * 1.0

    def residual(
        self, counts: np.ndarray, reference: Reference, where=np.s_[:, :], scale: float = 1.0, own=None
    ) -> np.ndarray:
        """Subtract the reference from a frame.

        Parameters
        ----------
        counts : uint16 array
            Counts to be judged, in the place that `where` selects.
        reference : {'leave_one_out', 'all', 'outside'}
            The other frames, or all of them: for one of the night's frames itself included ('all'), or for a frame from
            outside the stack.
        where : index, optional
            Which pixels of the frame `counts` holds; the whole frame by default.
        scale : float
            Electrons per count; 1 for a residual in counts.
        own : uint16 array, optional
            What the frame held when the reference was made, if not `counts`: a star was put in since.

        Returns
        -------
        residual : float64 array, of the shape of `counts`

        Notes
        -----
        The slow equivalent is ``counts - np.median(others, axis=0)`` (or ``np.mean``), with ``others`` the stack
        without the frame for 'leave_one_out' and the whole stack else; equal exactly in counts.

        A median of an even number of frames is half a sum of counts, one of an odd number a count, and an average a
        sum over the number: the difference is a whole number of such parts, and is multiplied once by what a part is.
        """
        parts = replace(self, frames=self.frames - 1).parts if reference == "leave_one_out" else self.parts
        exact, own = [pixels_at(plane, where) for plane in self.exact], counts if own is None else own
        residual = np.empty(counts.shape)
        for rows in bands(len(counts), max(1, TILE_PIXELS * len(counts) // max(counts.size, 1))):
            difference = np.multiply(counts[rows], parts, dtype=np.int64 if self.method == "average" else np.int32)
            for values in self._parts([values[rows] for values in exact], reference, own[rows]):
                difference -= values
            np.multiply(difference, scale / parts, out=residual[rows])
        return residual

    def _parts(self, exact: Sequence[np.ndarray], reference: Reference, own: np.ndarray) -> Iterable[np.ndarray]:
        """Return arrays whose sum is the reference, in parts of a count.

        Taking a frame out of the sorted stack takes its own count, clipped to the range of the middle values, out of
        these; the rest are the middle of the others. Of four counts 3 5 8 9 the middle is 5 8; without the frame that
        has 9 it is 5 + 8 - 8 = 5, the median of 3 5 8. Of five, 3 5 6 8 9, it is 5 6 8; without the frame that has 3 it
        is 5 + 6 + 8 - 5 = 14, twice the median of 5 6 8 9.
        """
        if self.method == "average":
            return (exact[0], -own.astype(np.int64)) if reference == "leave_one_out" else exact
        if reference != "leave_one_out":
            return exact if self.frames % 2 == 0 else exact[1:2]
        clipped = np.minimum(np.maximum(own, exact[0]), exact[-1])
        if len(exact) == 2:
            # in 16 bits: 5 - 8 is 65533, and 65533 + 8 is 5 again, as the result fits whatever overflows on the way
            return (exact[0] - clipped + exact[1],)
        return (-clipped.astype(np.int32), *exact)
