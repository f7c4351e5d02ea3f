"""The explorer's picture for paper and for readers without JavaScript: cutouts at the night's own setting."""

import numpy as np
from astropy.table import Table

from sla1tools.candidates import criteria, leaders
from sla1tools.parameters import Parameters
from sla1tools.show.explorer.payload import HELD_OUT, Exhibit, filled, with_stamp
from sla1tools.show.figures import Drawing, montage, png
from sla1tools.text import counted

SHOWN = 24


def chosen_rows(exhibit: Exhibit) -> np.ndarray:
    """Return the rows of the leaders or stars that are pictured: candidates by peak, or stars with a leader by flux."""
    if exhibit.show == "injections":
        return evenly(exhibit.table, SHOWN)
    table, parameters = exhibit.leaders, exhibit.parameters
    passes = criteria.candidates(table, parameters) & (np.asarray(table["reference"]) == parameters.reference)
    rows = np.flatnonzero(passes)
    return rows[np.argsort(-np.asarray(table["peak"])[rows], kind="stable")]


def evenly(stars: Table, most: int) -> np.ndarray:
    """Return the rows of so many injected stars that have a leader, or of all, evenly from faint to bright."""
    led = with_stamp(stars)
    order = led[np.argsort(np.asarray(stars["flux_true"])[led], kind="stable")] if len(led) else led
    return order[np.unique(np.linspace(0, len(led) - 1, min(most, len(led))).astype(int))]


def caption(exhibit: Exhibit) -> str:
    """Say in a sentence what the picture shows and at which setting."""
    parameters, injections, rows = exhibit.parameters, exhibit.injections, chosen_rows(exhibit)
    criterion = criteria.criteria_of(parameters)[parameters.criterion]
    cuts = criterion.configured(parameters)
    setting = f"{criterion.name}, {criteria.in_words(cuts)}"
    if exhibit.show == "injections":
        if injections is None or not len(injections.trials):
            return "No star was injected: not tested."
        number, number_found = len(injections.trials), int(injections.recovered(criterion, cuts).sum())
        shown = f"{len(rows)} of them shown, from faint to bright"
        return f"{number_found:,} of {number:,} injected stars found by {setting}; {shown}."
    passes = criteria.candidates(exhibit.leaders, parameters)
    held = np.asarray(exhibit.leaders["reference"]) == HELD_OUT
    found = f"{counted(int(np.sum(passes & held)), 'candidate')} held out, {int(np.sum(passes & ~held)):,} in sample"
    more = f"; the {SHOWN} brightest are shown, {len(rows) - SHOWN:,} are not" if len(rows) > SHOWN else ""
    return f"{found}, in {len(exhibit.frames)} frames, by {setting}{more}."


def picture(exhibit: Exhibit) -> bytes:
    """Draw the cutouts as a PNG, b"" where there are none; characters of a file name beyond ASCII as question marks."""
    table = exhibit.leaders if exhibit.show == "candidates" else exhibit.table
    shown = table[chosen_rows(exhibit)[:SHOWN]]
    captions = ["\n".join(_lines(row, exhibit.parameters, exhibit.show)) for row in shown]
    sheet = montage(np.asarray(shown["stamp"]), captions, most=SHOWN)
    return png(sheet) if isinstance(sheet, Drawing) else b""


def _lines(row, parameters: Parameters, show: str) -> list[str]:
    title = f"{float(row['flux_true']):.0f} e- star" if show == "injections" else str(row["frame"])
    title = "".join(letter if letter.isprintable() and letter.isascii() else "?" for letter in title)[:26]
    numbers = f"ratio {float(row['neighbor_min']) / float(row['peak']):.2f}"
    for name, label in (("snr", "S/N"), ("p_value", "p")):
        value = filled(np.ma.asarray(row[name]).reshape(1))[0]
        numbers += f"  {label} {value:.2g}" if np.isfinite(value) else ""
    return [title, leaders.caption(row["x"], row["y"], row["peak"], parameters.frame_shape), numbers]
