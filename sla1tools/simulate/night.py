"""A simulated camera: a seeded night of darks as this camera writes it, with the truth of every defect."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from filelock import FileLock
from tqdm import tqdm

from sla1tools.errors import ParametersError
from sla1tools.parameters import Parameters
from sla1tools.simulate.camera import FULL_FRAME, HEADER_STREAM, Star, make_camera, stream

TRUTH_NAME = "truth.ecsv"


@dataclass(frozen=True)
class SimulatedNight:
    """A night of darks and what is true of it.

    Attributes
    ----------
    counts : (N, ny, nx) uint16 array
        The frames, raw counts.
    truth : Table
        One row a defective pixel, struck pixel or star:
        `x`, `y` (int32, the pixel), `x_true`, `y_true` (sub-pixel for stars, else the pixel), `kind`, `frame` (0-based;
        -1: every frame), `value` (electrons), `fwhm` (px, stars), `duty` (share of frames up, rts), `track` (muons; -1
        elsewhere). NaN where a column does not apply. `value` means, by kind: hot, warm, column: mean excess over
        `level_map`; noisy: 1-sigma of one frame; rts: height of the upper state; stuck, saturated: the constant
        reading; metadata: the reading in the first frame; muon: electrons deposited; star: expected flux.
        `meta` holds frames, seed and scale.
    level_map : (ny, nx) float32 array
        Smooth level (pedestal, dark and glow) without pixel structure, in electrons.
    noise_map : (ny, nx) float32 array
        1-sigma of one raw frame at that level, in electrons.
    """

    counts: np.ndarray
    truth: Table
    level_map: np.ndarray
    noise_map: np.ndarray


def parse_star(text: str) -> Star:
    """Read a star as the command line writes it, FLUX@FWHM in electrons and pixels.

    Raises
    ------
    ParametersError
        Where the text is anything else.
    """
    try:
        flux, fwhm = (float(part) for part in text.split("@"))
    except ValueError:
        raise ParametersError(f"star {text!r}: write FLUX@FWHM, electrons and pixels, as in 3000@2.0") from None
    return Star(flux, fwhm)


def simulate_counts(
    frames: int = 10,
    shape: tuple[int, int] = (2048, 2048),
    seed: int = 20240508,
    noise: float = 37.0,
    stars: Sequence[Star] = (),
    clean: bool = False,
    level: float = 1300.0,
    glow: float = 1100.0,
    pedestal: float = 0.0,
    scale: float = 1.39 / 16,
) -> SimulatedNight:
    """Simulate a night of darks in memory.

    Parameters
    ----------
    frames : int
        Number of frames.
    shape : (ny, nx)
        Rows and columns.
    seed : int
        The same seed gives the same pixels, and a shorter night is the start of a longer one (stars without a `frame`
        excepted: they are spread over the frames there are).
    noise : float
        1-sigma of one raw frame where the level is `level`, in electrons.
    stars : sequence of Star
        Transients to add, each in one frame.
    clean : bool
        Level, noise and stars alone: no pixel structure, no muons, no metadata pixels.
    level : float
        Signal away from the glow, pedestal included, in electrons.
    glow : float
        Excess at the last pixel of the last row, in electrons; falls off as a Gaussian of 0.15 of each side.
    pedestal : float
        Part of `level` that carries no shot noise, in electrons.
    scale : float
        Electrons per raw count.

    Returns
    -------
    SimulatedNight

    Raises
    ------
    ParametersError
        Where a number is out of range, or a star lies outside the night.

    Notes
    -----
    Variance is (signal - pedestal) + read noise^2, with read noise^2 = noise^2 - (level - pedestal). Where that would
    be negative the read noise is 0 and the shot noise is scaled to give `noise`: the photon transfer's slope is then
    noise^2 / (level - pedestal), not 1. The dark's noise is Gaussian, which at 1300 e- differs from Poisson (skewness
    0.03) only in the far tail. Stars, muons and RTS steps are truly Poisson. Readings are rounded to whole counts and
    clipped to 0..65535; every low bit is used, as in the printed frames.

    Defects scale with the area, at least one of each kind where there is room. Muons are Poisson, 2.5 a frame of
    2048 x 2048, except that the first frame has at least one. Row 0 begins with the 44 bytes that a QHY GPS camera
    writes there: a big-endian frame number and a counter modulo 8, read as little-endian pixels, give the values that
    the observers printed. A muon or star leaves no mark on a stuck, saturated or metadata pixel.
    """
    camera = make_camera(frames, shape, seed, noise, stars, clean, level, glow, pedestal, scale)
    counts = np.empty((frames, *camera.level_map.shape), np.uint16)
    for k in _progress(range(frames), frames, counts.size, "simulating"):
        counts[k] = camera.expose(k)
    return SimulatedNight(counts, camera.truth(frames), camera.level_map, camera.noise_map)


def write_night(directory: str | Path, simulated: SimulatedNight, exposure: float = 30.0) -> list[Path]:
    """Write a simulated night as a capture folder: 00001.fits ... and, last, truth.ecsv.

    Parameters
    ----------
    directory : path
        The capture folder, made where missing. Where its path ends DATE/TIME/OBJECT as SharpCap names it
        (2024-05-08/03_38_48/Dark30s), the first frame ends 0.7 s after that time, else after 2024-05-08 03:38:48.
    simulated : SimulatedNight
        What `simulate_counts` returned.
    exposure : float
        Written as EXPTIME, and the distance of the frames, in seconds. It does not change the pixels.

    Returns
    -------
    paths : list of Path
        The frames written.

    Raises
    ------
    ParametersError
        Where the folder holds anything and is not a simulated night, or holds a numbered frame without the card
        SIMSEED: raw frames are never written over. An earlier simulated night is replaced.
    """
    return _write(directory, simulated.counts, simulated.truth, exposure, simulated.counts.size)


def simulate_night(
    directory: str | Path,
    frames: int = 10,
    shape: tuple[int, int] = (2048, 2048),
    seed: int = 20240508,
    noise: float = 37.0,
    stars: Sequence[Star] = (),
    clean: bool = False,
) -> list[Path]:
    """Simulate a night straight into a capture folder, one frame in memory at a time.

    Parameters, files and errors as for `simulate_counts` and `write_night`, whose files these are to the byte.

    Returns
    -------
    paths : list of Path
        The frames written.
    """
    camera = make_camera(frames, shape, seed, noise, stars, clean)
    exposures = (camera.expose(k) for k in range(frames))
    return _write(directory, exposures, camera.truth(frames), 30.0, frames * camera.level_map.size)


def _write(directory, counts_of_frames, truth, exposure, size):
    if not 0 < exposure < math.inf:
        raise ParametersError(f"exposure: must be finite and positive; got {exposure}")
    directory = _claim(Path(directory))
    frames = truth.meta["frames"]
    paths = [
        _put(directory / f"{k + 1:05d}.fits", _fits(counts, k, directory, exposure, truth.meta).writeto)
        for k, counts in enumerate(_progress(counts_of_frames, frames, size, "writing"))
    ]
    _put(directory / TRUTH_NAME, lambda path: truth.write(path, format="ascii.ecsv"))
    return paths


def _progress(sequence, frames, size, label):
    # None lets tqdm be silent where stderr is not a terminal.
    return tqdm(sequence, label, frames, unit="frame", disable=None if size > 2 * FULL_FRAME else True)


def _claim(directory):
    """Make the capture folder, clear it of an earlier simulation, refuse one that holds anything else."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        entries = sorted(directory.iterdir())
        numbered = [path for path in entries if re.fullmatch(r"\d{5,}\.fits", path.name)]
        foreign = [path for path in numbered if not _is_simulated(path)]
        truth = directory / TRUTH_NAME
        if not numbered and not truth.is_file():
            foreign = entries
        if foreign:
            raise ParametersError(f"{directory}: holds {foreign[0].name}, not simulated; name a new or empty folder")
        for path in [truth, *numbered]:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise ParametersError(f"{directory}: cannot be used: {error.strerror}") from None
    return directory


