"""Stars in whole frames, the slow way: a night with bad pixels, awkward places, and each star put into its frame."""

import numpy as np
from astropy.table import Table
from simulated import simulate_counts, write_night
from small_nights import parameters_of

from sla1tools.candidates.detection import FirstLook, detect
from sla1tools.candidates.psf import psf_of
from sla1tools.frames.capture import judge_capture
from sla1tools.injections import injection


def stars_at(rows):
    """Rows of frame number, x, y, flux."""
    frame_number, x, y, flux = (np.array(column) for column in zip(*rows, strict=True))
    return Table(
        {
            "frame_number": frame_number.astype(int),
            "x_true": x.astype(float),
            "y_true": y.astype(float),
            "flux_true": flux.astype(float),
            "fwhm_true": np.full(len(rows), 2.0),
        }
    )


def capture_stars(monkeypatch):
    """Record the 7x7 counts that each call of `add_stars` made."""
    made = []
    real = injection.add_stars

    def spy(counts, stars, *rest):
        starred = real(counts, stars, *rest)
        made.extend(
            (dict(zip(stars.colnames, row, strict=True)), patch) for row, patch in zip(stars, starred, strict=True)
        )
        return starred

    monkeypatch.setattr(injection, "add_stars", spy)
    return made


def put_into_frame(counts, star, patch):
    """Copy of a frame with the star's 7x7 patch in it, as far as it lies within."""
    ny, nx = counts.shape
    x, y = int(np.rint(star["x_true"])), int(np.rint(star["y_true"]))
    top, left = max(y - 3, 0), max(x - 3, 0)
    bottom, right = min(y + 4, ny), min(x + 4, nx)
    changed = counts.copy()
    changed[top:bottom, left:right] = patch[top - y + 3 : bottom - y + 3, left - x + 3 : right - x + 3]
    return changed


def frame_leaders(night, dark, k, floors):
    parameters = night.parameters
    look = FirstLook.of(dark, parameters.reference, psf_of(parameters))
    counts = night.rows(k, 0, night.shape[0])
    residual = dark.residual(counts, parameters.reference)
    return detect(dark, look, night.names[k], counts, residual, parameters.reference, floors, parameters)


def near(leaders, star):
    x, y = np.rint(star["x_true"]), np.rint(star["y_true"])
    return (np.abs(leaders["x"] - x) <= 1) & (np.abs(leaders["y"] - y) <= 1)


def add_bad_pixels(counts, rng):
    """Hot, constant, railed, noisy and switching pixels, ten of each, anywhere; returns their places."""
    n, ny, nx = counts.shape
    places = rng.permutation(ny * nx)[:50].reshape(5, 10)
    flat = counts.reshape(n, -1)
    flat[:, places[0]] += rng.integers(11_500, 30_000, 10).astype(np.uint16)
    flat[:, places[1]] = rng.integers(1, 60_000, 10)
    flat[:, places[2]] = 65535
    flat[:, places[3]] = np.clip(15_000 + rng.normal(0, 1500, (n, 10)), 0, 65535)
    flat[:, places[4]] += np.where(rng.permuted(np.arange(n)[:, None] % 2 + np.zeros((1, 10)), axis=0), 4000, 0).astype(
        np.uint16
    )
    return [(i % nx, i // nx) for i in places.ravel().tolist()]


def defective_night(directory):
    """Six frames with bad pixels, and where these are."""
    shape = (144, 128)
    simulated = simulate_counts(6, shape, 11, clean=True, glow=0.0)
    bad = add_bad_pixels(simulated.counts, np.random.default_rng(12))
    parameters = parameters_of(directory, shape, injections=0)
    write_night(parameters.capture_directory, simulated)
    return judge_capture(parameters), bad


def awkward_stars(night, bad, frames):
    """Some 40 stars: anywhere, on edges and corners, beside and on bad pixels, faint to clipping."""
    ny, nx = night.shape
    rng = np.random.default_rng(5)
    places = [(0, 0), (nx - 1, ny - 1), (-0.45, 30.2), (nx - 0.6, 11.3), (20.4, -0.3), (33.0, ny - 0.7), (1.4, 1.6)]
    places += [(x + dx, y + dy) for (x, y), dx, dy in zip(bad[::3], *rng.uniform(-2.4, 2.4, (2, 17)), strict=True)]
    places += list(zip(rng.uniform(-0.5, nx - 0.5, 14), rng.uniform(-0.5, ny - 0.5, 14), strict=True))
    places = [(min(max(x, -0.5), nx - 0.51), min(max(y, -0.5), ny - 0.51)) for x, y in places]
    flux = rng.permutation(np.geomspace(500, 5000, len(places)))
    rows = [(i % frames, x, y, f) for i, ((x, y), f) in enumerate(zip(places, flux, strict=True))]
    return stars_at([*rows, (0, 40.2, 50.3, 20_000.0), (1, 30.0, 20.0, 45_000.0)])
