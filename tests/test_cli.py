"""The command line: published commands, exit codes, and messages instead of tracebacks."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from astropy.table import Table
from click.testing import CliRunner
from test_parameters import QUIETLY_MISREAD
from yaml_files import read_yaml

from sla1tools import cli
from sla1tools.errors import BusyError, NightError, ParametersError, Sla1Error
from sla1tools.frames.capture import judge_capture
from sla1tools.nights.pooling import identity
from sla1tools.parameters import Parameters, read_parameters, to_yaml
from sla1tools.places import CHECKOUT
from sla1tools.published import write_manifest
from sla1tools.run import publishing
from sla1tools.run import publishing as publish
from sla1tools.run.night import NightResult
from sla1tools.simulate.night import simulate_night


def sla1(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


@pytest.fixture
def night_file(tmp_path):
    """A simulated night of four small frames, and its parameters file."""
    sessions = tmp_path / "sessions"
    simulate_night(sessions / "2024-05-08" / "03_38_48" / "Dark30s", frames=4, shape=(64, 64))
    path = tmp_path / "night.yaml"
    path.write_text(
        f"sessions_directory: '{sessions}'\ncapture_date: '2024-05-08'\ncapture_time: '03_38_48'\n"
        "object_name: 'Dark30s'\nframe_shape: [64, 64]\ninjections: 50\n"
    )
    return path


def told(result):
    """What a run told after the folder that it reads, which is always told first."""
    folder, _, rest = result.stderr.partition("\n")
    assert folder.endswith(str(Path("2024-05-08", "03_38_48", "Dark30s")))
    return rest


@pytest.fixture
def fake_run(monkeypatch):
    """Let `sla1 run` end as told, and keep what it was called with."""
    calls = []

    def end_with(outcome):
        def run_night(parameters, outputs, **options):
            calls.append((parameters, outputs, options))
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        monkeypatch.setattr("sla1tools.run.night.run_night", run_night)
        monkeypatch.setattr("sla1tools.run.season.write_trends", lambda outputs: outputs / "index.html")
        return calls

    return end_with


def test_help_and_version_are_quick():
    program = "import sys, sla1tools.cli; print([name for name in sys.argv[1:] if name in sys.modules])"
    heavy = ["numpy", "astropy", "papermill", "matplotlib", "scipy", "nbformat"]
    output = subprocess.run([sys.executable, "-c", program, *heavy], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
    assert re.fullmatch(r"sla1, version \d+\.\d+\.\d+\n", sla1("--version").output)
    commands = {line.split()[0] for line in sla1("--help").output.split("Commands:")[1].splitlines() if line.strip()}
    assert commands >= {"check", "run", "simulate", "demo", "lab"}


def test_check_gives_each_file_one_line(night_file):
    folder = night_file.parent / "sessions" / "2024-05-08" / "03_38_48" / "Dark30s"
    (folder / "00009.fits").touch()
    (folder / "b\x1b[31mad.fits").write_text("<script>")
    result = sla1("check", night_file)
    told, *lines = result.stdout.splitlines()
    assert told == str(folder)
    assert lines[:4] == [f"0000{k}.fits used" for k in (1, 2, 3, 4)]
    assert lines[4].startswith("00009.fits rejected empty  ")
    assert lines[5].startswith("b\\x1b[31mad.fits rejected not_fits  ")
    assert lines[6] == "truth.ecsv ignored"
    remarks, used = lines[7:-1], lines[-1]
    assert remarks
    assert len({*remarks}) == len(remarks)
    assert all(remark.startswith("note: ") for remark in remarks)
    assert used == "4 used of 7"
    assert "\x1b" not in result.output
    assert result.exit_code == 0


def test_check_of_too_few_frames(night_file):
    result = sla1("check", night_file, "-p", "dark_exposure", "10.0")
    assert result.exit_code == 3
    assert result.stdout.splitlines()[-1] == "0 used of 5"
    assert "not tested: 0 usable frames (4 exposure)" in result.stderr


@pytest.mark.parametrize(
    ("outcome", "options", "code"),
    [
        (NightResult("ok", (), Path("there")), [], 0),
        (NightResult("ok", (), Path("there")), ["--strict"], 0),
        (NightResult("degraded", ("1 frame rejected",), Path("there")), [], 0),
        (NightResult("degraded", ("1 frame rejected",), Path("there")), ["--strict"], 1),
        (NightResult("failed", ("kernel died",), Path("there")), [], 1),
        (Sla1Error("told"), [], 1),
        (ParametersError("told"), [], 2),
        (NightError("told"), [], 3),
        (BusyError("told"), [], 75),
    ],
)
def test_exit_codes_of_run(night_file, fake_run, outcome, options, code):
    fake_run(outcome)
    result = sla1("run", night_file, *options)
    assert result.exit_code == code
    if isinstance(outcome, Exception):
        assert told(result) == "sla1: told\n"
    else:
        assert "there" in result.output
        assert all(reason in result.stderr for reason in outcome.reasons)


def test_run_passes_its_arguments_on(night_file, fake_run, tmp_path):
    calls = fake_run(NightResult("ok", (), tmp_path))
    arguments = ("-p", "threshold", "180", "-p", "capture_time", "03_37_47")
    assert sla1("run", night_file, *arguments, "--outputs", tmp_path / "o", "--timeout", "9").exit_code == 0
    parameters, outputs, options = calls[0]
    assert (parameters.threshold, parameters.capture_time) == (180.0, "03_37_47")
    assert (outputs, options["timeout"]) == (tmp_path / "o", 9)
    sla1("run", night_file)
    assert calls[1][1:2] == (CHECKOUT / "outputs",)


def test_adopted_setting_is_a_layer_over_others(night_file, fake_run, tmp_path, monkeypatch):
    monkeypatch.setenv("SLA1_HOME", str(tmp_path))
    point = {"cuts": {"threshold": 181.5, "ratio": 0.25}}
    (tmp_path / "summary.json").write_text(json.dumps({"operating_point": {"neighbor_ratio": point}}))
    fake_run(NightResult("ok", (), tmp_path))
    assert sla1("run", night_file, "--adopt").exit_code == 0
    (adopted,) = (tmp_path / "params").iterdir()
    assert read_yaml(adopted) == {"criterion": "neighbor_ratio", "threshold": 181.5, "ratio": 0.25}
    assert read_parameters([night_file, adopted]).threshold == 181.5
    point["cuts"]["threshold"] = 190.0
    (tmp_path / "summary.json").write_text(json.dumps({"operating_point": {"neighbor_ratio": point}}))
    assert sla1("run", night_file, "--adopt").exit_code == 0  # its own file is replaced
    assert read_yaml(adopted)["threshold"] == 190.0
    adopted.write_text("threshold: 500.0\n")  # one of the user's own is not
    again = sla1("run", night_file, "--adopt")
    assert (again.exit_code, "there already" in again.stderr) == (2, True)
    assert adopted.read_text() == "threshold: 500.0\n"


def test_a_night_of_few_frames_adopts_the_seasons_setting_or_says_why_not(night_file, fake_run, tmp_path, monkeypatch):
    monkeypatch.setenv("SLA1_HOME", str(tmp_path))
    fake_run(NightResult("ok", (), tmp_path))
    summary = {"operating_point": {"neighbor_ratio": None}, "frames": {"used": ["a"] * 10}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "manifest.json").write_text(json.dumps({"camera": "QHY42PRO", "outputs": {}}))
    refused = sla1("run", night_file, "--adopt")
    assert refused.exit_code == 1
    assert "nothing to adopt: half of 10 frames cannot" in refused.stderr
    assert "11 frames would do; and there is no season yet" in refused.stderr
    own = {"operating_point": {"cuts": {"threshold": 188.2, "ratio": 0.2}}}
    for camera, told in (("another", "do not compare with this one"), ("QHY42PRO", "the season's setting is taken")):
        comparable = identity(camera, read_parameters([night_file]).model_dump(mode="json"))
        season = {"comparable": comparable, "criteria": {"neighbor_ratio": own}}
        (tmp_path / "outputs").mkdir(exist_ok=True)
        (tmp_path / "outputs" / "season.json").write_text(json.dumps(season))
        assert told in sla1("run", night_file, "--adopt").stderr
    (adopted,) = (tmp_path / "params").iterdir()
    assert read_yaml(adopted) == {"criterion": "neighbor_ratio", "threshold": 188.2, "ratio": 0.2}


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "absent.yaml"],
        ["run", CHECKOUT / "params" / "qhy42pro.yaml"],
        ["run", CHECKOUT / "params" / "demo.yaml", "-p", "thresold", "5"],
        ["run", CHECKOUT / "params" / "demo.yaml", "--timeout", "0"],
        ["check", CHECKOUT / "pyproject.toml"],
        ["simulate"],
        ["simulate", CHECKOUT / "params"],
        ["simulate", "x", "--stars", "bright"],
        ["nonsense"],
    ],
)
def test_users_mistakes_end_with_2_and_no_traceback(arguments):
    result = sla1(*arguments)
    assert result.exit_code == 2
    assert result.stderr
    assert "Traceback" not in result.output


TRAPS = [
    *((f"{key}: {text}", key) for key, text, _ in QUIETLY_MISREAD),
    ("threshold: 1e3", "threshold: .*write 1000.0"),
    ("threshold: 5.0\nthreshold: 6.0", "line .*: threshold is given twice"),
    ("threshold: !!float 5", "threshold: line .*: tags"),
    ("threshold: [200.0]", "threshold: .*got \\[200.0\\]"),
    ("neighbors: yes", "neighbors: line .*write true or false"),
    ("thresold: 5.0", "thresold: there is no such parameter; did you mean threshold\\?"),
    ("- a list", "must hold lines 'key: value'|is not plain YAML"),
]


@pytest.mark.parametrize("command", [["check"], ["run"], ["batch"]], ids=lambda command: command[0])
@pytest.mark.parametrize(("text", "told"), TRAPS, ids=[text.replace("\n", " ") for text, _ in TRAPS])
def test_every_trap_of_yaml_ends_with_2_before_anything_is_read(night_file, monkeypatch, command, text, told):
    for module in ("frames.capture", "measure", "run.night"):
        monkeypatch.setattr(f"sla1tools.{module}.judge_capture", lambda _: pytest.fail("read"))
    key = text.partition(":")[0]
    kept = [line for line in night_file.read_text().splitlines() if not line.startswith(key)]
    night_file.write_text("\n".join([*kept, text, ""]))
    outputs = [] if command == ["check"] else ["--outputs", night_file.parent / "outputs"]
    result = sla1(*command, night_file, *outputs)
    assert result.exit_code == 2
    assert re.match(f"sla1: {re.escape(str(night_file))}: ({told})", result.stderr)
    assert not (night_file.parent / "outputs").exists()


@pytest.mark.parametrize("kind", ["empty", "a frame", "a notebook", "not there"])
def test_a_file_that_is_no_parameters_file_ends_with_2(night_file, kind):
    folder = night_file.parent / "sessions" / "2024-05-08" / "03_38_48" / "Dark30s"
    night_file.with_name("empty.yaml").touch()
    path = {
        "empty": night_file.with_name("empty.yaml"),
        "a frame": folder / "00001.fits",
        "a notebook": CHECKOUT / "notebooks" / "01_dark_characterization.ipynb",
        "not there": folder / "none.yaml",
    }[kind]
    result = sla1("run", path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"sla1: {path}: ")


def test_outputs_that_is_a_file(night_file, tmp_path):
    (tmp_path / "file").write_text("mine")
    result = sla1("run", night_file, "--outputs", tmp_path / "file")
    assert result.exit_code == 2
    assert "cannot be used for outputs" in result.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_mistake_in_the_program_is_one_line_and_a_file(night_file, fake_run, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fake_run(ZeroDivisionError("oh"))
    result = sla1("run", night_file)
    assert result.exit_code == 1
    found = re.fullmatch(r"sla1: ZeroDivisionError: oh \(details: (.*)\)\n", told(result))
    assert "Traceback (most recent call last)" in Path(found[1]).read_text()


def test_hostile_text_reaches_the_terminal_escaped(night_file, fake_run):
    fake_run(NightError("a\x1b[2Jb\nc\x07"))
    assert told(sla1("run", night_file)) == "sla1: a\\x1b[2Jb\n      c\\x07\n"
    for outcome in (NightResult("degraded", ("a\x1b[2Jb",), Path("there")), ZeroDivisionError("a\x1b[2Jb")):
        fake_run(outcome)
        assert "a\\x1b[2Jb" in sla1("run", night_file).stderr


def test_busy_night_is_75(night_file, tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "LOCK_PATIENCE", 0.01)
    with publish.claim(tmp_path / "o", Path("2024-05-08", "03_38_48", "Dark30s")):
        assert sla1("run", night_file, "--outputs", tmp_path / "o").exit_code == 75


def test_simulate_writes_a_night_with_its_stars(tmp_path):
    folder = tmp_path / "s" / "2024-05-08" / "03_38_48" / "Dark30s"
    options = ["--frames", "3", "--shape", "64", "80", "--seed", "5", "--clean"]
    result = sla1("simulate", "--stars", "3000@2.0", "8e2@2", folder, *options, "--stars", "500@1.5")
    assert (result.exit_code, result.stdout) == (0, f"3 frames in {folder}\n")
    truth = Table.read(folder / "truth.ecsv")
    stars = truth[truth["kind"] == "star"]
    assert sorted(zip(stars["value"], stars["fwhm"], strict=True)) == [(500, 1.5), (800, 2.0), (3000, 2.0)]
    night = judge_capture(Parameters(sessions_directory=str(tmp_path / "s"), frame_shape=(64, 80)))
    assert len(night.frames) == 3


def test_demo_simulates_once_and_runs(monkeypatch, fake_run, tmp_path):
    simulated = []
    calls = fake_run(NightResult("ok", (), tmp_path / "there"))
    monkeypatch.setattr("sla1tools.simulate.night.ensure_demo_night", simulated.append)
    monkeypatch.setattr("sla1tools.run.star_image.demo_psf", lambda asked: asked.model_copy(update={"psf": "its own"}))
    result = sla1("demo")
    assert result.exit_code == 0
    assert f"ok: {tmp_path / 'there' / 'index.html'}" in result.stdout
    assert simulated == [
        demo_night := read_parameters([CHECKOUT / "params" / name for name in ("qhy42pro.yaml", "demo.yaml")])
    ]
    assert calls[0][0] == demo_night.model_copy(update={"psf": "its own"})


def test_lab_is_for_this_machine_and_keeps_its_token(monkeypatch):
    commands = []
    monkeypatch.setattr("sla1tools.cli._become", lambda *become: commands.append(become))
    assert sla1("lab", "--allow-root", "--port", "9999").exit_code == 0
    ((command, environment),) = commands
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert command[3:5] == ["--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={CHECKOUT}"]
    assert command[5] == "--LabApp.default_url=/lab/tree/notebooks"
    assert command[6] == "--KernelManager.transport_encryption=required", "else every kernel warns in the terminal"
    assert command[7:] == ["--allow-root", "--port", "9999"]
    assert environment["SLA1_HOME"] == str(CHECKOUT)
    assert not any("token" in argument for argument in command)


def test_lab_works_on_copies_that_are_never_overwritten(night_file, monkeypatch, tmp_path):
    commands = []
    monkeypatch.setattr("sla1tools.cli._become", lambda *become: commands.append(become))
    monkeypatch.setenv("SLA1_HOME", str(tmp_path))
    assert sla1("lab", night_file, "--no-browser").exit_code == 0
    folder = tmp_path / "lab" / "2024-05-08_03_38_48_Dark30s"
    ((command, _),) = commands
    assert [command[5], *command[7:]] == [f"--LabApp.default_url=/lab/tree/lab/{folder.name}", "--no-browser"]
    copies = sorted(folder.glob("*.ipynb"))
    assert [path.name[:2] for path in copies] == ["01", "02", "03"]
    for path in copies:
        filled = [
            cell for cell in nbformat.read(path, 4).cells if "injected-parameters" in cell.metadata.get("tags", [])
        ]
        namespace = {}
        exec(filled[0].source, namespace)
        assert Parameters.from_namespace(namespace) == read_parameters([night_file])
    copies[0].write_text("mine")
    again = sla1("lab", night_file)
    assert "kept as they are" in again.stderr
    assert copies[0].read_text() == "mine"


def test_lab_without_notebooks_names_the_cure(monkeypatch, tmp_path):
    monkeypatch.setenv("SLA1_HOME", str(tmp_path))
    result = sla1("lab")
    assert (result.exit_code, "sla1 init" in result.stderr) == (2, True)


def test_every_command_has_an_example():
    for name in cli.main.commands:
        assert f"\n    sla1 {name}" in sla1(name, "--help").output.replace("Example:\n    ", "Example:\n    "), name


def test_an_override_is_written_either_way(night_file, fake_run, tmp_path):
    calls = fake_run(NightResult("ok", (), tmp_path))
    night = ("-p", "threshold=180", "-pratio=0.25", "-p", "file_pattern=*=*.fits", "-p", "frame_shape=[64, 64]")
    assert sla1("run", night_file, *night).exit_code == 0
    parameters = calls[0][0]
    assert (parameters.threshold, parameters.ratio, parameters.file_pattern) == (180.0, 0.25, "*=*.fits")
    assert parameters.frame_shape == (64, 64)


def test_names_of_parameters_are_completed():
    (option,) = [option for option in cli.main.commands["run"].params if option.name == "overrides"]
    completed = option.shell_complete(None, "scale_")
    assert [item.value for item in completed] == ["scale_due_to_padding", "scale_due_to_gain"]


def test_a_capture_folder_is_a_night_over_the_files(night_file, fake_run, tmp_path):
    calls = fake_run(NightResult("ok", (), tmp_path))
    folder = tmp_path / "sessions" / "2024-05-08" / "03_38_48" / "Dark30s"
    (tmp_path / "camera.yaml").write_text("frame_shape: [64, 64]\nthreshold: 150.0\n")
    assert sla1("run", "-f", tmp_path / "camera.yaml", folder).exit_code == 0
    parameters = calls[0][0]
    assert parameters.capture_directory == folder
    assert (parameters.frame_shape, parameters.threshold) == ((64, 64), 150.0)


def test_what_a_shell_leaves_as_it_is_typed_is_expanded(night_file, fake_run, tmp_path, monkeypatch):
    """Every path of every command is of the one type: `--outputs=~/x` reaches it as it stands."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("DARKS", str(tmp_path / "sessions"))
    calls = fake_run(NightResult("ok", (), tmp_path))
    assert sla1("run", "~/night.yaml", "--outputs=$DARKS/o").exit_code == 0
    assert calls[0][1] == tmp_path / "sessions" / "o"
    capture = "$DARKS/2024-05-08/03_38_48/Dark30s"
    assert sla1("params", capture, "--to", "~/new.yaml").exit_code == 0
    assert read_parameters([tmp_path / "new.yaml"]).capture_directory == tmp_path / Path(
        "sessions", "2024-05-08", "03_38_48", "Dark30s"
    )
    assert "no-such-user" in sla1("run", "~no-such-user/night.yaml").stderr
    paths = [
        option
        for command in cli.main.commands.values()
        for option in command.params
        if option.name
        in ("nights", "flashes", "frames", "outputs", "to", "target", "files", "directory", "capture", "sessions")
    ]
    assert len(paths) > 12
    assert {option.name for option in paths if option.type not in (cli.PATH, cli.FOLDER)} == {
        "frames"
    }  # their number, in simulate


