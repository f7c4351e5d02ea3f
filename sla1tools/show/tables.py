"""What the notebooks show: small tables and samples, each a selection on a measured night."""

import html
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from astropy.stats import binom_conf_interval
from astropy.table import Table
from IPython.display import HTML
from scipy.spatial import cKDTree

from sla1tools.candidates.criteria import CRITERIA, candidate_noise, criteria_of, in_words
from sla1tools.candidates.leaders import caption
from sla1tools.candidates.psf import psf_of
from sla1tools.candidates.rates import CONFIDENCE, frame_area, poisson_rate
from sla1tools.candidates.shapes import contaminant_pass_rates
from sla1tools.darks.classes import PixelClass, names_in
from sla1tools.injections.completeness import completeness_curve, flux_bins
from sla1tools.injections.operating_point import too_few
from sla1tools.measure import Measurement
from sla1tools.show.contact_sheet import evenly
from sla1tools.text import chance_text, magnitude_text, printable

REFERENCE_NAMES = {"leave_one_out": "held out", "all": "in sample"}


NUMBER = re.compile(r"[-+]?(< ?)?[\d.,]+(e[-+]?\d+)?( ?(%|e-))?( ?[±(].*)?|(not \w+|none|--|–)?", re.IGNORECASE)
LONG = 30  # letters: a text of more may wrap
UNITS = {"electron": "e-", "pix": "px"}


def shown(table: Table) -> HTML:
    """Show a table without its types and row numbers, numbers to the right and texts to the left.

    Texts of the cells are escaped, control characters too.
    """
    if not len(table):
        return HTML("<p>None.</p>")
    heads, columns = [], []
    for name in table.colnames:
        column, unit = table[name].copy(), str(table[name].unit or "")
        if name == "p_value":
            column.info.format = lambda chance: "--" if chance is np.ma.masked else chance_text(chance)
        texts = [printable(text.strip()) for text in column.pformat(max_lines=-1, show_name=False, show_unit=False)]
        side = "right" if all(NUMBER.fullmatch(text) for text in texts) else "left"
        wraps = ' class="long"' if any(len(text) > LONG for text in texts) else ""
        columns.append([f'<td{wraps} style="text-align: {side}">{html.escape(text)}</td>' for text in texts])
        label = html.escape(f"{printable(name)} [{UNITS.get(unit, unit)}]" if unit else printable(name))
        heads.append(f'<th scope="col" style="text-align: {side}">{label}</th>')
    rows = ["".join(row) for row in zip(*columns, strict=True)]
    body = "".join(f"<tr>{row}</tr>\n" for row in rows)
    return HTML(f"<table>\n<thead><tr>{''.join(heads)}</tr></thead>\n<tbody>{body}</tbody>\n</table>")


def remarks(texts: Sequence[str]) -> HTML:
    """Show remarks as a list, which wraps on a narrow page; what they quote from files and headers is escaped."""
    items = (f"<li>{html.escape(printable(text))}</li>" for text in texts or ["none"])
    return HTML(f"<ul>{''.join(items)}</ul>")


def candidate_counts(night: Measurement) -> HTML:
    """Count candidates of every criterion, held out and in sample, at the configured cuts."""
    rows = []
    for name, criterion in CRITERIA.items():
        found = night.summary["candidates"][name]
        rows.append((name, in_words(criterion.configured(night.parameters)), found["held_out"], found["in_sample"]))
    table = shown(Table(rows=rows, names=("criterion", "cuts", "held out", "in sample")))
    if left_out := night.floors.left_out:
        kept = f"the {len(night.leaders):,} highest of {len(night.leaders) + left_out:,} leaders"
        return HTML(f"{table.data}<p>Only {kept} were measured: the galleries below show those alone.</p>")
    return table


def per_frame(night: Measurement) -> dict[str, np.ndarray]:
    """Candidates of the configured criterion in each frame: held out and in sample, or as far as they were counted."""
    if night.floors.left_out:
        counted = night.summary["candidates"][night.parameters.criterion]["per_frame"]
        return {f"{REFERENCE_NAMES[night.parameters.reference]}, counted": np.array(counted)}
    return {name: night.per_frame(night.candidates(reference=key)) for key, name in REFERENCE_NAMES.items()}


