"""Dark current over exposure and temperature, against simulated chips whose cooler wobbles by 0.05 K."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from astropy.io import fits
from simulated import simulate_counts

from sla1tools.candidates.search import Stack
from sla1tools.darks.model import characterize
from sla1tools.nights import dark_current
from sla1tools.nights.dark_current import MAPS, follow_dark_current, measure_dark_current, write_dark_current
from sla1tools.nights.trends import NightRecord
from sla1tools.parameters import Parameters
from sla1tools.published import TRENDS
from sla1tools.show.dark_current import dark_current_chart, dark_current_table

SHAPE, FRAMES = (128, 128), 8
WOBBLE = 0.05  # K
RATE, PEDESTAL, DOUBLING, GAIN = 1000 / 30, 300.0, 6.0, 1.39 / 16
LADDER = ((0, -20), (10, -20), (30, -20), (60, -20))
COOLING = ((20, -25), (20, -20), (20, -15), (20, -11))
BOTH = ((0, -20), (30, -20), (60, -20), (30, -14), (30, -26))


@cache
def captured(chip, number, exposure, temperature, doubling=DOUBLING, shape=SHAPE):
    """A capture of a chip at a temperature that its header knows to the cooler's wobble."""
    seed = 1000 * chip + number
    true = temperature + WOBBLE * np.random.default_rng(seed).standard_normal()
    kinds = {"chip_seed": chip, "exposure": exposure, "temperature": true, "doubling": doubling}
    counts = simulate_counts(FRAMES, shape, seed, **kinds).counts
    parameters = Parameters(frame_shape=shape, dark_exposure=exposure)
    return parameters, characterize(Stack(parameters, counts))


@pytest.fixture
def publish(monkeypatch, tmp_path):
    """Publish captures (chip, exposure, temperature) as far as their masters go; returns the records in order."""
    planes = {}

    def read(path, name, shape):
        return planes.get((path.parent, name))

    monkeypatch.setattr(dark_current, "read_plane", read)

    def put(captures, **choices):
        records = []
        for number, (chip, exposure, temperature) in enumerate(captures):
            parameters, dark = captured(chip, number, exposure, temperature, **choices)
            night = f"2024-05-{number + 1:02d}/00_00_00/Dark{exposure:g}s"
            images = {"MASTER": dark.master, "NOISE": dark.noise, "DQ": dark.classes.dq}
            step = np.median(np.sqrt(dark.variance)) / 16  # as it is published
            images["STDDEV"] = np.rint(np.sqrt(dark.variance) / step) * (step * dark.scale)
            planes.update({(tmp_path / night, name): image for name, image in images.items()})
            values = {"temperature": temperature}
            told = parameters.model_dump(mode="json")
            records.append(NightRecord(night, night, None, "ok", (), told, FRAMES, values, instrument="QHY42PRO"))
        return records

    return put


def measured(records, tmp_path):
    return measure_dark_current(records, tmp_path)


@pytest.mark.parametrize(
    ("states", "doubling"), [(LADDER, None), (COOLING, DOUBLING), (BOTH, DOUBLING), (COOLING, 7.5)]
)
@pytest.mark.slow
def test_numbers_are_the_chips_and_their_intervals_cover(publish, tmp_path, states, doubling):
    """Twelve chips: dark current within 2 %, doubling temperature within 5 %."""
    truth = {"pedestal": PEDESTAL, "gain": GAIN}
    inside = []
    for chip in range(12):
        records = publish([(chip, *state) for state in states], **({"doubling": doubling} if doubling else {}))
        found = measured(records, tmp_path)
        truth["electrons_per_second"] = RATE * 2 ** ((found.temperature + 20) / (doubling or DOUBLING))
        if doubling:
            truth["doubling_kelvin"] = doubling
        assert found.values["electrons_per_second"].value == pytest.approx(truth["electrons_per_second"], rel=0.02)
        assert ("doubling_kelvin" in found.values) == (doubling is not None)
        if doubling:
            assert found.values["doubling_kelvin"].value == pytest.approx(doubling, rel=0.05)
        assert found.values["gain"].value == pytest.approx(GAIN, rel=0.05)
        assert (
            found.values["electrons_per_second"].high - found.values["electrons_per_second"].low
            < 0.06 * truth["electrons_per_second"]
        ), "an interval that says something"
        for name, value in truth.items():
            own = found.values[name]
            inside.append(own.low <= value <= own.high)
    assert np.mean(inside) >= 0.93


