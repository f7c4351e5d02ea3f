"""Running a notebook: every way it can fail is a failure that names its cell."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from processes import NURSERY, kernels_of

from sla1tools.run import kernels, notebooks
from sla1tools.run.notebooks import NotebookError, execute, tagged_figures

FORKED = pytest.mark.skipif(not kernels.FORKS, reason="kernels are programs of their own here")
NOTEBOOKS = Path(__file__).parents[1] / "support" / "notebooks"
FAULTS = {
    "raises": r"raises.ipynb: cell 3 \(raise ValueError.*\): ValueError: <b>\$x\$</b>",
    "exits": r"exits.ipynb: cell 3 \(sys.exit\(0\)\): SystemExit: 0",
    "exits_last": r"exits_last.ipynb: cell 3 \(sys.exit\(0\)\): SystemExit: 0",
    "dies": r"dies.ipynb: cell 3 \(os._exit\(9\)\): Kernel died",
    "dies_last": r"dies_last.ipynb: cell 3 \(os._exit\(9\)\): Kernel died",
    "starves": r"starves.ipynb: cell 3 \(import resource\): (MemoryError|failed .*; out of|Kernel died; out of)",
    "slain": r"slain.ipynb: cell 3 \(import os\): Kernel died",
    "falls_silent": r"falls_silent.ipynb: cell 3 \(kernel._publish.*\): its outputs did not arrive",
    "hangs": r"hangs.ipynb: cell 3 \(time.sleep\(600\)\): took longer than 1 s",
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.slow
def test_fault_is_named_and_what_ran_is_kept(tmp_path, monkeypatch, name):
    monkeypatch.setattr(notebooks, "SILENCE", 2)
    target = tmp_path / "executed.ipynb"
    with pytest.raises(NotebookError, match=FAULTS[name]):
        execute(NOTEBOOKS / f"{name}.ipynb", target, {"threshold": 2.0}, timeout=1 if name == "hangs" else None)
    cells = [cell for cell in nbformat.read(target, as_version=4).cells if cell.cell_type == "code"]
    assert cells[1].execution_count is not None


@pytest.mark.slow
def test_sound_notebook_keeps_no_trace_of_its_run(tmp_path):
    folder = tmp_path / "[a] {b} 'c' \"d\" é"
    folder.mkdir()
    (folder / "index.json").touch()
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


@pytest.mark.slow
def test_source_with_braces_in_its_folder_is_untouched(tmp_path):
    folder = tmp_path / "{0}"
    folder.mkdir()
    source = shutil.copy(NOTEBOOKS / "good.ipynb", folder)
    before = Path(source).read_bytes()
    execute(Path(source), folder / "executed.ipynb", {})
    assert Path(source).read_bytes() == before


@pytest.mark.slow
def test_a_debugger_is_imported_by_those_who_ask_for_it(tmp_path):
    """Every kernel would import it, for nobody; the nursery keeps it away from itself only."""
    code = "import sys\nassert 'debugpy' not in sys.modules\nimport debugpy"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), tmp_path / "asks.ipynb")
    execute(tmp_path / "asks.ipynb", tmp_path / "executed.ipynb", {})


def test_notebook_that_is_not_there(tmp_path):
    with pytest.raises(NotebookError, match=r"absent\.ipynb: .*No such file"):
        execute(tmp_path / "absent.ipynb", tmp_path / "executed.ipynb", {})


@pytest.mark.slow
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


@pytest.mark.slow
def test_figures_of_tagged_cells(tmp_path):
    execute(NOTEBOOKS / "good.ipynb", tmp_path / "good.ipynb", {})
    figures = tagged_figures(tmp_path / "good.ipynb")
    assert list(figures) == ["A dot"]
    assert figures["A dot"].startswith(b"\x89PNG")


def test_a_figure_of_the_nights_page_is_called_by_what_is_said_of_it(tmp_path):
    """By the first sentence that is computed below it, within its section."""

    def code(tagged, **data):
        outputs = [nbformat.v4.new_output("display_data", {kind.replace("_", "/"): v for kind, v in data.items()})]
        return nbformat.v4.new_code_cell("1", metadata={"tags": ["night-page"] * tagged}, outputs=outputs)

    cells = [
        nbformat.v4.new_markdown_cell("## How dark?"),
        code(False, text_markdown="Said before."),
        code(True, image_png="AAAA"),
        code(False, text_html="<p>a table</p>"),
        code(False, text_markdown="The level is **5 e-** of `hot`."),
        code(False, text_markdown="Said later."),
        nbformat.v4.new_markdown_cell("## Why?"),
        code(True, image_png="BBBB"),
        nbformat.v4.new_markdown_cell("## And then?"),
        code(False, text_markdown="Said of something else."),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "n.ipynb")
    assert list(tagged_figures(tmp_path / "n.ipynb")) == ["The level is 5 e- of hot.", "Why?"]


MEDDLERS = ("scipy", "sla1tools", "random", "ipykernel", "matplotlib", "sitecustomize")


def meddle(folder, told):
    """Put programs and settings into a folder that would be found there by name; each that is run tells of itself."""
    folder.mkdir(exist_ok=True)
    for name in MEDDLERS:
        (folder / f"{name}.py").write_text(f"open({str(told)!r}, 'a').write({name!r})\n")
    startup = folder / "ipython" / "profile_default" / "startup" / "00.py"
    startup.parent.mkdir(parents=True, exist_ok=True)
    startup.write_text(f"open({str(told)!r}, 'a').write('startup')\n")


@pytest.fixture(params=["forked", "programs"])
def kernels_begun(request, monkeypatch):
    """Either way in which kernels begin; forked of a nursery that is begun anew, too."""
    monkeypatch.setattr(kernels, "FORKS", request.param == "forked")
    kernels._end()
    return request.param


@pytest.mark.slow
@pytest.mark.usefixtures("kernels_begun")
def test_a_kernel_is_moved_by_nothing_of_its_callers(tmp_path, monkeypatch):
    told, caller = tmp_path / "told", tmp_path / "caller"
    cells = [
        "import os, sys, random, scipy, sla1tools.text",
        "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()",
        "os.path.isfile(sla1tools.text.__file__), '' in sys.path, os.getcwd() in sys.path, plt.rcParams['figure.dpi']",
    ]
    nodes = [nbformat.v4.new_code_cell(cell, id=f"cell{number}") for number, cell in enumerate(cells)]
    nbformat.write(nbformat.v4.new_notebook(cells=nodes), tmp_path / "imports.ipynb")
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
    execute(tmp_path / "imports.ipynb", tmp_path / "before" / "executed.ipynb", {})
    meddle(caller, told)
    meddle(tmp_path / "after", told)
    (caller / "matplotlibrc").write_text("figure.dpi: 17\nlines.color: red\n")
    (caller / "startup.py").write_text(f"open({str(told)!r}, 'a').write('PYTHONSTARTUP')\n")
    monkeypatch.chdir(caller)
    settings = {"MATPLOTLIBRC": caller, "MPLBACKEND": "nonsense", "IPYTHONDIR": caller / "ipython",
                "PYTHONSTARTUP": caller / "startup.py"}  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    kernels._end()  # a nursery that begins now is moved by nothing either
    execute(tmp_path / "imports.ipynb", tmp_path / "after" / "executed.ipynb", {})
    assert not told.exists(), told.read_text()
    before, after = ((tmp_path / name / "executed.ipynb").read_text() for name in ("before", "after"))
    assert "(True, False, False, 100.0)" in after
    assert before == after


@pytest.mark.slow
@pytest.mark.usefixtures("kernels_begun")
def test_a_kernel_leaves_no_file_behind(tmp_path, monkeypatch):
    """Nor does one that is killed: what it needs lies in the folder that its run deletes."""
    elsewhere, here = tmp_path / "elsewhere", tmp_path / "here"
    for folder in (elsewhere, here):
        folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(elsewhere))
    seen = set()

    def look(_):
        seen.update(path.name for folder in (here, elsewhere) for path in folder.rglob("*"))

    for name in ("good", "dies"):
        with contextlib.suppress(NotebookError):
            execute(NOTEBOOKS / f"{name}.ipynb", here / f"{name}.ipynb", {}, before_cell=look)
        assert not os.listdir(elsewhere)
    assert "connection.json" in seen
    assert sorted(os.listdir(here)) == ["dies.ipynb", "good.ipynb"]


@pytest.mark.slow
@pytest.mark.usefixtures("kernels_begun")
def test_why_a_kernel_did_not_start_is_said_once(tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(kernels.QuietKernelManager, "write_connection_file", fail)
    with pytest.raises(NotebookError, match="File too large"):
        execute(NOTEBOOKS / "good.ipynb", tmp_path / "executed.ipynb", {})
    assert not [record for record in caplog.records if record.exc_info]


def executed(folder, *cells, **values):
    """Text of each cell's result."""
    nodes = [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=nodes), folder / "source.ipynb")
    execute(folder / "source.ipynb", folder / "executed.ipynb", {}, **values)
    given = nbformat.read(folder / "executed.ipynb", as_version=4).cells[-len(cells) :]
    return [cell.outputs[-1].data["text/plain"] if cell.outputs else None for cell in given]


