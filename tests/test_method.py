"""The method page names the test behind every number: the tests exist."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
NAMED = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (TESTS.parent / "docs" / "method.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("file", "test"), sorted(set(NAMED)))
def test_every_test_named_exists(file, test):
    assert f"\ndef {test}(" in (TESTS / file).read_text(encoding="utf-8")


def test_tests_are_named():
    assert len(NAMED) > 25
