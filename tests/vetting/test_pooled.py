"""All comparable published nights judge a flash together."""

import numpy as np
import pytest
from astropy.table import Table
from vetted import darks, sky_counts

from sla1tools.night import open_night
from sla1tools.run.night import run_night
from sla1tools.vetting.pooled import SeasonFlashes

SHAPE = (160, 192)


@pytest.fixture(scope="module")
def season(tmp_path_factory):
    """Three published nights of one chip, one of another exposure, and the outputs folder."""
    folder = tmp_path_factory.mktemp("season")
    nights = []
    for seed in (1, 2, 3):
        name = {"capture_date": f"2024-05-{seed:02d}", "injections": 50}
        parameters, _ = darks(folder / "sessions", seed, SHAPE, 5 + seed, **name)
        result = run_night(parameters, folder / "outputs", notebooks=())
        nights.append(open_night(result.directory))
    return nights, folder / "outputs"


@pytest.mark.slow
def test_counts_are_the_sum_over_nights(season):
    nights, outputs = season
    witness = nights[1].season_witness(outputs)
    flashes, own = witness.flashes, [night.witness.flashes for night in nights]
    assert isinstance(flashes, SeasonFlashes)
    assert (flashes.nights, flashes.frames) == (3, 6 + 7 + 8)
    grid = flashes.snr[flashes.snr >= 4]
    assert len(grid) > 5
    np.testing.assert_array_equal(flashes.at_least(grid), sum(one.at_least(grid) for one in own))
    np.testing.assert_array_equal(flashes.at_least(grid * 1.0001), flashes.at_least(grid)), "never fewer than there are"
    expected, high = flashes.expected(grid, 3)
    np.testing.assert_allclose(expected, flashes.at_least(grid) * 3 / 21)
    alone = own[1].expected(100.0, 3)[1]
    alike = 2.9957 * 3 / 21
    assert alike < flashes.expected(100.0, 3)[1] < alone, "three nights that may differ bound it less than if alike"
    assert (high >= expected).all()


def test_candidates_of_other_nights_speak(season):
    nights, outputs = season
    listed = Table.read(outputs / "2024-05-03/03_38_48/Dark30s" / "candidates.ecsv")
    here = nights[0].season_witness(outputs).candidates
    assert {tuple(place) for place in zip(listed["x"], listed["y"], strict=True)} <= {tuple(place) for place in here}


def test_a_night_alone_is_its_own_season(season, tmp_path):
    nights, _ = season
    assert nights[0].season_witness(tmp_path).flashes is nights[0].witness.flashes


def test_nights_of_another_gain_do_not_count(season):
    nights, outputs = season
    parameters = nights[0].parameters.model_copy(update={"scale_due_to_gain": 1.5, "injections": 0})
    other = open_night(parameters)
    assert other.season_witness(outputs).flashes is other.witness.flashes


def test_the_row_of_a_published_night_is_that_of_its_frames(season):
    """Without raw frames too: only the history is a bound, from the stored mean and variance."""
    nights, outputs = season
    measured = open_night(nights[0].parameters)
    place, counts = (80.2, 70.4), sky_counts(5, [(80.2, 70.4)], [6000.0], shape=SHAPE)
    rows = [night.vet(counts, *place, outputs=outputs)[0] for night in (nights[0], measured)]
    for name in ("x", "y", "verdict", "reasons", "best_rival", "dq"):
        assert rows[0][name] == rows[1][name]
    for name in ("peak", "snr", "flux", "chi2", "p_value", "sky", "expected", "expected_high"):
        assert rows[0][name] == pytest.approx(rows[1][name], rel=1e-3)
    raw = nights[0].parameters.capture_directory
    raw.rename(raw.with_name("gone"))
    try:
        row = open_night(outputs / "2024-05-01/03_38_48/Dark30s").vet(counts, *place, outputs=outputs)[0]
    finally:
        raw.with_name("gone").rename(raw)
    assert row["verdict"] == rows[0]["verdict"]
    assert "at most (by mean and variance, as the raw frames are gone)" in row["reasons"]
