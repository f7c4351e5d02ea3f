"""Tables of the notebooks: numbers that can be checked by hand, and texts that are no markup."""

import re
from dataclasses import replace
from math import log10
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.table import Table
from small_nights import with_counts, write_small_night

from sla1tools import open_night
from sla1tools.darks.model import characterize
from sla1tools.darks.telegraph import Together
from sla1tools.places import CHECKOUT
from sla1tools.show import characterization, curves, tables
from sla1tools.text import LEAST_CHANCE


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    capture, _ = write_small_night(tmp_path_factory.mktemp("night"), 6, (128, 128), 3, glow=1100.0)
    return open_night(capture.parameters)


def test_what_a_count_may_be_worth(night):
    """Without a padding of 16 every electron would be 16, and the threshold of 200 e- one of 3,200."""
    html = characterization.scales(night).data
    for text in ("1.39 / 16", "0.0869", "200 e-, 2302 counts", ">200 e-<", "without padding: 1.39", ">3,200 e-<"):
        assert text in html
    transfer = night.dark.noise_model.photon_transfer
    assert transfer.can_tell
    assert f"{transfer.gain:.4f} ± {transfer.gain_error:.4f}" in html
    assert f">{200 * transfer.gain / (1.39 / 16):,.0f} e-<" in html
    level = night.summary["dark"]["level"]
    assert f">{level:,.0f} e-<" in html
    assert f">{16 * level:,.0f} e-<" in html


def test_remarks_are_text_and_none_is_said():
    assert "&lt;script&gt;" in tables.remarks(["<script>alert(1)</script>", "two"]).data
    assert "none" in tables.remarks([]).data


def test_a_chance_too_small_for_a_float_is_below_a_bound(night):
    shown = tables.shown(Table({"p_value": [0.0, 1e-60, 0.0123]})).data
    assert shown.count(">&lt; 1e-45<") == 2
    assert ">0.012<" in shown
    assert "left" not in shown
    leaders = night.leaders[:20]
    assert leaders["p_value"].mask.any()
    assert "p_value" in tables.leading_rows(leaders).data
    together = Together(pairs=5, by_chance=0.1, both_up=60, expected=1.0, p_value=0.0, power=0.9)
    assert "(p < 1e-45)" in str(together)
    words = (CHECKOUT / "sla1tools" / "show" / "explorer" / "words.js").read_text(encoding="utf-8")
    assert f'(p < {LEAST_CHANCE:g} ? "< {LEAST_CHANCE:g}"' in words  # the explorer's bound is the same


def test_depth_says_how_much_deeper_each_criterion_goes(night):
    html = tables.depth(night).data
    flux = {name: limits["flux_50"]["flux"] for name, limits in night.summary["completeness"].items()}
    assert all(flux.values())
    assert "magnitudes deeper than neighbor_ratio" in html
    assert ">+0.0<" in html
    assert f">{2.5 * log10(flux['neighbor_ratio'] / flux['psf_chi2']):+.1f}<" in html


def test_why_nothing_is_recommended(night):
    """Too few frames, a budget that no setting keeps, stars too faint for any: each reason is said where it holds."""
    assert tables.operating_points(night).data.count("11 frames would do") == 2
    enough = {"false_alarm_budget": 1.0}  # which three frames without an alarm can show
    busy = open_night(night.parameters.model_copy(update=enough))
    busy = replace(busy, summary=busy.summary | {"operating_point": {"neighbor_ratio": None, "psf_chi2": None}})
    assert tables.operating_points(busy).data.count("no setting keeps the budget") == 2
    faint = open_night(night.parameters.model_copy(update=enough | {"injection_flux_range": (1.0, 2.0)}))
    html = tables.operating_points(faint).data
    assert html.count("no setting finds half of the stars") == 2


