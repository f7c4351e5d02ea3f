"""Dark current over exposure and temperature: the line through the captures, and the numbers."""

import numpy as np
from astropy.table import Table

from sla1tools.nights.dark_current import DarkCurrent
from sla1tools.show.figures import HELD_OUT, IN_SAMPLE, Drawing, blank_axes
from sla1tools.text import shown

LABELS = {
    "electrons_per_second": ("dark current", "e-/s"),
    "pedestal": ("pedestal", "e-"),
    "doubling_kelvin": ("doubling temperature", "K"),
    "gain": ("gain, with that pedestal", "e-/count"),
}


def dark_current_table(found: DarkCurrent) -> Table:
    """Tabulate each number with its 95 % interval, and the hottest pixels."""
    rows = []
    for name, (label, unit) in LABELS.items():
        own = found.values.get(name)
        interval = f"{shown(own.value)} {unit} ({shown(own.low)} to {shown(own.high)})" if own else "not tested"
        at = f" at {found.temperature:.1f} °C" if unit == "e-/s" and not np.isnan(found.temperature) else ""
        rows.append((label + at, interval))
    for x, y, rate, error in found.hot[:3]:
        rows.append((f"hot pixel at x {x}, y {y}", f"{rate:.1f} ± {error:.1f} e-/s"))
    return Table(rows=rows, names=("of the chip", "value (95 %)"))


def dark_current_chart(found: DarkCurrent) -> Drawing | None:
    """Draw level and variance of the captures; None where nothing was tested."""
    if not len(found.captures):
        return None
    rows = found.captures[np.argsort(found.captures["signal"])]
    alt = f"Level against exposure, and variance against level, of {len(rows)} captures of one chip"
    figure, (upper, lower) = blank_axes(6.4, 5.6, alt, nrows=2)
    upper.plot(rows["signal"], rows["fitted"], color=IN_SAMPLE, lw=1)
    upper.plot(rows["signal"], rows["level"], "o", color=HELD_OUT, markersize=5)
    upper.set(xlabel=f"exposure, as at {found.temperature:.1f} °C [s]", ylabel="mean level [e-]")
    lower.errorbar(rows["level"], rows["variance"], rows["variance_error"], fmt="o", color=HELD_OUT, markersize=4)
    line = np.polyfit(rows["level"], rows["variance"], 1, w=1 / rows["variance_error"])
    lower.plot(rows["level"], np.polyval(line, rows["level"]), color=IN_SAMPLE, lw=1)
    lower.set(xlabel="mean level [e-]", ylabel="variance of one frame [e-²]")
    return figure
