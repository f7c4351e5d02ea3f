"""Selections on a leader table, against plain loops."""

from typing import get_args

import numpy as np
import pytest
from astropy.table import MaskedColumn, Table
from hypothesis import given, settings
from hypothesis import strategies as st

from sla1tools.candidates.criteria import CRITERIA, CUTS, candidates, in_words, neighbor_ratio, psf_chi2
from sla1tools.candidates.selection import Criterion, Term, first_failed
from sla1tools.darks.classes import BLOCKING, PixelClass
from sla1tools.parameters import Parameters

rows = st.lists(
    st.fixed_dictionaries(
        {
            "frame": st.sampled_from(["00001.fits", "00002.fits"]),
            "reference": st.sampled_from(["leave_one_out", "all"]),
            "x": st.integers(0, 8),
            "y": st.integers(0, 8),
            "snr": st.one_of(st.none(), st.just(float("nan")), st.sampled_from([4.5, 6.0, 6.5, 7.0, 9.0])),
            "p_value": st.one_of(st.none(), st.sampled_from([float("nan"), 0.0, 1e-3, 0.2, 1.0])),
            "dq": st.sampled_from([0, 0, 0, 1, 64, 512, 8192, 16, 4, 2048, 17]),
        }
    ),
    max_size=30,
)


def as_table(listed):
    table = Table({name: [row[name] for row in listed] for name in ("frame", "reference")}, dtype=["U10", "U13"])
    for name in ("x", "y", "dq"):
        table[name] = np.array([row[name] for row in listed], np.int32)
    for name in ("snr", "p_value"):
        mask = [row[name] is None for row in listed]
        table[name] = MaskedColumn([9.9 if row[name] is None else row[name] for row in listed], mask=mask, dtype=float)
    return table


def slow_psf_chi2(listed, snr_min, p_min):
    """From the highest S/N down: a row that passes counts unless one that counts is within two pixels of it."""
    passing = [
        i
        for i, row in enumerate(listed)
        if row["snr"] is not None
        and row["p_value"] is not None
        and row["snr"] >= snr_min
        and row["p_value"] >= p_min
        and not row["dq"] & BLOCKING
    ]
    counted = []
    for i in sorted(passing, key=lambda i: -listed[i]["snr"]):
        same_frame = [
            listed[j] for j in counted if all(listed[j][name] == listed[i][name] for name in ("frame", "reference"))
        ]
        if not any(max(abs(o["x"] - listed[i]["x"]), abs(o["y"] - listed[i]["y"])) <= 2 for o in same_frame):
            counted.append(i)
    return sorted(counted)


@settings(max_examples=500, deadline=None)
@given(rows, st.sampled_from([4.0, 6.0, 7.0]), st.sampled_from([0.0, 1e-3, 0.5]))
@pytest.mark.slow
def test_psf_chi2_is_the_greedy_loop(listed, snr_min, p_min):
    table = as_table(listed)
    before = table.copy()
    chosen = psf_chi2(table, snr_min, p_min)
    assert np.flatnonzero(chosen).tolist() == slow_psf_chi2(listed, snr_min, p_min)
    for name in table.colnames:
        np.testing.assert_array_equal(np.asarray(table[name]), np.asarray(before[name]))


GOOD = {"frame": "a", "reference": "all", "x": 5, "y": 5, "snr": 8.0, "p_value": 0.3, "dq": 0}


def one_row(**changes):
    return as_table([GOOD | changes])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3), st.sampled_from([6.0, 7.0, 8.0, 9.0])), max_size=12))
@pytest.mark.slow
def test_a_crowd_of_good_rows_is_thinned_greedily(places):
    listed = [GOOD | {"x": x, "y": y, "snr": snr} for x, y, snr in places]
    assert np.flatnonzero(psf_chi2(as_table(listed), 6.0, 1e-3)).tolist() == slow_psf_chi2(listed, 6.0, 1e-3)


def test_a_row_that_does_not_count_removes_no_other():
    chain = [GOOD | {"x": x, "snr": snr} for x, snr in ((2, 9.0), (4, 8.0), (6, 7.0), (9, 6.0))]
    assert psf_chi2(as_table(chain), 6.0, 1e-3).tolist() == [True, False, True, True]


def test_a_good_row_passes_at_its_cuts_exactly():
    assert psf_chi2(one_row(), 8.0, 0.3).all()
    assert not psf_chi2(one_row(), np.nextafter(8.0, 9), 0.3).any()
    assert not psf_chi2(one_row(), 8.0, np.nextafter(0.3, 1)).any()


