"""The errors a user can meet, by who must react."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path


class Sla1Error(Exception):
    """Anything the user can mend; the command line and notebooks show it without a traceback."""

    exit_status = 1

    def _render_traceback_(self) -> list[str]:
        """Say to IPython what a cell shows in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class ParametersError(Sla1Error):
    """A parameter, or the file that holds it, is wrong: nothing was read."""

    exit_status = 2


@contextmanager
def writing(path: Path, refused: str = "cannot be written") -> Iterator[None]:
    """Raise `ParametersError` where the disk refuses, as it names the place, else `path`, and as it says why."""
    try:
        yield
    except OSError as error:
        where, why = error.filename2 or error.filename or path, error.strerror or error
        raise ParametersError(f"{where}: {refused}: {why}") from None


def refuse_to_overwrite(*paths: Path) -> None:
    """Raise `ParametersError` where one of these files is there already."""
    for path in paths:
        if os.path.lexists(path):
            raise ParametersError(f"{path} is there already; choose another name (--to): nothing is overwritten")


class NightError(Sla1Error):
    """The night as a whole cannot be used."""

    exit_status = 3


class BusyError(Sla1Error):
    """Someone else is running this night."""

    exit_status = 75


# Why a file of the capture folder was rejected; the same word, in small letters, in code, report, manifest and tests.
Reason = StrEnum(
    "Reason",
    "TRUNCATED EMPTY NOT_FITS NOT_A_FILE SHAPE EXPOSURE GAIN BINNING FILTER TEMPERATURE KEYWORD UNIT RANGE NOT_FINITE "
    "CHECKSUM CONSTANT DUPLICATE SATURATED LEVEL NOISE TRANSITION GEOMETRY ROWS CODES IMAGETYPE",
)


class FrameError(Sla1Error):
    """One file of the night cannot be used.

    Parameters
    ----------
    reason : Reason
        The verdict's word.
    detail : str
        What was found, for the report.

    Attributes
    ----------
    header : dict or None
        What its header says, where that was read and is not judged yet.
    """

    header: dict | None = None

    def __init__(self, reason: Reason, detail: str):
        super().__init__(reason, detail)  # which is what its copy in another process is made of
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"

    def and_then(self, *others: "FrameError") -> "FrameError":
        """Say all at once: the first one's reason, and the details of all."""
        return FrameError(self.reason, "; ".join([self.detail, *map(str, others)]))
