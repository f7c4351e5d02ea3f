"""A leader as a row of the table: its columns, the floors above which it is kept, and the measuring of its stamp.

Frames and injected stars go through the same functions, so that what is said of one holds for the other. A row is kept
if its peak is above the electron floor (the observers' rule needs it) or its matched filter above the floor in sigma
(the PSF criterion needs it): no criterion loses leaders to another's floor.
"""

from dataclasses import dataclass

import numpy as np
from astropy.table import MaskedColumn, Table

from sla1tools.candidates.criteria import CRITERIA, CUTS
from sla1tools.candidates.fit import fit_stamps
from sla1tools.candidates.leaders import STAMP_RADIUS, cut_stamps, leading_pixels
from sla1tools.candidates.matched_filter import greatest_snr, grid_share
from sla1tools.candidates.psf import PSF, psf_of
from sla1tools.candidates.shapes import rival_templates
from sla1tools.darks.classes import BLOCKING, PixelClass
from sla1tools.darks.model import DarkModel
from sla1tools.darks.reference import Reference
from sla1tools.errors import ParametersError
from sla1tools.parameters import Parameters

SNR_FLOOR = 4.0
PEAK_FLOOR = 3.0  # times the night's median noise
FLOORED = ("peak", "snr")  # a leader is kept if either column is above its floor
PATCH_SIZE = 7  # whose middle 3x3 pixels have whole stamps

# name: (type in files, unit, what it is)
FILE_COLUMNS: dict[str, tuple[str, str | None, str]] = {
    "frame": ("U", None, "file name"),
    "time": ("U", None, "start of the exposure, UTC; empty where unknown"),
    "x": ("i2", "pix", "column, 0-based"),
    "y": ("i2", "pix", "row, 0-based"),
    "reference": ("U", None, "what was subtracted: the other frames, or all"),
    "peak": ("f8", "electron", "residual of the pixel"),
    "neighbor_min": ("f8", "electron", "lowest neighbour"),
    "neighbor_ratio": ("f4", None, "neighbor_min / peak"),
    "snr": ("f4", None, "matched filter"),
    "flux": ("f4", "electron", "fitted PSF"),
    "x_fit": ("f4", "pix", "fitted column"),
    "y_fit": ("f4", "pix", "fitted row"),
    "chi2": ("f4", None, "PSF and background against the stamp"),
    "dof": ("i2", None, "degrees of freedom"),
    "p_value": ("f4", None, "chance of a larger chi2"),
    "best_rival": ("U", None, "shape other than a star that fits best"),
    "rival_margin": ("f4", None, "chi2 of the star less that of best_rival"),
    "dq": ("i2", None, "bit planes, as in master_dark.fits"),
}
UNITS = {name: unit for name, (_, unit, _) in FILE_COLUMNS.items() if unit}
PSF_COLUMNS = ("snr", "flux", "x_fit", "y_fit", "chi2", "dof", "p_value", "best_rival", "rival_margin")
PSF_FLOATS = [name for name in PSF_COLUMNS if name not in ("dof", "best_rival")]
LEADER_COLUMNS = tuple(name for name in FILE_COLUMNS if name != "time")  # in memory a frame has it


@dataclass(frozen=True)
class Floors:
    """What a leader must exceed to be kept: `peak` in electrons, or `snr`. They are the sliders' minima.

    `left_out` leaders above them were counted and not measured: none in a night of darks.
    """

    peak: float
    snr: float
    left_out: int = 0

    @classmethod
    def highest(cls, parameters: Parameters) -> "Floors":
        """Return the lowest configured cut at each floor: floors above it would lose candidates."""
        return cls(
            *(min(getattr(parameters, cut.name) for cut in CUTS.values() if cut.floor == end) for end in FLOORED)
        )

    @classmethod
    def of(cls, parameters: Parameters, noise: float) -> "Floors":
        """Return the floors for these cuts, never above them, and a residual of this median noise in electrons."""
        highest = cls.highest(parameters)
        return cls(min(highest.peak, PEAK_FLOOR * noise), min(highest.snr, SNR_FLOOR))

    def raised(self, times: float, parameters: Parameters) -> "Floors":
        """Return floors so many times higher, but not above the configured cuts."""
        highest = Floors.highest(parameters)
        return Floors(min(highest.peak, self.peak * times), min(highest.snr, self.snr * times))

    def refuse_below(self, parameters: Parameters) -> None:
        """Raise `ParametersError` where a configured cut lies below its floor: leaders would be missing."""
        for cut in CRITERIA[parameters.criterion].cuts:
            value = getattr(parameters, cut.name)
            if cut.floor and value < getattr(self, cut.floor):
                raise ParametersError(
                    f"{cut.name} {value:g} lies below the night's floor of {getattr(self, cut.floor):g}: leaders were "
                    f"measured above it only; open the night with {cut.name}={value:g} to measure it that deep"
                )

    def keep(self, peak: np.ndarray, snr: np.ndarray) -> np.ndarray:
        """Tell which rows stand above either floor; a NaN snr is above none."""
        return (peak > self.peak) | (snr > self.snr)