def brightest(leaders: Table) -> Table:
    """Sort leaders by peak, highest first."""
    return leaders[np.argsort(-np.asarray(leaders["peak"]), kind="stable")]


def captions(night: Measurement, leaders: Table) -> list[str]:
    """Frame name, in letters that every font has, its time (UTC), and the observers' caption of each leader."""
    columns = (leaders[name] for name in ("frame", "x", "y", "peak"))
    return [
        f"{printable(frame).encode('ascii', 'backslashreplace').decode()}  {time[11:19]}".rstrip()
        + f"\n{caption(int(x), int(y), float(peak), night.capture.shape)}"
        for time, frame, x, y, peak in zip(night.capture.times(leaders["frame"]), *columns, strict=True)
    ]


def leading_rows(leaders: Table, zero_point: float | None = None, most: int = 20) -> HTML:
    """Show the first rows of a leader table, rounded; with magnitudes where the zero point is known."""
    rows = leaders[:most]
    formats = {"peak": ".1f", "flux": ".0f", "neighbor_ratio": ".2f", "snr": ".1f", "rival_margin": "+.1f"}
    rows["pixel classes"] = np.array([names_in(dq) for dq in rows["dq"]], dtype=str)
    if zero_point is not None:
        texts = (magnitude_text(max(flux, 0.0), zero_point) for flux in np.ma.filled(rows["flux"], 0.0))
        rows["magnitude"] = np.array([text.strip(" ()").removesuffix(" mag") for text in texts], dtype=str)
    for name, text in formats.items():
        rows[name].info.format = text
    names = ("frame", "time", "x", "y", "peak", "flux", "magnitude", "neighbor_ratio", "snr", "p_value", "rival_margin")
    return shown(rows[[name for name in (*names, "best_rival", "pixel classes") if name in rows.colnames]])


def kinds(leaders: Table) -> np.ndarray:
    """Say what each false alarm looks like.

    Returns
    -------
    kind : (n,) str array
        'recurrent pixel' where a leader within 1 px passes in another frame too, 'cosmic-ray-like' where it belongs to
        a group of bright pixels of this frame alone, 'one-off' else.
    """
    kind = np.full(len(leaders), "one-off", "U15")
    kind[np.asarray(leaders["dq"]) & PixelClass.COSMIC_RAY != 0] = "cosmic-ray-like"
    tree = cKDTree(np.column_stack([leaders["x"], leaders["y"]]))
    pairs, frames = tree.query_pairs(1, p=np.inf, output_type="ndarray"), np.asarray(leaders["frame"])
    kind[np.unique(pairs[frames[pairs[:, 0]] != frames[pairs[:, 1]]])] = "recurrent pixel"
    return kind


def false_alarms(night: Measurement) -> HTML:
    """False alarms of the configured criterion by kind: per frame, per night, per square degree.

    Of a night with more leaders than were measured no rate is known: kinds are those of the measured leaders.
    """
    frames, nightly = len(night.capture.frames), night.parameters.frames_per_night
    area = frame_area(night.capture.shape, night.parameters.pixel_scale)
    criterion = night.parameters.criterion
    alarms = night.summary["false_alarms_per_frame"][criterion]
    told = alarms["rate"] is not None
    kind = kinds(night.candidates())
    seen = {name: int(np.count_nonzero(kind == name)) for name in ("one-off", "recurrent pixel", "cosmic-ray-like")}
    seen["all"] = sum(night.summary["candidates"][criterion]["per_frame"])
    if told and "every_pixel" in alarms:
        seen["all, on excluded classes too"] = round(alarms["every_pixel"]["rate"] * frames)
    rows = []
    for name, count in seen.items():
        rate = poisson_rate(count, frames)
        rates = [f"{rate.rate * per:.2g} (< {rate.high * per:.2g})" for per in (1, 1 / area)]
        rates.insert(1, f"{rate.rate * nightly:.0f} (< {rate.high * nightly:.0f})" if nightly else "not defined")
        rows.append((name, count, *(rates if told else ["not known"] * 3)))
    of = f"per night of {nightly or 'biases'}"
    names = ("kind", "seen", "per frame (95 % limit)", of, "per frame and square degree")
    return shown(Table(rows=rows, names=names))