def _is_simulated(path):
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return b"SIMSEED = " in file.read(2880)


def _put(path, write):
    # The unfinished file's name fits no pattern that a reader uses.
    unfinished = path.with_name(f".writing-{os.getpid()}")
    try:
        write(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _first_end(directory):
    try:
        started = datetime.strptime("/".join(directory.absolute().parts[-3:-1]), "%Y-%m-%d/%H_%M_%S")
    except ValueError:
        started = datetime(2024, 5, 8, 3, 38, 48)
    return started + timedelta(seconds=0.7)


def _fits(counts, k, directory, exposure, meta):
    ended = _first_end(directory) + timedelta(seconds=k * exposure)
    warmth = stream(meta["seed"], HEADER_STREAM, k).normal(0, 0.05)
    frame = fits.PrimaryHDU(counts)
    header = frame.header
    header["SIMSEED"] = meta["seed"], "simulated by sla1tools, with this seed"
    header.update({"OBJECT": "Dark30s", "INSTRUME": "QHY42PRO", "SWCREATE": "SharpCap v4.1.12946.0, 64 bit"})
    header["EXPTIME"] = float(exposure), "seconds"
    header["DATE-OBS"] = "0001-01-01T00:00:00.0000000", "GPS:Frame Start"
    header["DATE-END"] = ended.isoformat(timespec="microseconds") + "0", "System Clock:Est. Frame End"
    header.update({"CCD-TEMP": round(-20 + warmth, 2), "SET-TEMP": -20.0, "GAIN": 5, "OFFSET": 20})
    header["EGAIN"] = meta["scale"] * 16, "Electrons per ADU at true ADC bit depth"
    header["EGAINSAV"] = meta["scale"], "Electrons per ADU at saved bit depth"
    header["ADCBITS"] = 12, "Bit depth of camera sensor ADC in current mode"
    header.update({"XBINNING": 1, "YBINNING": 1, "XPIXSZ": 11.0, "YPIXSZ": 11.0, "ROWORDER": "TOP-DOWN"})
    return frame


def ensure_demo_night(parameters: Parameters) -> bool:
    """Simulate the demo night if the parameters name it and it is not there.

    Returns
    -------
    simulated : bool
        Whether it was simulated now. Of several programs that ask at once, one simulates and the others wait.

    Raises
    ------
    ParametersError
        If its folder holds anything else, or cannot be written.
    """
    folder, demo = parameters.capture_directory, Parameters()
    if folder != demo.capture_directory or (folder / TRUTH_NAME).is_file():
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if (folder / TRUTH_NAME).is_file():  # another program was first
            return False
        simulate_night(folder, shape=demo.frame_shape, seed=demo.random_seed)
    return True
