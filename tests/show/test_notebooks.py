"""The real notebooks: run by `sla1 run`, by plain papermill, and on the spot, they say the same of one night."""

import ast
import hashlib
import json
import re
import subprocess
import sys

import nbformat
import pytest
from astropy.io import fits
from astropy.table import Table
from browser import browser, offline, read_by_everybody  # noqa: F401
from nbconvert import HTMLExporter
from observers_rule import find_candidates
from small_nights import write_small_night

from sla1tools.measure import measure_night
from sla1tools.parameters import Parameters, read_parameters, to_yaml
from sla1tools.places import CHECKOUT
from sla1tools.run.night import night_notebooks, run_night
from sla1tools.run.notebooks import OPENS_NIGHT
from sla1tools.run.products import PRODUCTS
from sla1tools.run.season import write_trends
from sla1tools.simulate.night import parse_star, simulate_night

NOTEBOOKS = night_notebooks()
SHAPE = (256, 320)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A small simulated night in a folder with an awkward name, run once."""
    folder = tmp_path_factory.mktemp("night [1] {a}")
    parameters = Parameters(sessions_directory=str(folder / "sessions"), frame_shape=SHAPE, injections=2000)
    stars = [parse_star("2500@2.0"), parse_star("6000@2.0")]
    simulate_night(parameters.capture_directory, frames=6, shape=SHAPE, stars=stars)
    before = checksums(parameters.capture_directory)
    result = run_night(parameters, folder / "outputs")
    assert result.verdict == "ok", result.reasons
    assert checksums(parameters.capture_directory) == before
    return parameters, result.directory


def checksums(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def parameters_cell(notebook):
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    return cell.source


@pytest.mark.parametrize("path", sorted((CHECKOUT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_short_and_clean(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    parameters_cell(notebook)
    for cell in code:
        assert not cell.outputs
        assert cell.execution_count is None
        if "parameters" not in cell.metadata.get("tags", []):
            assert len(cell.source.splitlines()) <= 8, cell.source
            assert not re.search(r"^\s*(def |!|%|class )|warnings|/home|open\(", cell.source, re.M), cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cell_that_opens_the_night_says_so(path):
    """Its kernel starts while the night is measured: untagged, it would look for the measurement too early."""
    cells = nbformat.read(path, as_version=4).cells
    tagged = [cell.source for cell in cells if OPENS_NIGHT in cell.metadata.get("tags", [])]
    assert tagged == [cell.source for cell in cells if "open_night(" in cell.source]
    assert len(tagged) == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_cell_holds_every_default(path):
    namespace = {}
    exec(parameters_cell(nbformat.read(path, as_version=4)), namespace)
    del namespace["__builtins__"]
    assert set(namespace) == set(Parameters.model_fields)
    assert Parameters.from_namespace(namespace) == Parameters()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_cell_reads_a_bare_parameter(path):
    """The night has its own: a value that is changed below the opening would else reach figures and not tables."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
            names = {node.id for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name)}
            assert not names & set(Parameters.model_fields), cell.source


def outputs_of(path):
    """Every output of a notebook's cells, with the cell's source."""
    cells = nbformat.read(path, as_version=4).cells
    return [(cell.source, output) for cell in cells if cell.cell_type == "code" for output in cell.outputs]


@pytest.mark.slow
def test_the_steps_by_hand_agree_with_the_nights_table(published):
    """Leaders and their values in 02; in 03 the observers' fake is found, and a star of one's own is measured."""
    _, directory = published
    texts = {
        stem: "\n".join(o.data.get("text/markdown", "") for _, o in outputs_of(directory / f"{stem}.ipynb"))
        for stem in ("02_candidate_finding", "03_injection_testing")
    }
    by_hand, table, same = re.search(
        r"by hand: (\d+) leaders; in the table: (\d+); the same pixels and values: \*\*(\w+)\*\*",
        texts["02_candidate_finding"],
    ).groups()
    assert int(by_hand) == int(table) > 1
    assert same == "True"
    assert re.search(
        r"fake at x=150, y=128 is found: \*\*True\*\*; .* came or went: 0\.", texts["03_injection_testing"]
    )
    (star,) = [o for source, o in outputs_of(directory / "03_injection_testing.ipynb") if source.startswith("star = ")]
    assert "1 cutout" in star.metadata["image/png"]["alt"]


