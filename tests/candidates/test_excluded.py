"""Classes that are left out: no candidate, no expectation, no recovered star there, and the stars still count."""

import numpy as np
import pytest
from astropy.table import Table
from small_nights import with_parameters, write_small_night

from sla1tools.candidates.criteria import CRITERIA, candidate_noise, candidates, neighbor_ratio
from sla1tools.candidates.rates import gaussian_expectation
from sla1tools.darks.classes import PixelClass, bits_of
from sla1tools.errors import ParametersError
from sla1tools.injections.counts import settings
from sla1tools.measure import measure_night
from sla1tools.parameters import Excludable, Parameters, read_parameters, to_yaml, validate
from sla1tools.show import tables

SHAPE = (160, 160)
EXCLUDED = ("telegraph", "noisy", "hot", "known")


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """The same night with every tenth pixel known to be bad, with and without its classes left out."""
    directory = tmp_path_factory.mktemp("night")
    y, x = np.divmod(np.random.default_rng(0).permutation(SHAPE[0] * SHAPE[1])[: SHAPE[0] * SHAPE[1] // 10], SHAPE[1])
    Table({"x": x, "y": y}).write(directory / "known.ecsv")
    changes = {"known_pixels": str(directory / "known.ecsv"), "threshold": 130.0, "ratio": 0.0, "injections": 2000}
    night, _ = write_small_night(directory, 8, SHAPE, 4, changes, clean=False, noise=37.0)
    return [measure_night(with_parameters(night, excluded_classes=excluded).parameters) for excluded in ((), EXCLUDED)]


def test_only_classes_that_a_frame_does_not_make_itself_can_be_left_out():
    assert validate({"excluded_classes": ["hot", "telegraph"]}, "here").excluded_classes == ("hot", "telegraph")
    for wrong in (["saturated"], ["cosmic_ray"], ["unstable"], "hot", [16], ["hot"] * 7):
        with pytest.raises(ParametersError, match="excluded_classes"):
            validate({"excluded_classes": wrong}, "here")


def test_a_list_in_a_file_is_read_back(tmp_path):
    own = Parameters(excluded_classes=("known", "metadata"))
    (tmp_path / "all.yaml").write_text(to_yaml(own), encoding="utf-8")
    assert read_parameters([tmp_path / "all.yaml"]) == own
    assert read_parameters([tmp_path / "all.yaml"], [("excluded_classes", "[hot]")]).excluded_classes == ("hot",)


def test_every_name_is_a_class():
    assert bits_of(Excludable.__args__) == 2 + 4 + 8 + 16 + 32 + 128
    assert bits_of(()) == 0


def test_without_any_the_observers_rule_never_reads_dq(nights):
    assert all(term.column != "dq" for term in CRITERIA["neighbor_ratio"].terms)
    plain = nights[0].leaders["peak", "neighbor_min"]
    assert neighbor_ratio(plain, 200.0, 0.3).tolist() == neighbor_ratio(nights[0].leaders, 200.0, 0.3).tolist()


@pytest.mark.parametrize("name", ["neighbor_ratio", "psf_chi2"])
def test_no_candidate_lies_on_a_class_that_is_left_out(nights, name):
    every, fewer = nights
    np.testing.assert_array_equal(every.leaders["peak"], fewer.leaders["peak"], "the same leaders are measured")
    free = (np.asarray(every.leaders["dq"]) & bits_of(EXCLUDED)) == 0
    all_of_them, left = (candidates(night.leaders, night.parameters, name) for night in nights)
    if name == "neighbor_ratio":
        assert 0 < left.sum() < all_of_them.sum()
        np.testing.assert_array_equal(left, all_of_them & free)
    assert not np.any(left & ~free)
    own, base = (night.summary["false_alarms_per_frame"][name] for night in (fewer, every))
    assert "every_pixel" not in base
    assert own["every_pixel"] == {end: base[end] for end in ("rate", "low", "high")}
    unlisted = every.leaders.copy()
    unlisted["dq"] &= ~int(PixelClass.KNOWN)
    flash = candidates(unlisted, every.parameters, name) & ((np.asarray(every.leaders["dq"]) & PixelClass.KNOWN) != 0)
    known = every.leaders[flash & (every.leaders["reference"] == "leave_one_out")]
    assert own["known"] == base["known"] == sorted(set(zip(known["x"].tolist(), known["y"].tolist(), strict=True)))
    assert own["rate"] == fewer.summary["candidates"][name]["held_out"] / 8 <= base["rate"]
    assert len(fewer.candidates(name)) == fewer.summary["candidates"][name]["held_out"]


def test_both_rates_stand_in_the_table(nights):
    every, fewer = (tables.false_alarms(night).data for night in nights)
    assert "all, on excluded classes too" in fewer
    assert "all, on excluded classes too" not in every


def test_the_expectation_is_that_of_the_other_pixels(nights):
    """What is left out and what is left add up; a neighbour that is left out is a neighbour still."""
    every, fewer = nights
    noise = candidate_noise(fewer.dark, fewer.parameters)
    assert 0.1 < noise.mask.mean() < 0.15
    cuts = (100.0, 0.3)
    whole = gaussian_expectation(noise.data, *cuts)
    parts = [gaussian_expectation(np.ma.array(noise.data, mask=mask), *cuts) for mask in (noise.mask, ~noise.mask)]
    assert sum(parts) == pytest.approx(whole, rel=1e-6)
    assert min(parts) > 0
    for name in CRITERIA:
        less, more = (n.summary["false_alarms_per_frame"][name]["gaussian_expectation"] for n in (fewer, every))
        assert 0 < less < more


def test_stars_on_a_class_that_is_left_out_are_missed_and_still_count(nights):
    every, fewer = nights
    assert len(every.trials) == len(fewer.trials) == 2000
    at = tuple(np.rint(fewer.trials[axis]).astype(int) for axis in ("y_true", "x_true"))
    bright = np.asarray(fewer.trials["flux_true"]) > 5000
    there = np.asarray(fewer.trials["miss_reason"]) == "excluded"
    assert there.sum() > 50
    assert not np.asarray(fewer.trials["recovered_neighbor_ratio"])[there].any()
    known = (fewer.dark.classes.dq[at] & PixelClass.KNOWN != 0) & bright
    found = [np.asarray(night.trials["recovered_neighbor_ratio"])[known].mean() for night in nights]
    assert found[0] > 0.9
    assert found[1] < 0.5, "but for stars whose brightest pixel is the next one"
    missed = np.asarray(every.trials["miss_reason"]) != ""
    missed &= np.asarray(every.trials["miss_reason"]) != "already there"
    assert not np.asarray(fewer.trials["recovered_neighbor_ratio"])[missed].any()


def test_the_grid_of_settings_leaves_them_out_too(nights):
    for night in nights:
        row = night.grid[night.grid["criterion"] == "neighbor_ratio"][0]
        assert (row["threshold"], row["ratio"]) == (130.0, 0.0)
        assert row["even"] + row["odd"] == night.summary["candidates"]["neighbor_ratio"]["held_out"]
    assert len(settings(nights[0].parameters)) == len(settings(nights[1].parameters))


def test_other_cuts_leave_them_out_too(nights):
    found = nights[1].candidates("neighbor_ratio", threshold=150.0)
    assert len(found)
    assert not np.any(np.asarray(found["dq"]) & bits_of(EXCLUDED))