@pytest.mark.parametrize(
    "arguments", ["check", "params", "run", "forget --yes", "trends --outputs", "vet -f night.yaml"]
)
def test_a_name_that_no_folder_can_have_is_refused(arguments):
    result = sla1(*arguments.split(), "a" * 300 + "/b/c")
    assert result.exit_code == 2
    assert "File name too long" in result.stderr
    assert len(result.stderr) < 500


def test_mistyped_places_make_nothing(night_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLA1_HOME", str(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    for arguments, told in (
        (["run", night_file, "-p", "object_name=dark30s", "--outputs", "o"], "there is no dark30s in"),
        (["check", night_file, "-p", "object_name=dark30s"], "there is: Dark30s"),
        (["run", tmp_path / "nigth.yaml", "--outputs", "o"], "there is: night.yaml"),
        (["trends", "--outputs", "typo"], "there is no typo in"),
        (["batch", CHECKOUT / "params" / "qhy42pro.yaml", night_file, "--outputs", "o"], "given by -f"),
        (["params", "no-such-folder"], "there is no no-such-folder"),
        (["batch", "--sessions", "sesions", "--outputs", "o"], "there is: sessions"),
        (["trends", "--outputs", "sessions"], "holds no night of sla1"),
        (["check", night_file, "-p", "known_pixels=nigth.fits"], "there is: night.yaml"),
        (["check", night_file, "-p", "psf=nigth.json"], "there is: night.yaml"),
        (["check", night_file, "-p", "psf=$NOWHERE/psf.json"], "NOWHERE is not set in the environment"),
        (["check", night_file, "-p", "sessions_directory=%USERPROFILE%\\darks"], "it is a path of Windows"),
        (["forget", "2024-05-08/03_38_48/Dark30s", "--outputs", "sessions", "--yes"], "holds no night"),
    ):
        result = sla1(*arguments)
        assert (result.exit_code, told in result.stderr) == (2, True), result.output
    assert sorted(tmp_path.rglob("*")) == before


