"""The parameters of a night: one strict model, and the one place that reads YAML."""

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sla1tools.errors import ParametersError
from sla1tools.places import expanded, from_working_folder, missing, working_folder
from sla1tools.text import is_text, printable, read_regular

MOST_SIDE, MOST_PIXELS = 32768, 2**28  # of a frame: half again as many as the largest sensor
MOST_YAML = 2**20  # bytes
LONGEST_BIAS = 0.01  # seconds
Excludable = Literal["telegraph", "noisy", "hot", "known", "metadata", "zero_variance"]
COLDEST, WARMEST = -274.0, 200.0  # degrees Celsius of any chip
PATH_KEYS = ("sessions_directory", "known_pixels", "psf")
NIGHT_KEYS = ("sessions_directory", "capture_date", "capture_time", "object_name")


class Published(BaseModel):
    """Figures of the camera as somebody published them, to stand beside the measured ones; None where not given.

    `read_noise` in electrons, `dark_current` in electrons per pixel and second at `temperature` (degrees Celsius),
    `gain` in electrons per ADU.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    read_noise: float | None = Field(default=None, ge=0, le=1e6)
    dark_current: float | None = Field(default=None, ge=0, le=1e9)
    temperature: float | None = Field(default=None, ge=-273.15, le=200)
    gain: float | None = Field(default=None, gt=0, le=1e6)
    source: str | None = Field(default=None, max_length=200)


class Parameters(BaseModel):
    """Everything that decides what a night's numbers are.

    The names are the observers' own; `params/qhy42pro.yaml` gives each key's unit and meaning. Relative paths mean:
    from the working folder. The defaults name the demo night.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    sessions_directory: str = "outputs/demo_sessions"
    capture_date: str = "2024-05-08"
    capture_time: str = "03_38_48"
    object_name: str = "Dark30s"
    file_pattern: str = "*.fit*"
    part: tuple[float, float, float] | None = None
    frame_shape: tuple[int, int] = (2048, 2048)
    dark_exposure: float = Field(default=30.0, ge=0, le=1e6)
    exposure_tolerance: float = Field(default=0.005, ge=0, lt=1)
    temperature_tolerance: float = Field(default=1.5, gt=0, le=1000)
    filter_name: str | None = None
    scale_due_to_padding: float = Field(default=16.0, ge=1e-3, le=65536)
    scale_due_to_gain: float = Field(default=1.39, ge=1e-6, le=1e6)
    top_code: int = Field(default=65535, ge=1, le=65535)
    level_correction: bool = False
    known_pixels: str | None = None
    combination_method: Literal["median", "average"] = "median"
    reference: Literal["leave_one_out", "all"] = "leave_one_out"
    threshold: float = Field(default=200.0, ge=1e-3, le=1e9)
    ratio: float = Field(default=0.3, ge=0, le=1)
    neighbors: Literal[4, 8] = 4
    criterion: Literal["neighbor_ratio", "psf_chi2"] = "neighbor_ratio"  # the names in candidates/criteria.py
    pixel_scale: float = Field(default=1.5, ge=1e-6, le=1e6)
    pixel_size: float = Field(default=11.0, ge=0.01, le=1000)
    seeing_fwhm: float = Field(default=3.0, ge=1e-6, le=1e6)
    psf: str | None = None
    psf_size_error: float | None = Field(default=None, ge=0, le=1)
    psf_shape_error: float | None = Field(default=None, ge=0, le=1)
    psf_light_error: float | None = Field(default=None, ge=0, le=1)
    snr_min: float = Field(default=6.0, ge=1e-3, le=1e6)
    p_min: float = Field(default=0.001, ge=0, lt=1)
    excluded_classes: tuple[Excludable, ...] = Field(default=(), max_length=6)
    injections: int = Field(default=20000, ge=0, le=1_000_000)
    injection_flux_range: tuple[float, float] = (300.0, 15000.0)
    random_seed: int = Field(default=20240508, ge=0, lt=2**63)
    published: Published | None = None
    zero_point: float | None = Field(default=None, ge=-100, le=100)
    night_hours: float = Field(default=8.0, ge=0.01, le=24)
    vet_level: float = Field(default=0.05, ge=1e-9, le=1)
    false_alarm_budget: float = Field(default=0.5, ge=1e-9, le=1e9)
    interactive: bool = True
    products_directory: str | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _text_or_tuple(cls, value):
        if isinstance(value, str) and not is_text(value):
            raise ValueError(f"is not valid UTF-8: {printable(value)}")
        # YAML and papermill know lists only; strict mode would refuse them.
        return tuple(value) if isinstance(value, list) else value

    @field_validator("injection_flux_range", mode="after")
    @classmethod
    def _rising_flux_range(cls, value):
        if not 1e-3 <= value[0] < value[1] <= 1e9:
            raise ValueError(
                f"must be [low, high] with 0.001 <= low < high <= 1e9, in electrons; got [{value[0]:g}, {value[1]:g}]"
            )
        return value

    @field_validator("part", mode="after")
    @classmethod
    def _state_of_a_part(cls, value):
        if value and not (0 <= value[0] <= 1e6 and COLDEST <= value[1] <= value[2] <= WARMEST):
            raise ValueError(
                f"must be [exposure, coldest, warmest], from 0 to 1e6 s and from {COLDEST:g} to {WARMEST:g} C; "
                f"got {_shortened(list(value))}"
            )
        return value

    @field_validator("frame_shape", mode="after")
    @classmethod
    def _positive_shape(cls, value):
        if not 1 <= min(value) <= max(value) <= MOST_SIDE or value[0] * value[1] > MOST_PIXELS:
            raise ValueError(
                f"must be [rows, columns], each from 1 to {MOST_SIDE}, together at most {MOST_PIXELS} pixels; "
                f"got {_shortened(list(value))}"
            )
        return value

    @field_validator("capture_date", "capture_time", "object_name", mode="after")
    @classmethod
    def _one_folder_name(cls, value):
        if not value or value.startswith(".") or re.search(r"[/\\\x00-\x1f\x7f]", value):
            raise ValueError(f"must name one folder, not hidden, without slashes or control characters; got {value!r}")
        return value

    @field_validator(*PATH_KEYS, mode="after")
    @classmethod
    def _path(cls, value):
        if value is not None and (not value or re.search(r"[\x00-\x1f\x7f]", value)):
            hint = "; in double quotes \\t is a tab: write paths with / or in 'single quotes'"
            raise ValueError(f"must be a path; got {value!r}{hint if value else ''}")
        if value is not None:
            from_working_folder(value)
        return value

    @field_validator("file_pattern", mode="after")
    @classmethod
    def _pattern_of_names(cls, value):
        if not value or "/" in value or "\\" in value:
            raise ValueError(f"must be a pattern of file names such as *.fit*; got {value!r}")
        return value

    @model_validator(mode="after")
    def _psf_fits_the_stamp(self):
        if not 0.5 <= self.fwhm <= 5.0:
            raise ValueError(
                f"seeing_fwhm / pixel_scale = {self.fwhm:.3g} px: a 5x5 stamp can judge stars of 0.5 to 5 px FWHM"
            )
        return self

    @property
    def scale(self) -> float:
        """Electrons per raw count."""
        return self.scale_due_to_gain / self.scale_due_to_padding

    @property
    def frames_per_night(self) -> int | None:
        """Frames that a night of science takes, one exposure after the other; None for biases."""
        return frames_per_night(self.night_hours, self.dark_exposure)

    @property
    def fwhm(self) -> float:
        """Full width at half maximum of a star, in pixels."""
        return self.seeing_fwhm / self.pixel_scale

    @property
    def capture_directory(self) -> Path:
        """The folder with the night's files."""
        return from_working_folder(self.sessions_directory) / self.capture_date / self.capture_time / self.object_name

    @classmethod
    def from_namespace(cls, namespace: Mapping[str, Any]) -> "Parameters":
        """Collect and validate the parameters among a notebook's globals.

        Raises
        ------
        ParametersError
            Where a value is of the wrong type or out of range.
        """
        return validate({name: namespace[name] for name in cls.model_fields if name in namespace}, "notebook")


