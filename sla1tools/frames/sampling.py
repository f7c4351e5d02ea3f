"""What is kept of a frame's pixels to compare it with others: a sample, its lines, and the pixels that stand out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from sla1tools.frames.codes import code_histogram

SAMPLED = 32_768  # pixels of a frame that are compared
LINE_SAMPLED = 64  # pixels of every row and column
CANDIDATE_SHARE, MOST_CANDIDATES = 1 / 64, 16_384  # brightest pixels of a frame, among which hot ones are looked for
LEAST_CLIPPED = 3  # pixels of every frame at the highest code, that are no chance
CLIPPED_PILE = 5  # times as many as at the codes below
MOST_HOT = 4096  # pixels that are kept of a frame
LEAST_FOR_STEP = 1024  # pixels: fewer have a common step by chance


@dataclass(frozen=True)
class Sample:
    """What is kept of a frame's pixels to compare it with others, 0.6 MB for 2048 x 2048.

    Attributes
    ----------
    pixels : (n,) uint16 array
        At random places, the same in every frame; none in the first and last row, where cameras write metadata.
    in_rows, in_columns : (ny, m) and (nx, m) uint16 arrays
        Pixels of every row and every column, at the same places in every frame.
    hot, excess : (h,) int64 and float32 arrays
        Flat indices, rising, of pixels that stand out, and by how many counts over the median of four pixels two away.
    step : int
        Greatest common step of the codes; 0 where too few codes tell.
    codes, numbers : (m,) integer arrays
        The codes of the whole frame, and the pixels at each.
    highest, pile, below : int, int and float
        The highest code but for the first and last row, which hold metadata; the pixels there, and their mean number
        at the 16 used codes below.
    """

    pixels: np.ndarray = field(repr=False)
    in_rows: np.ndarray = field(repr=False)
    in_columns: np.ndarray = field(repr=False)
    hot: np.ndarray = field(repr=False)
    excess: np.ndarray = field(repr=False)
    step: int
    codes: np.ndarray = field(repr=False)
    numbers: np.ndarray = field(repr=False)
    highest: int
    pile: int
    below: float


def sample_frame(counts: np.ndarray, histogram: np.ndarray) -> Sample:
    """Take from a frame what its verdict among the others needs.

    Parameters
    ----------
    counts : (ny, nx) uint16 array
        Raw counts; not changed.
    histogram : (65536,) integer array
        Pixels of the frame at each code.
    """
    places, rows, columns = sampled_places(counts.shape)
    pixels = counts.ravel()[places]
    hot, excess = _standing_out(counts, histogram)
    inner = histogram - code_histogram(counts[[0, -1]]) if len(counts) > 2 else histogram
    last = np.flatnonzero(inner)[-17:]
    codes = np.flatnonzero(histogram)
    return Sample(
        pixels,
        in_rows=counts.take(columns, axis=1),
        in_columns=counts[rows].T.copy(),
        hot=hot,
        excess=excess,
        step=_step(pixels),
        codes=codes,
        numbers=histogram[codes],
        highest=int(last[-1]),
        pile=int(inner[last[-1]]),
        below=float(inner[last[:-1]].mean()) if len(last) > 1 else np.inf,
    )


def clip_code(samples: Sequence[Sample], top_code: int) -> int | None:
    """Return the code at which pixels of every frame pile up and that none exceeds, where it is below `top_code`."""
    piled = all(frame.pile >= LEAST_CLIPPED and frame.pile > CLIPPED_PILE * frame.below for frame in samples)
    highest = {frame.highest for frame in samples}
    return highest.pop() if piled and len(highest) == 1 and max(highest) < top_code else None


@cache
def sampled_places(shape: tuple[int, int]):
    """Return flat indices of pixels, and numbers of rows and of columns: the same for every frame of a shape."""
    ny, nx = shape
    rng = np.random.default_rng(0)
    first, last = (nx, (ny - 1) * nx) if ny > 2 else (0, ny * nx)
    places = np.arange(first, last) if last - first <= SAMPLED else np.sort(rng.integers(first, last, SAMPLED))
    rows, columns = (np.sort(rng.permutation(size)[:LINE_SAMPLED]) for size in shape)
    return places, rows, columns


def _standing_out(counts, histogram):
    """Indices and excesses of the highest pixels among the brightest, those at the frame's highest code left out."""
    (ny, nx), pixels = counts.shape, counts.ravel()
    highest = int(np.flatnonzero(histogram)[-1])
    most = min(CANDIDATE_SHARE * counts.size, MOST_CANDIDATES)  # above the code sought, those at the highest apart
    code = int(np.searchsorted(np.cumsum(histogram), counts.size - histogram[highest] - most))
    bright = np.flatnonzero(pixels > code)
    y, x = np.divmod(bright, nx)
    bright = bright[(pixels[bright] < highest) & (y >= 2) & (y < ny - 2) & (x >= 2) & (x < nx - 2)]
    around = pixels[bright + np.array([[-2], [2], [-2 * nx], [2 * nx]])].astype(np.float32)
    excess = pixels[bright] - (around.sum(axis=0) - around.max(axis=0) - around.min(axis=0)) / 2
    least = np.partition(excess, -MOST_HOT)[-MOST_HOT] if len(excess) > MOST_HOT else 0
    best = (excess > 0) & (excess >= least)
    return bright[best], excess[best].astype(np.float32)


def _step(pixels) -> int:
    """Greatest common step of the codes between the central 98 % of the pixels; metadata or a rail may be off it."""
    if len(pixels) < LEAST_FOR_STEP:
        return 0
    low, high = np.percentile(pixels, [1, 99], method="nearest")
    used = np.flatnonzero(np.bincount(pixels[(pixels >= low) & (pixels <= high)]))
    return int(np.gcd.reduce(np.diff(used))) if len(used) > 1 else 0
