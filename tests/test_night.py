"""The night as a user holds it: opened in every way to the same numbers, selected from, tried with stars, shown."""

import dataclasses
import json
import shutil
import zipfile

import numpy as np
import pytest
from astropy.io import fits
from small_nights import write_small_night

from sla1tools import night as night_module
from sla1tools import open_night
from sla1tools.candidates.criteria import CRITERIA, CUTS, neighbor_ratio, psf_chi2
from sla1tools.errors import NightError, ParametersError
from sla1tools.injections.counts import settings
from sla1tools.injections.injection import inject
from sla1tools.measure import Measurement, depends_on, measure_night, selected_again
from sla1tools.parameters import Parameters, to_yaml
from sla1tools.places import CHECKOUT
from sla1tools.published import write_manifest
from sla1tools.published.formats import ARCHIVE, INDEX, STAMPS, Stamps, read_archive, store, write_archive
from sla1tools.run.night import run_night
from sla1tools.simulate.night import Star

SHAPE = (112, 128)
STARS = [Star(4000.0, 2.0, 30.2, 40.4, frame=1), Star(6000.0, 2.0, 70.0, 80.3, frame=3)]


@pytest.fixture(scope="module")
def parameters(tmp_path_factory):
    """Five frames with bad pixels, muons and two stars."""
    folder = tmp_path_factory.mktemp("night")
    capture, _ = write_small_night(folder, 5, SHAPE, 3, clean=False, noise=37.0, stars=STARS)
    return capture.parameters


@pytest.fixture(scope="module")
def measured(parameters):
    return measure_night(parameters)


@pytest.fixture(scope="module")
def night(parameters):
    return open_night(parameters)


def assert_same(night, measured):
    """The same tables, to the bit, and the same numbers."""
    assert night.summary == measured.summary
    for name in ("leaders", "trials", "hits", "grid"):
        ours, theirs = getattr(night, name), getattr(measured, name)
        assert ours.colnames == theirs.colnames
        for column in ours.colnames:
            assert ours[column].unit == theirs[column].unit
            np.testing.assert_array_equal(np.ma.getdata(ours[column]), np.ma.getdata(theirs[column]))
            np.testing.assert_array_equal(np.ma.getmaskarray(ours[column]), np.ma.getmaskarray(theirs[column]))


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": 150.0, "ratio": 0.05},
        {"threshold": 900.0, "ratio": 0.9, "false_alarm_budget": 0.1, "night_hours": 4.0},
        {"criterion": "psf_chi2", "snr_min": 4.5, "p_min": 0.05},
        {"excluded_classes": ("hot", "telegraph")},
        {"criterion": "psf_chi2", "snr_min": 12.0, "p_min": 0.0},
    ],
    ids=str,
)
@pytest.mark.slow
def test_other_cuts_of_a_measured_night_are_those_of_another_measuring(measured, parameters, changes):
    before = measured.trials.copy()
    again = selected_again(measured, parameters.model_copy(update=changes))
    fresh = measure_night(parameters.model_copy(update=changes))
    assert_same(again, fresh)
    assert again.doubts == fresh.doubts
    assert again.parameters == fresh.parameters
    np.testing.assert_array_equal(again.counts, fresh.counts)
    assert list(before["miss_reason"]) == list(measured.trials["miss_reason"])
    assert list(again.trials["miss_reason"]) != list(before["miss_reason"])


def test_cuts_with_other_floors_take_measuring(measured, parameters):
    for changes in ({"threshold": 100.0}, {"snr_min": 3.5}):
        assert selected_again(measured, parameters.model_copy(update=changes)) is None


def test_measuring_depends_on_all_but_cuts_and_what_is_only_shown(parameters):
    """A parameter that is new is taken to change what is measured."""
    shown = {"false_alarm_budget", "night_hours", "interactive", "published", "products_directory"}
    selecting = {*CUTS, "criterion", "excluded_classes"}
    assert set(Parameters.model_fields) - depends_on(parameters).keys() == selecting | shown


