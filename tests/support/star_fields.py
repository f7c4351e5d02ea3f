"""Simulated frames of stars that are not Gaussian: elliptical Moffats, on a sky."""

import numpy as np

from sla1tools.candidates.star_frames import StarFrame

OVERSAMPLING = 5


def moffat(dx, dy, fwhm=2.0, beta=3.0, elongation=1.08, size=15):
    """One star of unit light, (size, size), integrated over pixels; longer along x."""
    fine = (np.arange(size * OVERSAMPLING) + 0.5) / OVERSAMPLING - size / 2
    x, y = (fine - dx) / np.sqrt(elongation), (fine[:, None] - dy) * np.sqrt(elongation)
    light = (1 + 4 * (2 ** (1 / beta) - 1) * (x**2 + y**2) / fwhm**2) ** -beta
    light = light.reshape(size, OVERSAMPLING, size, OVERSAMPLING).sum(axis=(1, 3))
    return light * 4 * (2 ** (1 / beta) - 1) * (beta - 1) / (np.pi * fwhm**2 * OVERSAMPLING**2)


def field_electrons(shape, places, fluxes, **star):
    """Expected electrons of stars at places (n, 2: x, y)."""
    image = np.pad(np.zeros(shape), 10)
    for (x, y), flux in zip(places, fluxes, strict=True):
        column, row = round(x), round(y)
        image[row + 3 : row + 18, column + 3 : column + 18] += flux * moffat(x - column, y - row, **star)
    return image[10:-10, 10:-10]


def scattered(shape, n, seed, apart=20):
    """(n, 2) places at least so far apart, at any phase, one in each cell of a grid."""
    rng = np.random.default_rng(seed)
    ny, nx = (size // apart for size in shape)
    cells = rng.choice(nx * ny, n, replace=False)
    corner = np.stack([cells % nx, cells // nx], axis=1) * apart + apart // 2
    return corner + rng.uniform(-3, 3, (n, 2))


def star_frame(shape=(300, 300), n=120, seed=1, name="stars", sky=2500.0, low=1e4, high=1.5e5, places=None, **star):
    """A `StarFrame` with a Poisson sky and stars, and the places and fluxes of the stars."""
    rng = np.random.default_rng(seed)
    places = scattered(shape, n, seed) if places is None else places
    fluxes = np.exp(rng.uniform(np.log(low), np.log(high), len(places)))
    counts = rng.poisson(sky + field_electrons(shape, places, fluxes, **star)) + rng.normal(0, 10, shape)
    true = np.ones(shape, bool)
    frame = StarFrame(name, counts - sky, np.full(shape, np.sqrt(sky + 100)), true, counts >= 50_000, 1.0)
    return frame, places, fluxes
