"""What an outputs folder holds: the names in it, and what is read back of a night.

Nothing in a folder that others may write to is run or believed: files are read as plain JSON, arrays and cards, through
a model of what they may say.
"""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from sla1tools.parameters import COLDEST, PATH_KEYS, Parameters
from sla1tools.published.formats import sha256_of
from sla1tools.text import json_text, read_regular

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
    camera: str | None = None
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

    criterion: str = ""
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


def night_path(parameters: Parameters) -> Path:
    """Return a night's folder relative to the outputs folder: capture_date/capture_time/object_name.

    A part of a capture folder adds its exposure, and its temperature where that sets it apart: ``Dark30s_30s_-15C``.
    """
    name = parameters.object_name
    if parameters.part:
        exposure, coldest, warmest = parameters.part
        name += f"_{exposure:g}s" + (f"_{(coldest + warmest) / 2:.0f}C" if coldest > COLDEST else "")
    return Path(parameters.capture_date, parameters.capture_time, name)
