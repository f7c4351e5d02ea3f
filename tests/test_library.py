"""The package as a library: what it offers, how soon, and the notebook of docs/library.md run as it stands."""

import pydoc
import re
import subprocess
import sys

import numpy as np
import pytest
from IPython.display import HTML
from small_nights import write_small_night

import sla1tools
from sla1tools.parameters import to_yaml
from sla1tools.places import CHECKOUT

HEAVY = ("numpy", "astropy", "scipy", "matplotlib", "pydantic", "IPython")


def test_importing_it_imports_nothing_else():
    program = "import sys, sla1tools; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout
    assert "sla1tools" in output
    assert not [name for name in HEAVY if f"'{name}'" in output]


@pytest.mark.parametrize("name", sla1tools.__all__)
def test_every_public_name_is_there_and_explains_itself(name):
    public = getattr(sla1tools, name)
    assert name in dir(sla1tools)
    assert name in sla1tools.__doc__
    assert re.search(r"Parameters\n\s*-+\n", public.__doc__)


def test_help_says_what_there_is():
    text = pydoc.render_doc(sla1tools, renderer=pydoc.plaintext)
    for name in (*sla1tools.__all__, "candidates(threshold=150)", "inject(x=, y=, flux=, frame=)"):
        assert name in text
    with pytest.raises(AttributeError, match="has no attribute 'find_leader'"):
        _ = sla1tools.find_leader


@pytest.fixture(scope="module")
def working_folder(tmp_path_factory):
    """A night whose frames hold the places that the page names, its parameter files, and frames without a night."""
    folder = tmp_path_factory.mktemp("work")
    capture, _ = write_small_night(folder / "sessions", 7, (272, 160), 3, clean=False, noise=37.0)
    lines = to_yaml(capture.parameters).splitlines(keepends=True)
    (folder / "params").mkdir()
    (folder / "params" / "my-night.yaml").write_text("".join(lines), encoding="utf-8")
    camera = (CHECKOUT / "params" / "qhy42pro.yaml").read_text(encoding="utf-8")
    (folder / "params" / "qhy42pro.yaml").write_text(camera, encoding="utf-8")
    (folder / "my-frames").symlink_to(capture.parameters.capture_directory)
    return folder


@pytest.mark.slow
def test_the_page_runs_as_it_stands(working_folder, monkeypatch):
    monkeypatch.chdir(working_folder)
    page = (CHECKOUT / "docs" / "library.md").read_text(encoding="utf-8")
    first, second = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len([line for line in first.splitlines() if line]) <= 10
    values = last_values(first, {})
    night, found = values["night"], values["found"]
    same = night.candidates()
    same = same[same["frame"] == night.capture.names[5]]
    assert len(found) == len(same)
    for name in ("x", "y", "peak", "neighbor_min"):
        np.testing.assert_array_equal(found[name], same[name])
    drawing = values["sla1.show_cutouts(residual, found)"]
    assert isinstance(drawing, HTML) == (len(found) == 0), "no cutouts are a sentence"
    assert len(values["night.candidates(threshold=150, ratio=0.2)"]) >= len(night.candidates())
    assert values["night.inject(x=100.3, y=250.1, flux=1500, frame=3)"]["flux_true"] == 1500
    assert "candidates" in values["night.explore()"].caption
    values = last_values(second, values)
    assert len(values["leaders"]) > 20


def last_values(code, values):
    """Run a block line by line as cells; bare expressions are kept under their text."""
    for line in code.splitlines():
        try:
            values[line] = eval(line, values)
        except SyntaxError:
            exec(line, values)
    return values


def test_cutouts_show_themselves_and_none_are_no_error():
    residual = np.zeros((32, 32))
    residual[0, 0], residual[20, 10] = 500.0, 300.0
    found = sla1tools.find_leaders(residual, threshold=200)
    data, metadata = sla1tools.show_cutouts(residual, found)._repr_mimebundle_()
    assert data["image/png"].startswith("iVBOR")
    assert metadata["image/png"]["alt"] == data["text/plain"] == "Cutouts: 2 cutouts of 5x5 pixels"
    assert residual.sum() == 800
    empty = sla1tools.show_cutouts(residual, found[:0])
    assert "none" in empty.data
    assert repr(empty).count("\n") < 3
