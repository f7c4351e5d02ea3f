"""What the night's index page says: the summary's numbers turned into sentences and rows."""

import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from sla1tools.candidates.criteria import CRITERIA, in_words
from sla1tools.injections.operating_point import too_few
from sla1tools.parameters import Parameters, frames_per_night
from sla1tools.text import counted, flux_text, magnitude_text, printable, shown

NOT_TESTED = "not tested"
NOT_REACHED = "not reached"
_STATES = {
    "ok": "The night is sound",
    "degraded": "The night is degraded",
    "failed": "The night failed",
}
_CROWDED = "No rate can be told from this night"


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
        actions), `numbers`, `notes`, `files`, `tally`, `parameters`, `provenance`. Nothing in it is markup.
    """
    parameters = manifest.get("parameters") or {}
    state = summary.get("verdict") or "failed"
    files = grouped_files(manifest.get("inputs") or [])
    return {
        "title": "The night at a glance",
        "folder": _folder(summary, parameters),
        "frames": _used(summary),
        "exposure": parameters.get("dark_exposure"),
        "state": state if state in _STATES else "failed",
        "verdict": {
            "headline": _headline(summary, parameters),
            "state": _CROWDED if _crowded(summary, parameters) else _STATES.get(state, state),
            "reasons": [str(reason) for reason in summary.get("reasons") or []],
            "meaning": [*_doubts(manifest, "meaning"), *_meaning(summary, parameters)],
            "actions": [*_doubts(manifest, "cure"), *_actions(summary, parameters, manifest.get("season_setting"))],
        },
        "numbers": _numbers(summary, parameters),
        "notes": [str(note) for note in summary.get("notes") or []],
        "files": files,
        "tally": _tally(files),
        "parameters": {name: _setting(value) for name, value in parameters.items()},
        "provenance": _provenance(manifest),
    }


quantity = functools.partial(shown, digits=3, absent=NOT_TESTED)


def _limited(value: float | None, limits: Mapping, unit: str = "") -> str:
    """Write a number with its limits, where both are known."""
    low, high = limits.get("low"), limits.get("high")
    return quantity(value, unit) + ("" if low is None or high is None else f" ({quantity(low)}–{quantity(high)})")


def _setting(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (", ".join(map(str, value)) or "none") if isinstance(value, list | tuple) else str(value)


def _own(parameters: Mapping, key: str) -> float:
    """Return a parameter, or its default where an older manifest has none."""
    value = parameters.get(key)
    return Parameters.model_fields[key].default if value is None else value


def _criterion(parameters: Mapping) -> str:
    return parameters.get("criterion") or next(iter(CRITERIA))


def _of(summary: Mapping, block: str, criterion: str) -> Mapping:
    return (summary.get(block) or {}).get(criterion) or {}


def _folder(summary: Mapping, parameters: Mapping) -> str:
    night = {**parameters, **(summary.get("night") or {})}
    parts = [night.get(key) for key in ("capture_date", "capture_time", "object_name")]
    return "/".join(str(part) for part in parts if part) or "an unnamed night"


def _used(summary: Mapping) -> int | None:
    used = (summary.get("frames") or {}).get("used")
    return None if used is None else len(used)


def _seen(summary: Mapping, parameters: Mapping) -> int | None:
    """Candidates that the configured criterion's rate counts: against the configured reference."""
    found = _of(summary, "candidates", _criterion(parameters))
    return found.get("in_sample" if parameters.get("reference") == "all" else "held_out")


def _headline(summary: Mapping, parameters: Mapping) -> str:
    found = _seen(summary, parameters)
    used = _used(summary)
    if found is None or used is None:
        return "False alarms: not tested"
    if _crowded(summary, parameters):
        return f"More false alarms than can be measured in {counted(used, 'dark')}"
    return f"{counted(found, 'false alarm') if found else 'No false alarm'} in {counted(used, 'dark')}"


def _crowded(summary: Mapping, parameters: Mapping) -> bool:
    """Whether candidates were found and their rate is withheld."""
    alarms = _of(summary, "false_alarms_per_frame", _criterion(parameters))
    return bool(_seen(summary, parameters)) and "rate" in alarms and alarms["rate"] is None