@pytest.fixture(scope="module")
def published(parameters, tmp_path_factory):
    """The same night as `sla1 run` leaves it, without the notebooks."""
    return run_night(parameters, tmp_path_factory.mktemp("outputs"), notebooks=()).directory


def files_of(parameters, folder):
    lines = to_yaml(parameters).splitlines(keepends=True)
    (folder / "camera.yaml").write_text("".join(lines[4:]), encoding="utf-8")
    (folder / "night.yaml").write_text("".join(lines[:4]), encoding="utf-8")
    return folder / "camera.yaml", folder / "night.yaml"


@pytest.mark.slow
def test_every_way_to_open_a_night_gives_the_same_numbers(
    night, measured, parameters, published, tmp_path, monkeypatch
):
    camera, named = files_of(parameters, tmp_path)
    assert_same(night, measured)
    assert_same(open_night(camera, named), measured)
    assert_same(open_night(str(camera), str(parameters.capture_directory)), measured)
    assert_same(open_night(parameters.capture_directory, frame_shape=SHAPE, injections=400), measured)
    assert_same(open_night(published), measured)
    monkeypatch.chdir(tmp_path)
    assert_same(open_night("camera.yaml", "night.yaml"), measured)
    monkeypatch.chdir(CHECKOUT / "notebooks")
    changes = {"frame_shape": SHAPE, "injections": 400}
    assert_same(open_night("params/qhy42pro.yaml", parameters.capture_directory, **changes), measured)


def test_changes_are_measured(parameters, measured):
    changed = open_night(parameters, threshold=90.0, injections=0)
    assert changed.parameters == parameters.model_copy(update={"threshold": 90.0, "injections": 0})
    assert changed.floors.peak == 90.0
    assert len(changed.leaders) > len(measured.leaders)
    assert len(changed.trials) == 0


def test_a_night_handed_over_is_not_measured_again(measured, parameters, tmp_path, monkeypatch):
    folder = tmp_path / "handed over"
    store(measured, folder)
    with monkeypatch.context() as patched:
        patched.setattr(night_module, "measure_night", lambda *_: pytest.fail("measured again"))
        assert_same(open_night(parameters.model_copy(update={"products_directory": str(folder)})), measured)
    moved = open_night(parameters.model_copy(update={"products_directory": str(tmp_path / "gone")}))
    assert moved.summary == measured.summary, "a folder that is no longer there is no error"


@pytest.mark.parametrize("file", [INDEX, "0.npy", "another folder"])
def test_what_somebody_put_in_place_of_a_night_handed_over_is_not_opened(measured, parameters, tmp_path, file):
    """A program, an array of objects, or a whole folder written by `store` under another name."""
    folder = tmp_path / "handed over"
    store(measured, folder)
    if file == "another folder":
        folder = folder.rename(tmp_path / "another")
    else:
        code = f"__import__('pathlib').Path({str(tmp_path / 'pwned')!r}).touch()"
        harmful = type("Harmful", (), {"__reduce__": lambda self: (exec, (code,))})()
        with open(folder / file, "wb") as opened:
            np.lib.format.write_array(opened, np.array([harmful], dtype=object), allow_pickle=True)
    with pytest.raises(NightError, match="is not as a run left it"):
        open_night(parameters.model_copy(update={"products_directory": str(folder)}))
    assert not (tmp_path / "pwned").exists()


def test_the_defaults_name_the_demo_night_and_it_is_made_on_first_use(measured, monkeypatch):
    asked = []
    monkeypatch.setattr(night_module, "ensure_demo_night", asked.append)
    monkeypatch.setattr(night_module, "measure_night", lambda *_: measured)
    open_night()
    open_night(Parameters())
    assert asked == [Parameters(), Parameters()]


