"""The page of all nights: a table to sort and filter, numbers over time, pixels that come back."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from astropy.table import Table
from IPython.display import HTML
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

from sla1tools.candidates.criteria import CUTS, in_words
from sla1tools.candidates.rates import Rate, frame_area
from sla1tools.candidates.rows import Floors
from sla1tools.nights.dark_current import DarkCurrent
from sla1tools.nights.season import Season, Statement
from sla1tools.nights.trends import METRICS, Metric, NightRecord
from sla1tools.show.curves import tradeoff
from sla1tools.show.dark_current import dark_current_chart, dark_current_table
from sla1tools.show.explorer.payload import Exhibit, payload
from sla1tools.show.figures import HELD_OUT, IN_SAMPLE, NEUTRAL, WIDTH, Drawing, blank_axes, png
from sla1tools.show.pages import gallery_html, page_html
from sla1tools.show.tables import remarks
from sla1tools.text import chance_text, counted, flux_text, shown

LONG_GAP = 90  # days without a night that are named
FEW_NIGHTS = 60  # from which the limits bound a night eleven times worse that comes once in ten


def page_text(
    records: Sequence[NightRecord],
    recurrent: Table,
    latest: NightRecord | None,
    season: Season | None,
    dark: DarkCurrent,
    telegraph: Table,
) -> str:
    """Return the page of all nights: self-contained, and asking nothing of the network."""
    charts = {metric: control_chart(records, metric) for metric in METRICS}
    dark_chart, trade_off = dark_current_chart(dark), season and season_figure(season)
    return page_html(
        "trends",
        records=list(reversed(records)),
        metrics=[metric for metric in METRICS if any(r.values.get(metric.name) is not None for r in records)],
        figures=[(caption(records, metric), png(chart)) for metric, chart in charts.items() if chart],
        recurrent=recurrent,
        latest=latest,
        dark=dark,
        telegraph=telegraph,
        dark_rows=dark_current_table(dark),
        dark_chart=dark_chart and png(dark_chart),
        season=season,
        tradeoff=png(trade_off) if isinstance(trade_off, Drawing) else None,
        headline=headline,
        sentences=sentences,
        statement=statement,
        limited=limited,
    )


def headline(season: Season) -> str:
    """Say which frames of which nights speak, and from when to when."""
    days = [record.night.split()[0] for record in season.nights]
    gaps = [
        f"; none between {days[k]} and {days[k + 1]}"
        for k, (before, after) in enumerate(pairwise(season.nights))
        if before.when and after.when and (after.when - before.when).days > LONG_GAP
    ]
    span = days[0] if len(set(days)) == 1 else f"{days[0]} to {days[-1]}{''.join(gaps)}"
    return f"{counted(season.frames, 'frame')} of {counted(len(season.nights), 'night')} of {season.name}, {span}"


def sentences(season: Season) -> list[str]:
    """Say what the season means for the observers, at the configured criterion and cuts."""
    parameters = season.parameters
    own = season.statements[parameters.criterion]
    rate, frames, nights = own.alarms, parameters.frames_per_night, counted(own.alarms.nights, "night")
    spread = chance_text(rate.dispersion_p, digits=1, equals="= ")
    nightly = "" if frames is None else f": {limited(rate, frames)} in a night of {parameters.night_hours:g} h"
    told = {
        f"{parameters.criterion} at {in_words(own.cuts)} makes {limited(rate)} false alarms a frame (95 % limits, from "
        f"{nights}){nightly}.": True,
        f"Gaussian noise alone would make {shown(own.expected, digits=2)} a frame.": own.expected is not None,
        f"Nights differ more than chance (p {spread}): {'; '.join(own.worst)}.": bool(own.worst),
        f"Nights differ no more than by chance (p {spread}).": rate.dispersion_p is not None and not own.worst,
        "One night says nothing of others: its limits are its own.": rate.nights == 1,
        f"{nights} cannot bound a night much worse that comes once in ten; {FEW_NIGHTS} can.": (
            1 < rate.nights < FEW_NIGHTS
        ),
        f"No setting of {parameters.criterion} is recommended: {own.lacking}.": bool(own.lacking),
    }
    return [sentence for sentence, holds in told.items() if holds]


def stated(season: Season | None) -> HTML:
    """Show whose nights speak, and what they say."""
    return remarks([headline(season), *sentences(season)] if season else ["there is no night that can be counted"])


def limited(rate: Rate | None, times: float | None = 1.0) -> str:
    """Write a rate, or so many times it, with its limits; a dash for None."""
    if rate is None or times is None:
        return "–"
    low, value, high = (shown(times * end, digits=3) for end in (rate.low, rate.rate, rate.high))
    return f"{value} ({low}–{high})"


def statement(season: Season) -> Table:
    """Tabulate what the season says of each criterion, a column each."""
    parameters = season.parameters
    frames, area = parameters.frames_per_night, frame_area(parameters.frame_shape, parameters.pixel_scale)
    flux = partial(flux_text, zero_point=parameters.zero_point, absent="not reached")
    rows: dict[str, Callable[[Statement], str]] = {
        "configured cuts": lambda own: in_words(own.cuts),
        "false alarms a frame": lambda own: limited(own.alarms),
        f"… in a night of {parameters.night_hours:g} h": lambda own: limited(own.alarms, frames),
        "… a square degree, in a frame": lambda own: limited(own.alarms, 1 / area),
        "… a frame, without recurrent pixels": lambda own: limited(own.without_recurrent),
        "… a frame, from Gaussian noise alone": lambda own: shown(own.expected, digits=2),
        "chance of such a spread if nights are alike": lambda own: chance_text(own.alarms.dispersion_p, digits=1),
        "50 % flux": lambda own: flux(own.flux_50.flux),
        "90 % flux": lambda own: flux(own.flux_90.flux),
        "recommended cuts": lambda own: in_words(own.point.cuts) if own.point else "none",
        "… 50 % flux": lambda own: flux(own.point.flux_50) if own.point else "–",
        "… a frame, on the nights that did not choose": lambda own: limited(own.point.quoted_on if own.point else None),
    }
    told = {name: [row(own) for row in rows.values()] for name, own in season.statements.items()}
    return Table({"criterion": list(rows)} | told)


def season_figure(season: Season) -> Drawing | HTML:
    """Draw the season's trade-off, with the configured and the recommended settings; words where nothing is found."""
    configured, recommended = {}, {}
    for name, own in season.statements.items():
        configured[name] = own.flux_50.flux, own.alarms.rate
        if own.point:
            both = own.point.chosen_on, own.point.quoted_on
            recommended[name] = own.point.flux_50, sum(one.count for one in both) / sum(one.frames for one in both)
    return tradeoff(season.grid, season.frames, configured, recommended)


