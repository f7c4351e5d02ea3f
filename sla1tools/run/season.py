"""Write the season: the page of all nights, `season.json`, and the adopted setting."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from sla1tools import published
from sla1tools.errors import ParametersError, Sla1Error, writing
from sla1tools.injections.operating_point import too_few
from sla1tools.nights.dark_current import DarkCurrent, follow_dark_current
from sla1tools.nights.gallery import season_candidates
from sla1tools.nights.pooling import identity
from sla1tools.nights.recurrence import follow_pixels
from sla1tools.nights.season import Season, sum_season
from sla1tools.nights.telegraph import follow_telegraph
from sla1tools.nights.trends import read_nights
from sla1tools.parameters import Parameters, save_setting
from sla1tools.published import CANDIDATES_PAGE, LOCKS, SEASON, TRENDS, read_json
from sla1tools.published.folder import take_outputs, write_whole
from sla1tools.run.publishing import recover, refuse_links
from sla1tools.text import json_text

NIGHTS_OWN = "# The recommended setting, by sla1 run --adopt; the next --adopt of this night replaces this file.\n"
SEASONS = "# The season's setting, by sla1 trends --adopt; the next --adopt replaces this file.\n"


def write_trends(outputs: str | Path) -> Path:
    """Write `index.html`, `candidates.html`, `season.json` and `known_pixels.fits` for all nights of an outputs folder.

    Returns
    -------
    page : Path

    Raises
    ------
    ParametersError
        If the folder cannot be read or written.
    """
    import matplotlib

    from sla1tools.show.season_page import gallery_text, page_text

    outputs = Path(outputs).absolute()
    with writing(outputs, "the page of all nights cannot be written"):
        take_outputs(outputs)
        recover(outputs)
        lock = outputs / LOCKS / "pages.lock"
        refuse_links(outputs, lock)
        for folder in (LOCKS, TRENDS):
            (outputs / folder).mkdir(exist_ok=True)
        with FileLock(lock):  # of two commands the later one knows more
            records = read_nights(outputs)
            recurrent, latest = follow_pixels(records, outputs, write=True)
            season, dark = sum_season(records, outputs), follow_dark_current(records, outputs)
            telegraph = follow_telegraph(records, outputs)
            with matplotlib.rc_context():
                matplotlib.rcdefaults()  # the page is the same whoever draws it
                text = page_text(records, recurrent, latest, season, dark, telegraph)
            pages = {SEASON: json_text(season_json(season, dark)), "index.html": text}
            if season:
                pages[CANDIDATES_PAGE] = gallery_text(season, *season_candidates(season, outputs))
            for name, content in pages.items():
                data = content.encode("utf-8", "backslashreplace")
                write_whole(outputs, name, partial(Path.write_bytes, data=data))
    return outputs / "index.html"


def season_json(season: Season | None, dark: DarkCurrent) -> dict[str, Any]:
    """Return the season's numbers in the shape of `season.json`."""
    told: dict[str, Any] = {"frames": 0, "nights": 0, "left_out": {}, "criteria": {}, "dark_current": dark.numbers()}
    if season is None:
        return told
    for name, statement in season.statements.items():
        own = asdict(statement)
        beside = {"without_recurrent": own["without_recurrent"], "gaussian_expectation": own["expected"]}
        told["criteria"][name] = {
            "false_alarms_per_frame": own["alarms"] | beside,
            "operating_point": own["point"],
            **{key: own[key] for key in ("flux_50", "flux_90", "lacking")},
        }
    return told | {
        "frames": season.frames,
        "nights": len(season.nights),
        "comparable": season.identity,
        "criterion": season.parameters.criterion,
        "left_out": season.left_out,
    }


def season_setting(
    outputs: Path, criterion: str = "", comparable: Mapping[str, str] | None = None
) -> published.OperatingPoint:
    """Read what the season recommends for a criterion (by default its latest night's), to nights of this identity.

    Raises
    ------
    ParametersError
        Saying why there is no setting.
    """
    season = read_json(outputs / SEASON, published.SeasonFile)
    if season is None or not season.criteria:
        raise ParametersError("there is no season yet: sla1 trends sums up the nights of the outputs")
    if comparable is not None and season.comparable != comparable:
        raise ParametersError("the season is one of nights that do not compare with this one")
    criterion = criterion or season.criterion
    own = season.criteria.get(criterion, published.SeasonCriterion(lacking="it is not counted there"))
    if own.operating_point is None:
        raise ParametersError(f"the season recommends no setting of {criterion}: {own.lacking}")
    return own.operating_point


def adopt_season(outputs: Path) -> Path:
    """Write the season's recommended cuts of its criterion as a parameters file of their own.

    Raises
    ------
    ParametersError
        Where no setting is recommended, saying why.
    """
    point = season_setting(outputs)
    setting = Parameters().model_copy(update={"criterion": point.criterion} | point.cuts)
    return save_setting(setting, "adopted-season", point.cuts, SEASONS)


def adopt_night(parameters: Parameters, directory: Path, outputs: Path) -> tuple[Path, str]:
    """Write a night's recommended cuts of its criterion, else the season's, as a parameters file of their own.

    Returns
    -------
    path : Path
    lacking : str
        Why the night recommends none itself.

    Raises
    ------
    Sla1Error
        Where the season recommends none either, saying why.
    """
    summary = read_json(directory / "summary.json", published.Summary) or published.Summary()
    point, lacking = summary.operating_point.get(parameters.criterion), ""
    if point is None:
        manifest = published.read_manifest(directory) or published.Manifest(outputs={})
        lacking = too_few(len(summary.frames.used), parameters.false_alarm_budget) or "none keeps the budget"
        try:
            comparable = identity(manifest.camera, parameters.model_dump(mode="json"))
            point = season_setting(outputs, parameters.criterion, comparable)
        except ParametersError as error:
            raise Sla1Error(f"nothing to adopt: {lacking}; and {error}") from None
    name = "-".join(["adopted", *parameters.capture_directory.parts[-3:]]).replace(" ", "-")
    return save_setting(parameters.model_copy(update=point.cuts), name, point.cuts, NIGHTS_OWN), lacking
