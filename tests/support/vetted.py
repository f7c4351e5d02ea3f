"""Two nights of one chip, and frames of the sky by the same camera, for the tests of vetting."""

import numpy as np
from simulated import simulate_counts, write_night
from small_nights import parameters_of

from sla1tools.night import open_night
from sla1tools.simulate.camera import Camera
from sla1tools.simulate.field import field_electrons

SHAPE, CHIP, FRAMES, SKY = (320, 384), 7, 12, 800.0


def darks(directory, seed, shape=SHAPE, frames=FRAMES, **changes):
    """Write a night of the chip; returns its parameters and its truth."""
    simulated = simulate_counts(frames, shape, seed, chip_seed=CHIP)
    parameters = parameters_of(directory, shape, **{"injections": 0} | changes)
    write_night(parameters.capture_directory, simulated)
    return parameters, simulated.truth


def open_darks(directory, seed=1, **changes):
    parameters, truth = darks(directory, seed, **changes)
    return open_night(parameters), truth


def sky_counts(seed, places=(), fluxes=(), k=0, fwhm=2.0, shape=SHAPE, **star):
    """Raw counts of a frame of the sky with stars at (n, 2) places, by the same chip."""
    camera = Camera(1, shape, seed, chip_seed=CHIP)
    light = SKY + field_electrons(shape, places, fluxes, np.full(len(places), fwhm), **star)
    counts = camera.expose(k) + np.rint(np.random.default_rng(seed).poisson(light) / camera.scale)
    return np.minimum(counts, 65535).astype(np.uint16)