def gallery_text(season: Season, rows: Table, total: int, without: Sequence[NightRecord]) -> str:
    """Return the page with the candidates of all nights, as `gallery.season_candidates` gives them."""
    return page_html(
        "gallery",
        with_explorer=True,
        headline=headline(season),
        rows=len(rows),
        total=total,
        gallery=gallery_html(season_payload(season, rows, without)) if len(rows) else "<p>There is none.</p>",
        without=without,
    )


def season_payload(season: Season, rows: Table, without: Sequence[NightRecord] = ()) -> dict[str, Any]:
    """Pack the explorer of many nights. Its sliders begin at the season's cuts, below which no row is known."""
    parameters, frames = season.parameters, list(dict.fromkeys(rows["frame"].tolist()))
    searched = season.frames - sum(record.frames for record in without)
    frames += [""] * (searched - len(frames))  # without a candidate
    packed = payload(Exhibit(rows, None, parameters, frames, Floors.highest(parameters)))
    own = {name: getattr(parameters, name) for name in CUTS if getattr(parameters, name)}
    packed["bounds"] |= {name: [value, packed["bounds"][name][1]] for name, value in own.items()}
    packed["sliders"] = {
        name: one | {"opens": one["opens"] and name not in own} for name, one in packed["sliders"].items()
    }
    return packed


