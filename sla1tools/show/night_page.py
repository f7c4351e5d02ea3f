"""What the night's index page says: the summary's numbers turned into sentences and rows."""

import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from sla1tools.candidates.criteria import CRITERIA, in_words
from sla1tools.injections.operating_point import too_few
from sla1tools.parameters import Parameters, frames_per_night
from sla1tools.text import counted, flux_text, magnitude_text, printable, shown

NOT_TESTED = "not tested"
NOT_REACHED = "not reached"
_STATES = {"ok": "The night is sound", "degraded": "The night is degraded", "failed": "The night failed"}


def night_page(summary: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything the index page shows, as plain texts.

    Parameters
    ----------
    summary, manifest : mapping
        As `sla1tools.show.pages.write_index` takes them; whatever is missing or None reads "not tested".

    Returns
    -------
    page : dict
        `title`, `folder`, `frames` (used), `exposure`, `state`, `verdict` (headline, state, reasons, meaning,
        actions), `night` (what the page's table asks), `notes`, `files`, `tally`, `parameters`, `provenance`. Nothing
        in it is markup.
    """
    given = manifest.get("parameters") or {}
    night = _Night(summary, Parameters().model_dump(mode="json") | given)
    state = summary.get("verdict") or "failed"
    files = grouped_files(manifest.get("inputs") or [])
    named = {**given, **night.block("night")}
    parts = [named.get(key) for key in ("capture_date", "capture_time", "object_name")]
    return {
        "title": "The night at a glance",
        "folder": "/".join(str(part) for part in parts if part) or "an unnamed night",
        "frames": night.used,
        "exposure": given.get("dark_exposure"),
        "state": state if state in _STATES else "failed",
        "verdict": {
            "headline": _headline(night),
            "state": "No rate can be told from this night" if night.crowded else _STATES.get(state, state),
            "reasons": [str(reason) for reason in summary.get("reasons") or []],
            "meaning": [*_doubts(manifest, "meaning"), *_meaning(night)],
            "actions": [*_doubts(manifest, "cure"), *_actions(night, manifest.get("season_setting"))],
        },
        "night": night,
        "notes": [str(note) for note in summary.get("notes") or []],
        "files": files,
        "tally": Counter(file["state"] for file in files for _ in file["names"]),
        "parameters": {name: _setting(value) for name, value in given.items()},
        "provenance": _provenance(manifest),
    }


class _Night:
    """A night's summary, {} for what it lacks, and its parameters, the defaults where an older manifest has none.

    `criteria` are all, the configured one first; `alarms` its false alarms; `seen` the candidates that their rate
    counts, against the configured reference; `used` the number of frames; `crowded`: a rate of candidates is withheld.
    """

    def __init__(self, summary: Mapping[str, Any], parameters: Mapping[str, Any]):
        self.summary, self.parameters, self.criterion = summary, parameters, parameters["criterion"]
        self.criteria = list(dict.fromkeys([self.criterion, *CRITERIA]))
        self.alarms = self.block("false_alarms_per_frame", self.criterion)
        used, found = self.block("frames").get("used"), self.block("candidates", self.criterion)
        self.used = None if used is None else len(used)
        self.seen = found.get("in_sample" if parameters["reference"] == "all" else "held_out")
        self.crowded = bool(self.seen) and self.alarms.get("rate", 0) is None

    def block(self, name: str, criterion: str = "") -> Mapping[str, Any]:
        block = self.summary.get(name) or {}
        return (block.get(criterion) or {}) if criterion else block

    def flux(self, criterion: str, name: str) -> str:
        """Write the flux at which a criterion finds half or nine tenths of the stars."""
        completeness = self.block("completeness", criterion)
        limit = completeness.get(name) or {}
        if limit.get("flux") is None and limit.get("high") and not limit.get("low"):
            return f"below {quantity(limit['high'], 'e-')}, the faintest injected"
        if limit.get("flux") is None and completeness.get("curve"):
            return NOT_REACHED
        magnitude = magnitude_text(limit.get("flux"), self.parameters["zero_point"])
        return limited(limit.get("flux"), limit, "e-") + magnitude


quantity = functools.partial(shown, digits=3, absent=NOT_TESTED)


def limited(value: float | None, limits: Mapping, unit: str = "") -> str:
    """Write a number with its limits, where both are known."""
    low, high = limits.get("low"), limits.get("high")
    return quantity(value, unit) + ("" if low is None or high is None else f" ({quantity(low)}–{quantity(high)})")


def confidence(alarms: Mapping) -> str:
    """Write how sure limits of a rate are."""
    return f"{100 * (alarms.get('confidence') or 0.95):g} %"


def _setting(value: Any) -> str:
    words = {None: "not set", True: "yes", False: "no"}
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return words[value] if value is None or isinstance(value, bool) else str(value)


def _headline(night: _Night) -> str:
    if night.seen is None or night.used is None:
        return "False alarms: not tested"
    found = counted(night.seen, "false alarm") if night.seen else "No false alarm"
    return f"{'More false alarms than can be measured' if night.crowded else found} in {counted(night.used, 'dark')}"


def _meaning(night: _Night) -> list[str]:
    criterion, alarms = night.criterion, night.alarms
    rate, high = alarms.get("rate"), alarms.get("high")
    if rate is None or high is None:
        return [f"The criterion {criterion} could not be tested on this night: this is not the same as none found."]
    sure = confidence(alarms)
    first = (
        f"A dark holds no stars, so whatever {criterion} finds here is a false alarm: {quantity(rate)} a frame, "
        f"at most {quantity(high)} ({sure})."
    )
    if rate == 0:
        first = (
            f"None seen is not none: at {sure} confidence {criterion} raises fewer than {quantity(high)} false alarms"
        )
        first += " a frame."
    sentences = [f"{first} {_nightly(night, rate, high)}"]
    gaussian = alarms.get("gaussian_expectation")
    if gaussian is not None:
        excess = "; the excess is the camera" if gaussian < (alarms.get("low") or 0) else ""
        sentences.append(f"Gaussian noise alone would raise {quantity(gaussian, digits=2)} a frame{excess}.")
    if night.block("completeness", criterion):
        half, most = (night.flux(criterion, name) for name in ("flux_50", "flux_90"))
        sentences.append(f"Half of the injected stars are found at this flux: {half}; nine tenths: {most}.")
    return sentences


def _nightly(night: _Night, rate: float, high: float) -> str:
    """Say how many false alarms a night of the sky may then bring."""
    hours, exposure = (night.parameters[key] for key in ("night_hours", "dark_exposure"))
    frames = frames_per_night(hours, exposure)
    if frames is None:
        return f"Frames of {exposure:g} s are biases: a number in a night is not defined."
    told = f"in a night of {hours:g} h, {counted(frames, 'frame')} of {exposure:g} s"
    most = f"{high * frames:,.0f}"
    return (
        f"That still allows {most} {told}." if rate == 0 else f"Expect {rate * frames:,.0f} {told}, and up to {most}."
    )


def _doubts(manifest: Mapping, part: str) -> list[str]:
    """Return the meanings or the cures of the night's doubts as sentences, each once, the gravest doubt's first."""
    texts = [str(doubt.get(part) or "") for doubt in manifest.get("doubts") or []]
    return list(dict.fromkeys(f"{text[0].upper()}{text[1:]}." for text in texts if text))


def _actions(night: _Night, season_setting: Mapping | None) -> list[str]:
    actions, high, budget = [], night.alarms.get("high"), night.parameters["false_alarm_budget"]
    if high is not None:
        limit = f"upper limit of {quantity(high)} false alarms a frame"
        kept = f"Keep the setting: its {limit} is within the budget of {quantity(budget)}."
        broken = f"The {limit} exceeds the budget of {quantity(budget)}: change the setting, or take more darks."
        actions.append(kept if high <= budget else broken)
        if lacking := too_few(night.used or 0, budget):
            season = f"the season's setting is {in_words(season_setting)}" if season_setting else "a season would, too"
            actions.append(f"This night alone recommends no setting: {lacking}; {season} (sla1 trends).")
    for name, point in night.block("operating_point").items():
        if point and point.get("cuts"):
            flux = flux_text(point.get("flux_50"), night.parameters["zero_point"])
            quoted = quantity((point.get("quoted_on") or {}).get("high"))
            actions.append(
                f"{name} at {in_words(point['cuts'])} keeps the budget and finds half of the stars of {flux}; the half "
                f"of the frames that did not choose it limits it to {quoted} false alarms a frame."
            )
    return actions


def grouped_files(inputs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Put files of the capture folder that got the same verdict, for the same reason, into one row.

    Parameters
    ----------
    inputs : iterable of mapping
        With `name`, `verdict`, and `reason`, `detail` where there are any.

    Returns
    -------
    rows : list of dict
        `names`, `state` (the verdict's first word), `verdict` (with its reason), `detail`, in the order of the files.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for item in inputs:
        verdict, reason = str(item.get("verdict") or NOT_TESTED), str(item.get("reason") or "")
        told = f"{verdict} ({reason})" if reason and reason not in verdict else verdict
        detail = str(item.get("detail") or item.get("note") or "")
        row = {"names": [], "state": verdict.split()[0], "verdict": told, "detail": detail}
        rows.setdefault((told, detail), row)["names"].append(printable(item.get("name", "")))
    return list(rows.values())


def _provenance(manifest: Mapping) -> list[str]:
    versions = manifest.get("versions") or {}
    labels = {"git_commit": "commit", "random_seed": "random seed", "start": "started", "end": "ended"}
    told = [f"{label} {manifest[key]}" for key, label in labels.items() if manifest.get(key) is not None]
    told += ["run without notebooks"] * (manifest.get("notebooks") is False)
    return [f"{name} {version}" for name, version in versions.items()] + told
