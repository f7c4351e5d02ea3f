"""Injected stars: put into raw counts, on copies, and measured by the very functions that measure darks.

Only a star's 7x7 surroundings need computing again. Held out, that is exact: a star cannot move the reference of its
own frame. In sample it does, and the reference of those pixels is combined anew.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from astropy.table import Column, MaskedColumn, Table, vstack

from sla1tools.candidates.criteria import CRITERIA, criteria_of
from sla1tools.candidates.leaders import STAMP_SIZE
from sla1tools.candidates.psf import PSF, psf_of
from sla1tools.candidates.rows import LEADER_COLUMNS, PATCH_SIZE, UNITS, Floors, Patches, detect_patches, type_of
from sla1tools.candidates.selection import Criterion, first_failed
from sla1tools.darks.model import DarkModel
from sla1tools.darks.reference import DarkReference, middle_counts
from sla1tools.errors import ParametersError
from sla1tools.parameters import Parameters

MOST_FLUX = 1e9  # electrons: thousands of times what saturates a pixel
MEASURED = [name for name in LEADER_COLUMNS if name not in ("frame", "reference")]  # what every leader has of its own
ALREADY_THERE = "already there"  # why a star is not found where a candidate stood before
_CHUNK = 4000  # stars: some 25 MB, and in sample 0.4 MB more for each of the night's frames
FAKE = ((0, 0, 300.0), (-1, 0, 100.0), (1, 0, 100.0), (0, -1, 100.0), (0, 1, 100.0))


@dataclass(frozen=True)
class Injections:
    """Injected stars and what became of each.

    Attributes
    ----------
    trials : Table
        A row a star: the columns of the leader table for its leader (masked where it has none above the floors),
        `x_true` to `fwhm_true`, and, at the configured cuts, `recovered_NAME` for every criterion NAME and the
        configured one's `miss_reason`, empty if recovered.
    leaders : Table
        Every leader above the floors within 1 px (Chebyshev) of a star's pixel: `star` (its row in `trials`), `before`
        (True: it led without the star), and the columns of the leader table from `x` on. Star by star, those with the
        star in it first, the brightest first.
    fainter : Table, optional
        Of each star without a leader above the floors, its brightest leader below them, as a row of `leaders`; where
        `leads` is False, the `peak` of its brightest pixel. They tell why it is missed.
    stamps : (n, 5, 5) array, optional
        Of the `leaders`, in electrons.

    Notes
    -----
    Any setting that the sliders allow lies above the floors, so that `leaders` holds whatever can pass at it.
    """

    trials: Table
    leaders: Table
    fainter: Table | None = None
    stamps: np.ndarray | None = None

    def judged(self, parameters: Parameters) -> "Injections":
        """Judge the same stars at other cuts, not below the floors, or by another criterion."""
        assert self.fainter is not None
        assert self.stamps is not None
        trials, star = _empty_trials(self.trials, parameters.reference), np.asarray(self.leaders["star"])
        criteria = criteria_of(parameters)
        for name, criterion in criteria.items():
            trials[f"recovered_{name}"] = self.recovered(criterion, criterion.configured(parameters))
        criterion = criteria[parameters.criterion]
        cuts, before = criterion.configured(parameters), np.asarray(self.leaders["before"])
        passes = criterion.passes(self.leaders, cuts)
        rows = np.flatnonzero(~before)  # of a star's leaders one that passes, else the brightest
        rows = rows[_first_of_each(star[rows], ~passes[rows], -np.asarray(self.leaders["peak"])[rows])]
        chosen, leads = self.leaders[rows], np.asarray(self.fainter["leads"])
        by_peak = [term for term in criterion.terms if term.column == "peak" and term.factor is None]
        for terms, table, otherwise in (
            (by_peak, self.fainter[~leads], "out-led"),
            (criterion.terms, self.fainter[leads], ""),
            (criterion.terms, chosen, ""),
        ):
            trials["miss_reason"][np.asarray(table["star"])] = first_failed(terms, table, cuts, otherwise)
        trials["miss_reason"][star[before & passes]] = ALREADY_THERE
        trials["miss_reason"][trials[f"recovered_{criterion.name}"]] = ""
        at = np.asarray(chosen["star"])
        trials["stamp"][at] = self.stamps[rows]
        for name in MEASURED:
            trials[name][at] = np.ma.getdata(chosen[name])
            trials[name].mask[at] = np.ma.getmaskarray(chosen[name])
        return replace(self, trials=trials)

    def recovered(self, criterion: Criterion, cuts: Mapping[str, float]) -> np.ndarray:
        """Which stars a setting finds, (n,) bool.

        A leader within 1 px of the star's pixel passes, and none there passed before the star was put in.

        Notes
        -----
        Each leader is judged for itself: every star is alone in its frame. In a whole frame, where of leaders within
        2 px only the best counts, a leader that was there before, 2 px from the star's, may hide it or be hidden by it.
        That concerns the stars that fall within 3 px of a candidate: the false alarms of a frame times 49 / pixels.
        """
        return self.found_by(criterion.passes(self.leaders, cuts))

    def found_by(self, rows: np.ndarray) -> np.ndarray:
        """Which stars are found where these rows of `leaders` pass: a mask, or an index that rises."""
        found = np.zeros(len(self.trials), bool)
        found[np.asarray(self.leaders["star"])[rows]] = ~np.asarray(self.leaders["before"])[rows]
        return found

    @property
    def shown(self) -> np.ndarray:
        """Row of `leaders` that each trial shows, (n,) int, -1 for none."""
        star, there = np.asarray(self.leaders["star"]), ~np.asarray(self.leaders["before"])
        for axis in ("x", "y"):
            there &= np.asarray(self.leaders[axis]) == np.ma.filled(self.trials[axis], -1)[star]
        shown = np.full(len(self.trials), -1)
        shown[star[there]] = np.flatnonzero(there)
        return shown


def put_fake(residual: np.ndarray, x: int = 150, y: int = 250) -> np.ndarray:
    """Put the observers' plus-shaped fake into a copy of a residual: 300 e-, four neighbours of 100 e-.

    Parameters
    ----------
    residual : (ny, nx) float array
        In electrons; not changed.
    x, y : int
        Where its centre goes; at least one pixel from the edge.

    Raises
    ------
    ParametersError
        Where the fake does not fit into the frame.
    """
    if not (0 < x < residual.shape[1] - 1 and 0 < y < residual.shape[0] - 1):
        raise ParametersError(f"the fake at x={x}, y={y} does not fit into a frame of shape {list(residual.shape)}")
    faked = residual.copy()
    for dx, dy, value in FAKE:
        faked[y + dy, x + dx] = value
    return faked


def holds_a_stamp(shape: tuple[int, int]) -> bool:
    """Tell whether a frame is large enough for injection to mean anything: 5x5 pixels."""
    return min(shape) >= STAMP_SIZE


def random_stars(parameters, frames: int, shape: tuple[int, int]) -> Table:
    """Draw the stars to inject.

    Returns
    -------
    stars : Table
        `frame_number`, `x_true`, `y_true` (sub-pixel, uniform over the frame's area), `flux_true` (log-uniform and
        stratified), `modes` ((n, 3), drawn from the PSF's errors), `fwhm_true` (that of the PSF's Gaussian, with the
        first mode's blur); seeded by `random_seed`. Frames take turns.
    """
    n = parameters.injections
    rng = np.random.default_rng(parameters.random_seed)
    low, high = np.log(parameters.injection_flux_range)
    flux = np.exp(low + (high - low) * (np.arange(n) + rng.random(n)) / max(n, 1))
    psf = psf_of(parameters)
    stars = Table({"frame_number": rng.permutation(np.arange(n) % frames)})
    for axis, size in (("x_true", shape[1]), ("y_true", shape[0])):
        stars[axis] = rng.random(n) * size - 0.5
    stars["flux_true"] = flux
    stars["modes"] = psf.draw_modes(n, rng)
    stars["fwhm_true"] = psf.fwhm * (1 + stars["modes"][:, 0])
    return stars


def refuse_impossible(stars: Table, capture) -> None:
    """Raise `ParametersError` where stars cannot be put into the capture's frames, naming the column and the value."""
    ny, nx = capture.shape
    limits = {
        "frame_number": (0, len(capture.frames) - 1),
        "x_true": (-0.5, nx - 0.5),
        "y_true": (-0.5, ny - 0.5),
        "flux_true": (0, MOST_FLUX),
        "fwhm_true": (0.5, 5.0),
    }
    for name, (low, high) in limits.items():
        if name not in stars.colnames:
            raise ParametersError(f"stars: there is no column {name}; needed are {', '.join(limits)}")
        values = np.asarray(stars[name])
        if values.dtype.kind not in ("iu" if name == "frame_number" else "iuf"):
            raise ParametersError(f"stars: {name} must hold {'whole ' * (name == 'frame_number')}numbers")
        wrong = ~((values >= low) & (values <= high))
        if wrong.any():
            raise ParametersError(f"stars: {name} {values[wrong][0]:g} is not between {low:g} and {high:g}")


def add_stars(counts: np.ndarray, stars: Table, psf: PSF, scale: float, top_code: int, rng) -> np.ndarray:
    """Put one star into each patch of raw counts, as the camera would have recorded it.

    Parameters
    ----------
    counts : (n, 7, 7) uint16 array
        Raw counts around each star's pixel; not changed.
    stars : Table
        `x_true`, `y_true`, `flux_true` (electrons), and `modes` or `fwhm_true` (pixels: the PSF, so much wider); a row
        a patch.
    psf : PSF
        The stars' image.
    scale : float
        Electrons per count.
    top_code : int
        Where the ADC clips, in counts; counts already above it stay.
    rng : Generator
        For the stars' Poisson noise.

    Returns
    -------
    counts : (n, 7, 7) uint16 array
        Electrons are drawn, divided by the scale, added, quantised and clipped.
    """
    x, y = np.asarray(stars["x_true"]), np.asarray(stars["y_true"])
    modes = np.asarray(stars["modes"]) if "modes" in stars.colnames else None
    if modes is None:
        psf = replace(psf, fwhm=np.asarray(stars["fwhm_true"]))  # type: ignore[arg-type]  # one width a star
    share = psf.stars(x - np.rint(x), y - np.rint(y), modes, psf.at(x, y), PATCH_SIZE)
    electrons = rng.poisson(share * np.asarray(stars["flux_true"])[:, None, None])
    return np.maximum(np.minimum(np.rint(counts + electrons / scale), top_code), counts).astype(np.uint16)


def inject(capture, dark: DarkModel, floors: Floors, stars: Table | None = None) -> Injections:
    """Inject stars one by one and measure what becomes of each.

    Parameters
    ----------
    capture : Capture
        Its parameters say how many stars and which reference.
    dark : DarkModel
        From the same night.
    floors : Floors
        The leader table's.
    stars : Table, optional
        As `random_stars` draws them, which is the default; none in a frame that does not hold a stamp.

    Raises
    ------
    ParametersError
        Where a star cannot be put there: outside the frames, no flux, no such frame, a column missing.

    Notes
    -----
    A star is recovered if a leader within 1 px (Chebyshev) of its pixel passes, and no leader there passed before. The
    row shown is that of a leader that passes the configured criterion, else of the brightest above the floors. The
    reason for a miss is the first term of the criterion that this leader, above the floors or not, fails.
    Where no pixel there leads it is the first term that the brightest pixel's value alone fails ('below threshold'),
    else 'out-led', and where a candidate stood before, 'already there'.
    """
    parameters = capture.parameters
    if stars is None:
        stars = random_stars(parameters, len(capture.frames), capture.shape)
        stars = stars if holds_a_stamp(capture.shape) else stars[:0]
    else:
        refuse_impossible(stars, capture)
    order = np.argsort(stars["frame_number"], kind="stable")
    rng = np.random.default_rng([parameters.random_seed, 1])
    stars = stars.copy(copy_data=False)
    stars["frame"] = np.array([*capture.names, ""])[np.asarray(stars["frame_number"], int)]
    trials = _empty_trials(stars, parameters.reference)
    none = trials[:0][*MEASURED, "stamp"]
    none["star"], none["before"], none["leads"] = np.zeros(0, int), np.zeros(0, bool), np.zeros(0, bool)
    parts = [(none[*MEASURED, "star", "before", "stamp"], none[*MEASURED, "star", "leads"])]
    for start in range(0, len(stars), _CHUNK):
        rows = order[start : start + _CHUNK]
        before, after = _patches(capture, dark, stars[rows], rng)
        parts.append(_leaders_near(rows, dark, before, after, floors, parameters))
    leaders, fainter = (vstack(list(tables), metadata_conflicts="silent") for tables in zip(*parts, strict=True))
    leaders = leaders[np.lexsort((-np.asarray(leaders["peak"]), leaders["before"], leaders["star"]))]
    stamps = np.asarray(leaders["stamp"], np.float32)
    leaders.remove_column("stamp")
    return Injections(trials, leaders, fainter, stamps).judged(parameters)


def _patches(capture, dark: DarkModel, stars: Table, rng: np.random.Generator) -> tuple[Patches, Patches]:
    """Cut the surroundings of stars, in the order of their frames, out of these; and put the stars in."""
    reach = np.arange(PATCH_SIZE) - PATCH_SIZE // 2
    rows, columns = np.broadcast_arrays(
        np.rint(stars["y_true"]).astype(int)[:, None, None] + reach[:, None],
        np.rint(stars["x_true"]).astype(int)[:, None, None] + reach,
    )
    where = np.clip(rows, 0, capture.shape[0] - 1), np.clip(columns, 0, capture.shape[1] - 1)
    parts = list(_by_frame(stars))
    raw = np.concatenate(
        [capture.frames[k].rows(0, capture.shape[0])[where[0][part], where[1][part]] for k, part in parts]
    )
    starred = add_stars(raw, stars, psf_of(capture.parameters), dark.scale, capture.parameters.top_code, rng)
    raw, starred = (
        np.concatenate([capture.correct(k, counts[part]) for k, part in parts]) for counts in (raw, starred)
    )
    noise = dark.sigma(raw, where, capture.parameters.reference)
    beyond = (rows != where[0]) | (columns != where[1])
    without, having = (
        np.where(beyond, np.nan, values) for values in _residuals(capture, dark, stars, where, raw, starred)
    )
    return Patches(rows, columns, raw, without, noise), Patches(rows, columns, starred, having, noise)


def _by_frame(stars: Table) -> Iterator[tuple[int, slice]]:
    frames, first = np.unique(stars["frame_number"], return_index=True)
    for k, start, stop in zip(frames.tolist(), first, [*first[1:], len(stars)], strict=True):
        yield k, slice(start, stop)


def _residuals(capture, dark, stars, where, raw, starred) -> tuple[np.ndarray, np.ndarray]:
    """Residuals in electrons of patches without and with their stars."""
    reference = capture.parameters.reference
    if reference == "leave_one_out":
        return dark.residual(raw, reference, where), dark.residual(starred, reference, where, own=raw)
    stack = np.stack([capture.rows(k, 0, capture.shape[0])[where] for k in range(len(capture.frames))])
    own = np.asarray(stars["frame_number"]), np.arange(len(stars))
    residuals = []
    for counts in (raw, starred):
        stack[own] = counts
        combined = _combine(stack, dark.reference.method)
        residuals.append(combined.residual(counts, reference, np.s_[:, :, :], dark.scale))
    return residuals[0], residuals[1]


def _combine(stack: np.ndarray, method) -> DarkReference:
    n = len(stack)
    if method == "average":
        return DarkReference(n, method, stack.sum(axis=0, dtype=np.uint32)[None])
    flat = middle_counts(stack.reshape(n, len(stack[0]), -1))
    return DarkReference(n, method, flat.reshape(-1, *stack.shape[1:]))


def _empty_trials(stars: Table, reference: str) -> Table:
    n = len(stars)
    trials = Table(masked=False)
    trials["frame"] = np.asarray(stars["frame"]).astype("U80")
    for name in LEADER_COLUMNS[1:]:
        trials[name] = MaskedColumn(np.zeros(n, type_of(name)), mask=np.ones(n, bool), unit=UNITS.get(name))
    trials["reference"] = MaskedColumn(np.full(n, reference, "U13"), mask=np.zeros(n, bool))
    for name, unit in (("x_true", "pix"), ("y_true", "pix"), ("flux_true", "electron"), ("fwhm_true", "pix")):
        trials[name] = Column(np.array(stars[name], float), unit=unit)
    for name in CRITERIA:
        trials[f"recovered_{name}"] = np.zeros(n, bool)
    trials["miss_reason"] = np.full(n, "", "U20")
    trials["stamp"] = np.full((n, 5, 5), np.nan, np.float32)
    return trials


def _leaders_near(rows, dark, before, after, floors, parameters) -> tuple[Table, Table]:
    """Measure the leaders around a chunk of stars: those above the floors, and what there is of stars without any."""
    # leaders below the peak floor too: they pass no cut, but tell why their star is missed
    found = detect_patches(dark, after, parameters.reference, Floors(-np.inf, floors.snr), parameters)
    there = detect_patches(dark, before, parameters.reference, floors, parameters)
    found["before"], there["before"] = False, True
    above = floors.keep(np.asarray(found["peak"]), np.ma.filled(found["snr"], np.nan))
    near = vstack([found[above], there], metadata_conflicts="silent")[*MEASURED, "star", "before", "stamp"]
    fainter = found[~np.isin(found["star"], found["star"][above])]
    fainter = fainter[_first_of_each(fainter["star"], -np.asarray(fainter["peak"]))][*MEASURED, "star"]
    fainter["leads"] = True
    without = np.setdiff1d(np.arange(len(rows)), found["star"])
    brightest = np.nanmax(after.residual[without, 2:5, 2:5], axis=(1, 2))
    pixels = Table({"star": without, "peak": brightest, "leads": np.zeros(len(without), bool)})
    fainter = vstack([fainter, pixels], metadata_conflicts="silent")
    for table in (near, fainter):
        table["star"] = rows[table["star"]]
    return near, fainter


def _first_of_each(star: np.ndarray, *order: np.ndarray) -> np.ndarray:
    """Return the row of each star that comes first, by these keys, the foremost first."""
    rows = np.lexsort((*order[::-1], star))
    return rows[np.flatnonzero(np.diff(np.asarray(star)[rows], prepend=-1))]
