"""The operating point: chosen on half of the frames, quoted on the other, within the budget where that can be known."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from astropy.table import Table
from small_nights import with_parameters, write_small_night

from sla1tools.candidates import rows
from sla1tools.candidates.criteria import CRITERIA, CUTS
from sla1tools.candidates.detection import detect_night
from sla1tools.candidates.rates import poisson_rate
from sla1tools.candidates.rows import Floors
from sla1tools.darks.model import characterize
from sla1tools.injections.completeness import completeness_curve, crossings
from sla1tools.injections.counts import BELOW, FLUX_EDGES, count_settings, settings, tradeoff
from sla1tools.injections.injection import Injections, inject
from sla1tools.injections.operating_point import operating_point, too_few
from sla1tools.measure import measure_night
from sla1tools.parameters import Parameters
from sla1tools.show.curves import _best_front


def grid_of(rows, criterion="psf_chi2"):
    """Rows of even count, odd count and flux; each with cuts of its own."""
    even, odd, flux_50 = zip(*rows, strict=True)
    cuts = np.arange(len(rows), dtype=float)
    columns = {name: cuts + 10 * i for i, name in enumerate(CUTS)}
    return Table(
        {"criterion": [criterion] * len(rows)}
        | columns
        | {"even": even, "odd": odd, "flux_50": np.array(flux_50, float)}
    )


def test_the_deepest_setting_within_the_budget_is_chosen_on_one_half_and_quoted_on_the_other():
    grid = grid_of([(0, 0, 900.0), (1, 7, 700.0), (2, 0, 600.0), (50, 0, 300.0), (0, 5, 800.0)])
    point = operating_point(grid, "psf_chi2", 21, 0.5)  # 11 choose: one alarm allows 4.74 / 11, two 6.30 / 11
    assert point.cuts == {"snr_min": 21.0, "p_min": 31.0}
    assert point.flux_50 == 700.0
    assert point.chosen_on == poisson_rate(1, 11)
    assert point.quoted_on == poisson_rate(7, 10), "what the other half saw, good or bad"
    assert point.chosen_on.high <= 0.5


def test_a_limit_that_is_the_budget_keeps_it():
    grid = grid_of([(1, 0, 500.0), (0, 0, 900.0)])
    exact = poisson_rate(1, 10).high
    assert operating_point(grid, "psf_chi2", 20, exact).flux_50 == 500.0
    assert operating_point(grid, "psf_chi2", 20, exact * (1 - 1e-9)).flux_50 == 900.0


def test_of_equal_depth_the_one_with_fewer_alarms_is_chosen():
    point = operating_point(grid_of([(1, 0, 500.0), (0, 9, 500.0), (1, 0, 500.0)]), "psf_chi2", 40, 0.5)
    assert point.chosen_on.count == 0


@pytest.mark.parametrize(("frames", "budget", "needed"), [(2, 0.5, 11), (10, 0.5, 11), (58, 0.1, 59), (1, 9.0, 2)])
def test_few_frames_recommend_nothing_and_say_how_many_would_do(frames, budget, needed):
    grid = grid_of([(0, 1, 900.0), (1, 0, 400.0)])
    assert operating_point(grid, "psf_chi2", frames, budget) is None
    assert f"half of {frames} frames cannot" in too_few(frames, budget)
    assert too_few(frames, budget).endswith(f": {needed} frames would do")
    assert too_few(needed, budget) == ""
    point = operating_point(grid, "psf_chi2", needed, budget)
    assert point.chosen_on.high <= budget
    assert (point.chosen_on.frames, point.quoted_on.frames) == ((needed + 1) // 2, needed // 2)


@pytest.mark.parametrize(
    ("rows", "frames"),
    [
        ([(0, 0, np.nan), (3, 3, np.nan)], 20),  # half of the stars are never found
        ([(9, 0, 500.0), (8, 0, 700.0)], 20),  # too many alarms at every setting
        ([(0, 0, 500.0)], 1),  # nothing to quote on
    ],
)
def test_where_nothing_can_be_recommended_nothing_is(rows, frames):
    assert operating_point(grid_of(rows), "psf_chi2", frames, 0.5) is None


def test_a_criterion_without_rows_has_no_point():
    assert operating_point(grid_of([(0, 0, 500.0)]), "neighbor_ratio", 20, 0.5) is None


@pytest.fixture(scope="module")
def defective(tmp_path_factory):
    """A night of five frames with bad pixels, so that both rules have false alarms; its tables and trade-off."""
    changes = {"injections": 4000, "injection_flux_range": (300.0, 6000.0), "threshold": 110.0, "ratio": 0.15}
    night, _ = write_small_night(
        tmp_path_factory.mktemp("night"), 5, (256, 256), 3, clean=False, noise=37.0, changes=changes
    )
    dark = characterize(night)
    leaders, _, floors = detect_night(night, dark)
    injections = inject(night, dark, floors)
    counts = count_settings(leaders, injections, night.names, floors, night.parameters)
    return night, leaders, injections, floors, counts


@pytest.fixture(scope="module")
def grid(defective):
    return tradeoff(defective[-1], defective[0].parameters)


@pytest.mark.slow
def test_every_setting_counts_and_finds_what_the_criterion_selects(defective, grid):
    night, leaders, injections, _, counts = defective
    own = leaders[leaders["reference"] == "leave_one_out"]
    half = np.array([night.names.index(name) % 2 for name in own["frame"]])
    flux = np.asarray(injections.trials["flux_true"])
    assert counts[0].tolist() == [3, 2, *np.histogram(flux, FLUX_EDGES)[0]]
    alarms, priors = 0, 0
    table = settings(night.parameters)
    counted = counts[1:, 0] != BELOW
    assert len(grid) == counted.sum() < len(table)
    flux_50 = np.full(len(table), np.nan)
    flux_50[counted] = grid["flux_50"]
    for k in [0, 1, *np.flatnonzero(counted)[:: len(grid) // 400]]:
        criterion = CRITERIA[table["criterion"][k]]
        cuts = {cut.name: table[cut.name][k] for cut in criterion.cuts}
        assert all(np.isnan(table[name][k]) for name in CUTS.keys() - cuts.keys())
        passes = criterion.select(own, cuts)
        assert counts[1 + k, :2].tolist() == np.bincount(half[passes], minlength=2).tolist()
        found = injections.recovered(criterion, cuts)
        assert counts[1 + k, 2:].tolist() == np.histogram(flux[found], FLUX_EDGES)[0].tolist()
        curve = completeness_curve(flux, found, FLUX_EDGES)
        curve = curve[curve["injected"] > 0]
        crossing = crossings(np.log(curve["flux"]), np.asarray(curve["completeness"])[None], 0.5)[0]
        assert flux_50[k] == pytest.approx(np.exp(crossing), nan_ok=True)
        alarms, priors = alarms + passes.sum(), priors + injections.leaders["before"].sum()
    assert alarms > 300
    assert priors > 0


def test_the_settings_are_the_same_for_every_night(defective):
    """Only the configured cuts, one row a criterion, are a night's own."""
    night, _, _, floors, counts = defective
    own, other = settings(night.parameters), settings(Parameters(threshold=777.0, snr_min=9.0))
    assert own["threshold"][0] == 110.0
    assert other["threshold"][0] == 777.0
    for name in CUTS:
        np.testing.assert_array_equal(own[name][2:], other[name][2:])
    assert 150 < np.count_nonzero((own["threshold"] > 100) & (own["threshold"] < 150)) < 200  # 1.05^k times 21 ratios
    for criterion in CRITERIA.values():
        for cut in (cut for cut in criterion.cuts if cut.floor):
            below = np.asarray(own[cut.name]) < getattr(floors, cut.floor)
            assert below.any()
            assert (counts[1:][below] == BELOW).all()
            assert (counts[1:][np.asarray(own[cut.name]) >= getattr(floors, cut.floor)] >= 0).all()


