"""The explorer's picture for paper and for readers without JavaScript: cutouts at the night's own setting."""

from collections.abc import Sequence

import numpy as np
from astropy.table import Table

from sla1tools.candidates import criteria, leaders
from sla1tools.injections.injection import Injections
from sla1tools.parameters import Parameters
from sla1tools.show.explorer import payload as gallery
from sla1tools.show.figures import Drawing, montage, png
from sla1tools.text import counted

SHOWN = 24


def chosen_rows(
    table: Table, injections: Injections | None, parameters: Parameters, show: str
) -> tuple[Table, np.ndarray]:
    """Return the table that is pictured and its rows: candidates by peak, or stars with a leader evenly by flux."""
    if show == "injections":
        if injections is None:
            return table, np.zeros(0, int)
        trials = injections.trials
        led = np.flatnonzero(np.isfinite(trials["stamp"][:, 2, 2]))
        order = led[np.argsort(np.asarray(trials["flux_true"])[led], kind="stable")]
        return trials, order[np.unique(np.linspace(0, len(led) - 1, min(SHOWN, len(led))).astype(int))]
    passes = criteria.candidates(table, parameters) & (np.asarray(table["reference"]) == parameters.reference)
    rows = np.flatnonzero(passes)
    return table, rows[np.argsort(-np.asarray(table["peak"])[rows], kind="stable")]


def caption(
    table: Table, injections: Injections | None, parameters: Parameters, frames: Sequence[str], show: str = "candidates"
) -> str:
    """Say in a sentence what the picture shows and at which setting."""
    _, rows = chosen_rows(table, injections, parameters, show)
    criterion = criteria.criteria_of(parameters)[parameters.criterion]
    cuts = criterion.configured(parameters)
    setting = f"{criterion.name}, {criteria.in_words(cuts)}"
    if show == "injections":
        if injections is None or not len(injections.trials):
            return "No star was injected: not tested."
        number, number_found = len(injections.trials), int(injections.recovered(criterion, cuts).sum())
        shown = f"{len(rows)} of them shown, from faint to bright"
        return f"{number_found:,} of {number:,} injected stars found by {setting}; {shown}."
    passes, held = criteria.candidates(table, parameters), np.asarray(table["reference"]) == gallery.HELD_OUT
    count = int(np.sum(passes & held))
    found = f"{counted(count, 'candidate')} held out, {int(np.sum(passes & ~held)):,} in sample"
    more = f"; the {SHOWN} brightest are shown, {len(rows) - SHOWN:,} are not" if len(rows) > SHOWN else ""
    return f"{found}, in {len(frames)} frames, by {setting}{more}."


def picture(table: Table, injections: Injections | None, parameters: Parameters, show: str = "candidates") -> bytes:
    """Draw the cutouts as a PNG, b"" where there are none; characters of a file name beyond ASCII as question marks."""
    table, rows = chosen_rows(table, injections, parameters, show)
    shown = table[rows[:SHOWN]]
    captions = ["\n".join(_lines(row, parameters, show)) for row in shown]
    sheet = montage(np.asarray(shown["stamp"]), captions, most=SHOWN)
    return png(sheet) if isinstance(sheet, Drawing) else b""


def _lines(row, parameters: Parameters, show: str) -> list[str]:
    title = f"{float(row['flux_true']):.0f} e- star" if show == "injections" else str(row["frame"])
    title = "".join(letter if letter.isprintable() and letter.isascii() else "?" for letter in title)[:26]
    numbers = f"ratio {float(row['neighbor_min']) / float(row['peak']):.2f}"
    for name, label in (("snr", "S/N"), ("p_value", "p")):
        value = gallery.filled(np.ma.asarray(row[name]).reshape(1))[0]
        numbers += f"  {label} {value:.2g}" if np.isfinite(value) else ""
    return [title, leaders.caption(row["x"], row["y"], row["peak"], parameters.frame_shape), numbers]
