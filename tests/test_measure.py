"""The one pure function: the same night gives the same tables, and a summary in the contract's shape."""

import hashlib
import json
import os
import subprocess
import sys

import night_tables
import numpy as np
import pytest
from astropy.io import fits
from observers_rule import find_candidates
from small_nights import parameters_of, write_small_night

from sla1tools.candidates.criteria import CRITERIA, candidates
from sla1tools.candidates.rates import gaussian_expectation, poisson_rate
from sla1tools.candidates.rows import LEADER_COLUMNS
from sla1tools.errors import NightError, ParametersError
from sla1tools.measure import measure_night
from sla1tools.run.night import STEPS
from sla1tools.run.products import PRODUCTS, write_products
from sla1tools.show import tables
from sla1tools.simulate.night import Star

SHAPE = {
    "night": {"capture_date", "capture_time", "object_name"},
    "verdict": None,
    "reasons": None,
    "notes": None,
    "floors": {"peak", "snr", "left_out"},
    "frames": {"used", "rejected", "ignored"},
    "counts": {"low_bit_use", "step", "top_code_seen", "padding_holds"},
    "dark": {"level", "noise", "gain_measured", "gain_configured", "pedestal"},
    "pixels": None,
    "candidates": {"held_out", "in_sample", "per_frame"},
    "false_alarms_per_frame": {"rate", "low", "high", "confidence", "gaussian_expectation"},
    "completeness": {"flux_50", "flux_90", "curve"},
    "operating_point": {"criterion", "cuts", "flux_50", "chosen_on", "quoted_on"},
}
PER_CRITERION = ("candidates", "false_alarms_per_frame", "completeness", "operating_point")
STARS = [Star(5000.0, 2.0, 40.2 + 17 * k, 60.4 + 9 * k, frame=k) for k in range(5)]


@pytest.fixture(scope="module")
def parameters(tmp_path_factory):
    """Six frames with bad pixels, muons and five stars, one file that is none and one to ignore."""
    directory = tmp_path_factory.mktemp("night")
    night, _ = write_small_night(
        directory, 6, (144, 128), 3, clean=False, noise=37.0, stars=STARS, changes={"injections": 1500}
    )
    folder = night.parameters.capture_directory
    (folder / "00007.fits").write_bytes(b"")
    (folder / "notes.txt").write_text("cloudy")
    return night.parameters


@pytest.fixture(scope="module")
def measured(parameters):
    return measure_night(parameters)


def bytes_of(table):
    parts = []
    for name in table.colnames:
        values, mask = np.ma.getdata(table[name]), np.ma.getmaskarray(np.ma.asarray(table[name]))
        parts += [name.encode(), str(values.dtype).encode(), np.asarray(values).tobytes(), mask.tobytes()]
    return b"|".join(parts)


def test_the_summary_has_the_contracts_keys_and_no_others(measured):
    summary = measured.summary
    assert list(summary) == list(SHAPE)
    for key, keys in SHAPE.items():
        if key in PER_CRITERION:
            assert set(summary[key]) == set(CRITERIA)
            for criterion in CRITERIA:
                numbers = summary[key][criterion]  # bright stars in every choosing frame leave nothing to recommend
                assert (numbers is None and key == "operating_point") or set(numbers) == keys
        elif keys:
            assert set(summary[key]) == keys
    text = json.dumps(summary, allow_nan=False)
    assert json.loads(text) == summary, "plain types alone"


def test_the_summarys_numbers_are_the_tables(measured):
    summary, parameters = measured.summary, measured.parameters
    assert summary["floors"] == {"peak": 3 * measured.dark.median_noise, "snr": 4.0, "left_out": 0}
    for criterion in CRITERIA:
        passing = measured.leaders[candidates(measured.leaders, parameters, criterion)]
        held_out = passing[passing["reference"] == "leave_one_out"]
        told = summary["candidates"][criterion]
        assert told["held_out"] == len(held_out) == len(measured.candidates(criterion)) == sum(told["per_frame"])
        assert told["in_sample"] == len(passing) - len(held_out) == len(measured.candidates(criterion, "all"))
        assert told["per_frame"] == [np.count_nonzero(held_out["frame"] == name) for name in measured.capture.names]
        rate = poisson_rate(len(held_out), 6)
        alarms = summary["false_alarms_per_frame"][criterion]
        assert (alarms["rate"], alarms["low"], alarms["high"]) == (rate.rate, rate.low, rate.high)
        curve = summary["completeness"][criterion]["curve"]
        assert sum(point["recovered"] for point in curve) == measured.trials[f"recovered_{criterion}"].sum()
    noise = measured.dark.level_sigma("leave_one_out")
    expected = summary["false_alarms_per_frame"]["neighbor_ratio"]["gaussian_expectation"]
    assert expected == gaussian_expectation(noise, 200.0, 0.3)
    assert summary["dark"]["noise"] == pytest.approx(np.median(measured.dark.noise))


