"""Products: fixed columns and units, round trips through other readers, hostile text, the same bytes twice."""

import copy
import dataclasses
import functools
import inspect
import json
import math
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.table import MaskedColumn, Table
from regions import Regions

from sla1tools.candidates.rows import FILE_COLUMNS
from sla1tools.darks.classes import PixelClass, PixelClasses
from sla1tools.darks.model import DarkModel, PublishedDark
from sla1tools.darks.reference import DarkReference, middle_places
from sla1tools.errors import Reason
from sla1tools.frames.capture import Capture, Frame, Rejected, judged_files
from sla1tools.frames.fits import plane_of
from sla1tools.parameters import Parameters
from sla1tools.places import CHECKOUT
from sla1tools.run import products
from sla1tools.run.products import TRIAL_COLUMNS
from sla1tools.run.provenance import versions
from sla1tools.text import printable

HOSTILE = "A{b}\"c'\n\x1b[31m#;é<script>.fits"
SHAPE = (12, 17)


def some_leaders(n=4, columns=FILE_COLUMNS):
    rng = np.random.default_rng(7)
    rows = {}
    for name, (kind, _, _) in columns.items():
        if kind == "U":
            rows[name] = np.array([HOSTILE, "00002.fits", "", "x"][:n], dtype="U80")
        elif kind == "?":
            rows[name] = rng.random(n) > 0.5
        elif kind in ("f4", "f8"):
            rows[name] = rng.normal(300, 50, n).astype(kind)
        else:
            rows[name] = rng.integers(0, 12, n)
    table = Table(rows)
    for name in ("flux", "chi2", "dof", "p_value", *(("x", "peak", "dq") if "x_true" in columns else ())):
        table[name] = MaskedColumn(table[name], mask=np.arange(n) % 2 == 1)
    table["stamp"] = np.zeros((n, 5, 5), np.float32)
    return table


def some_night(names=("00001.fits", HOSTILE)):
    begin = datetime(2024, 5, 8, 3, 38, 18, 700000)
    frames = tuple(
        Frame(
            name=name,
            path=Path(name),
            shape=SHAPE,
            exposure=30.0,
            start=begin + k * timedelta(seconds=30),
            end=begin + (k + 1) * timedelta(seconds=30),
            temperature=-20.0,
            gain=None,
            binning=None,
            filter_name=None,
            level=1000.0,
            sha256="ab" * 32,
            notes=("GAIN unknown",),
            header={"INSTRUME": "QHY42 Pro\n$\\foo$ é"},
            stored=None,
        )
        for k, name in enumerate(names)
    )
    rejected = (Rejected("00009.fits", Reason.TRUNCATED, "half of it", None),)
    return Capture(Parameters(frame_shape=SHAPE), frames, rejected, ("truth.ecsv",), (), np.zeros(65536, np.int64))


def some_dark(frames=10, method="median"):
    """Maps of random counts; a noise that no packing by rounding would keep."""
    rng = np.random.default_rng(3)
    counts = np.sort(rng.integers(0, 65536, (frames, *SHAPE)), axis=0).astype(np.uint16)
    exact = counts[list(middle_places(frames))] if method == "median" else counts.sum(axis=0, dtype=np.uint32)[None]
    dq = np.zeros(SHAPE, np.uint16)
    dq[3, 4], dq[5, 6], dq[7, 8] = PixelClass.HOT, 65535, PixelClass.WARM
    variance = counts.var(axis=0, ddof=1).astype(np.float32)
    return SimpleNamespace(
        scale=1.39 / 16,
        reference=DarkReference(frames, method, exact),
        mean=counts.mean(axis=0).astype(np.float32),
        variance=variance,
        prior=variance[::-1].copy(),
        noise=rng.normal(37, 5, SHAPE).astype(np.float32),
        uncertainty_factor=0.345,
        classes=SimpleNamespace(dq=dq),
    )


@pytest.fixture(params=[(10, "median"), (9, "median"), (10, "average")], ids=str)
def master(tmp_path, request):
    dark = some_dark(*request.param)
    before = copy.deepcopy(dark)
    path = tmp_path / "master_dark.fits"
    products.write_master(path, dark, products.provenance(some_night()))
    for name in ("mean", "variance", "noise"):
        np.testing.assert_array_equal(getattr(dark, name), getattr(before, name))
    return path, dark


