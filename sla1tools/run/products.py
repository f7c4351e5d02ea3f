"""The files of a measured night: maps, tables, regions, summary and manifest.

Everything but the manifest is a function of the raw frames and the parameters: written again, it is the same to the
byte. Texts that come from file names or headers are made printable first.
"""

import importlib.metadata
import io
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Table
from astropy.time import Time

from sla1tools.candidates.criteria import CRITERIA
from sla1tools.candidates.rows import FILE_COLUMNS
from sla1tools.darks.classes import BLOCKING, PixelClass, name_of
from sla1tools.darks.model import DarkModel
from sla1tools.frames.capture import Capture
from sla1tools.frames.codes import positive
from sla1tools.frames.fits import Stored
from sla1tools.measure import Measurement
from sla1tools.nights.gallery import write_gallery
from sla1tools.published import TELEGRAPH
from sla1tools.published.formats import ARCHIVE, GALLERY, STAMPS, Stamps, to_half, write_archive
from sla1tools.text import json_text, printable

TRIAL_COLUMNS = FILE_COLUMNS | {
    "x_true": ("f8", "pix", "injected column"),
    "y_true": ("f8", "pix", "injected row"),
    "flux_true": ("f8", "electron", "injected flux"),
    "fwhm_true": ("f8", "pix", "injected full width at half maximum"),
    **{f"recovered_{name}": ("?", None, "a new candidate within 1 px") for name in CRITERIA},
    "miss_reason": ("U", None, "why the configured criterion missed it"),
}
SUMMARY_KEYS = (
    *("night", "verdict", "reasons", "notes", "floors", "frames", "counts", "dark", "pixels"),
    *("candidates", "false_alarms_per_frame", "completeness", "operating_point"),
)
PRODUCTS = (
    *("master_dark.fits", "leaders.fits", "candidates.ecsv", "candidates.reg", "injections.fits", "settings.npy"),
    *(TELEGRAPH, "summary.json", ARCHIVE, STAMPS, GALLERY),
)
ROUNDED = 8  # parts of a frame's noise in which the mean and the scatter of a pixel are kept
TILE = 32  # rows of whole numbers that are packed together: floats are larger and slower to pack so
NULL = -1  # of masked integers, which are all places, counts or bit planes
REGION_RADIUS = 4  # pixels


def fixed_columns(table: Table, columns: Mapping[str, tuple[str, str | None, str]]) -> Table:
    """Return the table's columns in fixed order with fixed types, units and descriptions; others are left out.

    Raises
    ------
    KeyError
        If a column is missing.
    """
    fixed = Table()
    for name, (kind, unit, description) in columns.items():
        values, mask = np.ma.getdata(table[name]), np.ma.getmaskarray(table[name])
        if kind == "U":
            texts = _translated(np.where(mask, "", values), printable)
            fixed[name] = Column(texts, dtype=f"U{_longest(texts)}", description=description)
        elif mask.any():
            null = NULL if kind == "i2" else np.nan
            fixed[name] = MaskedColumn(values, name, mask, null, kind, unit=unit, description=description)
        else:
            fixed[name] = Column(values, dtype=kind, unit=unit, description=description)
    return fixed


def _translated(texts: np.ndarray, change: Callable[[str], Any]) -> list:
    """Change each different text once: a table has few of them, in very many rows."""
    rows = texts.tolist()
    changed = {text: change(text) for text in set(rows)}
    return [changed[text] for text in rows]


def _longest(texts: list) -> int:
    return max(map(len, texts), default=1) or 1


def write_products(measurement: Measurement, directory: Path, published: Path | None = None) -> None:
    """Write every product of a measured night but the manifest and the notebooks.

    Parameters
    ----------
    measurement : Measurement
        Not changed.
    directory : Path
        An existing folder.
    published : Path, optional
        Of the same night at other cuts: what does not depend on them is copied.
    """
    dark, cards = measurement.dark, provenance(measurement.capture)
    if published:
        for name in ("master_dark.fits", "leaders.fits", STAMPS):
            shutil.copyfile(published / name, directory / name)
    else:
        write_master(directory / "master_dark.fits", dark, cards)
        leaders = measurement.timed(measurement.leaders)
        write_table(directory / "leaders.fits", leaders, "LEADERS", FILE_COLUMNS, cards)
        stamps = measurement.leaders["stamp"], measurement.injections.stamps
        halves = (to_half(np.asarray(some), measurement.summary["dark"]["noise"]) for some in stamps)
        write_archive(Stamps(*halves), directory / STAMPS)
    trials = measurement.timed(measurement.trials)
    write_table(directory / "injections.fits", trials, "INJECTIONS", TRIAL_COLUMNS, cards)
    write_candidates(directory, measurement.candidates())
    np.save(kept := io.BytesIO(), measurement.counts)  # numpy, writing it itself, would not say why a disk refuses
    (directory / "settings.npy").write_bytes(kept.getvalue())
    telegraph = Table(dark.classes.telegraph, copy=False)
    telegraph.remove_column("states")
    telegraph.meta = measurement.telegraph
    telegraph.write(directory / TELEGRAPH, format="ascii.ecsv")
    write_summary(directory / "summary.json", measurement.summary)
    write_archive(_beside_the_fits_files(measurement), directory / ARCHIVE)
    write_gallery(measurement.leaders, measurement.parameters, directory / GALLERY)


