"""The outputs folder: whole or not at all, whatever is killed; nothing the user made is ever lost."""

import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from killed_publisher import NIGHT, add_own_files, build, publish_night, snapshot

from sla1tools.errors import BusyError, ParametersError
from sla1tools.parameters import Parameters
from sla1tools.run import publishing as publish

PROGRAM = Path(__file__).parents[1].joinpath("support", "killed_publisher.py")
PRODUCTS = ("leaders.fits", "report.html", "summary.json")
posix_only = pytest.mark.skipif(os.name != "posix", reason="kill -9 and fork are POSIX")


def place_of(files, folder=NIGHT):
    prefix = folder.as_posix() + "/"
    return {name.removeprefix(prefix): text for name, text in files.items() if name.startswith(prefix)}


def assert_whole(files, folder=NIGHT):
    """Everything below the outputs folder is one whole night and the user's files, each once."""
    night = place_of(files, folder)
    assert len(night) == len(files), "something is left in .aside or .staging"
    version = json.loads(night["manifest.json"])["version"]
    assert night["notes.txt"] == "mine"
    assert night["plots/deep/a.png"] == "mine too"
    changed = "summary.json" if version == "old" else "summary.kept.json"
    assert night[changed] == "product I changed"
    for name in PRODUCTS:
        if (version, name) != ("old", "summary.json"):
            assert night[name] == f"{name} {version}"
    assert len(night) == (6 if version == "old" else 7)
    return version


def test_first_run_and_rerun(tmp_path):
    publish_night(tmp_path, "old")
    add_own_files(tmp_path / NIGHT)
    assert assert_whole(snapshot(tmp_path)) == "old"
    publish_night(tmp_path, "new")
    assert assert_whole(snapshot(tmp_path)) == "new"


def test_kept_product_stays_through_further_runs(tmp_path):
    for version in ("1", "2", "3"):
        publish_night(tmp_path, version)
        (tmp_path / NIGHT / "summary.json").write_text(f"changed {version}")
    publish_night(tmp_path, "4")
    kept = {name: text for name, text in place_of(snapshot(tmp_path)).items() if "summary" in name}
    assert kept == {
        "summary.json": "summary.json 4",
        "summary.kept.json": "changed 1",
        "summary.kept2.json": "changed 2",
        "summary.kept3.json": "changed 3",
    }


def test_folder_without_manifest_is_all_the_users(tmp_path):
    (tmp_path / NIGHT).mkdir(parents=True)
    (tmp_path / NIGHT / "summary.json").write_text("typed by hand")
    (tmp_path / NIGHT / "manifest.json").write_text('["not ours"]')
    publish_night(tmp_path, "new")
    night = place_of(snapshot(tmp_path))
    assert night["summary.kept.json"] == "typed by hand"
    assert night["manifest.kept.json"] == '["not ours"]'
    assert night["summary.json"] == "summary.json new"


@pytest.mark.skipif(os.name != "posix", reason="links need a privilege on Windows")
def test_links_of_the_user_move_along_and_are_not_followed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious.txt").write_text("precious")
    outputs = tmp_path / "outputs"
    publish_night(outputs, "old")
    (outputs / NIGHT / "link").symlink_to(elsewhere)
    (outputs / NIGHT / "dangling").symlink_to("nowhere")
    publish_night(outputs, "new")
    assert (outputs / NIGHT / "link" / "precious.txt").read_text() == "precious"
    assert (outputs / NIGHT / "dangling").is_symlink()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_night_that_is_no_folder_is_refused(tmp_path, kind):
    place = tmp_path / NIGHT
    place.parent.mkdir(parents=True)
    if kind == "file":
        place.write_text("mine")
    else:
        place.symlink_to(tmp_path)
    with pytest.raises(ParametersError, match="must be a folder"):
        publish_night(tmp_path, "new")
    assert os.path.lexists(place)


@posix_only
@pytest.mark.parametrize("failed", [False, True], ids=["night", "failed run"])
def test_killed_at_every_step(tmp_path, failed):
    command = [sys.executable, str(PROGRAM), str(tmp_path), "failed" if failed else "good"]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    steps = [json.loads(line) for line in output.splitlines()]
    folder = Path(publish.FAILED) / NIGHT if failed else NIGHT
    versions = [assert_whole(step["files"], folder) for step in steps]
    assert [step["killed"] for step in steps] == [True] * (len(steps) - 1) + [False]
    assert len(steps) > 25
    # Old until the swap, new ever after: both kinds of end must have been met.
    assert versions == sorted(versions, reverse=True)
    assert versions.count("old") > 10
    assert versions.count("new") > 10


@posix_only
def test_killed_at_random_moments(tmp_path):
    moments = random.Random(20240508)
    publish_night(tmp_path, "old")
    add_own_files(tmp_path / NIGHT)
    (tmp_path / NIGHT / "summary.json").unlink()
    endless = (
        f"import sys; sys.path.insert(0, {str(PROGRAM.parent)!r})\n"
        "from killed_publisher import *\n"
        f"print(flush=True)\nwhile True: publish_night(Path({str(tmp_path)!r}), 'new')\n"
    )
    for _ in range(10):
        with subprocess.Popen([sys.executable, "-c", endless], stdout=subprocess.PIPE) as publisher:
            publisher.stdout.readline()
            try:
                publisher.wait(moments.uniform(0.002, 0.15))
            except subprocess.TimeoutExpired:
                publisher.kill()
        publish.recover(tmp_path)
        night = place_of(snapshot(tmp_path))
        version = json.loads(night["manifest.json"])["version"]
        assert (night["notes.txt"], night["plots/deep/a.png"]) == ("mine", "mine too")
        assert night["leaders.fits"] == f"leaders.fits {version}"
        assert len(snapshot(tmp_path)) == len(night) == 6 - (version == "old")


