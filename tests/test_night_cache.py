"""What was measured by hand is kept: measured once, selected from, measured again where anything has changed."""

import os
import shutil
import sys
from types import SimpleNamespace

import IPython.display
import numpy as np
import pytest
from small_nights import write_small_night

from sla1tools import night as night_module
from sla1tools import open_night
from sla1tools.measure import measure_night
from sla1tools.night import cache
from sla1tools.night.cache import place_of
from sla1tools.parameters import to_yaml
from sla1tools.published import CACHE, MARK
from sla1tools.published.folder import take_outputs
from sla1tools.published.formats import INDEX
from sla1tools.run.night import STEPS

SHAPE = (64, 72)


@pytest.fixture
def parameters(tmp_path):
    return write_small_night(tmp_path, 4, SHAPE, 3, clean=False, changes={"injections": 60})[0].parameters


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """The parameters of every measuring; the working folder is one of this test's own."""
    (tmp_path / "outputs").mkdir()
    monkeypatch.setenv("SLA1_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "place_of", place_of)
    asked = []
    monkeypatch.setattr(night_module, "measure_night", lambda told, _: asked.append(told) or measure_night(told))
    return asked


def entries(tmp_path):
    return sorted((tmp_path / "outputs" / CACHE).iterdir())


def assert_as_measured(night, parameters):
    fresh = measure_night(parameters)
    assert night.summary == fresh.summary
    for name in ("leaders", "trials", "hits"):
        ours, theirs = getattr(night, name), getattr(fresh, name)
        for column in theirs.colnames:
            np.testing.assert_array_equal(np.ma.filled(ours[column], 0), np.ma.filled(theirs[column], 0))
    np.testing.assert_array_equal(night.residual(1), fresh.residual(1))


@pytest.mark.slow
def test_two_settings_take_one_measuring(tmp_path, parameters, measured):
    open_night(parameters)
    for changes in ({"threshold": 150.0, "ratio": 0.1}, {"criterion": "psf_chi2", "snr_min": 5.0}, {}):
        other = parameters.model_copy(update=changes)
        assert_as_measured(open_night(other), other)
    assert measured == [parameters]
    assert len(entries(tmp_path)) == 1
    assert (tmp_path / "outputs" / MARK).is_file(), "a later run does not take the cache for somebody else's"
    (tmp_path / "camera.yaml").write_text(to_yaml(parameters), encoding="utf-8")
    open_night(tmp_path / "camera.yaml")
    assert measured == [parameters]


@pytest.mark.parametrize(
    "changes", [{"injections": 61}, {"threshold": 60.0}, {"neighbors": 8}, {"reference": "all"}], ids=str
)
@pytest.mark.slow
def test_what_measuring_depends_on_is_measured(parameters, measured, changes):
    open_night(parameters)
    other = parameters.model_copy(update=changes)
    assert_as_measured(open_night(other), other)
    assert measured == [parameters, other]


def swapped(folder):
    names = sorted(folder.glob("*.fits"))
    names[0].rename(folder / "x")
    names[1].rename(names[0])
    (folder / "x").rename(names[1])


FILES = {
    "a frame less": lambda folder: (folder / "00004.fits").unlink(),
    "a file more": lambda folder: (folder / "notes.txt").touch(),
    "two frames swapped": swapped,
    "a frame touched": lambda folder: os.utime(folder / "00002.fits", (1, 1)),
}


@pytest.mark.parametrize("change", FILES.values(), ids=FILES)
@pytest.mark.slow
def test_other_files_are_measured(parameters, measured, change):
    open_night(parameters)
    change(parameters.capture_directory)
    assert_as_measured(open_night(parameters), parameters)
    assert len(measured) == 2


def test_a_psf_of_the_same_name_and_other_contents_is_measured(tmp_path, parameters):
    (tmp_path / "outputs").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLA1_HOME", str(tmp_path))
        named = parameters.model_copy(update={"psf": "psf.json", "known_pixels": "known.fits"})
        places = set()
        for psf, known in (("a", "a"), ("b", "a"), ("b", "b")):
            (tmp_path / "psf.json").write_text(psf, encoding="utf-8")
            (tmp_path / "known.fits").write_text(known, encoding="utf-8")
            places.add(place_of(named))
        assert len(places) == 3


@pytest.mark.parametrize("damage", ["byte", "index", "pickle", "half"])
@pytest.mark.slow
def test_a_damaged_entry_is_measured_again_and_replaced(tmp_path, parameters, measured, damage):
    open_night(parameters)
    (place,) = entries(tmp_path)
    largest = max(place.glob("*.npy"), key=lambda path: path.stat().st_size)
    if damage == "byte":
        with open(largest, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\xff")
    elif damage == "index":
        (place / INDEX).write_text("{}", encoding="utf-8")
    elif damage == "half":
        (place / INDEX).unlink()
    else:
        harmful = type("Harmful", (), {"__reduce__": lambda self: (open, (str(tmp_path / "pwned"), "w"))})()
        with open(place / "0.npy", "wb") as file:
            np.lib.format.write_array(file, np.array([harmful], dtype=object), allow_pickle=True)
    assert_as_measured(open_night(parameters), parameters)
    assert len(measured) == 2
    open_night(parameters)
    assert len(measured) == 2, "and is whole again"
    assert not (tmp_path / "pwned").exists()


@pytest.mark.slow
def test_the_oldest_go(tmp_path, parameters, measured, monkeypatch):
    nights = [parameters.model_copy(update={"random_seed": seed}) for seed in range(3)]
    open_night(nights[0])
    (first,) = entries(tmp_path)
    open_night(nights[1])
    (second,) = set(entries(tmp_path)) - {first}
    os.utime(second, (1, 1))
    size = sum(path.stat().st_size for path in first.iterdir())
    monkeypatch.setattr(cache, "MOST_KEPT", int(2.5 * size))
    (tmp_path / "outputs" / CACHE / "of the user").mkdir()
    open_night(nights[2])
    assert first in entries(tmp_path)
    assert second not in entries(tmp_path)
    assert len(entries(tmp_path)) == 3, "what is not ours stays"


def test_nothing_is_kept_where_it_has_no_place(tmp_path, parameters, measured):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "outputs" / CACHE).symlink_to(elsewhere)
    for _ in range(2):
        open_night(parameters)
    assert list(elsewhere.iterdir()) == [], "a link is not followed"
    (tmp_path / "outputs" / CACHE).unlink()
    (tmp_path / "outputs").rmdir()
    open_night(parameters)
    assert not (tmp_path / "outputs").exists(), "and no outputs are made"
    assert len(measured) == 3


def test_the_steps_are_shown_where_somebody_looks(parameters, monkeypatch, capsys):
    open_night(parameters)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    open_night(parameters)
    out, err = capsys.readouterr()
    assert out == ""
    assert all(step in err for step in STEPS[:5])


def test_a_notebook_keeps_one_line_of_the_steps(parameters, monkeypatch, capsys):
    """What stays in the notebook is the last step and the seconds; nothing looks like a fault or a wall of bars."""
    shown = []
    line = SimpleNamespace(update=lambda data, raw: shown.append(data["text/plain"]))
    monkeypatch.setattr(IPython, "get_ipython", lambda: "a shell")
    monkeypatch.setattr(IPython.display, "display", lambda data, raw, display_id: line)
    open_night(parameters)
    assert [text.split(",")[0] for text in shown] == list(STEPS[:5])
    assert shown[-1].endswith(" s")
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_it_may_be_deleted(tmp_path, parameters, measured):
    open_night(parameters)
    shutil.rmtree(tmp_path / "outputs" / CACHE)
    open_night(parameters)
    assert len(measured) == 2
    take_outputs(tmp_path / "outputs")
