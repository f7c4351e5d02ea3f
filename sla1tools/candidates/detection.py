"""Measure once: every leader of a frame, of every frame of a night, down to low floors, as a table row."""

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from astropy.table import Table, vstack
from scipy.spatial import cKDTree

from sla1tools.candidates.criteria import CRITERIA, candidates, criteria_of
from sla1tools.candidates.hits import cosmic_rays
from sla1tools.candidates.leaders import STAMP_RADIUS, cut_stamps, leading_pixels
from sla1tools.candidates.matched_filter import MatchedFilter, corner_share, greatest_snr, grid_share
from sla1tools.candidates.psf import PSF, psf_of
from sla1tools.candidates.rows import PSF_COLUMNS, Floors, measured
from sla1tools.darks.classes import BLOCKING, PixelClass
from sla1tools.darks.model import DarkModel
from sla1tools.darks.noise import residual_factor
from sla1tools.darks.reference import REFERENCES, Reference
from sla1tools.frames.pixels import pixels_at, places_where
from sla1tools.parameters import Parameters

NOISE_MARGIN = 0.9  # noise may favour the fitted place of a star over the middle of its pixel
MOST_SHARE = 0.76  # a wide star reaches beyond its stamp: its filter at the stamp's rim is not that of the next pixel
MOST_ROWS = 200_000
MOST_KEPT = 1_000_000  # rows of all frames and references: some 0.8 GB while they are summed up
MOST_IN_FRAME = 50_000  # leaders of one frame that are measured, or the frame's share of `MOST_KEPT`
LOOKED_AT_AGAIN = 4  # times as many: where a frame lies high the first look sees stars everywhere
BLIND = np.float32(1e6)  # electrons of noise that leave a pixel no weight


@dataclass(frozen=True)
class FirstLook:
    """The matched filter centred on every pixel, and the cut that loses no leader above the floor.

    Attributes
    ----------
    known : (n,) int array
        Flat indices of the listed pixels, which are looked at in any case: else none could be seen to have stopped, or
        to go on.
    matched : MatchedFilter
        With the noise that a pixel's level suggests.
    share : float
        Response that a star in the corner of its pixel keeps, less a margin for noise.

    Notes
    -----
    A fit may place its star up to a pixel away from the leader. So a leader is looked at if the filter responds on any
    of the nine pixels around it, which is where a star that near has its brightest response.
    """

    known: np.ndarray
    matched: MatchedFilter
    share: float

    @classmethod
    def of(cls, dark: DarkModel, reference: Reference, psf: PSF, sigma: np.ndarray | None = None) -> "FirstLook":
        """Prepare the filter for all frames of a night, or for one of another noise (`sigma`, electrons)."""
        usable = dark.classes.dq & BLOCKING == 0
        share = min(NOISE_MARGIN * corner_share(psf), MOST_SHARE)
        # a fit may place its star on a pixel that it leaves out: the filter looks there too, at what is around it
        noise = np.where(usable, dark.level_sigma(reference) if sigma is None else sigma, BLIND)
        known = np.flatnonzero(dark.classes.dq & PixelClass.KNOWN)
        return cls(known, MatchedFilter(noise, np.ones_like(usable), psf.fwhm), share)

    def over(self, dark: DarkModel, reference: Reference) -> "FirstLook":
        """Return the same look, of held-out residuals, for those over a reference with another share of the noise."""
        frames, method = dark.reference.frames, dark.reference.method
        louder = residual_factor(frames, method, reference) / residual_factor(frames, method)
        return replace(self, share=self.share * math.sqrt(louder))

    def near(self, residual: np.ndarray, snr_floor: float) -> np.ndarray:
        """Tell which pixels, or a neighbour of which, may belong to a fit above the floor, (ny, nx) bool."""
        (ny, nx), least = residual.shape, self.share * snr_floor
        bright = [np.flatnonzero(snr > least) + rows.start * nx for rows, snr in self.matched(residual)]
        y, x = np.divmod(np.concatenate(bright), nx)
        near = np.zeros(residual.shape, bool)
        near.flat[self.known] = True
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                near[np.clip(y + dy, 0, ny - 1), np.clip(x + dx, 0, nx - 1)] = True
        return near


