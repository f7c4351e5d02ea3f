"""What notebook 01 shows of the darks: small tables and samples of a measured night."""

import numpy as np
from astropy.table import Table
from IPython.display import HTML
from scipy import ndimage, special

from sla1tools.candidates.psf import psf_of
from sla1tools.darks import structure
from sla1tools.darks.classes import MEANINGS, PixelClass, name_of
from sla1tools.frames.capture import judged_files
from sla1tools.measure import Measurement
from sla1tools.show.night_page import grouped_files
from sla1tools.show.tables import shown
from sla1tools.simulate.night import TRUTH_NAME
from sla1tools.simulate.scores import truth_scores as score_classes

CALIBRATED_PIXELS = 1_000_000


def verdicts(capture) -> HTML:
    """Every file of the capture folder and its verdict; those of which the same is said share a row."""
    rows = [(", ".join(r["names"]), r["verdict"], r["detail"]) for r in grouped_files(judged_files(capture))]
    return shown(Table(rows=rows or None, names=("files", "verdict", "remark"), dtype=[str] * 3))


def scales(night: Measurement) -> HTML:
    """Show what a raw count may be worth, and what the threshold and the level then are in electrons."""
    parameters, transfer = night.parameters, night.dark.noise_model.photon_transfer
    gain, padding = parameters.scale_due_to_gain, parameters.scale_due_to_padding
    values = {f"as configured: {gain:g} / {padding:g}": (parameters.scale, "")}
    if padding != 1:
        values[f"the configured gain without padding: {gain:g}"] = gain, ""
    if transfer.can_tell:
        name = "as photon transfer measures it, below" + ", if the level is dark signal" * (not transfer.dark_signal)
        values[name] = transfer.gain, f" ± {transfer.gain_error:.4f}"
    rows = []
    for name, (scale, error) in values.items():
        electrons = np.array([parameters.threshold, night.summary["dark"]["level"]]) * scale / parameters.scale
        rows.append((name, f"{scale:.4f}{error}", *(f"{value:,.0f} e-" for value in electrons)))
    counts = f"the threshold of {parameters.threshold:g} e-, {parameters.threshold / parameters.scale:.0f} counts, is"
    return shown(Table(rows=rows, names=("if a count is worth", "e- per count", counts, "the median level is")))