def test_the_verdict_is_degraded_by_a_rejected_frame_and_not_by_a_note(measured, parameters):
    summary = measured.summary
    assert summary["verdict"] == "degraded"
    assert summary["reasons"] == ["1 frame rejected: empty"]
    assert summary["frames"]["rejected"] == {"empty": ["00007.fits"]}
    assert "notes.txt" in summary["frames"]["ignored"]
    assert len(summary["frames"]["used"]) == 6
    assert summary["notes"]
    sound = measure_night(parameters.model_copy(update={"file_pattern": "0000[1-6].fits"}))
    assert sound.summary["verdict"] == "ok"
    assert sound.summary["reasons"] == []
    assert sound.summary["notes"], "low bits in use, times without a lock: told, and no reason"


@pytest.mark.slow
def test_two_runs_agree_to_the_byte_and_touch_nothing(measured, parameters):
    folder = parameters.capture_directory
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    steps = []
    again = measure_night(parameters, progress=steps.append)
    assert steps == [*STEPS[:5]]
    for name in ("leaders", "trials", "hits", "grid"):
        assert bytes_of(getattr(again, name)) == bytes_of(getattr(measured, name)), name
    assert bytes_of(again.injections.leaders) == bytes_of(measured.injections.leaders)
    assert again.summary == measured.summary
    assert again.dark.noise.tobytes() == measured.dark.noise.tobytes()
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()} == before


@pytest.mark.parametrize(("threads", "order"), [("1", "0"), ("4", "12345")])
@pytest.mark.slow
def test_another_program_with_other_threads_and_hashes_writes_the_same_bytes(
    measured, parameters, tmp_path, threads, order
):
    write_products(measured, tmp_path)
    here = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()}
    (tmp_path / "there").mkdir()
    (tmp_path / "night.json").write_text(parameters.model_dump_json())
    program = (
        "import sys; from pathlib import Path; from sla1tools.parameters import Parameters\n"
        "from sla1tools.measure import measure_night; from sla1tools.run.products import PRODUCTS, write_products\n"
        "parameters = Parameters.model_validate_json(Path(sys.argv[1]).read_text())\n"
        "write_products(measure_night(parameters), Path(sys.argv[2]))\n"
    )
    settings = {"PYTHONHASHSEED": order, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
    command = [sys.executable, "-c", program, str(tmp_path / "night.json"), str(tmp_path / "there")]
    subprocess.run(command, env=os.environ | settings, check=True)
    there = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "there").iterdir()}
    assert there == here
    assert set(here) == set(PRODUCTS)


def test_stars_of_the_night_are_found_by_the_psf_in_their_own_frame(measured):
    found = measured.candidates("psf_chi2")
    for k, star in enumerate(STARS):
        near = (found["frame"] == f"{k + 1:05d}.fits") & (
            np.hypot(found["x_fit"] - star.x, found["y_fit"] - star.y) < 0.3
        )
        assert near.sum() == 1
        (row,) = found[near]
        assert row["flux"] == pytest.approx(5000, rel=0.15)
        elsewhere = (found["frame"] != f"{k + 1:05d}.fits") & (np.abs(found["x"] - star.x) < 2)
        assert not (elsewhere & (np.abs(found["y"] - star.y) < 2)).any()


def test_residuals_and_histories_are_the_definitions(measured):
    night = measured.capture
    stack = np.stack([frame.rows(0, 144) for frame in night.frames]).astype(float)
    for reference, others in (("leave_one_out", np.delete(stack, 2, axis=0)), ("all", stack)):
        wanted = (stack[2] - np.median(others, axis=0)) * night.parameters.scale
        np.testing.assert_allclose(measured.residual(2, reference), wanted, atol=1e-9)
    np.testing.assert_array_equal(measured.residual(2), measured.residual(2, "leave_one_out"))
    x, y = np.array([5, 74, 127]), np.array([0, 78, 143])
    histories = measured.histories(x, y)
    assert histories.shape == (3, 6)
    sigma = measured.dark.sigma(night.rows(2, 0, 144), np.s_[:, :], "leave_one_out")
    np.testing.assert_allclose(histories[:, 2], (measured.residual(2) / sigma)[y, x], rtol=1e-5)
    assert histories[1].argmax() == 2, "the third star is in the third frame"


