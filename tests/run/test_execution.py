"""Running a notebook: every way it can fail is a failure that names its cell."""

import os
import shutil
import threading
from pathlib import Path

import nbformat
import pytest

from sla1tools.run.notebooks import NotebookError, execute, tagged_figures

NOTEBOOKS = Path(__file__).parents[1] / "support" / "notebooks"
FAULTS = {
    "raises": r"raises.ipynb: cell 3 \(raise ValueError.*\): ValueError: <b>\$x\$</b>",
    "exits": r"exits.ipynb: cell 3 \(sys.exit\(0\)\): SystemExit: 0",
    "exits_last": r"exits_last.ipynb: cell 3 \(sys.exit\(0\)\): SystemExit: 0",
    "dies": r"dies.ipynb: cell 3 \(os._exit\(9\)\): Kernel died",
    "dies_last": r"dies_last.ipynb: cell 3 \(os._exit\(9\)\): Kernel died",
    "starves": r"starves.ipynb: cell 3 \(import resource\): (MemoryError|failed .*; out of memory\?)",
    "slain": r"slain.ipynb: cell 3 \(import os\): Kernel died",
    "hangs": r"hangs.ipynb: cell 3 \(time.sleep\(600\)\): took longer than 1 s",
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_named_and_what_ran_is_kept(tmp_path, name):
    target = tmp_path / "executed.ipynb"
    with pytest.raises(NotebookError, match=FAULTS[name]):
        execute(NOTEBOOKS / f"{name}.ipynb", target, {"threshold": 2.0}, timeout=1 if name == "hangs" else None)
    cells = [cell for cell in nbformat.read(target, as_version=4).cells if cell.cell_type == "code"]
    assert cells[1].execution_count is not None


def test_sound_notebook_keeps_no_trace_of_its_run(tmp_path):
    folder = tmp_path / "[a] {b} 'c' \"d\" é"
    folder.mkdir()
    (folder / "measurement.pickle").touch()
    values = {"products_directory": str(folder), "threshold": 180.0}
    targets = [folder / "first.ipynb", folder / "second.ipynb"]
    for target in targets:
        execute(NOTEBOOKS / "good.ipynb", target, values)
    first, second = (target.read_text(encoding="utf-8") for target in targets)
    assert first == second
    assert "[a]" not in first
    notebook = nbformat.read(targets[0], as_version=4)
    assert notebook.metadata.papermill.parameters == {"products_directory": None, "threshold": 180.0}
    assert "measurement found: True, threshold 180.0" in first
    again = folder / "again.ipynb"
    execute(targets[0], again, {"threshold": 190.0})
    assert "measurement found: False, threshold 190.0" in again.read_text(encoding="utf-8")


def test_source_with_braces_in_its_folder_is_untouched(tmp_path):
    folder = tmp_path / "{0}"
    folder.mkdir()
    source = shutil.copy(NOTEBOOKS / "good.ipynb", folder)
    before = Path(source).read_bytes()
    execute(Path(source), folder / "executed.ipynb", {})
    assert Path(source).read_bytes() == before


def test_notebook_that_is_not_there(tmp_path):
    with pytest.raises(NotebookError, match=r"absent\.ipynb: .*No such file"):
        execute(tmp_path / "absent.ipynb", tmp_path / "executed.ipynb", {})


def test_threads_do_not_mix(tmp_path):
    failures = []

    def run(number):
        try:
            execute(NOTEBOOKS / "good.ipynb", tmp_path / f"{number}.ipynb", {"threshold": float(number)})
        except NotebookError as error:
            failures.append(error)

    directory = os.getcwd()
    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert os.getcwd() == directory
    for number in range(3):
        assert f"threshold {number}.0" in (tmp_path / f"{number}.ipynb").read_text(encoding="utf-8")


def test_figures_of_tagged_cells(tmp_path):
    execute(NOTEBOOKS / "good.ipynb", tmp_path / "good.ipynb", {})
    figures = tagged_figures(tmp_path / "good.ipynb")
    assert list(figures) == ["A dot"]
    assert figures["A dot"].startswith(b"\x89PNG")
