"""The house: every room imports only what stands above it in one list."""

import ast
from pathlib import Path

import pytest

import sla1tools

PACKAGE = Path(sla1tools.__file__).parent
ROOMS = (
    *("errors", "text", "places", "parameters", "published", "frames", "darks", "candidates", "injections", "nights"),
    *("simulate", "vetting", "verdict", "summary", "measure", "show", "night", "run", "cli"),
)
ENTRANCES = {"__init__", "__main__"}  # they offer what all rooms hold


def imported_rooms(path: Path) -> set[str]:
    """Rooms that a module imports anywhere: at its head, in a function, or for types alone."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports from sla1tools"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    parts = (name.split(".") for name in names)
    return {part[1] for part in parts if part[0] == "sla1tools" and len(part) > 1} & set(ROOMS)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_import_points_upward(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in ENTRANCES:
        return
    assert room in ROOMS, f"{room} is no room of the house: add it to the list, or the module to a room"
    below = [other for other in imported_rooms(path) if ROOMS.index(other) > ROOMS.index(room)]
    assert not below, f"{path.name} imports {', '.join(below)}, which stand below {room}"
