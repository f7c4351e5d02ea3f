"""The flashes that are to be judged, read from a table or from DS9 regions; every mistake is named at once."""

import re
from pathlib import Path

import numpy as np
from astropy.table import Table

from sla1tools.errors import ParametersError
from sla1tools.places import missing
from sla1tools.text import counted, read_regular

NEEDED = ("file", "x", "y")
REGION = re.compile(r"(?:image\s*;\s*)?(?:point\(([^,()]+),([^,()]+)\)|circle\(([^,()]+),([^,()]+),[^,()]+\))")
LABEL = re.compile(r"text=\{(.+?)\}")


def read_flashes(path: Path, frames: Path | None = None) -> tuple[Table, dict[str, Path]]:
    """Read which flashes are to be judged.

    Parameters
    ----------
    path : Path
        A CSV or ECSV table with columns `file`, `x` and `y` (0-based column and row) and any others; or, where the name
        ends in .reg, a DS9 file of points and circles in image coordinates (1-based), the frame's file as
        ``text={...}``.
    frames : Path, optional
        The folder that the files' names start from; that of `path` if none.

    Returns
    -------
    flashes : Table
        All columns of the file; `x` and `y` are numbers, NaN where the file gives none.
    paths : dict of str to Path
        Where each named file is.

    Raises
    ------
    ParametersError
        Naming everything that is wrong: lines that cannot be read, columns and files that are not there.
    """
    try:
        text = read_regular(path).decode("utf-8-sig")
        table = _regions(path, text) if path.suffix == ".reg" else _table(path, text)
    except OSError as error:
        raise ParametersError(f"{path}: {missing(path) if not path.exists() else error.strerror}") from None
    except UnicodeDecodeError:
        raise ParametersError(f"{path}: is not a text file in UTF-8") from None
    absent = [name for name in NEEDED if name not in table.colnames]
    if absent:
        raise ParametersError(f"{path}: no column {', '.join(absent)}; there is: {', '.join(table.colnames)}")
    if not len(table):
        raise ParametersError(f"{path}: names no flash")
    names = [str(name) for name in np.ma.filled(np.ma.asarray(table["file"], object), "")]
    table["file"] = names
    paths = {name: (frames or path.parent) / name for name in dict.fromkeys(names)}
    _refuse(path, [f"{where}: there is no such file (see --frames)" for where in paths.values() if not where.is_file()])
    for axis in ("x", "y"):
        table[axis] = [_number(value) for value in np.ma.filled(np.ma.asarray(table[axis], object), "")]
    return table, paths


def _table(path: Path, text: str) -> Table:
    try:
        return Table.read(text.splitlines(), format="ascii.ecsv" if text.startswith("# %ECSV") else "ascii.csv")
    except Exception as error:  # a broken table can raise almost anything in astropy's readers
        first = str(error).strip().partition("\n")[0]
        raise ParametersError(f"{path}: is no CSV or ECSV table: {first}") from None


def _regions(path: Path, text: str) -> Table:
    rows, mistakes, image = [], [], False
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if not line or line.startswith(("#", "global ")):
            continue
        if line == "image":
            image = True
            continue
        found, label = REGION.match(line), LABEL.search(line)
        x, y = (_number(value) for value in filter(None, found.groups())) if found else (np.nan, np.nan)
        if not found or np.isnan(x + y):
            mistakes.append(f"line {number}: write point(x,y) or circle(x,y,r) in image coordinates; got {line[:60]}")
        elif not (image or line.startswith("image")):
            mistakes.append(f"line {number}: a line 'image' must come first, to say that x and y are pixels")
        elif not label:
            mistakes.append(f"line {number}: name the frame, as # text={{00001.fits}}")
        else:
            rows.append((label[1], x - 1, y - 1))
    _refuse(path, mistakes)
    return Table(rows=rows or None, names=NEEDED, dtype=("O", "f8", "f8"))


def _number(value) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return np.nan


def _refuse(path: Path, mistakes: list[str]) -> None:
    if mistakes:
        raise ParametersError("\n".join([f"{path}: {counted(len(mistakes), 'mistake')}", *mistakes]))
