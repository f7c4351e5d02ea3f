"""What docs/troubleshooting.md explains is what the program says."""

import re

import pytest

from sla1tools.places import CHECKOUT

PAGE = (CHECKOUT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
SAID = re.findall(r"^\| `([^`]+)`", PAGE, flags=re.MULTILINE)
SOURCE = "\n".join(path.read_text(encoding="utf-8") for path in (CHECKOUT / "sla1tools").rglob("*.py"))
EXAMPLES = r"dark30s|Dark30s|NAME|…|threshold|capture_date|\bN s|\b2 |\bint\b|rejected|No space left on device"


@pytest.mark.parametrize("message", SAID)
def test_message_is_the_programs_own(message):
    """Piece by piece, examples left out; the operating system's own words are not ours to hold."""
    pieces = [piece.strip(" :;,()") for piece in re.split(EXAMPLES, message)]
    for piece in filter(None, pieces):
        assert piece in SOURCE, piece


def test_there_are_messages():
    assert len(SAID) > 15
