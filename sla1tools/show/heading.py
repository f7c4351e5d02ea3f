"""The head of a night's page: which night, camera and frames it tells of, and the way to the pages that lie with it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from sla1tools.text import counted, printable


@dataclass(frozen=True)
class Heading:
    """Which night a page tells of, and what lies with it in the outputs.

    Attributes
    ----------
    folder : str
        The night's folder below the outputs, with slashes: `DATE/TIME/OBJECT`.
    camera : str or None
        As the frames' headers name it.
    frames : int or None
        How many were used.
    exposure : float or None
        Of each, in seconds.
    links : mapping of str to str
        Text to path, relative to the night's folder.

    Notes
    -----
    A page may be sent alone. Its links are alive only where its own address says that it lies in its night's folder
    (those that leave the folder: in its whole path below the outputs); elsewhere a script makes them plain text, and
    the page says where the others are. Without JavaScript they stay links.
    """

    folder: str
    camera: str | None = None
    frames: int | None = None
    exposure: float | None = None
    links: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Night, camera, frames and exposure on one line."""
        frames = "" if self.frames is None else counted(self.frames, "frame")
        exposure = "" if self.exposure is None else f"{self.exposure:g} s"
        parts = [
            self.folder.replace("/", " "),
            self.camera or "camera not named",
            " of ".join(filter(None, (frames, exposure))),
        ]
        return " · ".join(printable(part) for part in parts if part)

    @property
    def print_css(self) -> str:
        """A rule that puts the line on every printed page."""
        escaped = re.sub(r"[^A-Za-z0-9 .,_-]", lambda found: f"\\{ord(found[0]):x} ", self.text)
        return f'@page {{ @top-left {{ content: "{escaped}"; font: 8pt sans-serif; }} }}\n'

    def rows(self, page: str) -> list[dict[str, str]]:
        """Return `text`, `target` and `needs` (the end of the address of a folder where it is alive) of every link.

        The target of the page itself is empty.
        """
        name = PurePosixPath(self.folder).name
        return [
            {"text": text, "target": "" if target == page else target, "needs": self.folder if ".." in target else name}
            for text, target in self.links.items()
        ]
