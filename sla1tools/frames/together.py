"""Which frames of a capture belong together: each is judged against the largest group of frames that agree.

A median over all frames may belong to none of them: of five frames in one state and five in another it lies between.
So frames are first compared pair by pair, then measured against the largest group. Limits are the smallest deviations
that change noise or candidates by some 5 %; a frame's statistical errors are far below them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import product

import numpy as np

from sla1tools.errors import Reason
from sla1tools.frames.sampling import Sample, sampled_places
from sla1tools.parameters import Parameters

LEAST_AGREEING = 3
FEW = 5  # frames, of which none is left out unless three agree
REFERENCES = 9  # frames that all are compared with, at most
LEVEL_LIMIT = 3.0  # of a pixel's noise in one frame
LEVEL_NOTED = 0.5
LEVEL_SHARE = 0.25  # with level_correction, which takes any smaller offset off
NOISE_LIMIT = 1.15  # times, either way
LEAST_NOISE = 0.3  # times the group's: less is lost in the noise of those that a frame is compared with
SCALE_LIMIT = 0.07
SCALE_ERRORS = 5.0
SCALE_WORST_ERROR = 0.06
IN_PLACE = 0.3  # hot pixels below this share are somewhere else
COMPARED_HOT, LEAST_HOT = 512, 10
HOT_SIGMA = 10.0
GARBAGE_SIGMA = 5.0
GARBAGE_SHARE = 0.25
LEAST_IN_LINE = 16
METADATA_REACH = 32  # pixels at either end of the first and last row, where cameras write what is no picture
EIGHT_BIT, DEEPER = 256, 300  # codes below one while the others' median is above the other


@dataclass(frozen=True)
class Agreement:
    """Which frames do not belong to the largest group.

    Attributes
    ----------
    misfits : dict of int to (Reason, str)
        Index of each frame that is not of the group; why, with the number and its limit.
    notes : list of str
        Another group of three frames or more, and a drift within the limits.
    doubts : list of str
        What keeps the night from being sound: no three frames agree.
    noise : float
        A pixel's noise in one frame, in counts; NaN where fewer than three frames agree.
    """

    misfits: dict[int, tuple[Reason, str]]
    notes: list[str]
    doubts: list[str]
    noise: float = math.nan


def judge_together(
    names: Sequence[str],
    samples: Sequence[Sample],
    temperatures: Sequence[float | None],
    parameters: Parameters,
) -> Agreement:
    """Find the largest group of frames that agree, and what each other frame differs by.

    Parameters
    ----------
    names : sequence of str
        File names in the capture's order; they only serve to suggest a `file_pattern`.
    samples : sequence of Sample
        Of all frames.
    temperatures : sequence of float or None
        In degrees Celsius; None where unknown, which agrees with any.
    parameters : Parameters
        `frame_shape`; `temperature_tolerance`, kelvin from the middle of the group, halfway between its coldest and its
        warmest; with `level_correction` each frame's offset will be taken off, and levels may differ by a quarter;
        pixels at `top_code` are saturated, and no garbage.

    Notes
    -----
    Two frames agree where every number differs by less than its limit; the group is the largest set within the limits
    of one of its frames. Of two such sets that of more than 8 bits is used, else the one with the earliest frame. Three
    frames must agree to reject another, but of three frames two may reject the third: the night has then too few. Where
    no three of up to five frames agree, all are kept, with a doubt; of more frames all but the closest two are left
    out, and the night is too small. Fewer than three: no verdict.
    """
    if len(samples) < LEAST_AGREEING:
        return Agreement({}, [], [])
    states = _States(samples, temperatures, parameters)
    everyone = np.arange(len(samples))
    group = states.largest_group(everyone)
    least = 2 if len(samples) == LEAST_AGREEING else LEAST_AGREEING
    if len(group) < least and len(samples) > FEW:
        group = states.closest_pair()
    misfits: dict[int, tuple[Reason, str]] = {}
    if len(group) > 1:
        against = _AgainstGroup(states, group)
        misfits = {k: why for k in range(len(samples)) if (why := states.why(k, group, against))}
    left = np.isin(everyone, list(misfits))
    used, others = everyone[~left], everyone[left]
    if min(len(group), len(used)) < least:
        doubt = "no three frames agree in level, noise, hot pixels, codes and temperature: none could be rejected"
        refused = len(samples) > FEW and len(used) < least
        return Agreement(misfits, [], []) if refused else Agreement({}, [], [doubt])
    notes = states.drift(used)
    second = states.largest_group(others) if len(others) else others
    if len(second) >= LEAST_AGREEING:
        notes.append(_describe_second(names, used, second, misfits))
    misfits |= _garbage_lines(samples, used, against, parameters)
    return Agreement(misfits, notes, [], against.unit)


def _evenly(members, most: int):
    return members[np.unique(np.linspace(0, len(members) - 1, min(most, len(members))).round().astype(int))]


def _spread(difference) -> float:
    """Robust standard deviation, from the quartiles; the array is put into another order."""
    low, high = len(difference) // 4, 3 * len(difference) // 4
    difference.partition(high)
    difference[:high].partition(low)  # a quarter cheaper than both at once
    return float(difference[high] - difference[low]) / 1.349


class _Comparison:
    """Numbers of all frames against some reference frames; NaN where a frame would be compared with itself.

    `unit` is a pixel's noise in one frame, in counts; `level` is in that unit; `spread` of differences in counts.
    """

    def __init__(self, states, references):
        dithered, spread, self.references = states.dithered, states.spread, references
        for k, r in product(range(len(dithered)), references):
            if k != r and np.isnan(spread[k, r]):
                spread[k, r] = spread[r, k] = _spread(dithered[k] - dithered[r])
        self.spread = spread[:, references]
        self.unit = math.sqrt(np.nanmedian(self.spread[references] ** 2) / 2)
        mean = np.mean([dithered[r] for r in references], axis=0)
        self.level = np.array([np.median(frame - mean) for frame in dithered]) / self.unit


class _States:
    """The state of every frame, as far as pixels, codes and temperature tell it."""

    def __init__(self, samples, temperatures, parameters):
        self.samples, self.shape, self.tolerance = samples, parameters.frame_shape, parameters.temperature_tolerance
        self.temperatures = np.array([np.nan if value is None else value for value in temperatures], float)
        # Whole counts that repeat have quartiles of 0 and a median that jumps: spread each over its step.
        self.dithered = [
            sample.pixels
            + max(sample.step, 1) * (np.random.default_rng(k).random(len(sample.pixels), np.float32) - 0.5)
            for k, sample in enumerate(samples)
        ]
        self.medians = np.array([np.median(sample.pixels) for sample in samples])
        self.steps = np.array([sample.step for sample in samples])
        self.shallow = np.array([sample.pixels.max() < EIGHT_BIT for sample in samples])
        self.level_correction = parameters.level_correction
        self.spread = np.full((len(samples), len(samples)), np.nan)  # of the differences of pairs, as they are needed
        self.first = _Comparison(self, _evenly(np.arange(len(samples)), REFERENCES))
        self.chance = 1.166 / math.sqrt(len(samples[0].pixels))  # relative 1 sigma of a spread from quartiles
        self.distances = self._distances()

    def _level_limit(self, unit: float, median: float) -> float:
        return LEVEL_SHARE * median / unit if self.level_correction else LEVEL_LIMIT

    def _distances(self):
        """How far every pair is apart, in units of the limits, (N, N); temperature is left to `largest_group`."""
        first = self.first
        limit = self._level_limit(first.unit, float(np.median(self.medians)))
        apart = np.abs(np.subtract.outer(first.level, first.level)) / limit
        # Of two frames' differences to a third, the third's noise is a part: hence the smaller limit.
        limit = max(math.log((NOISE_LIMIT**2 + 1) / 2) / 2, 6 * math.sqrt(2) * self.chance)
        apart = np.maximum(apart, _greatest(np.log(first.spread), limit))
        scale, error = self._scales_against_each()
        tolerated = np.maximum(SCALE_LIMIT, SCALE_ERRORS * np.hypot(error[:, None], error[None]))
        apart = np.maximum(apart, _greatest(scale, tolerated))
        unlike = (np.not_equal.outer(self.steps, self.steps)) & (np.multiply.outer(self.steps, self.steps) > 0)
        unlike |= self.shallow[:, None] & (self.medians > DEEPER)
        apart[unlike | unlike.T] = np.inf
        return apart

    def _scales_against_each(self):
        """Scale of every frame's hot pixels, and its error, against each reference; NaN where it cannot be tested."""
        found = np.full((2, *self.first.spread.shape), np.nan)
        for i, r in enumerate(self.first.references):
            hot, excess = self.samples[r].hot, self.samples[r].excess
            best = np.sort(np.argsort(-excess, kind="stable")[:COMPARED_HOT])
            best = best[excess[best] > HOT_SIGMA * self.first.unit]
            for k, sample in enumerate(self.samples):
                if k != r:
                    found[:, k, i] = _hot_scale(sample, hot[best], excess[best])
        return found

    def largest_group(self, frames):
        """Of some frames, those of the largest set within the limits of one of them, and two tolerances wide in T."""
        apart, heat = self.distances[np.ix_(frames, frames)], self.temperatures[frames]
        near = apart <= 1
        windows = np.isnan(heat) | (heat >= heat[:, None]) & (heat <= heat[:, None] + 2 * self.tolerance)
        size = windows.astype(np.float32) @ near.astype(np.float32)  # (window, centre)
        size[~windows] = 0
        best = np.argwhere(size == size.max())
        sets = [(windows[w] & near[c], apart[c]) for w, c in best]
        shallow = self.shallow[frames]
        keys = [(shallow[members].any(), members.argmax(), distance[members].sum()) for members, distance in sets]
        return frames[sets[min(range(len(sets)), key=keys.__getitem__)][0]]

    def closest_pair(self):
        """Return the two frames of least distance, one frame where no two can be compared."""
        apart = self.distances + np.diag(np.full(len(self.distances), np.inf))
        return np.unique(np.unravel_index(apart.argmin(), apart.shape))

    def why(self, k: int, group, against) -> tuple[Reason, str] | None:
        """Why frame k is not of the group: the first number that is beyond its limit."""
        median, middle, heat = float(np.median(self.medians[group])), against.temperature, self.temperatures[k]
        level, noise, scale, step = against.level[k], against.noise[k], against.scale[k], self.steps[k]
        level_limit, scale_out = self._level_limit(against.unit, median), abs(scale - 1) > against.scale_limit[k]
        eight_bit = f"no code above {EIGHT_BIT - 1}: 8 bit, where the group's median is {median:.0f} counts"
        warmth = f"{heat:.2f} C, the group's middle is {middle:.2f} C (limit {self.tolerance:g} K)"
        moved = against.where_hot(self.samples[k], self.shape) if scale < IN_PLACE else ""
        place = f"{moved}: so its hot pixels are the group's, in place they are at {scale:.2f}"
        hot = f"hot pixels at {scale:.2f} of the group's (limit 1 ± {against.scale_limit[k]:.2f})"
        offset = f"{level:+.1f} sigma of a frame from the group's {median:.0f} counts (limit {level_limit:.3g})"
        cure = "" if self.level_correction else "; level_correction would take it off"
        least, limit = "at most " if noise <= LEAST_NOISE else "", math.exp(against.noise_limit)
        nearest = np.nanmin(self.first.spread[k]) / (math.sqrt(2) * against.unit)
        pattern = ": a pattern that moves, for some frames share its own" if nearest < NOISE_LIMIT < noise else ""
        louder = f"{least}{noise:.2f} times the group's (limit {limit:.2f}){pattern}"
        switched = hot + (": as after a switch of the exposure" if scale < 1 else "")
        steps = f"codes in steps of {step}, the group's in steps of {against.step}"
        tests = (
            (self.shallow[k] and median > DEEPER, Reason.CODES, eight_bit),
            (abs(heat - middle) > self.tolerance, Reason.TEMPERATURE, warmth),
            (moved, Reason.GEOMETRY, place),
            (abs(level) > level_limit, Reason.LEVEL, offset + (f", and {hot}" if scale_out else cure)),
            (abs(math.log(noise)) > against.noise_limit, Reason.NOISE, louder),
            (scale_out, Reason.TRANSITION, switched),
            (step and against.step and step != against.step, Reason.CODES, steps),
        )
        return next(((reason, text) for beyond, reason, text in tests if beyond), None)

    def drift(self, used) -> list[str]:
        """A remark where levels of the used frames differ by more than half a frame's noise."""
        span = float(np.ptp(self.first.level[used]))
        if span <= LEVEL_NOTED or self.level_correction:
            return []
        return [f"levels of the used frames differ by {span:.1f} sigma of a frame: level_correction takes offsets off"]