def measured(columns: dict, stamps, promising, noise, valid, floors: Floors, psf: PSF) -> Table:
    """Fit the PSF to the bright leaders and keep those above either floor.

    Parameters
    ----------
    columns : dict
        `frame`, `x`, `y`, `reference`, `peak`, `neighbor_min`, `dq` and any further columns, (n,) arrays.
    stamps : (n, 5, 5) array
        Residuals in electrons.
    promising : (m,) int array
        Which leaders may reach the floor in snr; no others are fitted.
    noise, valid : (m, 5, 5) arrays
        Of these leaders, as `fit.fit_stamps` takes them. A leader that nothing flags but the list of known pixels is
        fitted with its own pixel all the same: whether it would be a candidate tells whether it is rightly listed.
    floors : Floors
        What is kept.
    psf : PSF
        The star's image.
    """
    valid[:, STAMP_RADIUS, STAMP_RADIUS] |= columns["dq"][promising] & BLOCKING == PixelClass.KNOWN
    bright = greatest_snr(stamps[promising], noise, valid, psf) > grid_share(psf) * floors.snr
    promising = promising[bright]
    places = columns["x"][promising], columns["y"][promising]
    fit = fit_stamps(stamps[promising], noise[bright], valid[bright], psf, rival_templates(), places)
    row_of_fit = np.full(len(stamps), -1)
    row_of_fit[promising] = np.arange(len(promising))
    snr = np.full(len(stamps), np.nan)
    snr[promising] = fit["snr"]
    kept = np.flatnonzero(floors.keep(columns["peak"], snr))
    fitted = snr[kept] > floors.snr
    source = row_of_fit[kept[fitted]]
    rows = {name: np.asarray(values)[kept] for name, values in columns.items()}
    rows |= {name: rows[name].astype(np.int32) for name in ("x", "y", "dq")}
    peak = rows["peak"]
    ratio = np.divide(rows["neighbor_min"], peak, out=np.full(len(peak), np.nan), where=peak != 0)
    for name in PSF_COLUMNS:
        values, own = np.zeros(len(kept), type_of(name)), np.asarray(fit[name])[source]
        if name in ("x_fit", "y_fit"):
            own = own + rows[name[0]][fitted]
        if name in PSF_FLOATS:
            own = own.astype(np.float32)  # as leaders.fits keeps them: read back they are the same
        values[fitted] = own
        rows[name] = MaskedColumn(values, mask=~fitted, copy=False)
    rows |= {
        "neighbor_ratio": ratio,
        "stamp": np.where(np.isfinite(stamps[kept]), stamps[kept], np.nan),
    }
    rows["stamp"] = rows["stamp"].astype(np.float32)
    order = dict.fromkeys((*LEADER_COLUMNS, *rows))
    return Table({name: rows[name] for name in order}, units=UNITS, copy=False)


def type_of(name: str):
    """Return a measured column's type in memory."""
    return {"i2": np.int32, "U": "U12"}.get(FILE_COLUMNS[name][0], np.float64)


@dataclass(frozen=True)
class Patches:
    """7x7 surroundings of pixels, of any frames, whole even at the edges.

    Attributes
    ----------
    rows, columns : (n, 7, 7) int arrays
        Where the pixels are; beyond the frame they are negative or too large.
    counts : (n, 7, 7) uint16 array
        Counts to be searched: the frame's, or with a star in it.
    residual : (n, 7, 7) float64 array
        Of `counts`, in electrons; NaN beyond the frame.
    noise : (n, 7, 7) array
        1-sigma of the residual in electrons, of the frame without a star.
    """

    rows: np.ndarray
    columns: np.ndarray
    counts: np.ndarray
    residual: np.ndarray
    noise: np.ndarray


def detect_patches(dark: DarkModel, patches: Patches, reference: Reference, floors: Floors, parameters) -> Table:
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
    dq = dark.classes.dq[np.clip(patches.rows, 0, ny - 1), np.clip(patches.columns, 0, nx - 1)]
    dq = dq | np.where(patches.counts >= parameters.top_code, PixelClass.SATURATED, 0)
    usable = np.isfinite(patches.residual) & (dq & BLOCKING == 0)
    middle = np.zeros(dq.shape, bool)
    middle[:, 2:5, 2:5] = True
    # One below the other the patches are a frame. They do not mix: the stamps of their middle pixels end where they do.
    residual, noise, usable, middle = (
        values.reshape(-1, PATCH_SIZE) for values in (patches.residual, patches.noise, usable, middle)
    )
    y, x, neighbor_min = leading_pixels(residual, np.flatnonzero(middle), parameters.neighbors)
    star = y // PATCH_SIZE
    place = (star, y % PATCH_SIZE, x)
    columns = {
        "star": star,
        "frame": star,
        "reference": np.full(len(star), reference),
        "x": patches.columns[place],
        "y": patches.rows[place],
        "peak": residual[y, x],
        "neighbor_min": neighbor_min,
        "dq": dq[place],
    }
    stamps, noise, valid = cut_stamps(residual, y, x), cut_stamps(noise, y, x), cut_stamps(usable, y, x, False)
    return measured(columns, stamps, np.arange(len(star)), noise, valid, floors, psf_of(parameters))
