import json
import re
from hashlib import sha256
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from browser import browser, offline, read_by_everybody  # noqa: F401
from click.testing import CliRunner
from small_nights import write_small_night
from star_fields import scattered

from sla1tools.candidates.psf import psf_of
from sla1tools.candidates.star_frames import StarFrame, read_star_frames
from sla1tools.cli import main
from sla1tools.darks.model import characterize
from sla1tools.errors import NightError
from sla1tools.parameters import Parameters, to_yaml
from sla1tools.places import from_working_folder
from sla1tools.run import star_image
from sla1tools.simulate.field import field_electrons, moffat

SHAPE, SCALE, NOISE = (200, 240), 1.39 / 16, 10.0
CARDS = {"EXPTIME": 30.0, "FILTER": "R"}


def star_counts(level, seed=0, n=60, sky=1500.0, gain=0.2):
    """Raw counts of stars and a Poisson sky on the dark, where a count is `gain` electrons of light."""
    rng = np.random.default_rng(seed)
    light = sky + field_electrons(SHAPE, scattered(SHAPE, n, seed), rng.uniform(1e4, 2e4, n), [2.0] * n)
    dark = level / SCALE + rng.normal(0, NOISE / SCALE, SHAPE)
    return np.clip(np.rint(dark + rng.poisson(light) / gain), 0, 65535).astype(np.uint16)


def write_frame(path, counts, **cards):
    header = fits.Header()
    header.update({key: value for key, value in (CARDS | cards).items() if value is not None})
    fits.PrimaryHDU(counts, header).writeto(path)
    return path


@pytest.fixture(scope="module")
def camera(tmp_path_factory):
    """A night's parameters, its darks, and two star frames of the same camera beside it."""
    folder = tmp_path_factory.mktemp("camera")
    night, simulated = write_small_night(folder / "darks", frames=10, shape=SHAPE, noise=NOISE)
    paths = [write_frame(folder / f"{k}.fits", star_counts(simulated.level_map, k)) for k in (1, 2)]
    return SimpleNamespace(
        folder=folder,
        level=simulated.level_map,
        night=night,
        parameters=night.parameters,
        dark=characterize(night),
        frames=paths,
    )


@pytest.mark.parametrize(("sky", "gain"), [(1500.0, 0.2), (800.0, 0.12)])
def test_the_gain_is_that_of_the_sky(camera, sky, gain):
    frame = StarFrame.of("x", star_counts(camera.level, 3, sky=sky, gain=gain), camera.dark, 65535)
    assert frame.gain == pytest.approx(gain, rel=0.08)
    low, middle = np.percentile(frame.electrons / frame.sigma, [15.865, 50])
    assert middle - low == pytest.approx(1.0, abs=0.05), "the noise is that of the blank sky"


def test_where_the_sky_is_dark_the_gain_is_that_of_the_darks(camera):
    frame = StarFrame.of("x", star_counts(camera.level, 3, sky=20.0), camera.dark, 65535)
    assert frame.gain == camera.dark.scale


@pytest.mark.parametrize(
    ("name", "cards", "shape", "message"),
    [
        ("exposure", {"EXPTIME": 60.0}, SHAPE, r"EXPTIME 60 s, not 30 s; name a night .* \(-f\)"),
        ("other-name", {"EXPTIME": None, "EXPOSURE": 60.0}, SHAPE, r"EXPOSURE 60 s, not 30 s; name a night"),
        ("no-exposure", {"EXPTIME": None}, SHAPE, r"EXPTIME must be a number of seconds; got None"),
        ("camera", {"INSTRUME": "ST-10"}, SHAPE, r"taken with ST-10, the darks with QHY42PRO; name a night"),
        ("filter", {"FILTER": "V"}, SHAPE, r"different filters: R \(1\.fits\), V \(filter\.fits\); measure one PSF"),
        ("no-filter", {"FILTER": None}, SHAPE, "different filters"),
        ("shape", {}, (200, 200), r"shape\.fits: .*200.*; name a night of darks of its camera, shape"),
    ],
)
def test_frames_of_another_kind_are_refused(camera, tmp_path, name, cards, shape, message):
    odd = write_frame(tmp_path / f"{name}.fits", np.full(shape, 20_000, np.uint16), **cards)
    with pytest.raises(NightError, match=message):
        read_star_frames([camera.frames[0], odd], camera.dark, camera.night)


