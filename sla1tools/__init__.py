"""How often does the camera alone make a flash? A night of darks, answered.

open_night      measure a night of darks, from parameter files, a capture folder or a published night
find_leaders    the pixels of a residual that no neighbour outshines
neighbor_ratio  which of them are candidates by the observers' rule
psf_chi2        which of a measured table's leaders are probably a star's image and noise
show_cutouts    the pixels around each, as a figure
Darks           a stack of darks in memory, to search any further frame against

A night gives `residual(k)`, `candidates(threshold=150)`, `inject(x=, y=, flux=, frame=)`, `vet(frame, x, y)`,
`explore()`, its tables `leaders`, `trials` and `hits`, and its `parameters`. `x` is the column and `y` the row, both
0-based; electrons are counts scaled once. `docs/library.md` shows all of it in ten lines; `sla1 --help` is the command.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sla1tools.candidates.criteria import neighbor_ratio, psf_chi2
    from sla1tools.candidates.leaders import find_leaders
    from sla1tools.candidates.search import Darks
    from sla1tools.night import open_night
    from sla1tools.show.figures import show_cutouts

__version__ = "0.1.0"
__all__ = ["Darks", "find_leaders", "neighbor_ratio", "open_night", "psf_chi2", "show_cutouts"]

_HOMES = {
    "Darks": "candidates.search",
    "find_leaders": "candidates.leaders",
    "neighbor_ratio": "candidates.criteria",
    "open_night": "night",
    "psf_chi2": "candidates.criteria",
    "show_cutouts": "show.figures",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: numpy and astropy take a second that `sla1 --help` has no use for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