def calibration(night: Measurement) -> tuple[Table, np.ndarray]:
    """Width of held-out residuals over their noise, by dark level, over all frames.

    Returns
    -------
    widths : Table
        `level` (electrons), `pixels` of all frames, `std`, `mad` (1.4826 times the median absolute deviation); ten
        groups of equal size of unflagged pixels.
    scaled : (N, n) array
        Residual over noise of those pixels in each frame.

    Notes
    -----
    Some whole rows of every frame, about a million pixels in all. Pixels are grouped by their neighbours' level, for
    their own holds their own noise. Codes of coarse steps would let the median jump from step to step: residuals are
    dithered by a step, and their noise is given that much more.
    """
    frames, (ny, nx) = night.capture.frames, night.capture.shape
    rows = slice(None, None, max(1, ny * nx * len(frames) // CALIBRATED_PIXELS))
    good, around = (night.dark.classes.dq == 0)[rows], _neighbor_level(night.dark.reference.master[rows])
    rng, step, level = np.random.default_rng(0), night.audit.step * night.dark.scale, around[good]
    parts = []
    for frame in frames:
        counts, where = frame.rows(0, ny)[rows], np.s_[rows, :]
        residual = night.dark.residual(counts, "leave_one_out", where) + step * rng.uniform(-0.5, 0.5, counts.shape)
        sigma = np.hypot(night.dark.sigma(counts, where, "leave_one_out"), step / np.sqrt(12))
        parts.append((residual / sigma)[good])
    scaled, table = np.stack(parts), []
    for group in np.array_split(np.argsort(level, kind="stable"), 10):
        values = scaled[:, group]
        if values.size:
            mad = 1.4826 * np.median(np.abs(values - np.median(values)))
            middle = float(np.median(level[group])) * night.dark.scale
            table.append((middle, values.size, float(values.std()), float(mad)))
    return Table(rows=table or None, names=("level", "pixels", "std", "mad"), dtype=[float, int, float, float]), scaled


def _neighbor_level(level: np.ndarray) -> np.ndarray:
    """Median of the two pixels to the left and the two to the right, rows continued by their ends."""
    wide = np.pad(level, ((0, 0), (2, 2)), mode="edge")
    return np.median([wide[:, k : k + level.shape[1]] for k in (0, 1, 3, 4)], axis=0)


def gaussian_shares(scaled: np.ndarray) -> HTML:
    """Show how many residuals lie beyond 3 and 4 sigma of their noise, on either side, and how many would by chance."""
    finite = scaled[np.isfinite(scaled)]
    rows = [
        (f"{cut} sigma", int(np.count_nonzero(np.abs(finite) > cut)), f"{finite.size * 2 * special.ndtr(-cut):.0f}")
        for cut in (3, 4)
    ]
    return shown(Table(rows=rows, names=("beyond", "pixels", "by chance")))


def drift(night: Measurement) -> Table:
    """Level, noise (electrons), minutes since the first and temperature (Celsius) of each frame; NaN where unknown."""
    ny = night.capture.shape[0]
    some = slice(None, None, max(1, ny // 128))
    sample = np.stack([frame.rows(0, ny)[some].ravel() for frame in night.capture.frames])
    master = night.dark.reference.master[some].ravel()
    table = structure.frame_drift(sample, master)
    electrons = {name: np.asarray(table[name]) * night.dark.scale for name in table.colnames[1:]}
    times = {
        "minutes": _minutes([frame.start for frame in night.capture.frames]),
        "temperature": [np.nan if f.temperature is None else f.temperature for f in night.capture.frames],
    }
    units = dict.fromkeys(electrons, "electron") | {"temperature": "deg_C"}
    return Table({"frame": night.capture.names} | electrons | times, units=units)


def _minutes(starts) -> list[float]:
    known = [start for start in starts if start]
    return [(start - min(known)).total_seconds() / 60 if start else np.nan for start in starts]


def trends(drift: Table) -> HTML:
    """Slope of level and noise with frame number, time and temperature, with 1 sigma; 'not tested' without range."""
    against = {"frame": np.arange(len(drift)), "minute": drift["minutes"], "degree Celsius": drift["temperature"]}
    rows = []
    for quantity in ("level", "noise"):
        slopes = [structure.trend(x, drift["offset" if quantity == "level" else quantity]) for x in against.values()]
        told = [f"{s.slope:+.3f} ± {s.error:.3f}" if np.isfinite(s.slope) else "not tested" for s in slopes]
        rows.append((f"{quantity} [e-]", *told))
    return shown(Table(rows=rows, names=("slope of", *(f"per {name}" for name in against))))


def deviations(night: Measurement):
    """Histogram of each pixel's level above the smooth level around it, in electrons, for `curves.deviations`."""
    master = night.dark.master
    return structure.deviation_histogram(master - structure.smooth_level(master))


def classes(night: Measurement) -> HTML:
    """Show the pixel classes: how many pixels, how many by chance, and what the class means."""
    told = night.dark.classes
    rows = []
    for flag, meaning in MEANINGS.items():
        name = name_of(flag)
        if name not in told.counts:
            continue
        count = f"{told.counts[name]:,}" if told.tested.get(name, True) else "not tested"
        by_chance = f"{told.expected_false[name]:.2g}" if name in told.expected_false else ""
        power = f"{told.power[name]:.0%}" if name in told.power else ""
        rows.append((name, int(flag), count, by_chance, power, meaning))
    return shown(Table(rows=rows, names=("class", "bit", "pixels", "by chance", "power", "meaning")))


def drawn_classes() -> dict[str, int]:
    """Name and bit of the classes worth a map."""
    left_out = (PixelClass.EDGE, PixelClass.COSMIC_RAY)
    return {name_of(flag): int(flag) for flag in MEANINGS if flag not in left_out}


def truth_scores(night: Measurement) -> HTML:
    """On a simulated night, how many of the true bad pixels were found and how many flags are right."""
    path = night.parameters.capture_directory / TRUTH_NAME
    if not path.is_file():
        return HTML(
            "<p>A real night: there is no truth to compare with. Simulated nights print precision and recall here.</p>"
        )
    scores = score_classes(night.dark.classes.dq, Table.read(path, format="ascii.fast_basic"))
    for name in ("recall", "precision"):
        scores[name].info.format = ".2f"
    return shown(scores)


def hits_per_frame(night: Measurement) -> dict[str, np.ndarray]:
    """Particle hits of each frame, all and tracks alone, in file order."""
    tracks = night.hits[np.asarray(night.hits["track"], bool)]
    return {"all hits": night.per_frame(night.hits), "tracks": night.per_frame(tracks)}


def lacosmic(night: Measurement, k: int = 0, side: int = 256) -> HTML:
    """Run L.A.Cosmic (van Dokkum 2001, PASP 113, 1420) on the middle of a frame's residual, bare and with stars.

    The stars, 5000 e- of the night's PSF, lie on a grid of 32 px; one counts as flagged if any of the 3x3 pixels at
    its place is. One iteration at its default 4.5 sigma: it informs and decides nothing.
    """
    from ccdproc import cosmicray_lacosmic

    y0, x0 = (max(0, (size - side) // 2) for size in night.capture.shape)
    middle = night.residual(k, "leave_one_out")[y0 : y0 + side, x0 : x0 + side].astype(np.float32)
    noise = night.summary["dark"]["noise"]
    places = [(y, x) for y in range(16, middle.shape[0] - 16, 32) for x in range(16, middle.shape[1] - 16, 32)]
    starred = middle.copy()
    star = 5000 * psf_of(night.parameters).images(np.array([0.2]), np.array([-0.3]))[0, 0]
    for y, x in places:
        starred[y - 2 : y + 3, x - 2 : x + 3] += star
    bare, full = (
        cosmicray_lacosmic(image, gain=1.0, readnoise=noise, niter=1, gain_apply=False)[1].astype(bool)
        for image in (middle, starred)
    )
    hits = night.hits[np.asarray(night.hits["frame"]) == night.capture.names[k]]
    inside = (np.asarray(hits["y"]) - y0 >= 0) & (np.asarray(hits["y"]) - y0 < side)
    inside &= (np.asarray(hits["x"]) - x0 >= 0) & (np.asarray(hits["x"]) - x0 < side)
    flagged = sum(full[y - 1 : y + 2, x - 1 : x + 2].any() for y, x in places)
    row = (ndimage.label(bare, np.ones((3, 3)))[1], int(inside.sum()), len(places), int(flagged))
    names = ("groups that L.A.Cosmic flags", "hits found here", "stars of 5000 e- put in", "of them flagged")
    return shown(Table(rows=[row], names=names))


def nonuniformity(night: Measurement) -> HTML:
    """Dark signal nonuniformity in electrons, split as EMVA 1288 does, with the glow and without.

    Bad columns and rows are left out: the noise of one would be more than the pattern of all the others.
    """
    dark, scale = night.dark, night.dark.scale
    usable = dark.classes.dq & (PixelClass.METADATA | PixelClass.SATURATED | PixelClass.COLUMN_ROW) == 0
    rows = []
    for told, level in (("as it is", dark.mean), ("without the glow", dark.mean - structure.smooth_level(dark.mean))):
        split = structure.spatial_variances(level, dark.variance, len(night.capture.frames), usable)
        sigma = [np.sqrt(max(getattr(split, name), 0.0)) * scale for name in ("total", "row", "column", "pixel")]
        rows.append((told, *(f"{value:.2f}" for value in sigma)))
    return shown(Table(rows=rows, names=("DSNU [e-]", "total", "rows", "columns", "pixels")))


def line_profiles(night: Measurement) -> tuple[np.ndarray, np.ndarray]:
    """Row and column medians of the master dark, in electrons."""
    master = np.rint(night.dark.reference.master).astype(np.uint16)
    return structure.line_medians(master, 1) * night.dark.scale, structure.line_medians(master, 0) * night.dark.scale