class _AgainstGroup:
    """Every frame's numbers against the group alone, and the limits that depend on the group."""

    def __init__(self, states, group):
        references = _evenly(group, REFERENCES)
        same = np.array_equal(references, states.first.references)
        compared = states.first if same else _Comparison(states, references)
        self.unit = compared.unit
        self.level = compared.level - np.median(compared.level[group])
        excess = np.nanmedian(compared.spread**2, axis=1) / self.unit**2 - 1
        self.noise = np.sqrt(np.maximum(excess, LEAST_NOISE**2))
        self.noise_limit = max(math.log(NOISE_LIMIT), 12 * states.chance)
        self.hot, self.mean = _hot_map([states.samples[r] for r in compared.references], HOT_SIGMA * self.unit)
        scale, error = np.array([_hot_scale(sample, self.hot, self.mean) for sample in states.samples]).T
        own = scale[group][~np.isnan(scale[group])]
        self.scale = scale / np.median(own) if len(own) else np.full(len(scale), np.nan)
        self.scale_limit = np.maximum(SCALE_LIMIT, SCALE_ERRORS * error)
        known = states.temperatures[group][~np.isnan(states.temperatures[group])]
        self.temperature = (known.min() + known.max()) / 2 if len(known) else np.nan
        self.step = states.steps[group].max()

    def where_hot(self, sample, shape) -> str:
        """Name the flip, turn or shift after which the group's hot pixels are this frame's; "" where none is."""
        best = np.argsort(-self.mean, kind="stable")[:COMPARED_HOT]
        (y, x), (ny, nx) = np.divmod(self.hot[best], shape[1]), shape
        moves = {
            "": (y, x),
            "upside down": (ny - 1 - y, x),
            "mirrored": (y, nx - 1 - x),
            "turned by 180 degrees": (ny - 1 - y, nx - 1 - x),
        }
        if ny == nx:
            moves |= {f"transposed, {name}".strip(", "): (b, a) for name, (a, b) in list(moves.items())}
        for name, (a, b) in moves.items():
            for dy, dx in sorted(np.ndindex(5, 5), key=lambda shift: (shift[0] - 2) ** 2 + (shift[1] - 2) ** 2):
                moved = (a + dy - 2) * nx + b + dx - 2
                if _hot_scale(sample, moved, self.mean[best])[0] > IN_PLACE:
                    shifted = f"shifted by {dx - 2:+d} columns and {dy - 2:+d} rows" if (dy, dx) != (2, 2) else ""
                    return ", ".join(filter(None, (name, shifted)))
        return ""