def test_a_bad_column_does_not_swamp_the_pixels(tmp_path):
    """The noise of one column would drown the pattern of all other pixels, at worst as 0.00."""
    capture, simulated = write_small_night(tmp_path, 6, (128, 128), 3)
    rng = np.random.default_rng(2)
    counts = simulated.counts + np.rint(rng.normal(0, 80, simulated.counts.shape[1:]))  # 7 e- of fixed pattern
    split = []
    for noise in (0, 7500):
        counts[:, :, 40] = np.clip(counts[:, :, 40] + rng.normal(0, noise, (6, 128)), 0, 60_000)
        for k in range(6):
            capture = with_counts(capture, k, counts[k].astype(np.uint16))
        night = SimpleNamespace(dark=characterize(capture), capture=capture)
        html = characterization.nonuniformity(night).data
        split.append([float(number) for number in re.findall(r"right\">([\d.]+)</td>", html)])
    clean, struck = split
    assert clean[-1] == pytest.approx(80 * 1.39 / 16, rel=0.1)
    assert struck[-1] == pytest.approx(clean[-1], rel=0.05)
    assert struck == pytest.approx(clean, abs=1.0)


@pytest.mark.slow
@pytest.mark.parametrize(("step", "noise"), [(1, 40.0), (16, 40.0), (16, 9.0)])
def test_a_sound_night_is_calibrated_however_coarse_its_codes(tmp_path, step, noise):
    """At 9 e- a code of sixteen counts is a seventh of the noise: the median alone would jump by 10 %."""
    capture, simulated = write_small_night(tmp_path, 10, (256, 256), 3, noise=noise, level=noise**2, glow=noise**2)
    for k in range(10):
        coarse = np.rint(simulated.counts[k] / step) * step
        capture = with_counts(capture, k, coarse.astype(np.uint16))
    night = SimpleNamespace(capture=capture, dark=characterize(capture, step), audit=SimpleNamespace(step=step))
    widths, scaled = characterization.calibration(night)
    for width in (widths["mad"], widths["std"]):
        np.testing.assert_allclose(width, 1, atol=0.02)
    assert scaled.size == 10 * np.count_nonzero(night.dark.classes.dq == 0), "every frame"


def test_a_noise_that_is_wrong_shows_in_the_widths(night):
    """The dither hides nothing: a noise of nine tenths is a width of 1.11 at every level."""
    dark = SimpleNamespace(
        **{name: getattr(night.dark, name) for name in ("classes", "reference", "scale", "residual")},
        sigma=lambda *where: 0.9 * night.dark.sigma(*where),
    )
    widths, _ = characterization.calibration(SimpleNamespace(capture=night.capture, dark=dark, audit=night.audit))
    np.testing.assert_allclose(widths["mad"], 1 / 0.9, atol=0.05)


def test_magnitudes_stand_beside_fluxes_where_the_zero_point_is_set(night):
    """In the tables of candidates and of depths, and above the axes of fluxes."""
    seen = replace(night.capture, parameters=night.parameters.model_copy(update={"zero_point": 25.0}))
    bright = replace(night, capture=seen)
    found = bright.candidates(criterion="psf_chi2", snr_min=night.floors.snr + 0.1, p_min=0.0)
    assert len(found)
    flux = found["flux"][0]
    html = tables.leading_rows(found, 25.0).data
    assert "magnitude</th>" in html
    assert f">{25 - 2.5 * log10(flux):.2f}<" in html
    assert f">{found['time'][0]}<" in html
    assert "magnitude" not in tables.leading_rows(found).data
    limit = night.summary["completeness"]["psf_chi2"]["flux_50"]["flux"]
    assert f"({25 - 2.5 * log10(limit):.2f} mag)" in tables.depth(bright).data
    assert " mag)" not in tables.depth(night).data
    figure = curves.completeness(*tables.completeness(bright))
    flux_axis, above = figure.axes
    assert above.get_xlim() == pytest.approx(25 - 2.5 * np.log10(flux_axis.get_xlim()))
    assert len(curves.completeness(*tables.completeness(night)).axes) == 1


def test_every_candidates_caption_has_its_time(night):
    found = tables.brightest(night.candidates(threshold=night.floors.peak + 1, ratio=0.0))[:3]
    for text, row in zip(tables.captions(night, found), found, strict=True):
        assert text.startswith(f"{row['frame']}  {row['time'][11:19]}\n")
