"""Cosmic-ray-like hits: the simulated muons, and little else."""

import numpy as np
import pytest
from simulated import simulate_counts

from sla1tools.candidates.hits import cosmic_rays, expected_muons
from sla1tools.darks.classes import PixelClass

SCALE = 1.39 / 16
NONE = np.zeros((64, 64), np.uint16)


def residual_with(pixels, shape=(64, 64), seed=1):
    residual = np.random.default_rng(seed).standard_normal(shape).clip(-2.5, 2.5)
    for y, x, value in pixels:
        residual[y, x] = value
    return residual


def hits_of(residual, dq=NONE):
    return cosmic_rays(residual, np.ones_like(residual).__getitem__, dq)


def test_a_track_and_a_spot():
    track = [(10 + i, 20 + i, 20.0) for i in range(8)]
    spot = [(40, 40, 30.0), (40, 41, 12.0), (41, 40, 12.0), (39, 40, 12.0), (40, 39, 12.0)]
    hits = hits_of(residual_with(track + spot))
    assert hits["pixels"].tolist() == [8, 5]
    assert hits["track"].tolist() == [True, False]
    assert hits["signal"].tolist() == [160, 78]
    assert (hits["x"][1], hits["y"][1], hits["peak_snr"][1]) == (40, 40, 30)
    assert hits["length"][0] == pytest.approx(8 * np.sqrt(2))


def test_what_is_no_hit():
    assert len(hits_of(residual_with([(10, 10, 50.0)]))) == 0
    assert len(hits_of(residual_with([(10, 10, 5.9), (10, 11, 5.9)]))) == 0
    assert len(hits_of(residual_with([(10, 10, 7.0), (10, 11, 3.0)]))) == 0
    assert len(hits_of(residual_with([(10, 10, 7.0), (10, 12, 7.0)]))) == 0
    assert len(hits_of(residual_with([(10, 63, 7.0), (11, 0, 7.0), (12, 0, -7.0)]))) == 0
    unstable = NONE.copy()
    unstable[10, 10] = PixelClass.UNSTABLE
    assert len(hits_of(residual_with([(10, 10, 7.0), (10, 11, 4.0)]), unstable)) == 0
    assert len(hits_of(residual_with([(10, 10, 7.0), (11, 11, 4.0)]))) == 1


def test_no_bright_pixel_gives_no_rows():
    hits = hits_of(np.zeros((64, 64)))
    assert len(hits) == 0
    assert hits.colnames == ["x", "y", "pixels", "length", "signal", "peak_snr", "track"]


def touching_groups(bright):
    """The slow equivalent: flood from every bright pixel."""
    left, groups = set(zip(*map(np.ndarray.tolist, np.nonzero(bright)), strict=True)), []
    while left:
        group, edge = set(), {left.pop()}
        while edge:
            group |= edge
            edge = {(y + dy, x + dx) for y, x in edge for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= edge
        groups.append(sorted(group))
    return sorted(groups)


def test_groups_are_those_of_a_flood():
    for seed in range(5):
        residual = np.random.default_rng(seed).standard_normal((64, 64)) * 4
        before = residual.copy()
        groups = [np.array(group).T for group in touching_groups(residual > 3)]
        kept = [(y, x) for y, x in groups if len(y) >= 2 and residual[y, x].max() > 6]
        hits = hits_of(residual)
        assert hits["pixels"].tolist() == [len(y) for y, _ in kept]
        assert [(row["y"], row["x"]) for row in hits] == [
            (y[residual[y, x].argmax()], x[residual[y, x].argmax()]) for y, x in kept
        ]
        np.testing.assert_allclose(hits["signal"], [residual[y, x].sum() for y, x in kept])
        np.testing.assert_array_equal(residual, before)


def test_finds_the_simulated_muons():
    found = missed = false = 0
    for seed in range(12):
        night = simulate_counts(4, (256, 256), seed=seed)
        median = np.median(night.counts[1:], axis=0)
        residual = (night.counts[0] - median) * SCALE
        defects = night.truth[(night.truth["frame"] == -1)]
        dq = np.zeros((256, 256), np.uint16)
        dq[defects["y"], defects["x"]] = PixelClass.KNOWN
        hits = cosmic_rays(residual, (night.noise_map * np.sqrt(1.4487)).__getitem__, dq)
        muons = night.truth[(night.truth["kind"] == "muon") & (night.truth["frame"] == 0)]
        where = {(row["y"], row["x"]): row["track"] for row in muons}
        struck = {where.get((row["y"], row["x"])) for row in hits}
        tracks = set(where.values())
        found, missed = found + len(tracks & struck), missed + len(tracks - struck)
        false += sum((row["y"], row["x"]) not in where for row in hits)
    assert found >= 0.7 * (found + missed)
    assert found + missed >= 12
    assert false <= 1


def test_expected_muons_grow_with_area_and_time():
    assert expected_muons((2048, 2048), 30) == pytest.approx(2.5, rel=0.01)
    assert expected_muons((1024, 2048), 60) == pytest.approx(2.5, rel=0.01)
    assert expected_muons((2048, 2048), 30, pixel_um=5.5) == pytest.approx(2.5 / 4, rel=0.01)
