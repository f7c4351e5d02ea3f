"""The page of all nights: limits, pixels that come back, and a page that stays alive and harmless."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tracemalloc
import warnings

import nbformat
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from browser import browser, offline, read_by_everybody  # noqa: F401
from made_up_nights import SHAPE, fail, night_keys, publish, publish_many
from made_up_seasons import Nights

from sla1tools.errors import ParametersError
from sla1tools.frames.known_pixels import read_known_pixels
from sla1tools.nights.recurrence import PixelHistory, candidate_pixels, follow_pixels, recurrent_pixels
from sla1tools.nights.trends import LEAST_NIGHTS, METRICS, WINDOW, control_limits, read_nights
from sla1tools.parameters import Parameters
from sla1tools.places import CHECKOUT
from sla1tools.run.night import run_night
from sla1tools.run.season import write_trends
from sla1tools.show.pages import export_html
from sla1tools.show.season_page import nights_table, summed_up
from sla1tools.simulate.night import simulate_night

HOSTILE = "<script>alert(1)</script> $\\foo$"


def places(changes):
    return {name: set(map(tuple, getattr(changes, name).tolist())) for name in ("new", "returned", "vanished")}


@pytest.mark.slow
def test_limits_flag_three_in_a_thousand_sound_nights():
    """However many predecessors: together to a fifth, and none of their numbers far off."""
    each = 3000
    outside = []
    for nights in range(LEAST_NIGHTS, WINDOW + 1):
        values = np.random.default_rng(nights).normal(1300, 10, (each, nights + 1))
        limits = np.array([control_limits(row[:-1]) for row in values])
        outside.append(np.mean((values[:, -1] < limits[:, 0]) | (values[:, -1] > limits[:, 1])))
    assert 0.0021 < np.mean(outside) < 0.0033
    assert 0.0005 < min(outside) <= max(outside) < 0.0065


def test_limits_need_nights_and_hold_against_an_outlier():
    assert control_limits([1.0] * (LEAST_NIGHTS - 1)) is None
    assert control_limits([1.0] * LEAST_NIGHTS) == (1.0, 1.0)
    calm = [1300.0, 1301, 1299, 1302, 1298, 1300, 1301, 1299]
    low, high = control_limits([*calm, 9000.0])
    assert 1270 < low < high < 1330


def test_a_night_that_differs_is_flagged_with_the_reason(tmp_path):
    rng = np.random.default_rng(3)
    for number in range(12):
        publish(tmp_path, number, level=1300 + rng.normal(0, 5), noise=40 + rng.normal(0, 0.1))
    publish(tmp_path, 12, level=1500.0, noise=40.0, alarms=4.0)
    publish(tmp_path, 13, level=1300.0)
    differing = {night.path: night.differs for night in read_nights(tmp_path) if night.differs}
    assert list(differing) == ["2024-01-13/03_38_48/Dark30s"]
    level, alarms = differing["2024-01-13/03_38_48/Dark30s"]
    assert level.startswith("dark level 1,500, above the 1,2")
    assert level.endswith("of the 12 nights before")
    assert alarms.startswith("false alarms a frame 4, above")


def test_a_small_or_chance_change_does_not_matter(tmp_path):
    for number in range(10):
        publish(tmp_path, number)
    publish(tmp_path, 10, level=1310.0, hot=24, alarms=0.3)
    assert [night.differs for night in read_nights(tmp_path)] == [[]] * 11


def test_only_comparable_nights_are_compared(tmp_path):
    for number in range(8):
        publish(tmp_path, number)
    publish(tmp_path, 8, level=2600.0, changes={"dark_exposure": 60.0})
    publish(tmp_path, 9, alarms=9.0, changes={"threshold": 100.0})
    records = read_nights(tmp_path)
    assert not any(night.differs for night in records)
    assert set(records[8].limits) == set()
    assert "level" in records[9].limits
    assert "alarms" not in records[9].limits


def test_missing_and_broken_files_are_not_tested(tmp_path):
    for number in range(3):
        publish(tmp_path, number, flux=None, gain=None)
    folders = [tmp_path.joinpath(*night_keys(number).values()) for number in range(3)]
    (folders[0] / "summary.json").write_text('{"dark": {"level": "high", "noise": [1]}, "pixels": 3, "frames": null}')
    (folders[1] / "manifest.json").write_text("[" * 10_000)
    (folders[1] / "master_dark.fits").write_bytes(b"SIMPLE")
    (folders[2] / "candidates.ecsv").write_bytes(b"\xff\x00")
    manifest = json.loads((folders[2] / "manifest.json").read_text())
    manifest["parameters"] |= {"frame_shape": [10**9, 10**9]}
    (folders[2] / "manifest.json").write_text(json.dumps(manifest | {"outputs": {"master_dark.fits": "../../x"}}))
    (tmp_path / "2024-01-09").mkdir()
    records = read_nights(tmp_path)
    assert [record.verdict for record in records] == ["unreadable"] * 3
    assert [record.reasons[0].split(" is")[0] for record in records] == [
        "its summary.json",
        "its manifest.json",
        "its manifest.json",
    ]
    assert not any(record.values for record in records)
    assert "unreadable" in write_trends(tmp_path).read_text(encoding="utf-8")


def test_bad_pixels_that_come_and_go(tmp_path):
    for number, bad in enumerate([{(1, 2), (3, 4)}, {(3, 4), (39, 31)}, {(1, 2), (3, 4)}, {(3, 4), (1, 2), (7, 0)}]):
        publish(tmp_path, number, bad=bad)
    publish(tmp_path, 4, bad={(9, 9)}, changes={"dark_exposure": 60.0})
    records = read_nights(tmp_path)
    follow_pixels(records, tmp_path)
    changes = [places(record.changes) for record in records]
    assert changes[0] == {"new": set(), "returned": set(), "vanished": set()}
    assert changes[1] == {"new": {(39, 31)}, "returned": set(), "vanished": {(1, 2)}}
    assert changes[2] == {"new": set(), "returned": {(1, 2)}, "vanished": {(39, 31)}}
    assert changes[3] == {"new": {(7, 0)}, "returned": set(), "vanished": set()}
    assert changes[4] == changes[0]
    assert [record.changes.bad for record in records] == [2, 2, 2, 3, 1]


def test_history_against_plain_sets():
    rng = np.random.default_rng(5)
    shape, history, nights = (6, 7), PixelHistory((6, 7)), []
    for _ in range(30):
        index = np.flatnonzero(rng.random(42) < 0.3)
        listed = np.stack([index, np.full(len(index), 16)], axis=1).astype(np.int32)
        found = places(history.add(listed))
        tonight = {(int(i) % 7, int(i) // 7) for i in index}
        earlier, before = set().union(*nights), nights[-1] if nights else set()
        assert found["new"] == (tonight - earlier if nights else set())
        assert found["returned"] == (tonight & earlier) - before
        assert found["vanished"] == before - tonight
        nights.append(tonight)
    table = history.table([str(k) for k in range(30)])
    for row in table:
        where = [k for k, pixels in enumerate(nights) if (row["x"], row["y"]) in pixels]
        assert (row["nights"], int(row["first"]), int(row["last"])) == (len(where), where[0], where[-1])
        steady = where == list(range(where[0], 30))
        expected = "vanished" if where[-1] < 29 else "new" if where == [29] else "steady" if steady else "recurrent"
        assert row["state"] == expected
    assert len(table) == len(set().union(*nights))
    assert shape == history.shape


def test_recurrent_candidates_become_a_mask(tmp_path):
    publish(tmp_path, 0, candidates=[(5, 6), (5, 6), (1, 1)])
    publish(tmp_path, 1, candidates=[(5, 6), (39, 31)])
    publish(tmp_path, 2, candidates=[(39, 31), (6, 6)], name="Dark 30 s")
    write_trends(tmp_path)
    with fits.open(tmp_path / "known_pixels.fits") as hdus:
        mask, rows = hdus[0].data, Table(hdus["RECURRENT"].data)
    assert mask.dtype == np.uint8
    assert mask.shape == SHAPE
    assert set(map(tuple, np.argwhere(mask))) == {(6, 5), (31, 39)}
    assert [(row["x"], row["y"], row["nights"]) for row in rows] == [(5, 6, 2), (39, 31, 2)]


@pytest.mark.slow
def test_a_list_that_is_used_does_not_forget(tmp_path):
    """Nights that left a listed pixel out cannot show it again; a pixel that no night left out is dropped."""
    for number in (0, 1):
        publish(tmp_path, number, candidates=[(5, 6), (8, 8)])
    write_trends(tmp_path)
    for number in (0, 1):
        rows = Table(names=("frame", "x", "y"), dtype=("U9", "i4", "i4"))
        rows.write(tmp_path.joinpath(*night_keys(number).values(), "candidates.ecsv"), overwrite=True)
    publish(tmp_path, 2, known=[(5, 6)])
    for _ in range(2):
        write_trends(tmp_path)
        assert set(map(tuple, np.argwhere(fits.getdata(tmp_path / "known_pixels.fits")))) == {(6, 5)}
    publish(tmp_path, 3, changes={"dark_exposure": 60.0})  # the latest night is not of those that use the list
    write_trends(tmp_path)
    assert set(map(tuple, np.argwhere(fits.getdata(tmp_path / "known_pixels.fits")))) == {(6, 5)}


def test_candidates_as_astropy_reads_them(tmp_path):
    folder = publish(tmp_path, 0, candidates=[(5, 6), (7, 8)])
    table = Table.read(folder / "candidates.ecsv")
    assert candidate_pixels(folder / "candidates.ecsv", SHAPE) == list(zip(table["x"], table["y"], strict=True))
    assert candidate_pixels(tmp_path / "none", SHAPE) is None
    assert len(recurrent_pixels({})) == 0


def one_night(outputs):
    publish(outputs, 0)
    records = read_nights(outputs)
    return records, *follow_pixels(records, outputs)


def test_nothing_there_and_nothing_writable(tmp_path):
    page = write_trends(tmp_path / "new")
    assert "There is no night here yet" in page.read_text(encoding="utf-8")
    assert "1 night, 0 failed, 0 that differ from" in summed_up(*one_night(tmp_path / "one")).data
    assert "no night yet" in summed_up([], recurrent_pixels({}), None).data
    assert len(nights_table([])) == 0
    (tmp_path / "file").touch()
    with pytest.raises(ParametersError, match="file"):
        write_trends(tmp_path / "file")


@pytest.mark.slow
def test_the_same_page_again_from_the_kept_lists(tmp_path):
    for number in range(3):
        publish(tmp_path, number, bad={(number, 2)}, candidates=[(5, 6)])
    first = write_trends(tmp_path).read_bytes(), (tmp_path / "known_pixels.fits").read_bytes()
    kept = list((tmp_path / ".trends").iterdir())
    assert sorted(path.suffix for path in kept) == [".npy"] * 3
    assert (write_trends(tmp_path).read_bytes(), (tmp_path / "known_pixels.fits").read_bytes()) == first


@pytest.fixture(scope="module")
def season(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("season [1]")
    rng, drawn = np.random.default_rng(1), Nights()
    for number in range(40):
        level = 1500.0 if number == 35 else 1300 + rng.normal(0, 4)
        counts = drawn.draw(np.random.default_rng(number), 0.5)
        publish(outputs, number, bad={(number % 40, 3)}, candidates=[(5, 6)], level=level, counts=counts)
    publish(outputs, 40, reasons=[HOSTILE], name="<b onclick=alert(1)>Dark", flux=None)
    fail(outputs, 41, f"02_candidate_finding: {HOSTILE}")
    return write_trends(outputs)


def rows_of(page):
    return page.eval_on_selector_all(
        "#nights tbody tr", "rows => rows.filter(r => !r.hidden).map(r => Array.from(r.cells, c => c.innerText))"
    )


def test_page_in_a_browser(season, offline, tmp_path):  # noqa: F811
    watched = offline(width=1500)
    page = watched.open(season)
    rows = rows_of(page)
    assert len(rows) == 42
    assert rows[0][0].split("\n")[0] == "2024-02-14 03_38_48 Dark30s"
    assert rows[1][0].split("\n") == ["2024-02-13 03_38_48 <b onclick=alert(1)>Dark", HOSTILE]
    level = page.locator("#nights thead th").all_inner_texts().index("dark level [e-]")
    for wanted in (False, True):
        page.locator("#nights").get_by_role("button", name="dark level").click()
        found = [float(row[level].replace(",", "")) for row in rows_of(page) if row[level] != "–"]
        assert found == sorted(found, reverse=wanted)
        assert len(found) == 41
        assert rows_of(page)[-1][level] == "–"
    page.get_by_label("only nights that differ").check()
    (differing,) = rows_of(page)
    assert "dark level 1,500, above the" in differing[0]
    assert page.locator("#tally").inner_text() == "1 of 42 shown"
    page.get_by_label("only nights that differ").uncheck()
    page.get_by_label("Verdict").select_option("failed")
    assert len(rows_of(page)) == 1
    page.get_by_label("Verdict").select_option("")
    page.get_by_label("Search").fill("2024-01-07")
    assert len(rows_of(page)) == 1
    page.get_by_role("link", name="2024-01-07").click()
    assert page.inner_text("body") == "the night"
    assert watched.requests == []
    assert watched.complaints == []


@pytest.mark.slow
def test_notebook_by_plain_papermill_says_the_same(season, tmp_path, offline):  # noqa: F811
    source, executed = CHECKOUT / "notebooks" / "04_night_trends.ipynb", tmp_path / "executed.ipynb"
    before = {path: path.stat().st_mtime_ns for path in season.parent.iterdir()}
    command = [sys.executable, "-m", "papermill", source, executed, "-p", "outputs_directory", season.parent]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    assert {path: path.stat().st_mtime_ns for path in season.parent.iterdir()} == before
    outputs = [
        output.data
        for cell in nbformat.read(executed, as_version=4).cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    words = "\n".join(found.get("text/html", "") for found in outputs)
    assert "42 nights, 1 failed, 1 that differs from the nights before" in words
    assert "dark level 1,500, above the" in words
    page = season.read_text(encoding="utf-8")
    assert sum("image/png" in found for found in outputs) == page.count("<figure>")
    (told,) = [
        found["text/html"] for found in outputs if "false alarms a frame (95 % limits" in found.get("text/html", "")
    ]
    assert re.search(r"\d+ frames of \d+ nights of QHY42PRO, 2024-\S+ to", told)[0] in page
    export_html(executed, tmp_path / "executed.html")
    report = (tmp_path / "executed.html").read_text(encoding="utf-8")
    assert "<b onclick" not in report
    assert 'alt="dark level: 41 nights, 1 outside; latest 1,300 e-"' in report
    read_by_everybody(offline, tmp_path / "executed.html")


@pytest.mark.parametrize("width", [1100, 600])
def test_narrow_page_by_keyboard(season, offline, width):  # noqa: F811
    """The table alone scrolls, sideways and down, under a header and beside names that stay; keys sort and filter."""
    page = offline(width=width).open(season)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    table = page.get_by_role("region", name="Nights")
    page.get_by_label("only nights that differ").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "all"
    page.keyboard.press("End")
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "() => { const all = document.activeElement; const rest = all.scrollWidth - all.clientWidth;"
        " return all.scrollTop > 100 && all.scrollLeft >= Math.min(100, rest); }"
    )
    frame, corner = table.bounding_box(), page.get_by_role("columnheader", name="night", exact=True).bounding_box()
    name = page.get_by_role("rowheader").last.bounding_box()
    assert abs(corner["x"] - frame["x"]) < 2
    assert abs(corner["y"] - frame["y"]) < 2
    assert abs(name["x"] - frame["x"]) < 2
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    head = page.get_by_role("columnheader", name="night", exact=True)
    assert head.get_attribute("aria-sort") == "ascending"
    assert rows_of(page)[0][0].startswith("2024-01-01")
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert rows_of(page)[0][0].startswith("2024-02-14")
    page.get_by_label("Verdict").focus()
    page.keyboard.press("f")
    assert len(rows_of(page)) == 1


def test_page_of_one_night_is_sound(tmp_path):
    """No chart over a time of one moment, and no plural."""
    publish(tmp_path, 0)
    text = write_trends(tmp_path).read_text(encoding="utf-8")
    assert "<p>1 night, 0 failed" in text
    assert "<figure>" not in text
    assert "Over time" not in text


@pytest.mark.slow
def test_charts_have_words(season):
    """The caption is the image's alternative text."""
    text = season.read_text(encoding="utf-8")
    assert "<figcaption>dark level: 41 nights, 1 outside; latest 1,300 e-</figcaption>" in text
    assert 'alt="Over time: dark level: 41 nights, 1 outside; latest 1,300 e-"' in text


