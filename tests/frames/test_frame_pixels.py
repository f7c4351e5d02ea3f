"""Going through a frame's pixels gives what numpy gives of the whole frame."""

import numpy as np
import pytest

from sla1tools.frames import codes
from sla1tools.frames.pixels import index_in, pixels_at, places_where, tiles, touching_pairs


@pytest.mark.parametrize("height", [1, 3, 7, 40])
def test_tiles_are_the_padded_frame(height):
    frame = np.random.default_rng(1).random((7, 5), np.float32)
    padded = np.pad(frame, 2)
    seen = []
    for rows, tile in tiles(frame.shape, 2, height, frame.__getitem__):
        np.testing.assert_array_equal(tile, padded[rows.start : rows.stop + 4])
        assert tile.dtype == frame.dtype
        seen += range(rows.start, rows.stop)
    assert seen == list(range(7))


def test_pixels_by_their_places():
    frame = np.random.default_rng(2).integers(0, 9, (90, 11))
    places = places_where(lambda rows: frame[rows] > 6, frame.shape)
    np.testing.assert_array_equal(places, np.flatnonzero(frame > 6))
    y, x = np.divmod(places, 11)
    np.testing.assert_array_equal(pixels_at(frame, (y, x)), frame[y, x])
    np.testing.assert_array_equal(pixels_at(frame, (y[:5, None], x[None, :3])), frame[y[:5, None], x[None, :3]])
    np.testing.assert_array_equal(pixels_at(frame[:, ::2], (y, x // 2)), frame[y, x // 2 * 2])
    np.testing.assert_array_equal(pixels_at(frame, np.s_[3:5, :]), frame[3:5])


def test_touching_pixels_are_paired_once_whatever_their_order():
    rng = np.random.default_rng(3)
    y, x = np.divmod(rng.permutation(12 * 9)[:40], 9)
    first, second = touching_pairs(y, x)
    near = (np.abs(y[:, None] - y) <= 1) & (np.abs(x[:, None] - x) <= 1)
    assert sorted(zip(*np.sort([first, second], axis=0).tolist(), strict=True)) == [
        (a, b) for a in range(40) for b in range(a + 1, 40) if near[a, b]
    ]
    assert touching_pairs(y[:0], x[:0]).shape == (2, 0)


def test_places_are_found_among_others_in_any_order():
    at, there = index_in(np.array([7, 2, 9]), np.array([2, 3, 9, 10]))
    assert there.tolist() == [True, False, True, False]
    assert at[there].tolist() == [1, 2]


def test_codes_are_counted_in_parts(monkeypatch):
    counts = np.random.default_rng(4).integers(0, 65536, (9, 7)).astype(np.uint16)
    whole = np.bincount(counts.ravel(), minlength=65536)
    monkeypatch.setattr(codes, "_COUNTED", 10)
    np.testing.assert_array_equal(codes.code_histogram(counts), whole)
