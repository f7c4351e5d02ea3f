"""Cosmic-ray-like hits: groups of bright pixels that one frame alone has. They inform and never decide.

A muon's spot cannot be told from a star two pixels wide, so a hit is a count to hold against the muons expected.
"""

from collections.abc import Callable

import numpy as np
from astropy import units
from astropy.table import Table
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sla1tools.darks.classes import BLOCKING
from sla1tools.frames.pixels import places_where, touching_pairs

FAINT_SIGMA = 3.0  # pixels that belong to a hit
PEAK_SIGMA = 6.0  # what its brightest pixel must exceed
LEAST_PIXELS = 2  # a single pixel is as well a telegraph pixel that is up once
TRACK_LENGTH = 4.0
TRACK_ELONGATION = 2.5
MUONS_PER_CM2_SECOND = 2.5 / 30 / 2.25**2  # 2.5 in 30 s on 22.5 x 22.5 mm


def cosmic_rays(residual: np.ndarray, sigma: Callable, dq: np.ndarray) -> Table:
    """Find the cosmic-ray-like hits of one frame.

    Parameters
    ----------
    residual : (ny, nx) array
        Held-out residual of the frame.
    sigma : callable
        Gives its 1 sigma, in the same unit, at an index: of rows, or of the rows and columns of pixels.
    dq : (ny, nx) uint16 array
        The night's DQ: pixels of a blocking class are not looked at.

    Returns
    -------
    hits : Table
        A row a group of two or more touching pixels (corners count) above 3 sigma, one of them above 6: `x`, `y` of
        the brightest, `pixels`, `length` (px, from end to end), `signal` (sum), `peak_snr`, `track` (four or more
        pixels long and two and a half times as long as wide; the others are spots); no rows where there is none.
    """
    places = places_where(lambda rows: residual[rows] > FAINT_SIGMA * sigma((rows,)), residual.shape)
    places = places[dq.take(places) & BLOCKING == 0]
    y, x = np.divmod(places, residual.shape[1])
    pairs, signal = touching_pairs(y, x), residual.take(places)
    links = coo_array((np.ones(pairs.shape[1], bool), pairs), (len(y), len(y)))
    group = connected_components(links, directed=False)[1]  # in the order of their first pixels
    snr = signal / sigma((y, x))
    sizes = np.bincount(group)
    peaks = np.zeros(len(sizes))
    np.maximum.at(peaks, group, snr)
    order, ends = np.argsort(group, kind="stable"), np.cumsum(sizes)
    chosen = np.flatnonzero((sizes >= LEAST_PIXELS) & (peaks > PEAK_SIGMA))
    hits = (order[ends[k] - sizes[k] : ends[k]] for k in chosen)
    rows = [_describe(y[members], x[members], signal[members], snr[members]) for members in hits]
    names = ("x", "y", "pixels", "length", "signal", "peak_snr", "track")
    types = (np.int32, np.int32, np.int32, np.float64, np.float64, np.float64, bool)
    columns = {
        name: np.array([row[i] for row in rows], kind) for i, (name, kind) in enumerate(zip(names, types, strict=True))
    }
    return Table(columns, units={"x": units.pix, "y": units.pix, "length": units.pix})


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