def test_page_without_javascript_shows_all(season, offline):  # noqa: F811
    watched = offline(javascript=False)
    assert len(rows_of_plain(watched.open(season))) == 42


def rows_of_plain(page):
    return page.locator("#nights tbody tr").all()


def test_links_of_hostile_names_stay_paths(season):
    text = season.read_text(encoding="utf-8")
    assert "<b onclick" not in text
    assert 'href=".failed/2024-02-14/03_38_48/Dark30s/manifest.json"' in text


@pytest.mark.slow
def test_a_thousand_nights_fit_on_the_page(tmp_path):
    publish_many(tmp_path, 1000)
    page = write_trends(tmp_path)
    assert page.stat().st_size < 3_000_000
    assert page.read_text(encoding="utf-8").count('<td><span class="state ok">') == 1000


@pytest.mark.slow
def test_charts_and_table_raise_no_warning(season):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_trends(season.parent)


def flash(path, x, y, flux=8000.0, sigma=0.85):
    """Add a star-like flash to a frame on disk, as a sick pixel's neighbourhood might; electrons."""
    steps = np.arange(-3, 4)
    profile = np.exp(-(steps**2) / (2 * sigma**2))
    star = np.outer(profile, profile) / profile.sum() ** 2 * flux * 16 / 1.39
    with fits.open(path, mode="update", memmap=False) as hdus:
        counts = hdus[0].data.astype(float)
        counts[y - 3 : y + 4, x - 3 : x + 4] += star
        hdus[0].data = counts.round().clip(0, 65535).astype(np.uint16)


