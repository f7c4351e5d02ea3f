"""A season's sum: which nights add up, what they say together, and that it is true of simulated nights."""

import json
import os

import numpy as np
import pytest
from astropy.table import Table, vstack
from made_up_nights import SHAPE, fail, publish
from made_up_seasons import INJECTED, Nights, mean_alarms, true_flux_50
from yaml_files import read_yaml

from sla1tools.candidates.criteria import CRITERIA
from sla1tools.candidates.rates import season_rate
from sla1tools.errors import ParametersError
from sla1tools.injections.counts import BELOW, settings
from sla1tools.nights.dark_current import DarkCurrent
from sla1tools.nights.pooling import Adder, read_counts, rows_of
from sla1tools.nights.season import sum_season
from sla1tools.nights.trends import read_nights
from sla1tools.parameters import Parameters
from sla1tools.run.season import adopt_season, season_json, season_setting, write_trends

SMALL = {"changes": {"frame_shape": SHAPE}}
NIGHTS = Nights()


def season_of(outputs):
    return sum_season(read_nights(outputs), outputs)


def publish_season(outputs, rates, seed=1, start=0, **options):
    rng = np.random.default_rng(seed)
    counts = [NIGHTS.draw(rng, rate) for rate in rates]
    for number, one in enumerate(counts, start):
        publish(outputs, number, counts=one, **options)
    return counts


def test_counts_are_sums_over_the_nights_that_could_count_a_setting(tmp_path):
    counts = publish_season(tmp_path, [2.0] * 5)
    raised = counts[3].copy()
    raised[1:][np.asarray(NIGHTS.table["threshold"]) < 150] = BELOW
    publish(tmp_path, 7, counts=raised)
    every = np.stack([*counts, raised])
    adder = Adder(len(NIGHTS.table))
    for one in every:
        adder.add(one)
    sums, counted = adder.sums, every[:, 1:, 0] != BELOW
    there = np.where(counted[:, :, None], every[:, 1:], 0)
    assert (sums.alarms == there[:, :, :2].sum(axis=(0, 2))).all()
    assert (sums.found == there[:, :, 2:].sum(axis=0)).all()
    assert (sums.nights == counted.sum(axis=0)).all()
    assert (sums.frames == 10 * counted.sum(axis=0)).all()
    assert (sums.injected == counted.sum(axis=0)[:, None] * INJECTED).all()
    np.testing.assert_allclose(sums.squares, (there[:, :, :2].sum(axis=2) ** 2 / 10).sum(axis=0))
    season = season_of(tmp_path)
    assert (season.frames, len(season.nights)) == (60, 6)
    low = np.asarray(season.grid["threshold"]) < 150
    assert not low.any(), "a night whose floors were raised may be one of the worst: no setting below them is stated"
    for row in season.grid[::97]:
        both = there[:, row["setting"], :2].sum(axis=1)
        assert (row["even"], row["odd"]) == (both[::2].sum(), both[1::2].sum())
        assert row["rate"] == both.sum() / 60
        truth = true_flux_50(NIGHTS.table)[row["setting"]]
        assert row["flux_50"] == pytest.approx(truth, rel=0.06) or not 400 < truth < 11000


def test_the_statement_is_true_of_the_nights_that_were_drawn(tmp_path):
    publish_season(tmp_path, [4.0] * 24, seed=2)
    season = season_of(tmp_path)
    for name, own in season.statements.items():
        row = rows_of(NIGHTS.table, name, CRITERIA[name].configured(Parameters()))[0]
        truth = 4.0 * mean_alarms(NIGHTS.table)[row]
        assert own.alarms.low < truth < own.alarms.high < 1.5 * truth
        assert (own.alarms.frames, own.alarms.nights) == (240, 24)
        assert own.expected == pytest.approx(1e-4)
        assert own.flux_50.flux == pytest.approx(true_flux_50(NIGHTS.table)[row], rel=0.06)
        assert own.flux_50.flux < own.flux_90.flux
        assert own.worst == ()
        recommended = rows_of(NIGHTS.table, name, own.point.cuts)[-1]
        assert own.point.chosen_on.high <= 0.5
        assert own.point.quoted_on.low < 4.0 * mean_alarms(NIGHTS.table)[recommended] < own.point.quoted_on.high
        assert (own.point.chosen_on.nights, own.point.quoted_on.nights) == (12, 12)


def test_nights_that_differ_are_named_and_the_limits_hold(tmp_path):
    publish_season(tmp_path, [2.0] * 11 + [30.0])
    own = season_of(tmp_path).statements["neighbor_ratio"]
    assert own.alarms.dispersion_p < 1e-3
    assert own.worst[0].startswith("2024-01-12 03_38_48 Dark30s: ")
    assert own.alarms.high > 1.5 * own.alarms.rate


