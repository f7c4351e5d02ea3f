"""The words on the pages are those of docs/glossary.md, and every page has them."""

import re

import pytest

from sla1tools.places import CHECKOUT
from sla1tools.show.glossary import GLOSSARY

PAGE = " ".join((CHECKOUT / "docs" / "glossary.md").read_text(encoding="utf-8").split())


@pytest.mark.parametrize("word", GLOSSARY)
def test_a_word_means_the_same_on_the_pages_and_in_the_docs(word):
    assert re.search(rf"\*\*`?{re.escape(word)}`?\*\*( \(`\w+`\))?: {re.escape(GLOSSARY[word])}", PAGE)
