import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sla1tools.darks.reference import DarkReference, middle_counts, middle_places

stacks = st.integers(3, 12).flatmap(
    lambda n: hnp.arrays(
        np.uint16,
        st.tuples(st.just(n), st.integers(1, 4), st.integers(1, 5)),
        elements=st.one_of(st.integers(0, 5), st.sampled_from([0, 65535, 65534]), st.integers(0, 65535)),
    )
)


def median_reference(counts):
    return DarkReference(len(counts), "median", middle_counts(counts))


def average_reference(counts):
    return DarkReference(len(counts), "average", counts.sum(axis=0, dtype=np.uint32)[None])


def whole_parts(counts, others, method):
    """Residuals as whole numbers: halves of counts, or for the average parts of one in the number of frames."""
    wide = others.astype(np.int64)
    if method == "average":
        return len(wide) * counts.astype(np.int64) - wide.sum(axis=0)
    return 2 * counts.astype(np.int64) - np.rint(2 * np.median(wide, axis=0)).astype(np.int64)


def ranks(values):
    return np.unique(values, return_inverse=True)[1]


@settings(max_examples=300, deadline=None)
@given(stacks)
@pytest.mark.slow
def test_middle_and_residuals_are_exact(counts):
    before = counts.copy()
    n = len(counts)
    np.testing.assert_array_equal(middle_counts(counts), np.sort(counts, axis=0)[list(middle_places(n))])
    for reference, combine in ((median_reference(counts), np.median), (average_reference(counts), np.mean)):
        np.testing.assert_allclose(reference.master, combine(counts, axis=0), rtol=1e-15)
        for k in range(n):
            for kind, others in (("leave_one_out", np.delete(counts, k, axis=0)), ("all", counts)):
                residual = reference.residual(counts[k], kind)
                np.testing.assert_allclose(residual, counts[k] - combine(others, axis=0), rtol=1e-12, atol=1e-10)
                parts = whole_parts(counts[k], others, reference.method)
                np.testing.assert_array_equal(ranks(residual), ranks(parts), "a tie is a tie, and nothing else is")
                np.testing.assert_array_equal(ranks(reference.residual(counts[k], kind, scale=1.39 / 16)), ranks(parts))
                if reference.method == "median":
                    np.testing.assert_array_equal(residual, counts[k] - np.median(others, axis=0))
    np.testing.assert_array_equal(counts, before)


@settings(max_examples=100, deadline=None)
@given(stacks, st.integers(0, 65535))
def test_what_is_put_into_a_frame_does_not_move_its_reference(counts, added):
    starred = np.minimum(counts[0].astype(np.int64) + added, 65535).astype(np.uint16)
    for reference in (median_reference(counts), average_reference(counts)):
        found = reference.residual(starred, "leave_one_out", own=counts[0])
        parts = whole_parts(starred, counts[1:], reference.method)
        np.testing.assert_array_equal(ranks(found), ranks(parts))
        combine = np.median if reference.method == "median" else np.mean
        np.testing.assert_allclose(found, starred - combine(counts[1:], axis=0), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("n", [3, 4, 5, 17, 50, 101, 200])
def test_many_frames(n):
    counts = np.random.default_rng(n).integers(0, 65536, (n, 50, 9)).astype(np.uint16)
    np.testing.assert_array_equal(middle_counts(counts), np.sort(counts, axis=0)[list(middle_places(n))])


def test_a_part_of_the_frame_has_the_residual_of_the_whole():
    counts = np.random.default_rng(5).integers(0, 3000, (7, 90, 31)).astype(np.uint16)
    reference = median_reference(counts)
    whole = reference.residual(counts[2], "leave_one_out")
    part = np.s_[41:83, 3:9]
    np.testing.assert_array_equal(reference.residual(counts[2][part], "leave_one_out", part), whole[part])


@pytest.mark.parametrize("n", [9, 10])
@pytest.mark.parametrize("method", ["median", "average"])
def test_master_and_residual_are_those_of_ccdproc(n, method):
    """As the observers call it: raw values scaled first, then `ccdproc.combine` and `ccdproc.subtract_dark`."""
    from astropy import units as u
    from astropy.nddata import CCDData
    from ccdproc import combine, subtract_dark

    counts = np.random.default_rng(7).integers(12000, 18000, (n, 40, 30)).astype(np.uint16)
    scale = 1.39 / 16
    darks = [CCDData(frame * scale, unit="adu") for frame in counts]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        master = combine(darks, method=method)
    seconds = 30 * u.second
    subtracted = subtract_dark(darks[4], master, data_exposure=seconds, dark_exposure=seconds, scale=False)
    reference = (median_reference if method == "median" else average_reference)(counts)
    np.testing.assert_allclose(reference.master * scale, master.data, rtol=1e-12)
    residual = reference.residual(counts[4], "all", scale=scale)
    np.testing.assert_allclose(residual, subtracted.data, atol=1e-9)
    if method == "median":
        scaled_first = np.median([frame * scale for frame in counts], axis=0)
        np.testing.assert_array_equal(master.data, scaled_first)