def frames_per_night(hours: float, exposure: float) -> int | None:
    """Exposures of so many seconds in so many hours, one after the other.

    None below 0.01 s: those are biases, of which reading out, not exposing, fills a night.

    >>> frames_per_night(8.0, 30.0), frames_per_night(8.0, 0.000114), frames_per_night(8.0, 0.0)
    (960, None, None)
    """
    return None if exposure < LONGEST_BIAS else round(hours * 3600 / exposure)


def require_capture(parameters: Parameters) -> None:
    """Refuse a capture folder that is not there: a mistyped name is no failed night.

    Raises
    ------
    ParametersError
        Naming the wrong part of its path.
    """
    if not os.path.lexists(parameters.capture_directory):
        raise ParametersError(f"{parameters.capture_directory}: {missing(parameters.capture_directory)}")


class _StrictLoader(yaml.SafeLoader):
    """YAML without surprises: no duplicate keys, tags or aliases; text that YAML 1.1 takes for a number is refused."""

    def __init__(self, text: str):
        super().__init__(text)
        self.mistakes: dict[str, str] = {}

    def compose_node(self, parent, index):
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor or event.tag is not None:
            key = f"{index.value}: " if isinstance(index, yaml.ScalarNode) else ""
            line = event.start_mark.line + 1
            raise ParametersError(f"{key}line {line}: tags (!), anchors (&) and aliases (*) are not used")
        return super().compose_node(parent, index)


