"""Tables of the notebooks: numbers that can be checked by hand, and texts that are no markup."""

from math import log10

import pytest
from small_nights import write_small_night

from sla1tools import open_night
from sla1tools.show import characterization, tables


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


def test_depth_says_how_much_deeper_each_criterion_goes(night):
    html = tables.depth(night).data
    flux = {name: limits["flux_50"]["flux"] for name, limits in night.summary["completeness"].items()}
    assert all(flux.values())
    assert "magnitudes deeper than neighbor_ratio" in html
    assert ">+0.0<" in html
    assert f">{2.5 * log10(flux['neighbor_ratio'] / flux['psf_chi2']):+.1f}<" in html
