"""What an outputs folder holds: the names in it, what is read back of a night, how a run hands it over.

Nothing in a folder that others may write to is run or believed: files are read as plain JSON, arrays and cards, through
a model of what they may say.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from sla1tools.errors import ParametersError
from sla1tools.parameters import COLDEST, PATH_KEYS, Parameters
from sla1tools.published.formats import sha256_of
from sla1tools.text import is_text, json_text, read_regular

MARK = ".sla1-outputs"
STAGING, ASIDE, FAILED, LOCKS, LOGS, TRENDS = ".staging", ".aside", ".failed", ".locks", ".logs", ".trends"
CACHE = ".cache"
KEPT = "kept"  # the user's own files of nights that were forgotten
FOLDERS = (STAGING, ASIDE, FAILED, LOCKS, LOGS, TRENDS, CACHE)
SEASON = "season.json"
TELEGRAPH = "telegraph.ecsv"
CANDIDATES_PAGE = "candidates.html"
PAGES = ("index.html", "known_pixels.fits", "dark_current.fits", CANDIDATES_PAGE, SEASON, TELEGRAPH)
MANIFEST = "manifest.json"
MARK_TEXT = (
    "sla1 made the hidden folders beside this file, and deletes in them what it made. Without this file it refuses.\n"
)

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

    @field_validator("parameters")
    @classmethod
    def _values_of_parameters(cls, values):
        """Refuse what no parameter can be; names of another version and paths of another machine may be anything."""
        ours = (values.keys() & Parameters.model_fields) - {*PATH_KEYS}
        Parameters.model_validate({key: values[key] for key in ours})
        return values


class Limits(_Read):
    """A value with its interval; None where not tested.

    `known` are listed pixels (x, y) that made candidates, or would have, were they not listed.
    """

    rate: Finite | None = None
    flux: Finite | None = None
    low: Finite | None = None
    high: Finite | None = None
    gaussian_expectation: Finite | None = None
    known: list[tuple[Count, Count]] | None = None


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


def read_manifest(directory: Path) -> Manifest | None:
    """Read a folder's manifest; None where there is none, or none of ours."""
    return read_json(directory / MANIFEST, Manifest)


Model = TypeVar("Model", bound=BaseModel)


def read_json(path: Path, model: type[Model]) -> Model | None:
    """Read a file of JSON as a model; None where it is not there, not a regular file, or does not fit."""
    try:
        return model.model_validate_json(read_regular(path))
    except (OSError, ValueError):  # pydantic's own errors are ValueErrors
        return None


def write_whole(outputs: Path, name: str, write: Callable[[Path], Any]) -> None:
    """Write a file of the outputs folder by `write(path)` in `TRENDS`, and move it to its place, on the disk too."""
    unfinished, target = outputs / TRENDS / f"{Path(name).name}.part", outputs / name
    write(unfinished)
    with open(unfinished, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(unfinished, target)
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

    A part of a capture folder adds its exposure, and its temperature where that sets it apart: ``Dark30s_30s_-15C``.
    """
    name = parameters.object_name
    if parameters.part:
        exposure, coldest, warmest = parameters.part
        name += f"_{exposure:g}s" + (f"_{(coldest + warmest) / 2:.0f}C" if coldest > COLDEST else "")
    return Path(parameters.capture_date, parameters.capture_time, name)


def take_outputs(outputs: Path) -> None:
    """Make sure that a folder is ours to write in: made where missing, marked where it is new, empty, or of old.

    Raises
    ------
    ParametersError
        If it cannot be written, if one of our names in it is a link or of another kind, or if something has our names
        though there is neither our mark nor a night with our manifest.
    """
    if not is_text(str(outputs)):
        raise ParametersError(f"{outputs}: is not valid UTF-8: name another outputs folder")
    mark, cure = outputs / MARK, "move it away, or name another outputs folder"
    with using(outputs):
        make_folders(outputs)
        for path in (mark, *(outputs / name for name in (*FOLDERS, KEPT))):
            right = path.is_file() if path == mark else path.is_dir()
            if os.path.lexists(path) and (path.is_symlink() or not right):
                raise ParametersError(f"{path}: is not what sla1 made; {cure}")
        if mark.exists():
            return
        strange = next((name for name in (*FOLDERS, *PAGES) if os.path.lexists(outputs / name)), None)
        # asked again: another command may have marked the folder since
        if strange and not holds_outputs(outputs):
            raise ParametersError(f"{outputs}: holds a {strange} that sla1 did not make; {cure}")
        mark.write_text(MARK_TEXT, encoding="utf-8")


@contextmanager
def using(outputs: Path) -> Iterator[None]:
    """Raise `ParametersError` where the disk refuses something in an outputs folder."""
    try:
        yield
    except OSError as error:
        raise ParametersError(f"{outputs}: cannot be used for outputs: {error.strerror or error}") from None


def holds_outputs(outputs: Path) -> bool:
    """Whether a folder has our mark, or a night of ours from before there was one."""
    roots = (outputs, outputs / FAILED, outputs / ASIDE)
    nights = (path.parent for root in roots for path in root.glob(f"*/*/*/{MANIFEST}"))
    return (outputs / MARK).exists() or any(map(read_manifest, nights))


def make_folders(path: Path) -> None:
    """Make a folder and those above it, and bring their names to the disk."""
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in new:
        sync_folder(folder.parent)
