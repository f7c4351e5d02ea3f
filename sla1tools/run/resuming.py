"""Whether a night has to be run at all: what its manifest says against what lies in its capture folder."""

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from astropy.io import fits
from scipy import ndimage

from sla1tools import __version__
from sla1tools.candidates.leaders import STAMP_SIZE
from sla1tools.darks.classes import PixelClass
from sla1tools.errors import Sla1Error
from sla1tools.frames.capture import readable
from sla1tools.frames.fits import read_plane
from sla1tools.frames.known_pixels import read_known_pixels
from sla1tools.measure import Measurement, depends_on, selected_again
from sla1tools.night.cache import contents_of, digest_of
from sla1tools.night.reading import read_published
from sla1tools.parameters import Parameters
from sla1tools.places import from_working_folder
from sla1tools.published import FAILED, Manifest, night_path, read_manifest
from sla1tools.run.products import PRODUCTS


def is_current(parameters: Parameters, outputs: Path, notebooks: bool = False) -> bool:
    """Tell whether a night's published folder is what a run would make of it now.

    Notes
    -----
    Compared are the parameters, this package's version, the names in the capture folder, the SHA-256 of every file that
    a run reads, `psf`'s among them, and the pixels that `known_pixels` marks within 2 px of the night's leaders and
    injected stars; no product may be missing, and where `notebooks` are wanted the night must have been run with them.
    `sessions_directory` is compared as the place it names, however it is written. The raw files are read only if all
    else is equal.
    """
    place = outputs / night_path(parameters)
    manifest = read_manifest(place)
    if manifest is None or not same_run(manifest, parameters, notebooks):
        return False
    known = read_known_pixels(parameters)
    try:
        return (
            all((place / name).is_file() for name in (*PRODUCTS, "index.html"))
            and (known is None or not _touched(place, known))
            and _same_files(manifest, parameters)
        )
    except (OSError, KeyError, TypeError, ValueError):  # a damaged product
        return False


def measured_before(parameters: Parameters, outputs: Path, notebooks: bool) -> Measurement | None:
    """Sum up a published night at other cuts, or for notebooks that it has not: nothing is measured again.

    Returns
    -------
    night : Measurement or None
        With a `PublishedDark`; None where the night must be measured: files, version, or a parameter that measuring
        depends on are others, or the new cuts have other floors. Also where the same run is asked for again.
    """
    place = outputs / night_path(parameters)
    manifest = read_manifest(place)
    if manifest is None or same_run(manifest, parameters, notebooks):
        return None
    measured = depends_on(parameters).keys()
    then, now = ({name: run.get(name) for name in measured} for run in _both(manifest, parameters))
    known = read_known_pixels(parameters)
    try:
        if then != now or not _same_files(manifest, parameters):
            return None
        night = read_published(place)
        same = known is None or np.array_equal(night.dark.classes.dq & PixelClass.KNOWN != 0, known)
        return selected_again(night, parameters) if same else None
    except (OSError, Sla1Error, KeyError, TypeError, ValueError):  # a damaged product
        return None


def finished_since(
    parameters: Parameters, outputs: Path, since: str, notebooks: bool = False
) -> tuple[str, tuple[str, ...]] | None:
    """Return the verdict and reasons of a run of this very night that ended after a moment; None where none did.

    `since` is a moment as `moment` gives it; machines that share outputs must agree on the time.
    """
    for slot in (Path(), Path(FAILED)):
        manifest = read_manifest(outputs / slot / night_path(parameters))
        if manifest and manifest.end > since and same_run(manifest, parameters, notebooks):
            return manifest.verdict, tuple(manifest.reasons)
    return None


def same_run(manifest: Manifest, parameters: Parameters, notebooks: bool = False) -> bool:
    """Compare the parameters, and whether there are notebooks where they are wanted."""
    then, now = _both(manifest, parameters)
    return then == now and notebooks <= manifest.notebooks


def _both(manifest: Manifest, parameters: Parameters) -> list[dict]:
    """Parameters of a run then and now, the capture folder as the place that it is."""
    both = [manifest.parameters, parameters.model_dump(mode="json") | {"products_directory": None}]
    for number, values in enumerate(both):
        with suppress(KeyError, TypeError, ValueError):  # it names no folder of this machine
            place = from_working_folder(values["sessions_directory"])
            both[number] = values | {"sessions_directory": os.path.abspath(place)}
    return both


def _touched(place: Path, known: np.ndarray) -> bool:
    """Tell whether a pixel that was added or taken away lies in the stamp of a leader or an injected star."""
    dq = read_plane(place / "master_dark.fits", "DQ", known.shape)
    if dq is None:
        return True
    changed = (dq & PixelClass.KNOWN != 0) != known
    if not changed.any():
        return False
    near = ndimage.maximum_filter(changed, STAMP_SIZE, mode="constant")
    for name, columns in (("leaders.fits", "xy"), ("injections.fits", ("x_true", "y_true"))):
        rows = fits.getdata(place / name, 1)
        x, y = (np.rint(rows[column]).astype(int) for column in columns)
        if near[y, x].any():
            return True
    return False


def _same_files(manifest: Manifest, parameters: Parameters) -> bool:
    """Tell whether a run that ended well read what lies there now, as this version does."""
    directory, shape = parameters.capture_directory, parameters.frame_shape
    then = {row.name: row for row in manifest.inputs}
    now = {readable(name): name for name in os.listdir(directory)}
    return (
        manifest.exit_status == 0
        and manifest.versions.get("sla1tools") == __version__
        and manifest.psf_sha256 == digest_of(parameters.psf)
        and set(then) == set(now)
        and all(
            row.verdict == "ignored" or row.sha256 == contents_of(directory / now[name], shape)[0]
            for name, row in then.items()
        )
    )