def test_maps_hold_every_pixels_rate_and_their_errors(publish, tmp_path):
    found = measured(publish([(3, *state) for state in BOTH]), tmp_path)
    night = simulate_counts(1, SHAPE, 1, chip_seed=3)
    rows = night.truth[night.truth["frame"] == -1]
    truth = (night.level_map - PEDESTAL) / 30
    hot = rows[np.isin(rows["kind"], ["hot", "warm"])]
    truth[hot["y"], hot["x"]] += hot["value"] / 30
    sound = np.isfinite(found.maps["RATE"])
    odd = rows[~np.isin(rows["kind"], ["hot", "warm"])]
    sound[odd["y"], odd["x"]] = False
    common = found.values["electrons_per_second"].value / RATE  # the temperature's own error, which all pixels share
    pull = (found.maps["RATE"] - truth * common) / found.maps["RATE_ERR"]
    assert np.median(pull[sound]) == pytest.approx(0, abs=0.1)
    assert 1.4826 * np.median(np.abs(pull[sound])) == pytest.approx(1, abs=0.06)
    assert np.mean(np.abs(pull[hot["y"], hot["x"]]) < 4) > 0.9
    pedestal = (found.maps["PEDESTAL"] - PEDESTAL)[sound]
    error = np.hypot(found.maps["PED_ERR"][sound], 4.0)  # the offsets of single pixels
    assert 1.4826 * np.median(np.abs(pedestal / error)) == pytest.approx(1, abs=0.06)
    x, y, rate, error = found.hot[0]
    assert rate == pytest.approx(truth[y, x] * common, abs=5 * error)
    assert truth[y, x] > 0.9 * truth[sound].max()


def test_captures_of_another_chip_are_named_and_left_out(publish, tmp_path):
    captures = [(1, *state) for state in LADDER]
    others = [(2, 20, -20), (2, 45, -20)]
    found = measured(publish([*captures, *others]), tmp_path)
    assert found.reason.count("another chip") == 2
    assert len(found.captures) == 4
    assert found.values["electrons_per_second"].value == pytest.approx(RATE, rel=0.02)
    alone = measured(publish(captures), tmp_path)
    assert alone.numbers()["electrons_per_second"] == found.numbers()["electrons_per_second"]


def test_other_settings_are_no_part_of_a_ladder(publish, tmp_path):
    records = publish([(1, *state) for state in LADDER])
    other = [replace(record, chip=("another gain",)) for record in records[:2]]
    found = measured([*other, *records[2:]], tmp_path)
    assert "electrons_per_second" not in found.values
    assert "three exposures" in found.reason


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ([], "not tested: there is no capture. Dark current and pedestal take"),
        ([(30, -20)], "of one chip there is only 30 s at -20 °C. Dark current"),
        ([(30, -20), (30, -20)], "of one chip there is only 30 s at -20 °C. Dark current"),
        ([(0, -20), (30, -20)], "30 s at -20 °C and 0 s at -20 °C, and two points fit any line."),
        ([(0, -20), (30, -20), (30, -14)], "two points"),
        ([(0, -20), (0, -14), (0, -8)], "0 s at -8 °C"),
        ([(30, -20), (30, -18.9), (30, -21.1)], "two points"),
    ],
)
def test_too_little_range_says_what_is_missing(publish, tmp_path, states, words):
    found = measured(publish([(1, *state) for state in states]), tmp_path)
    assert found.values == {}
    assert found.numbers()["electrons_per_second"] is None
    assert words in found.reason
    assert "not tested" in found.reason
    assert dark_current_chart(found) is None
    assert {value for _, value in dark_current_table(found).iterrows()} == {"not tested"}