def shape_of_night(folder):
    """What the page reads of a night: columns of its candidates, and the keys of its summary."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    keys = {key: set(value) if isinstance(value, dict) else None for key, value in summary.items() if key != "pixels"}
    return Table.read(folder / "candidates.ecsv", format="ascii.ecsv").colnames, keys


@pytest.mark.slow
def test_real_nights_fill_the_page_and_their_list_works_in_a_run(tmp_path, monkeypatch):
    """From raw frames: no number of the page is missing, and the pixel that flashed twice is left out afterwards."""
    shape, outputs, nights = (96, 112), tmp_path / "outputs [1]", []
    for number in (1, 2):
        night = Parameters(
            sessions_directory=str(tmp_path / "2024 SLA Sessions"),
            capture_date=f"2024-05-{number:02d}",
            object_name="Dark 30 s",
            frame_shape=shape,
            injections=300,
            criterion="psf_chi2",
        )
        frames = simulate_night(night.capture_directory, frames=6, shape=shape, seed=number, clean=True)
        flash(frames[2 * number - 1], 60, 40)
        nights.append(night)
        assert run_night(night, outputs, notebooks=()).verdict == "ok"
    (_, second) = records = read_nights(outputs)
    told = {metric.name for metric in METRICS} - {"gain"}  # which so few pixels do not tell
    assert all(record.values[name] is not None for record in records for name in told)
    assert second.values["temperature"] == pytest.approx(-20, abs=1)
    assert second.recommended == (), "half of six frames cannot show the budget kept"
    made_up = publish(tmp_path / "made up", 0, candidates=[(5, 6)])
    assert shape_of_night(made_up) == shape_of_night(outputs.joinpath(*second.path.split("/")))
    write_trends(outputs)
    known = outputs / "known_pixels.fits"
    assert np.argwhere(fits.getdata(known)).tolist() == [[40, 60]]
    listed = nights[1].model_copy(update={"known_pixels": str(known)})
    assert np.argwhere(read_known_pixels(listed)).tolist() == [[40, 60]]
    folder = outputs.joinpath(*read_nights(outputs)[1].path.split("/"))
    assert (60, 40) in candidate_pixels(folder / "candidates.ecsv", shape)
    assert run_night(listed, outputs, notebooks=()).verdict == "ok"
    assert (60, 40) not in candidate_pixels(folder / "candidates.ecsv", shape)
    write_trends(outputs)
    assert np.argwhere(fits.getdata(known)).tolist() == [[40, 60]]


def in_json(name, *keys, value):
    """Damage: one value of a file of JSON."""

    def change(folder):
        whole = json.loads((folder / name).read_text(encoding="utf-8"))
        part = whole
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value
        (folder / name).write_text(json.dumps(whole), encoding="utf-8")

    return change


def in_header(key, value):
    return lambda folder: fits.setval(folder / "master_dark.fits", key, value=value)


def replaced_by(name, make):
    def change(folder):
        (folder / name).unlink()
        make(folder / name)

    return change


def other_cache(contents):
    """Damage: the kept list of the night's bad pixels is something else."""

    def change(folder):
        outputs = folder.parents[2]
        write_trends(outputs)
        for path in (outputs / ".trends").glob("*.npy"):
            path.write_bytes(contents)

    return change