def test_nights_of_three_cameras_are_stated_apart_the_largest_first(tmp_path):
    publish_season(tmp_path, [1.0] * 3, camera="A")
    publish_season(tmp_path, [1.0] * 4, start=10, camera="B")
    publish_season(tmp_path, [1.0] * 2, start=20, camera="B", changes={"dark_exposure": 60.0, "frame_shape": SHAPE})
    season = season_of(tmp_path)
    assert (season.name, len(season.nights)) == ("B, dark_exposure 30.0", 4)
    assert [(other.name, len(other.nights)) for other in season.other_groups] == [
        ("A, dark_exposure 30.0", 3),
        ("B, dark_exposure 60.0", 2),
    ]
    assert season.left_out["2024-01-01/03_38_48/Dark30s"] == "not comparable: A, dark_exposure 30.0"
    assert len(season.left_out) == 5


def test_another_star_image_parts_what_uses_it_and_no_more(tmp_path):
    counts = publish_season(tmp_path, [3.0] * 3, star=(2.0, 0.1))
    counts += publish_season(tmp_path, [3.0] * 2, start=5, seed=2, star=(2.15, 0.1))  # within the stated errors
    other = publish_season(tmp_path, [3.0] * 4, start=10, seed=3, star=(3.0, 0.1))
    season = season_of(tmp_path)
    assert season.name.endswith("stars of 2 px")
    alarms = {name: own.alarms for name, own in season.statements.items()}
    assert (alarms["psf_chi2"].nights, alarms["neighbor_ratio"].nights) == (5, 9)
    assert alarms["neighbor_ratio"].count == sum(one[1, :2].sum() for one in counts + other)
    assert alarms["psf_chi2"].count == sum(one[2, :2].sum() for one in counts)
    (apart,) = season.other_groups
    assert apart.statements["psf_chi2"].alarms.nights == 4
    one_night = true_flux_50(NIGHTS.table)[0]
    assert season.statements["neighbor_ratio"].flux_50.flux == pytest.approx(one_night, rel=0.06)


def test_nights_of_other_cuts_count_at_the_fixed_settings(tmp_path):
    """Cuts of the grid, as an adopted setting's, are stated over all nights; others over the nights that had them."""
    on_grid = float(settings(Parameters())["threshold"][900])
    publish_season(tmp_path, [3.0] * 4)
    publish_season(tmp_path, [3.0], start=6, changes={"threshold": 137.0, "frame_shape": SHAPE})
    assert season_of(tmp_path).statements["neighbor_ratio"].alarms.nights == 1
    publish_season(tmp_path, [3.0], start=7, changes={"threshold": on_grid, "ratio": 0.3, "frame_shape": SHAPE})
    own = season_of(tmp_path).statements["neighbor_ratio"]
    assert own.cuts["threshold"] == on_grid
    assert own.alarms.nights == 6


def damaged_object(path):
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)


