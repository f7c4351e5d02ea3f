"""Published nights without frames behind them, for the tests of the page of all nights."""

import json

import numpy as np
from astropy.io import fits
from night_tables import make_leaders

from sla1tools.candidates.rows import FILE_COLUMNS
from sla1tools.parameters import Parameters
from sla1tools.published import FAILED, write_manifest

SHAPE = (32, 40)


def night_keys(number, name="Dark30s"):
    return {"capture_date": f"20{24 + number // 336}-{1 + number // 28 % 12:02d}-{1 + number % 28:02d}",
            "capture_time": "03_38_48", "object_name": name}  # fmt: skip


def summary_of(keys, level=1300.0, noise=40.0, gain=0.087, alarms=0.1, flux=1800.0, hot=20, frames=10):
    criteria = ("neighbor_ratio", "psf_chi2")
    rate = {"rate": alarms, "low": alarms / 2, "high": alarms + 0.3, "confidence": 0.95, "gaussian_expectation": 1e-4}
    limit = {"flux": flux, "low": flux and flux * 0.95, "high": flux and flux * 1.05}
    return {
        "night": keys,
        "verdict": "ok",
        "reasons": [],
        "notes": [],
        "floors": {"peak": 120.0, "snr": 4.0, "left_out": 0},
        "counts": {"low_bit_use": [], "step": 1, "top_code_seen": False, "padding_holds": False},
        "frames": {"used": [f"{k:05d}.fits" for k in range(frames)], "rejected": {}, "ignored": []},
        "dark": {"level": level, "noise": noise, "gain_measured": gain, "gain_configured": 0.087, "pedestal": 0.0},
        "pixels": {"hot": hot, "warm": 4 * hot, "unstable": hot // 2},
        "candidates": {name: {"held_out": 1, "in_sample": 0, "per_frame": [1]} for name in criteria},
        "false_alarms_per_frame": dict.fromkeys(criteria, rate),
        "completeness": {name: {"flux_50": limit, "flux_90": limit, "curve": []} for name in criteria},
        "operating_point": {"neighbor_ratio": {"cuts": {"threshold": 181.4, "ratio": 0.25}}, "psf_chi2": None},
    }


def publish(
    outputs,
    number,
    bad=(),
    known=(),
    candidates=(),
    name="Dark30s",
    reasons=(),
    changes=None,
    counts=None,
    camera="QHY42PRO",
    star=(2.0, 0.1),
    **numbers,
):
    """Write a published night; `bad`, `known` and `candidates` are pixels (x, y), `counts` its settings.npy. Returns
    its folder.
    """
    keys = night_keys(number, name)
    folder = outputs.joinpath(*keys.values())
    folder.mkdir(parents=True)
    dq = np.zeros(SHAPE, np.uint16)
    for pixels, value in ((bad, 16), (known, 4)):
        for x, y in pixels:
            dq[y, x] |= value
    first = fits.PrimaryHDU(np.zeros(SHAPE, np.float32))
    first.header["DATE-BEG"] = f"{keys['capture_date']}T03:38:18.000"
    first.header["INSTRUME"] = camera
    fits.HDUList([first, fits.ImageHDU(dq, name="DQ")]).writeto(folder / "master_dark.fits")
    table = make_leaders(len(candidates), Parameters(frame_shape=SHAPE))
    table["time"] = [f"{keys['capture_date']}T03:38:18"] * len(candidates)
    table = table[list(FILE_COLUMNS)]
    table["frame"] = [f"frame {k}.fits" for k in range(len(candidates))]
    table["x"], table["y"] = np.array(list(candidates), np.int32).reshape(-1, 2).T
    table.write(folder / "candidates.ecsv", format="ascii.ecsv")
    summary = summary_of(keys, **numbers)
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "index.html").write_text("the night")
    if counts is not None:
        np.save(folder / "settings.npy", counts)
    parameters = Parameters(**(keys | {"frame_shape": SHAPE} | (changes or {})))
    verdict = {"verdict": "degraded" if reasons else "ok", "reasons": list(reasons)}
    verdict["star"] = {"fwhm": star[0], "size_error": star[1]}
    write_manifest(folder, {"parameters": parameters.model_dump(mode="json"), "exit_status": 0} | verdict)
    return folder


def publish_many(outputs, nights):
    """As `publish`, but the files of the first night are used again: a thousand nights in a second."""
    first = publish(outputs, 0, candidates=[(5, 6)], bad=[(1, 2)])
    texts = {path.name: path.read_text("latin-1") for path in first.iterdir()}
    for number in range(1, nights):
        keys = night_keys(number)
        folder = outputs.joinpath(*keys.values())
        folder.mkdir(parents=True)
        for name, text in texts.items():
            (folder / name).write_text(text.replace(first.parts[-3], keys["capture_date"]), "latin-1")


def fail(outputs, number, reason, name="Dark30s"):
    """Write a failed night; returns its folder."""
    keys = night_keys(number, name)
    folder = outputs.joinpath(FAILED, *keys.values())
    folder.mkdir(parents=True)
    parameters = Parameters(**keys).model_dump(mode="json")
    write_manifest(folder, {"parameters": parameters, "verdict": "failed", "reasons": [reason], "exit_status": 1})
    return folder