def npy(array, allow_pickle=False):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


ROWS = "# %ECSV 1.0\n# ---\n# datatype:\n# - {name: frame, datatype: string}\nframe x y\n"
UNREADABLE_BY = {
    "level of 309 digits": in_json("summary.json", "dark", "level", value=1e308),
    "interval of 309 digits": in_json(
        "summary.json", "completeness", "neighbor_ratio", "flux_50", "high", value=-1e308
    ),
    "cut of 309 digits": in_json("summary.json", "operating_point", "neighbor_ratio", "cuts", "ratio", value=1e308),
    "pixels of 400 digits": in_json("summary.json", "pixels", "hot", value=10**400),
    "text for a number": in_json("summary.json", "dark", "noise", value="<b>"),
    "list for a mapping": in_json("summary.json", "dark", value=[1]),
    "summary nested for ever": replaced_by("summary.json", lambda path: path.write_text("[" * 10**6)),
    "summary a pipe": replaced_by("summary.json", os.mkfifo),
    "summary a device": replaced_by("summary.json", lambda path: path.symlink_to("/dev/zero")),
    "summary a folder": replaced_by("summary.json", lambda path: path.mkdir()),
    "frames of 4 gigapixels": in_json("manifest.json", "parameters", "frame_shape", value=[65535, 65535]),
    "exposure of 309 digits": in_json("manifest.json", "parameters", "dark_exposure", value=1e308),
    "exposure a list": in_json("manifest.json", "parameters", "dark_exposure", value=[30.0, 30.0]),
    "criterion a mapping": in_json("manifest.json", "parameters", "criterion", value={}),
    "manifest nested for ever": replaced_by("manifest.json", lambda path: path.write_text("[" * 10**6)),
    "temperature beyond any": in_header("CCD-TEMP", 1e307),
    "year 1": in_header("DATE-BEG", "0001-01-01T00:00:00"),
    "year 9999": in_header("DATE-BEG", "9999-12-31T23:59:59"),
    "no date at all": in_header("DATE-BEG", "yesterday"),
    "place beyond the frame": lambda folder: (folder / "candidates.ecsv").write_text(ROWS + "a 40 3\n"),
    "place of 400 digits": lambda folder: (folder / "candidates.ecsv").write_text(ROWS + f"a {10**400} 3\n"),
    "candidates a pipe": replaced_by("candidates.ecsv", os.mkfifo),
}
HARMLESS = {
    "frames larger than their file": in_json("manifest.json", "parameters", "frame_shape", value=[16384, 16384]),
    "master a pipe": replaced_by("master_dark.fits", os.mkfifo),
    "kept list of floats": other_cache(npy(np.array([[1.5, 2.0]]))),
    "kept list of programs": other_cache(npy(np.array([[object]]), allow_pickle=True)),
    "kept list outside": other_cache(npy(np.array([[10**6, 16]], np.int32))),
    "kept list of one column": other_cache(npy(np.array([3], np.int32))),
    "kept list a promise": other_cache(npy(np.zeros((2, 2), np.int32)).replace(b"(2, 2)", b"(2000000000, 2)"[:6])),
    "kept list nothing": other_cache(b""),
}


