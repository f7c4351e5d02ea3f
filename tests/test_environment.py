"""One set of requirements: pyproject.toml, environment.yml, both locks and what the code imports agree."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sla1tools.places import CHECKOUT

CONDA_NAMES = {"dask-core": "dask", "matplotlib-base": "matplotlib", "playwright-python": "playwright"}
PYPROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
GROUPS = PYPROJECT["dependency-groups"]
# Needed by `sla1 lab`, by every notebook, and by dask's temporary TLS; imported by nobody here.
STARTED = {"jupyterlab", "ipykernel", "cryptography"}
PLUGINS = {"pytest-timeout", "pytest-xdist", "pytest-benchmark", "types-pyyaml"}
COMMANDS = {"mypy", "nbstripout", "ruff"}
SPEEDS = {"bottleneck"}  # makes the peers of the benchmarks as fast as they can be


def named(requirements):
    """Specifiers by canonical name."""
    parsed = [Requirement(requirement) for requirement in requirements]
    return {canonicalize_name(requirement.name): str(requirement.specifier) for requirement in parsed}


RUNTIME = named(PYPROJECT["project"]["dependencies"])
TESTS = named(GROUPS["dev"])
EVERYTHING = named([*PYPROJECT["project"]["dependencies"], *(item for group in GROUPS.values() for item in group)])


def imported(*folders):
    """Distributions that the Python files below these folders import."""
    offered = importlib.metadata.packages_distributions()
    names = set()
    for path in (path for folder in folders for path in (CHECKOUT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module.split(".")[0])
    found = {canonicalize_name(name) for module in names - sys.stdlib_module_names for name in offered.get(module, [])}
    return found - {"sla1tools"}


def locked(name):
    """Specifier of versions and hashes by canonical name; a universal lock may have several versions of one."""
    entries = (CHECKOUT / name).read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    pins = {}
    for entry in entries:
        requirement, *hashes = re.split(r"\s+--hash=", entry)
        requirement = Requirement(requirement)
        pins.setdefault(canonicalize_name(requirement.name), []).append((str(requirement.specifier), hashes))
    return pins


def test_conda_environment_has_the_same_names_and_versions():
    environment = yaml.safe_load((CHECKOUT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["channels"] == ["conda-forge"]
    plain = [item for item in environment["dependencies"] if isinstance(item, str)]
    conda = {CONDA_NAMES.get(name, name): versions for name, versions in named(plain).items()}
    assert conda.pop("python") == PYPROJECT["project"]["requires-python"]
    assert conda.pop("pip") == ""
    own, *elsewhere = environment["dependencies"][-1]["pip"]
    assert own == "-e ."
    assert conda | named(elsewhere) == RUNTIME | TESTS


@pytest.mark.parametrize(("name", "required"), [("requirements.txt", RUNTIME), ("requirements-dev.txt", EVERYTHING)])
def test_lock_pins_every_requirement_with_hashes_and_no_address(name, required):
    text = (CHECKOUT / name).read_text(encoding="utf-8")
    assert not re.search(r"://|@|^\s*#|^-", text, flags=re.MULTILINE), "no index, no address, no header"
    pins = locked(name)
    assert set(required) <= set(pins)
    for package, versions in pins.items():
        for pin, hashes in versions:
            assert re.fullmatch(r"==[\w.!+]+", pin), f"{package}{pin}"
            assert hashes, f"{package} has no hash"
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value.strip()) for value in hashes), package
            wanted = Requirement(f"{package}{required.get(package, '')}").specifier
            assert wanted.contains(pin.removeprefix("=="), prereleases=True), f"{package}{pin}"


def test_both_locks_have_the_same_versions():
    run, everything = locked("requirements.txt"), locked("requirements-dev.txt")
    assert set(run) < set(everything)
    for package, versions in run.items():
        assert {pin for pin, _ in versions} <= {pin for pin, _ in everything[package]}, package


def test_installed_versions_satisfy_the_requirements():
    for name, specifier in (RUNTIME | TESTS).items():
        assert Requirement(f"{name}{specifier}").specifier.contains(importlib.metadata.version(name), prereleases=True)


def test_what_the_package_imports_is_what_it_requires():
    found = imported("sla1tools")
    assert not found - set(RUNTIME), "imported, not required"
    assert not set(RUNTIME) - found - STARTED, "required, not imported"


@pytest.mark.slow
def test_what_the_tests_and_benchmarks_import_is_what_they_require():
    found = imported("tests", "benchmarks")
    assert not found - set(EVERYTHING), "imported, not required"
    asked = set(TESTS) | set(named(GROUPS["bench"]))
    assert not asked - found - PLUGINS - COMMANDS - SPEEDS, "required, not imported"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("target", ["demo", "test", "lab", "bench", "lint"])
def test_makefile_plans_every_target(target):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    plan = subprocess.run(
        ["make", "-n", "-B", target, "PYTHON=python3.99"], cwd=CHECKOUT, capture_output=True, text=True, env=environment
    )
    assert plan.returncode == 0, plan.stderr
    assert ".venv/bin/" in plan.stdout
    installs = [line for line in plan.stdout.splitlines() if re.search(r"pip (install|sync)", line)]
    assert installs
    for line in installs:
        assert "--require-hashes" in line or "--no-deps --editable ." in line or "uv>=" in line, line


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_ci_script_is_sound():
    script = CHECKOUT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