def changed(**places):
    def change(path):
        counts = np.load(path)
        for place, value in places.items():
            counts[tuple(map(int, place.split("_")[1:]))] = value
        np.save(path, counts)

    return change


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("counts"),
    "not there": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "pickled": damaged_object,
    "one bit": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x01"),
    "floats": lambda path: np.save(path, np.load(path).astype(float)),
    "fewer settings": lambda path: np.save(path, np.load(path)[:-1]),
    "negative frames": changed(at_0_0=-1),
    "half a row below": changed(at_1500_0=BELOW),
    "less than below": changed(at_1500_0=-2),
    "found more than injected": changed(at_1500_30=10**6),
    "a huge header": lambda path: path.write_bytes(b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b" " * 100),
}
SIGNED = {
    "floats",
    "fewer settings",
    "negative frames",
    "half a row below",
    "less than below",
    "found more than injected",
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.slow
def test_a_damaged_grid_leaves_its_night_out_and_is_named(tmp_path, kind):
    publish_season(tmp_path, [1.0] * 3)
    folder = tmp_path / "2024-01-02/03_38_48/Dark30s"
    DAMAGE[kind](folder / "settings.npy")
    if kind in SIGNED:  # a manifest that vouches for it
        from sla1tools.published.formats import sha256_of

        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["outputs"]["settings.npy"] = sha256_of(folder / "settings.npy")
        (folder / "manifest.json").write_text(json.dumps(manifest))
    season = season_of(tmp_path)
    assert (len(season.nights), list(season.left_out)) == (2, ["2024-01-02/03_38_48/Dark30s"])
    (reason,) = season.left_out.values()
    assert "settings.npy" in reason
    assert "run the night again" in reason or "sla1 batch renews it" in reason


def test_what_cannot_be_counted_is_left_out_with_its_reason(tmp_path):
    counts = publish_season(tmp_path, [1.0] * 2)
    publish(tmp_path, 3)  # as by an earlier version
    crowded = counts[0].copy()
    crowded[1:] = BELOW
    publish(tmp_path, 4, counts=crowded)
    fail(tmp_path, 5, "the disk was full")
    reasons = list(season_of(tmp_path).left_out.values())
    assert len(reasons) == 3
    assert any("earlier version" in reason and "sla1 batch" in reason for reason in reasons)
    assert any("more leaders than its table holds" in reason for reason in reasons)
    assert "the disk was full" in reasons


def test_the_latest_night_may_be_damaged(tmp_path):
    publish_season(tmp_path, [1.0] * 3)
    (tmp_path / "2024-01-03/03_38_48/Dark30s/settings.npy").unlink()
    assert len(season_of(tmp_path).nights) == 2
    for number in (1, 2):
        (tmp_path / f"2024-01-0{number}/03_38_48/Dark30s/settings.npy").unlink()
    assert season_of(tmp_path) is None
    assert json.loads(json.dumps(season_json(None, DarkCurrent("not tested"))))["nights"] == 0
    assert season_of(tmp_path / "nowhere") is None


def test_recurrent_candidates_are_those_near_one_of_another_night(tmp_path):
    rng = np.random.default_rng(8)
    ny, nx = SHAPE
    lists = [
        list(zip(rng.integers(0, nx, 12).tolist(), rng.integers(0, ny, 12).tolist(), strict=True)) for _ in range(4)
    ]
    lists[0] += [(0, 0), (0, 0), (nx - 1, ny - 1)]  # twice on one night is not another night
    lists[1] += [(1, 1)]
    for number, pixels in enumerate(lists):
        publish(tmp_path, number, counts=NIGHTS.draw(rng, 1.0), candidates=pixels)
    left = [
        sum(
            not any(max(abs(x - u), abs(y - v)) <= 1 for k, other in enumerate(lists) if k != mine for u, v in other)
            for x, y in pixels
        )
        for mine, pixels in enumerate(lists)
    ]
    statements = season_of(tmp_path).statements
    assert statements["neighbor_ratio"].without_recurrent == season_rate(left, [10] * 4)
    assert 0 < sum(left) < sum(map(len, lists))
    assert statements["psf_chi2"].without_recurrent is None, "its candidates are not listed"


def test_one_night_has_its_own_limits_and_recommends_only_with_frames_enough(tmp_path):
    rng = np.random.default_rng(4)
    publish(tmp_path / "ten", 0, counts=NIGHTS.draw(rng, 0.1))
    own = season_of(tmp_path / "ten").statements["neighbor_ratio"]
    assert (own.alarms.nights, own.alarms.dispersion_p, own.point) == (1, None, None)
    assert own.lacking.endswith("11 frames would do")
    publish(tmp_path / "twelve", 0, counts=Nights(frames=12).draw(rng, 0.1), frames=12)
    assert season_of(tmp_path / "twelve").statements["neighbor_ratio"].point.chosen_on.frames == 6


def test_two_nights_do_not_tell_how_nights_differ(tmp_path):
    publish_season(tmp_path, [0.1] * 2)
    own = season_of(tmp_path).statements["neighbor_ratio"]
    assert own.point is None
    assert own.lacking == "every other one of 2 nights cannot show a budget of 0.5 false alarms a frame kept"


@pytest.mark.slow
def test_a_gap_of_a_year_is_named_and_nights_on_both_sides_count(tmp_path):
    publish_season(tmp_path, [1.0] * 2)
    publish_season(tmp_path, [1.0] * 2, start=400)
    page = write_trends(tmp_path).read_text(encoding="utf-8")
    assert "40 frames of 4 nights of QHY42PRO, 2024-01-01 to 2025-03-10; none between 2024-01-02 and 2025-03-09" in page


@pytest.mark.slow
def test_season_json_has_the_keys_that_others_read(tmp_path):
    publish_season(tmp_path, [1.0] * 6)
    write_trends(tmp_path)
    told = json.loads((tmp_path / "season.json").read_text(encoding="utf-8"))
    assert {"frames", "nights", "left_out", "criteria", "dark_current"} <= set(told)
    assert (told["frames"], told["nights"], set(told["criteria"])) == (60, 6, set(CRITERIA))
    for own in told["criteria"].values():
        assert {"false_alarms_per_frame", "flux_50", "flux_90", "operating_point"} <= set(own)
        alarms = own["false_alarms_per_frame"]
        assert {"rate", "low", "high", "without_recurrent", "dispersion_p", "gaussian_expectation"} <= set(alarms)
    season = season_of(tmp_path)
    assert told["criteria"]["neighbor_ratio"]["false_alarms_per_frame"]["rate"] == pytest.approx(
        season.statements["neighbor_ratio"].alarms.rate
    )


@pytest.mark.slow
def test_the_seasons_setting_is_adopted_or_the_reason_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("SLA1_HOME", str(tmp_path))
    outputs = tmp_path / "outputs"
    with pytest.raises(ParametersError, match="there is no season yet"):
        adopt_season(outputs)
    publish_season(outputs, [1.0] * 2)
    write_trends(outputs)
    with pytest.raises(ParametersError, match="no setting of neighbor_ratio: every other one of 2 nights"):
        adopt_season(outputs)
    publish_season(outputs, [1.0] * 6, start=4)
    write_trends(outputs)
    adopted = adopt_season(outputs)
    point = season_of(outputs).statements["neighbor_ratio"].point
    assert read_yaml(adopted) == {"criterion": "neighbor_ratio"} | point.cuts
    assert adopt_season(outputs) == adopted, "its own file is replaced"
    with pytest.raises(ParametersError, match="do not compare"):
        season_setting(outputs, "neighbor_ratio", {"camera": "another"})


def test_the_recommended_setting_of_a_season_scatters_less_than_a_nights():
    """A night's is chance; of more nights it settles, and does not cost more alarms than it says."""
    from sla1tools.candidates.rates import upper_limit
    from sla1tools.injections.counts import tradeoff
    from sla1tools.injections.operating_point import deepest

    nights, rng = Nights(frames=12), np.random.default_rng(11)
    grid = tradeoff(nights.draw(rng, 0.0), nights.parameters)
    row = np.flatnonzero(~nights.below)

    def chosen(drawn):
        adder = Adder(len(nights.table))
        for counts in drawn:
            adder.add(counts)
        alone = upper_limit(drawn[0][1:][row, 0]) / 6
        high = alone if len(drawn) == 1 else adder.sums.limits()[1][row]
        return np.log(grid["flux_50"][deepest(grid, "neighbor_ratio", high, 0.5)])

    spread = [np.std([chosen([nights.draw(rng, 4.0) for _ in range(n)]) for _ in range(12)]) for n in (1, 10, 30)]
    assert spread[0] > 1.5 * spread[1] > 1.5 * spread[2]


def test_read_counts_gives_back_what_was_written(tmp_path):
    (counts,) = publish_season(tmp_path, [1.0])
    (record,) = read_nights(tmp_path)
    read = read_counts(tmp_path / record.path, record.sha256["settings.npy"], len(NIGHTS.table))
    np.testing.assert_array_equal(read, counts)


@pytest.fixture(scope="module")
def chip(tmp_path_factory):
    """Three nights of one chip, from raw frames; its bad pixels are the same on every night."""
    from sla1tools.run.night import run_night
    from sla1tools.simulate.night import simulate_night

    folder, shape = tmp_path_factory.mktemp("chip"), (128, 144)
    for number in range(1, 4):
        night = Parameters(
            sessions_directory=str(folder / "sessions"),
            capture_date=f"2024-05-{number:02d}",
            frame_shape=shape,
            injections=400,
            threshold=140.0,
            ratio=0.1,
        )
        simulate_night(night.capture_directory, frames=6, shape=shape, seed=number, chip_seed=5)
        assert run_night(night, folder / "outputs", notebooks=()).verdict in ("ok", "degraded")
    return folder / "outputs"


@pytest.mark.slow
def test_pooled_counts_are_those_of_counting_over_all_nights(chip):
    """Every leader of every night in one table, selected at settings all over the grid."""
    season, tables, alarms = season_of(chip), [], 0
    for record in season.nights:
        leaders = Table.read(chip / record.path / "leaders.fits", hdu="LEADERS", unit_parse_strict="silent")
        leaders.convert_bytestring_to_unicode()
        leaders = leaders[leaders["reference"] == "leave_one_out"]
        leaders["frame"] = [f"{record.path} {name}" for name in leaders["frame"]]
        tables.append(leaders["frame", "reference", "x", "y", "peak", "neighbor_min", "snr", "p_value", "dq"])
    every = vstack(tables, metadata_conflicts="silent")
    for row in season.grid[::23]:
        criterion = CRITERIA[row["criterion"]]
        passing = every[criterion.select(every, {cut.name: row[cut.name] for cut in criterion.cuts})]
        assert row["even"] + row["odd"] == len(passing)
        middle = [name.startswith(season.nights[1].path) for name in passing["frame"]]
        assert row["odd"] == sum(middle)
        alarms += len(passing)
    assert alarms > 50
    listed = [len(Table.read(path)) for path in chip.glob("*/*/*/candidates.ecsv")]
    assert season.statements["neighbor_ratio"].alarms.count == sum(listed)
