"""What an outputs folder holds: names of its folders and files, and the manifest of each night."""

import hashlib
import json
from pathlib import Path
from typing import Any

from sla1tools.parameters import Parameters
from sla1tools.text import json_text

MANIFEST = "manifest.json"


def write_manifest(directory: Path, manifest: dict[str, Any]) -> None:
    """Write `manifest.json` with the SHA-256 of every other file in the folder, as its last file."""
    files = sorted(path for path in directory.iterdir() if path.is_file() and path.name != MANIFEST)
    outputs = {path.name: sha256_of(path) for path in files}
    (directory / MANIFEST).write_text(json_text({**manifest, "outputs": outputs}), encoding="utf-8")


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 as hexadecimal text."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read a folder's manifest; {} where there is none, or none that can be read."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


STAGING, ASIDE, FAILED, LOCKS = ".staging", ".aside", ".failed", ".locks"


def night_path(parameters: Parameters) -> Path:
    """Return a night's folder relative to the outputs folder: capture_date/capture_time/object_name."""
    return Path(parameters.capture_date, parameters.capture_time, parameters.object_name)
