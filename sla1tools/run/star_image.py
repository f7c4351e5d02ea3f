"""The file of a measured PSF, and the page beside it."""

import json
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from sla1tools.candidates.psf_measuring import MeasuredPSF, measure_psf
from sla1tools.candidates.star_frames import read_star_frames
from sla1tools.darks.model import characterize
from sla1tools.errors import ParametersError, refuse_to_overwrite, writing
from sla1tools.frames.capture import judge_capture
from sla1tools.parameters import Parameters
from sla1tools.places import from_working_folder
from sla1tools.published.formats import sha256_of
from sla1tools.show.psf_page import psf_page
from sla1tools.simulate.field import demo_field
from sla1tools.text import printable


def write_psf(paths: Sequence[Path], parameters: Parameters, to: Path) -> MeasuredPSF:
    """Measure the PSF on frames of stars with a night's darks; write it, and a page of it beside.

    Parameters
    ----------
    paths : sequence of path
        Raw frames of stars; only read.
    parameters : Parameters
        Of the night whose darks are of the same camera and exposure.
    to : path
        The JSON file; the page has its name and `.html`.

    Raises
    ------
    ParametersError
        Where a file of that name is there already: nothing is overwritten.
    NightError
        Where the darks, the frames or their stars cannot be used.
    """
    page = to.with_suffix(".html")
    refuse_to_overwrite(to, page)
    capture = judge_capture(parameters)
    capture.require_usable()
    frames = read_star_frames(paths, characterize(capture), capture)
    sources = [{"name": path.name, "sha256": sha256_of(path)} for path in paths]
    if min(len({source[key] for source in sources}) for key in ("name", "sha256")) < len(paths):
        raise ParametersError("two frames have the same name or content; give each frame once")
    measured = measure_psf(frames, parameters.fwhm)
    written = measured.as_json() | {"camera": printable(capture.camera or ""), "sources": sources}
    with writing(to):
        to.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
        page.write_text(psf_page(measured, [path.name for path in paths]), encoding="utf-8")
    return measured


def demo_psf(parameters: Parameters) -> Parameters:
    """Measure the demo night's PSF on its frames of stars, once; return its parameters with `psf`.

    Those of another night, or with a `psf` of their own, are returned as they are.
    """
    demo = Parameters()
    if parameters.psf or parameters.capture_directory != demo.capture_directory:
        return parameters
    name = f"{demo.sessions_directory}/{demo.capture_date}/psf.json"
    to = from_working_folder(name)
    with FileLock(to.with_name(f".{to.stem}.lock")):
        if not to.is_file():
            write_psf(demo_field(), parameters, to)
    return parameters.model_copy(update={"psf": name})
