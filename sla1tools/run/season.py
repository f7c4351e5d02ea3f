"""Write the page of all nights."""

import os
import uuid
from pathlib import Path

from sla1tools.errors import ParametersError
from sla1tools.nights.recurrence import CACHE, follow_pixels
from sla1tools.nights.trends import read_nights
from sla1tools.run.publishing import recover
from sla1tools.show.season_page import page_text


def write_trends(outputs: str | Path) -> Path:
    """Write `index.html` and `known_pixels.fits` for all nights of an outputs folder.

    Returns
    -------
    page : Path

    Raises
    ------
    ParametersError
        If the folder cannot be read or written.
    """
    outputs = Path(outputs).absolute()
    try:
        (outputs / CACHE).mkdir(parents=True, exist_ok=True)
        recover(outputs)
        records = read_nights(outputs)
        recurrent, latest = follow_pixels(records, outputs, write=True)
        page = outputs / "index.html"
        unfinished = outputs / CACHE / f"index.html.{uuid.uuid4().hex}"
        unfinished.write_text(page_text(records, recurrent, latest), encoding="utf-8", errors="backslashreplace")
        os.replace(unfinished, page)
    except OSError as error:
        reason = error.strerror or error
        raise ParametersError(f"{outputs}: the page of all nights cannot be written: {reason}") from None
    return page