@pytest.mark.parametrize(
    ("sources", "changes", "message"),
    [
        (("nowhere.yaml",), {}, "nowhere.yaml: there is no nowhere.yaml"),
        (("~nobody-of-this-name/x.yaml",), {}, "nobody-of-this-name"),
        (("night\0.yaml",), {}, "null"),
        ((3,), {}, "takes paths, or one Parameters alone; got int"),
        ((Parameters(), "camera.yaml"), {}, "got Parameters"),
        ((Parameters(),), {"treshold": 3}, "treshold: there is no such parameter; did you mean threshold"),
        ((Parameters(),), {"threshold": "high"}, "open_night: threshold: .*; got 'high'"),
        (("/",), {}, "three folders deep"),
    ],
    ids=str,
)
def test_a_source_that_is_none_is_named(sources, changes, message):
    with pytest.raises(ParametersError, match=message):
        open_night(*sources, **changes)


@pytest.fixture(scope="module", params=[{}, {"combination_method": "average", "reference": "all"}], ids=str)
def without_frames(parameters, tmp_path_factory, request):
    """A night as it was measured, and opened from its published folder after its raw frames were deleted."""
    folder = tmp_path_factory.mktemp("gone")
    moved = parameters.model_copy(update={"sessions_directory": str(folder / "sessions"), **request.param})
    shutil.copytree(parameters.capture_directory, moved.capture_directory)
    place = run_night(moved, folder / "outputs", notebooks=()).directory
    measured = open_night(parameters, **request.param)
    with_frames = open_night(place)
    np.testing.assert_array_equal(with_frames.residual(2), measured.residual(2))
    x, y = measured.leaders["x"][:20], measured.leaders["y"][:20]
    np.testing.assert_array_equal(with_frames.histories(x, y), measured.histories(x, y))
    star = {"x": 64.3, "y": 50.1, "flux": 6000, "frame": 2}
    assert with_frames.inject(**star)["peak"] == measured.inject(**star)["peak"]
    shutil.rmtree(moved.capture_directory)
    return measured, open_night(place)


def test_a_published_night_is_the_night_that_was_measured(without_frames):
    measured, opened = without_frames
    assert_same(opened, measured)
    assert repr(opened) == repr(measured)
    assert repr(opened.dark) == repr(measured.dark).replace("DarkModel", "PublishedDark")
    assert opened.doubts == measured.doubts
    assert opened.capture.names == measured.capture.names
    for name in ("master", "noise", "prior"):
        np.testing.assert_array_equal(getattr(opened.dark, name), getattr(measured.dark, name))
    np.testing.assert_array_equal(opened.dark.classes.dq, measured.dark.classes.dq)
    spread = np.sqrt(measured.dark.variance)
    assert np.abs(opened.dark.mean - measured.dark.mean).max() < np.median(spread) / 15
    assert np.abs(np.sqrt(opened.dark.variance) - spread).max() < np.median(spread) / 15


@pytest.mark.slow
def test_every_selection_on_a_published_night_is_that_on_the_measured_one(without_frames):
    measured, opened = without_frames
    np.testing.assert_array_equal(opened.counts, measured.counts)
    counted = measured.counts[1:, 0] >= 0
    tried = settings(measured.parameters)[counted][::13]
    assert set(tried["criterion"]) == set(CRITERIA)
    for row in tried:
        criterion = CRITERIA[row["criterion"]]
        cuts = {cut.name: float(row[cut.name]) for cut in criterion.cuts}
        ours, theirs = (night.candidates(criterion.name, **cuts) for night in (opened, measured))
        assert list(ours["peak"]) == list(theirs["peak"])
        ours, theirs = (night.injections.recovered(criterion, cuts) for night in (opened, measured))
        np.testing.assert_array_equal(ours, theirs)
    for show in ("candidates", "injections"):
        ours, theirs = (night.explore(show).payload for night in (opened, measured))
        raw = theirs.pop("histories"), theirs["cutouts"].pop("closer", None)
        assert all(raw) == any(raw) == (show == "candidates"), "a pixel's frames, and what is around it"
        assert ours.pop("histories") is None, "are gone"
        assert ours == theirs


