"""The pages that name the tests behind every number and every promise: those tests exist."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"
LEAST = {"method.md": 25, "reliability.md": 25}
NAMED = {name: re.findall(r"`(test_\w+\.py)::(test_\w+)`", (DOCS / name).read_text(encoding="utf-8")) for name in LEAST}


@pytest.mark.parametrize(("file", "test"), sorted({pair for pairs in NAMED.values() for pair in pairs}))
def test_every_test_named_exists(file, test):
    assert f"\ndef {test}(" in next(TESTS.rglob(file)).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", LEAST)
def test_tests_are_named(name):
    assert len(NAMED[name]) > LEAST[name]


def test_every_promise_names_its_tests():
    promises = re.split(r"^\d+\. \*\*", (DOCS / "reliability.md").read_text(encoding="utf-8"), flags=re.M)[1:]
    assert len(promises) == 10
    assert all(re.search(r"`test_\w+\.py::test_\w+`", promise) for promise in promises)
