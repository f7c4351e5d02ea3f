"""One frame of the sky that belongs to the darks: of their shape, exposure and gain."""

from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sla1tools.errors import FrameError, Reason
from sla1tools.frames.fits import decode, read_bytes
from sla1tools.frames.headers import read_facts
from sla1tools.parameters import Parameters
from sla1tools.text import printable


class Light(NamedTuple):
    """A frame of the sky: raw counts (ny, nx) uint16, FILTER as its header gives it, start of the exposure (UTC)."""

    counts: np.ndarray
    filter_name: str | None
    start: datetime | None


def read_light(path: Path, parameters: Parameters, gain: float | None = None, camera: str | None = None) -> Light:
    """Read a frame of the sky; it is judged as a dark is, but for IMAGETYP and FILTER, which may say anything.

    Parameters
    ----------
    path : Path
        A raw FITS file; only read.
    parameters : Parameters
        Of the darks: shape, exposure and its tolerance.
    gain, camera : float and str, optional
        GAIN and INSTRUME of the darks; a frame that states another one is refused.

    Raises
    ------
    FrameError
        With the reason and what was found.
    """
    image = decode(read_bytes(path, parameters.frame_shape)[0], parameters.frame_shape)
    facts = read_facts(image.header | {"IMAGETYP": None, "FILTER": None}, parameters)
    if None not in (gain, facts.gain) and facts.gain != gain:
        raise FrameError(Reason.GAIN, f"gain {facts.gain:g}, the darks' is {gain:g}")
    named = str(image.header.get("INSTRUME") or "").strip()
    if named and camera and named != camera:
        raise FrameError(Reason.KEYWORD, f"taken with {printable(named)}, the darks with {printable(camera)}")
    return Light(image.counts, image.header.get("FILTER"), facts.start)
