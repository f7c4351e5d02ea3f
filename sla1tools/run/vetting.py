"""What `sla1 vet` writes: the judged flashes as a table, as DS9 regions and as a page."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
from astropy.table import Table, hstack

from sla1tools.candidates.rows import FILE_COLUMNS
from sla1tools.errors import ParametersError, refuse_to_overwrite, writing
from sla1tools.night import Night, open_night
from sla1tools.parameters import Parameters
from sla1tools.published import night_path, read_manifest
from sla1tools.run.products import REGION_RADIUS, fixed_columns
from sla1tools.run.resuming import same_run
from sla1tools.show.vetting_page import MOST_PICTURED, pictures, vetting_page
from sla1tools.vetting.judging import VERDICTS, Witness

COLUMNS = FILE_COLUMNS | {
    "sky": ("f8", "electron", "local sky"),
    "searched": ("f8", None, "frames times the share of their area that was searched"),
    "expected": ("f8", None, "flashes of the camera in it, as bright and as like a star"),
    "expected_high": ("f8", None, "their 95 % upper limit"),
    "verdict": ("U", None, "whose it is"),
    "reasons": ("U", None, "why, the deciding reason first"),
}
Files = tuple[Path, Path, Path]  # table, regions, page
COLORS = dict(zip(VERDICTS, ("red", "magenta", "yellow", "green", "white"), strict=True))


def open_darks(parameters: Parameters, outputs: Path) -> Night:
    """Open the published night of these parameters, or of a capture folder that is gone; else measure it."""
    folder = outputs / night_path(parameters)
    published = read_manifest(folder)
    same = published is not None and same_run(published, parameters)
    return open_night(folder if same or (published and not parameters.capture_directory.is_dir()) else parameters)


def files_to_write(to: Path) -> Files:
    """Return the table, its regions and its page; `ParametersError` where one is there already, or `to` is no ECSV."""
    if to.suffix != ".ecsv":
        raise ParametersError(f"{to}: the name of the table to write (--to) must end in .ecsv")
    targets = to, to.with_suffix(".reg"), to.with_suffix(".html")
    refuse_to_overwrite(*targets)
    return targets


def write_vetted(
    night: Night, witness: Witness, flashes: Table, paths: Mapping[str, Path], searched: tuple[int, str], targets: Files
) -> Table:
    """Judge flashes, and write the table, its regions and its page.

    Parameters
    ----------
    night : Night
        Whose darks are pictured.
    witness : Witness
        What this night says, or it and others.
    flashes, paths
        As from `vetting.flashes.read_flashes`.
    searched : (int, str)
        As from `vetting.searching.what_was_searched`.
    targets : tuple of path
        From `files_to_write`.

    Returns
    -------
    judged : Table
        As written.

    Raises
    ------
    ParametersError
        Where one of them cannot be written.
    """
    drawn: list[dict] = []
    to, regions, page = targets
    whole = night.with_frames if night.has_frames else None
    dark_counts = (lambda k: whole.capture.rows(k, 0, whole.capture.shape[0])) if whole else None

    def draw(frame, found):
        drawn.extend(pictures(frame, found[found["place"] < MOST_PICTURED], witness, dark_counts))

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        judged = witness.vet_flashes(flashes, paths, searched[0], draw)
    table = _with_given(flashes, fixed_columns(judged, COLUMNS))
    with writing(to):
        table.write(to, format="ascii.ecsv")
        regions.write_text(_regions(flashes, judged), encoding="utf-8")
        page.write_text(vetting_page(flashes, judged, drawn, searched[1], witness), encoding="utf-8")
    return table


def _with_given(flashes: Table, judged: Table) -> Table:
    """Put the columns given before those measured; one of the same name becomes NAME_given."""
    table = Table()
    for name in flashes.colnames:
        kept = name
        while kept in judged.colnames or kept in table.colnames:
            kept += "_given"
        table[kept] = flashes[name]
    return hstack([table, judged], metadata_conflicts="silent")


def _regions(flashes: Table, judged: Table) -> str:
    lines = ["# Region file format: DS9 astropy/regions", "image"]
    for name, x, y, verdict in zip(flashes["file"], flashes["x"], flashes["y"], judged["verdict"], strict=True):
        if x == x and y == y:  # DS9 knows no NaN, and no escape for a brace
            label = str(name).replace("{", "(").replace("}", ")")
            place = f"circle({x + 1:.3f},{y + 1:.3f},{REGION_RADIUS})"
            lines.append(f"{place} # color={COLORS[verdict]} text={{{label}}}")
    return "\n".join(lines) + "\n"
