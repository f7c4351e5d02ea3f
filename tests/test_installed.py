"""The wheel, installed into an empty environment elsewhere, is whole: a working folder and the demo, nothing set up."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sla1tools.places import CHECKOUT

SCRIPTS = "Scripts" if os.name == "nt" else "bin"


def uv() -> str:
    """Path of uv: the one that makes the environment, else one on the path."""
    found = shutil.which("uv", path=str(CHECKOUT / ".uv" / SCRIPTS)) or shutil.which("uv")
    if not found:
        pytest.skip("no uv here: the wheel was not tried")
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A virtual environment with the wheel in it, made from what uv's cache holds."""
    root = tmp_path_factory.mktemp("installed")
    for command in (
        ["build", "--wheel", "--offline", "--out-dir", root / "wheel", CHECKOUT],
        ["venv", "--offline", "--python", sys.executable, root / "venv"],
        ["pip", "install", "--offline", "--python", root / "venv", "-r", CHECKOUT / "requirements.txt"],
    ):
        made = subprocess.run([uv(), *map(str, command)], capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"uv cannot do this offline, the wheel was not tried: {made.stderr.strip().splitlines()[-1]}")
    (wheel,) = (root / "wheel").glob("*.whl")
    command = [uv(), "pip", "install", "--offline", "--no-deps", "--python", str(root / "venv"), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    return root / "venv"


def files(folder: Path) -> set[Path]:
    """All files but the bytecode that imports leave."""
    return {path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


@pytest.mark.slow
def test_init_and_demo_in_an_empty_environment(installed, tmp_path):
    (package,) = installed.rglob("site-packages/sla1tools")
    before = files(package)
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "SLA1_HOME")}

    def sla1(*arguments, folder):
        command = [str(installed / SCRIPTS / "sla1"), *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)

    made = sla1("init", "x", folder=tmp_path)
    assert made.returncode == 0, made.stderr
    home = tmp_path / "x"
    assert (home / "params" / "qhy42pro.yaml").is_file()
    demo = sla1("demo", folder=home)
    assert demo.returncode == 0, demo.stderr
    night = home / "outputs" / "2024-05-08" / "03_38_48" / "Dark30s"
    assert demo.stdout.endswith(f"{night / 'index.html'}\n")
    for name in ("01_dark_characterization", "02_candidate_finding", "03_injection_testing"):
        assert (night / f"{name}.html").is_file()
    (home / "lab").mkdir()  # a folder further down belongs to the same working folder
    checked = sla1("check", "../params/qhy42pro.yaml", "../params/demo.yaml", folder=home / "lab")
    assert checked.stdout.startswith(str(home / "outputs" / "demo_sessions"))
    assert files(package) == before
