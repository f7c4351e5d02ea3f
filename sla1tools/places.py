"""Where things are: the user's working folder, and the notebooks and parameters that came with the package."""

import difflib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sla1tools.text import listed

HOME = "SLA1_HOME"  # set for kernels and workers, whose current folder is not the user's
SHIPPED_FOLDERS = ("notebooks", "params")
CHECKOUT = Path(__file__).resolve().parents[1]
SHIPPED = Path(__file__).resolve().parent / "shipped"  # in an installed package; a checkout has them at its top


def working_folder() -> Path:
    """Return the user's place: the nearest folder upwards that holds `params/`, else the current one.

    Notebooks, parameters and outputs are looked for in it, and relative paths inside files start from it. The
    environment's `SLA1_HOME` names another.
    """
    if given := os.environ.get(HOME):
        return Path(given)
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "params").is_dir()), here)


def outputs_folder() -> Path:
    """Return where nights are published when no other folder is named."""
    return working_folder() / "outputs"


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Make a folder the working folder of this process and of those it starts."""
    before = os.environ.get(HOME)
    os.environ[HOME] = str(folder)
    try:
        yield
    finally:
        del os.environ[HOME]
        if before is not None:
            os.environ[HOME] = before


def from_working_folder(path: str | Path) -> Path:
    """Expand `~` and `$NAME`, and anchor a relative path at the working folder; raises as `expanded` does."""
    return expanded(path, working_folder())


def expanded(path: str | Path, start: Path = Path()) -> Path:
    """Expand `~` and `$NAME` of a path that is relative to `start`, by default to the current folder.

    A `$NAME` that the environment does not have stays as it is, and so does a path that is there as it is written: both
    may be folders' names.

    Raises
    ------
    ValueError
        If there is no such user as the path's `~user` names.
    """
    if "$" in str(path) and (start / path).exists():
        return start / path
    try:
        return start / Path(os.path.expandvars(path)).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from None


def shipped(folder: str) -> Path:
    """Return the `notebooks` or `params` that came with the package: never written into."""
    return (SHIPPED if SHIPPED.is_dir() else CHECKOUT) / folder


def own_or_shipped(folder: str, name: str) -> Path:
    """Return a file of the working folder, else the one that came with the package."""
    own = working_folder() / folder / name
    return own if own.is_file() else shipped(folder) / name


def missing(path: str | Path) -> str:
    """Say which part of a path is not there, and what is there instead.

    >>> missing("/proc/self/no_such_name").split(";")[0]
    'there is no no_such_name in /proc/self'
    """
    path = Path(os.path.abspath(path))
    there = next(folder for folder in path.parents if os.path.isdir(folder) or folder == folder.parent)
    wrong = path.relative_to(there).parts[0]
    text = f"there is no {wrong} in {there}"
    if unset := [name for name in re.findall(r"\$\{?([A-Za-z_]\w*)", wrong) if name not in os.environ]:
        return f"{text}; {unset[0]} is not set in the environment"
    if os.name != "nt" and re.match(r"[A-Za-z]:(\\|$)|\\\\|%\w+%", wrong):
        return f"{text}; it is a path of Windows, and this machine has none of those"
    try:
        names = sorted(name for name in os.listdir(there) if not name.startswith("."))
    except OSError as error:
        return f"{text}, which cannot be looked into: {error.strerror}"
    near = difflib.get_close_matches(wrong, names, n=max(len(names), 1), cutoff=0.5) or names
    return f"{text}; there is: {listed(near)}" if near else f"{text}; it is empty"
