"""The page of judged flashes: each beside the same place in the darks, its history, and what the fits leave of it."""

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from astropy.table import Table
from matplotlib.image import imsave

from sla1tools.candidates.leaders import cut_stamps
from sla1tools.candidates.psf import psf_of
from sla1tools.candidates.shapes import rival_templates
from sla1tools.measure import Measurement
from sla1tools.show.pages import TEMPLATES, page_css, page_template, policy
from sla1tools.text import shown
from sla1tools.vetting.judging import JUMP_SIGMA, VERDICTS
from sla1tools.vetting.measuring import ScienceFrame, stamps_of

REACH = 10  # px around a flash that are shown
DARKS = 3
MOST_PICTURED = 500
SOFT, LEAST_HIGH = 3.0, 20.0  # sigma where the stretch bends, and that are white at least
LEFT_OVER = 5.0  # sigma at the ends of the colours
WIDTH, HEIGHT = 165, 84  # of a history


def pictures(frame: ScienceFrame, found: Table, night: Measurement) -> list[dict]:
    """Draw each flash of a frame, and what the darks have at its place.

    Parameters
    ----------
    frame : ScienceFrame
    found : Table
        Its measured flashes, as `Witness.vet_flashes` hands them over.
    night : Measurement
        The darks.

    Returns
    -------
    pictures : list of dict
        `place` (row among all flashes), `flash`, `master` and `darks` (PNG as base64, one stretch), `star` and `rival`
        (what each fit leaves, in sigma), `history`.
    """
    at = np.asarray(found["y"]), np.asarray(found["x"])
    histories = night.histories(*at[::-1])
    whole = frame.counts * frame.field.gain
    highest = np.argsort(-histories, axis=1, kind="stable")[:, :DARKS]
    cuts = {
        k: cut_stamps(night.capture.rows(k, 0, frame.counts.shape[0]), *at, radius=REACH) for k in np.unique(highest)
    }
    images = cut_stamps(whole, *at, radius=REACH), cut_stamps(night.dark.master, *at, radius=REACH)
    left = _left_over(frame, found)
    drawn = []
    for i, row in enumerate(found):
        sigma = float(row["peak"] / row["height"])
        white = max(float(row["peak"]), LEAST_HIGH * sigma)
        darks = [cuts[k][i] * night.dark.scale for k in highest[i]]
        flash, master, *darks = (_grey(image, sigma, white) for image in (images[0][i], images[1][i], *darks))
        drawn.append(
            {"place": int(row["place"]), "flash": flash, "master": master, "darks": darks, "star": left[i][0]}
            | {"rival": left[i][1], "rival_name": str(row["best_rival"] or ""), "history": _history(histories[i], row)}
        )
    return drawn


def vetting_page(flashes: Table, judged: Table, pictures: Sequence[Mapping], searched: str, night: Measurement) -> str:
    """Return the page: self-contained, asking nothing of the network; the first `MOST_PICTURED` flashes have pictures.

    Parameters
    ----------
    flashes, judged : Table
        As from `read_flashes` and `Witness.vet_flashes`, row by row.
    pictures : sequence of mapping
        From `pictures`.
    searched : str
        What was searched, in words.
    night : Measurement
        The darks.
    """
    by_row, script = {picture["place"]: picture for picture in pictures}, (TEMPLATES / "vet.js").read_text("utf-8")
    cards = []
    for i, (given, row) in enumerate(zip(flashes, judged, strict=True)):
        decisive, *reasons = str(row["reasons"]).split("; ")
        numbers = {name: _value(row[name]) for name in ("snr", "p_value", "expected", "expected_high", "flux")}
        cards.append(
            {"file": given["file"], "x": _value(given["x"]), "y": _value(given["y"]), "verdict": row["verdict"]}
            | {"order": VERDICTS.index(row["verdict"]), "decisive": decisive, "reasons": reasons}
            | {"numbers": numbers, "picture": by_row.get(i), "more": _others(flashes, given)}
        )
    parameters, counts = night.parameters, Counter(judged["verdict"])
    return page_template("vet.html.j2").render(
        policy=policy(script),
        css=page_css(with_explorer=False) + (TEMPLATES / "vet.css").read_text("utf-8"),
        script=script,
        cards=cards,
        counts=[(verdict, counts[verdict]) for verdict in VERDICTS if counts[verdict]],
        searched=searched,
        night="/".join((parameters.capture_date, parameters.capture_time, parameters.object_name)),
        darks=len(night.capture.frames),
        parameters=parameters,
        unpictured=max(len(judged) - MOST_PICTURED, 0),
        shown=shown,
    )