_PLAIN = re.compile(
    r"true|false|[-+]?(0|[1-9][0-9]*)|[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|nan)", re.IGNORECASE
)


def _only_plain(loader, node):
    """Read a number or a truth that every reader reads alike: not 03_37_47, 010, 1:30, 2024-05-08, 1_000 or yes."""
    if not _PLAIN.fullmatch(node.value):
        kind = node.tag.rsplit(":", 1)[-1]
        raise ParametersError(
            f"line {node.start_mark.line + 1}: {node.value} unquoted is not text to YAML but a kind of {kind}; "
            f'write true or false or a plain number, or quote the text: "{node.value}"'
        )
    return yaml.SafeLoader.yaml_constructors[node.tag](loader, node)


def _strict_mapping(loader, node):
    """Read a mapping; what is wrong with single keys is kept in `loader.mistakes`, so that all can be told at once."""
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = key_node.value
        where = f"line {key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
            raise ParametersError(f"{where}: every key must be a plain name")
        if key in mapping:
            loader.mistakes[key] = f"{where}: {key} is given twice"
        try:
            mapping[key] = loader.construct_object(value_node, deep=True)
        except ParametersError as error:
            loader.mistakes[key] = f"{key}: {error}"
    return mapping


for _kind in ("int", "float", "bool", "timestamp"):
    _StrictLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _only_plain)