FIRST = "2024-01-01/03_38_48/Dark30s"


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices are POSIX")
@pytest.mark.parametrize("damage", [*UNREADABLE_BY, *HARMLESS])
@pytest.mark.slow
def test_damaged_files_make_their_night_unreadable_on_a_page_that_is_written(tmp_path, damage):
    folders = [publish(tmp_path, number, bad=[(1, 2)], candidates=[(5, 6)]) for number in range(2)]
    (UNREADABLE_BY | HARMLESS)[damage](folders[1])
    tracemalloc.start()
    text = write_trends(tmp_path).read_text(encoding="utf-8")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6
    assert text.count("data-verdict=") == 2
    assert text.count('data-verdict="unreadable"') == (damage in UNREADABLE_BY)
    assert not re.search(r"\d{30}", re.sub(r"data:[^\"]*", "", text))
    assert {record.path: record.values.get("level") for record in read_nights(tmp_path)}[FIRST] == 1300.0


@pytest.mark.skipif(os.name != "posix", reason="such names are POSIX")
def test_a_folder_whose_name_is_no_text_is_left_out_and_named(tmp_path, caplog):
    folder = publish(tmp_path, 0)
    shutil.copytree(folder, folder.with_name(os.fsdecode(b"Dark\xff")))
    text = write_trends(tmp_path).read_text(encoding="utf-8")
    assert text.count("data-verdict=") == 1
    assert "left out" in caplog.text
    assert "Dark\\udcff" in caplog.text
