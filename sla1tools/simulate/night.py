"""A simulated camera: a seeded night of darks as this camera writes it, with the truth of every defect."""

import math
import os
import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from filelock import FileLock
from tqdm import tqdm

from sla1tools.errors import ParametersError
from sla1tools.parameters import Parameters
from sla1tools.simulate.camera import FULL_FRAME, HEADER_STREAM, TEMPERATURE, Camera, Star, stream

TRUTH_NAME = "truth.ecsv"
DEMO_FRAMES = 12  # half of them can show the default budget of false alarms kept, and so choose a setting


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


def simulate_night(directory: str | Path, **choices) -> list[Path]:
    """Simulate a night straight into a capture folder, one frame in memory at a time: 00001.fits ... and truth.ecsv.

    Parameters
    ----------
    directory : path
        The capture folder, made where missing. Where its path ends DATE/TIME/OBJECT as SharpCap names it
        (2024-05-08/03_38_48/Dark30s), the first frame ends 0.7 s after that time, else after 2024-05-08 03:38:48.
    **choices
        As `camera.Camera` takes them.

    Returns
    -------
    paths : list of Path
        The frames written.

    Raises
    ------
    ParametersError
        Where a number is out of range, or a star lies outside the night. Where the folder holds anything and is not a
        simulated night, or holds a numbered frame without the card SIMSEED: raw frames are never written over. An
        earlier simulated night is replaced.
    """
    camera = Camera(**choices)
    exposures, quiet = map(camera.expose, range(camera.frames)), camera.frames * camera.mean.size <= 2 * FULL_FRAME
    return write_frames(directory, exposures, camera.truth(), camera.exposure, quiet, camera.temperature)


def write_frames(
    directory: str | Path,
    counts: Iterable[np.ndarray],
    truth: Table,
    exposure: float,
    quiet: bool = True,
    temperature: float = TEMPERATURE,
    **cards: str,
) -> list[Path]:
    """Write frames as a capture folder, and their truth last; folder, return and errors as for `simulate_night`.

    Parameters
    ----------
    directory : path
        The capture folder.
    counts : iterable of (ny, nx) uint16 array
        Raw counts of the frames.
    truth : Table
        As `Camera.truth` gives it.
    exposure : float
        Written as EXPTIME, in seconds, and in the object's name; the distance of the frames, of biases 1 s.
    quiet : bool
        Show no progress; it is never shown where stderr is not a terminal.
    temperature : float
        Of the chip as the cooler holds it, degrees Celsius.
    **cards : str
        Header values in place of the darks', and others.
    """
    if not 0 <= exposure < math.inf:
        raise ParametersError(f"exposure: must be finite and not negative; got {exposure}")
    folder = _claim(Path(directory))
    paths = [
        put(folder / f"{k + 1:05d}.fits", _fits(frame, k, folder, exposure, temperature, truth.meta, cards).writeto)
        for k, frame in enumerate(tqdm(counts, "writing", truth.meta["frames"], unit="frame", disable=quiet or None))
    ]
    put(folder / TRUTH_NAME, lambda path: truth.write(path, format="ascii.ecsv"))
    return paths


def _claim(directory):
    """Make the capture folder, clear it of an earlier simulation, refuse one that holds anything else."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        entries = sorted(directory.iterdir())
        numbered = [path for path in entries if re.fullmatch(r"\d{5,}\.fits", path.name)]
        foreign = [path for path in numbered if not _is_simulated(path)]
        foreign = foreign if numbered else entries
        if foreign:
            raise ParametersError(f"{directory}: holds {foreign[0].name}, not simulated; name a new or empty folder")
        for path in [directory / TRUTH_NAME, *numbered]:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise ParametersError(f"{directory}: cannot be used: {error.strerror}") from None
    return directory


def _is_simulated(path):
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return b"SIMSEED = " in file.read(2880)


def put(path, write):
    """Write a file beside its place, by `write(path)`, and move it there whole."""
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


def _fits(counts, k, directory, exposure, temperature, meta, cards):
    ended = _first_end(directory) + timedelta(seconds=k * (exposure or 1.0))
    warmth = stream(meta["seed"], HEADER_STREAM, k).normal(0, 0.05)
    frame = fits.PrimaryHDU(counts)
    header = frame.header
    header["SIMSEED"] = meta["seed"], "simulated by sla1tools, with this seed"
    header.update({"OBJECT": f"Dark{exposure:g}s", "INSTRUME": "QHY42PRO", "SWCREATE": "SharpCap v4.1.12946.0, 64 bit"})
    header["EXPTIME"] = float(exposure), "seconds"
    header["DATE-OBS"] = "0001-01-01T00:00:00.0000000", "GPS:Frame Start"
    header["DATE-END"] = ended.isoformat(timespec="microseconds") + "0", "System Clock:Est. Frame End"
    header.update({"CCD-TEMP": round(temperature + warmth, 2), "SET-TEMP": float(temperature), "GAIN": 5, "OFFSET": 20})
    header["EGAIN"] = meta["scale"] * 16, "Electrons per ADU at true ADC bit depth"
    header["EGAINSAV"] = meta["scale"], "Electrons per ADU at saved bit depth"
    header["ADCBITS"] = 12, "Bit depth of camera sensor ADC in current mode"
    header.update({"XBINNING": 1, "YBINNING": 1, "XPIXSZ": 11.0, "YPIXSZ": 11.0, "ROWORDER": "TOP-DOWN"})
    header.update(cards)
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
    if folder != demo.capture_directory:
        return False
    shape, seed = demo.frame_shape, demo.random_seed
    return simulate_once(folder, lambda: simulate_night(folder, frames=DEMO_FRAMES, shape=shape, seed=seed))


def simulate_once(folder: Path, simulate: Callable[[], object]) -> bool:
    """Simulate a capture folder if it is not there whole; return whether it was simulated now."""
    if (folder / TRUTH_NAME).is_file():
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if (folder / TRUTH_NAME).is_file():  # another program was first
            return False
        simulate()
    return True