def _value(value) -> float | None:
    return None if value is np.ma.masked or not np.isfinite(value) else float(value)


def _others(flashes: Table, given) -> list[tuple[str, str]]:
    return [(name, str(given[name])) for name in flashes.colnames if name not in ("file", "x", "y")]


def _grey(image: np.ndarray, sigma: float, white: float) -> str:
    """Draw a cut-out above its own median, asinh-stretched from -3 sigma to white; grey where there is no frame."""
    level = np.arcsinh((image - np.nanmedian(image)) / (SOFT * sigma))
    low, high = np.arcsinh([-1, white / (SOFT * sigma)])
    return _png(np.where(np.isfinite(level), level, (low + high) / 2), low, high, "gray")


def _png(image: np.ndarray, low: float, high: float, colors: str) -> str:
    buffer = io.BytesIO()
    imsave(buffer, image, vmin=low, vmax=high, cmap=colors, origin="lower", format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def _left_over(frame: ScienceFrame, found: Table) -> list[tuple[str, str]]:
    """Draw what star and best rival leave of each stamp, in sigma; '' where nothing was fitted."""
    psf, rivals = psf_of(frame.parameters), rival_templates()
    drawn: list[tuple[str, str]] = []
    for row, stamp, noise, valid in zip(found, *stamps_of(frame, found), strict=True):
        if row["snr"] is np.ma.masked:
            drawn.append(("", ""))
            continue
        offset = [np.array([row[f"{axis}_fit"] - row[axis]]) for axis in ("x", "y")]
        star, _, _, *modes = psf.images(offset[0], offset[1], psf.at([row["x"]], [row["y"]]), order=2)[0]
        light = max(row["flux"], 0) * np.maximum(star, 0)
        sigma = np.where(valid, np.sqrt(noise**2 + light + (psf.light_error * light) ** 2), np.inf)
        priors = [row["flux"] * error * mode for mode, error in zip(modes, psf.mode_errors, strict=True)]
        flat, plain = np.ones_like(stamp), np.where(valid, noise, np.inf)
        of_rivals = [_left(stamp, plain, [shape, flat]) for shape in rivals[row["best_rival"]]]
        of_star, of_rival = _left(stamp, sigma, [star, flat], priors), min(of_rivals, key=lambda left: (left**2).sum())
        drawn.append((_left_png(of_star), _left_png(of_rival)))
    return drawn


def _left_png(left: np.ndarray) -> str:
    return _png(left, -LEFT_OVER, LEFT_OVER, "RdBu_r")


def _left(stamp, sigma, free, with_priors=()) -> np.ndarray:
    """Fit images by least squares, some with amplitudes that are 0 +- 1, and return what is left in sigma."""
    images, number = np.stack([*free, *with_priors]).reshape(len(free) + len(with_priors), -1), len(with_priors)
    stamp, weight = np.nan_to_num(stamp.ravel()), 1 / sigma.ravel()
    matrix = np.vstack([(images * weight).T, np.eye(len(images))[len(free) :]])
    fitted = np.linalg.lstsq(matrix, np.append(stamp * weight, np.zeros(number)), rcond=None)[0]
    return ((stamp - fitted @ images) * weight).reshape(sigma.shape)


def _history(history: np.ndarray, row) -> dict:
    """Return the places of a history's points, and of this flash's, in a picture of WIDTH by HEIGHT."""
    values = np.append(history, row["height"])
    level = np.arcsinh(np.append(values, [0, JUMP_SIGMA]) / SOFT)
    low, high = min(level.min(), np.arcsinh(-1)), level.max()
    *y, zero, jump = (HEIGHT - 6 - (HEIGHT - 12) * (level - low) / (high - low)).round(1).tolist()
    x = np.linspace(6, WIDTH - 62, len(history)).round(1).tolist()
    text = f"{len(history)} darks, the highest {history.max():.1f} sigma; this flash {row['height']:.1f} sigma"
    return {"points": list(zip(x, y[:-1], strict=True)), "flash": (WIDTH - 50, y[-1]), "zero": zero, "jump": jump} | {
        "text": text,
        "height": f"{row['height']:.1f} σ",
        "width": WIDTH,
        "tall": HEIGHT,
    }
