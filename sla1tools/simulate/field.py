"""Frames of stars through the simulated camera: their image has wings, is a little long and varies over the field."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.table import Table

from sla1tools.parameters import Parameters
from sla1tools.simulate.camera import FIELD_STREAM, TOP_CODE, Camera, stream, truth_rows
from sla1tools.simulate.night import TRUTH_NAME, put, simulate_once, write_frames

FRAMES, FIRST, SCIENCE = 3, 1000, 2000  # exposures; the darks' noise is drawn from lower numbers
DUTY = 0.2, 0.35  # of a telegraph pixel that ten darks can tell and whose master dark is the lower state
SKY = 800.0  # electrons
STARS_PER_PIXEL = 1e-4
FLUXES = 2000.0, 60_000.0  # electrons
WIDER = 0.05  # share by which stars grow from the middle of the field to its right edge
OVERSAMPLING = 5
SIZE = 15  # px


def moffat(dx, dy, fwhm=2.0, beta=3.0, elongation=1.08):
    """Integrate an elliptical Moffat profile of unit light over the pixels of a stamp, (15, 15); it is longer along x.

    Parameters
    ----------
    dx, dy : float
        Where the star is, from the middle of the centre pixel, in pixels.
    fwhm, beta, elongation : float
        Full width at half maximum (geometric mean of the axes', pixels), exponent, ratio of the axes.
    """
    fine = (np.arange(SIZE * OVERSAMPLING) + 0.5) / OVERSAMPLING - SIZE / 2
    x, y = (fine - dx) / np.sqrt(elongation), (fine[:, None] - dy) * np.sqrt(elongation)
    steepness = 4 * (2 ** (1 / beta) - 1) / fwhm**2
    light = (1 + steepness * (x**2 + y**2)) ** -beta
    light = light.reshape(SIZE, OVERSAMPLING, SIZE, OVERSAMPLING).sum(axis=(1, 3))
    return light * steepness * (beta - 1) / (np.pi * OVERSAMPLING**2)


def field_electrons(shape: tuple[int, int], places, fluxes, fwhms: Sequence[float], **star) -> np.ndarray:
    """Return the expected electrons of stars at (n, 2) places x, y of a frame; `star` as for `moffat`."""
    reach = SIZE // 2
    image = np.pad(np.zeros(shape), reach + 1)
    for (x, y), flux, fwhm in zip(places, fluxes, fwhms, strict=True):
        column, row = round(x), round(y)
        stamp = image[row + 1 : row + 1 + SIZE, column + 1 : column + 1 + SIZE]
        stamp += flux * moffat(x - column, y - row, fwhm, **star)
    return image[reach + 1 : -reach - 1, reach + 1 : -reach - 1]


def simulate_field(
    directory: str | Path,
    shape: tuple[int, int] = (2048, 2048),
    seed: int = 20240508,
    exposures_before: int = FIRST,
    flash: tuple[int, float, float, float] | None = None,
) -> list[Path]:
    """Simulate frames of stars by the camera of `night.simulate_night` of the same shape and seed, as light frames.

    Parameters
    ----------
    directory, shape, seed
        As for `night.simulate_night`, and its errors. The truth is written beside the frames, a row a star and frame.
    exposures_before : int
        Number of the first exposure in the camera's life: others have noise, hits and telegraph states of their own.
    flash : (int, float, float, float), optional
        Frame, x, y and flux (electrons) of a star that shines in one frame alone.
    """
    camera, rng = Camera(FRAMES, shape, seed), stream(seed, FIELD_STREAM)
    light = rng if exposures_before == FIRST else stream(seed, FIELD_STREAM, exposures_before)
    (ny, nx), number = shape, round(STARS_PER_PIXEL * shape[0] * shape[1])
    fluxes = FLUXES[0] * (FLUXES[1] / FLUXES[0]) ** rng.random(number)
    first = rng.uniform(8, (nx - 9, ny - 9), (number, 2))
    truth, exposures = [], []
    for k in range(FRAMES):
        places = first + rng.uniform(-1, 1, 2)  # tracking is never perfect
        rows = truth_rows("star", places[:, 0], places[:, 1], fluxes, k)
        if flash and flash[0] == k:
            rows = np.append(rows, truth_rows("flash", [flash[1]], [flash[2]], flash[3], k))
        rows["fwhm"] = 2.0 * (1 + WIDER * (2 * rows["x_true"] / nx - 1))
        stars = field_electrons(shape, np.stack([rows["x_true"], rows["y_true"]], axis=1), rows["value"], rows["fwhm"])
        electrons = light.poisson(SKY + stars)
        counts = camera.expose(exposures_before + k) + np.rint(electrons / camera.scale)
        exposures.append(np.minimum(counts, TOP_CODE).astype(np.uint16))
        truth.append(rows)
        if flash:  # what else flashes in these frames
            for events in (*camera.muons(exposures_before + k), camera.steps(exposures_before + k)):
                events["frame"] = k
                truth.append(events)
    table = Table(np.concatenate(truth), meta={"frames": FRAMES, "seed": seed, "scale": camera.scale})
    return write_frames(directory, exposures, table, 30.0, OBJECT="Field30s", IMAGETYP="Light", FILTER="none")


def demo_field() -> list[Path]:
    """Return the frames of stars that belong to the demo night, simulated if they are not there."""
    demo = Parameters()
    folder = demo.capture_directory.parents[1] / "03_20_00" / "Field30s"
    simulate_once(folder, lambda: simulate_field(folder, demo.frame_shape, demo.random_seed))
    return sorted(folder.glob("*.fits"))


def demo_flashes() -> Path:
    """Return a list of flashes in science frames of the demo night's camera, simulated if they are not there.

    One is a star that shines in one frame alone, one a telegraph pixel in its upper state, one a particle hit; the
    truth beside them (`truth.ecsv`) says which.
    """
    demo = Parameters()
    folder = demo.capture_directory.parents[1] / "04_10_00" / "Science30s"
    (ny, nx), listed = demo.frame_shape, folder / "flashes.ecsv"
    flash = 1, 0.37 * nx + 0.3, 0.61 * ny - 0.2, 6000.0
    simulate_once(folder, lambda: simulate_field(folder, demo.frame_shape, demo.random_seed, SCIENCE, flash))
    if not listed.is_file():
        put(listed, lambda path: _flashes(Table.read(folder / TRUTH_NAME)).write(path, format="ascii.ecsv"))
    return listed


def _flashes(truth: Table) -> Table:
    """List the brightest flash of each kind, where a team would have found it."""
    rows = []
    for name, kind in zip("ABC", ("flash", "rts", "muon"), strict=True):
        own = truth[(truth["kind"] == kind) & ~(truth["duty"] < DUTY[0]) & ~(truth["duty"] > DUTY[1])]
        row = own[np.argmax(own["value"])]
        rows.append((name, f"{row['frame'] + 1:05d}.fits", round(row["x_true"], 1), round(row["y_true"], 1)))
    return Table(rows=rows, names=("name", "file", "x", "y"))
