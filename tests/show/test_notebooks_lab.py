"""The real notebooks in a real JupyterLab, opened as they are committed: nothing is set up, Run All, sliders alive."""

import nbformat
import pytest
from browser import browser, lab  # noqa: F401
from live_numbers import live_numbers
from nbformat import v4

from sla1tools.night import open_night
from sla1tools.parameters import Parameters, read_parameters
from sla1tools.places import CHECKOUT

NAMES = ("01_dark_characterization", "02_candidate_finding", "03_injection_testing", "04_night_trends")


@pytest.fixture(scope="module")
def demo():
    """The demo night, measured here as the notebooks measure it there; simulated if it is not there yet."""
    return open_night(Parameters())


@pytest.mark.parametrize("name", NAMES)
def test_runs_in_lab_with_nothing_set_up(name, browser, lab, demo):  # noqa: F811
    notebook = nbformat.read(CHECKOUT / "notebooks" / f"{name}.ipynb", as_version=4)
    notebook.cells.append(v4.new_code_cell("print('all', 'run')"))
    nbformat.write(notebook, lab.root / f"{name}.ipynb")
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    context.route("**", lambda route: route.continue_() if route.request.url.startswith(lab.url) else route.abort())
    page = context.new_page()
    lab.run_all(page, f"{name}.ipynb", "all run")
    assert page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    if name != NAMES[3]:  # where no night was run yet, there is no chart
        assert page.locator(".jp-OutputArea-output img").count() >= 2
    if name in NAMES[1:3]:
        numbers = live_numbers(demo.leaders, demo.injections, demo.parameters, len(demo.capture.frames), 1000.0)
        text = f"{numbers['held_out']:,} held out · {numbers['in_sample']:,} in sample"
        page.locator(".sla1-candidates").get_by_text(text, exact=True).wait_for(timeout=20_000)
        before = page.locator(".sla1-candidates").inner_text()
        page.locator(".sla1-slider-threshold input").fill("150")
        page.locator(".sla1-slider-threshold input").press("Enter")
        page.wait_for_function(
            "before => document.querySelector('.sla1-candidates').innerText != before", arg=before, timeout=10_000
        )
    context.close()


@pytest.mark.slow
def test_the_demo_opens_with_a_dozen_candidates(demo):
    own = read_parameters([CHECKOUT / "params" / name for name in ("qhy42pro.yaml", "demo.yaml")])
    assert 10 <= len(demo.candidates(threshold=own.threshold, ratio=own.ratio)) <= 14