def _beside_the_fits_files(measurement: Measurement) -> Measurement:
    """Leave out what the FITS files hold, and the place of raw counts."""
    capture = replace(
        measurement.capture,
        frames=tuple(replace(frame, stored=Stored()) for frame in measurement.capture.frames),
        known=None,
    )
    return replace(
        measurement,
        capture=capture,
        dark=measurement.dark.hollow,
        leaders=Table(),
        injections=replace(measurement.injections, trials=Table(), stamps=None),
    )


def write_master(path: Path, dark: DarkModel, cards: Mapping[str, Any]) -> None:
    """Write the master dark.

    Parameters
    ----------
    path : Path
        FITS file to write.
    dark : DarkModel
        MASTER is exact: whole parts of a count, BSCALE electrons each. NOISE is as it is; UNCERTF times it is the
        1-sigma of MASTER. DQ has bit planes, with their names in its header, where BLOCKING names those that keep a
        pixel out of fits. MEAN and STDDEV, of the frames, are rounded to an eighth of a frame's noise. An average
        has PRIOR, too: the variance of a frame in counts squared that a pixel's median level suggests.
    cards : mapping
        Provenance for the first header.

    Notes
    -----
    All images are packed in tiles, without loss.
    """
    reference, scale = dark.reference, dark.scale
    spread = np.sqrt(dark.variance)
    step = max(float(np.median(spread)), 1.0) / ROUNDED
    planes = {f"DQBIT{flag.bit_length() - 1}": (name_of(flag), f"plane of value {int(flag)}") for flag in PixelClass}
    uncertainty = {"UNCERTF": (dark.uncertainty_factor, "1-sigma of MASTER over NOISE")}
    images = [
        _image("MASTER", reference.master * reference.parts, "master dark", scale / reference.parts, uncertainty),
        _image("NOISE", np.asarray(dark.noise, np.float32), "1-sigma of a held-out residual"),
        _image("DQ", np.asarray(dark.classes.dq, np.uint16), cards={"BLOCKING": int(BLOCKING)} | planes),
        _image("MEAN", dark.mean / step, "mean of the frames", scale * step),
        _image("STDDEV", spread / step, "1-sigma of the frames about MEAN", scale * step),
    ]
    if reference.method == "average":
        images.append(_image("PRIOR", np.asarray(dark.prior, np.float32)))
    first = fits.PrimaryHDU()
    _add_cards(first.header, {**cards, **uncertainty})
    _write_hdus(path, [first, *images])


def _image(name: str, image: np.ndarray, meaning="", step: float | None = None, cards: Mapping | None = None):
    """Pack an image in tiles, rounded to whole numbers of so many electrons where a step is given."""
    whole = np.empty(image.shape, np.int32)
    values = image if step is None else np.rint(image, out=whole, casting="unsafe")
    kind, rows = ("GZIP_1", 1) if values.dtype.kind == "f" else ("RICE_1", min(TILE, len(image)))
    tile, packed = (rows, image.shape[1]), io.BytesIO()
    tiled = fits.CompImageHDU(values, name=name, compression_type=kind, tile_shape=tile, quantize_level=0)
    fits.HDUList([fits.PrimaryHDU(), tiled]).writeto(packed)
    packed.seek(0)
    hdu = fits.open(packed, memmap=False, disable_image_compression=True)[1]
    if kind == "GZIP_1":
        for tile in hdu.data["COMPRESSED_DATA"]:
            tile[4:8] = 0  # when it was packed
    if meaning:
        hdu.header["BUNIT"] = ("electron", meaning)
    if step is not None:
        hdu.header["BSCALE"] = step
    _add_cards(hdu.header, cards or {})
    return hdu


