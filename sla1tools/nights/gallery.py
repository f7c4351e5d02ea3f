"""Candidates of many nights as one table, for the season's gallery."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import MaskedColumn, Table

from sla1tools.candidates.criteria import CUTS, criteria_of
from sla1tools.candidates.leaders import STAMP_SIZE
from sla1tools.candidates.rows import FILE_COLUMNS, LEADER_COLUMNS, PSF_COLUMNS
from sla1tools.candidates.selection import column_of
from sla1tools.nights.season import Season
from sla1tools.nights.trends import NightRecord
from sla1tools.published.formats import DAMAGE, GALLERY, read_archive, write_archive

MOST_ROWS, MOST_OF_NIGHT = 50_000, 5_000
COLUMNS = (*LEADER_COLUMNS, "stamp")


@dataclass(frozen=True)
class _Kept:
    """What a night keeps: its candidates, one record each, NaN and '' where nothing was fitted."""

    rows: np.ndarray


def gallery_rows(leaders, parameters, most: int = MOST_OF_NIGHT) -> Table:
    """Select the leaders of the configured reference that pass any criterion, each judged for itself.

    Parameters
    ----------
    leaders : Table or structured array
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


def write_gallery(leaders: Table, parameters, path: Path) -> None:
    """Keep a night's `gallery_rows` as one array of records, which a thousand nights can be read from in seconds."""
    table = gallery_rows(leaders, parameters)
    columns = {name: np.ma.asarray(table[name]) for name in COLUMNS}
    rows = np.zeros(len(table), [(name, values.dtype, values.shape[1:]) for name, values in columns.items()])
    fill: dict[str, Any] = {"f": np.nan, "U": "", "i": 0}
    for name, values in columns.items():
        rows[name] = values.filled(fill[values.dtype.kind])
    write_archive(_Kept(rows), path)


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
    without: list[NightRecord] = []
    rows, total = None, 0
    for some in _chunks(season, outputs, without, most):
        passing = gallery_rows(some, season.parameters, len(some))
        total += len(passing)
        every = passing if rows is None else np.concatenate([rows, passing])
        rows = gallery_rows(every, season.parameters, most)
    nights = [record.night for record in season.nights]
    return Table() if rows is None else _table(rows, nights), total, without


def _chunks(season: Season, outputs: Path, without: list[NightRecord], most: int) -> Iterator[np.ndarray]:
    """Read the nights' records, with the night's number as `night`, about `most` rows at a time; note who has none."""
    parts: list[np.ndarray] = []
    held = 0
    for number, record in enumerate(season.nights):
        try:
            if any(record.parameters[name] > getattr(season.parameters, name) for name in CUTS):
                raise ValueError("run with stricter cuts")
            kept = _read(outputs / record.path / GALLERY, season.parameters.frame_shape)
        except DAMAGE:
            without.append(record)
            continue
        part = np.zeros(len(kept), [("night", np.int32), *kept.dtype.descr])
        part["night"] = number
        for name in COLUMNS:
            part[name] = kept[name]
        parts, held = [*parts, part], held + len(part)
        if held > most:
            yield np.concatenate(parts)
            parts, held = [], 0
    if parts:
        yield np.concatenate(parts)


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray:
    rows = read_archive(_Kept, path).rows
    kinds = {name: "U" if FILE_COLUMNS[name][0] == "U" else "if" for name in LEADER_COLUMNS}
    ours = rows.dtype.names == COLUMNS and rows.ndim == 1
    ours = ours and all(rows[name].dtype.kind in kind and rows[name].ndim == 1 for name, kind in kinds.items())
    ours = ours and rows["stamp"].shape == (len(rows), STAMP_SIZE, STAMP_SIZE)
    if not ours or any(((rows[axis] < 0) | (rows[axis] >= size)).any() for axis, size in zip("yx", shape, strict=True)):
        raise ValueError("its columns, places or stamps are none of ours")
    return rows


def _table(rows: np.ndarray, nights: list[str]) -> Table:
    """Give records the form of a leader table: masked where nothing was fitted, nights by their names."""
    unfitted = np.isnan(rows["snr"])
    table = Table({name: rows[name] for name in ("night", *COLUMNS)})
    for name in PSF_COLUMNS:
        table[name] = MaskedColumn(rows[name], mask=unfitted)
    table["night"] = np.array(nights)[rows["night"]]
    table["frame"] = np.char.add(np.char.add(table["night"], " "), rows["frame"])
    return table