def test_an_unknown_temperature_is_one_and_the_same(publish, tmp_path):
    records = publish([(1, *state) for state in LADDER])
    for record in records:
        record.values["temperature"] = None
    found = measured(records, tmp_path)
    assert found.values["electrons_per_second"].value == pytest.approx(RATE, rel=0.02)
    assert found.numbers()["temperature"] is None
    assert "doubling_kelvin" not in found.values


def test_close_exposures_give_no_dark_current(publish, tmp_path):
    found = measured(publish([(1, 29.9, -20), (1, 30, -20), (1, 30.1, -20)]), tmp_path)
    assert "electrons_per_second" not in found.values
    assert "too little range" in found.reason


def test_a_level_that_bends_is_said(publish, tmp_path, monkeypatch):
    records = publish([(1, *state) for state in LADDER])
    read = dark_current.read_plane

    def bent(path, name, shape):
        plane = read(path, name, shape)
        return plane - 0.08 * (plane - 300) if name == "MASTER" and "Dark60s" in str(path) else plane

    monkeypatch.setattr(dark_current, "read_plane", bent)
    found = measured(records, tmp_path)
    assert "do not lie on one line" in found.reason
    straight = found.values["electrons_per_second"].high - found.values["electrons_per_second"].low
    assert straight > 0.05 * found.values["electrons_per_second"].value, "the interval holds the scatter about the line"


def test_damaged_nights_are_passed_over(publish, tmp_path, monkeypatch):
    records = publish([(1, *state) for state in (*LADDER, (30, -20))])
    read = dark_current.read_plane
    monkeypatch.setattr(
        dark_current, "read_plane", lambda path, *a: None if "2024-05-05" in str(path) else read(path, *a)
    )
    found = measured(records, tmp_path)
    assert len(found.captures) == 4
    assert not any("2024-05-05" in night for night in found.captures["night"])


def test_file_holds_maps_and_captures_and_goes_with_the_ladder(publish, tmp_path):
    (tmp_path / TRENDS).mkdir()
    found = measured(publish([(1, *state) for state in LADDER]), tmp_path)
    write_dark_current(found, tmp_path)
    with fits.open(tmp_path / "dark_current.fits", checksum=True) as hdus:
        assert [hdu.name for hdu in hdus] == [*MAPS, "CAPTURES"]
        for name, unit in MAPS.items():
            assert hdus[name].header["BUNIT"] == unit
            np.testing.assert_array_equal(hdus[name].data, found.maps[name])
        assert hdus["CAPTURES"].data["exposure"].tolist() == found.captures["exposure"].tolist()
        assert hdus[0].header["CCD-TEMP"] == -20
    json.dumps(found.numbers(), allow_nan=False)
    write_dark_current(measured([], tmp_path), tmp_path)
    assert not (tmp_path / "dark_current.fits").exists()
    assert dark_current_chart(found) is not None


def test_of_the_same_captures_nothing_is_read_again(publish, tmp_path, monkeypatch):
    (tmp_path / TRENDS).mkdir()
    first = follow_dark_current(records := publish([(1, *state) for state in LADDER]), tmp_path)
    planes = []
    read = dark_current.read_plane
    monkeypatch.setattr(dark_current, "read_plane", lambda *place: planes.append(place) or read(*place))
    again = follow_dark_current(records, tmp_path)
    assert planes == []
    assert (again.numbers(), again.hot, again.maps) == (first.numbers(), first.hot, {})
    assert dark_current_chart(again) is not None
    for column in first.captures.colnames:
        np.testing.assert_array_equal(again.captures[column], first.captures[column])
    changed = [*records[:-1], replace(records[-1], sha256={"master_dark.fits": "other"})]
    follow_dark_current(changed, tmp_path)
    assert len(planes) > 0
    (tmp_path / TRENDS / "dark_current.npz").write_bytes(b"no archive")
    assert follow_dark_current(changed, tmp_path).numbers() == first.numbers()
    (tmp_path / "dark_current.fits").unlink()
    follow_dark_current(changed, tmp_path)
    assert (tmp_path / "dark_current.fits").is_file()