@FORKED
@pytest.mark.slow
def test_a_forked_kernel_is_as_one_of_its_own(tmp_path, monkeypatch):
    """It has the environment of the moment, and chance, signals and programs of its own."""
    asked = (
        "import os, signal, subprocess, sys, numpy as np",
        "os.environ['TOLD'], os.environ['MPLBACKEND'], 'GONE' in os.environ",
        "subprocess.run([sys.executable, '-c', 'raise SystemExit(3)']).returncode, signal.getsignal(signal.SIGCHLD)",
        "os.getsid(0) == os.getpid()",
        "os.path.realpath(os.getcwd())",
        "np.random.random()",
    )
    seen = []
    for told in ("first", "second"):
        monkeypatch.setenv("TOLD", told)
        monkeypatch.setenv("GONE", "") if told == "first" else monkeypatch.delenv("GONE")
        (tmp_path / told).mkdir()
        seen.append(executed(tmp_path / told, *asked))
        assert seen[-1][1] == f"('{told}', '{kernels.INLINE}', {told == 'first'})"
        assert seen[-1][2].startswith("(3, <Handlers.SIG_DFL")
        assert seen[-1][3:5] == ["True", f"'{os.path.realpath(tmp_path / told)}'"]
    assert seen[0][5] != seen[1][5]


@FORKED
@pytest.mark.slow
def test_a_nursery_that_is_killed_takes_its_kernels_along_and_is_followed_by_another(tmp_path):
    def kill(_):
        if running := kernels_of():
            nursery = running[0].parent()
            assert nursery.net_connections() == [], "it has nothing that could be talked to"
            nursery.kill()

    with pytest.raises(NotebookError, match="Kernel died"):
        execute(NOTEBOOKS / "hangs.ipynb", tmp_path / "executed.ipynb", {}, before_cell=kill)
    assert executed(tmp_path, "1 + 1") == ["2"]
    assert not kernels_of()


@pytest.mark.slow
@FORKED
def test_a_nursery_ends_with_the_program_that_began_it():
    program = (
        "from sla1tools.run import kernels; import os; print(kernels._begin().pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    deadline = time.monotonic() + 60
    with contextlib.suppress(psutil.NoSuchProcess):  # a zombie has ended, too
        while NURSERY in " ".join(psutil.Process(int(done.stdout)).cmdline()):
            assert time.monotonic() < deadline, "a nursery outlives its program"
            time.sleep(0.05)
