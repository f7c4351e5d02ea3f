"""Run a notebook with papermill, and judge for ourselves whether it ran."""

import base64
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_core.utils import ensure_event_loop
from papermill.engines import NBClientEngine, papermill_engines
from traitlets.config import Config

from sla1tools.errors import Sla1Error
from sla1tools.run.kernels import QuietKernelManager

NIGHT_PAGE = "night-page"  # tag of the cells whose figures the night's page shows
OPENS_NIGHT = "opens-night"  # tag of the cell that needs the measurement
SILENCE = 60  # seconds for a cell's outputs to arrive once it has ended
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
INJECTED = "injected-parameters"  # tag of the cell that papermill adds


class NotebookError(Sla1Error):
    """A notebook did not run to its end."""


class SavedAtItsEnd(NBClientEngine):
    """Write a notebook once it has ended, however it did: papermill writes it twice a cell."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, **options):
        """Execute it as papermill does."""
        path, nb_man.output_path = nb_man.output_path, None
        try:
            super().execute_managed_notebook(nb_man, kernel_name, **options)
        finally:
            nb_man.output_path = path


papermill_engines.register("sla1", SavedAtItsEnd)


def execute(
    source: Path,
    target: Path,
    values: dict[str, Any],
    timeout: int | None = None,
    before_cell: Callable[[bool], Any] = lambda opens_night: None,
) -> None:
    """Execute a notebook with parameters; whatever happens, `target` holds as much of it as ran.

    Parameters
    ----------
    source, target : Path
        The notebook, and where to write it executed.
    values : dict
        Parameters. In `target`, `products_directory` reads None again: the folder does not outlive the run.
    timeout : int, optional
        Seconds that a cell may take.
    before_cell : callable
        Called before each cell, with True if it is tagged as the one that opens the night; it may wait, or raise to
        end the notebook.

    Raises
    ------
    NotebookError
        Naming the cell, unless every code cell was executed without an error.

    Notes
    -----
    Success is not read from papermill's metadata, which marks cells completed after a kernel has died. May be called
    in several threads at once, not in a thread that runs an event loop.
    """
    loop = ensure_event_loop()
    problem = ""
    try:
        private = tempfile.TemporaryDirectory(prefix=".kernel-", dir=target.parent)
    except OSError as error:
        raise NotebookError(f"{source.name}: {error.strerror}") from None
    try:
        papermill.execute_notebook(
            _escaped(source),
            _escaped(target),
            values,
            engine_name="sla1",
            kernel_name="python3",
            progress_bar=False,
            execution_timeout=timeout,
            iopub_timeout=SILENCE,
            raise_on_iopub_timeout=True,  # else what a busy machine delays for 4 s is left out, and nobody told
            kernel_manager_class=QuietKernelManager,
            config=Config({"QuietKernelManager": {"private": private.name}}),
            shutdown_kernel="immediate",
            on_cell_start=lambda cell, cell_index: before_cell(OPENS_NIGHT in cell.metadata.get("tags", [])),
        )
    except papermill.PapermillExecutionError as error:
        silent = error.ename == "CellExecutionError"  # so papermill calls a failure that the kernel could not report
        problem = "failed and could not say why; out of memory?" if silent else f"{error.ename}: {error.evalue}"
    except TimeoutError as error:
        silent = "IOPub" in str(error)
        problem = "its outputs did not arrive: the kernel fell silent" if silent else f"took longer than {timeout} s"
    except Exception as error:
        problem = (str(error) or type(error).__name__).replace("Kernel died", "Kernel died; out of memory, or killed?")
    finally:
        loop.close()
        private.cleanup()
    try:
        notebook = nbformat.read(target, as_version=4)
    except (OSError, ValueError):  # it was never written, or the disk is full
        raise NotebookError(f"{source.name}: {problem or 'its executed copy is gone'}") from None
    failure = _failure(notebook, problem)
    _tidy(notebook)
    nbformat.write(notebook, target)
    if failure:
        raise NotebookError(f"{source.name}: {failure}")


def _escaped(path: Path) -> str:
    """Papermill formats its paths with the parameters: braces in a folder's name are doubled."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _failure(notebook, problem: str) -> str | None:
    """Name the cell and what befell it; None where all is well.

    The first cell with an error, else the last begun if papermill had a problem, else the first not executed.
    """
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    given = [cell for cell in cells if INJECTED not in cell.metadata.get("tags", [])]
    named = [
        (cell, f"cell {number} ({cell.source.strip().splitlines()[0][:60]})") for number, cell in enumerate(given, 1)
    ]
    for cell, name in named:
        for error in (output for output in cell.outputs if output.output_type == "error"):
            return f"{name}: {problem or f'{error.ename}: {error.evalue}'}"
    begun = [name for cell, name in named if cell.metadata.get("papermill", {}).get("start_time")]
    if problem:
        return f"{begun[-1] if begun else 'before its first cell'}: {problem}"
    return next((f"{name}: was not executed" for cell, name in named if cell.execution_count is None), None)


def _tidy(notebook) -> None:
    """Forget the run's folder and times: the notebook can be run again by hand, and is the same after each run.

    Its widgets are dead without their kernel: whatever reads it shows the picture that stands above each.
    """
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET_MIME not in output.get("data", {})]
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if INJECTED in cell.metadata.get("tags", []):
            cell.id = INJECTED
            lines = cell.source.splitlines()
            cell.source = "\n".join(
                "products_directory = None" if line.startswith("products_directory = ") else line for line in lines
            )
    run = notebook.metadata.pop("papermill", {})
    if "products_directory" in run.get("parameters", {}):
        run["parameters"]["products_directory"] = None
    notebook.metadata["papermill"] = {key: run[key] for key in ("parameters", "version") if key in run}


def keep_pictures(path: Path) -> None:
    """Take live galleries out of an executed notebook: its report has them, and the contact sheet stays."""
    from sla1tools.show.pages import GALLERY_MIME

    notebook = nbformat.read(path, as_version=4)
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if output.get("data", {}).pop(GALLERY_MIME, None):
            output.data.pop("text/html", None)
    nbformat.write(notebook, path)


def tagged_figures(path: Path) -> dict[str, bytes]:
    """Return the PNG figures of an executed notebook's cells tagged `night-page`, by what the section says below each.

    That is the first computed sentence; the heading, where there is none.
    """
    figures, heading, waiting = {}, path.stem, ""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            above = next((line.lstrip("# ") for line in cell.source.splitlines() if line.startswith("#")), "")
            heading, waiting = (above, "") if above else (heading, waiting)
        for data in (output.get("data", {}) for output in cell.get("outputs", [])):
            if "image/png" in data and NIGHT_PAGE in cell.metadata.get("tags", []):
                waiting, figures[heading] = heading, base64.b64decode(data["image/png"])
            elif "text/markdown" in data and waiting:
                figures[re.sub("[*`]", "", data["text/markdown"])] = figures.pop(waiting)
                waiting = ""
    return figures