def detect(
    dark: DarkModel,
    first_look: FirstLook,
    frame: str,
    counts: np.ndarray,
    residual: np.ndarray,
    reference: Reference,
    floors: Floors,
    parameters: Parameters,
    most: int = MOST_KEPT,
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
    residual : (ny, nx) float64 array
        Of them, in electrons (`DarkModel.residual`).
    reference : {'leave_one_out', 'all', 'outside'}
        What the frame is compared with.
    floors : Floors
        What a leader must exceed.
    parameters : Parameters
        For `neighbors`, `top_code` and the PSF.
    most : int
        Leaders that are measured: of more, those highest over their noise. They are counted before they are measured.

    Returns
    -------
    leaders : Table
        `LEADER_COLUMNS` and `stamp`, (n, 5, 5) float32 electrons; PSF columns masked where snr is not above its floor.
        Where more than `most` were found, `meta["found"]` is their number and `meta["counted"]` how many of them are
        candidates, by criterion, as far as that is known without a fit.
    """
    near = first_look.near(residual, floors.snr)
    asked = places_where(lambda rows: near[rows] | (residual[rows] > floors.peak), near.shape)
    y, x, neighbor_min = leading_pixels(residual, asked, parameters.neighbors)
    psf = psf_of(parameters)

    def around(y, x) -> tuple[np.ndarray, np.ndarray]:
        places = stamp_places(y, x, counts.shape)
        own = pixels_at(counts, places)
        valid = (cut_stamps(dark.classes.dq, y, x, BLOCKING) & BLOCKING == 0) & (own < parameters.top_code)
        return dark.sigma(own, places, reference), valid

    if most < len(y) <= LOOKED_AT_AGAIN * most:
        reach = greatest_snr(cut_stamps(residual, y, x), *around(y, x), psf) > grid_share(psf) * floors.snr
        kept = np.flatnonzero(reach | (residual[y, x] > floors.peak))
        y, x, neighbor_min = y[kept], x[kept], neighbor_min[kept]
    found = len(y)
    plain = {
        "peak": residual[y, x],
        "neighbor_min": neighbor_min,
        "dq": dark.classes.dq[y, x] | np.where(counts[y, x] >= parameters.top_code, PixelClass.SATURATED, 0),
    }
    told = {}
    if found > most:
        told = {"found": found, "counted": _count_plain(plain, parameters)}
        height = plain["peak"] / dark.level_sigma(reference)[y, x]
        best = np.sort(np.argpartition(-height, most)[:most])
        y, x, plain = y[best], x[best], {name: values[best] for name, values in plain.items()}
    promising = np.flatnonzero(near[y, x])
    columns = {
        "frame": np.full(len(x), frame),
        "x": x,
        "y": y,
        "reference": np.full(len(x), reference),
        **plain,
    }
    noise, valid = around(y[promising], x[promising])
    leaders = measured(columns, cut_stamps(residual, y, x), promising, noise, valid, floors, psf)
    leaders.meta.update(told)
    return leaders


def _count_plain(rows: dict, parameters: Parameters) -> dict[str, int]:
    """Count the candidates of each criterion that needs none but these columns."""
    return {
        name: int(np.count_nonzero(criterion.passes(rows, criterion.configured(parameters))))
        for name, criterion in criteria_of(parameters).items()
        if criterion.best is None and {term.column for term in criterion.terms} <= rows.keys()
    }


def _count(table: Table, parameters: Parameters) -> dict[str, int]:
    """Count a frame's candidates by criterion: as counted before rows were left out, else those among its rows."""
    counted = table.meta.get("counted", {})
    own = {name: int(np.count_nonzero(candidates(table, parameters, name))) for name in CRITERIA.keys() - counted}
    return own | counted


def stamp_places(y, x, shape):
    """Rows (n, 5, 1) and columns (n, 1, 5) of stamps, cut to the frame: what lies beyond is masked by its caller."""
    reach = np.arange(-STAMP_RADIUS, STAMP_RADIUS + 1)
    rows = np.clip(y[:, None, None] + reach[:, None], 0, shape[0] - 1)
    columns = np.clip(x[:, None, None] + reach, 0, shape[1] - 1)
    return rows, columns


def find_hits(dark: DarkModel, frame: str, residual: np.ndarray, reference: Reference) -> Table:
    """Find the cosmic-ray-like hits of one frame over the noise that its level suggests; see `hits.cosmic_rays`."""
    hits = cosmic_rays(residual, partial(dark.level_sigma, reference), dark.classes.dq)
    hits["frame"] = np.full(len(hits), frame)
    return hits


def flag_hits(leaders: Table, hits: Table) -> None:
    """Set the COSMIC_RAY bit of the leaders that belong to a hit of the same frame."""
    if len(leaders) == 0 or len(hits) == 0:
        return
    places, struck = (np.column_stack([table["x"], table["y"]]) for table in (leaders, hits))
    reach = np.maximum(np.asarray(hits["length"]), 2.0) * (1 + 1e-12)  # a leader as far as the reach belongs to it
    near = np.concatenate(cKDTree(places).query_ball_point(struck, reach)).astype(int)
    leaders["dq"][near] |= int(PixelClass.COSMIC_RAY)


def detect_night(capture, dark: DarkModel) -> tuple[Table, Table, Floors]:
    """Measure every leader of every frame against both references.

    Parameters
    ----------
    capture : Capture
        The frames.
    dark : DarkModel
        From the same night.

    Returns
    -------
    leaders : Table
        In the order of references, frames, rows, columns.
    hits : Table
        Cosmic-ray-like hits of all frames (`hits.cosmic_rays` and `frame`).
    floors : Floors
        The floors that hold for all rows. Where more than `MOST_ROWS` rows stand above the usual floors, they are
        raised, but never above the configured cuts. Where more than `MOST_KEPT` stand above those, or more than a
        frame's share of them in one frame, the highest over their noise are kept, `left_out` are the others, and
        ``leaders.meta["counted"]`` the candidates of each frame by criterion, by reference; of a criterion that needs a
        fit, at least so many.
    """
    parameters = capture.parameters
    floors, share = Floors.of(parameters, dark.median_noise), MOST_KEPT // (2 * len(capture.names))
    most = max(MOST_IN_FRAME, share)
    parts: dict[Reference, list[Table]] = {reference: [] for reference in REFERENCES}
    hits = []
    look = FirstLook.of(dark, "leave_one_out", psf_of(parameters))
    for k in range(len(capture.names)):
        before = floors
        struck, found, floors = _measure_frame(capture, dark, look, k, floors, most)
        hits.append(struck)
        for tables, table in zip(parts.values(), found, strict=True):
            tables.append(table)
        floors = _affordable(floors, [table for tables in parts.values() for table in tables], parameters)
        if floors != before:
            for tables in parts.values():
                tables[:] = [_above(table, floors) for table in tables]
        if sum(len(table) for tables in parts.values() for table in tables) > MOST_KEPT:
            for tables in parts.values():
                tables[:] = [_highest(table, share, parameters) for table in tables]
    del look  # before the tables are copied
    every = [*parts["leave_one_out"], *parts["all"]]
    leaders = vstack(every, metadata_conflicts="silent")
    leaders.meta.clear()
    led = sum(table.meta.get("found", len(table)) for table in every)
    if led > len(leaders):
        floors = replace(floors, left_out=led - len(leaders))
        leaders.meta["counted"] = {
            reference: [_count(table, parameters) for table in tables] for reference, tables in parts.items()
        }
    return leaders, vstack(hits, metadata_conflicts="silent"), floors


def _measure_frame(capture, dark, look, k: int, floors: Floors, most: int) -> tuple[Table, list[Table], Floors]:
    """Find a frame's hits and measure its leaders over each reference, above higher floors where over `most` lead."""
    name, counts, parameters = capture.names[k], capture.rows(k, 0, capture.shape[0]), capture.parameters
    tables = []
    for reference in REFERENCES:
        residual = dark.residual(counts, reference)
        if reference == "leave_one_out":
            hits = find_hits(dark, name, residual, reference)
        found = (dark, look.over(dark, reference), name, counts, residual, reference)
        table = detect(*found, floors, parameters, most)
        while "found" in table.meta and floors != floors.raised(1.5, parameters):
            floors = floors.raised(1.5, parameters)
            table = detect(*found, floors, parameters, most)
        flag_hits(table, hits)
        tables.append(table)
        del residual, found  # before the next is made
    return hits, tables, floors


def _above(table: Table, floors: Floors) -> Table:
    snr = np.ma.filled(table["snr"], np.nan)
    kept = floors.keep(np.asarray(table["peak"]), snr)
    table = table if kept.all() else table[kept]
    for name in PSF_COLUMNS:
        table[name].mask |= ~(snr[kept] > floors.snr)
    return table


def _highest(table: Table, most: int, parameters: Parameters) -> Table:
    """Keep the rows of the highest peaks, in order, and how many leaders and candidates there were."""
    if len(table) <= most:
        return table
    best = np.sort(np.argpartition(-np.asarray(table["peak"]), most)[:most])
    kept = table[best]
    kept.meta |= {"found": table.meta.get("found", len(table)), "counted": _count(table, parameters)}
    return kept


def _affordable(floors: Floors, tables: list[Table], parameters: Parameters) -> Floors:
    """Raise the floors until the rows fit, by what the rows so far show."""
    if sum(map(len, tables)) <= MOST_ROWS:
        return floors
    peak = np.concatenate([np.asarray(table["peak"]) for table in tables])
    snr = np.concatenate([np.ma.filled(table["snr"], np.nan) for table in tables])
    while np.count_nonzero(floors.keep(peak, snr)) > MOST_ROWS and floors != floors.raised(1.1, parameters):
        floors = floors.raised(1.1, parameters)
    return floors
