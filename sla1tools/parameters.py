"""The parameters of a night: one strict model, and the one place that reads YAML."""

import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sla1tools.errors import ParametersError, writing
from sla1tools.places import expanded, from_working_folder, missing, working_folder
from sla1tools.text import is_text, printable, read_regular

MOST_SIDE, MOST_PIXELS = 32768, 2**28  # of a frame: half again as many as the largest sensor
MOST_YAML = 2**20  # bytes
LONGEST_BIAS = 0.01  # seconds
COLDEST, WARMEST = -274.0, 200.0  # degrees Celsius of any chip
PATH_KEYS = ("sessions_directory", "known_pixels", "psf")
NIGHT_KEYS = ("sessions_directory", "capture_date", "capture_time", "object_name")


def _must(hold: Callable[[Any], Any], rule: str) -> AfterValidator:
    """Refuse values for which `hold` is false, in words: what a value must, and what it is."""

    def judged(value):
        if not hold(value):
            raise ValueError(f"must {rule}; got {list(value) if isinstance(value, tuple) else value!r}")
        return value

    return AfterValidator(judged)


def _is_path(text: str | None) -> bool:
    return text is None or bool(re.fullmatch(r"[^\x00-\x1f\x7f]+", text) and from_working_folder(text))


IsPath = _must(_is_path, "be a path; in double quotes \\t is a tab: write paths with / or in 'single quotes'")
ONE_FOLDER = re.compile(r"(?!\.)[^/\\\x00-\x1f\x7f]+")
FolderName = Annotated[
    str, _must(ONE_FOLDER.fullmatch, "name one folder, not hidden, without slashes or control characters")
]
FilePattern = Annotated[str, _must(re.compile(r"[^/\\]+").fullmatch, "be a pattern of file names such as *.fit*")]
Side = Annotated[int, Field(ge=1, le=MOST_SIDE)]
Shape = Annotated[
    tuple[Side, Side],
    _must(lambda shape: math.prod(shape) <= MOST_PIXELS, f"be [rows, columns], at most {MOST_PIXELS} pixels"),
]
Seconds = Annotated[float, Field(ge=0, le=1e6)]
Celsius = Annotated[float, Field(ge=COLDEST, le=WARMEST)]
State = Annotated[
    tuple[Seconds, Celsius, Celsius], _must(lambda part: part[1] <= part[2], "be [exposure, coldest, warmest]")
]
Flux = Annotated[float, Field(ge=1e-3, le=1e9)]  # electrons
FluxRange = Annotated[tuple[Flux, Flux], _must(lambda limits: limits[0] < limits[1], "be [low, high], low < high")]
Share = Annotated[float, Field(ge=0, le=1)]
Excludable = Literal["telegraph", "noisy", "hot", "known", "metadata", "zero_variance"]
STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Published(BaseModel):
    """Figures of the camera as somebody published them, to stand beside the measured ones; None where not given.

    `read_noise` in electrons, `dark_current` in electrons per pixel and second at `temperature` (degrees Celsius),
    `gain` in electrons per ADU.
    """

    model_config = STRICT

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

    model_config = STRICT

    sessions_directory: Annotated[str, IsPath] = "outputs/demo_sessions"
    capture_date: FolderName = "2024-05-08"
    capture_time: FolderName = "03_38_48"
    object_name: FolderName = "Dark30s"
    file_pattern: FilePattern = "*.fit*"
    part: State | None = None
    frame_shape: Shape = (2048, 2048)
    dark_exposure: Seconds = 30.0
    exposure_tolerance: float = Field(default=0.005, ge=0, lt=1)
    temperature_tolerance: float = Field(default=1.5, gt=0, le=1000)
    filter_name: str | None = None
    scale_due_to_padding: float = Field(default=16.0, ge=1e-3, le=65536)
    scale_due_to_gain: float = Field(default=1.39, ge=1e-6, le=1e6)
    top_code: int = Field(default=65535, ge=1, le=65535)
    level_correction: bool = False
    known_pixels: Annotated[str | None, IsPath] = None
    combination_method: Literal["median", "average"] = "median"
    reference: Literal["leave_one_out", "all"] = "leave_one_out"
    threshold: Flux = 200.0
    ratio: Share = 0.3
    neighbors: Literal[4, 8] = 4
    criterion: Literal["neighbor_ratio", "psf_chi2"] = "neighbor_ratio"  # the names in candidates/criteria.py
    pixel_scale: float = Field(default=1.5, ge=1e-6, le=1e6)
    pixel_size: float = Field(default=11.0, ge=0.01, le=1000)
    seeing_fwhm: float = Field(default=3.0, ge=1e-6, le=1e6)
    psf: Annotated[str | None, IsPath] = None
    psf_size_error: Share | None = None
    psf_shape_error: Share | None = None
    psf_light_error: Share | None = None
    snr_min: float = Field(default=6.0, ge=1e-3, le=1e6)
    p_min: float = Field(default=0.001, ge=0, lt=1)
    excluded_classes: tuple[Excludable, ...] = Field(default=(), max_length=6)
    injections: int = Field(default=20000, ge=0, le=1_000_000)
    injection_flux_range: FluxRange = (300.0, 15000.0)
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