def test_a_pixels_history_is_in_one_noise_in_which_the_flash_has_no_part(measured):
    """Other frames scatter by 1 sigma, as a camera does; in each one's own noise the flash would press them flat."""
    good = np.argwhere(measured.dark.classes.dq == 0)[::7]
    (y, x), frame = good.T, np.arange(len(good)) % 6
    held_out, in_sample = np.moveaxis(measured.history(x, y, frame), 2, 0)
    others = held_out[np.arange(6) != frame[:, None]]
    assert 1.4826 * np.median(np.abs(others)) == pytest.approx(1, abs=0.07)
    assert np.std(in_sample) < np.std(held_out), "a frame is part of what it is compared with"
    night, k = measured.capture, 2
    sigma = measured.dark.sigma(night.rows(k, 0, 144), np.s_[:, :], "leave_one_out")
    star = np.array([[74, 78]]).T
    ((pixel,), (own,)) = measured.history(*star, np.array([k]))[..., 0], measured.histories(*star)
    for j in range(6):
        assert pixel[j] == pytest.approx(measured.residual(j, "leave_one_out")[78, 74] / sigma[78, 74], rel=1e-5)
    assert pixel[k] == pytest.approx(own[k], rel=1e-5) == pixel.max()
    assert np.std(np.delete(pixel, k)) > 2 * np.std(np.delete(own, k))


def test_what_is_around_a_pixel_is_cut_out_of_the_frame_and_of_its_reference(measured):
    x, y, frame = np.array([64, 1, 127]), np.array([70, 143, 0]), np.array([2, 0, 5])
    cut = measured.surroundings(x, y, frame)
    assert cut.shape == (3, 2, 15, 15)
    scale = measured.parameters.scale
    for i, k in enumerate(frame):
        counts = np.pad(measured.capture.rows(k, 0, 144) * scale, 7, constant_values=np.nan)
        residual = np.pad(measured.residual(k), 7, constant_values=np.nan)
        place = np.s_[y[i] : y[i] + 15, x[i] : x[i] + 15]
        np.testing.assert_allclose(cut[i, 0], counts[place])
        np.testing.assert_allclose(cut[i, 0] - cut[i, 1], residual[place], atol=1e-9)


def test_every_candidate_has_its_time(measured):
    """That at which its frame's exposure began, by the header (as SharpCap writes it: DATE-END minus EXPTIME)."""
    found = measured.candidates(threshold=measured.floors.peak + 1, ratio=0.0)
    assert found.colnames[:2] == ["frame", "time"]
    assert len(found)
    starts = {frame.name: frame.start for frame in measured.capture.frames}
    assert {row["time"] for row in found} <= {start.isoformat(timespec="milliseconds") for start in starts.values()}
    for row in found:
        assert row["time"] == starts[row["frame"]].isoformat(timespec="milliseconds")
    assert measured.capture.times(["no such frame"]).tolist() == [""]
    assert "time" not in measured.leaders.colnames


def test_tables_have_the_contracts_columns(measured):
    assert measured.leaders.colnames == [*LEADER_COLUMNS, "stamp"]
    assert set(measured.leaders["reference"]) == {"leave_one_out", "all"}
    assert measured.trials.colnames[: len(LEADER_COLUMNS)] == list(LEADER_COLUMNS)
    kinds = {"x": "i4", "y": "i4", "dq": "i4", "dof": "i4", "peak": "f8", "snr": "f8", "p_value": "f8"}
    for table in (measured.leaders, measured.trials):
        assert {name: table[name].dtype.str[1:] for name in kinds} == kinds
        assert {name: str(table[name].unit) for name in ("x", "peak", "flux", "x_fit")} == {
            "x": "pix",
            "peak": "electron",
            "flux": "electron",
            "x_fit": "pix",
        }
        assert table["stamp"].dtype == np.float32
        assert len(table) == len(table["stamp"])


