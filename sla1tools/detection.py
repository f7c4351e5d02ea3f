"""Measure once: every leader of a frame, or around an injected star, down to low floors, as a table row.

Frames and injected stars go through the same functions, so that what is said of one holds for the other. A row is kept
if its peak is above the electron floor (the observers' rule needs it) or its matched filter above the floor in sigma
(the PSF criterion needs it): neither criterion loses leaders to the other's floor.
"""

from dataclasses import dataclass

import numpy as np
from astropy.table import MaskedColumn, Table, vstack

from sla1tools.cosmic import bright_pixels, cosmic_rays
from sla1tools.darks import DarkModel, Reference
from sla1tools.leaders import compare_neighbors, cut_stamps
from sla1tools.parameters import Parameters
from sla1tools.pixels import BLOCKING, PixelClass
from sla1tools.psf import MatchedFilter, fit_stamps, greatest_snr, pixel_integrated_gaussian

SNR_FLOOR = 4.0
PEAK_FLOOR = 120.0
NOISE_MARGIN = 0.75  # noise may favour the fitted place of a star over the middle of its pixel
GRID_MARGIN = 0.88  # what the nodes of a 0.2 px grid see of the best place between them
MOST_ROWS = 200_000

UNITS = {"x": "pix", "y": "pix", "x_fit": "pix", "y_fit": "pix"} | dict.fromkeys(
    ("peak", "neighbor_min", "flux"), "electron"
)
PSF_COLUMNS = ("snr", "flux", "x_fit", "y_fit", "chi2", "dof", "p_value", "best_rival")
LEADER_COLUMNS = ("frame", "x", "y", "reference", "peak", "neighbor_min", "neighbor_ratio", *PSF_COLUMNS, "dq")


@dataclass(frozen=True)
class Floors:
    """What a leader must exceed to be kept: `peak` in electrons, or `snr`. They are the sliders' minima."""

    peak: float
    snr: float

    @classmethod
    def of(cls, parameters: Parameters) -> "Floors":
        """Return the floors for these cuts: never above them."""
        return cls(min(parameters.threshold, PEAK_FLOOR), min(parameters.snr_min, SNR_FLOOR))

    def keep(self, peak: np.ndarray, snr: np.ndarray) -> np.ndarray:
        """Tell which rows stand above either floor; a NaN snr is above none."""
        return (peak > self.peak) | (snr > self.snr)


@dataclass(frozen=True)
class FirstLook:
    """The matched filter centred on every pixel, and the cut that loses no star above the floor.

    Attributes
    ----------
    usable : (ny, nx) bool array
        Pixels that may enter a fit.
    matched : MatchedFilter
        With the noise that a pixel's level suggests.
    share : float
        Response that a star in the corner of its pixel keeps, less a margin for noise.
    """

    usable: np.ndarray
    matched: MatchedFilter
    share: float

    @classmethod
    def of(cls, dark: DarkModel, reference: Reference, fwhm: float) -> "FirstLook":
        """Prepare the filter for all frames of a night."""
        usable = dark.classes.dq & BLOCKING == 0
        middle, corner = pixel_integrated_gaussian([0.0, 0.5], [0.0, 0.5], fwhm)
        kept = np.sum(middle * corner) / np.sqrt(np.sum(middle**2) * np.sum(corner**2))
        return cls(usable, MatchedFilter(dark.level_sigma(reference), usable, fwhm), NOISE_MARGIN * kept)


def detect(
    dark: DarkModel,
    first_look: FirstLook,
    frame: str,
    counts: np.ndarray,
    reference: Reference,
    floors: Floors,
    parameters: Parameters,
) -> Table:
    """Find and measure the leaders of one frame.

    Parameters
    ----------
    dark : DarkModel
        The night's reference, noise and pixel classes.
    first_look : FirstLook
        Of this night and reference.
    frame : str
        The frame's name, for its column.
    counts : (ny, nx) uint16 array
        The frame's raw counts.
    reference : {'leave_one_out', 'all'}
        What the frame is compared with.
    floors : Floors
        What a leader must exceed.
    parameters : Parameters
        For `neighbors`, `fwhm` and `top_code`.

    Returns
    -------
    leaders : Table
        `LEADER_COLUMNS` and `stamp`, (n, 5, 5) float32 electrons; PSF columns masked where snr is not above its floor.
    """
    numerator = dark.reference.residual(counts, reference)
    factor = dark.scale / dark.reference.denominator_of(reference)
    residual = numerator * np.float32(factor)
    above = numerator > np.floor(floors.peak / factor) - 1  # whole counts: the floor itself is applied to the rows
    y, x = np.nonzero(above | (first_look.matched(residual) > first_look.share * floors.snr))
    leads, neighbor_min = compare_neighbors(numerator, y, x, numerator[y, x], parameters.neighbors)
    y, x, neighbor_min = y[leads], x[leads], neighbor_min[leads]
    stamps = cut_stamps(numerator, y, x) * factor
    noise = dark.sigma(cut_stamps(counts, y, x, 0), _stamp_places(y, x, counts.shape), reference)
    columns = {
        "x": x,
        "y": y,
        "peak": numerator[y, x] * factor,
        "neighbor_min": neighbor_min * factor,
        "dq": dark.classes.dq[y, x],
    }
    valid = cut_stamps(first_look.usable, y, x, False)
    leaders = measured(columns, stamps, noise, valid, floors, parameters.fwhm)
    leaders["frame"], leaders["reference"] = frame, reference
    return leaders[*LEADER_COLUMNS, "stamp"]


