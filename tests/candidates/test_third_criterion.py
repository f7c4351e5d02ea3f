"""A third criterion is one object and a line for each cut: it then stands everywhere, in a copy of the package."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from browser import browser, offline  # noqa: F401

import sla1tools

pytestmark = pytest.mark.slow
ROOT = Path(sla1tools.__file__).parent.parent
CRITERION = """    Criterion(
        name="sharpness",
        meaning="Bright, and not far from a star's image.",
        color="#009E73",
        cuts=(
            Cut("sharp_snr", "sharp S/N ≥", 0.1, 30.0, floor="snr"),
            Cut("sharp_max", "χ²/dof ≤", 0.1, 20.0),
        ),
        terms=(
            Term("snr", ">=", "sharp_snr", miss="too faint"),
            Term("chi2", "<=", "sharp_max", factor="dof", miss="too sharp"),
        ),
        expected=lambda noise, own: None,
        best="snr",
    ),
"""
FIELDS = {"sharp_snr": 5.0, "sharp_max": 1.5}
SLA1 = "from sla1tools.cli import main; main()"
ASK = """
import json, sys, warnings
import numpy as np
from sla1tools import open_night
night = open_night(sys.argv[1])
trials, grid = night.trials, night.grid[night.grid["criterion"] == "sharpness"]
print(json.dumps({
    "settings": len(grid), "alarms": [int(row["even"] + row["odd"]) for row in grid],
    "cuts": [[float(row["sharp_snr"]), float(row["sharp_max"])] for row in grid],
    "found": int(trials["recovered_sharpness"].sum()), "reasons": sorted(set(trials["miss_reason"].tolist())),
    "stricter": [len(night.candidates("sharpness", r, sharp_max=0.8)) for r in ("leave_one_out", "all")],
}))
"""


def edit(path, *changes):
    text = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert text.count(old) == 1, (path, old)
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def add_criterion(copy):
    """What an observer edits."""
    assert CRITERION.count("\n") <= 30
    edit(copy / "sla1tools/candidates/criteria.py", ("\n)\nCRITERIA = ", f"\n{CRITERION})\nCRITERIA = "))
    fields = "".join(f"    {name}: float = {value}\n" for name, value in FIELDS.items())
    line = re.search(r"    p_min: float = .*\n", (copy / "sla1tools/parameters.py").read_text(encoding="utf-8"))[0]
    edit(
        copy / "sla1tools/parameters.py",
        (
            'criterion: Literal["neighbor_ratio", "psf_chi2"]',
            'criterion: Literal["neighbor_ratio", "psf_chi2", "sharpness"]',
        ),
        (line, line + fields),
    )
    camera = copy / "params/qhy42pro.yaml"
    camera.write_text(camera.read_text(encoding="utf-8") + "".join(f"{k}: {v}\n" for k, v in FIELDS.items()))
    for path in (copy / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if "parameters" in cell.metadata.get("tags", []) and "p_min" in cell.source:
                cell.source += "".join(f"\n{name} = {value}" for name, value in FIELDS.items())
        nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A night run by the edited copy; a function that runs it again with other arguments."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("sla1tools", "params", "notebooks"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    add_criterion(copy)

    def python(*arguments):
        environment = os.environ | {"PYTHONPATH": str(copy)}
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    night = copy / "sessions/2024-05-08/03_38_48/Dark30s"
    stars = ["900@2.0", "1200@2.0", "1500@2.0", "1800@2.0", "2100@2.0"]
    python("-c", SLA1, "simulate", night, "--frames", 6, "--shape", 128, 144, "--seed", 4, "--stars", *stars)
    (copy / "night.yaml").write_text(
        'sessions_directory: "sessions"\ncapture_date: "2024-05-08"\ncapture_time: "03_38_48"\nobject_name: "Dark30s"\n'
        'frame_shape: [128, 144]\ncriterion: "sharpness"\ninjections: 1500\n'
    )
    python("-c", SLA1, "run", "params/qhy42pro.yaml", "night.yaml", "--outputs", "out")
    folder = copy / "out/2024-05-08/03_38_48/Dark30s"
    return folder, json.loads(python("-c", ASK, folder))


@pytest.mark.slow
def test_it_selects_candidates_and_stands_in_every_block(run):
    folder, _ = run
    found = Table.read(folder / "candidates.ecsv")
    assert len(found) > 3
    assert (found["snr"] >= FIELDS["sharp_snr"]).all()
    assert (found["chi2"] <= FIELDS["sharp_max"] * found["dof"]).all()
    summary = json.loads((folder / "summary.json").read_text())
    for block in ("candidates", "false_alarms_per_frame", "completeness", "operating_point"):
        assert list(summary[block]) == ["neighbor_ratio", "psf_chi2", "sharpness"]
    assert summary["candidates"]["sharpness"]["held_out"] == len(found)
    assert summary["false_alarms_per_frame"]["sharpness"]["gaussian_expectation"] is None
    assert summary["completeness"]["sharpness"]["flux_50"]["flux"] > 0


def test_it_stands_in_the_trade_off_the_injected_stars_and_their_miss_reasons(run):
    folder, told = run
    assert told["settings"] == 1 + 55 * 21  # the configured cuts, and powers of 1.05 from 4 to 60 times twenty steps
    held_out = json.loads((folder / "summary.json").read_text())["candidates"]["sharpness"]["held_out"]
    assert told["alarms"][told["cuts"].index(list(FIELDS.values()))] == held_out
    assert {"", "too faint", "too sharp"} <= set(told["reasons"])
    injected = fits.getdata(folder / "injections.fits")
    assert injected["recovered_sharpness"].sum() == told["found"] > 200
    np.testing.assert_array_equal(injected["miss_reason"] == "", injected["recovered_sharpness"])


@pytest.mark.parametrize("report", ["02_candidate_finding.html", "03_injection_testing.html"])
def test_its_sliders_live_in_the_report(run, offline, report):  # noqa: F811
    folder, told = run
    watched = offline()
    page = watched.open(folder / report)
    page.wait_for_selector(".sla1-explorer")
    counts = json.loads((folder / "summary.json").read_text())["candidates"]["sharpness"]
    words = f"{counts['held_out']} held out · {counts['in_sample']} in sample"
    assert words in page.inner_text(".sla1-numbers")
    for name in FIELDS:
        assert page.locator(f".sla1-slider-{name}").is_visible()
    assert not page.locator(".sla1-slider-threshold").is_visible()
    page.fill(".sla1-slider-sharp_max input[type=number]", "0.8")
    assert "{} held out · {} in sample".format(*told["stricter"]) in page.inner_text(".sla1-numbers")
    page.select_option(".sla1-controls select", label="psf_chi2")
    assert not page.locator(".sla1-slider-sharp_max").is_visible()
    assert "sharpness" in page.inner_text(".sla1-keys")
    assert watched.complaints == []


def test_it_is_named_on_the_night_page_and_in_the_tables(run):
    folder, _ = run
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert "sharpness: false alarms a frame" in text
    assert "whatever sharpness finds here is a false alarm" in text
    assert "Bright, and not far from a star" in text
    for report, words in (
        ("02_candidate_finding", "sharp S/N ≥ 5, χ²/dof ≤ 1.5"),
        ("03_injection_testing", "too sharp"),
    ):
        assert words in (folder / f"{report}.html").read_text(encoding="utf-8")