def control_chart(records: Sequence[NightRecord], metric: Metric) -> Drawing | None:
    """Draw a number over time with the limits that the nights before each set; None for fewer than two nights.

    Nights that are not comparable are drawn in series of their own. A night without a time is left out.
    """
    series: dict[tuple, list[NightRecord]] = {}
    for record in records:
        if record.values.get(metric.name) is not None and record.when:
            series.setdefault(record.series(metric), []).append(record)
    if sum(map(len, series.values())) < 2:
        return None
    figure, ax = blank_axes(WIDTH, 2.7, caption(records, metric), top=0.1)
    unknown, drawn = (np.nan, np.nan), []
    for nights in series.values():
        when = np.array([night.when for night in nights])
        values = np.array([night.values[metric.name] for night in nights])
        spans = np.array([night.intervals.get(metric.name, unknown) for night in nights])
        limits = np.array([night.limits.get(metric.name, unknown) for night in nights])
        outside, crowded = np.array([night.outside(metric) for night in nights]), len(nights) > 100
        ax.fill_between(when, *limits.T, step="mid", color=NEUTRAL, alpha=0.15, linewidth=0)
        if np.isfinite(spans).any():
            ax.vlines(when, *spans.T, color=HELD_OUT, alpha=0.12 if crowded else 0.5, linewidth=1)
        ax.plot(when, values, "-o", color=HELD_OUT, markersize=1.5 if crowded else 3, linewidth=0.6)
        ax.plot(when[outside], values[outside], "D", color=IN_SAMPLE, markersize=6)
        drawn += [values, *spans.T]
    least, most = (float(end(np.concatenate(drawn))) for end in (np.nanmin, np.nanmax))
    margin = 0.5 * (most - least) or 0.1 * abs(least) or 1.0
    lowest = -0.05 * margin if least >= 0 else -np.inf  # no room for what cannot be
    ax.set_ylim(max(least - margin, lowest), most + margin)  # the first limits are far wider than the values
    locator = AutoDateLocator()
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    ax.set_ylabel(_labelled(metric))
    return figure


def caption(records: Sequence[NightRecord], metric: Metric) -> str:
    """Say what a chart shows: how many nights, how many outside their limits, and the latest."""
    tested = [night for night in records if night.values.get(metric.name) is not None]
    outside = sum(night.outside(metric) for night in tested)
    unit = f" {metric.unit}" if metric.unit else ""
    latest = f"{shown(tested[-1].values[metric.name])}{unit}" if tested else "not tested"
    return f"{metric.label}: {counted(len(tested), 'night')}, {outside} outside; latest {latest}"


def _labelled(metric: Metric) -> str:
    return f"{metric.label} [{metric.unit}]" if metric.unit else metric.label


def nights_table(records: Sequence[NightRecord]) -> Table:
    """Tabulate the nights for reading, the latest first; a dash for what was not tested."""
    nights = list(reversed(records))
    numbers = {_labelled(one): [shown(night.values.get(one.name)) for night in nights] for one in METRICS}
    return Table({name: [getattr(night, name) for night in nights] for name in ("night", "verdict")} | numbers)


def summed_up(records: Sequence[NightRecord], recurrent: Table, latest: NightRecord | None) -> HTML:
    """Say how many nights there are, which differ from those before, and what became of the pixels."""
    if latest is None:
        return remarks(["there is no night yet: sla1 run or sla1 batch makes one"])
    failed = sum(night.verdict == "failed" for night in records)
    differing = [f"{night.night}: {'; '.join(night.differs)}" for night in records if night.differs]
    differ = f"{len(differing)} that differ{'s' * (len(differing) == 1)} from the nights before"
    told = [f"{counted(len(records), 'night')}, {failed} failed, {differ}", *differing[-10:]]
    if latest.changes:
        names = ("new", "returned", "vanished")
        changes = ", ".join(f"{len(getattr(latest.changes, name)):,} {name}" for name in names)
        told.append(f"{counted(latest.changes.bad, 'bad pixel')} on the latest night: {changes} since the night before")
        told.append(f"{counted(len(recurrent), 'pixel')} made candidates on two or more nights")
    return remarks(told)
