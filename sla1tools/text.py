"""Text for people and for files: printable characters, numbers to read, plain JSON, the time."""

import errno
import json
import math
import os
import stat
from collections.abc import Mapping, Sequence, Set
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path
from typing import Any

MOST_BYTES = 2**26  # of any text that is read
MOST_NAMES = 8  # that a message lists
LEAST_CHANCE = 1e-45  # no single-precision number, as tables hold them, is smaller and not 0


def printable(text: Any) -> str:
    r"""Show control characters and lone surrogates as escapes, everything else as it is.

    >>> printable("d\u00e4rk\n\x1b[31m.fits")
    'därk\\n\\x1b[31m.fits'
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_text(name: str) -> bool:
    """Tell whether a name is valid UTF-8: one that is not holds lone surrogates, which no page or table could hold."""
    return name.encode(errors="ignore").decode() == name


def json_text(value: Any) -> str:
    """Serialize with numpy scalars and arrays as plain numbers and lists, and null for NaN and infinities."""
    finite = json.loads(json.dumps(value, default=plain), parse_constant=lambda nan_or_infinity: None)
    return json.dumps(finite, indent=1) + "\n"


def plain(value: Any) -> Any:
    """Return what JSON knows in place of something else, as `json.dumps` asks for it."""
    if hasattr(value, "tolist"):  # numpy's; a masked one gives None
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence | Set):
        return sorted(value) if isinstance(value, Set) else list(value)
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


def chance_text(chance: float | None, digits: int = 2, equals: str = "") -> str:
    """Write a chance, as a p-value, for reading: where tables hold 0 it is below a bound.

    >>> chance_text(0.01234), "p " + chance_text(0.5, equals="= "), "p " + chance_text(0.0, equals="= ")
    ('0.012', 'p = 0.5', 'p < 1e-45')
    """
    if chance is not None and chance < LEAST_CHANCE:
        return f"< {LEAST_CHANCE:g}"
    return equals + shown(chance, digits=digits)


def flux_text(flux: float | None, zero_point: float | None, absent: str = "–") -> str:
    """Write a flux in electrons, and as a magnitude where the zero point is known.

    >>> flux_text(1000.0, None), flux_text(1000.0, 25.0)
    ('1,000 e-', '1,000 e- (17.50 mag)')
    """
    return shown(flux, "e-", absent=absent) + magnitude_text(flux, zero_point)


def magnitude_text(flux: float | None, zero_point: float | None) -> str:
    """Write the magnitude of a flux, to stand beside it; nothing where there is none."""
    return f" ({zero_point - 2.5 * math.log10(flux):.2f} mag)" if flux and zero_point is not None else ""


def listed(names: Sequence[str], most: int = MOST_NAMES) -> str:
    """List names in a message, and say how many more there are.

    >>> listed(["a", "b"]), listed(["a", "b", "c", "d"], most=2)
    ('a, b', 'a, b and 2 more')
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def counted(number: int, noun: str) -> str:
    """Write a number of things.

    >>> counted(1, "night"), counted(1204, "night")
    ('1 night', '1,204 nights')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def open_regular(path: str | Path) -> BufferedReader:
    """Open a file for reading; OSError where it is a folder, a pipe or a device, which could be read for ever."""
    return open(path, "rb", opener=_regular)


def _regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # else a pipe would wait for its writer
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "is not a regular file", path)


def read_regular(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """Read a regular file; OSError where it holds more than so many bytes."""
    with open_regular(path) as file:
        held = os.fstat(file.fileno()).st_size  # room for all that it may hold would cost more than most files' reading
        contents = file.read(min(held, most) + 1)
    if len(contents) > most:
        raise OSError(errno.EFBIG, f"is larger than {most} bytes", str(path))
    return contents


def moment() -> str:
    """Now, as manifests write it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
