"""The user's mask of pixels known to be bad."""

import os
from pathlib import Path

import numpy as np
from astropy.table import Table

from sla1tools.errors import FrameError, ParametersError
from sla1tools.frames.fits import decode, read_bytes
from sla1tools.parameters import Parameters
from sla1tools.places import from_working_folder, missing
from sla1tools.text import read_regular


def read_known_pixels(parameters: Parameters) -> np.ndarray | None:
    """Read the mask of pixels known to be bad: a FITS image of the frames' shape, or an ECSV list of `x` and `y`.

    Returns
    -------
    known : (ny, nx) bool array or None
        Bad where the image is not 0, or the pixel is listed; None where `known_pixels` is not set.

    Raises
    ------
    ParametersError
        If the file cannot be read, is of another shape, or lists a pixel outside the frame.
    """
    if parameters.known_pixels is None:
        return None
    path, shape = from_working_folder(parameters.known_pixels), parameters.frame_shape
    if not os.path.lexists(path):
        raise ParametersError(f"known_pixels: {path}: {missing(path)}")
    try:
        if path.suffix == ".ecsv":
            return _listed_pixels(path, shape)
        return decode(read_bytes(path, shape)[0], shape).counts != 0
    except FrameError as error:
        raise ParametersError(f"known_pixels: {path} is not a FITS mask of the frames' shape: {error.detail}") from None
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ParametersError(f"known_pixels: {path} is not an ECSV table with columns x and y: {error}") from None


def _listed_pixels(path: Path, shape: tuple[int, int]) -> np.ndarray:
    listed = Table.read(read_regular(path).decode("utf-8"), format="ascii.ecsv")
    x, y = (np.asarray(listed[name], int) for name in ("x", "y"))
    if len(x) and (min(x.min(), y.min()) < 0 or x.max() >= shape[1] or y.max() >= shape[0]):
        raise ParametersError(f"known_pixels: {path} lists pixels outside a frame of {shape[0]} x {shape[1]}")
    known = np.zeros(shape, bool)
    known[y, x] = True
    return known