_StrictLoader.add_constructor("tag:yaml.org,2002:map", _strict_mapping)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read one parameters file; unknown keys are refused, values are not validated yet.

    Raises
    ------
    ParametersError
        Naming the file, and the line or key, where it cannot be read, is not YAML, repeats a key, uses a tag, or
        holds unquoted text that YAML would turn into something else.
    """
    values, mistakes = _load(Path(path))
    mistakes |= _unknown(values)
    if mistakes:
        raise ParametersError("\n".join(f"{path}: {mistake}" for mistake in mistakes.values()))
    return values


def _load(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read one file: its values, and by key what is wrong with others."""
    try:
        loader = _StrictLoader(read_regular(path, MOST_YAML).decode("utf-8"))
        values = loader.get_single_data()
    except FileNotFoundError:
        raise ParametersError(f"{path}: {missing(path)}") from None
    except OSError as error:
        raise ParametersError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ParametersError(f"{path}: is not a text file; a parameters file is YAML") from None
    except ParametersError as error:
        raise ParametersError(f"{path}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        parts = [getattr(error, name, None) for name in ("context", "problem")]
        problem = ", ".join(filter(None, parts)) or " ".join(str(error).split())
        if "escape" in problem:
            problem += "; in double quotes a backslash is no plain letter: write paths with / or in 'single quotes'"
        raise ParametersError(f"{path}: is not plain YAML: {where}{problem}") from None
    if not isinstance(values, dict):
        found = "empty" if values is None else f"a {type(values).__name__}"
        raise ParametersError(f"{path}: must hold lines 'key: value', but is {found}")
    return values, loader.mistakes


def _unknown(values: Iterable[str]) -> dict[str, str]:
    """Say of each key that is no parameter which one is nearest."""
    fields = Parameters.model_fields
    unknown = {key: difflib.get_close_matches(key, fields, n=1, cutoff=0.0)[0] for key in values if key not in fields}
    return {key: f"{key}: there is no such parameter; did you mean {near}?" for key, near in unknown.items()}


def _explain(error: ValidationError, values: Mapping[str, Any], source_of: Mapping[str, str], source: str) -> str:
    lines = []
    for item in error.errors():
        key = str(item["loc"][0]) if item["loc"] else ""
        message = item["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list, as [1, 2]")
        sources = {source_of[name]: None for name in source_of if name == key or (not key and name in message)}
        within = ".".join(part for part in (key, *item["loc"][1:]) if isinstance(part, str))
        where = ": ".join(part for part in (", ".join(sources) or source, within) if part)
        if key and item["type"] != "value_error":
            message += f"; got {_shortened(values.get(key))}"
        if item["type"] in ("float_type", "int_type") and _looks_like_a_number(values.get(key)):
            message += f", which is text; write {float(values[key])!r}"
        if key == "capture_time" and isinstance(values.get(key), int):
            message += '. Quote it, as in capture_time: "03_37_47": unquoted, it is read as an integer'
        if key == "capture_date" and not isinstance(values.get(key), str):
            message += '. Quote it, as in capture_date: "2024-05-08"'
        lines.append(f"{where}: {message}")
    return "\n".join(lines)


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _looks_like_a_number(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?", value) is not None


def validate(values: Mapping[str, Any], source: str, source_of: Mapping[str, str] | None = None) -> Parameters:
    """Make `Parameters` of plain values.

    Parameters
    ----------
    values : mapping
        Parameter names and values.
    source : str
        Where they came from, for messages.
    source_of : mapping, optional
        The source of single keys, where layers came from different files.

    Raises
    ------
    ParametersError
        A line for every wrong value: source, key, what is wrong.
    """
    if unknown := _unknown(values):
        raise ParametersError("\n".join(f"{source}: {mistake}" for mistake in unknown.values()))
    try:
        return Parameters(**values)
    except ValidationError as error:
        raise ParametersError(_explain(error, values, source_of or {}, source)) from None


def named_by(folder: str | Path) -> dict[str, str]:
    """Read the four keys that name a night off its capture folder: .../capture_date/capture_time/object_name.

    Raises
    ------
    ParametersError
        Where the path has fewer than four parts.
    """
    path = Path(os.path.abspath(folder))
    if len(path.parts) < 5:
        raise ParametersError(f"{folder}: a capture folder lies three folders deep, as in DATE/TIME/OBJECT")
    return dict(zip(NIGHT_KEYS, (str(path.parents[2]), *path.parts[-3:]), strict=True))


def read_parameters(files: Iterable[str | Path], overrides: Iterable[tuple[str, str]] = ()) -> Parameters:
    """Layer parameter files left to right, with `-p KEY VALUE` over all, as papermill layers `-f` and `-p`.

    Parameters
    ----------
    files : iterable of path
        YAML files, or a capture folder, whose last three parts name the night; a later value replaces an earlier one.
        A relative path is looked up from the current directory.
    overrides : iterable of (key, text)
        The text is read as a YAML value; text that YAML cannot keep (03_38_48) stays text where the key holds text.

    Raises
    ------
    ParametersError
        A line for every mistake in all of them.

        Also where the four keys that name a night are missing: the defaults name the demo night, and a command that
        forgot its night must not quietly run the demo.
    """
    values: dict[str, Any] = {}
    source_of: dict[str, str] = {}
    told: list[str] = []
    unread = False
    for path in map(expanded, files):
        try:
            layer, mistakes = (named_by(path), {}) if path.is_dir() else _load(path)
        except ParametersError as error:
            told.append(str(error))
            unread = True
            continue
        mistakes |= _unknown(layer)
        told += [f"{path}: {mistake}" for mistake in mistakes.values()]
        values |= {key: value for key, value in layer.items() if key not in mistakes}
        source_of |= dict.fromkeys([*layer, *mistakes], str(path))
    for key, text in overrides:
        try:
            values[key] = _value_of(key, text)
        except ParametersError as error:
            told.append(f"-p: {error}")
        source_of[key] = "-p"
    nameless = [key for key in NIGHT_KEYS if key not in source_of]
    if nameless and not unread:  # they may stand in the file that could not be read
        told.append(
            f"{', '.join(nameless)}: missing; name the night in a parameters file, as params/2024-05-08.yaml does"
        )
    try:
        parameters = validate(values, "parameters", source_of)
    except ParametersError as error:
        told.append(str(error))
    if told:
        raise ParametersError("\n".join(told))
    return parameters


def _value_of(key: str, text: str) -> Any:
    if unknown := _unknown([key]):
        raise ParametersError(unknown[key])
    field = Parameters.model_fields[key]
    if field.annotation in (str, str | None) and text != "null":
        return text
    try:
        return yaml.load(text, _StrictLoader)
    except (ParametersError, yaml.YAMLError, ValueError, RecursionError):
        raise ParametersError(f"{key}: cannot read {text[:60]!r} as a value") from None


def to_yaml(parameters: Parameters, keys: Iterable[str] | None = None) -> str:
    """Write parameters (all, or only some keys) as a file that `sla1 run` and `papermill -f` take.

    Texts are quoted, so that no YAML reader turns a time or date into a number.
    """
    values = parameters.model_dump(mode="json", include=None if keys is None else set(keys))
    return "".join(f"{key}: {_scalar(value)}\n" for key, value in values.items())


def _scalar(value: Any) -> str:
    style = '"' if isinstance(value, str) else None
    text = yaml.safe_dump(value, default_flow_style=True, default_style=style, width=10**6, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def save_parameters(parameters: Parameters, name: str, keys: Iterable[str] | None = None, head: str = "") -> Path:
    """Write a setting into `params/` as a file that `sla1 run` and `papermill -f` take.

    Parameters
    ----------
    parameters : Parameters
        What to write.
    name : str
        File name; `.yaml` is added where it is missing.
    keys : iterable of str, optional
        Write only these; a file of a few keys can be layered over others.
    head : str
        First line, a comment. A file that begins with it is replaced.

    Raises
    ------
    ParametersError
        If the name is not a plain file name, or the file exists and is not to be replaced.
    """
    name = name.strip()
    if not name or name.startswith(".") or Path(name).name != name or "\\" in name or not name.isprintable():
        raise ParametersError(f"{name!r} is not a plain file name")
    path = working_folder() / "params" / (name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
    try:
        path.parent.mkdir(exist_ok=True)
        replaced = bool(head) and path.is_file() and path.read_text(encoding="utf-8").startswith(head)
        with path.open("w" if replaced else "x", encoding="utf-8") as file:
            file.write(head + to_yaml(parameters.model_copy(update={"products_directory": None}), keys=keys))
    except FileExistsError:
        raise ParametersError(f"{path.name} is there already; choose another name") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ParametersError(f"{path.name} cannot be written: {getattr(error, 'strerror', error)}") from None
    return path
