"""The outputs folder: whole or not at all, whatever is killed; nothing the user made is ever lost."""

import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from killed_publisher import NIGHT, add_own_files, build, in_fork, publish_night, snapshot

from sla1tools.errors import BusyError, ParametersError
from sla1tools.parameters import Parameters
from sla1tools.published import FOLDERS, KEPT, LOCKS, MARK, PAGES
from sla1tools.published.folder import take_outputs
from sla1tools.run import publishing as publish
from sla1tools.run.season import write_trends

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
@pytest.mark.slow
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
@pytest.mark.slow
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
@pytest.mark.slow
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
@pytest.mark.slow
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


def everything(root):
    """Every file below a folder with its bytes, and where every link leads."""
    paths = [path for path in sorted(root.rglob("*")) if path.is_symlink() or path.is_file()]
    return {path: os.readlink(path) if path.is_symlink() else path.read_bytes() for path in paths}


def next_command(outputs, command):
    if command == "trends":
        write_trends(outputs)
    else:
        publish_night(outputs, "new")


@pytest.mark.parametrize("command", ["trends", "run"])
@pytest.mark.parametrize("name", [*FOLDERS, *PAGES])
def test_what_has_our_names_in_a_strange_folder_is_not_touched(tmp_path, name, command):
    precious = tmp_path / name / "a" / "b" / "c" / "f" if name in FOLDERS else tmp_path / name
    precious.parent.mkdir(parents=True, exist_ok=True)
    precious.write_text("precious")
    before = everything(tmp_path)
    with pytest.raises(ParametersError, match=f"holds a {name} that sla1 did not make"):
        next_command(tmp_path, command)
    assert everything(tmp_path) == before


@posix_only
@pytest.mark.parametrize("command", ["trends", "run"])
@pytest.mark.parametrize("name", [MARK, *FOLDERS])
def test_links_in_the_place_of_our_folders_are_refused(tmp_path, name, command):
    outputs, raw = tmp_path / "outputs", tmp_path / "raw"
    publish_night(outputs, "old")
    frame = raw / NIGHT / "run-1" / "00001.fits"
    frame.parent.mkdir(parents=True)
    frame.write_text("raw")
    (frame.parent / MARK).touch()
    if os.path.lexists(outputs / name):
        (outputs / name).rename(tmp_path / "was there")
    (outputs / name).symlink_to(raw)
    before = everything(tmp_path)
    with pytest.raises(ParametersError, match="is not what sla1 made"):
        next_command(outputs, command)
    assert everything(tmp_path) == before


@posix_only
@pytest.mark.parametrize("at", [KEPT, f"{KEPT}/{NIGHT.parts[0]}"])
def test_what_is_forgotten_is_not_moved_through_a_link(tmp_path, at):
    outputs, elsewhere = tmp_path / "outputs", tmp_path / "elsewhere"
    elsewhere.mkdir()
    publish_night(outputs, "old")
    (outputs / NIGHT / "notes.txt").write_text("mine")
    (outputs / at).parent.mkdir(exist_ok=True)
    (outputs / at).symlink_to(elsewhere)
    before = everything(tmp_path)
    with pytest.raises(ParametersError, match=rf"{KEPT}.*: (is not what sla1 made|leads elsewhere)"):
        publish.forget(outputs, NIGHT)
    assert everything(tmp_path) == before


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_outputs_whose_name_is_not_text_are_refused(tmp_path):
    outputs = tmp_path / os.fsdecode(b"outputs\xff")
    with pytest.raises(ParametersError, match=r"outputs\udcff: is not valid UTF-8"):
        publish_night(outputs, "old")
    assert not outputs.exists()


@posix_only
@pytest.mark.parametrize("name", [publish.STAGING, publish.ASIDE, publish.LOCKS])
def test_links_deeper_in_our_folders_are_not_followed(tmp_path, name):
    outputs, raw = tmp_path / "outputs", tmp_path / "raw"
    publish_night(outputs, "old")
    (raw / "Dark30s" / "run-1").mkdir(parents=True)
    for file in ("run-1/" + MARK, "00001.fits", "manifest.json"):
        (raw / "Dark30s" / file).write_text("raw")
    (raw / "Dark30s.lock").write_text("raw")
    date = outputs / name / NIGHT.parts[0]
    shutil.rmtree(date, ignore_errors=True)
    date.mkdir(parents=True)
    (date / NIGHT.parts[1]).symlink_to(raw)
    before = everything(tmp_path)
    publish.recover(outputs)
    with pytest.raises(ParametersError, match="leads elsewhere by a link"):
        publish_night(outputs, "new")
    assert everything(tmp_path).items() >= before.items()


