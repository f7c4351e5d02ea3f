"""Cosmic-ray-like hits: groups of bright pixels that one frame alone has. They inform and never decide.

A muon's spot cannot be told from a star two pixels wide, so a hit is a count to hold against the muons expected.
"""

from dataclasses import dataclass, field

import numpy as np
from astropy import units
from astropy.table import Table
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sla1tools.darks.classes import BLOCKING

FAINT_SIGMA = 3.0  # pixels that belong to a hit
PEAK_SIGMA = 6.0  # what its brightest pixel must exceed
LEAST_PIXELS = 2  # a single pixel is as well a telegraph pixel that is up once
TRACK_LENGTH = 4.0
TRACK_ELONGATION = 2.5
MUONS_PER_CM2_SECOND = 2.5 / 30 / 2.25**2  # 2.5 in 30 s on 22.5 x 22.5 mm


@dataclass(frozen=True)
class BrightPixels:
    """Pixels of one frame, or one band of it, that stand out of the noise.

    Attributes
    ----------
    y, x : (n,) int64 arrays
        Row and column in the frame.
    signal : (n,) float array
        Residual, in its own unit.
    snr : (n,) float array
        Residual over its 1 sigma.
    """

    y: np.ndarray = field(repr=False)
    x: np.ndarray = field(repr=False)
    signal: np.ndarray = field(repr=False)
    snr: np.ndarray = field(repr=False)


def bright_pixels(residual: np.ndarray, sigma: np.ndarray, top: int = 0) -> BrightPixels:
    """List the pixels above 3 sigma, strictly.

    Parameters
    ----------
    residual, sigma : (h, nx) arrays
        Held-out residual of one frame and its 1 sigma, in one unit; whole frame or a band of it.
    top : int
        The band's first row.
    """
    y, x = np.divmod(np.flatnonzero(residual > FAINT_SIGMA * sigma), residual.shape[1])
    signal = residual[y, x]
    return BrightPixels(y + top, x, signal, signal / sigma[y, x])


def join_bright(parts) -> BrightPixels:
    """Put the bands of one frame together, in the order of rows."""
    return BrightPixels(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("y", "x", "signal", "snr"))
    )


def cosmic_rays(bright: BrightPixels, dq: np.ndarray) -> Table:
    """Find the cosmic-ray-like hits of one frame.

    Parameters
    ----------
    bright : BrightPixels
        Of the whole frame.
    dq : (ny, nx) uint16 array
        The night's DQ: pixels of a blocking class are not looked at.

    Returns
    -------
    hits : Table
        A row a group of two or more touching pixels (corners count) above 3 sigma, one of them above 6: `x`, `y` of
        the brightest, `pixels`, `length` (px, from end to end), `signal` (sum), `peak_snr`, `track` (four or more
        pixels long and two and a half times as long as wide; the others are spots); no rows where there is none.
    """
    good = dq[bright.y, bright.x] & BLOCKING == 0
    y, x, signal, snr = (values[good] for values in (bright.y, bright.x, bright.signal, bright.snr))
    labels = _touching(y, x, dq.shape[1])
    sizes = np.bincount(labels)
    peaks = np.zeros(len(sizes))
    np.maximum.at(peaks, labels, snr)
    rows = [
        _describe(y[members], x[members], signal[members], snr[members])
        for members in (
            np.flatnonzero(labels == k) for k in np.flatnonzero((sizes >= LEAST_PIXELS) & (peaks > PEAK_SIGMA))
        )
    ]
    names = ("x", "y", "pixels", "length", "signal", "peak_snr", "track")
    types = (np.int32, np.int32, np.int32, np.float64, np.float64, np.float64, bool)
    columns = {
        name: np.array([row[i] for row in rows], kind) for i, (name, kind) in enumerate(zip(names, types, strict=True))
    }
    return Table(columns, units={"x": units.pix, "y": units.pix, "length": units.pix})


def _touching(y, x, nx):
    """Group number of each pixel; pixels are in the order of rows, then columns, and touch by sides or corners."""
    place = y * (nx + 2) + x  # two empty columns: the row's end does not touch the next one's start
    order = np.argsort(place)
    ranked = place[order]
    pairs = []
    for step in (1, nx + 1, nx + 2, nx + 3):
        found = np.searchsorted(ranked, ranked + step)
        there = np.flatnonzero(ranked[np.minimum(found, len(ranked) - 1)] == ranked + step) if len(ranked) else found
        pairs.append((order[there], order[found[there]]))
    one, other = (np.concatenate(ends) for ends in zip(*pairs, strict=True))
    graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(len(y), len(y)))
    return connected_components(graph, directed=False)[1]


def _describe(y, x, signal, snr):
    brightest = int(np.argmax(snr))
    weight = signal / signal.sum()
    away = np.stack([y - weight @ y, x - weight @ x])
    narrow, wide = np.linalg.eigvalsh((weight * away) @ away.T + np.eye(2) / 12)  # of a pixel itself: 1/12
    length = float(np.hypot(np.ptp(y) + 1, np.ptp(x) + 1))
    track = bool(length >= TRACK_LENGTH and wide > TRACK_ELONGATION**2 * narrow)
    return x[brightest], y[brightest], len(y), length, signal.sum(), snr[brightest], track


def expected_muons(shape: tuple[int, int], exposure: float, pixel_um: float = 11.0) -> float:
    """Muons expected in one frame at sea level, about one per square centimetre and minute.

    Parameters
    ----------
    shape : (ny, nx)
        Rows and columns.
    exposure : float
        Seconds.
    pixel_um : float
        Side of a pixel, micrometres.

    Examples
    --------
    >>> round(expected_muons((2048, 2048), 30.0), 2)
    2.51
    """
    area = shape[0] * shape[1] * (pixel_um * 1e-4) ** 2
    return MUONS_PER_CM2_SECOND * area * exposure