def test_mistakes_of_every_file_are_told_at_once(tmp_path):
    """Those of a file that is no YAML at all hide none of the others'."""
    first, second, third = (tmp_path / f"{name}.yaml" for name in "abc")
    first.write_text("capture_time: 03_37_47\nthresold: 5\nratio: 7\nneighbors: yes\nframe_shape: 64\n")
    second.write_text('sessions_directory: "D:\\2024 SLA"\n')
    third.write_text("criterion: best\nthreshold: 5.0\nthreshold: 6.0\n")
    result = sla1("check", first, second, third)
    lines = [line.strip().removeprefix("sla1: ") for line in result.stderr.splitlines()]
    told = {path: [line for line in lines if line.startswith(f"{path}: ")] for path in (first, second, third)}
    assert (result.exit_code, [len(told[path]) for path in told]) == (2, [5, 1, 2])
    assert "found unknown escape character '2'; in double quotes a backslash is no plain letter" in told[second][0]
    assert any("frame_shape: Input should be a list, as [1, 2]; got 64" in line for line in lines)


def test_as_a_module_it_is_the_same_command():
    output = subprocess.run([sys.executable, "-m", "sla1tools", "--version"], capture_output=True, text=True).stdout
    assert output == sla1("--version").output


@pytest.mark.slow
def test_a_name_that_the_output_cannot_hold_is_escaped(tmp_path):
    """As on Windows, where a redirected output holds one code page."""
    folder = tmp_path / "sessions" / "2024-05-08" / "03_38_48" / "Dark30s"
    folder.mkdir(parents=True)
    (folder / "星.fits").touch()
    path = tmp_path / "night.yaml"
    path.write_text(to_yaml(Parameters(sessions_directory=str(tmp_path / "sessions"))), encoding="utf-8")
    command = [sys.executable, "-c", "from sla1tools.cli import main; main()", "check", str(path)]
    run = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": "cp1252"}, capture_output=True, text=True)
    assert run.returncode == 3, run.stderr
    assert "\\u661f.fits" in run.stdout


