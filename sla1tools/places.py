"""Where things are: the user's working folder, and the notebooks and parameters that came with the package."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOME = "SLA1_HOME"  # set for kernels and workers, whose current folder is not the user's
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
    """Expand `~` and `$NAME`, and anchor a relative path at the working folder.

    A `$NAME` that the environment does not have stays as it is: it may be part of a folder's name.

    Raises
    ------
    ValueError
        If there is no such user as the path's `~user` names.
    """
    try:
        return working_folder() / Path(os.path.expandvars(path)).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from None


def shipped(folder: str) -> Path:
    """Return the `notebooks` or `params` that came with the package: never written into."""
    return (SHIPPED if SHIPPED.is_dir() else CHECKOUT) / folder


def own_or_shipped(folder: str, name: str) -> Path:
    """Return a file of the working folder, else the one that came with the package."""
    own = working_folder() / folder / name
    return own if own.is_file() else shipped(folder) / name