def test_a_published_night_opens_at_other_cuts_without_its_frames(without_frames):
    measured, opened = without_frames
    cuts = {"criterion": "psf_chi2", "snr_min": 5.0, "threshold": 180.0}
    again = open_night(opened.folder, **cuts)
    assert again.parameters.model_dump() == opened.parameters.model_dump() | cuts
    assert_same(again, selected_again(measured, measured.parameters.model_copy(update=cuts)))
    with pytest.raises(ParametersError, match="there is no"):
        open_night(opened.folder, injections=50)  # a deeper floor, or other stars, are in the frames alone


def test_a_frame_from_outside_is_judged_by_a_published_night_as_by_its_frames(without_frames):
    measured, opened = without_frames
    counts = np.random.default_rng(5).integers(14000, 16000, SHAPE).astype(np.uint16)
    ours, theirs = (night.dark.residual(counts, "outside") for night in (opened, measured))
    np.testing.assert_array_equal(ours, theirs)
    ours, theirs = (night.dark.sigma(counts, np.s_[:, :], "outside") for night in (opened, measured))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_what_takes_raw_frames_says_which_are_gone(without_frames):
    _, opened = without_frames
    for ask in (
        lambda: opened.residual(0),
        lambda: opened.inject(x=64.3, y=50.1, flux=1500),
        lambda: opened.histories(np.array([3]), np.array([4])),
    ):
        with pytest.raises(NightError, match=r"takes the raw frames; gone from .* are 00001.fits, 00002.fits"):
            ask()
    with pytest.raises(NightError, match="cannot judge its own frames"):
        opened.dark.residual(np.zeros(SHAPE, np.uint16), "leave_one_out")


def test_a_published_night_asks_its_own_frames_alone(published, parameters, tmp_path):
    with pytest.raises(ParametersError, match="its own parameters; open it alone"):
        open_night(published, parameters.capture_directory)
    moved = parameters.model_copy(update={"sessions_directory": str(tmp_path / "sessions")})
    shutil.copytree(parameters.capture_directory, moved.capture_directory)
    opened = open_night(run_night(moved, tmp_path / "outputs", notebooks=()).directory)
    frames = [moved.capture_directory / f"0000{k}.fits" for k in (1, 2)]
    frames[0].write_bytes(frames[1].read_bytes())
    with pytest.raises(NightError, match="made from other raw frames"):
        opened.residual(2)
    assert opened.explore().payload["histories"] is None


def with_archive(change, kind=Measurement, name=ARCHIVE):
    """Damage what is in an archive, and let the manifest name the damaged one."""

    def damage(folder):
        write_archive(change(read_archive(kind, folder / name)), folder / name)

    return damage


def rewritten(name, change):
    def damage(folder):
        with fits.open(folder / name, memmap=False, disable_image_compression=True) as hdus:
            change(hdus)
            hdus.writeto(folder / "new", overwrite=True)
        (folder / "new").replace(folder / name)

    return damage


def harmful_archive(folder):
    code = f"__import__('pathlib').Path({str(folder / 'pwned')!r}).touch()"
    harmful = type("Harmful", (), {"__reduce__": lambda self: (exec, (code,))})()
    with zipfile.ZipFile(folder / ARCHIVE, "w") as archive, archive.open("0.npy", "w") as member:
        np.lib.format.write_array(member, np.array([harmful], dtype=object), allow_pickle=True)


def huge_archive(folder):
    with zipfile.ZipFile(folder / ARCHIVE, "w", zipfile.ZIP_DEFLATED) as archive:
        header = np.lib.format.header_data_from_array_1_0(np.zeros(1))
        with archive.open("0.npy", "w") as member:
            np.lib.format.write_array_header_1_0(member, header | {"shape": (10**15,)})


