"""Counts audit: what the codes say, on the observers' printed pixels and on simulated converters."""

import numpy as np
import pytest

from sla1tools.frames.codes import audit_counts, code_histogram

# The 36 pixels of darks[5] that the observers' notebook prints, in electrons at 1.39 / 16 per count.
PRINTED = """
556. 5354.80125 0. 1300.17125 1300.17125 1241.27 498.749375 498.749375 1518.40125 1318.0675 1419.36375 1216.42375
1516.576875 1583.21 1518.40125 1239.5325 1397.558125 1410.32875 694.391875 788.13 712.0275 1314.505625 1383.136875
1363.155625 763.718125 794.7325 825.920625 1629.775 1672.778125 1522.05 958.144375 1596.24125 1004.014375 2470.03
2114.19 2175.17625
"""


def padded_counts(bits=4, seed=1, size=200_000):
    values = np.random.default_rng(seed).normal(940, 27, size)
    return (np.rint(values).astype(np.uint16) << bits).astype(np.uint16)


def test_printed_pixels_are_whole_counts_but_not_padded():
    counts = np.array(PRINTED.split(), float) * 16 / 1.39
    assert np.abs(counts - np.rint(counts)).max() < 1e-9
    audit = audit_counts(code_histogram(np.rint(counts).astype(np.uint16)), 65535, 16, 16.0)
    assert not audit.padding_holds
    assert audit.step == 1
    assert audit.top_code_seen == 61638
    assert "8 of 36 pixels (22.2%)" in audit.verdict
    assert "declare 16" in audit.verdict


def test_padding_holds_on_shifted_data():
    audit = audit_counts(code_histogram(padded_counts()), 65535, 16)
    assert audit.padding_holds
    assert audit.step == 16
    assert audit.low_bit_use == [0.0, 0.0, 0.0, 0.0]
    assert "holds: 200,000 of 200,000" in audit.verdict
    assert "declare" not in audit.verdict


def test_padding_forgives_metadata_and_the_rail_but_no_more():
    counts = padded_counts()
    counts[:3000] = 65535
    counts[-20:] = 61637  # one pixel in ten thousand
    audit = audit_counts(code_histogram(counts), 65535, 16)
    assert audit.padding_holds
    assert audit.top_code_seen == 65535
    counts[-21:] = 61637
    assert not audit_counts(code_histogram(counts), 65535, 16).padding_holds


def test_low_bits_in_honest_use_are_half_set():
    counts = np.random.default_rng(2).normal(15000, 430, 400_000).astype(np.uint16)
    audit = audit_counts(code_histogram(counts), 65535, 16)
    np.testing.assert_allclose(audit.low_bit_use, 0.5, atol=5 * 0.5 / np.sqrt(400_000))
    assert "chance alone gives 6.2%" in audit.verdict


def test_as_many_bits_as_the_padding_has():
    histogram = code_histogram(padded_counts(bits=5))
    assert len(audit_counts(histogram, 65535, 64).low_bit_use) == 6
    assert len(audit_counts(histogram, 65535, 1).low_bit_use) == 4
    assert audit_counts(histogram, 65535, 32).padding_holds
    assert not audit_counts(histogram, 65535, 64).padding_holds


def test_step_is_that_of_the_differences():
    audit = audit_counts(code_histogram(np.array([7, 19, 31, 65535], np.uint16)), 65535, 1)
    assert audit.step == 12
    assert audit_counts(code_histogram(np.array([5, 5], np.uint16)), 65535, 1).step == 0


def test_where_no_padding_is_configured_the_step_is_told():
    counts = np.random.default_rng(3).normal(15000, 100, 1_000_000).astype(np.uint16)
    audit = audit_counts(code_histogram(counts), 65535, 1)
    assert audit.verdict == "No padding is configured; the codes' greatest common step is 1."


def test_fractional_padding_is_no_padding_of_the_codes():
    assert not audit_counts(code_histogram(padded_counts()), 65535, 7.5).padding_holds


def test_histograms_add_and_leave_the_counts_alone():
    band = np.random.default_rng(4).integers(0, 65536, (3, 4, 50), dtype=np.uint16)
    before = band.copy()
    total = code_histogram(band)
    assert total.dtype == np.int64
    np.testing.assert_array_equal(total, sum(code_histogram(frame) for frame in band))
    np.testing.assert_array_equal(total[band[0, 0, 0]], (band == band[0, 0, 0]).sum())
    np.testing.assert_array_equal(band, before)
    untouched = total.copy()
    audit_counts(total, 65535, 16)
    np.testing.assert_array_equal(total, untouched)


def test_no_pixels_is_an_error():
    with pytest.raises(ValueError, match="no pixels"):
        audit_counts(np.zeros(65536, np.int64), 65535, 16)
