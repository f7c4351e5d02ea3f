"""The list of pixels that make candidates again and again keeps itself: what it takes up, and what leaves it."""

import json

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from made_up_nights import SHAPE, publish

from sla1tools.nights.recurrence import AGED, follow_pixels, recurrent_pixels, silence_chance
from sla1tools.nights.trends import read_nights
from sla1tools.parameters import Parameters
from sla1tools.published import TRENDS
from sla1tools.run.night import run_night
from sla1tools.run.season import write_trends
from sla1tools.simulate.camera import Star
from sla1tools.simulate.night import simulate_night


def listed(outputs):
    """The mask's pixels and the rows beside it, by pixel."""
    with fits.open(outputs / "known_pixels.fits") as hdus:
        mask = {(int(x), int(y)) for y, x in np.argwhere(hdus[0].data)}
        return mask, {(int(row["x"]), int(row["y"])): row for row in Table(hdus["RECURRENT"].data)}


def tell_known(folder, pixels):
    """Let a made-up night say which of its known pixels would have made candidates."""
    summary = json.loads((folder / "summary.json").read_text())
    for alarms in summary["false_alarms_per_frame"].values():
        alarms["known"] = pixels
    (folder / "summary.json").write_text(json.dumps(summary))


def nights(*found):
    return {f"2024-05-{k + 1:02d}": set(pixels) for k, pixels in enumerate(found)}


def test_what_a_row_says():
    here, there = (5, 6), (7, 8)
    rows = recurrent_pixels(nights([here, there], [], [here], [there], [here], [], []))
    by_place = {(row["x"], row["y"]): row for row in rows}
    row = by_place[here]
    assert (row["nights"], row["looked"], row["first"], row["last"]) == (3, 7, "2024-05-01", "2024-05-05")
    assert row["chance"] == pytest.approx(silence_chance(3, 5, 2))
    assert by_place[there]["chance"] == pytest.approx(silence_chance(2, 4, 3))
    assert silence_chance(3, 5, 0) == 1


def test_nights_that_could_not_show_a_pixel_do_not_count():
    here = (5, 6)
    found = nights([here], [], [here], [], [], [])
    (row,) = recurrent_pixels(found, {here: [1, 3, 5]})
    assert (row["nights"], row["looked"]) == (2, 3)
    assert row["chance"] == pytest.approx(silence_chance(2, 2, 1))
    (kept,) = recurrent_pixels(nights([], [], [], []), {here: [2]}, {here: (4, "2024-05-01", "2024-05-02")})
    assert (kept["nights"], kept["looked"], kept["last"]) == (4, 5, "2024-05-02")


@pytest.mark.parametrize(("share", "healed_within"), [(0.9, 6), (0.5, 14), (0.2, 40)])
def test_pixels_that_go_on_stay_and_pixels_that_heal_leave(share, healed_within):
    """Of pixels that flash on a share of 60 nights 5 % may be off the list at the end; nearly all that healed are."""
    rng = np.random.default_rng(0)
    going_on = rng.random((2000, 60)) < share
    healing = going_on.copy()
    healing[:, 60 - healed_within :] = False
    off = []
    for up in (going_on, healing):
        table = recurrent_pixels({f"{k:02d}": {(int(i), 0) for i in np.flatnonzero(up[:, k])} for k in range(60)})
        assert len(table) > 1800
        off.append(np.mean(table["chance"] < AGED))
    assert off[0] < 0.06
    assert off[1] > 0.9


