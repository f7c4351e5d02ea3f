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


def test_every_promise_has_its_number_and_names_its_tests():
    page = (DOCS / "reliability.md").read_text(encoding="utf-8").partition("\n## ")[0]
    numbers = re.findall(r"^(\d+)\. ", page, flags=re.M)
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
    for promise in re.split(r"^\d+\. ", page, flags=re.M)[1:]:
        assert re.match(r"\*\*[^*]+\*\*", promise), promise
        assert re.search(r"`test_\w+\.py::test_\w+`", promise), promise
