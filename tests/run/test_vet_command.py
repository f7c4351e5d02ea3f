"""`sla1 vet`: what it says first, what it writes, what it refuses; its page and its tables read back."""

import hashlib

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from browser import browser, offline, read_by_everybody  # noqa: F401
from click.testing import CliRunner
from star_fields import scattered
from vetted import SHAPE, darks, sky_counts

from sla1tools.candidates.rows import LEADER_COLUMNS
from sla1tools.cli import main
from sla1tools.parameters import to_yaml
from sla1tools.vetting.flashes import read_flashes
from sla1tools.vetting.judging import VERDICTS

CARDS = {"EXPTIME": 30.0, "GAIN": 5, "IMAGETYP": "Light", "DATE-OBS": "2024-05-08T04:00:00"}
STARS, FLUXES = scattered(SHAPE, 12, 4), np.geomspace(3000, 12_000, 12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A night's parameters, three science frames beside one of another exposure, and a list of flashes."""
    folder = tmp_path_factory.mktemp("vet")
    parameters, _ = darks(folder / "darks", 1)
    (folder / "night.yaml").write_text(to_yaml(parameters), encoding="utf-8")
    science = folder / "science"
    science.mkdir()
    for k in range(4):
        cards = CARDS | ({"EXPTIME": 60.0} if k == 3 else {})
        fits.PrimaryHDU(sky_counts(20 + k, STARS, FLUXES), fits.Header(cards)).writeto(science / f"{k}.fits")
    (science / "log.txt").write_text("no frame", encoding="utf-8")
    rows = [f"{k % 3}.fits,{x:.2f},{y:.2f},{k},ok" for k, (x, y) in enumerate(STARS)]
    (folder / "flashes.csv").write_text("\n".join(["file,x,y,snr,who", *rows]) + "\n", encoding="utf-8")
    return folder


def vet(folder, *arguments):
    return CliRunner().invoke(main, ["vet", *map(str, arguments), "-f", str(folder / "night.yaml")])


def test_the_command_says_what_was_searched_and_writes_three_files(folder, tmp_path):
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "science").iterdir()}
    to = tmp_path / "v.ecsv"
    result = vet(folder, folder / "flashes.csv", "--frames", folder / "science", "--to", to)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("searched: 3 whole frames, all of 30 s and these darks' shape and gain in")
    assert lines[-3:] == [str(to.with_suffix(suffix)) for suffix in (".ecsv", ".reg", ".html")]
    assert before == {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "science").iterdir()}
    table = Table.read(to)
    given = ["file", "x_given", "y_given", "snr_given", "who"]
    assert table.colnames[:5] == given
    assert set(LEADER_COLUMNS) <= set(table.colnames[5:])
    assert table.colnames[-6:] == ["sky", "searched", "expected", "expected_high", "verdict", "reasons"]
    assert list(table["snr_given"]) == list(range(12)), "rows in their order"
    assert np.abs(table["x"] - table["x_given"]).max() < 1.6
    assert set(table["verdict"]) <= set(VERDICTS) - {"not judged"}
    assert str(table["sky"].unit) == "electron"
    assert (table["searched"] == 3).all()
    (folder / "science" / "again.reg").write_bytes(to.with_suffix(".reg").read_bytes())
    flashes, _ = read_flashes(folder / "science" / "again.reg")
    np.testing.assert_allclose(flashes["x"], table["x_given"], atol=1e-3)
    assert list(flashes["file"]) == list(table["file"])
    page = to.with_suffix(".html").read_text(encoding="utf-8")
    assert page.count('<article class="flash"') == 12
    assert "http" not in page.replace("http-equiv", "")
    refused = vet(folder, folder / "flashes.csv", "--frames", folder / "science", "--to", to)
    assert refused.exit_code == 2
    assert "is there already" in refused.output


def test_known_places_were_not_searched(folder, tmp_path):
    result = vet(
        folder, folder / "flashes.csv", "--frames", folder / "science", "--known-places", "--to", tmp_path / "v.ecsv"
    )
    assert result.stdout.startswith("searched: places fixed before looking")
    table = Table.read(tmp_path / "v.ecsv")
    assert set(table["verdict"]) == {"not the camera's"}
    np.testing.assert_allclose(table["searched"], 25 / (SHAPE[0] * SHAPE[1]))


def test_what_cannot_be_judged_says_why_and_ends_with_1(folder, tmp_path):
    listed = tmp_path / "f.csv"
    listed.write_text("file,x,y\n3.fits,5,5\n0.fits,-7,5\n0.fits,,5\nlog.txt,1,1\n", encoding="utf-8")
    result = vet(folder, listed, "--frames", folder / "science", "--searched", 960, "--to", tmp_path / "v.ecsv")
    assert result.exit_code == 1, result.output
    assert (tmp_path / "v.ecsv").is_file(), result.output
    assert result.stdout.startswith("searched: 960 whole frames, as given")
    table = Table.read(tmp_path / "v.ecsv")
    assert set(table["verdict"]) == {"not judged"}
    for reason, text in zip(table["reasons"], ("EXPTIME 60 s", "outside", "not given", "no frame of"), strict=True):
        assert text in reason
    assert (tmp_path / "v.html").read_text(encoding="utf-8").count("<article") == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.csv", "b.csv"], "name one file of flashes"),
        (["a.csv", "--known-places", "--searched", "3"], "nothing was searched"),
        (["a.csv", "--searched", "0"], "0 is not in the range"),
        (["a.csv"], "there is no a.csv"),
        (["a.csv", "--to", "v.fits"], "must end in .ecsv"),
        (["--search", "a.fits"], "at least two frames"),
    ],
)
def test_what_cannot_be_done_is_refused(folder, arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = vet(folder, *arguments)
    assert result.exit_code in (2, 3)
    assert message in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_frames_of_one_pointing_are_searched(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    frames = [folder / "science" / f"{k}.fits" for k in range(3)]
    result = vet(folder, "--search", *frames)
    assert result.exit_code == 0
    assert "searched: 3 whole frames" in result.stdout
    assert "shifted by x 0, y 0 px" in result.stderr
    found = Table.read(tmp_path / "found_vetted.ecsv")
    away = [np.hypot(*(STARS - [row["x"], row["y"]]).T).min() for row in found]
    assert min(away, default=9) > 3, "no star is a flash"


def test_the_page_sorts_filters_and_asks_nothing_of_the_network(folder, tmp_path, offline):  # noqa: F811
    listed = tmp_path / "f.csv"
    rows = "".join(f"0.fits,{x:.2f},{y:.2f},<b>{k}</b>\n" for k, (x, y) in enumerate(STARS))
    listed.write_text(f"file,x,y,who\n{rows}0.fits,-7,5,\n", encoding="utf-8")
    vet(folder, listed, "--frames", folder / "science", "--to", tmp_path / "v.ecsv")
    watched = offline(width=390)
    page = watched.open(tmp_path / "v.html")
    assert len(page.query_selector_all(".flash")) == 13
    assert not page.query_selector_all(".flash b"), "what is given is text"
    page.select_option("#sort", "snr")
    snr = [card.get_attribute("data-snr") for card in page.query_selector_all(".flash")]
    assert snr[-1] == "", "what was not measured comes last"
    assert list(map(float, snr[:-1])) == sorted(map(float, snr[:-1]), reverse=True)
    page.select_option("#verdict", "not judged")
    assert page.inner_text("#tally") == "1 of 13 shown"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not watched.requests
    assert not watched.complaints
    read_by_everybody(offline, tmp_path / "v.html")