@pytest.mark.parametrize(
    "spoilt", [{"snr": None}, {"p_value": None}, {"snr": np.nan}, {"p_value": np.nan}], ids=lambda s: next(iter(s))
)
def test_masked_and_nan_never_pass(spoilt):
    assert not psf_chi2(one_row(**spoilt), 0.0, 0.0).any()


@pytest.mark.parametrize("flag", PixelClass)
def test_blocking_flags_reject_and_the_others_do_not(flag):
    assert psf_chi2(one_row(dq=int(flag)), 6.0, 1e-3).any() == (not flag & BLOCKING)
    table = Table({"peak": [300.0], "neighbor_min": [100.0], "dq": [int(flag)]})
    assert neighbor_ratio(table, 200.0, 0.3).all(), "the observers' rule never consults DQ"


def test_the_lowest_neighbour_is_compared_and_never_the_quotient():
    k = np.arange(1, 4001)
    peak, lowest = 10 * k * (1.39 / 16), 3 * k * (1.39 / 16)  # exact ties in counts
    chosen = neighbor_ratio(Table({"peak": peak, "neighbor_min": lowest}), 0.0, 0.3)
    assert chosen.tolist() == [not low < 0.3 * high for high, low in zip(peak.tolist(), lowest.tolist(), strict=True)]
    assert 0.01 < np.mean(chosen != (lowest / peak >= 0.3)) < 0.1, "a quotient would decide some ties differently"
    assert not neighbor_ratio(Table({"peak": [200.0], "neighbor_min": [200.0]}), 200.0, 0.3).any(), "strictly above"


def test_the_configured_criterion_is_used_unless_the_other_is_named():
    table = one_row()
    table["peak"], table["neighbor_min"] = 150.0, 100.0
    observers, wished = Parameters(), Parameters(criterion="psf_chi2")
    assert not candidates(table, observers).any()
    assert candidates(table, wished).all()
    assert candidates(table, observers, "psf_chi2").all()
    assert not candidates(table, wished, "neighbor_ratio").any()


def test_the_parameters_permit_the_criteria_that_there_are_and_have_a_field_for_each_cut():
    """`parameters.py` stands above this room and cannot read the list: a new criterion is named there too."""
    assert get_args(Parameters.model_fields["criterion"].annotation) == tuple(CRITERIA)
    assert CUTS.keys() <= Parameters.model_fields.keys()


def test_a_criterion_that_would_lose_leaders_below_the_floors_is_refused():
    rule = CRITERIA["neighbor_ratio"]
    for terms in (
        (Term("neighbor_min", ">=", "ratio", "ratio", factor="peak"),),
        (Term("peak", ">=", "threshold", "below threshold"),),  # a peak that equals its floor is in no table
        (Term("peak", ">", 100.0, "below threshold"),),
    ):
        with pytest.raises(ValueError, match=r"criterion new: .*as threshold and snr_min are"):
            Criterion("new", "", "#000000", rule.cuts, terms, rule.expected)


@pytest.mark.parametrize(
    ("comparison", "passing"),
    [
        (">", [False, False, True]),
        (">=", [False, True, True]),
        ("<", [True, False, False]),
        ("<=", [True, True, False]),
    ],
)
def test_a_term_compares_as_it_says_and_masked_or_nan_values_fail(comparison, passing):
    values = MaskedColumn([1.0, 2.0, 3.0, 2.0, np.nan], mask=[False, False, False, True, False])
    table = Table({"snr": values, "peak": np.full(5, 4.0)})
    for term, cuts in (
        (Term("snr", comparison, "cut", "miss"), {"cut": 2.0}),
        (Term("snr", comparison, "cut", "miss", factor="peak"), {"cut": 0.5}),
        (Term("snr", comparison, 2.0, "miss"), {}),
    ):
        assert term.holds(table, cuts).tolist() == [*passing, False, False]


def test_the_reason_of_a_miss_is_the_first_term_that_fails():
    rule = CRITERIA["psf_chi2"]
    rows = [
        {},
        {"snr": None},
        {"p_value": 0.0},
        {"dq": 128, "snr": 1.0},
        {"dq": 2048 | 128},
        {"snr": 1.0, "p_value": 0.0},
    ]
    table = as_table([GOOD | row for row in rows])
    table["peak"] = 300.0
    reasons = ["", "snr", "chi2", "flagged", "saturated", "snr"]
    assert first_failed(rule.terms, table, {"snr_min": 6.0, "p_min": 1e-3}, "").tolist() == reasons


def test_a_setting_is_written_alike_everywhere():
    assert in_words({"threshold": 181.43, "ratio": 0.25}) == "threshold 181.4 e-, ratio 0.25"
    assert in_words({"of another version": 3.0}) == "of another version 3"