def publish_made_up(outputs, night, failed=False):
    """Publish a night of one product, with a file of the user's own and a product that the user changed."""
    with publishing.claim(outputs, Path(night)) as claimed:
        for name in ("index.html", "candidates.reg"):
            (claimed.staging / name).write_text("ours")
        write_manifest(claimed.staging, {"verdict": "failed" if failed else "ok"})
        place = claimed.publish_failed() if failed else claimed.publish()
    (place / "my notes.txt").write_text("mine")
    (place / "candidates.reg").write_text("marked by hand")
    return place


def test_a_forgotten_night_leaves_what_the_user_made(tmp_path):
    outputs = tmp_path / "outputs"
    place = publish_made_up(outputs, "2024-05-08/03_38_48/Dark30s")
    failed = publish_made_up(outputs, "2024-05-08/03_38_48/Dark30s", failed=True)
    other = publish_made_up(outputs, "2024-05-08/04_00_00/Dark30s")
    command = ("forget", "2024-05-08/03_38_48/Dark30s", "--outputs", outputs)
    refused = CliRunner().invoke(cli.main, list(map(str, command)), input="n\n")
    assert refused.exit_code == 1
    assert place.is_dir()
    result = sla1(*command, "--yes")
    assert result.exit_code == 0, result.output
    assert not place.parent.exists()
    assert not failed.exists()
    assert (other / "index.html").read_text() == "ours"
    kept = outputs / "kept" / "2024-05-08" / "03_38_48" / "Dark30s"
    assert {path.name: path.read_text() for path in kept.iterdir()} == {
        "my notes.txt": "mine",
        "my notes.kept.txt": "mine",
        "candidates.reg": "marked by hand",
        "candidates.kept.reg": "marked by hand",
    }
    assert {line.removeprefix("kept: ") for line in result.stdout.splitlines()} == set(map(str, kept.iterdir()))
    again = sla1(*command, "--yes")
    assert (again.exit_code, "holds no night" in again.stderr) == (2, True)
    assert sla1("forget", "../x", "--outputs", outputs, "--yes").exit_code == 2