_PLAIN = re.compile(
    r"true|false|[-+]?(0|[1-9][0-9]*)|[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|nan)", re.IGNORECASE
)
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?(e[-+]?[0-9]+)?", re.IGNORECASE)  # which may be text to YAML


class _StrictLoader(yaml.SafeLoader):
    """YAML without surprises: no duplicate keys, tags or aliases; text that YAML 1.1 takes for a number is refused.

    What is wrong with single keys is kept in `mistakes`, so that all can be told at once.
    """

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

    def construct_scalar(self, node):
        """Read a number or a truth that every reader reads alike: not 03_37_47, 010, 1:30, 2024-05-08 or yes."""
        kind = node.tag.rsplit(":", 1)[-1]
        if kind not in ("str", "null") and not _PLAIN.fullmatch(node.value):
            raise ParametersError(
                f"line {node.start_mark.line + 1}: {node.value} unquoted is not text to YAML but a kind of {kind}; "
                f'write true or false or a plain number, or quote the text: "{node.value}"'
            )
        return super().construct_scalar(node)

    def construct_mapping(self, node, deep=False):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, where = key_node.value, f"line {key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                raise ParametersError(f"{where}: every key must be a plain name")
            if key in mapping:
                self.mistakes[key] = f"{where}: {key} is given twice"
            try:
                mapping[key] = self.construct_object(value_node, deep=True)
            except ParametersError as error:
                self.mistakes[key] = f"{key}: {error}"
        return mapping


Layer = tuple[dict[str, Any], dict[str, str]]  # values by key, and by key what is wrong with others


def read_layer(path: Path) -> Layer:
    """Read one parameters file, or the names of a capture folder; values are not validated yet.

    Returns
    -------
    values : dict
    mistakes : dict of str to str
        By key, what is wrong with it: unknown, given twice, or unquoted text that YAML would turn into something else.
        Under the empty key, why the file cannot be read at all.
    """
    try:
        if path.is_dir():
            return dict(named_by(path)), {}
        loader = _StrictLoader(read_regular(path, MOST_YAML).decode("utf-8"))
        values = loader.get_single_data()
        if isinstance(values, dict):
            return values, loader.mistakes | _unknown(values)
        problem = f"must hold lines 'key: value', but is {'empty' if values is None else f'a {type(values).__name__}'}"
    except FileNotFoundError:
        problem = missing(path)
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        problem = "is not a text file; a parameters file is YAML"
    except ParametersError as error:
        problem = str(error)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = f"is not plain YAML: {_in_a_line(error)}"
    return {}, {"": problem}


def _in_a_line(error: Exception) -> str:
    """Say in one line what a reader of YAML says in several."""
    mark, *parts = (getattr(error, name, None) for name in ("problem_mark", "context", "problem"))
    problem = ", ".join(filter(None, parts)) or " ".join(str(error).split())
    if "escape" in problem:
        problem += "; in double quotes a backslash is no plain letter: write paths with / or in 'single quotes'"
    return f"line {mark.line + 1}: {problem}" if mark else problem


