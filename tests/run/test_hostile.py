"""Hostile text in every card that is read, and in the names of files: through a whole run it stays text, everywhere."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from astropy.io import fits
from astropy.table import Table
from browser import browser, offline  # noqa: F401
from fault_table import raw_card
from small_nights import parameters_of

from sla1tools import __version__
from sla1tools.candidates.rows import FILE_COLUMNS
from sla1tools.frames.capture import readable
from sla1tools.frames.headers import HEADER_KEYS, READ_KEYS
from sla1tools.parameters import to_yaml
from sla1tools.published import LOCKS, MARK, PAGES, night_path
from sla1tools.run.workers import LOGS, Job, run_one
from sla1tools.simulate.night import parse_star, simulate_night

pytestmark = pytest.mark.skipif(os.name != "posix", reason="other systems have no such file names")

SHAPE = (96, 112)
TEXTS = (
    b"'<script>window.hacked=1;alert(1)</script>'",
    b"'<img src=x onerror=window.hacked=1;alert(2)> $\\foo$ $$x$$'",
    b"'../../../../../../tmp/hacked'",
    b"'\x1b[2J\x1b]0;hacked\x07 a\0b \r\n \x9b31m'",
    b"'" + b"x" * 68 + b"'",
    "'Nächte 星 \u202egnp.x'".encode(),
    b"'\" onmouseover=window.hacked=1 {{7*7}} {% raw %} {0} %s'",
    b"never closed, `id` [a](javascript:alert(3)) <b>",
)
FILES = (
    "<img src=x onerror=window.hacked=1>.fits",
    "$\\foo$ $x_{.fits",
    "\x1b[31mred\x07.fits",
    "a\nimage\ncircle(1,1,9) # text={x}.fits",
    "Nächte 星 } \" '.fits",
    "{0} %s `id` ..fits",
)
SPOILING = ("EXPTIME", "BUNIT", "FILTER")
NIGHT = {"object_name": "<img src=x onerror=window.hacked=1> $x_{$", "capture_time": "03_38_48 {0} 'q' \"d\" é"}
CUTS = {"filter_name": "Dark", "threshold": 80.0, "ratio": 0.02}  # so low that every frame has candidates
SLA1 = [sys.executable, "-c", "from sla1tools.cli import main; main()"]


def spoil(folder):
    """Give every frame a hostile name and hostile cards; the last three are such that a run must reject them."""
    paths = sorted(folder.glob("*.fits"))
    for number, path in enumerate(paths):
        with fits.open(path, mode="update") as hdus:
            hdus[0].header.update({"IMAGETYP": "Dark", "FILTER": "Dark", "BUNIT": "adu"})
            read = sorted({*HEADER_KEYS, *READ_KEYS} & {*hdus[0].header} - {*SPOILING, "DATE-END"})
        for place, key in enumerate(read):
            raw_card(key, TEXTS[(number + place) % len(TEXTS)])(path)
    for path, name in zip(paths, FILES, strict=False):
        path.rename(folder / name)
    for path, key, text in zip(paths[len(FILES) :], SPOILING, TEXTS, strict=False):
        raw_card(key, text)(path)
    (folder / "<script>window.hacked=1\x1b[m.fits").write_text("<script>")


class Hostile:
    """A night whose every text is hostile, run by `sla1 run`, with what `sla1` said of it."""

    def __init__(self, root):
        self.root, self.outputs, self.said = root, root / "out {0} %s 'é' [x]", b""
        self.parameters = parameters_of(root / "sessions ~ $HOME {1}", SHAPE, **NIGHT, **CUTS)
        (root / "sessions ~ $HOME {1}").mkdir()  # a name that is there is no variable
        stars = [parse_star("6000@2.0"), parse_star("9000@2.0")]
        simulate_night(self.parameters.capture_directory, frames=len(FILES) + 3, shape=SHAPE, stars=stars)
        spoil(self.parameters.capture_directory)
        (root / "night.yaml").write_text(to_yaml(self.parameters), encoding="utf-8")
        self.before = self.raw_files()
        self.sla1("-v", "check", root / "night.yaml")
        self.sla1("-v", "run", root / "night.yaml", "--outputs", self.outputs)
        self.sla1("trends", "--outputs", self.outputs)
        self.place = self.outputs / night_path(self.parameters)

    def raw_files(self):
        folder = self.parameters.capture_directory
        return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in os.listdir(folder)}

    def sla1(self, *arguments):
        run = subprocess.run([*SLA1, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
        self.said += run.stdout
        assert run.returncode == 0, run.stdout.decode()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    return Hostile(tmp_path_factory.mktemp("SLA 100% \"q\" 'é' 星 {x}"))


def test_every_file_has_its_verdict(hostile):
    summary = json.loads((hostile.place / "summary.json").read_text(encoding="utf-8"))
    assert set(summary["frames"]["used"]) == set(map(readable, FILES))
    assert set(summary["frames"]["rejected"]) == {"keyword", "unit", "filter", "not_fits"}
    assert sum(summary["candidates"]["neighbor_ratio"]["per_frame"]) > 12


def test_raw_files_are_the_same_bytes(hostile):
    assert hostile.raw_files() == hostile.before


def test_the_terminal_gets_no_control_character(hostile):
    assert not re.findall(rb"[\x00-\x09\x0b-\x1f\x7f]", hostile.said)
    assert "\\x1b" in hostile.said.decode()


def test_the_log_gets_no_control_character(hostile, tmp_path):
    job = Job(hostile.parameters, tmp_path, False, "", __version__, "", notebooks=())
    assert run_one(job).verdict == "degraded"
    log = (tmp_path / LOGS / f"{job.night}.log").read_bytes()
    assert not re.findall(rb"[\x00-\x09\x0b-\x1f\x7f]", log)


def test_no_path_is_made_outside_the_nights_folder(hostile):
    assert {path.name for path in hostile.root.iterdir()} == {
        "night.yaml",
        hostile.outputs.name,
        Path(hostile.parameters.sessions_directory).name,
    }
    beside = {path.relative_to(hostile.outputs).parts[0] for path in hostile.outputs.rglob("*") if path.is_file()}
    assert beside - set(PAGES) == {"2024-05-08", LOCKS, ".trends", MARK}
    assert {path.parent for path in (hostile.outputs / "2024-05-08").rglob("*") if path.is_file()} == {hostile.place}
    assert not Path("/tmp/hacked").exists()


def test_pages_run_nothing_and_ask_nothing(hostile, offline):  # noqa: F811
    pages = [hostile.outputs / "index.html", *sorted(hostile.place.glob("*.html"))]
    assert len(pages) == 5
    for path in pages:
        watched = offline()
        page = watched.open(path)
        page.wait_for_timeout(100)
        page.mouse.move(200, 200)
        assert page.evaluate("window.hacked") is None, path.name
        assert watched.requests == []
        assert watched.complaints == []
        assert page.locator("img[src='x'], [onerror], [onmouseover], a[href^='javascript']").count() == 0
        text = page.inner_text("body")
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text), path.name
        assert ("\\x1b[31mred" in text) == (path.parent == hostile.place), path
        assert NIGHT["object_name"] in text, path
    assert "<script>window.hacked=1;alert(1)</script>" in text
    assert "\\foo" in text


def test_figures_are_drawn_without_a_complaint(hostile):
    for path in hostile.place.glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        assert not [output for output in outputs if output["output_type"] in ("stream", "error")], path.name
        assert sum("image/png" in output.get("data", {}) for output in outputs) > 2


def test_tables_are_read_back_whole(hostile):
    candidates = Table.read(hostile.place / "candidates.ecsv")
    assert candidates.colnames == list(FILE_COLUMNS)
    assert {str(name) for name in candidates["frame"]} == set(map(readable, FILES))
    with fits.open(hostile.place / "leaders.fits") as hdus:
        hdus.verify("exception")
        rows = hdus[1].data
        passed = [(x, y, peak) for x, y, peak in candidates.iterrows("x", "y", "peak")]
        assert set(passed) <= set(zip(rows["x"], rows["y"], rows["peak"], strict=True))


def test_region_file_holds_its_circles_and_nothing_else(hostile):
    lines = (hostile.place / "candidates.reg").read_bytes().split(b"\n")
    circle = re.compile(rb"circle\([0-9.]+,[0-9.]+,4\.0+\) # text=\{[A-Za-z0-9._+-]+ [0-9]+ e-\}")
    assert [line for line in lines if not circle.fullmatch(line)] == [
        b"# Region file format: DS9 astropy/regions",
        b"image",
        b"",
    ]
    assert len(lines) == 3 + len(Table.read(hostile.place / "candidates.ecsv"))


def test_headers_of_products_are_plain(hostile):
    for name in ("master_dark.fits", "leaders.fits", "injections.fits"):
        with fits.open(hostile.place / name, checksum=True) as hdus:
            hdus.verify("exception")
            header = hdus[0].header
            assert re.fullmatch(r"[ -~\n]*", header.tostring("\n"))
            assert header["FRAME001"] in {readable(name).encode("ascii", "backslashreplace").decode() for name in FILES}
