"""The page of all nights: a table to sort and filter, numbers over time, pixels that come back."""

import base64
from collections.abc import Sequence

import numpy as np
from astropy.table import Table
from IPython.display import Markdown
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

from sla1tools.nights.trends import METRICS, Metric, NightRecord
from sla1tools.show.figures import HELD_OUT, IN_SAMPLE, NEUTRAL, Drawing, blank_axes, png
from sla1tools.show.pages import TEMPLATES, page_css, page_template, policy
from sla1tools.text import counted, printable, shown


def page_text(records: Sequence[NightRecord], recurrent: Table, latest: NightRecord | None) -> str:
    """Return the page of all nights: self-contained, and asking nothing of the network."""
    script = (TEMPLATES / "trends.js").read_text(encoding="utf-8")
    charts = ((metric, control_chart(records, metric)) for metric in METRICS)
    figures = [(caption(records, metric), base64.b64encode(png(chart)).decode()) for metric, chart in charts if chart]
    return page_template("trends.html.j2").render(
        policy=policy(script),
        css=page_css(with_explorer=False) + (TEMPLATES / "trends.css").read_text(encoding="utf-8"),
        script=script,
        records=list(reversed(records)),
        metrics=[metric for metric in METRICS if any(r.values.get(metric.name) is not None for r in records)],
        shown=shown,
        counted=counted,
        figures=figures,
        recurrent=recurrent,
        latest=latest,
        differing=sum(bool(record.differs) for record in records),
    )


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
    figure, ax = blank_axes(6.4, 2.7, caption(records, metric))
    for nights in series.values():
        when = [night.when for night in nights]
        values = np.array([night.values[metric.name] for night in nights])
        spans = np.array([night.intervals.get(metric.name, (np.nan, np.nan)) for night in nights])
        crowded = len(nights) > 100
        limits = np.array([night.limits.get(metric.name, (np.nan, np.nan)) for night in nights])
        outside = np.array([night.outside(metric) for night in nights])
        ax.fill_between(when, *limits.T, step="mid", color=NEUTRAL, alpha=0.15, linewidth=0)
        ax.vlines(when, *spans.T, color=HELD_OUT, alpha=0.12 if crowded else 0.5, linewidth=1)
        ax.plot(when, values, "-o", color=HELD_OUT, markersize=1.5 if crowded else 3, linewidth=0.6)
        ax.plot(np.array(when)[outside], values[outside], "D", color=IN_SAMPLE, markersize=6)
    everything = [value for night in records for value in _drawn(night, metric)]
    margin = 0.5 * (max(everything) - min(everything)) or 0.1 * abs(everything[0]) or 1.0
    lowest = -0.05 * margin if min(everything) >= 0 else -np.inf  # no room for what cannot be
    # the first limits are far wider than the values
    ax.set_ylim(max(min(everything) - margin, lowest), max(everything) + margin)
    locator = AutoDateLocator()
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    ax.set_ylabel(f"{metric.label} [{metric.unit}]" if metric.unit else metric.label)
    return figure


def caption(records: Sequence[NightRecord], metric: Metric) -> str:
    """Say what a chart shows: how many nights, how many outside their limits, and the latest."""
    tested = [night for night in records if night.values.get(metric.name) is not None]
    outside = sum(night.outside(metric) for night in tested)
    unit = f" {metric.unit}" if metric.unit else ""
    latest = f"{shown(tested[-1].values[metric.name])}{unit}" if tested else "not tested"
    return f"{metric.label}: {counted(len(tested), 'night')}, {outside} outside; latest {latest}"


def _drawn(night: NightRecord, metric: Metric) -> tuple[float, ...]:
    value = night.values.get(metric.name)
    return () if value is None or not night.when else (value, *night.intervals.get(metric.name, ()))


def nights_table(records: Sequence[NightRecord]) -> Table:
    """Tabulate the nights for reading, the latest first; a dash for what was not tested."""
    labels = [f"{metric.label} [{metric.unit}]" if metric.unit else metric.label for metric in METRICS]
    rows = [
        (night.night, night.verdict, *(shown(night.values.get(metric.name)) for metric in METRICS))
        for night in reversed(records)
    ]
    names = ["night", "verdict", *labels]
    width = max((len(text) for row in rows for text in row), default=1)
    return Table(rows=rows or None, names=names, dtype=[f"U{width}"] * len(names))


def summed_up(records: Sequence[NightRecord], recurrent: Table, latest: NightRecord | None) -> Markdown:
    """Say how many nights there are, which differ from those before, and what became of the pixels."""
    if latest is None:
        return Markdown("**There is no night yet**: `sla1 run` or `sla1 batch` makes one.")
    failed = sum(night.verdict == "failed" for night in records)
    differing = [night for night in records if night.differs]
    lines = [
        f"**{counted(len(records), 'night')}**, {failed} failed, {len(differing)} that "
        f"differ{'s' * (len(differing) == 1)} from the nights before."
    ]
    lines += [f"- `{_code(night.night)}`: {'; '.join(night.differs)}" for night in differing[-10:]]
    if latest.changes:
        new, returned, vanished = (len(getattr(latest.changes, name)) for name in ("new", "returned", "vanished"))
        lines.append(
            f"\n{counted(latest.changes.bad, 'bad pixel')} on the latest night: {new:,} new, {returned:,} returned, "
            f"{vanished:,} vanished since the night before. {counted(len(recurrent), 'pixel')} made candidates on two "
            "or more nights."
        )
    return Markdown("\n".join(lines))


def _code(text: str) -> str:
    return printable(text).replace("`", "'")