def test_stars_beyond_the_bins_count_in_the_first_and_the_last():
    table = Table({"flux_true": [1.0, 10.0, 99_999.0, 100_000.0, 1e6]})
    leaders = Table({name: np.zeros(0) for name in ("peak", "neighbor_min", "snr", "p_value")})
    leaders["star"], leaders["dq"], leaders["before"] = np.zeros((3, 0), int)
    none = Table(leaders, copy=True)
    none["frame"], none["reference"] = np.zeros((2, 0), "U3")
    counts = count_settings(none, Injections(table, leaders), ["a"], Floors(120.0, 4.0), Parameters())
    assert counts[0].tolist() == [1, 0, 2, *[0] * 38, 3]
    assert set(counts[1:].ravel().tolist()) == {0, BELOW}


def test_a_night_of_more_leaders_than_are_kept_counts_no_setting(defective):
    night, leaders, injections, floors, counts = defective
    none = count_settings(leaders, injections, night.names, replace(floors, left_out=10**7), night.parameters)
    assert (none[0] == counts[0]).all()
    assert (none[1:] == BELOW).all()


@pytest.mark.slow
def test_what_is_told_of_a_criterion_does_not_depend_on_which_is_configured(tmp_path):
    """A star that one rule finds was there already for the other: each keeps what every criterion needs."""
    night, _ = write_small_night(
        tmp_path, 6, (160, 160), 3, clean=False, noise=37.0, changes={"injections": 3000, "ratio": 0.1}
    )
    measured = [measure_night(with_parameters(night, criterion=name).parameters) for name in CRITERIA]
    one, *others = measured
    assert not np.array_equal(one.trials["miss_reason"], others[0].trials["miss_reason"])
    for other in others:
        assert np.array_equal(one.counts, other.counts)
        for block in ("completeness", "operating_point", "candidates", "false_alarms_per_frame"):
            assert one.summary[block] == other.summary[block]
        for name in CRITERIA:
            np.testing.assert_array_equal(one.trials[f"recovered_{name}"], other.trials[f"recovered_{name}"])


