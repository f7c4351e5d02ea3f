"""The working folder: where it is, what starts from it, and that what came with the package is only read."""

import os

import pytest

from sla1tools import places
from sla1tools.parameters import Parameters
from sla1tools.places import from_working_folder, missing, own_or_shipped, shipped, working_folder, working_in


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.delenv("SLA1_HOME", raising=False)
    (tmp_path / "mine" / "params").mkdir(parents=True)
    (tmp_path / "mine" / "lab" / "night").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "mine"


def test_nearest_folder_upwards_with_params_else_the_current_one(home, monkeypatch):
    for folder in (home, home / "lab" / "night"):
        monkeypatch.chdir(folder)
        assert working_folder() == home
    monkeypatch.chdir(home.parent / "elsewhere")
    assert working_folder() == home.parent / "elsewhere"
    monkeypatch.setenv("SLA1_HOME", str(home))
    assert working_folder() == home


def test_working_in_holds_for_its_block_alone(home, monkeypatch):
    monkeypatch.chdir(home.parent / "elsewhere")
    with working_in(home):
        assert working_folder() == home
        with pytest.raises(ZeroDivisionError), working_in(home.parent):
            raise ZeroDivisionError
        assert os.environ["SLA1_HOME"] == str(home)
    assert working_folder() == home.parent / "elsewhere"


def test_paths_in_files_start_from_the_working_folder(home, monkeypatch):
    monkeypatch.chdir(home / "lab" / "night")
    monkeypatch.setenv("DARKS", "/archive/darks")
    monkeypatch.setenv("HOME", "/home/me")
    for given, meant in {
        "outputs/x": home / "outputs" / "x",
        "/a/b": "/a/b",
        "$DARKS/2024": "/archive/darks/2024",
        "~/darks": "/home/me/darks",
        "a$NO_SUCH_NAME_$5": home / "a$NO_SUCH_NAME_$5",
    }.items():
        assert str(from_working_folder(given)) == str(meant)
    (home / "$DARKS").mkdir()
    assert from_working_folder("$DARKS") == home / "$DARKS"
    (home / "$DARKS").rmdir()
    assert Parameters(sessions_directory="$DARKS").capture_directory.parts[:3] == ("/", "archive", "darks")


def test_own_files_come_before_those_of_the_package(home, monkeypatch):
    monkeypatch.chdir(home)
    assert own_or_shipped("params", "demo.yaml") == shipped("params") / "demo.yaml"
    assert own_or_shipped("params", "demo.yaml").is_file()
    (home / "params" / "demo.yaml").write_text("capture_date: '2025-01-31'\n")
    assert own_or_shipped("params", "demo.yaml") == home / "params" / "demo.yaml"
    assert (shipped("notebooks") / "01_dark_characterization.ipynb").is_file()
    assert places.CHECKOUT not in home.parents


@pytest.mark.skipif(os.name == "nt", reason="the paths are POSIX paths")
def test_missing_names_the_wrong_part_and_what_is_there(home, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.delenv("NO_SUCH_NAME", raising=False)
    for name in ("Dark30s", "Flat2s", ".hidden"):
        (home / "2024-05-08" / name).mkdir(parents=True)
    for path, told in {
        "2024-05-08/dark30s": f"there is no dark30s in {home / '2024-05-08'}; there is: Dark30s",
        "2024-05-08/xyz/deeper": f"there is no xyz in {home / '2024-05-08'}; there is: Dark30s, Flat2s",
        "2024-05-08/Flat2s/x": f"there is no x in {home / '2024-05-08' / 'Flat2s'}; it is empty",
        "$NO_SUCH_NAME/x": f"there is no $NO_SUCH_NAME in {home}; NO_SUCH_NAME is not set in the environment",
        r"D:\darks": rf"there is no D:\darks in {home}; it is a path of Windows, and this machine has none of those",
    }.items():
        assert missing(path) == told
    for number in range(20):
        (home / f"night-{number:02}").mkdir()
    assert missing("zzz").endswith("and 15 more")  # 20 nights, lab, params and 2024-05-08
