"""Nights of one chip: what they share, and how it grows with exposure and temperature."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from click.testing import CliRunner
from simulated import simulate_counts

from sla1tools.cli import main
from sla1tools.errors import ParametersError
from sla1tools.simulate.night import TRUTH_NAME, simulate_night

SCALE = 1.39 / 16
SHAPE = (160, 200)


def chip_night(chip_seed=5, seed=1, frames=12, **choices):
    return simulate_counts(frames=frames, shape=SHAPE, seed=seed, chip_seed=chip_seed, **choices)


def fixed(night):
    return night.truth[night.truth["frame"] == -1]


def sound(night):
    """Pixels that are no defect and that nothing struck."""
    plane = np.ones(SHAPE, bool)
    plane[night.truth["y"], night.truth["x"]] = False
    return plane


def correlation(first, second):
    """Of the masters' pixels, the glow and what lies beyond 5 sigma left out."""
    masters = [(night.counts.mean(axis=0) * SCALE - night.level_map) for night in (first, second)]
    plane = (np.abs(masters) < 60).all(axis=0) & sound(first) & sound(second)
    return np.corrcoef(masters[0][plane], masters[1][plane])[0, 1] * np.sqrt(plane.sum())


def test_nights_of_a_chip_share_their_pixels_and_nothing_else():
    one, two, other = chip_night(seed=1), chip_night(seed=2), chip_night(chip_seed=6, seed=3)
    for name in one.truth.colnames:
        np.testing.assert_array_equal(fixed(one)[name], fixed(two)[name])
    places = [set(zip(fixed(night)["x"], fixed(night)["y"], strict=True)) for night in (one, other)]
    assert len(places[0] & places[1]) < len(places[0]) / 4
    rts = fixed(one)[fixed(one)["kind"] == "rts"]
    states = [night.counts[:, rts["y"], rts["x"]] for night in (one, two)]
    assert (states[0] != states[1]).mean() > 0.9
    assert correlation(one, two) > 8  # the bias pattern of single pixels, in standard errors
    assert abs(correlation(one, other)) < 4
    noise = (one.counts[0] - one.counts.mean(axis=0))[sound(one)], (two.counts[0] - two.counts.mean(axis=0))[sound(one)]
    assert abs(np.corrcoef(*noise)[0, 1]) < 4 / np.sqrt(sound(one).sum())


def test_dark_signal_grows_and_the_bias_stays():
    bias, half, whole, warm = (
        chip_night(seed=k, frames=30, exposure=exposure, temperature=temperature)
        for k, (exposure, temperature) in enumerate([(0, -20), (15, -20), (30, -20), (15, -14)])
    )
    plane = sound(bias) & sound(half) & sound(whole) & sound(warm)
    for night, level in ((bias, 300), (half, 800), (whole, 1300), (warm, 1300)):
        top = night.counts[:, :60, :60][:, plane[:60, :60]] * SCALE
        assert top.mean() == pytest.approx(level, abs=1)
        assert top.var(axis=0, ddof=1).mean() == pytest.approx(level - 300 + 37**2 - 1000, rel=0.02)
        assert night.level_map[0, 0] == pytest.approx(level)
        hot = fixed(night)[np.isin(fixed(night)["kind"], ["hot", "warm"])]
        excess = (night.counts[:, hot["y"], hot["x"]] * SCALE).mean(axis=0) - night.level_map[hot["y"], hot["x"]]
        pull = (excess - hot["value"]) / np.sqrt(
            (night.noise_map[hot["y"], hot["x"]] ** 2 + hot["value"]) / 30 + 4.0**2
        )
        assert np.median(np.abs(pull)) < 1.2
        assert hot["value"] == pytest.approx(
            fixed(whole)["value"][np.isin(fixed(whole)["kind"], ["hot", "warm"])] * (level - 300) / 1000
        )
    assert not (bias.truth["kind"] == "muon").any()
    assert bias.truth.meta["dark_current"] == pytest.approx(1000 / 30)
    assert warm.truth.meta["dark_current"] == pytest.approx(2000 / 30)
    assert warm.truth.meta["pedestal"] == 300


def test_partners_of_telegraph_pixels_switch_with_them():
    night = simulate_counts(frames=40, shape=(300, 260), seed=3, chip_seed=1, telegraph_pairs=4, clean=False)
    rts = fixed(night)[fixed(night)["kind"] == "rts"]
    tracks = [rts[rts["track"] == track] for track in np.unique(rts["track"]) if track >= 0]
    assert [len(pair) for pair in tracks] == [2, 2, 2, 2]
    up = night.counts * SCALE > night.level_map + 4 * 37
    for pair in tracks:
        assert np.ptp(pair["x"]) == 1
        assert np.ptp(pair["y"]) == 0
        if pair["value"][0] > 400:
            first, second = up[:, pair["y"], pair["x"]].T
            assert (first == second).mean() > 0.9
    assert len(np.unique(np.stack([fixed(night)["x"], fixed(night)["y"]]), axis=1).T) == len(fixed(night))


def test_command_writes_a_bias_of_a_chip_that_a_dark_belongs_to(tmp_path):
    bias, dark = tmp_path / "2024-05-08/04_00_00/Dark0s", tmp_path / "2024-05-08/04_10_00/Dark10s"
    for folder, exposure in ((bias, "0"), (dark, "10")):
        words = ["simulate", str(folder), "--frames", "3", "--shape", "48", "60", "--chip-seed", "4"]
        done = CliRunner().invoke(main, [*words, "--exposure", exposure, "--temperature", "-5", "--seed", exposure])
        assert done.exit_code == 0, done.output
    first, second = (Table.read(folder / TRUTH_NAME) for folder in (bias, dark))
    assert (first.meta["chip_seed"], first.meta["exposure"], first.meta["temperature"]) == (4, 0.0, -5.0)
    hot = first["kind"] == "hot"
    np.testing.assert_array_equal(first["x"][hot], second["x"][second["kind"] == "hot"])
    headers = [fits.getheader(folder / "00002.fits") for folder in (bias, dark)]
    assert [header["EXPTIME"] for header in headers] == [0, 10]
    assert [header["OBJECT"] for header in headers] == ["Dark0s", "Dark10s"]
    for header in headers:
        assert header["CCD-TEMP"] == pytest.approx(-5, abs=0.3)
        assert (header["INSTRUME"], header["GAIN"], header["OFFSET"]) == ("QHY42PRO", 5, 20)


@pytest.mark.parametrize(
    ("choice", "match"),
    [
        ({"exposure": -1.0}, "exposure"),
        ({"exposure": float("nan")}, "exposure"),
        ({"temperature": -300.0}, "temperature"),
        ({"doubling": 0.0}, "doubling"),
        ({"chip_seed": -1}, "chip_seed"),
        ({"exposure": 3000.0}, "top code"),
    ],
)
def test_wrong_numbers_are_named(tmp_path, choice, match):
    with pytest.raises(ParametersError, match=match):
        simulate_night(tmp_path / "x", frames=2, shape=(16, 24), **choice)
    assert not (tmp_path / "x").exists()
