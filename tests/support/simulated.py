"""A simulated night in memory, and on disk as `simulate_night` writes it."""

from dataclasses import dataclass

import numpy as np
from astropy.table import Table

from sla1tools.simulate.camera import Camera
from sla1tools.simulate.night import write_frames


@dataclass(frozen=True)
class SimulatedNight:
    """Raw counts (N, ny, nx), their truth, and the camera's level and noise without pixel structure, in electrons."""

    counts: np.ndarray
    truth: Table
    level_map: np.ndarray
    noise_map: np.ndarray


def simulate_counts(frames=10, shape=(2048, 2048), seed=20240508, **choices) -> SimulatedNight:
    """Draw all frames of a night; parameters and errors as for `Camera`."""
    camera = Camera(frames, shape, seed, **choices)
    counts = np.stack([camera.expose(k) for k in range(frames)])
    return SimulatedNight(counts, camera.truth(), camera.level_map, camera.noise_map)


def write_night(directory, simulated: SimulatedNight, exposure: float = 30.0):
    return write_frames(directory, simulated.counts, simulated.truth, exposure)