def test_master_dark_becomes_ccddata_by_the_three_lines_of_the_docs(master, monkeypatch):
    path, made = master
    monkeypatch.chdir(path.parent)
    with fits.open("master_dark.fits") as file:
        dark, noise, dq = (file[name] for name in ("MASTER", "NOISE", "DQ"))
        error = StdDevUncertainty(noise.data * dark.header["UNCERTF"])
        ccd = CCDData(dark.data, error, mask=dq.data & dq.header["BLOCKING"] != 0, unit=dark.header["BUNIT"])
    assert ccd.unit == u.electron
    np.testing.assert_array_equal(ccd.data.astype("f4"), (made.reference.master * made.scale).astype("f4"))
    np.testing.assert_array_equal(ccd.uncertainty.array, made.noise * 0.345)
    assert np.argwhere(ccd.mask).tolist() == [[3, 4], [5, 6]]
    docs = (CHECKOUT / "docs" / "outputs.md").read_text(encoding="utf-8")
    for line in inspect.getsource(test_master_dark_becomes_ccddata_by_the_three_lines_of_the_docs).splitlines()[3:7]:
        assert line.strip() in docs


def test_master_dark_is_exact_and_its_mean_and_scatter_to_an_eighth_of_the_noise(master):
    path, made = master
    with fits.open(path) as hdus:
        own = made.reference
        assert np.array_equal(np.rint(hdus["MASTER"].data / made.scale * own.parts) / own.parts, own.master)
        assert np.array_equal(hdus["NOISE"].data, made.noise)
        assert hdus["NOISE"].data.dtype == np.float32
        spread = np.sqrt(made.variance)
        for name, truth in (("MEAN", made.mean), ("STDDEV", spread)):
            assert np.abs(hdus[name].data / made.scale - truth).max() < np.median(spread) / 15
    kept = dataclasses.replace(own, exact=np.zeros(0))
    image = functools.partial(plane_of, path.read_bytes(), shape=SHAPE)
    prior = SimpleNamespace(variance=lambda level: level)
    hollow = DarkModel(made.scale, kept, None, None, None, prior, PixelClasses(None, {}, {}, {}, {}, Table()))
    back = PublishedDark(hollow, image)
    np.testing.assert_array_equal(back.reference.master, own.master)
    level = np.rint(own.master)
    np.testing.assert_array_equal(back.prior, made.prior if own.method == "average" else level)
    counts = np.full(SHAPE, 30000, np.uint16)
    np.testing.assert_array_equal(back.residual(counts, "outside"), own.residual(counts, "outside", scale=made.scale))


def test_master_dark_units_planes_and_checksums(master):
    path, made = master
    with fits.open(path, checksum=True) as hdus:
        assert [hdu.name for hdu in hdus][1:6] == ["MASTER", "NOISE", "DQ", "MEAN", "STDDEV"]
        assert [hdus[name].header["BUNIT"] for name in ("MASTER", "NOISE", "MEAN", "STDDEV")] == ["electron"] * 4
        assert hdus["DQ"].data.dtype == np.uint16
        np.testing.assert_array_equal(hdus["DQ"].data, made.classes.dq)
        header = hdus["DQ"].header
        names = {int(card.removeprefix("DQBIT")): header[card] for card in header if card.startswith("DQBIT")}
        assert {name: 1 << bit for bit, name in names.items()} == {flag.name.lower(): flag for flag in PixelClass}
        first = hdus[0].header
        assert first["UNCERTF"] == hdus["MASTER"].header["UNCERTF"] == 0.345
        assert first["NCOMBINE"] == 2
        assert first["CCD-TEMP"] == -20.0
        assert first["DATE-BEG"] == "2024-05-08T03:38:18.700"
        assert first["DATE-END"] == "2024-05-08T03:39:18.700"
        assert "\\n" in first["FRAME002"]
        assert first["FRAME002"].isascii()
    with fits.open(path, disable_image_compression=True, checksum=True) as hdus:
        assert all("CHECKSUM" in hdu.header and "DATASUM" in hdu.header for hdu in hdus)


@pytest.mark.parametrize(("name", "columns"), [("LEADERS", FILE_COLUMNS), ("INJECTIONS", TRIAL_COLUMNS)])
@pytest.mark.parametrize("n", [0, 1, 4])
def test_tables_come_back_from_fits(tmp_path, name, columns, n):
    table = some_leaders(n, columns)
    products.write_table(tmp_path / "t.fits", table, name, columns, products.provenance(some_night()))
    with fits.open(tmp_path / "t.fits", checksum=True) as hdus:
        assert hdus[1].name == name
        assert hdus[1].columns.names == list(columns)
        units = [None if unit == "electron" else unit for _, unit, _ in columns.values()]
        assert [unit or None for unit in hdus[1].columns.units] == units
        assert hdus[1].header.comments[f"TTYPE{list(columns).index('flux') + 1}"] == "[electron] fitted PSF"
    back = Table.read(tmp_path / "t.fits", hdu=1)
    assert len(back) == n
    for column, (kind, _, _) in columns.items():
        if kind == "U":
            texts = [str(text) for text in np.ma.filled(np.ma.asarray(back[column].astype(str)), "")]
            assert [text.encode().decode("unicode_escape") for text in texts] == list(table[column])
        elif n:
            mask = np.ma.getmaskarray(table[column])
            np.testing.assert_array_equal(np.ma.getmaskarray(back[column]), mask)
            np.testing.assert_array_equal(np.ma.getdata(back[column])[~mask], np.ma.getdata(table[column])[~mask])