@pytest.mark.slow
def test_a_silent_pixel_leaves_the_mask_and_comes_back(tmp_path):
    for number in range(2):
        publish(tmp_path, number, candidates=[(5, 6)])
    for number in range(2, 7):
        if number == 6:
            write_trends(tmp_path)
            assert listed(tmp_path)[0] == {(5, 6)}
        publish(tmp_path, number)
    write_trends(tmp_path)
    mask, rows = listed(tmp_path)
    assert mask == set()
    assert (rows[5, 6]["nights"], rows[5, 6]["looked"]) == (2, 7)
    assert rows[5, 6]["chance"] == pytest.approx(silence_chance(2, 2, 5))
    publish(tmp_path, 7, candidates=[(5, 6)])
    write_trends(tmp_path)
    assert listed(tmp_path)[0] == {(5, 6)}
    assert "chance of its silence" in (tmp_path / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "looked"),
    [
        ({}, 8),
        ({"dark_exposure": 60.0}, 2),
        ({"criterion": "psf_chi2"}, 2),
        ({"excluded_classes": ("hot",)}, 8),
        ({"excluded_classes": ("known",)}, 2),
    ],
)
@pytest.mark.parametrize("tells", [True, False])
def test_only_nights_that_could_show_it_are_silent(tmp_path, changes, looked, tells):
    """A listed pixel makes no candidate of psf_chi2, nor where it is excluded: unless the night tells, it is blind."""
    for number in range(8):
        if number in (0, 7):
            publish(tmp_path, number, candidates=[(5, 6)])
        else:
            folder = publish(tmp_path, number, known=[(5, 6)], changes=changes)
            if tells:
                tell_known(folder, [])
    (row,), _ = follow_pixels(read_nights(tmp_path), tmp_path)
    assert row["looked"] == (8 if tells and "dark_exposure" not in changes else looked)


def test_what_a_night_leaves_out_for_being_listed_is_seen_all_the_same(tmp_path):
    publish(tmp_path, 0, candidates=[(5, 6)])
    for number in range(1, 9):
        folder = publish(tmp_path, number, known=[(5, 6)], changes={"excluded_classes": ("known",)})
        tell_known(folder, [[5, 6], [SHAPE[1], 0]])
    (row,), _ = follow_pixels(read_nights(tmp_path), tmp_path)  # the other one is off the frame
    assert (row["x"], row["y"], row["nights"], row["looked"]) == (5, 6, 9, 9)


GOING_ON, STOPPING = (60, 40), (131, 97)


@pytest.fixture(scope="module", params=["neighbor_ratio", "psf_chi2"])
def followed(request, tmp_path_factory):
    """Eight nights of one simulated chip, from raw frames: the list after each, and the chip's truth.

    One pixel flashes like a star on every night, another on the first two alone; from the third night on the list is
    used, so that both are left out.
    """
    directory, shape, lists = tmp_path_factory.mktemp(request.param), (160, 200), []
    outputs = directory / "outputs"
    own = {"criterion": request.param, "snr_min": 5.0, "p_min": 1e-9, "injections": 100, "frame_shape": shape}
    for number in range(8):
        night = Parameters(sessions_directory=str(directory / "raw"), capture_date=f"2024-05-{number + 1:02d}", **own)
        flashing = [GOING_ON, *[STOPPING] * (number < 2)]
        stars = [Star(9000.0, 2.0, x, y, frame=1 + number % 4) for x, y in flashing]
        simulate_night(night.capture_directory, frames=6, shape=shape, seed=number, stars=stars, chip_seed=3)
        if number > 1:
            using = {"known_pixels": str(outputs / "known_pixels.fits"), "excluded_classes": ("known",)}
            night = night.model_copy(update=using)
        assert run_night(night, outputs, notebooks=()).verdict != "failed"
        (outputs / TRENDS).mkdir(exist_ok=True)
        follow_pixels(read_nights(outputs), outputs, write=True)
        lists.append(listed(outputs))
    return lists, Table.read(night.capture_directory / "truth.ecsv")


@pytest.mark.slow
def test_a_chips_list_drops_what_stopped_and_keeps_what_goes_on(followed):
    """The chance of its silence drops a pixel seen on two of two nights after five silent ones, not before."""
    lists, truth = followed
    assert [GOING_ON in mask for mask, _ in lists] == [False] + [True] * 7
    assert [STOPPING in mask for mask, _ in lists] == [False] + [True] * 5 + [False] * 2
    _, rows = lists[-1]
    assert (rows[GOING_ON]["nights"], rows[GOING_ON]["looked"]) == (8, 8)
    assert (rows[STOPPING]["nights"], rows[STOPPING]["looked"]) == (2, 8)
    assert rows[STOPPING]["chance"] == pytest.approx(silence_chance(2, 2, 6))
    for mask, _ in lists:
        switching = truth[np.isin(truth["kind"], ["rts", "noisy"])]
        others = mask - {GOING_ON, STOPPING}
        assert others <= set(zip(switching["x"].tolist(), switching["y"].tolist(), strict=True))
