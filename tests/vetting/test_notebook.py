"""Notebook 05 on the demo: runs top to bottom, and its report tells what the truth says."""

import json
import re

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from browser import browser, offline, read_by_everybody  # noqa: F401

from sla1tools.places import CHECKOUT, HOME
from sla1tools.run.notebooks import execute
from sla1tools.show.pages import export_html
from sla1tools.simulate import field

SEED = 2  # of a hit in one of the frames
NOTEBOOK = CHECKOUT / "notebooks" / "05_is_it_the_camera.ipynb"


def test_its_parameters_are_the_others_and_two_of_its_own():
    sources = [
        "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][1]["source"])
        for path in (NOTEBOOK, CHECKOUT / "notebooks" / "02_candidate_finding.ipynb")
    ]
    own, other = (set(re.findall(r"^(\w+) = ", source, re.M)) for source in sources)
    assert own - other == {"flashes", "frames_directory"}
    assert other <= own


def test_the_truth_of_science_frames_names_what_flashes_in_them(tmp_path):
    """The star, every telegraph pixel that is up and every hit: each in its frame alone, by what the truth says."""
    folder = tmp_path / "2024-05-08" / "04_10_00" / "Science30s"
    paths = field.simulate_field(folder, (256, 256), SEED, 2000, (1, 150.3, 100.4, 6000.0))
    truth, plain = Table.read(folder / "truth.ecsv"), field.simulate_field(tmp_path / "a/b/c", (256, 256), SEED, 2000)
    scale = truth.meta["scale"]
    counts, without = (np.stack([fits.getdata(path).astype(float) for path in each]) for each in (paths, plain))
    np.testing.assert_array_equal(counts[[0, 2]], without[[0, 2]])
    assert (counts - without)[1, 93:108, 143:158].sum() * scale == pytest.approx(6000, rel=0.1)
    for kind in ("rts", "muon"):
        rows = truth[(truth["kind"] == kind) & (truth["value"] > 300)]
        assert len(rows)
        for row in rows:
            others = [
                k for k in range(3) if k not in truth["frame"][(truth["x"] == row["x"]) & (truth["y"] == row["y"])]
            ]
            if others:
                above = counts[row["frame"], row["y"], row["x"]] - counts[others, row["y"], row["x"]].mean()
                assert above * scale == pytest.approx(row["value"], abs=350)


@pytest.mark.slow
def test_it_runs_on_the_demo_and_its_report_names_each_verdict(tmp_path, monkeypatch, request):
    monkeypatch.setenv(HOME, str(tmp_path))
    out = tmp_path / "05.ipynb"
    execute(NOTEBOOK, out, {"injections": 0}, timeout=600)
    export_html(out, tmp_path / "05.html")
    report = (tmp_path / "05.html").read_text(encoding="utf-8")
    lines = [re.search(rf"{name}: ([\w ]+); judged ([\w' -]+)\.", report.replace("&#x27;", "'")) for name in "ABC"]
    assert [line.groups() for line in lines if line] == [
        ("flash", "not told apart"),
        ("rts", "camera"),
        ("muon", "camera-like"),
    ]
    assert report.count("<img") >= 2
    assert "would bring that to 0.05" in report
    # Only now: no notebook can be executed in a thread in which a browser has been started.
    read_by_everybody(request.getfixturevalue("offline"), tmp_path / "05.html")