PAGES = ("index", *(path.stem for path in NOTEBOOKS), "../../../index", "../../../candidates")


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_every_page_can_be_read_by_everybody(published, offline, name):  # noqa: F811
    _, directory = published
    write_trends(directory.parents[2])
    read_by_everybody(offline, directory / f"{name}.html")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["02_candidate_finding", "03_injection_testing"])
def test_other_converters_show_the_contact_sheet_offline(published, offline, tmp_path, name):  # noqa: F811
    """By nbconvert's own template, which asks the network for whatever makes a widget alive."""
    html, _ = HTMLExporter().from_filename(str(published[1] / f"{name}.ipynb"))
    assert "widget-view" not in html
    (tmp_path / "n.html").write_text(html, encoding="utf-8")
    sheet = offline().open(tmp_path / "n.html").locator(".jp-Cell").last.locator("img")
    assert sheet.evaluate("image => image.naturalWidth") > 300


@pytest.mark.slow
def test_a_figure_opens_at_its_full_size_and_closes(published, offline):  # noqa: F811
    page = offline(width=390).open(published[1] / "01_dark_characterization.html")
    figure = page.locator("figure img").nth(1)
    small, natural = figure.bounding_box()["width"], int(figure.get_attribute("width"))
    figure.click()
    whole = page.locator("dialog img")
    assert small < whole.bounding_box()["width"] == natural
    page.keyboard.press("Escape")
    page.locator("dialog").wait_for(state="detached")


@pytest.mark.slow
def test_every_figure_shows_itself_with_a_text_for_those_who_cannot_see_it(published):
    _, directory = published
    pictures = 0
    for path in directory.glob("*.ipynb"):
        for source, output in outputs_of(path):
            data = output.get("data", {})
            assert "<Figure size" not in data.get("text/plain", ""), source
            if "image/png" in data and "explore(" not in source:
                pictures += 1
                assert len(output.metadata["image/png"]["alt"]) > 8, source
    assert pictures > 15


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ((4, 6), {}),
        ((12, 9), {"injections": 0, "criterion": "psf_chi2"}),
        ((40, 90), {"reference": "all", "neighbors": 8, "combination_method": "average", "threshold": 90.0}),
    ],
    ids=["smaller than a stamp", "nothing injected", "in sample"],
)
def test_notebooks_run_where_there_is_little_to_show(tmp_path, shape, changes):
    capture, _ = write_small_night(tmp_path / "sessions", 4, shape, 3, changes={"injections": 50} | changes)
    result = run_night(capture.parameters, tmp_path / "outputs")
    assert result.verdict == "degraded"
    assert not [reason for reason in result.reasons if "ipynb" in reason]


@pytest.mark.slow
def test_every_product_is_there_and_in_the_manifest(published):
    _, directory = published
    names = {path.name for path in directory.iterdir()}
    reports = {f"{path.stem}.{suffix}" for path in NOTEBOOKS for suffix in ("html", "ipynb")}
    assert names == {*PRODUCTS, *reports, "index.html", "manifest.json"}
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    for name, sha256 in manifest["outputs"].items():
        assert hashlib.sha256((directory / name).read_bytes()).hexdigest() == sha256
    assert set(manifest["outputs"]) == names - {"manifest.json"}


@pytest.mark.slow
def test_products_are_what_is_measured_on_the_spot(published):
    parameters, directory = published
    measured = measure_night(parameters)
    summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    assert summary == json.loads(json.dumps(measured.summary))
    leaders = Table.read(directory / "leaders.fits", unit_parse_strict="silent")
    assert len(leaders) == len(measured.leaders) > 50
    assert list(leaders["peak"]) == list(measured.leaders["peak"])
    assert len(Table.read(directory / "injections.fits", unit_parse_strict="silent")) == parameters.injections
    assert fits.getdata(directory / "master_dark.fits", "MASTER").shape == SHAPE


