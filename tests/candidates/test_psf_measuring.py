import json
from dataclasses import replace

import numpy as np
import pytest
from star_fields import star_frame

from sla1tools.candidates.fit import fit_stamps
from sla1tools.candidates.leaders import cut_stamps
from sla1tools.candidates.psf import PSF, psf_of
from sla1tools.candidates.psf_measuring import elongation, measure_psf
from sla1tools.candidates.star_frames import box_medians, find_stars
from sla1tools.errors import NightError, ParametersError
from sla1tools.parameters import Parameters
from sla1tools.simulate.field import moffat


@pytest.fixture(scope="module")
def two_frames():
    return [star_frame(seed=seed, name=f"{seed}.fits")[0] for seed in (1, 2)]


@pytest.fixture(scope="module")
def measured(two_frames):
    return measure_psf(two_frames, 2.3)


@pytest.mark.slow
def test_the_measured_image_is_that_of_the_stars(measured):
    dx, dy = np.random.default_rng(5).uniform(-0.5, 0.5, (2, 30))
    ours = measured.psf.images(dx, dy)[:, 0]
    true = np.stack([moffat(*star)[5:10, 5:10] for star in zip(dx, dy, strict=True)])
    gaussian = PSF(measured.psf.fwhm).images(dx, dy)[:, 0]
    ours, gaussian, true = (images / images.sum((1, 2), keepdims=True) for images in (ours, gaussian, true))
    assert np.abs(ours - true).max() < 0.02 * true.max()
    assert np.abs(gaussian - true).max() > 0.05 * true.max()


@pytest.mark.slow
def test_stars_of_another_frame_are_as_likely_as_they_should_be(measured):
    frame, places, _ = star_frame(seed=3)
    x, y = np.rint(places).astype(int).T
    stamps, noise = cut_stamps(frame.electrons, y, x), cut_stamps(frame.sigma, y, x, 1.0)
    shares = {}
    for name, psf in (("measured", measured.psf), ("Gaussian", PSF(measured.psf.fwhm))):
        fits = fit_stamps(stamps, noise, True, psf, places=(x, y))
        shares[name] = np.mean(fits["p_value"] >= 1e-3)
    assert shares["measured"] > 0.97
    assert shares["Gaussian"] < 0.5, "10,000 to 150,000 e- show that they are no Gaussians"


@pytest.mark.slow
def test_held_out_fit_and_elongation(measured):
    assert 0.6 < measured.chi2_per_dof < 1.1, "errors and light that are forgiven lower it"
    assert elongation(measured.psf) == pytest.approx(1.07, abs=0.05)
    assert elongation(PSF(2.0)) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    ("frames", "n", "order", "varies", "errors"),
    [
        (2, 110, 8, True, (0.03, 0.06, 0.03)),
        (2, 32, 6, True, (0.03, 0.06, 0.03)),
        (1, 110, 8, True, (0.05, 0.1, 0.05)),
        (2, 14, 4, False, (0.05, 0.1, 0.05)),
    ],
)
@pytest.mark.slow
def test_order_and_errors_follow_the_number_of_stars(frames, n, order, varies, errors):
    found = measure_psf([star_frame(n=n, seed=10 + k, name=str(k))[0] for k in range(frames)], 2.0)
    assert (found.order, found.psf.varies) == (order, varies)
    assert (found.psf.size_error, found.psf.shape_error, found.psf.light_error) == errors
    assert n * frames - 8 <= found.count <= n * frames


def test_stars_are_refused_for_their_reason():
    places = np.array([[50.0, 50.0], [54.0, 50.0], [100.2, 100.0], [150.0, 150.0], [3.0, 200.0], [200.0, 200.0]])
    frame, _, _ = star_frame(places=places, low=5e4, high=6e4, seed=4)
    frame.usable[152, 153] = False
    frame.saturated[200, 199] = True
    stars = find_stars(replace(frame), 2.0)
    reasons = {(round(star["x"], -1), round(star["y"], -1)): str(star["reason"]) for star in stars}
    assert reasons[100, 100] == ""
    assert {reasons[50, 50], reasons[150, 150], reasons[0, 200], reasons[200, 200]} == {
        *("neighbor", "flagged", "edge", "saturated")
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 5}, r"5 stars .* 10 are needed \(none brighter\): expose longer"),
        (
            {"places": np.stack(np.meshgrid(np.arange(20, 280, 6.0), np.arange(20, 280, 6.0))).reshape(2, -1).T},
            "fewer stars",
        ),
        ({"low": 5e5, "high": 1e6}, r"saturated\): expose shorter"),
        ({"elongation": 4.0, "fwhm": 2.6}, "the stars are trailed"),
    ],
)
@pytest.mark.slow
def test_frames_that_cannot_show_it_are_refused_with_what_to_do(changes, message):
    with pytest.raises(NightError, match=message):
        measure_psf([star_frame(**changes)[0]], 2.0)