def _greatest(numbers, limit):
    """Largest of the differences of every pair's numbers over their limits, (N, N); NaN differs from nothing."""
    apart = np.abs(numbers[:, None] - numbers[None]) / limit
    return np.where(np.isnan(apart), 0, apart).max(axis=-1)


def _hot_scale(sample: Sample, hot, mean) -> tuple[float, float]:
    """Weighted median of a frame's excess over the given one at hot pixels, and its error; NaN where untested.

    A pixel that does not stand out in the frame has the excess 0 there.
    """
    if len(hot) < LEAST_HOT:
        return np.nan, np.nan
    ratio = _excess_at(sample, hot) / mean
    scale = _weighted_median(ratio, mean)
    spread = 1.4826 * _weighted_median(np.abs(ratio - scale), mean)
    error = 1.2533 * spread * math.sqrt((mean.astype(float) ** 2).sum()) / mean.sum(dtype=float)
    return (scale, error) if error <= SCALE_WORST_ERROR * max(1, scale) else (np.nan, np.nan)


def _excess_at(sample: Sample, places):
    if not len(sample.hot):
        return np.zeros(len(places), np.float32)
    at = np.minimum(np.searchsorted(sample.hot, places), len(sample.hot) - 1)
    return np.where(sample.hot[at] == places, sample.excess[at], 0)


