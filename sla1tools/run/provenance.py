"""What a run was made with: versions of packages, commit of the checkout."""

import importlib.metadata
import platform
import re
import subprocess
from functools import cache

from sla1tools.places import CHECKOUT


@cache
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