@pytest.mark.slow
def test_the_file_gives_the_same_image_and_its_errors_can_be_overridden(measured, tmp_path):
    path = tmp_path / "psf.json"
    path.write_text(json.dumps(measured.as_json() | {"sources": []}), encoding="utf-8")
    parameters = Parameters(psf=str(path), frame_shape=(300, 300), psf_light_error=0.0)
    read = psf_of(parameters)
    place = np.array([20.0]), np.array([250.0])
    images = [psf.images(np.array([0.1]), np.array([0.2]), psf.at(*place)) for psf in (read, measured.psf)]
    np.testing.assert_array_equal(*images)
    assert (read.size_error, read.light_error) == (measured.psf.size_error, 0.0)
    with pytest.raises(ParametersError, match=r"measured on frames of \[300, 300\], the night's are \[2048, 2048\]"):
        psf_of(Parameters(psf=str(path)))


def changed(values, **changes):
    return json.dumps(values | changes)


SOUND = {
    "fwhm": 2.0,
    "coefficients": [[[1.0]], [[0.0]], [[0.0]]],
    "errors": {"size": 0.1, "shape": 0.1, "light": 0.1},
    "frame_shape": [2048, 2048],
}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        *((text, "JSON") for text in ("", "\0", "[" * 9999)),
        *((text, "object") for text in ("[]", "3", "null")),
        *((json.dumps({key: SOUND[key] for key in SOUND if key != name}), f"{name} Field required") for name in SOUND),
        *((changed(SOUND, fwhm=value), "fwhm") for value in (None, "2", True, 0, 11, 10**400, np.nan)),
        *((changed(SOUND, frame_shape=value), "frame_shape") for value in (None, [], [0, 9], [9.5, 9], [np.inf, 9])),
        *((changed(SOUND, errors=SOUND["errors"] | {"light": value}), "errors light") for value in ("1", -1, 2)),
        *(
            (changed(SOUND, coefficients=value), "coefficients")
            for value in (None, [], [[1]], [[[1.0]]], [[[1.0]]] * 3)
        ),
        (changed(SOUND, coefficients=[[[1.0, 0.1], [0.0, 0.0]], *[[[0.0] * 2] * 2] * 2]), "c_10 and c_01 are 0"),
        (changed(SOUND, coefficients=[[[1.0] + [0.0] * 9] * 10, *[[[0.0] * 10] * 10] * 2]), "order 8 at most"),
    ],
)
def test_what_is_no_file_of_a_psf_is_refused(tmp_path, text, what):
    path = tmp_path / "psf.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ParametersError, match=rf"psf: .*is no file of sla1 psf \(.*{what}.*measure it again"):
        psf_of(Parameters(psf=str(path)))


def test_a_psf_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "huge.json").write_text("1" * 2**21)
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "sound.json").write_text(json.dumps(SOUND))
    assert psf_of(Parameters(psf=str(tmp_path / "sound.json"))).fwhm == 2
    for name, why in (("huge", "cannot be read"), ("folder", "cannot be read"), ("absent", "there is no absent.json")):
        with pytest.raises(ParametersError, match=f"psf: .*{why}"):
            psf_of(Parameters(psf=str(tmp_path / f"{name}.json")))


def test_without_a_file_it_is_a_gaussian_that_may_be_wrong():
    psf = psf_of(Parameters(psf_size_error=0.2))
    assert (psf.fwhm, psf.varies, psf.mode_errors, psf.light_error) == (2.0, False, (0.2, 0.1, 0.1), 0.1)


def test_the_background_follows_the_sky_and_not_its_stars():
    rng = np.random.default_rng(6)
    y, x = np.mgrid[:200, :300]
    sky = 1000 + 0.1 * x - 0.05 * y
    image = sky + rng.normal(0, 10, sky.shape)
    image[::25, ::25] += 5000
    assert np.abs(box_medians(image) - sky).max() < 10