def contaminants(night: Measurement) -> HTML:
    """Share of artefacts that pass `psf_chi2` at the configured cuts and this night's noise, by shape and flux."""
    parameters, fluxes = night.parameters, [700.0, 1500.0, 5000.0]
    psf, noise = psf_of(parameters), night.summary["dark"]["noise"]
    rates = contaminant_pass_rates(psf, noise, fluxes, parameters.snr_min, parameters.p_min, 400, 1)
    table = Table({"shape": list(dict.fromkeys(rates["kind"]))})
    for flux in fluxes:
        own = rates[rates["flux"] == flux]
        table[f"{flux:.0f} e-"] = [f"{share:.0%}" for share in own["passed"] / own["trials"]]
    return shown(table)


def example_stars(night: Measurement) -> Table:
    """Injected stars evenly from faint to bright that have a leader."""
    return night.trials[evenly(night.trials, 12)]


def star_captions(trials: Table) -> list[str]:
    """Flux, position and fate of each injected star."""
    return [
        f"{row['flux_true']:.0f} e- at {row['x_true']:.1f}, {row['y_true']:.1f}\n{row['miss_reason'] or 'found'}"
        for row in trials
    ]


def completeness(night: Measurement) -> tuple[dict, dict, float | None]:
    """Completeness curve and 50 % flux of every criterion, and the zero point, for `curves.completeness`."""
    edges = flux_bins(night.parameters.injection_flux_range)
    flux = np.asarray(night.trials["flux_true"])
    curves = {name: completeness_curve(flux, np.asarray(night.trials[f"recovered_{name}"]), edges) for name in CRITERIA}
    return curves, _flux_50(night), night.parameters.zero_point


def _flux_50(night: Measurement) -> dict[str, Any]:
    return {name: night.summary["completeness"][name]["flux_50"]["flux"] for name in CRITERIA}


def depth(night: Measurement) -> HTML:
    """50 % and 90 % flux of each criterion with their 95 % intervals, and how much deeper it is than the first."""
    rows, flux_50, (first, *_) = [], _flux_50(night), CRITERIA
    for name, flux in flux_50.items():
        numbers = night.summary["completeness"][name]
        limits = (_interval(numbers[key], night.parameters.zero_point) for key in ("flux_50", "flux_90"))
        deeper = f"{2.5 * np.log10(flux_50[first] / flux):+.1f}" if flux and flux_50[first] else "not tested"
        rows.append((name, *limits, deeper))
    names = ("criterion", "50 % flux [e-]", "90 % flux [e-]", f"magnitudes deeper than {first}")
    return shown(Table(rows=rows, names=names))


def _interval(limit: dict, zero_point: float | None) -> str:
    if limit["flux"] is None:
        return f"below {limit['high']:.0f}" if limit["high"] and not limit["low"] else "never reached"
    low, high = (f"{limit[key]:.0f}" if limit[key] else "?" for key in ("low", "high"))
    return f"{limit['flux']:.0f} ({low} to {high}){magnitude_text(limit['flux'], zero_point)}"


def miss_reasons(night: Measurement) -> HTML:
    """Count the missed stars by the first cut they fail, in four ranges of flux."""
    trials, edges = night.trials, np.geomspace(*night.parameters.injection_flux_range, 5)
    place = np.clip(np.searchsorted(edges, trials["flux_true"], side="right") - 1, 0, 3)
    reasons = list(dict.fromkeys(["", *trials["miss_reason"]]))
    table = Table({"reason": [reason or "found" for reason in reasons]})
    for i, (low, high) in enumerate(pairwise(edges)):
        own = trials["miss_reason"][place == i]
        table[f"{low:.0f} to {high:.0f} e-"] = [np.count_nonzero(own == reason) for reason in reasons]
    return shown(table)