def _meaning(summary: Mapping, parameters: Mapping) -> list[str]:
    criterion = _criterion(parameters)
    alarms = _of(summary, "false_alarms_per_frame", criterion)
    rate, high = alarms.get("rate"), alarms.get("high")
    if rate is None or high is None:
        return [f"The criterion {criterion} could not be tested on this night: this is not the same as none found."]
    hours, exposure = (_own(parameters, key) for key in ("night_hours", "dark_exposure"))
    frames = frames_per_night(hours, exposure)
    percent = f"{100 * (alarms.get('confidence') or 0.95):g} %"
    night = f"a night of {hours:g} h, {counted(frames or 0, 'frame')} of {exposure:g} s"
    if rate == 0:
        first = (
            f"None seen is not none: at {percent} confidence {criterion} raises fewer than {quantity(high)} false "
            "alarms a frame"
        )
    else:
        first = (
            f"A dark holds no stars, so whatever {criterion} finds here is a false alarm: {quantity(rate)} a frame, at "
            f"most {quantity(high)} ({percent})"
        )
    if frames is None:
        first += f". Frames of {exposure:g} s are biases: a number in a night is not defined."
    elif rate == 0:
        first += f", which still allows {high * frames:,.0f} in {night}."
    else:
        first += f". Expect {rate * frames:,.0f} in {night}, and up to {high * frames:,.0f}."
    sentences = [first]
    gaussian = alarms.get("gaussian_expectation")
    if gaussian is not None:
        excess = "; the excess is the camera" if gaussian < (alarms.get("low") or 0) else ""
        sentences.append(f"Gaussian noise alone would raise {quantity(gaussian, digits=2)} a frame{excess}.")
    completeness = _of(summary, "completeness", criterion)
    if completeness:
        sentences.append(_depth(completeness, parameters.get("zero_point")))
    return sentences


def _depth(completeness: Mapping, zero_point: float | None) -> str:
    half, most = (_flux(completeness, name, zero_point) for name in ("flux_50", "flux_90"))
    if half in (NOT_TESTED, NOT_REACHED):
        return f"Flux at which half of the injected stars are found: {half}."
    ending = "nine tenths at no flux up to the brightest injected" if most == NOT_REACHED else f"nine tenths: {most}"
    return f"Half of the injected stars are found at {half}; {ending}."


def _flux(completeness: Mapping, name: str, zero_point: float | None) -> str:
    limit = completeness.get(name) or {}
    if limit.get("flux") is None and limit.get("high") and not limit.get("low"):
        return f"below {quantity(limit['high'], 'e-')}, the faintest injected"
    if limit.get("flux") is None and completeness.get("curve"):
        return NOT_REACHED
    return _limited(limit.get("flux"), limit, "e-") + magnitude_text(limit.get("flux"), zero_point)


def _doubts(manifest: Mapping, part: str) -> list[str]:
    """Return the meanings or the cures of the night's doubts as sentences, each once, the gravest doubt's first."""
    texts = [str(doubt.get(part) or "") for doubt in manifest.get("doubts") or []]
    return list(dict.fromkeys(f"{text[0].upper()}{text[1:]}." for text in texts if text))


def _actions(summary: Mapping, parameters: Mapping, season_setting: Mapping | None) -> list[str]:
    criterion = _criterion(parameters)
    actions = []
    high, budget = _of(summary, "false_alarms_per_frame", criterion).get("high"), parameters.get("false_alarm_budget")
    if high is not None and budget is not None:
        words = f"upper limit of {quantity(high)} false alarms a frame"
        if high <= budget:
            actions.append(f"Keep the setting: its {words} is within the budget of {quantity(budget)}.")
        else:
            actions.append(
                f"The {words} exceeds the budget of {quantity(budget)}: change the setting, or take more darks."
            )
    lacking = budget is not None and too_few(_used(summary) or 0, budget)
    if lacking and high is not None:
        season = (
            f"the season's setting is {in_words(season_setting)}" if season_setting else "so would a season of nights"
        )
        actions.append(f"This night alone recommends no setting: {lacking}; {season} (sla1 trends).")
    for name, point in (summary.get("operating_point") or {}).items():
        if not point or not point.get("cuts"):
            continue
        quoted = (point.get("quoted_on") or {}).get("high")
        actions.append(
            f"{name} at {in_words(point['cuts'])} keeps the budget and finds half of the stars of "
            f"{flux_text(point.get('flux_50'), parameters.get('zero_point'))}; the half of the frames that did not "
            f"choose it limits it to {quantity(quoted)} false alarms a frame."
        )
    return actions


