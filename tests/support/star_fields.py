"""Simulated frames of stars that are not Gaussian: elliptical Moffats, on a sky."""

import numpy as np

from sla1tools.candidates.star_frames import StarFrame
from sla1tools.simulate.field import field_electrons


def scattered(shape, n, seed, apart=20):
    """(n, 2) places at least so far apart, at any phase, one in each cell of a grid."""
    rng = np.random.default_rng(seed)
    ny, nx = (size // apart for size in shape)
    cells = rng.choice(nx * ny, n, replace=False)
    corner = np.stack([cells % nx, cells // nx], axis=1) * apart + apart // 2
    return corner + rng.uniform(-3, 3, (n, 2))


def star_frame(
    shape=(300, 300), n=120, seed=1, name="stars", sky=2500.0, low=1e4, high=1.5e5, places=None, fwhm=2.0, **star
):
    """A `StarFrame` with a Poisson sky and stars, and the places and fluxes of the stars."""
    rng = np.random.default_rng(seed)
    places = scattered(shape, n, seed) if places is None else places
    fluxes = np.exp(rng.uniform(np.log(low), np.log(high), len(places)))
    counts = rng.poisson(sky + field_electrons(shape, places, fluxes, np.full(len(places), fwhm), **star)) + rng.normal(
        0, 10, shape
    )
    true = np.ones(shape, bool)
    frame = StarFrame(name, counts - sky, np.full(shape, np.sqrt(sky + 100)), true, counts >= 50_000, 1.0)
    return frame, places, fluxes
