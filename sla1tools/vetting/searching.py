"""Flashes of one pointing: what one of its frames shows and none of the others does. It is no transient pipeline."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from astropy.table import Table, vstack

from sla1tools.candidates.detection import FirstLook
from sla1tools.candidates.leaders import leading_pixels
from sla1tools.candidates.psf import psf_of
from sla1tools.candidates.selection import column_of, one_per_star, same_star
from sla1tools.errors import FrameError, NightError
from sla1tools.text import counted
from sla1tools.vetting.judging import OUTSHONE, Witness
from sla1tools.vetting.measuring import ScienceFrame, measure

SAME_PLACE = 2.0  # px (Chebyshev), what is left of a shift and of a star's own place included
LEAST_LEAD = 2.0  # of the highest correlation over the next, three pixels or more away
LIT = 3.0, 13.0  # sigma: below, frames share the master's noise; above, one star would count for many


def what_was_searched(witness: Witness, paths: Iterable[Path]) -> tuple[int, str]:
    """Count the frames of the darks' shape, exposure and gain that lie beside some, at least 1; the same in words."""
    folders = sorted({path.parent for path in paths})
    number = sum(_belongs(path, witness) for folder in folders for path in folder.iterdir())
    where = ", ".join(map(str, folders))
    words = f"all of {witness.parameters.dark_exposure:g} s and these darks' shape and gain in {where}"
    return max(number, 1), f"{counted(number, 'whole frame')}, {words}"


def _belongs(path: Path, witness: Witness) -> bool:
    with suppress(FrameError):
        return bool(witness.take(path)) and not path.name.startswith(".")
    return False


def find_flashes(paths: Sequence[Path], witness: Witness) -> tuple[Table, list[str]]:
    """Find what one frame of a pointing has and no other has.

    Parameters
    ----------
    paths : sequence of Path
        Two or more frames of one pointing, of the darks' shape, exposure and gain; only read.
    witness : Witness
        The darks.

    Returns
    -------
    flashes : Table
        `file`, `x`, `y`: leaders of S/N `snr_min` or more at whose place of the sky no other frame has a leader above
        the darks' floor in S/N, nor anything that cannot be measured. Places that no other frame covers are left out,
        and so are peaks that the darks flag, and what lies within 5 px of something four times as bright.
    notes : list of str
        The shift of every frame to the first.

    Raises
    ------
    NightError
        Where there are fewer than two frames, or one cannot be used.

    Notes
    -----
    Frames are shifted by whole pixels, not turned; where stars do not show the shift it is taken for none, and the note
    says so. A star that the others miss by chance, a variable, an asteroid or a satellite is found as well.
    """
    if len(paths) < 2:
        raise NightError("search: at least two frames of one pointing are needed to tell a flash from a star")
    seen, shifts, notes, first = [], [], [], None
    for path in paths:
        try:
            frame = witness.take(path)
        except FrameError as error:
            raise NightError(f"{path}: no frame of these darks: {error.detail}") from None
        image = np.fft.rfft2((np.clip(frame.field.electrons / frame.field.sigma, *LIT) - LIT[0]) * frame.field.usable)
        first = image if first is None else first
        shift, sure = _shift(first, image, frame.counts.shape)
        notes.append(f"{path.name}: shifted by x {shift[0]}, y {shift[1]} px" + " (no stars show it)" * (not sure))
        shifts.append(shift)
        seen.append(leaders_of(frame, witness))
    return _only_once(paths, seen, np.array(shifts), witness), notes


def _shift(first, image, shape) -> tuple[tuple[int, int], bool]:
    """Whole pixels (x, y) from the first frame to this one by phase correlation, and whether stars show them."""
    product = image * np.conj(first)
    correlation = np.fft.irfft2(product / np.maximum(np.abs(product), 1e-30), shape)
    y, x = (int(place) for place in np.unravel_index(correlation.argmax(), shape))
    highest, middle = correlation[y, x], (shape[0] // 2, shape[1] // 2)
    centred = np.roll(correlation, (middle[0] - y, middle[1] - x), (0, 1))
    centred[middle[0] - 2 : middle[0] + 3, middle[1] - 2 : middle[1] + 3] = 0
    if highest < LEAST_LEAD * centred.max():
        return (0, 0), False
    return ((x + middle[1]) % shape[1] - middle[1], (y + middle[0]) % shape[0] - middle[0]), True


def leaders_of(frame: ScienceFrame, witness: Witness) -> Table:
    """Every leader above the floor in S/N; `snr` is NaN where something that cannot be measured is."""
    field, psf = frame.field, psf_of(witness.parameters)
    look = FirstLook.of(witness.dark, "outside", psf, field.sigma)
    near = look.near(field.electrons, witness.floors.snr)
    y, x, _ = leading_pixels(field.electrons, np.flatnonzero(near), witness.parameters.neighbors)
    found, problems = measure(frame, x, y)
    lost = np.flatnonzero(problems != "")
    snr = np.append(column_of(found, "snr"), np.full(len(lost), np.nan))
    own = np.append(found["nearby"] <= OUTSHONE * found["peak"], np.zeros(len(lost), bool))
    place = np.append(found["place"], lost).astype(int)
    leaders = Table(
        [x[place], y[place], snr, own, 0 * snr, 0 * snr], names=("x", "y", "snr", "own", "frame", "reference")
    )
    return leaders[~(snr <= witness.floors.snr)]


def _only_once(paths, seen, shifts, witness: Witness) -> Table:
    ny, nx = witness.parameters.frame_shape
    flashes = []
    for k, (path, leaders) in enumerate(zip(paths, seen, strict=True)):
        snr = np.asarray(leaders["snr"])
        new, covered = (snr >= witness.parameters.snr_min) & leaders["own"], np.zeros(len(snr), bool)
        new = one_per_star(new, same_star(leaders, np.nan_to_num(snr)))
        for j in set(range(len(seen))) - {k}:
            place = np.stack([leaders["x"], leaders["y"]], axis=1) + shifts[j] - shifts[k]
            inside = ((place >= 0) & (place < (nx, ny))).all(axis=1)
            covered |= inside
            new &= ~(inside & _is_there(place, seen[j]))
        chosen = leaders[new & covered]
        flashes.append(Table({"file": np.full(len(chosen), str(path)), "x": chosen["x"], "y": chosen["y"]}))
    return vstack(flashes)


def _is_there(place, others: Table) -> np.ndarray:
    from scipy.spatial import cKDTree

    tree = cKDTree(np.stack([others["x"], others["y"]], axis=1).reshape(-1, 2))
    return np.isfinite(tree.query(place, distance_upper_bound=SAME_PLACE + 0.5, p=np.inf)[0])