def completeness_by(night: Measurement) -> tuple[dict[str, Table], str]:
    """Share of stars of intermediate flux recovered against sub-pixel phase and position, for `curves.share_by`.

    The fluxes are those between one half and twice the configured criterion's 50 % flux (all of them if it has none).
    """
    trials = night.trials
    criterion = night.parameters.criterion
    flux_50, flux = _flux_50(night)[criterion], np.asarray(trials["flux_true"])
    some = (flux > flux_50 / 2) & (flux < flux_50 * 2) if flux_50 else np.ones(len(flux), bool)
    found = np.asarray(trials[f"recovered_{criterion}"])[some]
    x, y = (np.asarray(trials[name])[some] for name in ("x_true", "y_true"))
    phase = np.hypot(x - np.rint(x), y - np.rint(y))
    panels = {
        "distance from pixel centre [px]": _share(phase, found, np.linspace(0, 0.7072, 7)),
        "x, column [px]": _share(x, found, np.linspace(-0.5, night.capture.shape[1] - 0.5, 9)),
        "y, row [px]": _share(y, found, np.linspace(-0.5, night.capture.shape[0] - 0.5, 9)),
    }
    told = f"{flux[some].min():.0f} to {flux[some].max():.0f} e-" if some.any() else "none"
    return panels, f"Stars of {told}, {criterion}"


def _share(values: np.ndarray, found: np.ndarray, edges: np.ndarray) -> Table:
    total, good = (np.histogram(some, edges)[0] for some in (values, values[found]))
    good, total, center = (part[total > 0] for part in (good, total, (edges[1:] + edges[:-1]) / 2))
    low, high = binom_conf_interval(good, total, CONFIDENCE, interval="wilson")
    return Table({"value": center, "completeness": good / total, "low": low, "high": high})


def operating_points(night: Measurement) -> HTML:
    """Show each criterion's recommended setting, what it finds, and its false alarms in the other frames."""
    rows = []
    for name in CRITERIA:
        point = night.summary["operating_point"][name]
        if point is None:
            rows.append((name, _no_setting(night, name), "", ""))
            continue
        quoted = point["quoted_on"]
        alarms = f"{quoted['rate']:.2g} (< {quoted['high']:.2g})"
        flux = f"{point['flux_50']:.0f}{magnitude_text(point['flux_50'], night.parameters.zero_point)}"
        rows.append((name, in_words(point["cuts"]), flux, alarms))
    names = ("criterion", "recommended", "50 % flux [e-]", "false alarms per frame (95 % limit)")
    return shown(Table(rows=rows, names=names))


def _no_setting(night: Measurement, criterion: str) -> str:
    """Why no setting of a criterion is recommended."""
    if len(night.trials) == 0 or night.summary["false_alarms_per_frame"][criterion]["rate"] is None:
        return "not tested"
    if lacking := too_few(len(night.capture.frames), night.parameters.false_alarm_budget):
        return f"none: {lacking}, or a season"
    flux_50 = night.grid["flux_50"][night.grid["criterion"] == criterion]
    return f"no setting {'keeps the budget' if np.isfinite(flux_50).any() else 'finds half of the stars'}"


def false_alarm_counts(night: Measurement) -> tuple[dict, tuple]:
    """Candidates at rising settings of the configured criterion's first cut, and those of Gaussian noise per frame."""
    parameters, criterion = night.parameters, criteria_of(night.parameters)[night.parameters.criterion]
    cut = criterion.cuts[0]
    low = getattr(night.floors, cut.floor) if cut.floor else cut.low
    counts = {}
    for reference, label in REFERENCE_NAMES.items():
        rows = night.leaders[night.leaders["reference"] == reference]
        settings = np.geomspace(low, 8 * low, 30)
        cuts = criterion.configured(parameters)
        counts[label] = (settings, [np.count_nonzero(criterion.select(rows, cuts | {cut.name: v})) for v in settings])
    noise = candidate_noise(night.dark, parameters)
    settings = np.geomspace(low, 1.2 * max(low, getattr(parameters, cut.name)), 8)
    expected = criterion.expected(noise, parameters.model_copy(update={cut.name: settings}))
    return counts, (settings, np.broadcast_to(np.array(expected, float), len(settings)))


def tradeoff_points(night: Measurement) -> tuple[dict, dict, float | None]:
    """50 % flux and alarms a frame of each criterion's configured and recommended setting; the zero point."""
    configured, recommended = {}, {}
    for name, flux in _flux_50(night).items():
        configured[name] = (flux, night.summary["false_alarms_per_frame"][name]["rate"])
        if point := night.summary["operating_point"][name]:
            both = point["chosen_on"]["count"] + point["quoted_on"]["count"]
            recommended[name] = (point["flux_50"], both / len(night.capture.frames))
    return configured, recommended, night.parameters.zero_point