def _weighted_median(values, weights) -> float:
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(weights[order], dtype=float)
    return float(values[order[np.searchsorted(cumulative, cumulative[-1] / 2)]])


def _hot_map(samples, least: float):
    """Places of pixels that stand out by `least` counts in the middle third of the frames' values, and that mean."""
    places = np.unique(np.concatenate([sample.hot for sample in samples]))
    excess = np.sort([_excess_at(sample, places) for sample in samples], axis=0)
    third = len(samples) // 3
    mean = excess[third : len(samples) - third].mean(axis=0)
    return places[mean > least], mean[mean > least]


def _garbage_lines(samples, used, against, parameters) -> dict[int, tuple[Reason, str]]:
    """Used frames with rows or columns a quarter of which is beyond 5 sigma of the median of five frames."""
    found: dict[int, tuple[Reason, str]] = {}
    five = _evenly(used, 5)
    offset = (against.level * against.unit).astype(np.float32)
    for word, name, axis in (("rows", "in_rows", 0), ("columns", "in_columns", 1)):
        across = sampled_places(parameters.frame_shape)[2 - axis]
        if len(across) < LEAST_IN_LINE:
            continue
        lines = {k: getattr(samples[k], name) for k in used}
        own = np.stack([lines[k] - offset[k] for k in five], axis=-1)
        middle = np.median(own, axis=-1, overwrite_input=True)
        ends = (across < METADATA_REACH) | (across >= parameters.frame_shape[1 - axis] - METADATA_REACH)
        share = {}
        for k in used:
            wild = np.abs(lines[k] - (middle + offset[k])) > GARBAGE_SIGMA * against.unit
            wild &= lines[k] < parameters.top_code
            wild[np.ix_([0, -1], ends)] = False  # metadata, like saturated pixels, is flagged pixel by pixel
            share[k] = np.count_nonzero(wild, axis=1) / len(across)
        # A line that is wild in most frames is a bad line of the chip.
        usual = 3 * np.median([share[k] for k in five], axis=0)
        for k in used:
            odd = np.flatnonzero(share[k] > np.maximum(GARBAGE_SHARE, usual))
            if len(odd):
                text = f"garbage in {len(odd)} of its {word}, the first at {odd[0]}: over a quarter of the pixels"
                found.setdefault(int(k), (Reason.ROWS, f"{text} beyond {GARBAGE_SIGMA:g} sigma"))
    return found


def _describe_second(names, used, second, misfits) -> str:
    """Name another group of frames: how many, what they differ by, and the pattern that chooses them alone."""
    reason, detail = misfits[second[0]]
    pattern = _pattern_of([names[k] for k in second], [name for k, name in enumerate(names) if k not in second])
    cure = f'; to measure them, set file_pattern: "{pattern}"' if pattern else ""
    members = f"{len(used)} frames are used, {len(second)} others ({names[second[0]]} to {names[second[-1]]})"
    return f"{members} agree with one another and not with them: {reason.value}, {detail}{cure}"


def _pattern_of(wanted: list[str], others: list[str]) -> str | None:
    """A pattern of file names that matches all the wanted and none of the others; None where there is no short one."""
    if len({len(name) for name in wanted}) > 1 or any(set(name) & set("[]*?!-") for name in wanted):
        return None
    choices = ["".join(sorted(set(characters))) for characters in zip(*(name.lower() for name in wanted), strict=True)]
    pattern = "".join(choice if len(choice) == 1 else f"[{choice}]" for choice in choices)
    return None if any(fnmatch(name.lower(), pattern) for name in others) else pattern