def _stamp_places(y, x, shape):
    """Rows and columns of stamps, (n, 5, 5) each, cut to the frame: what lies beyond is masked by its caller."""
    reach = np.arange(-2, 3)
    rows = np.clip(y[:, None, None] + reach[:, None], 0, shape[0] - 1)
    columns = np.clip(x[:, None, None] + reach, 0, shape[1] - 1)
    return np.broadcast_arrays(rows, columns)


def measured(columns: dict, stamps, noise, valid, floors: Floors, fwhm: float) -> Table:
    """Fit the PSF to the bright leaders and keep those above either floor.

    Parameters
    ----------
    columns : dict
        `x`, `y`, `peak`, `neighbor_min`, `dq` and any further columns, (n,) arrays.
    stamps, noise, valid : (n, 5, 5) arrays
        As `psf.fit_stamps` takes them.
    floors : Floors
        What is kept.
    fwhm : float
        Of the PSF, pixels.
    """
    bright = greatest_snr(stamps, noise, valid, fwhm) > GRID_MARGIN * floors.snr
    fit = fit_stamps(stamps[bright], noise[bright], valid[bright], fwhm)
    snr = np.full(len(stamps), np.nan)
    snr[bright] = fit["snr"]
    kept = np.flatnonzero(floors.keep(columns["peak"], snr))
    fitted = snr[kept] > floors.snr
    source = (np.cumsum(bright) - 1)[kept[fitted]]
    table = Table({name: values[kept] for name, values in columns.items()})
    for name in ("x", "y"):
        table[name] = table[name].astype(np.int32)
    peak = np.asarray(table["peak"])
    table["neighbor_ratio"] = np.divide(table["neighbor_min"], peak, out=np.full(len(peak), np.nan), where=peak != 0)
    for name in PSF_COLUMNS:
        column = MaskedColumn(np.zeros(len(kept), _type_of(name)), name=name, mask=~fitted)
        column[fitted] = fit[name][source]
        table[name] = column
    table["x_fit"] += table["x"]
    table["y_fit"] += table["y"]
    table["dq"] = table["dq"].astype(np.int32)
    table["stamp"] = np.where(np.isfinite(stamps[kept]), stamps[kept], np.nan).astype(np.float32)
    for name, unit in UNITS.items():
        table[name].unit = unit
    return table


def _type_of(name: str):
    return {"dof": np.int32, "best_rival": "U12"}.get(name, np.float64)


def find_hits(dark: DarkModel, frame: str, counts: np.ndarray) -> Table:
    """Find the cosmic-ray-like hits of one frame, held out; see `cosmic.cosmic_rays`."""
    factor = dark.scale / dark.reference.denominator_of("leave_one_out")
    residual = dark.reference.residual(counts, "leave_one_out") * np.float32(factor)
    hits = cosmic_rays(bright_pixels(residual, dark.level_sigma("leave_one_out")), dark.classes.dq)
    hits["frame"] = np.full(len(hits), frame)
    return hits


def flag_hits(leaders: Table, hits: Table) -> None:
    """Set the COSMIC_RAY bit of the leaders that belong to a hit of the same frame."""
    if len(leaders) == 0 or len(hits) == 0:
        return
    away = np.hypot(*(np.asarray(leaders[axis])[:, None] - np.asarray(hits[axis]) for axis in ("x", "y")))
    leaders["dq"][(away <= np.maximum(np.asarray(hits["length"]), 2.0)).any(axis=1)] |= int(PixelClass.COSMIC_RAY)


def detect_night(night, dark: DarkModel) -> tuple[Table, Table, Floors]:
    """Measure every leader of every frame against both references.

    Parameters
    ----------
    night : Night
        The frames.
    dark : DarkModel
        From the same night.

    Returns
    -------
    leaders : Table
        In the order of references, frames, rows, columns.
    hits : Table
        Cosmic-ray-like hits of all frames (`cosmic.cosmic_rays` and `frame`).
    floors : Floors
        The floors that hold for all rows. Where more than `MOST_ROWS` rows stand above the usual floors, they are
        raised, but never above the configured cuts.
    """
    parameters = night.parameters
    floors = Floors.of(parameters)
    parts: dict[str, list[Table]] = {"leave_one_out": [], "all": []}
    hits = []
    looks = {reference: FirstLook.of(dark, reference, parameters.fwhm) for reference in parts}
    for k, name in enumerate(night.names):
        counts = night.rows(k, 0, night.shape[0])
        hits.append(find_hits(dark, name, counts))
        for reference, tables in parts.items():
            tables.append(detect(dark, looks[reference], name, counts, reference, floors, parameters))
            flag_hits(tables[-1], hits[-1])
        floors = _affordable(floors, [table for tables in parts.values() for table in tables], parameters)
        for tables in parts.values():
            tables[:] = [_above(table, floors) for table in tables]
    leaders = vstack([*parts["leave_one_out"], *parts["all"]], metadata_conflicts="silent")
    return leaders, vstack(hits, metadata_conflicts="silent"), floors


