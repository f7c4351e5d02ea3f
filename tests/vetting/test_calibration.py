"""What a verdict is worth: flashes of darks come at the expected rate, stars and hits are told apart."""

import json
import re
from dataclasses import replace
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from scipy.ndimage import maximum_filter
from star_fields import scattered
from vetted import FRAMES, SHAPE, darks, open_darks, sky_counts

from sla1tools.candidates.criteria import CRITERIA
from sla1tools.candidates.detection import detect_night, find_hits
from sla1tools.candidates.psf_measuring import measure_psf
from sla1tools.candidates.star_frames import read_star_frames
from sla1tools.darks.classes import BLOCKING, PixelClass
from sla1tools.darks.model import characterize
from sla1tools.frames.capture import judge_capture
from sla1tools.measure import Measurement
from sla1tools.parameters import read_parameters
from sla1tools.places import CHECKOUT
from sla1tools.vetting.expectation import CameraFlashes
from sla1tools.vetting.judging import PLACE_PIXELS, Witness
from sla1tools.vetting.searching import find_flashes, leaders_of

STARS = "2012-06-17/01_56_40/Stars60s"


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    return open_darks(tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    parameters, _ = darks(tmp_path_factory.mktemp("second"), 2)
    return sorted(parameters.capture_directory.glob("*.fits"))


@pytest.mark.slow
def test_darks_of_a_second_night_give_flashes_at_the_expected_rate(night, second):
    """In every bin of S/N within counting error of both nights; many more or fewer if the sky's ring were not in it."""
    night, _ = night
    found = []
    for path in second:
        frame = night.witness.take(path)
        leaders = leaders_of(frame, night.witness)
        judged = night.witness.vet(frame, leaders["x"], leaders["y"], FRAMES)
        judged = judged[~np.ma.getmaskarray(judged["snr"])]
        star_like = CRITERIA["psf_chi2"].select(judged, {"snr_min": 0.0, "p_min": night.parameters.p_min})
        found.append(np.asarray(judged["snr"][star_like]))
    found = np.concatenate(found)
    edges = [night.floors.snr, 4.2, 4.5, 5.0, 6.0, np.inf]
    assert len(found) > 60
    for low, high in pairwise(edges):
        count = np.count_nonzero((found >= low) & (found < high))
        expected = -np.diff(night.witness.flashes.expected([low, high], FRAMES)[0])[0]
        assert abs(count - expected) <= 3 * np.sqrt(max(count + expected, 1)), (low, high)


@pytest.mark.parametrize("rate", [0.02, 0.3, 3.0, 40.0])
def test_the_limit_covers_95_per_cent(rate):
    """Of nights of ten darks, for what is expected of the camera in three frames."""
    rng, covered, bright = np.random.default_rng(3), [], 12.0
    for number in rng.poisson(10 * rate, 2000):
        flashes = CameraFlashes(np.sort(np.concatenate([rng.uniform(4, 12, 5), rng.uniform(12, 99, number)])), 10)
        covered.append(flashes.expected(bright, 3)[1] >= 3 * rate)
    assert np.mean(covered) > 0.95 - 3 * np.sqrt(0.05 * 0.95 / 2000)


def test_the_number_of_darks_that_would_clear_a_flash():
    none, some = CameraFlashes(np.zeros(0), 10), CameraFlashes(np.array([9.0]), 10)
    assert none.expected(6.0, 1)[1] == pytest.approx(0.2996, abs=1e-4)
    assert none.darks_to_clear(6.0, 1, 0.05) == 60
    assert none.expected(6.0, 3)[1] * 10 / 180 == pytest.approx(0.05, abs=0.001)
    assert some.darks_to_clear(6.0, 1, 0.05) is None, "one in ten darks is twice as many as may be"
    more = some.darks_to_clear(6.0, 1, 0.2)
    assert CameraFlashes(np.full(more // 10, 9.0), more).expected(6.0, 1)[1] <= 0.2
    fewer = more - 10
    assert CameraFlashes(np.full(fewer // 10, 9.0), fewer).expected(6.0, 1)[1] > 0.2


@pytest.mark.slow
def test_stars_at_known_places_are_not_the_cameras(night):
    night, _ = night
    places = scattered(SHAPE, 60, 4)
    near_flagged = maximum_filter(night.dark.classes.dq & int(BLOCKING) != 0, 3)
    places = places[~near_flagged[tuple(np.rint(places).astype(int).T[::-1])]]
    judged = night.vet(sky_counts(3, places, np.geomspace(2e3, 1.2e4, len(places))), *places.T, known_place=True)
    assert np.mean(judged["verdict"] == "not the camera's") > 0.95
    np.testing.assert_allclose(judged["searched"], PLACE_PIXELS / (SHAPE[0] * SHAPE[1]))
    light = np.asarray(judged["flux"]) / np.geomspace(2e3, 1.2e4, len(places))
    assert 0.65 < np.nanmedian(light) < 1, "a Moffat's wings lie beyond the stamp"
    np.testing.assert_allclose(judged["sky"], 800.0, atol=40)


def test_a_star_on_a_telegraph_pixel_is_the_cameras_and_one_beside_it_is_not(night):
    night, truth = night
    flagged = night.dark.classes.dq & int(BLOCKING)
    rts = truth[(truth["kind"] == "rts") & (flagged[truth["y"], truth["x"]] & int(PixelClass.UNSTABLE) != 0)]
    inner = rts[(rts["x"] > 20) & (rts["x"] < SHAPE[1] - 20) & (rts["y"] > 20) & (rts["y"] < SHAPE[0] - 20)]
    assert len(inner) >= 5
    on, beside = (np.stack([inner["x"] + dx, inner["y"]], axis=1).astype(float) for dx in (0, 2))
    on_pixel = None
    for places, verdict, reason in ((on, "camera", "its pixel is flagged"), (beside, "not the camera's", "beside it")):
        judged = night.vet(sky_counts(5, places, np.full(len(places), 1e4)), *places.T, known_place=True)
        on_pixel = judged if verdict == "camera" else on_pixel
        assert set(judged["verdict"]) == {verdict}
        assert all(reason in text and "unstable" in text for text in judged["reasons"])
    assert all(re.search(r"it switches from \d+ to \d+ e-, up in \d+ darks", text) for text in on_pixel["reasons"])


def planted(counts, hits, rng):
    """Put hits of darks (counts above the master, (n, 9, 9)) into a frame, one in each cell of 24 x 24 pixels."""
    ny, nx = counts.shape
    cells = rng.permutation((ny // 24) * (nx // 24))[: len(hits)]
    places = np.stack([cells % (nx // 24) * 24 + 12, cells // (nx // 24) * 24 + 12], axis=1)
    counts = counts.astype(float)
    for (x, y), hit in zip(places, hits, strict=False):
        counts[y - 4 : y + 5, x - 4 : x + 5] += hit
    return np.clip(np.rint(counts), 0, 65535).astype(np.uint16), places


def cut_hits(capture, dark):
    """The pixels of every hit of the darks, in counts above the others, (n, 9, 9); 0 where the hit is not."""
    from scipy.ndimage import binary_dilation

    hits = []
    sigma = dark.level_sigma("leave_one_out")
    for k in range(len(capture.frames)):
        counts = capture.rows(k, 0, capture.shape[0])
        residual = dark.residual(counts, "leave_one_out")
        lit = binary_dilation(residual > 3 * sigma, np.ones((3, 3)))
        for hit in find_hits(dark, "", residual, "leave_one_out"):
            x, y = int(hit["x"]), int(hit["y"])
            if 6 <= x < capture.shape[1] - 6 and 6 <= y < capture.shape[0] - 6:
                where = np.s_[y - 4 : y + 5, x - 4 : x + 5]
                hits.append(np.where(lit[where], residual[where] / dark.scale, 0))
    return np.array(hits)


@pytest.fixture(scope="module")
def real_night(real_sessions, tmp_path_factory):
    """The real darks with the PSF of the three real star frames."""
    stars = sorted((real_sessions / STARS).glob("*.fit"))
    if not stars:
        pytest.skip("the real star frames are not beside this checkout")
    settings = [("sessions_directory", str(real_sessions)), ("injections", "0")]
    parameters = read_parameters([CHECKOUT / "params" / "st10-2012-06-17.yaml"], settings)
    capture = judge_capture(parameters)
    dark = characterize(capture)
    psf = tmp_path_factory.mktemp("psf") / "psf.json"
    measured = measure_psf(read_star_frames(stars, dark, capture), parameters.fwhm)
    psf.write_text(json.dumps(measured.as_json()))
    capture = replace(capture, parameters=capture.parameters.model_copy(update={"psf": str(psf)}))
    leaders, _, floors = detect_night(capture, dark)
    histories = partial(Measurement.histories, SimpleNamespace(with_frames=SimpleNamespace(capture=capture, dark=dark)))
    return capture, Witness.of(capture, dark, leaders, floors, histories), stars


def test_real_stars_at_known_places_are_not_the_cameras(real_night):
    from real_stars import read_field, reference_stars

    _, witness, paths = real_night
    field, rng = read_field(paths[0].parents[3]), np.random.default_rng(0)
    for k, path in enumerate(paths):
        stars = reference_stars(field, k, 1.9)
        alone = stars[~(stars["edge"] | stars["saturated"] | stars["blend"]) & (stars["flux"] > 2000)]
        chosen = alone[rng.permutation(len(alone))[:200]]
        judged = witness.vet(witness.take(path), chosen["x"], chosen["y"], 0)
        verdicts = list(judged["verdict"])
        assert verdicts.count("not the camera's") >= 0.93 * len(chosen)
        assert verdicts.count("camera") <= 0.02 * len(chosen)


def test_real_hits_in_real_star_frames_are_camera_like(real_night):
    capture, witness, paths = real_night
    hits = cut_hits(capture, witness.dark)
    assert len(hits) > 200
    total, camera_like = 0, 0
    for k, path in enumerate(paths):
        counts = fits.getdata(path, memmap=False)
        rng = np.random.default_rng(k)
        starred, places = planted(counts, hits[rng.permutation(len(hits))], rng)
        before = witness.take(path)
        blank = np.abs(before.field.electrons) < 3 * before.field.sigma
        quiet = np.array([blank[y - 4 : y + 5, x - 4 : x + 5].all() for x, y in places])
        judged = witness.vet(witness.take(starred), *places[quiet].T, 1)
        clear = (judged["snr"].filled(0) >= 20) & ~np.isin(judged["verdict"], ["camera", "not judged"])
        total += np.count_nonzero(clear)
        camera_like += np.count_nonzero(judged["verdict"][clear] == "camera-like")
    assert total > 80
    assert camera_like >= 0.97 * total


@pytest.mark.slow
def test_flashes_are_found_at_the_expected_rate(night, second):
    """Of the second night's frames: each leader of S/N 5 is in one frame alone, or is a pixel that comes again."""
    night, _ = night
    witness = replace(night.witness, parameters=night.parameters.model_copy(update={"snr_min": 4.5}))
    flashes, notes = find_flashes(second, witness)
    assert len(notes) == FRAMES
    assert all("no stars show it" in note for note in notes[1:]), "darks have none"
    judged = [night.vet(path, *np.stack([own["x"], own["y"]]), searched=FRAMES) for path, own in by_file(flashes)]
    star_like = sum(np.count_nonzero(rows["p_value"] >= night.parameters.p_min) for rows in judged)
    expected = night.witness.flashes.expected(4.5, FRAMES)[0]
    assert expected > 10
    assert abs(star_like - expected) < 3 * np.sqrt(star_like + expected)


def by_file(flashes):
    return [(name, flashes[flashes["file"] == name]) for name in np.unique(flashes["file"])]


def test_a_flash_in_one_frame_of_a_pointing_is_found_and_its_stars_are_not(night, tmp_path):
    """Frames shifted by up to 30 pixels, stars of every brightness: only what was put into one frame is found."""
    night, _ = night
    rng = np.random.default_rng(8)
    stars, fluxes = 45 + scattered((230, 290), 60, 6), np.geomspace(1500, 15_000, 60)
    paths, flash = [], np.array([[200.3, 150.4]])
    for k, shift in enumerate(((0, 0), (17, -30), (-8, 3))):
        light = np.concatenate([stars + shift + rng.uniform(-0.3, 0.3, 2), *([flash + shift] if k == 1 else [])])
        counts = sky_counts(20 + k, light, np.append(fluxes, 6000.0)[: len(light)])
        paths.append(tmp_path / f"{k}.fits")
        fits.PrimaryHDU(counts, fits.Header({"EXPTIME": 30.0, "GAIN": 5, "IMAGETYP": "Light"})).writeto(paths[-1])
    flashes, notes = find_flashes(paths, night.witness)
    assert [note.partition(": ")[2] for note in notes[1:]] == ["shifted by x 17, y -30 px", "shifted by x -8, y 3 px"]
    at = np.array([str(paths[1]) == row["file"] and abs(row["x"] - 217) <= 1 for row in flashes])
    assert np.count_nonzero(at) == 1
    judged = [night.vet(path, *np.stack([own["x"], own["y"]])) for path, own in by_file(flashes[~at])]
    odd = [text for rows in judged for text in rows["verdict"]]
    assert set(odd) <= {"camera", "camera-like"}, "what else is found is no star"
    assert len(odd) <= 6
