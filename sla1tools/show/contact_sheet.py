"""The explorer's picture for paper and for readers without JavaScript: cutouts at the night's own setting."""

import io
from collections.abc import Sequence

import numpy as np
from astropy.table import Table

from sla1tools.candidates import criteria, leaders
from sla1tools.injections.injection import Injections
from sla1tools.parameters import Parameters
from sla1tools.show.explorer import payload as gallery

SHOWN = 24
COLUMNS = 4
CELL = (220, 290)  # pixels, with the caption
EDGE = 190


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
    criterion = criteria.CRITERIA[parameters.criterion]
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
    found = f"{count:,} candidate{'' if count == 1 else 's'} held out, {int(np.sum(passes & ~held)):,} in sample"
    more = f"; the {SHOWN} brightest are shown, {len(rows) - SHOWN:,} are not" if len(rows) > SHOWN else ""
    return f"{found}, in {len(frames)} frames, by {setting}{more}."


def picture(table: Table, injections: Injections | None, parameters: Parameters, show: str = "candidates") -> bytes:
    """Draw the cutouts as a PNG, b"" where there are none.

    Notes
    -----
    One stretch serves all cutouts; y runs upwards; blue lies beyond the frame. Characters of a file name that cannot
    be printed are drawn as question marks.
    """
    from PIL import Image, ImageDraw, ImageFont

    table, rows = chosen_rows(table, injections, parameters, show)
    rows = rows[:SHOWN]
    if len(rows) == 0:
        return b""
    stamps = np.asarray(table["stamp"][rows], np.float32)
    levels = gallery.shades(stamps, gallery.stretch(stamps))[:, ::-1]
    colors = np.repeat(levels[..., None], 3, axis=-1)
    colors[levels == 255] = (131, 161, 201)
    columns = min(COLUMNS, len(rows))
    sheet = Image.new("RGB", (columns * CELL[0], -(-len(rows) // columns) * CELL[1]), "white")
    pen = ImageDraw.Draw(sheet)
    fonts = ImageFont.load_default(15), ImageFont.load_default(13)
    for k, row in enumerate(rows):
        left, top = (k % columns) * CELL[0], (k // columns) * CELL[1]
        sheet.paste(Image.fromarray(colors[k]).resize((EDGE, EDGE), Image.Resampling.NEAREST), (left, top))
        for line, text in enumerate(_lines(table[int(row)], parameters, show)):
            pen.text((left, top + EDGE + 5 + 18 * line), text, "#1c2126", fonts[line > 0])
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()


def _lines(row, parameters: Parameters, show: str) -> list[str]:
    x, y, peak = int(row["x"]), int(row["y"]), float(row["peak"])
    box = leaders.caption(x, y, peak, parameters.frame_shape).partition(" around ")[0]
    title = f"{float(row['flux_true']):.0f} e- star" if show == "injections" else str(row["frame"])
    title = "".join(letter if letter.isprintable() else "?" for letter in title)[:26]
    numbers = f"ratio {float(row['neighbor_min']) / peak:.2f}"
    for name, label in (("snr", "S/N"), ("p_value", "p")):
        value = gallery.filled(np.ma.asarray(row[name]).reshape(1))[0]
        numbers += f"  {label} {value:.2g}" if np.isfinite(value) else ""
    return [title, box, f"around (x={x}, y={y}, {peak:.0f} e-)", numbers]
