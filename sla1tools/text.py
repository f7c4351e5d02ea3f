"""Text for people and for files: printable characters, numbers to read, plain JSON, the time."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np


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


def shown(value: float | None, unit: str = "", digits: int = 4, absent: str = "–") -> str:
    """Write a number for reading; `absent` for what was not tested: None, NaN or infinite.

    >>> shown(1303.82), shown(0.0876373), shown(None), shown(2209.0), shown(0.12345, "e-", digits=3)
    ('1,304', '0.08764', '–', '2,209', '0.123 e-')
    """
    if value is None or not math.isfinite(value):
        return absent
    whole = 1000 <= abs(value) < 1e12 or (abs(value) < 1000 and float(value).is_integer())
    return (f"{value:,.0f}" if whole else f"{value:.{digits}g}") + f" {unit}" * bool(unit)


def counted(number: int, noun: str) -> str:
    """Write a number of things.

    >>> counted(1, "night"), counted(1204, "night")
    ('1 night', '1,204 nights')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"


def moment() -> str:
    """Now, as manifests write it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
