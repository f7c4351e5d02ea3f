"""Docstrings name what a function takes, and the pages of the docs lead to one another."""

import importlib
import inspect
import pkgutil
import re

import pytest
import yaml
from numpydoc.docscrape import NumpyDocString
from numpydoc.validate import validate

import sla1tools
from sla1tools.places import CHECKOUT

DOCS = CHECKOUT / "docs"
WANTED = {
    "GL08": "a docstring",
    "SS01": "a summary",
    "PR01": "every parameter",
    "PR02": "no other parameter",
    "PR03": "in their order",
    "PR07": "each with a description",
    "RT01": "what is returned",
}
MODULES = [item.name for item in pkgutil.walk_packages(sla1tools.__path__, "sla1tools.") if "__main__" not in item.name]


def functions():
    """Every public function whose docstring has sections."""
    for name in MODULES:
        module = importlib.import_module(name)
        for label, value in vars(module).items():
            own = inspect.isfunction(value) and value.__module__ == name and not label.startswith("_")
            if own and NumpyDocString(inspect.getdoc(value) or "")["Parameters"]:
                yield f"{name}.{label}"


@pytest.mark.parametrize("name", [f"sla1tools.{name}" for name in sla1tools.__all__])
def test_public_names_have_every_section(name):
    found = {code for code, _ in validate(name)["errors"]}
    assert not found & set(WANTED), [WANTED[code] for code in found & set(WANTED)]


@pytest.mark.parametrize("name", sorted(functions()))
def test_parameters_are_those_of_the_signature(name):
    told = [message for code, message in validate(name)["errors"] if code in ("PR01", "PR02")]
    assert not told


def test_every_page_is_in_the_contents():
    contents = (DOCS / "index.md").read_text(encoding="utf-8").split("```{toctree}")[1]
    listed = set(re.findall(r"^([\w-]+)$", contents, flags=re.M))
    assert listed == {path.stem for path in DOCS.glob("*.md")} - {"index"}


def test_the_readme_is_one_look():
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    pictures = re.findall(r"^!\[.+\]\((.+)\)$", text, re.M)
    assert pictures == ["docs/explorer.png", "docs/night.png", "docs/trends.png"]
    assert all((CHECKOUT / name).is_file() for name in pictures)


def rows_of_readme():
    table = (CHECKOUT / "README.md").read_text(encoding="utf-8").partition("## To change X")[2].partition("\n## ")[0]
    return [row.split("|")[1:3] for row in table.splitlines() if row.startswith("| ") and "`" in row]


@pytest.mark.parametrize(("what", "where"), rows_of_readme(), ids=lambda text: text.strip())
def test_what_the_readme_says_to_edit_is_there(what, where):
    room = CHECKOUT / "sla1tools"
    for named in re.findall(r"`([\w/]+\.py|\w+/[\w/]*)`", where):
        folders = (room, CHECKOUT / "sla1tools", CHECKOUT)
        path = next((folder / named for folder in folders if (folder / named).exists()), None)
        assert path, named
        room = path if path.is_dir() else path.parent


def test_citation_names_this_version():
    citation = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["title"], citation["version"]) == ("sla1tools", sla1tools.__version__)