def write_table(path: Path, table: Table, name: str, columns: Mapping, cards: Mapping[str, Any]) -> None:
    """Write a table as FITS: masked floats are NaN, masked integers TNULL, texts ASCII with escapes.

    Notes
    -----
    Electrons are no unit of the FITS standard, and a TUNIT that says so is read with a warning: the column's comment
    says it instead.
    """
    fixed = fixed_columns(table, columns)
    for column in (name for name, (kind, _, _) in columns.items() if kind == "U"):
        texts = _translated(np.asarray(fixed[column]), lambda text: text.encode("ascii", "backslashreplace"))
        fixed[column] = Column(texts, dtype=f"S{_longest(texts)}")
    first = fits.PrimaryHDU()
    _add_cards(first.header, cards)
    for column in fixed.itercols():
        column.unit = None if column.unit == "electron" else column.unit
    rows = fits.table_to_hdu(fixed, character_as_bytes=True, name=name)  # else every text is decoded, and encoded again
    for number, (_, unit, meaning) in enumerate(columns.values(), start=1):
        rows.header.comments[f"TTYPE{number}"] = f"[{unit}] {meaning}" if unit == "electron" else meaning
    _write_hdus(path, [first, rows])


def write_candidates(directory: Path, candidates: Table) -> None:
    """Write `candidates.ecsv`, and `candidates.reg` with one labelled circle a row for DS9."""
    fixed = fixed_columns(candidates, FILE_COLUMNS)
    fixed.write(directory / "candidates.ecsv", format="ascii.ecsv", overwrite=True)
    _write_regions(directory / "candidates.reg", fixed)


def _write_regions(path: Path, candidates: Table) -> None:
    lines = ["# Region file format: DS9 astropy/regions", *["image"] * (len(candidates) > 0)]
    for x, y, frame, peak in candidates.iterrows("x", "y", "frame", "peak"):
        # image coordinates count from 1; DS9 knows no escape for a brace or quote in a label
        label = f"{re.sub(r'[^A-Za-z0-9._+-]', '_', str(frame))} {peak:.0f} e-"
        lines.append(f"circle({x + 1:.8f},{y + 1:.8f},{REGION_RADIUS:.8f}) # text={{{label}}}")
    path.write_text("\n".join(lines) + "\n", encoding="ascii")


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write `summary.json`: plain JSON, null for whatever is not finite.

    Raises
    ------
    ValueError
        If its keys are not the published ones.
    """
    if set(summary) != set(SUMMARY_KEYS):
        odd = sorted(set(summary) ^ set(SUMMARY_KEYS))
        raise ValueError(f"summary.json: keys differ from the published ones: {odd}")
    path.write_text(json_text({key: summary[key] for key in SUMMARY_KEYS}), encoding="utf-8")


def provenance(capture: Capture) -> dict[str, Any]:
    """Cards that say what a product was made of: camera, times (UTC), temperature, scale, the first 999 frames."""
    frames, parameters = capture.frames, capture.parameters
    chip = {"GAIN": frames[0].gain, "OFFSET": positive(frames[0].header.get("OFFSET"))}
    cards: dict[str, Any] = {
        "ORIGIN": (f"sla1tools {importlib.metadata.version('sla1tools')}", "program that wrote this file"),
        "OBJECT": parameters.object_name,
        "CAPDATE": (parameters.capture_date, "capture_date"),
        "CAPTIME": (parameters.capture_time, "capture_time"),
        "INSTRUME": capture.camera or "unknown",
        **{key: value for key, value in chip.items() if value is not None},
        "EXPTIME": (parameters.dark_exposure, "s"),
        "NCOMBINE": (len(frames), "frames used"),
        "COMBINED": (parameters.combination_method, "combination_method"),
        "PADDING": (parameters.scale_due_to_padding, "scale_due_to_padding, counts are divided by it"),
        "GAINCONF": (parameters.scale_due_to_gain, "scale_due_to_gain, electrons per ADU"),
    }
    starts = [frame.start for frame in frames if frame.start]
    ends = [frame.end for frame in frames if frame.end]
    for name, times, end in (("BEG", starts, min), ("END", ends, max)):
        if times:
            time = Time(end(times), scale="utc")
            cards |= {f"DATE-{name}": time.isot, f"MJD-{name}": time.mjd}
    temperatures = [frame.temperature for frame in frames if frame.temperature is not None]
    if temperatures:
        cards["CCD-TEMP"] = (round(float(np.median(temperatures)), 3), "degree Celsius, median of the frames")
    return cards | {f"FRAME{number:03d}": frame.name for number, frame in enumerate(frames[:999], start=1)}


def _add_cards(header: fits.Header, cards: Mapping[str, Any]) -> None:
    for key, card in cards.items():
        value, comment = card if isinstance(card, tuple) else (card, "")
        if isinstance(value, str):
            value = printable(value).encode("ascii", "backslashreplace").decode()
        header[key] = (value, comment)


def _write_hdus(path: Path, hdus: list) -> None:
    """Write with checksums whose cards carry no date, so that the same content is the same bytes."""
    whole = fits.HDUList(hdus)
    whole.update_extend()
    for hdu in whole:
        hdu.add_checksum(when="")
    whole.writeto(path, overwrite=True, output_verify="exception")
