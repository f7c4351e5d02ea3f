"""The season's gallery: candidates of all comparable nights, counted as Python counts them."""

import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.table import vstack
from browser import browser, offline  # noqa: F401
from made_up_nights import SHAPE, publish
from made_up_seasons import Nights
from night_tables import make_leaders
from numpy.lib import recfunctions

from sla1tools.candidates.criteria import CRITERIA
from sla1tools.nights.gallery import _Kept, gallery_rows, season_candidates, write_gallery
from sla1tools.nights.season import sum_season
from sla1tools.nights.trends import read_nights
from sla1tools.parameters import Parameters
from sla1tools.published.formats import GALLERY, read_archive, write_archive
from sla1tools.run.season import write_trends
from sla1tools.show.season_page import season_payload

OWN = {"frame_shape": SHAPE, "threshold": 150.0, "ratio": 0.1, "snr_min": 5.0, "p_min": 0.001}
STRICTER = [
    ("neighbor_ratio", {"threshold": 150.0, "ratio": 0.1}),
    ("neighbor_ratio", {"threshold": 200.0, "ratio": 0.25}),
    ("psf_chi2", {"snr_min": 5.0, "p_min": 0.001}),
    ("psf_chi2", {"snr_min": 7.3, "p_min": 0.001}),
    ("psf_chi2", {"snr_min": 5.0, "p_min": 0.2}),
]


@pytest.fixture(scope="module")
def season(tmp_path_factory):
    """Four nights of made-up leaders, and one without; galleries keep what passes; the leaders; the outputs."""
    outputs, leaders, counts = tmp_path_factory.mktemp("gallery"), [], Nights(Parameters(**OWN))
    for number in range(5):
        rows = make_leaders(600, Parameters(**OWN), seed=number, stars=0.2)[: 600 if number < 4 else 0]
        folder = publish(outputs, number, changes=OWN, counts=counts.draw(np.random.default_rng(number), 1.0))
        write_gallery(rows, Parameters(**OWN), folder / GALLERY)
        rows["frame"] = np.array([f"{number} {name}" for name in rows["frame"]], str)
        leaders.append(rows[rows["reference"] == "leave_one_out"])
    return outputs, vstack(leaders), sum_season(read_nights(outputs), outputs)


def test_at_every_stricter_setting_it_selects_what_all_leaders_give(season):
    outputs, leaders, summed = season
    rows, total, without = season_candidates(summed, outputs)
    assert (len(rows), without) == (total, [])
    for name, cuts in STRICTER:
        selected = CRITERIA[name].select(leaders, cuts).sum()
        assert CRITERIA[name].select(rows, cuts).sum() == selected > 5
    assert len(set(rows["night"])) == 4


def test_of_more_than_it_holds_the_strongest_are_kept(season):
    outputs, _, summed = season
    every, total, _ = season_candidates(summed, outputs)
    rows, same_total, _ = season_candidates(summed, outputs, most=40)
    assert (len(rows), same_total) == (40, total)
    strength = np.maximum(every["peak"] / 150, np.nan_to_num(np.ma.filled(every["snr"], np.nan)) / 5)
    kept = np.maximum(rows["peak"] / 150, np.nan_to_num(np.ma.filled(rows["snr"], np.nan)) / 5)
    assert sorted(kept) == sorted(strength)[-40:]


def retyped(rows, name, kind):
    return np.zeros(len(rows), [(one, kind if one == name else rows.dtype[one]) for one in rows.dtype.names])


def outside(rows):
    rows["x"][0] = 10**4
    return rows


def damaged_rows(change):
    def damage(path):
        rows = read_archive(_Kept, path).rows
        write_archive(_Kept(change(rows.copy())), path)

    return damage


DAMAGE = {
    "not there": lambda path: path.unlink(),
    "no archive": lambda path: path.write_bytes(b"PK"),
    "another archive": lambda path: zipfile.ZipFile(path, "w").close(),
    "no table": lambda path: write_archive(Parameters(), path),
    "a column missing": damaged_rows(lambda rows: recfunctions.drop_fields(rows, "snr")),
    "a column of texts": damaged_rows(lambda rows: retyped(rows, "peak", "U9")),
    "numbers of numbers": damaged_rows(lambda rows: retyped(rows, "peak", ("f8", (2,)))),
    "a place outside": damaged_rows(lambda rows: outside(rows)),
    "no records": damaged_rows(lambda rows: rows["peak"]),
    "one record": damaged_rows(lambda rows: rows[:1].reshape(())),
    "stamps of another size": damaged_rows(lambda rows: retyped(rows, "stamp", ("f4", (3, 3)))),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.slow
def test_a_damaged_list_leaves_its_night_out_of_the_gallery_and_is_named(tmp_path, kind):
    counts = Nights(Parameters(**OWN))
    for number in range(2):
        folder = publish(tmp_path, number, changes=OWN, counts=counts.draw(np.random.default_rng(number), 1.0))
        write_gallery(make_leaders(50, Parameters(**OWN)), Parameters(**OWN), folder / GALLERY)
    DAMAGE[kind](folder / GALLERY)
    rows, _, without = season_candidates(sum_season(read_nights(tmp_path), tmp_path), tmp_path)
    assert [record.night for record in without] == ["2024-01-02 03_38_48 Dark30s"]
    assert set(rows["night"]) == {"2024-01-01 03_38_48 Dark30s"}


def test_the_page_counts_what_python_counts_and_filters_by_night(season, offline):  # noqa: F811
    outputs, leaders, _ = season
    write_trends(outputs)
    watched = offline(width=1400)
    page = watched.open(outputs / "candidates.html")
    page.wait_for_selector(".sla1-explorer")
    for name, cuts in STRICTER:
        page.select_option(".sla1-controls select", label=name)
        for cut, value in cuts.items():
            page.fill(f".sla1-slider-{cut} input[type=number]", repr(value))
        selected = int(CRITERIA[name].select(leaders, cuts).sum())
        assert f"{selected:,} held out" in page.inner_text(".sla1-numbers"), (name, cuts)
    page.get_by_label("night").select_option(label="2024-01-03 03_38_48 Dark30s")
    assert (watched.requests, watched.complaints) == ([], [])


@pytest.mark.slow
def test_fifty_thousand_rows_of_a_thousand_nights_fit_into_ten_megabytes(tmp_path):
    from sla1tools.show.season_page import gallery_text

    parameters = Parameters(threshold=130.0, ratio=0.0)
    rows = gallery_rows(make_leaders(160_000, parameters, stars=0.3), parameters, most=50_000)
    rows["night"] = [f"2024-01-01 {k % 1000:08d} Dark30s" for k in range(len(rows))]
    rows["frame"] = [f"{night} {frame}" for night, frame in rows.iterrows("night", "frame")]
    night = SimpleNamespace(night="2024-01-01 00_00_00 Dark30s", frames=10, when=None)
    season = SimpleNamespace(parameters=parameters, nights=[night] * 1000, frames=10_000, name="QHY42PRO")
    text = gallery_text(season, rows, 10**6, [])
    assert len(rows) == 50_000
    assert len(text.encode()) < 10e6
    assert "of which the strongest 50,000 are here" in text
    assert season_payload(season, rows)["carried"]["complete"]
