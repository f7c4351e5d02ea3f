"""Write the page of all nights."""

from pathlib import Path

import matplotlib
from filelock import FileLock

from sla1tools.errors import ParametersError
from sla1tools.nights.recurrence import follow_pixels
from sla1tools.nights.trends import read_nights
from sla1tools.published import LOCKS, TRENDS, replace_file
from sla1tools.run.publishing import recover, refuse_links, take_outputs
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
        take_outputs(outputs)
        recover(outputs)
        lock = outputs / LOCKS / "pages.lock"
        refuse_links(outputs, lock)
        for folder in (LOCKS, TRENDS):
            (outputs / folder).mkdir(exist_ok=True)
        with FileLock(lock):  # of two commands the later one knows more
            records = read_nights(outputs)
            recurrent, latest = follow_pixels(records, outputs, write=True)
            page, unfinished = outputs / "index.html", outputs / TRENDS / "index.html.part"
            with matplotlib.rc_context():
                matplotlib.rcdefaults()  # the page is the same whoever draws it
                text = page_text(records, recurrent, latest)
            unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")
            replace_file(unfinished, page)
    except OSError as error:
        reason = error.strerror or error
        raise ParametersError(f"{outputs}: the page of all nights cannot be written: {reason}") from None
    return page