def test_only_the_marked_folders_of_runs_are_deleted(tmp_path):
    publish_night(tmp_path, "old")
    slot = tmp_path / publish.STAGING / NIGHT
    for run in ("mine", "run-mine", "run-left"):
        (slot / run / "night").mkdir(parents=True)
        (slot / run / "night" / "f").write_text("f")
    (slot / "run-left" / MARK).touch()
    for _ in range(2):
        publish_night(tmp_path, "new")
        assert sorted(path.name for path in slot.iterdir()) == ["mine", "run-mine"]
        assert (slot / "run-mine" / "night" / "f").read_text() == "f"


def test_outputs_of_the_version_before_are_marked_on_first_use(tmp_path):
    publish_night(tmp_path, "old")
    (tmp_path / MARK).unlink()
    left = tmp_path / publish.STAGING / NIGHT / "leaders.fits"  # as a killed run of that version left it
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_text("half a table")
    publish_night(tmp_path, "new")
    assert (tmp_path / MARK).is_file()
    assert left.read_text() == "half a table"


@posix_only
def test_the_folder_of_a_run_is_private(tmp_path):
    with publish.claim(tmp_path, NIGHT) as claimed:
        assert claimed.run.stat().st_mode & 0o077 == 0
        assert claimed.staging.stat().st_mode & 0o777 == 0o777 & ~umask()
    assert not claimed.run.exists()


def umask():
    old = os.umask(0)
    os.umask(old)
    return old


@pytest.mark.parametrize("name", ["00001.fits", "deep/00001.FIT", "00001.fits.gz"])
def test_raw_frames_in_a_nights_place_are_never_moved(tmp_path, name):
    frame = tmp_path / NIGHT / name
    frame.parent.mkdir(parents=True)
    frame.write_text("raw")
    with pytest.raises(ParametersError, match=r"holds 00001.* and no manifest of ours: name another outputs folder"):
        publish_night(tmp_path, "new")
    assert frame.read_text() == "raw"


def test_a_night_is_not_published_in_the_place_of_a_page(tmp_path):
    with pytest.raises(ParametersError, match=r"capture_date: index\.html is a name that the outputs need"):
        publish.refuse_to_mix(Parameters(capture_date="index.html"), tmp_path)


@pytest.fixture
def open_folder():
    """A folder that another user can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@posix_only
def test_folders_and_files_that_may_not_be_touched_move_along(open_folder):
    """As a user without privileges, whom the modes of the files bind."""
    outputs = open_folder / "outputs"
    locked, secret, product = (outputs / NIGHT / name for name in ("locked", "secret.txt", "leaders.fits"))

    def as_nobody():
        publish_night(outputs, "old")
        locked.mkdir()
        (locked / "a.txt").write_text("mine")
        secret.write_text("mine")
        for path, mode in ((locked, 0o555), (secret, 0), (product, 0)):
            path.chmod(mode)
        for _ in range(2):
            publish_night(outputs, "new")

    if os.geteuid() == 0:
        os.chown(open_folder, 65534, 65534)
    assert in_fork(lambda: (os.geteuid() or os.setuid(65534), as_nobody())) == 0
    assert [stat.S_IMODE(path.stat().st_mode) for path in (locked, secret)] == [0o555, 0]
    assert (locked / "a.txt").read_text() == "mine"
    assert stat.S_IMODE(product.with_name("leaders.kept.fits").stat().st_mode) == 0
    assert not [path for path in (outputs / publish.ASIDE).rglob("*") if path.is_file()]


def test_files_that_cannot_be_moved_back_are_told_with_the_cure(tmp_path, monkeypatch):
    publish_night(tmp_path, "old")
    add_own_files(tmp_path / NIGHT)
    replace = os.replace

    def refuse_notes(source, target):
        if Path(source).name == "notes.txt":
            raise PermissionError(13, "Permission denied", str(source))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse_notes)
    publish_night(tmp_path, "new")
    with pytest.raises(ParametersError, match=r"\.aside/.*Dark30s: holds files .*notes.txt: Permission.*by hand"):
        publish_night(tmp_path, "newer")
    assert (tmp_path / publish.ASIDE / NIGHT / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", [MARK, LOCKS])
def test_what_another_command_makes_meanwhile_is_ours(tmp_path, monkeypatch, name):
    """Two batches that begin at once in a new folder: each looks while the other marks it."""
    made = tmp_path / name

    def made_while_it_is_asked_for(ask):
        def answer(path):
            before = ask(path)
            if Path(path) == made and not made.exists():
                made.touch() if name == MARK else made.mkdir()
            return before

        return answer

    for kind in ("is_file", "is_dir"):
        monkeypatch.setattr(Path, kind, made_while_it_is_asked_for(getattr(Path, kind)))
    monkeypatch.setattr(os.path, "lexists", made_while_it_is_asked_for(os.path.lexists))
    if name == LOCKS:
        (tmp_path / MARK).touch()
    take_outputs(tmp_path)