def test_infinite_neighbor_and_missing_column(tmp_path):
    table = some_leaders()
    table["neighbor_min"][0] = np.inf
    products.write_table(tmp_path / "t.fits", table, "LEADERS", FILE_COLUMNS, {})
    assert np.isposinf(Table.read(tmp_path / "t.fits", hdu=1)["neighbor_min"][0])
    table.remove_column("snr")
    with pytest.raises(KeyError, match="snr"):
        products.write_table(tmp_path / "t.fits", table, "LEADERS", FILE_COLUMNS, {})


@pytest.mark.parametrize("n", [0, 4])
def test_candidates_come_back_from_ecsv_and_ds9(tmp_path, n):
    table = some_leaders(n)
    products.write_candidates(tmp_path, table)
    back = Table.read(tmp_path / "candidates.ecsv")
    assert back.colnames == list(FILE_COLUMNS)
    assert len(back) == n
    assert back["peak"].unit == u.electron
    np.testing.assert_array_equal(np.ma.getdata(back["peak"]), table["peak"])
    np.testing.assert_array_equal(np.ma.getmaskarray(back["dof"]), np.ma.getmaskarray(table["dof"]))
    regions = Regions.read(tmp_path / "candidates.reg", format="ds9")
    assert [(region.center.x, region.center.y) for region in regions] == [(row["x"], row["y"]) for row in table]
    if n:
        assert back["frame"][0] == printable(HOSTILE)
        lines = (tmp_path / "candidates.reg").read_text().splitlines()
        circle = next(line for line in lines if line.startswith("circle"))
        assert circle.startswith(f"circle({table['x'][0] + 1}.00000000,{table['y'][0] + 1}.00000000,")
        assert circle.count("{") == circle.count("}") == 1


def test_same_content_is_the_same_bytes(tmp_path, monkeypatch):
    def write(folder):
        folder.mkdir()
        cards = products.provenance(some_night())
        products.write_master(folder / "m.fits", some_dark(), cards)
        products.write_table(folder / "l.fits", some_leaders(), "LEADERS", FILE_COLUMNS, cards)
        products.write_candidates(folder, some_leaders())
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    first = write(tmp_path / "a")
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert write(tmp_path / "b") == first
    assert not any(str(year).encode() in contents for contents in first.values() for year in (2025, 2026, 2033))


def test_writers_leave_their_input_alone(tmp_path):
    table = some_leaders()
    before = table.copy()
    products.write_table(tmp_path / "t.fits", table, "LEADERS", FILE_COLUMNS, {})
    products.write_candidates(tmp_path, table)
    assert table.colnames == before.colnames
    for name in table.colnames:
        np.testing.assert_array_equal(np.ma.getdata(table[name]), np.ma.getdata(before[name]))


def test_summary_is_plain_json(tmp_path):
    summary = dict.fromkeys(products.SUMMARY_KEYS)
    summary["dark"] = {
        "level": np.float32(1300.5),
        "noise": math.nan,
        "gain": np.inf,
        3: np.array([1.0, np.nan]),
    }
    summary["frames"] = {
        "used": ("a", "b"),
        "rejected": {Reason.EMPTY: [HOSTILE]},
        "x": np.ma.masked,
        "y": np.bool_(True),
    }
    products.write_summary(tmp_path / "summary.json", summary)
    back = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert list(back) == list(products.SUMMARY_KEYS)
    assert back["dark"] == {"level": 1300.5, "noise": None, "gain": None, "3": [1.0, None]}
    assert back["frames"] == {"used": ["a", "b"], "rejected": {"empty": [HOSTILE]}, "x": None, "y": True}
    with pytest.raises(ValueError, match="surprise"):
        products.write_summary(tmp_path / "summary.json", summary | {"surprise": 1})


def test_manifest_lists_every_judged_file():
    rows = judged_files(some_night())
    assert [(row["name"], row["verdict"], row.get("reason")) for row in rows] == [
        ("00001.fits", "used", None),
        ("00009.fits", "rejected", "truncated"),
        (HOSTILE, "used", None),
        ("truth.ecsv", "ignored", None),
    ]
    assert rows[0]["sha256"] == "ab" * 32


def test_versions_name_the_requirements():
    found = versions()
    assert {"python", "sla1tools", "numpy", "astropy", "papermill"} <= set(found)
    assert all(version[0].isdigit() for version in found.values())