@posix_only
def test_a_short_soak():
    """`make soak` in small: whole runs killed anywhere, their kernels with them or alone."""
    command = [sys.executable, str(PROGRAM.with_name("soak.py")), "2", "2"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "losses = 0" in run.stdout


def test_swap_that_cannot_finish_is_rolled_back_at_once(tmp_path, monkeypatch):
    publish_night(tmp_path, "old")
    add_own_files(tmp_path / NIGHT)
    replace = os.replace

    def refuse_staging(source, target):
        if publish.STAGING in Path(source).parts:
            raise PermissionError(13, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse_staging)
    with pytest.raises(PermissionError):
        publish_night(tmp_path, "new")
    assert assert_whole(snapshot(tmp_path)) == "old"


def test_own_file_that_cannot_move_yet_is_moved_by_the_next_command(tmp_path, monkeypatch, caplog):
    publish_night(tmp_path, "old")
    add_own_files(tmp_path / NIGHT)
    replace = os.replace

    def refuse_notes(source, target):
        if Path(source).name == "notes.txt":
            raise PermissionError(13, "opened by another program")
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", refuse_notes)
        publish_night(tmp_path, "new")
    assert "opened by another program" in caplog.text
    assert (tmp_path / publish.ASIDE / NIGHT / "notes.txt").read_text() == "mine"
    publish.recover(tmp_path)
    assert assert_whole(snapshot(tmp_path)) == "new"


def test_user_who_fills_the_empty_place_of_a_killed_swap_loses_nothing(tmp_path):
    publish_night(tmp_path, "old")
    add_own_files(tmp_path / NIGHT)
    aside = tmp_path / publish.ASIDE / NIGHT
    aside.parent.mkdir(parents=True)
    (tmp_path / NIGHT).rename(aside)
    (tmp_path / NIGHT).mkdir()
    (tmp_path / NIGHT / "notes.txt").write_text("where is my night?")
    publish.recover(tmp_path)
    files = snapshot(tmp_path)
    assert files.pop((NIGHT / "notes.kept.txt").as_posix()) == "where is my night?"
    assert assert_whole(files) == "old"


def test_night_without_manifest_is_not_published(tmp_path):
    publish_night(tmp_path, "old")
    with publish.claim(tmp_path, NIGHT) as claimed:
        (claimed.staging / "summary.json").write_text("{}")
        with pytest.raises(FileNotFoundError, match="manifest"):
            claimed.publish()
    assert place_of(snapshot(tmp_path))["summary.json"] == "summary.json old"
    assert len(snapshot(tmp_path)) == 4


def test_failed_run_leaves_the_good_night_alone_and_a_good_run_clears_it(tmp_path):
    publish_night(tmp_path, "good")
    publish_night(tmp_path, "bad", failed=True)
    files = snapshot(tmp_path)
    assert place_of(files)["summary.json"] == "summary.json good"
    assert place_of(files, Path(publish.FAILED) / NIGHT)["summary.json"] == "summary.json bad"
    publish_night(tmp_path, "better")
    assert len(snapshot(tmp_path)) == len(place_of(snapshot(tmp_path))) == 4


def test_failed_run_with_the_users_files_is_not_cleared(tmp_path):
    publish_night(tmp_path, "bad", failed=True)
    (tmp_path / publish.FAILED / NIGHT / "why.txt").write_text("mine")
    publish_night(tmp_path, "good")
    assert (tmp_path / publish.FAILED / NIGHT / "why.txt").read_text() == "mine"


def test_second_run_is_told_that_the_night_is_busy(tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "LOCK_PATIENCE", 0.05)
    errors = []

    def second_run(night):
        try:
            with publish.claim(tmp_path, night) as claimed:
                build(claimed.staging, "new")
        except BusyError as error:
            errors.append(str(error))

    with publish.claim(tmp_path, NIGHT) as claimed:
        for night in (NIGHT, NIGHT.with_name("Dark60s")):
            thread = threading.Thread(target=second_run, args=(night,))
            thread.start()
            thread.join()
        second_run(NIGHT)
        publish.recover(tmp_path)
        assert claimed.staging.is_dir()
    assert len(errors) == 2
    assert all("Dark30s: is being run by someone else" in error for error in errors)
    assert not claimed.staging.exists()


@posix_only
def test_lock_dies_with_its_process(tmp_path):
    hold = (
        "import sys, time; from pathlib import Path; from sla1tools.run import publishing as publish\n"
        f"with publish.claim({str(tmp_path)!r}, Path({str(NIGHT)!r})): print(flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with pytest.raises(BusyError):
            publish_night(tmp_path, "new")
        holder.kill()
    publish_night(tmp_path, "new")
    assert len(snapshot(tmp_path)) == 4


def test_outputs_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "outputs").write_text("a file")
    with pytest.raises(ParametersError, match="cannot be used for outputs"), publish.claim(tmp_path / "outputs", NIGHT):
        pytest.fail("claimed")
    assert (tmp_path / "outputs").read_text() == "a file"


def test_recovering_a_folder_that_is_not_there_makes_nothing(tmp_path):
    publish.recover(tmp_path / "outputs")
    assert not (tmp_path / "outputs").exists()


def test_strange_night_names_work(tmp_path):
    parameters = Parameters(capture_time="[x] {y} 'z'", object_name='Dünkel "30s" $a$')
    night = publish.night_path(parameters)
    for version in ("old", "new"):
        with publish.claim(tmp_path, night) as claimed:
            build(claimed.staging, version)
            assert claimed.publish() == tmp_path / "2024-05-08" / "[x] {y} 'z'" / 'Dünkel "30s" $a$'
    assert len(snapshot(tmp_path)) == 4