def test_what_is_no_frame_is_refused(camera, tmp_path):
    for path, text in ((tmp_path / "absent.fits", None), (tmp_path / "text.fits", "no frame")):
        if text:
            path.write_text(text, encoding="utf-8")
        with pytest.raises(NightError, match=re.escape(str(path))):
            read_star_frames([path], camera.dark, camera.night)


def sla1_psf(camera, *frames, to):
    night = camera.folder / "night.yaml"
    keys = ("sessions_directory", "capture_date", "capture_time", "object_name", "frame_shape")
    night.write_text(to_yaml(camera.parameters, keys), encoding="utf-8")
    return CliRunner().invoke(main, ["psf", *map(str, frames), "-f", str(night), "--to", str(to)])


@pytest.mark.slow
def test_the_command_writes_a_psf_that_a_night_can_use(camera, tmp_path, offline):  # noqa: F811
    to = tmp_path / "psf.json"
    result = sla1_psf(camera, *camera.frames, to=to)
    assert result.exit_code == 0, result.output
    written = json.loads(to.read_text(encoding="utf-8"))
    assert result.stdout.startswith(f"{written['stars']} stars, FWHM ")
    assert 90 < written["stars"] <= 120
    sources = [{"name": path.name, "sha256": sha256(path.read_bytes()).hexdigest()} for path in camera.frames]
    assert written["sources"] == sources
    assert written["camera"] == camera.night.camera
    psf = psf_of(camera.parameters.model_copy(update={"psf": str(to)}))
    ours = psf.images(np.zeros(1), np.zeros(1), psf.at(np.array([120.0]), np.array([100.0])))[0, 0]
    true = moffat(0.0, 0.0)[5:10, 5:10]
    assert np.abs(ours / ours.sum() - true / true.sum()).max() < 0.01
    page = to.with_suffix(".html").read_text(encoding="utf-8")
    assert all(path.name in page for path in camera.frames)
    read_by_everybody(offline, to.with_suffix(".html"))


@pytest.mark.parametrize("there", ["psf.json", "psf.html"])
def test_nothing_is_written_over(camera, tmp_path, there):
    (tmp_path / there).write_text("mine", encoding="utf-8")
    result = sla1_psf(camera, *camera.frames, to=tmp_path / "psf.json")
    assert result.exit_code == 2
    assert re.search(rf"{there} is there already; choose another name \(--to\)", result.stderr)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(there, "mine")]


def test_what_the_frames_lack_is_told_without_a_traceback(camera, tmp_path):
    twice = sla1_psf(camera, camera.frames[0], camera.frames[0], to=tmp_path / "psf.json")
    starless = write_frame(tmp_path / "starless.fits", star_counts(camera.level, n=0))
    none = sla1_psf(camera, starless, to=tmp_path / "psf.json")
    copied = tmp_path / "copied.fits"
    copied.write_bytes(camera.frames[0].read_bytes())
    same = sla1_psf(camera, camera.frames[0], copied, to=tmp_path / "psf.json")
    copied.unlink()
    assert (twice.exit_code, same.exit_code, none.exit_code) == (2, 2, 3)
    assert "two frames have the same name or content" in twice.stderr
    assert "two frames have the same name or content" in same.stderr
    assert "0 stars of S/N 50 or more stand alone, 10 are needed" in none.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["starless.fits"]


def test_the_demo_measures_its_stars_once(monkeypatch, tmp_path):
    measured = []

    def write(paths, parameters, to):
        measured.append((paths, parameters))
        to.write_text("{}", encoding="utf-8")

    monkeypatch.setenv("SLA1_HOME", str(tmp_path))
    monkeypatch.setattr(star_image, "demo_field", lambda: ["a star frame"])
    monkeypatch.setattr(star_image, "write_psf", write)
    for _ in range(2):
        named = star_image.demo_psf(Parameters())
        assert named == Parameters(psf="outputs/demo_sessions/2024-05-08/psf.json")
    for other in (Parameters(psf="mine.json"), Parameters(capture_date="2024-05-09")):
        assert star_image.demo_psf(other) is other
    assert measured == [(["a star frame"], Parameters())]
    assert from_working_folder(named.psf).is_file()