@pytest.mark.slow
def test_another_run_gives_the_same_bytes(published, tmp_path):
    """Tables, and every figure and explorer of the reports; only what says when it was run may differ."""
    parameters, directory = published
    again = run_night(parameters, tmp_path, side_by_side=False)
    first, second = checksums(directory), checksums(again.directory)
    differing = {name for name in first | second if first.get(name) != second.get(name)}
    assert differing <= {"index.html", "manifest.json", *(path.name for path in NOTEBOOKS)}  # and widgets' numbers
    assert len(first) == len(second) == len(PRODUCTS) + 8


@pytest.mark.slow
def test_a_gallery_is_kept_once(published):
    """In the report, where it is alive; the executed notebook has its contact sheet."""
    _, directory = published
    for path in sorted(directory.glob("0[23]*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        assert "widgets" not in notebook.metadata
        (gallery,) = [o.data for source, o in outputs_of(path) if "explore(" in source]
        assert set(gallery) == {"image/png", "text/plain"}
        assert '<div class="sla1-gallery">' in path.with_suffix(".html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_candidates_are_those_of_the_observers_loops(published):
    """From raw files to `candidates.ecsv`, against the plain loops on a residual made with numpy alone."""
    import numpy as np

    parameters, directory = published
    paths = sorted(parameters.capture_directory.glob("*.fits"))
    counts = np.stack([fits.getdata(path, memmap=False) for path in paths]).astype(float)
    scale = parameters.scale_due_to_gain / parameters.scale_due_to_padding
    expected = set()
    for k, path in enumerate(paths):
        residual = (counts[k] - np.median(np.delete(counts, k, axis=0), axis=0)) * scale
        expected |= {(path.name, x, y) for x, y, _ in find_candidates(residual, parameters.threshold, parameters.ratio)}
    found = Table.read(directory / "candidates.ecsv")
    assert {(row["frame"], row["x"], row["y"]) for row in found} == expected
    assert expected


@pytest.mark.parametrize("path", NOTEBOOKS[1:2], ids=lambda path: path.stem)
@pytest.mark.slow
def test_plain_papermill_gives_the_same_notebook(published, tmp_path, path):
    """The layered files work with `papermill -f … -f …`; the numbers in the outputs are those of `sla1 run`."""
    parameters, directory = published
    camera, night, output = tmp_path / "camera.yaml", tmp_path / "night.yaml", tmp_path / "output.ipynb"
    lines = to_yaml(parameters).splitlines(keepends=True)
    camera.write_text("".join(lines[4:]), encoding="utf-8")
    night.write_text("".join(lines[:4]), encoding="utf-8")
    assert read_parameters([camera, night]) == parameters
    command = [sys.executable, "-m", "papermill", path, output, "-f", camera, "-f", night, "-k", "python3"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, cwd=tmp_path)
    texts = [
        [
            shown.data.get("text/markdown") or shown.data.get("text/html")
            for shown in cell.get("outputs", [])
            if not shown.data.get("text/plain", "").startswith("night summed up")  # where it was measured, and how long
        ]
        for notebook in (output, directory / path.name)
        for cell in nbformat.read(notebook, as_version=4).cells
        if "injected-parameters" not in cell.metadata.get("tags", []) and cell.cell_type == "code"
        if "explore(" not in cell.source
    ]
    half = len(texts) // 2
    assert texts[:half] == texts[half:]
    assert sum(map(bool, texts)) > 5


@pytest.mark.slow
def test_trends_notebook_runs_without_a_night(tmp_path):
    ran = tmp_path / "04.ipynb"
    command = [sys.executable, "-m", "papermill", CHECKOUT / "notebooks" / "04_night_trends.ipynb", ran]
    command += ["-p", "outputs_directory", tmp_path / "no [outputs]"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, cwd=tmp_path)
    assert "there is no night yet" in ran.read_text(encoding="utf-8")
    assert not (tmp_path / "no [outputs]").exists()  # a notebook writes nothing


@pytest.mark.slow
def test_reports_ask_nothing_of_the_network(published, tmp_path):
    """No address is fetched by a page: every source is inside it."""
    _, directory = published
    for page in directory.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "Content-Security-Policy" in text
        assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text), page.name