def _unknown(values: Iterable[str]) -> dict[str, str]:
    """Say of each key that is no parameter which one is nearest."""
    fields = Parameters.model_fields
    unknown = {key: difflib.get_close_matches(key, fields, n=1, cutoff=0.0)[0] for key in values if key not in fields}
    return {key: f"{key}: there is no such parameter; did you mean {near}?" for key, near in unknown.items()}


def _explain(item: Mapping[str, Any], given: Mapping[str, Any], source_of: Mapping[str, str], source: str) -> str:
    """Say which key of which source is wrong, what was given, and where it helps, what to write instead."""
    key = str(item["loc"][0]) if item["loc"] else ""
    value, message = given.get(key), item["msg"].removeprefix("Value error, ")
    sources = dict.fromkeys(source_of[name] for name in source_of if name == key or (not key and name in message))
    within = ".".join(part for part in item["loc"] if isinstance(part, str))
    where = ": ".join(part for part in (", ".join(sources) or source, within) if part)
    if key and item["type"] != "value_error":
        message = message.replace("a valid tuple", "a list, as [1, 2]") + f"; got {_shortened(value)}"
    if item["type"] in ("float_type", "int_type") and isinstance(value, str) and _NUMBER.fullmatch(value):
        message += f", which is text; write {float(value)!r}"
    if key in ("capture_date", "capture_time") and not isinstance(value, str):
        message += f'. Quote it, as in {key}: "{Parameters.model_fields[key].default}"'
    return f"{where}: {message}"


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


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
        lines = [_explain(item, values, source_of or {}, source) for item in error.errors()]
        raise ParametersError("\n".join(dict.fromkeys(lines))) from None


def named_by(folder: str | Path) -> dict[str, str]:
    """Read the four keys that name a night off its capture folder: .../capture_date/capture_time/object_name.

    Raises
    ------
    ParametersError
        Where the path has fewer than four parts.
    """
    path = Path(os.path.abspath(folder))
    if len(path.parts) < 5:
        raise ParametersError(f"a capture folder lies three folders deep, as in DATE/TIME/OBJECT; {folder} does not")
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
    layers = [(str(path), read_layer(path)) for path in map(expanded, files)]
    layers += [("-p", _override(key, text)) for key, text in overrides]
    values: dict[str, Any] = {}
    source_of: dict[str, str] = {}
    told: list[str] = []
    for source, (layer, mistakes) in layers:
        told += [f"{source}: {mistake}" for mistake in mistakes.values()]
        values |= {key: value for key, value in layer.items() if key not in mistakes}
        source_of |= dict.fromkeys([*layer, *mistakes], source)
    nameless = [key for key in NIGHT_KEYS if key not in source_of]
    if nameless and "" not in source_of:  # they may stand in the file that could not be read
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


def _override(key: str, text: str) -> Layer:
    if unknown := _unknown([key]):
        return {}, unknown
    if Parameters.model_fields[key].annotation in (str, str | None) and text != "null":
        return {key: text}, {}
    try:
        return {key: yaml.load(text, _StrictLoader)}, {}
    except (ParametersError, yaml.YAMLError, ValueError, RecursionError):
        return {}, {key: f"{key}: cannot read {text[:60]!r} as a value"}


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


def save_setting(parameters: Parameters, name: str, cuts: Iterable[str], head: str = "") -> Path:
    """Write a criterion and its cuts into `params/`, as a file to be layered over others.

    Parameters
    ----------
    parameters : Parameters
        Which criterion, and its cuts.
    name : str
        File name; `.yaml` is added where it is missing.
    cuts : iterable of str
        Their names.
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
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        ours = bool(head) and path.is_file() and path.read_bytes().startswith(head.encode())
        if os.path.lexists(path) and not ours:
            raise ParametersError(f"{path.name} is there already; choose another name")
        with path.open("w" if ours else "x", encoding="utf-8") as file:
            file.write(head + to_yaml(parameters, ["criterion", *cuts]))
    return path