def test_stricter_cuts_never_raise_alarms(grid):
    ratio = grid[grid["criterion"] == "neighbor_ratio"][1:]
    shape = len(np.unique(ratio["threshold"])), len(np.unique(ratio["ratio"]))
    for name in ("even", "odd"):
        counts = np.asarray(ratio[name]).reshape(shape)
        assert (np.diff(counts, axis=0) <= 0).all()
        assert (np.diff(counts, axis=1) <= 0).all()
        psf = grid[grid["criterion"] == "psf_chi2"][1:]
        counts = np.asarray(psf[name]).reshape(len(np.unique(psf["snr_min"])), -1)
        assert (np.diff(counts, axis=0) <= 0).all()


@pytest.mark.parametrize("criterion", CRITERIA)
def test_along_the_front_depth_costs_alarms(grid, criterion):
    rows = grid[(grid["criterion"] == criterion) & np.isfinite(grid["flux_50"])]
    flux, alarms = np.asarray(rows["flux_50"]), np.asarray(rows["even"] + rows["odd"])
    front_flux, front_alarms = _best_front(flux, alarms)
    assert len(front_flux) > 3
    assert (np.diff(front_flux) > 0).all()
    assert (np.diff(front_alarms) < 0).all()
    for f, a in zip(flux, alarms, strict=True):
        assert ((front_flux <= f) & (front_alarms <= a)).any(), "no setting beats the front"


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_point_recommended_for_a_night_is_on_its_grid_and_does_not_see_the_quoting_half(defective, grid, criterion):
    night, leaders, injections, floors, _ = defective
    point = operating_point(grid, criterion, 5, 1.5)
    assert point.chosen_on.frames == 3
    assert point.quoted_on.frames == 2
    assert point.chosen_on.high <= 1.5
    assert set(point.cuts) == {cut.name for cut in CRITERIA[criterion].cuts}
    (row,) = grid[np.logical_and.reduce([np.asarray(grid[name]) == value for name, value in point.cuts.items()])]
    assert (row["even"], row["odd"], row["flux_50"]) == (point.chosen_on.count, point.quoted_on.count, point.flux_50)
    quoting = {name for k, name in enumerate(night.names) if k % 2}
    blind = leaders[[name not in quoting for name in leaders["frame"]]]
    without = tradeoff(count_settings(blind, injections, night.names, floors, night.parameters), night.parameters)
    again = operating_point(without, criterion, 5, 1.5)
    assert (again.cuts, again.chosen_on, again.quoted_on.count) == (point.cuts, point.chosen_on, 0)


@pytest.mark.slow
def test_a_clean_night_is_recommended_a_deeper_setting_than_the_defaults(tmp_path):
    changes = {"injections": 6000, "injection_flux_range": (300.0, 6000.0)}
    night, _ = write_small_night(tmp_path, 12, (192, 192), 3, noise=37.0, changes=changes)
    summary = measure_night(night.parameters).summary
    for criterion in CRITERIA:
        point = summary["operating_point"][criterion]
        assert point["flux_50"] <= summary["completeness"][criterion]["flux_50"]["flux"]
        assert set(point) == {"criterion", "cuts", "flux_50", "chosen_on", "quoted_on"}
        assert set(point["chosen_on"]) == set(asdict(poisson_rate(0, 1)))


def test_tables_of_no_rows_have_a_grid_and_no_point(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "PEAK_FLOOR", 10.0)
    night, _ = write_small_night(tmp_path, 5, (24, 20), 2, noise=9.0, level=90.0, changes={"injections": 0})
    dark = characterize(night)
    leaders, _, floors = detect_night(night, dark)
    assert floors == Floors(10 * dark.median_noise, 4.0)
    counts = count_settings(leaders, inject(night, dark, floors), night.names, floors, night.parameters)
    grid = tradeoff(counts, night.parameters)
    assert (np.asarray(grid["even"]) == 0).all()
    assert not np.isfinite(grid["flux_50"]).any()
    assert all(operating_point(grid, criterion, 5, 0.5) is None for criterion in CRITERIA)
