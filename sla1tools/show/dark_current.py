"""Dark current over exposure and temperature: the line through the captures, and the numbers."""

import numpy as np
from astropy.table import Table

from sla1tools.nights.dark_current import DarkCurrent
from sla1tools.show.figures import HELD_OUT, Drawing, blank_axes
from sla1tools.text import shown


def dark_current_rows(found: DarkCurrent) -> list[tuple[str, str]]:
    """Return each number with its 95 % interval for reading: name, value."""
    at = f" at {found.temperature:.1f} °C" if np.isfinite(found.temperature) else ""
    numbers = [
        (f"dark current{at}", found.rate, "e-/s"),
        ("pedestal", found.pedestal, "e-"),
        ("doubling temperature", found.doubling, "K"),
        ("gain, with that pedestal", found.gain, "e-/count"),
        ("read noise", found.read_noise, "e-"),
    ]
    rows = [
        (name, f"{shown(value.value)} {unit} ({shown(value.low)} to {shown(value.high)})" if value else "not tested")
        for name, value, unit in numbers
    ]
    brightest = [f"{row['rate']:.1f} ± {row['error']:.1f} e-/s at {row['x']}, {row['y']}" for row in found.hot[:3]]
    return rows + [("hottest pixels (x, y)", "; ".join(brightest))] * bool(brightest)


def dark_current_table(found: DarkCurrent) -> Table:
    """Tabulate `dark_current_rows`."""
    return Table(rows=dark_current_rows(found), names=("of the chip", "value (95 %)"))


def dark_current_chart(found: DarkCurrent) -> Drawing | None:
    """Draw level and variance of the captures with the fits; None where nothing was tested."""
    if not len(found.rungs):
        return None
    rungs = found.rungs[np.argsort(found.rungs["level"])]
    figure, (left, right) = blank_axes(9.6, 3.4, f"Level and variance of {len(rungs)} captures of one chip", ncols=2)
    for ax in (left, right):
        ax.margins(0.08)
    left.plot(rungs["signal"], rungs["fitted"], color=HELD_OUT, lw=1, label="fit")
    for heat in sorted({round(float(value), 0) for value in rungs["temperature"]}):
        own = np.round(rungs["temperature"]) == heat
        left.plot(rungs["signal"][own], rungs["level"][own], "o", markersize=5, label=f"{heat:.0f} °C")
    left.set(xlabel=f"exposure, as at {found.temperature:.1f} °C [s]", ylabel="mean level [e-]")
    left.legend(frameon=False)
    right.errorbar(rungs["level"], rungs["variance"], rungs["variance_error"], fmt="o", color=HELD_OUT, markersize=4)
    right.plot(rungs["level"], rungs["variance_fitted"], color=HELD_OUT, lw=1)
    right.set(xlabel="mean level [e-]", ylabel="variance of one frame [e-²]")
    return figure