def _above(table: Table, floors: Floors) -> Table:
    kept = floors.keep(np.asarray(table["peak"]), np.ma.filled(table["snr"], np.nan))
    return table if kept.all() else table[kept]


def _affordable(floors: Floors, tables: list[Table], parameters: Parameters) -> Floors:
    """Raise the floors until the rows fit, by what the rows so far show."""
    peak = np.concatenate([np.asarray(table["peak"]) for table in tables])
    snr = np.concatenate([np.ma.filled(table["snr"], np.nan) for table in tables])
    while np.count_nonzero(floors.keep(peak, snr)) > MOST_ROWS:
        raised = Floors(min(parameters.threshold, floors.peak * 1.1), min(parameters.snr_min, floors.snr * 1.1))
        if raised == floors:
            break
        floors = raised
    return floors


def detect_patches(dark: DarkModel, patches: "Patches", reference: Reference, floors: Floors, parameters) -> Table:
    """Find and measure the leaders within one pixel of the middle of each patch, as `detect` does in a frame.

    Parameters
    ----------
    dark, reference, floors, parameters
        As for `detect`.
    patches : Patches
        7x7 surroundings of n pixels.

    Returns
    -------
    leaders : Table
        As from `detect`, and with `star`, the patch's index; it stands for the frame too, as each star is alone in its
        patch.
    """
    ny, nx = dark.classes.dq.shape
    inside = (patches.rows >= 0) & (patches.rows < ny) & (patches.columns >= 0) & (patches.columns < nx)
    places = (np.clip(patches.rows, 0, ny - 1), np.clip(patches.columns, 0, nx - 1))
    factor = dark.scale / dark.reference.denominator_of(reference)
    residual = np.where(inside, patches.numerator, np.nan)
    saturated = patches.counts >= parameters.top_code
    usable = inside & ~saturated & (dark.classes.dq[places] & BLOCKING == 0)
    sigma = dark.sigma(patches.original, places, reference)
    star, dy, dx, peak, neighbor_min = _patch_leaders(residual, parameters.neighbors)
    stamps = _inner_stamps(residual, star, dy, dx) * factor
    valid, noise = (_inner_stamps(values, star, dy, dx) for values in (usable, sigma))
    place = (star, 3 + dy, 3 + dx)
    dq = dark.classes.dq[places[0][place], places[1][place]] | np.where(saturated[place], PixelClass.SATURATED, 0)
    columns = {
        "star": star,
        "x": patches.columns[place],
        "y": patches.rows[place],
        "peak": peak * factor,
        "neighbor_min": neighbor_min * factor,
        "dq": dq,
    }
    leaders = measured(columns, stamps, noise, valid, floors, parameters.fwhm)
    leaders["frame"], leaders["reference"] = leaders["star"], reference
    return leaders


@dataclass(frozen=True)
class Patches:
    """7x7 surroundings of pixels in one frame, whole even at the edges.

    Attributes
    ----------
    rows, columns : (n, 7, 7) int arrays
        Where the pixels are; beyond the frame they are negative or too large.
    original, counts : (n, 7, 7) uint16 arrays
        Raw counts of the frame, and what is to be searched: the same, or with a star in it.
    numerator : (n, 7, 7) int array
        Residual of `counts`, as `DarkReference.residual` gives it.
    """

    rows: np.ndarray
    columns: np.ndarray
    original: np.ndarray
    counts: np.ndarray
    numerator: np.ndarray


def _patch_leaders(residual: np.ndarray, neighbors: int):
    """Leaders among the nine middle pixels of (n, 7, 7) patches; NaN beyond the frame."""
    found = []
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            around = residual[:, 2 + dy : 5 + dy, 2 + dx : 5 + dx]
            if neighbors == 4:
                around = np.where([[False, True, False], [True, True, True], [False, True, False]], around, np.nan)
            peak = around[:, 1, 1]
            others = np.delete(around.reshape(-1, 9), 4, axis=1)
            star = np.flatnonzero(~(others > peak[:, None]).any(axis=1) & np.isfinite(peak))
            lowest = np.fmin.reduce(others[star], axis=1, initial=np.inf)
            found.append(np.stack([star, np.full(len(star), dy), np.full(len(star), dx), peak[star], lowest]))
    star, dy, dx, peak, lowest = np.concatenate(found, axis=1)
    return star.astype(int), dy.astype(int), dx.astype(int), peak, lowest


def _inner_stamps(values: np.ndarray, star, dy, dx) -> np.ndarray:
    reach = np.arange(5)
    return values[star[:, None, None], 1 + dy[:, None, None] + reach[:, None], 1 + dx[:, None, None] + reach]
