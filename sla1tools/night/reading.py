"""A published night's folder read back: every file as its manifest names it, nothing believed that does not fit."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.table import MaskedColumn, Table

from sla1tools.candidates.leaders import STAMP_SIZE
from sla1tools.candidates.rows import LEADER_COLUMNS, PSF_COLUMNS, UNITS
from sla1tools.darks.model import PublishedDark, combine_again
from sla1tools.errors import FrameError, NightError
from sla1tools.frames.capture import Capture
from sla1tools.frames.fits import plane_of, read_bytes
from sla1tools.measure import Measurement
from sla1tools.published import read_manifest
from sla1tools.published.formats import ARCHIVE, DAMAGE, STAMPS, Stamps, from_half, read_archive, read_table, sha256_of
from sla1tools.text import listed

FITS_FILES = ("master_dark.fits", "leaders.fits", "injections.fits")
REFUSED = "is not as a run left it, run the night again"
STAR_COLUMNS = ("frame", "x_true", "y_true", "flux_true", "fwhm_true")


def read_published(folder: Path) -> Measurement:
    """Read a published night, whose `dark` is a `PublishedDark`: its images are decoded once they are asked for.

    Raises
    ------
    NightError
        Where a file is not the one that the manifest names, or says what no night can.
    """
    manifest = read_manifest(folder)
    try:
        for name in (ARCHIVE, STAMPS, *FITS_FILES):
            if manifest is None or manifest.outputs.get(name) != sha256_of(folder / name):
                raise ValueError(f"{name} was changed")
        kept = read_archive(Measurement, folder / ARCHIVE)
        halves, noise = read_archive(Stamps, folder / STAMPS), float(kept.summary["dark"]["noise"])
        leaders = _read_leaders(folder / "leaders.fits", kept.capture)
        leaders["stamp"] = from_half(_fitting(halves.leaders, leaders), noise)
        stars = _read_rows(folder / "injections.fits", kept.capture, STAR_COLUMNS)
        stamps = from_half(_fitting(halves.near_stars, kept.injections.leaders), noise)
        injections = replace(kept.injections, trials=stars, stamps=stamps).judged(kept.parameters)
        contents = read_bytes(folder / "master_dark.fits", kept.capture.shape)[0]

        def image(name: str, scaled: bool = True) -> np.ndarray:
            """Decode an image of the file as it was when the night was opened."""
            plane = plane_of(contents, name, kept.capture.shape, scaled)
            if plane is None:
                raise NightError(f"{folder}: {REFUSED}: master_dark.fits has no whole {name} of the frames' shape")
            return plane

        return replace(kept, dark=PublishedDark(kept.dark, image), leaders=leaders, injections=injections)
    except DAMAGE as error:
        raise NightError(f"{folder}: {REFUSED}: {error}") from None


def with_raw_frames(night: Measurement, directory: Path) -> Measurement:
    """Give a published night the raw frames that it was measured from, and what only they tell.

    Raises
    ------
    NightError
        Where one is gone from the folder, or is another file now.
    """
    capture = night.capture
    gone = [frame.name for frame in capture.frames if not (directory / frame.path.name).is_file()]
    if gone:
        raise NightError(f"this takes the raw frames; gone from {directory} are {listed(gone)}")
    try:
        capture = replace(capture, frames=tuple(frame.found_in(directory) for frame in capture.frames))
    except FrameError:
        raise NightError(
            f"made from other raw frames than are in {directory} now; to measure these, open the capture folder"
        ) from None
    return replace(night, capture=capture, dark=combine_again(capture, night.dark))


def _read_rows(path: Path, capture: Capture, names: Iterable[str]) -> Table:
    """Read a table of leaders or of injected stars, in frames of the night."""
    table = read_table(path, names)
    written = {name.encode("ascii", "backslashreplace").decode(): name for name in ("", *capture.names)}
    table["frame"] = np.array([written[name] for name in table["frame"].tolist()])
    return table


def _read_leaders(path: Path, capture: Capture) -> Table:
    """Read `leaders.fits` as it was in memory: masked where no fit was made, units where FITS has none."""
    table, (ny, nx) = _read_rows(path, capture, LEADER_COLUMNS), capture.shape
    x, y, peak, unfitted = table["x"], table["y"], table["peak"], np.isnan(table["snr"])
    if not np.all((x >= 0) & (x < nx) & (y >= 0) & (y < ny)):
        raise ValueError(f"{path.name} has leaders outside the frames")
    table["neighbor_ratio"][:] = np.divide(table["neighbor_min"], peak, out=np.full(len(x), np.nan), where=peak != 0)
    for name in PSF_COLUMNS:
        values = table[name].data
        table[name] = MaskedColumn(np.where(unfitted, np.zeros(1, values.dtype), values), mask=unfitted)
    for name, unit in UNITS.items():
        table[name].unit = unit
    return table


def _fitting(halves: np.ndarray, rows: Table) -> np.ndarray:
    if halves.shape != (len(rows), STAMP_SIZE, STAMP_SIZE):
        raise ValueError("leaders and their stamps do not fit together")
    return halves
