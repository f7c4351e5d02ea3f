"""The manifest: what a run was made of, judged and wrote; and the plain text that it is written in."""

import hashlib
import importlib.metadata
import json
import math
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from sla1tools.parameters import CHECKOUT

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


def judged_files(night) -> list[dict[str, Any]]:
    """One mapping a file of the capture folder: name, verdict, reason, detail and SHA-256, for the manifest."""
    rows = [
        {"name": frame.name, "verdict": "used", "detail": "; ".join(frame.notes), "sha256": frame.sha256}
        for frame in night.frames
    ]
    rows += [
        {
            "name": item.name,
            "verdict": "rejected",
            "reason": item.reason.value,
            "detail": item.detail,
            "sha256": item.sha256,
        }
        for item in night.rejected
    ]
    rows += [{"name": name, "verdict": "ignored"} for name in night.ignored]
    return sorted(rows, key=lambda row: row["name"])


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of the packages it requires."""
    required = importlib.metadata.requires("sla1tools") or []
    names = [re.split(r"[^A-Za-z0-9._-]", requirement)[0] for requirement in required]
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ["sla1tools", *names]},
    }


def git_commit() -> str | None:
    """Commit of the checkout, with ``-dirty`` where files differ from it; None outside a checkout or without git."""
    if not (CHECKOUT / ".git").exists():
        return None
    command = "git --no-optional-locks describe --always --abbrev=40 --dirty --match="
    try:
        result = subprocess.run(command.split(), cwd=CHECKOUT, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def printable(text: Any) -> str:
    r"""Show control characters and lone surrogates as escapes, everything else as it is.

    >>> printable("d\u00e4rk\n\x1b[31m.fits")
    'därk\\n\\x1b[31m.fits'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def json_text(value: Any) -> str:
    """Serialize with numpy scalars and arrays as plain numbers and lists, and null for NaN and infinities."""
    return json.dumps(_plain(value), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if value is np.ma.masked:
        return None
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes):
        return [_plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return value.isoformat() if isinstance(value, datetime) else str(value)
