"""What an outputs folder holds: the names in it, what is read back of a night, how a run hands it over.

Nothing in a folder that others may write to is run or believed: files are read as plain JSON, arrays and cards, through
a model of what they may say.
"""

import hashlib
import io
import json
import os
import warnings
import zipfile
import zlib
from dataclasses import fields, is_dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import numpy as np
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Table
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from sla1tools.errors import NightError
from sla1tools.parameters import COLDEST, Parameters
from sla1tools.text import json_text, open_regular, read_regular

MARK = ".sla1-outputs"
STAGING, ASIDE, FAILED, LOCKS, LOGS, TRENDS = ".staging", ".aside", ".failed", ".locks", ".logs", ".trends"
KEPT = "kept"  # the user's own files of nights that were forgotten
FOLDERS = (STAGING, ASIDE, FAILED, LOCKS, LOGS, TRENDS, ".cache")
SEASON = "season.json"
TELEGRAPH = "telegraph.ecsv"
PAGES = ("index.html", "known_pixels.fits", "dark_current.fits", SEASON, TELEGRAPH)
MANIFEST = "manifest.json"

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Input(_Read):
    """A file of the capture folder, as the manifest lists it."""

    name: str
    verdict: str
    sha256: str | None = None


Finite = Annotated[float, Field(ge=-1e12, le=1e12)]  # no number of a night is larger
Count = Annotated[int, Field(ge=0, le=10**12)]


class StarImage(_Read):
    """Width of the star's image in pixels, and its relative 1-sigma error."""

    fwhm: Annotated[float, Field(gt=0, le=100)]
    size_error: Annotated[float, Field(ge=0, le=1)]


class Manifest(_Read):
    """What is read back of `manifest.json`; only `outputs` is in every one of ours."""

    outputs: dict[str, Sha256]
    verdict: str = "failed"
    reasons: list[str] = []
    parameters: dict[str, Any] = {}
    inputs: list[Input] = []
    psf_sha256: str | None = None
    star: StarImage | None = None
    versions: dict[str, str | None] = {}
    notebooks: bool = True
    end: str = ""
    exit_status: int | None = None


class EveryPixel(_Read):
    """What `excluded_classes` left out: known pixels (x, y) that would have made candidates."""

    known: list[tuple[Count, Count]] = []


class Limits(_Read):
    """A value with its interval; None where not tested."""

    rate: Finite | None = None
    flux: Finite | None = None
    low: Finite | None = None
    high: Finite | None = None
    gaussian_expectation: Finite | None = None
    every_pixel: EveryPixel = EveryPixel()


class Completeness(_Read):
    """Of one criterion, as far as nights are compared by it."""

    flux_50: Limits = Limits()


class OperatingPoint(_Read):
    """The recommended cuts of one criterion."""

    cuts: dict[str, Finite] = {}


class Dark(_Read):
    """The level and the noise of a night."""

    level: Finite | None = None
    noise: Finite | None = None
    gain_measured: Finite | None = None


class Frames(_Read):
    """Names of the used frames."""

    used: list[str] = []


class Candidates(_Read):
    """Of one criterion, with the configured reference."""

    per_frame: list[Count] = []


class Summary(_Read):
    """What is read back of `summary.json`; what an older version did not write is not tested."""

    frames: Frames = Frames()
    dark: Dark = Dark()
    pixels: dict[str, Count] = {}
    candidates: dict[str, Candidates] = {}
    false_alarms_per_frame: dict[str, Limits] = {}
    completeness: dict[str, Completeness] = {}
    operating_point: dict[str, OperatingPoint | None] = {}


class SeasonCriterion(_Read):
    """The setting that the season recommends, or why it recommends none."""

    operating_point: OperatingPoint | None = None
    lacking: str = ""


class SeasonFile(_Read):
    """What is read back of `season.json`."""

    comparable: dict[str, str] = {}
    criterion: str = ""
    criteria: dict[str, SeasonCriterion] = {}


class MasterCards(_Read):
    """Cards of `master_dark.fits` by which nights are put in order and compared."""

    when: Annotated[datetime, Field(ge=datetime(1980, 1, 1), le=datetime(2200, 1, 1))] | None = Field(
        None, alias="DATE-BEG"
    )
    instrument: Annotated[str, Field(max_length=68)] = Field("", alias="INSTRUME")
    temperature: Annotated[float, Field(ge=-274, le=200)] | None = Field(None, alias="CCD-TEMP")
    gain: Finite | None = Field(None, alias="GAIN")
    offset: Finite | None = Field(None, alias="OFFSET")


def write_manifest(directory: Path, manifest: dict[str, Any]) -> None:
    """Write `manifest.json` with the SHA-256 of every other file in the folder, as its last file."""
    files = sorted(path for path in directory.iterdir() if path.is_file() and path.name != MANIFEST)
    outputs = {path.name: sha256_of(path) for path in files}
    (directory / MANIFEST).write_text(json_text({**manifest, "outputs": outputs}), encoding="utf-8")


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 as hexadecimal text."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(directory: Path) -> Manifest | None:
    """Read a folder's manifest; None where there is none, or none of ours."""
    return read_json(directory / MANIFEST, Manifest)


