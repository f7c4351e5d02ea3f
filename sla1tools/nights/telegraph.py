"""Telegraph pixels over the nights: on how many each was listed, with which levels."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from astropy.table import Table
from scipy import special

from sla1tools.nights.trends import NightRecord, of_latest_camera
from sla1tools.published import TELEGRAPH
from sla1tools.published.folder import write_whole
from sla1tools.text import read_regular

COLUMNS = ("x", "y", "low", "high", "up")  # of a night's list, in order, at its start


def follow_telegraph(records: Sequence[NightRecord], outputs: Path) -> Table:
    """Join the nights' lists of telegraph pixels, of the latest night's camera and shape; write `telegraph.ecsv`.

    Returns
    -------
    joined : Table
        `x`, `y`; `low`, `high` (electrons, means over the nights that list the pixel), `up` and `duty` (frames up on
        these nights, and their share), `nights` that list it, `looked` nights that could, `chance` that a good pixel is
        listed on so many. The most frequent first. A night on which it was up once is none that lists it.
    """
    nights_listed = [record for record in of_latest_camera(records) if record.frames and TELEGRAPH in record.sha256]
    ny, nx = nights_listed[-1].shape if nights_listed else (1, 1)
    none = np.zeros((0, len(COLUMNS)))
    lists, looked = [np.insert(none, len(COLUMNS), 0, axis=1)], 0
    for record in nights_listed:
        with suppress(OSError, ValueError):
            text = read_regular(outputs / record.path / TELEGRAPH).decode("utf-8")
            _, names, rest = text.partition(" ".join(COLUMNS))
            lines = rest.splitlines()[1:]
            rows = np.loadtxt(lines, usecols=range(len(COLUMNS)), ndmin=2) if lines else none
            if names and ((rows[:, :2] >= 0) & (rows[:, :2] < (nx, ny))).all():
                lists.append(np.insert(rows, len(COLUMNS), record.frames, axis=1))
                looked += 1
    x, y, *values = np.concatenate(lists).T
    place, pixel, nights = np.unique(y * nx + x, return_inverse=True, return_counts=True)
    low, high, up, frames = (np.bincount(pixel, column, len(place)) for column in values)
    joined = Table({"x": (place % nx).astype(int), "y": (place // nx).astype(int)})
    for name, column in (("low", low), ("high", high)):
        joined[name] = np.round(column / nights, 1)
        joined[name].unit = "electron"
    joined["up"], joined["duty"] = up.astype(int), np.round(up / frames, 3)
    joined["nights"], joined["looked"] = nights, looked
    joined["chance"] = special.bdtrc(nights - 1.0, looked, 1 / (nx * ny))
    joined = joined[np.argsort(-nights, kind="stable")]
    write_whole(outputs, TELEGRAPH, partial(joined.write, format="ascii.ecsv", overwrite=True))
    return joined
