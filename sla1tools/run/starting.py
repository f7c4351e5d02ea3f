"""The first steps: a working folder of one's own, a night's parameters from its headers, notebooks to work in."""

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from sla1tools.errors import ParametersError, refuse_to_overwrite, writing
from sla1tools.parameters import Parameters, named_by, to_yaml, validate
from sla1tools.places import SHIPPED_FOLDERS, shipped, working_folder
from sla1tools.published import night_path

PATTERN = "*.fit*"
# Of a packed frame, whose NAXISn are those of its table; of a plain one.
SHAPES = (("ZNAXIS2", "ZNAXIS1"), ("NAXIS2", "NAXIS1"))


def make_working_folder(directory: Path) -> list[Path]:
    """Copy the notebooks and parameters that came with the package, and make `outputs/`.

    Returns
    -------
    kept : list of Path
        Files that were there and differ: they are left as they are.

    Raises
    ------
    ParametersError
        If the folder cannot be made or written.
    """
    kept = []
    with writing(directory):
        for folder in SHIPPED_FOLDERS:
            (directory / folder).mkdir(parents=True, exist_ok=True)
            for source in sorted(path for path in shipped(folder).iterdir() if path.suffix in (".ipynb", ".yaml")):
                target = directory / folder / source.name
                if not os.path.lexists(target):
                    shutil.copyfile(source, target)
                elif not target.is_file() or target.read_bytes() != source.read_bytes():
                    kept.append(target)
        (directory / "outputs").mkdir(exist_ok=True)
    return kept


def night_text(capture: Path) -> str:
    """Write the parameters of a night from its headers and codes, each with its origin.

    What the headers do not say is left out, and named in a comment: it stays the camera file's matter.

    Raises
    ------
    ParametersError
        If the folder holds no frame whose header can be read.
    """
    from sla1tools.frames.capture import judge_capture
    from sla1tools.frames.codes import audit_counts, declared_padding
    from sla1tools.frames.headers import EXPOSURE_NAMES

    cards = [*(key for pair in SHAPES for key in pair), *EXPOSURE_NAMES, "EGAIN", "XPIXSZ"]
    headers = _headers(capture, cards)
    shape = next((shape for pair in SHAPES if (shape := _commonest(headers, *pair))), None)
    clock = next((name for name in EXPOSURE_NAMES if _commonest(headers, name)), EXPOSURE_NAMES[0])
    if not shape:
        raise ParametersError(f"{capture}: no frame of {PATTERN} has a header that can be read")
    told: dict[str, tuple[Any, str]] = {key: (value, "the folder's path") for key, value in named_by(capture).items()}
    told["frame_shape"] = [int(side) for side in shape], "NAXIS2, NAXIS1"
    for key, card, unit in (
        ("dark_exposure", clock, ""),
        ("scale_due_to_gain", "EGAIN", ", electrons per ADC unit"),
        ("pixel_size", "XPIXSZ", ""),
    ):
        value = _commonest(headers, card)
        told[key] = value and float(f"{value[0]:.6g}"), card + unit
    night = judge_capture(_said(told, capture))
    step = audit_counts(night.histogram, night.parameters.top_code, 1.0).step if night.frames else 1
    told["scale_due_to_padding"] = float(step) if step > 1 else None, "EGAINSAV, ADCBITS, or the step of the codes"
    if night.frames and (declared := declared_padding(night.frames[0].header)):
        told["scale_due_to_padding"] = float(declared), "EGAINSAV or ADCBITS"
    lines = to_yaml(_said(told, capture), [key for key, (value, _) in told.items() if value is not None]).splitlines()
    written = [f"{line}  # {told[line.partition(':')[0]][1]}" for line in lines]
    written += [f"# {key}: not in the headers ({origin})" for key, (value, origin) in told.items() if value is None]
    return "\n".join([f"# {len(night.frames)} of {len(headers)} frames would be used.", *written, ""])


def _said(told: Mapping[str, tuple[Any, str]], capture: Path) -> Parameters:
    return validate({key: value for key, (value, _) in told.items() if value is not None}, str(capture))


def _headers(capture: Path, keys: Sequence[str]) -> list[dict[str, str]]:
    from sla1tools.frames.sessions import cards

    names = sorted(name for name in os.listdir(capture) if not name.startswith(".") and fnmatch(name.lower(), PATTERN))
    return [header for name in names if (header := cards(capture / name, keys))]


def _commonest(headers: Sequence[dict[str, str]], *keys: str) -> tuple[float, ...] | None:
    """Return the values that most headers have; None where none has all as positive numbers (exposures may be 0)."""
    found: Counter[tuple[float, ...]] = Counter()
    for header in headers:
        with suppress(KeyError, ValueError):
            values = tuple(float(header[key]) for key in keys)
            found[values] += min(values) > 0 or (min(values) == 0 and "EXP" in keys[0])
    return next((values for values, number in found.most_common(1) if number), None)


def write_night(capture: Path, target: Path | None) -> Path:
    """Write `night_text` into a new file, by default `params/DATE_TIME_OBJECT.yaml` of the working folder.

    Raises
    ------
    ParametersError
        If the file is there already, or cannot be written.
    """
    target = target or working_folder() / "params" / f"{'_'.join(list(named_by(capture).values())[1:])}.yaml"
    refuse_to_overwrite(target)
    text = night_text(capture)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    return target


def copy_notebooks(parameters: Parameters, notebooks: Sequence[Path]) -> tuple[Path, list[str]]:
    """Copy notebooks to `lab/DATE_TIME_OBJECT/` of the working folder, with a night's parameters filled in.

    Returns
    -------
    folder : Path
    kept : list of str
        Names of copies that were there: they are left as they are, with the parameters they had.
    """
    import nbformat
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    folder, kept = working_folder() / "lab" / "_".join(night_path(parameters).parts), []
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder.parent / ".gitignore").write_text("*\n", encoding="utf-8")
        for source in notebooks:
            if os.path.lexists(folder / source.name):
                kept.append(source.name)
                continue
            notebook = parameterize_notebook(load_notebook_node(str(source)), parameters.model_dump(mode="json"))
            notebook.metadata.pop("papermill", None)
            with (folder / source.name).open("x", encoding="utf-8") as file:
                nbformat.write(notebook, file)
    return folder, kept