Model = TypeVar("Model", bound=BaseModel)
Record = TypeVar("Record")


def read_json(path: Path, model: type[Model]) -> Model | None:
    """Read a file of JSON as a model; None where it is not there, not a regular file, or does not fit."""
    try:
        return model.model_validate_json(read_regular(path))
    except (OSError, ValueError):  # pydantic's own errors are ValueErrors
        return None


def replace_file(source: Path, target: Path) -> None:
    """Put a finished file in the place of another, on the disk too."""
    with open(source, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(source, target)
    sync_folder(target.parent)


def sync_folder(directory: Path) -> None:
    """Bring a folder's names to the disk."""
    if os.name != "posix":  # elsewhere a folder cannot be opened, and a rename is journalled
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def night_path(parameters: Parameters) -> Path:
    """Return a night's folder relative to the outputs folder: capture_date/capture_time/object_name.

    A part of a capture folder adds its exposure, and its temperature where that sets it apart: Dark30s_30s_-15C.
    """
    name = parameters.object_name
    if parameters.part:
        exposure, coldest, warmest = parameters.part
        name += f"_{exposure:g}s" + (f"_{(coldest + warmest) / 2:.0f}C" if coldest > COLDEST else "")
    return Path(parameters.capture_date, parameters.capture_time, name)


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
    digests = [_save(folder / f"{number}.npy", array) for number, array in enumerate(arrays)]
    index = {"name": folder.name, "sha256": digests, "value": tree}
    (folder / INDEX).write_text(json.dumps(index, default=_json_value), encoding="utf-8")


ARCHIVE = "night.npz"  # what else a published night is opened from, beside its FITS files
MOST_ARCHIVED = 2**31  # bytes, unpacked
DAMAGE: tuple[type[Exception], ...] = (
    *(OSError, LookupError, ValueError, TypeError, AttributeError, RecursionError, MemoryError, EOFError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, fits.VerifyError),
)


def write_archive(value: Any, path: Path) -> None:
    """Write a dataclass, as `store` takes it, as plain arrays and one index in one zip file."""
    arrays: list[np.ndarray] = []
    index = json.dumps(_packed(value, arrays), default=_json_value)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number, array in enumerate([np.frombuffer(index.encode(), np.uint8), *arrays]):
            with archive.open(f"{number}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def read_archive(kind: type[Record], path: Path) -> Record:
    """Read what `write_archive` wrote; one of `DAMAGE` where it is anything else. Nothing in it is run."""
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        if sum(member.file_size for member in archive.infolist()) > MOST_ARCHIVED:
            raise ValueError(f"{path.name} unpacks to more than any night")
        members = (io.BytesIO(archive.read(f"{number}.npy")) for number in range(len(archive.infolist())))
        index, *arrays = [np.lib.format.read_array(member, allow_pickle=False) for member in members]
    return _unpacked(kind, json.loads(index.tobytes()), arrays)


def read_table(path: Path) -> Table:
    """Read the first table of a FITS file: texts, bool, int32 or float64, with units; integers masked where TNULL."""
    table = Table()
    with open_regular(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may say anything
        with fits.open(file, memmap=False) as hdus:
            for column in hdus[1].columns:
                values = np.asarray(hdus[1].data[column.name])
                kind = {"i": np.int32, "f": np.float64, "b": bool}.get(values.dtype.kind, str)
                plain = Column(values.astype(kind), unit=column.unit)
                masked = column.null is not None
                table[column.name] = MaskedColumn(plain, mask=values == column.null) if masked else plain
    return table


def to_half(stamps: np.ndarray, noise: float) -> np.ndarray:
    """Write stamps in units of the noise, to a 64th of it, as float16: a third of the bytes once they are packed."""
    return np.clip(np.rint(stamps * np.float32(64 / noise)) / 64, -65504, 65504).astype(np.float16)


def from_half(halves: np.ndarray, noise: float) -> np.ndarray:
    """Stamps in electrons, float32, as `to_half` kept them; the same again however often they are kept."""
    return halves.astype(np.float32) * np.float32(noise)


def _save(path: Path, array: np.ndarray) -> str:
    array, header = np.ascontiguousarray(array), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    digest = hashlib.sha256()
    with open(path, "wb") as file:  # numpy, writing it itself, would not say why a disk refuses
        for part in (header.getvalue(), array.reshape(-1).view(np.uint8).data):
            file.write(part)
            digest.update(part)
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
        return _unpacked(
            kind, index["value"], [_array(folder / f"{n}.npy", sha) for n, sha in enumerate(index["sha256"])]
        )
    except (OSError, LookupError, ValueError, TypeError, RecursionError) as error:
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
    if isinstance(value, tuple | list):
        return [_packed(item, arrays) for item in value]
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _json_value(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


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
