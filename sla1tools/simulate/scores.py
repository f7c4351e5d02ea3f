"""How well the pixel classes find what a simulated night really holds."""

import numpy as np
from astropy.table import Table

from sla1tools.darks.classes import PixelClass, name_of

# What may truly be behind a flag besides the class's own kind of pixel; kinds as `simulate` names them.
_KIND = {
    PixelClass.METADATA: ("metadata",),
    PixelClass.ZERO_VARIANCE: ("stuck", "saturated", "metadata"),
    PixelClass.HOT: ("hot", "rts"),
    PixelClass.UNSTABLE: ("rts",),
    PixelClass.WARM: ("warm", "rts"),
    PixelClass.NOISY: ("noisy", "rts", "column"),
    PixelClass.COLUMN_ROW: ("column",),
    PixelClass.SATURATED: ("saturated", "hot", "rts", "muon", "star"),
}


def truth_scores(dq: np.ndarray, truth: Table) -> Table:
    """Compare the bit planes with a simulated night's truth.

    Parameters
    ----------
    dq : (ny, nx) uint16 array
        Bit planes.
    truth : Table
        `simulate.camera.Camera.truth`: columns `x`, `y`, `kind`.

    Returns
    -------
    scores : Table
        A row a class: `class`, `kind` (the truth's word), `n_true`, `n_flagged`, `recall` (share of the true pixels
        that are flagged) and `precision` (share of the flagged that are of this kind, or of another that does what
        the class says: telegraph pixels are noisy too); NaN for no pixels.
    """
    kind, flat, some = np.asarray(truth["kind"]), dq.ravel(), dq[dq != 0]
    place = np.asarray(truth["y"]) * dq.shape[1] + np.asarray(truth["x"])
    rows = []
    for flag, kinds in _KIND.items():
        own, behind = flat[np.unique(place[kind == kinds[0]])], flat[np.unique(place[np.isin(kind, kinds)])]
        n_true, n_flagged = len(own), np.count_nonzero(some & flag)
        recall = np.count_nonzero(own & flag) / n_true if n_true else np.nan
        precision = np.count_nonzero(behind & flag) / n_flagged if n_flagged else np.nan
        rows.append((name_of(flag), kinds[0], n_true, n_flagged, recall, precision))
    return Table(rows=rows, names=("class", "kind", "n_true", "n_flagged", "recall", "precision"))
