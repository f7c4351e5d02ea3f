"""One set of requirements in three places: pyproject.toml, environment.yml and uv.lock agree."""

import ast
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sla1tools.parameters import CHECKOUT

CONDA_NAMES = {"bleach-with-css": "bleach", "matplotlib-base": "matplotlib", "playwright-python": "playwright"}
PYPROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = tomllib.loads((CHECKOUT / "uv.lock").read_text(encoding="utf-8"))


def named(requirements):
    """Specifiers by canonical name."""
    parsed = [Requirement(requirement) for requirement in requirements]
    return {canonicalize_name(requirement.name): str(requirement.specifier) for requirement in parsed}


@pytest.fixture(scope="module")
def required():
    return named([*PYPROJECT["project"]["dependencies"], *PYPROJECT["dependency-groups"]["dev"]])


def test_conda_environment_has_the_same_names_and_versions(required):
    environment = yaml.safe_load((CHECKOUT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["channels"] == ["conda-forge"]
    plain = [item for item in environment["dependencies"] if isinstance(item, str)]
    conda = {CONDA_NAMES.get(name, name): versions for name, versions in named(plain).items()}
    assert conda.pop("python") == PYPROJECT["project"]["requires-python"]
    assert conda.pop("pip") == ""
    assert conda == required
    assert environment["dependencies"][-1] == {"pip": ["-e ."]}


def test_lock_is_of_these_requirements(required):
    own = next(package for package in LOCK["package"] if package["name"] == PYPROJECT["project"]["name"])
    assert own["version"] == PYPROJECT["project"]["version"]
    assert LOCK["requires-python"] == PYPROJECT["project"]["requires-python"]
    listed = [*own["metadata"]["requires-dist"], *own["metadata"]["requires-dev"]["dev"]]
    assert {item["name"]: item["specifier"] for item in listed} == required


def test_locked_versions_satisfy_the_requirements(required):
    for name, specifier in required.items():
        locked = [package["version"] for package in LOCK["package"] if package["name"] == name]
        assert locked, f"{name} is not locked"
        for version in locked:
            assert Requirement(f"{name}{specifier}").specifier.contains(version), f"{name} {version}"


def test_installed_versions_satisfy_the_requirements(required):
    for name, specifier in required.items():
        assert Requirement(f"{name}{specifier}").specifier.contains(importlib.metadata.version(name), prereleases=True)


def test_everything_imported_is_required(required):
    """What the package imports is declared, or comes with the named package that is built on it."""
    comes_with = {"yaml": "pyyaml", "PIL": "pillow", "IPython": "ipykernel", "jinja2": "nbconvert"}
    comes_with |= {"bleach": "nbconvert", "markupsafe": "nbconvert", "nbformat": "nbconvert", "traitlets": "nbclient"}
    comes_with |= {"jupyter_client": "nbclient", "jupyter_core": "nbclient", "dask": "distributed"}
    for path in (CHECKOUT / "sla1tools").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        imported = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
        for name in imported - sys.stdlib_module_names - {"sla1tools"}:
            assert canonicalize_name(comes_with.get(name, name)) in required, f"{path.name} imports {name}"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("target", ["demo", "test", "lab", "bench", "lint"])
def test_makefile_plans_every_target(target):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    plan = subprocess.run(
        ["make", "-n", target, "PYTHON=python3.99"], cwd=CHECKOUT, capture_output=True, text=True, env=environment
    )
    assert plan.returncode == 0, plan.stderr
    assert ".venv/bin/" in plan.stdout
    assert "pip install" not in plan.stdout or "uv>=" in plan.stdout


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_ci_script_is_sound():
    script = CHECKOUT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