def _numbers(summary: Mapping, parameters: Mapping) -> list[dict[str, str]]:
    frames, dark = summary.get("frames") or {}, summary.get("dark") or {}
    rejected = sum(map(len, (frames.get("rejected") or {}).values()))
    noise = quantity(dark.get("noise"), "e-")
    measured, configured = (quantity(dark.get(f"gain_{kind}"), "e-/count") for kind in ("measured", "configured"))
    rows = [
        ("frames used", quantity(_used(summary)), f"{rejected} rejected"),
        ("dark level", quantity(dark.get("level"), "e-"), "median of the master dark, pedestal included"),
        ("noise of a residual", noise, "1-sigma of a held-out residual, median over the pixels"),
        ("gain, measured", measured, f"photon transfer of the darks; configured: {configured}"),
        ("pedestal", quantity(dark.get("pedestal"), "e-"), "level at which the variance would vanish"),
    ]
    rows += _published(dark, parameters)
    for criterion in dict.fromkeys([_criterion(parameters), *CRITERIA]):  # the configured one first
        rows += _criterion_rows(summary, criterion, parameters.get("zero_point"))
    rows += [
        (f"pixels: {name.replace('_', ' ')}", quantity(count), "")
        for name, count in (summary.get("pixels") or {}).items()
    ]
    return [{"name": name, "value": value, "note": note} for name, value, note in rows]


def _criterion_rows(summary: Mapping, criterion: str, zero_point: float | None) -> list[tuple[str, str, str]]:
    found, alarms, completeness = (
        _of(summary, block, criterion) for block in ("candidates", "false_alarms_per_frame", "completeness")
    )
    held_out, in_sample = (quantity(found.get(which)) for which in ("held_out", "in_sample"))
    gaussian = quantity(alarms.get("gaussian_expectation"), digits=2)
    told = f"one-sided {100 * (alarms.get('confidence') or 0.95):g} % limits; Gaussian noise alone: {gaussian}"
    if every := alarms.get("every_pixel"):
        told += f"; on pixels of the excluded classes too: {_limited(every.get('rate'), every)}"
    return [
        (f"{criterion}: candidates", held_out, f"held out; in sample {in_sample}"),
        (f"{criterion}: false alarms a frame", _limited(alarms.get("rate"), alarms), told),
        (f"{criterion}: 50 % flux", _flux(completeness, "flux_50", zero_point), "half of the injected stars are found"),
        (f"{criterion}: 90 % flux", _flux(completeness, "flux_90", zero_point), "nine tenths are found"),
    ]


def _published(dark: Mapping, parameters: Mapping) -> list[tuple[str, str, str]]:
    """Rows to hold beside the measured ones: the shot noise of the level, and the camera's figures from elsewhere."""
    rows = []
    if (level := dark.get("level")) is not None and level >= 0:
        told = "if all of the level is dark signal: one frame cannot have less noise"
        rows.append(("shot noise of the level", quantity(math.sqrt(level), "e-"), told))
    given = parameters.get("published") or {}
    source, heat = given.get("source") or "published", given.get("temperature")
    if (noise := given.get("read_noise")) is not None:
        rows.append(("read noise, published", quantity(noise, "e-"), source))
    if (current := given.get("dark_current")) is not None:
        exposure = _own(parameters, "dark_exposure")
        told = f"{source}: {quantity(current, 'e-/s')}{'' if heat is None else f' at {heat:g} C'}"
        rows.append(("dark signal, published", quantity(current * exposure, "e-"), told))
    if (gain := given.get("gain")) is not None:
        rows.append(("gain, published", quantity(gain, "e-/ADU"), source))
    return rows


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


def _tally(files: list[dict[str, Any]]) -> str:
    states = Counter(file["state"] for file in files for _ in file["names"])
    return ", ".join(f"{count:,} {state}" for state, count in states.items()) + "."


def _provenance(manifest: Mapping) -> list[str]:
    versions = manifest.get("versions") or {}
    labels = {"git_commit": "commit", "random_seed": "random seed", "start": "started", "end": "ended"}
    told = [f"{label} {manifest[key]}" for key, label in labels.items() if manifest.get(key) is not None]
    told += ["run without notebooks"] * (manifest.get("notebooks") is False)
    return [f"{name} {version}" for name, version in versions.items()] + told