@pytest.mark.parametrize(
    "changes",
    [
        {"combination_method": "average"},
        {"reference": "all"},
        {"level_correction": True},
        {"neighbors": 8, "threshold": 90.0, "ratio": 0.1},
        {"criterion": "psf_chi2", "snr_min": 3.5, "p_min": 0.0},
        {"seeing_fwhm": 1.8},
    ],
    ids=lambda changes: next(iter(changes)),
)
@pytest.mark.slow
def test_every_setting_is_measured_as_it_reads(parameters, changes):
    """Candidates of either criterion against plain numpy and the cuts' own words, settings of both applied."""
    measured = measure_night(parameters.model_copy(update={"injections": 200} | changes))
    chosen, summary = measured.parameters, measured.summary
    assert len(measured.trials) == 200
    assert summary["floors"]["peak"] <= chosen.threshold
    assert summary["floors"]["snr"] <= chosen.snr_min
    counts = np.stack([frame.rows(0, frame.shape[0]) for frame in measured.capture.frames]).astype(float)
    if chosen.level_correction:
        levels = np.median(counts, axis=(1, 2))
        offsets = np.rint(levels - np.median(levels))[:, None, None]
        railed = (counts == 0) | (counts >= chosen.top_code)
        counts = np.where(railed, counts, np.clip(counts - offsets, 1, chosen.top_code - 1))
    combine = {"median": np.median, "average": np.mean}[chosen.combination_method]
    expected = []
    for k in range(len(counts)):
        others = counts if chosen.reference == "all" else np.delete(counts, k, axis=0)
        residual = (counts[k] - combine(others, axis=0)) * chosen.scale
        expected.append(len(find_candidates(residual, chosen.threshold, chosen.ratio, chosen.neighbors)))
    assert summary["candidates"]["neighbor_ratio"]["per_frame"] == expected
    assert sum(expected) > 0
    stars = measured.candidates("psf_chi2")
    assert len(stars) == sum(summary["candidates"]["psf_chi2"]["per_frame"]) > 0
    assert stars["snr"].min() >= chosen.snr_min
    assert stars["p_value"].min() >= chosen.p_min
    assert set(stars["reference"]) == {chosen.reference}
    assert np.mean(measured.trials["fwhm_true"]) == pytest.approx(chosen.seeing_fwhm / chosen.pixel_scale, rel=0.03)


def test_made_up_tables_have_the_columns_of_measured_ones(measured):
    """What the explorer's tests draw is what a night gives: names, order, kinds of value, and what may be masked."""

    def kinds(table):
        return {name: (table[name].dtype.kind, table[name].shape[1:]) for name in table.colnames}

    made_up = night_tables.make_injections(200, measured.parameters)
    pairs = [
        (night_tables.make_leaders(200, measured.parameters), measured.leaders),
        (made_up.trials, measured.trials),
        (made_up.leaders, measured.injections.leaders),
    ]
    for ours, real in pairs:
        assert list(kinds(ours).items()) == list(kinds(real).items())
        for name in real.colnames:
            assert np.ma.getmaskarray(ours[name]).any() == np.ma.getmaskarray(real[name]).any(), name


def test_three_frames_are_measured_and_what_they_cannot_tell_is_said(tmp_path):
    night, _ = write_small_night(tmp_path, 3, (96, 96), 3, clean=False, noise=37.0)
    summary = measure_night(night.parameters).summary
    assert summary["verdict"] == "degraded"
    assert "pixel class noisy could not be tested" in summary["reasons"]
    assert summary["operating_point"] == dict.fromkeys(CRITERIA), "none in two frames still allows 1.5 a frame"
    json.dumps(summary, allow_nan=False)


def test_two_frames_are_not_tested(tmp_path):
    night, _ = write_small_night(tmp_path, 2, (32, 32), 3)
    with pytest.raises(NightError, match="not tested: 2 usable frames"):
        measure_night(night.parameters)
    with pytest.raises(ParametersError, match="there is no nowhere in"):
        measure_night(parameters_of(tmp_path / "nowhere", (32, 32)))


def test_a_night_of_biases_is_measured(tmp_path):
    """EXPTIME 0, IMAGETYP 'Bias Frame' and dark_exposure 0: read, measured and shown without a rate per night."""
    night, _ = write_small_night(tmp_path, 5, (64, 64), 3, noise=9.0, level=90.0, changes={"dark_exposure": 0.0})
    assert not night.frames, "darks of 30 s are no biases"
    for path in night.parameters.capture_directory.glob("*.fits"):
        fits.setval(path, "EXPTIME", value=0.0)
        fits.setval(path, "IMAGETYP", value="Bias Frame")
    measured = measure_night(night.parameters)
    assert len(measured.capture.frames) == 5
    html = tables.false_alarms(measured).data
    assert html.count("not defined") == 4
    assert "per night of biases" in html