DAMAGES = {
    "no archive of ours": lambda folder: (folder / ARCHIVE).write_bytes(b"PK"),
    "objects in it": harmful_archive,
    "more than memory": huge_archive,
    "half of it": lambda folder: (folder / ARCHIVE).write_bytes((folder / ARCHIVE).read_bytes()[:20000]),
    "fewer stamps": with_archive(lambda kept: Stamps(kept.leaders[:-1], kept.near_stars), Stamps, STAMPS),
    "another shape": with_archive(lambda kept: Stamps(kept.leaders, np.zeros(5)), Stamps, STAMPS),
    "no stamps": lambda folder: shutil.copy(folder / ARCHIVE, folder / STAMPS),
    "no summary": with_archive(lambda kept: dataclasses.replace(kept, summary={})),
    "a text": with_archive(lambda kept: dataclasses.replace(kept, floors="low")),
    "no table": lambda folder: shutil.copy(folder / "master_dark.fits", folder / "leaders.fits"),
    "a column less": rewritten("leaders.fits", lambda hdus: hdus[1].columns.del_col("snr")),
    "a place outside": rewritten("leaders.fits", lambda hdus: hdus[1].data["x"].__setitem__(0, 32000)),
    "another file's name": rewritten("leaders.fits", lambda hdus: hdus[1].data["frame"].__setitem__(0, "x.fits")),
    "no noise": rewritten("master_dark.fits", lambda hdus: hdus.pop(2)),
    "tiles of another shape": rewritten("master_dark.fits", lambda hdus: hdus[3].header.set("ZNAXIS1", 12)),
    "tiles that end the decoder": rewritten("master_dark.fits", lambda hdus: hdus[1].header.set("ZVAL2", 3)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("noticed", [True, False], ids=["by its digest", "by what it says"])
def test_a_damaged_product_is_refused_in_words(published, tmp_path, damage, noticed):
    folder = tmp_path / "night"
    shutil.copytree(published, folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    damage(folder)
    if not noticed:
        write_manifest(folder, manifest)

    def look() -> None:
        dark = open_night(folder).dark  # its images are decoded when they are asked for
        assert dark.reference.master.shape == dark.noise.shape == dark.classes.dq.shape

    with pytest.raises(NightError, match=r"is not as a run left it, run the night again") as error:
        look()
    assert ("was changed" in str(error.value)) is noticed
    assert not (folder / "pwned").exists()


def test_a_folder_whose_manifest_names_no_parameters_is_no_published_night(published, tmp_path):
    shutil.copytree(published, tmp_path / "night")
    (tmp_path / "night" / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ParametersError, match=r"manifest.json: names no parameters"):
        open_night(tmp_path / "night")


def test_any_cut_is_a_selection_on_the_leaders(night, monkeypatch):
    monkeypatch.setattr(night_module, "measure_night", lambda *_: pytest.fail("measured again"))
    held = night.leaders[night.leaders["reference"] == "leave_one_out"]
    for cuts in ({"threshold": 150, "ratio": 0.2}, {"threshold": 1000.0}, {"ratio": 0.0}, {}):
        rows = held[neighbor_ratio(held, **({"threshold": 200.0, "ratio": 0.3} | cuts))]
        np.testing.assert_array_equal(night.candidates(**cuts)["peak"], rows["peak"])
    rows = held[psf_chi2(held, 5.0, 0.0)]
    assert len(rows) > 2
    np.testing.assert_array_equal(night.candidates("psf_chi2", snr_min=5.0, p_min=0.0)["snr"], rows["snr"])
    in_sample = night.candidates(reference="all", ratio=0.0)
    assert set(in_sample["reference"]) == {"all"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"threshold": 100.0},
            r"threshold 100 lies below the night's floor of 126.86: .* open the night with threshold=100",
        ),
        ({"criterion": "psf_chi2", "snr_min": 3.0}, "snr_min 3 lies below the night's floor of 4"),
        ({"snr_min": 5.0}, "snr_min is no cut of neighbor_ratio, whose cuts are threshold and ratio"),
        ({"criterion": "psf_chi"}, "criterion: .*; got 'psf_chi'"),
        ({"reference": "others"}, "reference: .*; got 'others'"),
        ({"ratio": np.nan}, "ratio"),
        ({"tresh": 3.0}, "did you mean threshold"),
    ],
    ids=str,
)
def test_a_cut_that_cannot_be_answered_is_refused(night, arguments, message):
    with pytest.raises(ParametersError, match=message):
        night.candidates(**arguments)


