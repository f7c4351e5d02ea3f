"""Telegraph pixels over the nights: the nights' lists joined, pixel by pixel."""

import numpy as np
import pytest
from astropy.table import Table

from sla1tools.nights.telegraph import follow_telegraph
from sla1tools.nights.trends import NightRecord
from sla1tools.published import TRENDS

SHAPE = [60, 80]
LISTS = (
    [(5, 7, 1300.0, 1800.0, 4), (79, 59, 1290.0, 1500.0, 2)],
    [],
    [(5, 7, 1310.0, 1820.0, 2), (6, 7, 1300.0, 1700.0, 5)],
)


@pytest.fixture
def nights(tmp_path):
    (tmp_path / TRENDS).mkdir()
    records = []
    for number, rows in enumerate(LISTS):
        path = f"2024-05-{number + 1:02d}/00_00_00/Dark"
        (tmp_path / path).mkdir(parents=True)
        names, kinds = ("x", "y", "low", "high", "up"), (int, int, float, float, int)
        table = Table(rows=rows or None, names=names, dtype=kinds, meta={"frames": 10})
        table["duty"] = table["up"] / 10
        table.write(tmp_path / path / "telegraph.ecsv")
        told = {"frame_shape": SHAPE}
        record = NightRecord(path, path, None, "ok", (), told, 10, instrument="A", sha256={"telegraph.ecsv": "0"})
        records.append(record)
    return records


def test_lists_are_joined_pixel_by_pixel(nights, tmp_path):
    joined = follow_telegraph(nights, tmp_path)
    assert [tuple(row) for row in joined["x", "y", "nights", "looked", "up"].iterrows()] == [
        (5, 7, 2, 3, 6),
        (6, 7, 1, 3, 5),
        (79, 59, 1, 3, 2),
    ]
    assert joined["low"][0] == 1305
    assert joined["high"][0] == 1810
    assert joined["duty"].tolist() == [0.3, 0.5, 0.2]
    pixels = SHAPE[0] * SHAPE[1]
    assert joined["chance"][1] == pytest.approx(1 - (1 - 1 / pixels) ** 3, rel=1e-6)
    assert joined["chance"][0] == pytest.approx(3 / pixels**2, rel=1e-3)
    written = Table.read(tmp_path / "telegraph.ecsv")
    assert written.colnames == joined.colnames
    np.testing.assert_array_equal(written["nights"], joined["nights"])


def test_other_cameras_and_damaged_lists_are_left_out(nights, tmp_path):
    nights[0].instrument = "B"
    (tmp_path / nights[2].path / "telegraph.ecsv").write_text("x y low high up\n900 1 2 3 4\n")
    joined = follow_telegraph(nights, tmp_path)
    assert len(joined) == 0
    for text in ("", "x y\n1 2\n", "x y low high up\n1 2 3\n", "x y low high up\na b c d e\n"):
        (tmp_path / nights[2].path / "telegraph.ecsv").write_text(text)
        assert len(follow_telegraph(nights, tmp_path)) == 0
    (tmp_path / nights[2].path / "telegraph.ecsv").write_text("x y low high up\n1 2 3 4 5\n")
    assert follow_telegraph(nights, tmp_path)["looked"].tolist() == [2]
    for night in nights:  # a summary may say anything, and there is no share of no frames
        night.frames = 0
    assert len(follow_telegraph(nights, tmp_path)) == 0


def test_no_night_lists_nothing(tmp_path):
    (tmp_path / TRENDS).mkdir()
    assert len(follow_telegraph([], tmp_path)) == 0
