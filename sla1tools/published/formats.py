"""Plain arrays, tables and dataclasses in files: what a run hands over, what a cache keeps, what a night opens from.

Nothing that is read is run: no file names a type, and no object is unpickled.
"""

import hashlib
import json
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, get_args, get_type_hints

import numpy as np
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Table
from pydantic import BaseModel, TypeAdapter

from sla1tools.errors import NightError
from sla1tools.text import open_regular, plain, read_regular

Record = TypeVar("Record")
INDEX = "index.json"
MAPPED = 2**20  # bytes from which an array is mapped into memory, which the kernels of a run then share


def store(value: Any, folder: Path) -> None:
    """Write a measured night as plain arrays and one index, in a new folder that only its owner may enter.

    Parameters
    ----------
    value : dataclass
        Its fields, and theirs, are dataclasses, arrays, tables, pydantic models or what JSON knows.
    folder : Path
        Must not exist. Its name is stored, too: a folder under another name is not taken for this one.
    """
    arrays: list[np.ndarray] = []
    tree = _packed(value, arrays)
    folder.mkdir(mode=0o700)
    digests = [_saved(folder / f"{number}.npy", array) for number, array in enumerate(arrays)]
    index = {"name": folder.name, "sha256": digests, "value": tree}
    (folder / INDEX).write_text(json.dumps(index, default=plain), encoding="utf-8")


GALLERY = "gallery.npz"  # candidates of every criterion with their stamps, for the season's gallery
STAMPS = "stamps.npz"  # of every leader, and of those near injected stars
ARCHIVE = "night.npz"  # what else a published night is opened from, beside its FITS files
MOST_ARCHIVED = 2**31  # bytes, unpacked
DAMAGE: tuple[type[Exception], ...] = (
    *(OSError, LookupError, ValueError, TypeError, AttributeError, RecursionError, MemoryError, EOFError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, fits.VerifyError),
)


def write_archive(value: Any, path: Path) -> None:
    """Write a dataclass, as `store` takes it, as plain arrays and one index in one zip file."""
    arrays: list[np.ndarray] = []
    index = json.dumps(_packed(value, arrays), default=plain)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number, array in enumerate([np.frombuffer(index.encode(), np.uint8), *arrays]):
            with archive.open(f"{number}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def read_archive(kind: type[Record], path: Path) -> Record:
    """Read what `write_archive` wrote; one of `DAMAGE` where it is anything else. Nothing in it is run."""
    with open_regular(path) as file, np.load(file, allow_pickle=False) as archive:
        if sum(member.file_size for member in archive.zip.infolist()) > MOST_ARCHIVED:
            raise ValueError(f"{path.name} unpacks to more than any night")
        index, *arrays = [archive[str(number)] for number in range(len(archive.files))]
    return _unpacked(kind, json.loads(index.tobytes()), arrays)


def read_table(path: Path, names: Iterable[str]) -> Table:
    """Read some columns of a FITS file's first table: texts, bool, int32 or float64, with units; masked where TNULL."""
    table = Table()
    with open_regular(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may say anything
        with fits.open(file, memmap=False) as hdus:
            raw = hdus[1].data.view(np.recarray)  # its texts are bytes, which numpy decodes at once
            for column in (hdus[1].columns[name] for name in names):
                text = raw.dtype[column.name].kind == "S"
                values = np.asarray((raw if text else hdus[1].data)[column.name])
                kind = {"i": np.int32, "f": np.float64, "b": bool}.get(values.dtype.kind, str)
                plain = Column(values.astype(kind), unit=column.unit)
                masked = column.null is not None
                table[column.name] = MaskedColumn(plain, mask=values == column.null) if masked else plain
    return table


@dataclass(frozen=True)
class Stamps:
    """Stamps of the rows of `leaders.fits`, and of the leaders near injected stars, (n, 5, 5) each, as `to_half`."""

    leaders: np.ndarray
    near_stars: np.ndarray


def to_half(stamps: np.ndarray, noise: float) -> np.ndarray:
    """Write stamps in units of the noise, to a 16th of it, as float16: a quarter of the bytes once they are packed."""
    scaled = stamps * np.float32(16 / noise)
    np.rint(scaled, out=scaled)
    scaled /= 16
    return np.clip(scaled, -65504, 65504, out=scaled).astype(np.float16)


def from_half(halves: np.ndarray, noise: float) -> np.ndarray:
    """Stamps in electrons, float32, as `to_half` kept them; the same again however often they are kept."""
    return halves.astype(np.float32) * np.float32(noise)


def _saved(path: Path, array: np.ndarray) -> str:
    """Write an array, and return the file's SHA-256."""
    digest = hashlib.sha256()
    with open(path, "wb") as file:

        def write(part: bytes) -> None:
            digest.update(part)
            file.write(part)

        # To a file of Python's, numpy writes by itself, and would not say why a disk refuses.
        np.lib.format.write_array(SimpleNamespace(write=write), array, allow_pickle=False)
    return digest.hexdigest()


def stored(kind: type[Record], folder: Path) -> Record:
    """Read what `store` wrote: the same numbers; large arrays are read-only, mapped from the files.

    Raises
    ------
    NightError
        If the folder holds something else than was written there. Nothing in it is run, whatever it holds.
    """
    try:
        index = json.loads(read_regular(folder / INDEX))
        if index["name"] != folder.name:
            raise ValueError("it was written under another name")
        arrays = [_array(folder / f"{number}.npy", sha256) for number, sha256 in enumerate(index["sha256"])]
        return _unpacked(kind, index["value"], arrays)
    except DAMAGE as error:
        raise NightError(f"{folder}: is not as a run left it: {error}") from None


def _array(path: Path, sha256: str) -> np.ndarray:
    if sha256_of(path) != sha256:
        raise ValueError(f"{path.name} was changed")
    mapped = path.stat().st_size >= MAPPED
    return np.asarray(np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False))


def _packed(value: Any, arrays: list[np.ndarray]) -> Any:
    """Replace arrays by their numbers, and all else by what JSON knows."""
    if isinstance(value, Table):
        return [
            [column.name, column.unit and str(column.unit)]
            + [_packed(part, arrays) for part in (np.ma.getdata(column), getattr(column, "mask", None))]
            for column in value.itercols()
        ]
    if isinstance(value, np.ndarray):
        arrays.append(np.asarray(value))
        return len(arrays) - 1
    if is_dataclass(value):
        return {field.name: _packed(getattr(value, field.name), arrays) for field in fields(value)}
    if isinstance(value, dict):
        return {name: _packed(item, arrays) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_packed(item, arrays) for item in value]
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _unpacked(kind: Any, tree: Any, arrays: list[np.ndarray]) -> Any:
    """Put together what the type says; nothing in the files names a type."""
    inner = get_args(kind)
    if type(None) in inner:
        return None if tree is None else _unpacked(inner[0], tree, arrays)
    if kind is np.ndarray:
        return arrays[tree]
    if kind is Table:
        columns = [
            Column(arrays[data], name, unit=unit)
            if mask is None
            else MaskedColumn(arrays[data], name, arrays[mask], unit=unit)
            for name, unit, data, mask in tree
        ]
        return Table(columns, copy=False)
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{field.name: _unpacked(hints[field.name], tree[field.name], arrays) for field in fields(kind)})
    if inner and is_dataclass(inner[0]):
        return tuple(_unpacked(inner[0], item, arrays) for item in tree)
    return _adapter(kind).validate_python(tree)


_adapter = cache(TypeAdapter)


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 as hexadecimal text."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
