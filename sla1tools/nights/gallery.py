"""Candidates of many nights as one table, for the season's gallery."""

from pathlib import Path

import numpy as np
from astropy.table import Table, vstack

from sla1tools.candidates.criteria import CUTS, criteria_of
from sla1tools.candidates.detection import LEADER_COLUMNS
from sla1tools.candidates.leaders import STAMP_SIZE
from sla1tools.candidates.selection import column_of
from sla1tools.nights.season import Season
from sla1tools.nights.trends import NightRecord
from sla1tools.published.formats import DAMAGE, GALLERY, read_archive

MOST_ROWS, MOST_OF_NIGHT = 50_000, 5_000


def gallery_rows(leaders: Table, parameters, most: int = MOST_OF_NIGHT) -> Table:
    """Select the leaders of the configured reference that pass any criterion, each judged for itself.

    Parameters
    ----------
    leaders : Table
        With `stamp`.
    parameters : Parameters
        `reference`, and the cuts of every criterion.
    most : int
        Of more, the strongest: those that reach the most times a cut with a floor (`threshold` or `snr_min`).

    Returns
    -------
    rows : Table
        In the leaders' order. At stricter cuts every criterion selects the same from them as from all leaders.
    """
    passes = [one.passes(leaders, one.configured(parameters)) for one in criteria_of(parameters).values()]
    rows = leaders[np.any(passes, axis=0) & (np.asarray(leaders["reference"]) == parameters.reference)]
    times = [column_of(rows, cut.floor) / getattr(parameters, cut.name) for cut in CUTS.values() if cut.floor]
    strongest = np.argsort(-np.max(np.nan_to_num(times), axis=0), kind="stable")[:most]
    return rows[np.sort(strongest)]


def season_candidates(season: Season, outputs: Path, most: int = MOST_ROWS) -> tuple[Table, int, list[NightRecord]]:
    """Put the candidates of a season's nights into one table.

    Returns
    -------
    rows : Table
        As `gallery_rows` gives them at the season's cuts, with `night`; `frame` begins with the night. At most `most`:
        of more, the strongest.
    total : int
        Candidates before any was left out for that.
    without : list of NightRecord
        Nights whose candidates are not known at these cuts: run with stricter ones, or with a damaged list.
    """
    parts: list[Table] = []
    without: list[NightRecord] = []
    total = 0
    for record in season.nights:
        try:
            if any(record.parameters[name] > getattr(season.parameters, name) for name in CUTS):
                raise ValueError("run with stricter cuts")
            rows = gallery_rows(
                _read(outputs / record.path / GALLERY, season.parameters.frame_shape), season.parameters
            )
        except DAMAGE:
            without.append(record)
            continue
        rows["night"] = np.full(len(rows), record.night)
        rows["frame"] = np.array([f"{record.night} {name}" for name in rows["frame"].tolist()], str)  # of none, too
        parts, total = [*parts, rows], total + len(rows)
        if sum(map(len, parts)) > 2 * most:
            parts = [gallery_rows(vstack(parts, metadata_conflicts="silent"), season.parameters, most)]
    table = vstack(parts, metadata_conflicts="silent") if parts else Table()
    return gallery_rows(table, season.parameters, most) if parts else table, total, without


def _read(path: Path, shape: tuple[int, int]) -> Table:
    rows = read_archive(Table, path)
    kinds = {name: "U" if name in ("frame", "reference", "best_rival") else "if" for name in LEADER_COLUMNS}
    if any(rows[name].dtype.kind not in kind or rows[name].ndim > 1 for name, kind in kinds.items()):
        raise ValueError("its columns are none of ours")
    inside = [(rows[axis] >= 0) & (rows[axis] < size) for axis, size in (("y", shape[0]), ("x", shape[1]))]
    if not np.all(inside) or rows["stamp"].shape != (len(rows), STAMP_SIZE, STAMP_SIZE):
        raise ValueError("its places or stamps are none of ours")
    return rows[[*LEADER_COLUMNS, "stamp"]]