def test_residual_refuses_a_frame_that_is_not_there(night):
    assert night.residual(4).shape == SHAPE
    for k in (5, -1, 1.5):
        with pytest.raises(ParametersError, match=r"there is none; this night's frames are 0 to 4"):
            night.residual(k)


def test_one_star_is_measured_as_all_injected_stars_are(night):
    bright = night.inject(x=64.3, y=50.1, flux=6000, frame=2)
    assert len(bright) == 1
    assert bright.colnames == night.trials.colnames
    (star,) = bright
    assert (star["frame"], star["x"], star["y"]) == ("00003.fits", 64, 50)
    assert star["recovered_psf_chi2"]
    assert star["miss_reason"] == ""
    assert abs(star["flux"] - 6000) < 600
    (faint,) = night.inject(x=64.3, y=50.1, flux=5, frame=2)
    assert not faint["recovered_psf_chi2"]
    assert faint["miss_reason"] in ("below threshold", "out-led")
    stars = bright["x_true", "y_true", "flux_true", "fwhm_true"]
    stars["frame_number"] = 2
    assert inject(night.capture, night.dark, night.floors, stars).trials["peak"][0] == star["peak"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": 5000.0}, r"x_true 5000 is not between -0.5 and 127.5"),
        ({"y": -0.6}, r"y_true -0.6 is not between -0.5 and 111.5"),
        ({"x": np.nan}, "x_true nan is not between"),
        ({"flux": np.inf}, "flux_true inf is not between 0 and 1e"),
        ({"flux": -1}, "flux_true -1 is not between"),
        ({"flux": "bright"}, "flux='bright' must be numbers"),
        ({"frame": 5}, "frame 5: there is none"),
        ({"frame": -1}, "frame -1: there is none"),
    ],
    ids=str,
)
def test_a_star_that_cannot_be_there_is_refused(night, change, message):
    with pytest.raises(ParametersError, match=message):
        night.inject(**({"x": 64.3, "y": 50.1, "flux": 1500, "frame": 2} | change))


@pytest.mark.parametrize("name", ["frame_number", "x_true", "flux_true", "fwhm_true"])
def test_a_table_of_stars_without_a_column_is_refused_by_name(night, name):
    stars = night.trials["x_true", "y_true", "flux_true", "fwhm_true"]
    stars["frame_number"] = 0
    stars.remove_column(name)
    with pytest.raises(ParametersError, match=f"there is no column {name}; needed are frame_number, x_true"):
        inject(night.capture, night.dark, night.floors, stars)


def test_a_table_of_stars_in_frames_that_are_no_numbers_is_refused(night):
    stars = night.trials["x_true", "y_true", "flux_true", "fwhm_true"]
    stars["frame_number"] = night.trials["frame"]
    with pytest.raises(ParametersError, match="frame_number must hold whole numbers"):
        inject(night.capture, night.dark, night.floors, stars)


def test_a_night_says_what_it_is_in_three_lines(night):
    lines = repr(night).splitlines()
    assert len(lines) == 3
    assert f"5 frames of {SHAPE[0]} x {SHAPE[1]}" in lines[0]
    assert f"{len(night.candidates())} candidate" in lines[2]
    assert all(len(line) < 140 for line in lines)
    assert repr(night) == str(night)


@pytest.mark.slow
def test_the_explorer_starts_from_the_nights_tables(night):
    assert "candidates" in night.explore().caption
    assert night.explore("injections").caption != night.explore().caption
