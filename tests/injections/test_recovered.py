"""Which stars a setting finds, against the plain definition: put each star into its frame and search that again."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from astropy.table import vstack
from small_nights import with_counts, with_parameters
from starred_frames import (
    awkward_stars,
    capture_stars,
    defective_night,
    frame_leaders,
    near,
    put_into_frame,
    stars_at,
)

from sla1tools.candidates.criteria import CRITERIA
from sla1tools.candidates.rows import Floors
from sla1tools.darks.model import characterize
from sla1tools.injections.injection import inject

pytestmark = pytest.mark.slow
FRAMES = 6
COUNTED = ("peak", "neighbor_min")  # to the bit; noise and fit are learnt from the starred frames too: within 2 %


def stars_beside(without, shape):
    """Stars up to 3 px from leaders that are there without them, faint and bright."""
    rng = np.random.default_rng(8)
    rows = []
    for k, leaders in enumerate(without):
        for x, y in leaders["x", "y"][rng.permutation(len(leaders))[:6]]:
            far = rng.uniform(-3, 3, 2) if len(rows) % 3 else rng.uniform(-1, 1, 2)
            place = np.clip([x + far[0], y + far[1]], -0.5, [shape[1] - 0.51, shape[0] - 0.51])
            rows.append((k, *place, rng.choice([60.0, 600.0, 2000.0])))
    return stars_at(rows)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Injections of a night, and for every star the whole frame's leaders without and with it."""
    night, bad = defective_night(tmp_path_factory.mktemp("night"))
    night = with_parameters(night, threshold=150.0, ratio=0.25)
    dark = characterize(night)
    floors = Floors.of(night.parameters, dark.median_noise)
    without = [frame_leaders(night, dark, k, floors) for k in range(FRAMES)]
    stars = vstack([awkward_stars(night, bad, FRAMES), stars_beside(without, night.shape)])
    with pytest.MonkeyPatch.context() as patched:
        made = capture_stars(patched)
        injections = inject(night, dark, floors, stars)
    patch_of = {(star["x_true"], star["y_true"]): patch for star, patch in made}
    pairs = []
    for star in stars:
        k = int(star["frame_number"])
        counts = put_into_frame(night.frames[k].rows(0, night.shape[0]), star, patch_of[star["x_true"], star["y_true"]])
        starred = with_counts(night, k, counts)
        there = characterize(starred)
        there = replace(there, classes=dark.classes)  # the shortcut keeps the night's own pixel classes
        pairs.append((star, without[k], frame_leaders(starred, there, k, floors)))
    return night, injections, pairs, floors


def settings_of(criterion, night, floors):
    """Some settings all over the sliders."""
    axes = []
    for cut in criterion.cuts:
        values, (low, high) = cut.axis, cut.ends(night.parameters, floors)
        values = values[values >= getattr(floors, cut.floor or "", 0)]
        few = values[np.linspace(0, len(values) - 1, 4).astype(int)]
        axes.append([*few, (low * high) ** 0.5 if low else high / 2])
    return [dict(zip(criterion.configured(night.parameters), v, strict=True)) for v in itertools.product(*axes)]


def slow(select, criterion, cuts, star, before, after):
    """A leader within 1 px of the star passes, and none there passed before."""
    passed, passes = (select(criterion, rows, cuts) & near(rows, star) for rows in (before, after))
    return bool(passes.any()) and not passed.any()


def alone(criterion, rows, cuts):
    return criterion.passes(rows, cuts)


def in_frame(criterion, rows, cuts):
    return criterion.select(rows, cuts)


@pytest.mark.parametrize("name", CRITERIA)
def test_every_setting_finds_what_a_search_of_the_whole_frame_finds(searched, name):
    night, injections, pairs, floors = searched
    criterion = CRITERIA[name]
    exact = {term.column for term in criterion.terms} <= set(COUNTED)
    found = missed = undecided = 0
    for cuts in settings_of(criterion, night, floors):
        fast = injections.recovered(criterion, cuts)
        near_by = [{key: value * factor for key, value in cuts.items()} for factor in (0.98, 1.02)]
        for told, pair in zip(fast, pairs, strict=True):
            truth = slow(alone, criterion, cuts, *pair)
            if not exact and any(slow(alone, criterion, other, *pair) != truth for other in near_by):
                undecided += 1
                continue
            assert told == truth, (cuts, pair[0])
            found, missed = found + truth, missed + (not truth)
    assert min(found, missed) > 100
    assert undecided < 0.03 * (found + missed)


@pytest.mark.parametrize("name", CRITERIA)
def test_other_candidates_nearby_matter_only_within_three_pixels(searched, name):
    """The approximation that `Injections.recovered` states: a leader of the frame 2 px from the star's own."""
    night, _, pairs, floors = searched
    criterion, apart, total = CRITERIA[name], 0, 0
    for cuts in settings_of(criterion, night, floors):
        for star, before, after in pairs:
            total += 1
            if slow(alone, criterion, cuts, star, before, after) == slow(
                in_frame, criterion, cuts, star, before, after
            ):
                continue
            apart += 1
            x, y = np.rint(star["x_true"]), np.rint(star["y_true"])
            reaches = [np.maximum(np.abs(rows["x"] - x), np.abs(rows["y"] - y)) for rows in (before, after)]
            passing = [criterion.passes(rows, cuts) for rows in (before, after)]
            beside = [held & (reach > 1) & (reach <= 3) for held, reach in zip(passing, reaches, strict=True)]
            assert np.concatenate(beside).any(), "one that hides the star's, or hid what was there before"
    assert criterion.best or not apart
    print(f"{name}: {apart} of {total} stars and settings told otherwise by the whole frame")
    assert apart < 0.02 * total, "with half of the stars put beside bad pixels and other leaders on purpose"


def test_stars_have_rows_that_the_shown_one_does_not_stand_for(searched):
    """The test above is about them: second leaders, and leaders that were there before."""
    _, injections, _, _ = searched
    stars = np.asarray(injections.leaders["star"])
    assert (np.bincount(stars[~injections.leaders["before"]]) > 1).sum() >= 2
    assert injections.leaders["before"].sum() >= 10
    shown = injections.shown[injections.shown >= 0]
    assert not injections.leaders["before"][shown].any()
    for column in ("peak", "snr", "dq"):
        mine, rows = injections.trials[injections.shown >= 0][column], injections.leaders[column][shown]
        assert np.array_equal(np.ma.filled(mine, -1), np.ma.filled(rows, -1))
