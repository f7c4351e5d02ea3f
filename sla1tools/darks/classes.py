"""Pixel classes as DQ bit planes, each with what chance alone would flag.

A frame's own flash must not classify the pixel it falls on: noisy and unstable pixels need more than one odd frame.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from functools import cache

import numpy as np
from astropy.table import Table

from sla1tools.darks.noise import NoiseModel, PixelStatistics, combined_variance, leave_one_out_variance
from sla1tools.darks.structure import line_medians, smooth_level
from sla1tools.darks.telegraph import LEAST_FRAMES, SPLIT_CHANCE, suspect_chance, telegraph_pixels, two_levels
from sla1tools.darks.variance import variance_ratio_isf, variance_ratio_ppf

METADATA_REACH = 32  # pixels, 64 bytes: cameras write 44 of them and more over an end of the first or last row
LEAST_METADATA = 4
WILD_SIGMA, WILD_VARIANCE = 10.0, 25.0
WARM_SIGMA = 5.0
HOT_NOISES = 22.0  # times the median noise of a frame: some 800 e- where that is 37 e-
LINE_SIGMA = 6.0
LINE_VARIANCE = 1.5  # times the model's: a whole column this noisy is noisy
EDGE_WIDTH = 2  # a 5x5 stamp is cut there
PERSISTENCE_CHANCE = 1e-3


class PixelClass(IntFlag):
    """DQ bits; where HST has the class, the bit is HST's."""

    EDGE = 1
    METADATA = 2
    KNOWN = 4
    ZERO_VARIANCE = 8
    HOT = 16
    UNSTABLE = 32
    WARM = 64
    NOISY = 128
    COLUMN_ROW = 512
    SATURATED = 2048
    COSMIC_RAY = 8192


MEANINGS: Mapping[PixelClass, str] = {
    PixelClass.EDGE: "within two pixels of the frame's edge: a 5x5 stamp is cut",
    PixelClass.METADATA: "overwritten by the camera with binary metadata (an end of the first or last row)",
    PixelClass.KNOWN: "marked in the known_pixels mask",
    PixelClass.ZERO_VARIANCE: "the same count in every frame",
    PixelClass.HOT: "level over 22 times a frame's noise, and over 5 sigma, above its surroundings",
    PixelClass.UNSTABLE: "switches between two levels (random telegraph signal)",
    PixelClass.WARM: "level over 5 sigma, up to 22 times a frame's noise, above its surroundings",
    PixelClass.NOISY: "noisier than its level explains, in more than one frame",
    PixelClass.COLUMN_ROW: "in a column or row whose median level or noise stands out",
    PixelClass.SATURATED: "at the top code in at least one frame",
    PixelClass.COSMIC_RAY: "part of a cosmic-ray-like hit (of one frame; never in the night's DQ image)",
}

BLOCKING = (
    PixelClass.METADATA
    | PixelClass.KNOWN
    | PixelClass.ZERO_VARIANCE
    | PixelClass.HOT
    | PixelClass.UNSTABLE
    | PixelClass.NOISY
    | PixelClass.SATURATED
)
"""Classes whose pixels leave a PSF fit: no signal, or a noise that the model does not hold for. Hot pixels are among
them because telegraph noise lives there and few frames cannot rule it out. Warm pixels and offset columns only add a
constant, which the reference removes, and a shot noise, which the model has. An edge cuts the stamp, no pixel.
"""

ODD = PixelClass.METADATA | PixelClass.ZERO_VARIANCE | PixelClass.SATURATED
"""Classes whose readings say nothing of the pixel: it is not classed by them as well."""


def bits_of(excluded: Iterable[str]) -> int:
    """Bits of the classes that `excluded_classes` names; telegraph pixels are the unstable ones.

    >>> bits_of(["telegraph", "hot"])
    48
    """
    return int(sum({PixelClass["UNSTABLE" if name == "telegraph" else name.upper()] for name in excluded}))


def name_of(flag: PixelClass) -> str:
    """Name of a class as tables, summary and report write it: 'zero_variance'."""
    return str(flag.name).lower()


def names_in(dq: int) -> str:
    """Name the classes in a DQ value, for reading.

    >>> names_in(16 | 32), names_in(0)
    ('hot, unstable', '')
    """
    return ", ".join(name_of(flag).replace("_", " ") for flag in PixelClass if dq & flag)


@dataclass(frozen=True)
class PixelClasses:
    """Pixel classes of a night.

    Attributes
    ----------
    dq : (ny, nx) uint16 array
        Bit planes of `PixelClass`.
    counts : dict of str to int
        Pixels in each class, by its name in lower case.
    tested : dict of str to bool
        False where the night has too few frames to tell: the class's plane is then empty.
    expected_false : dict of str to float
        Pixels that Gaussian noise alone would flag in the whole frame, at most.
    power : dict of str to float
        Chance to be flagged, at this number of frames: 'noisy' of a pixel with 3 times its level's noise, 'unstable'
        of one that is up by 5 sigma in 30 % of the time, 'unstable_10_percent' in 10 %.
    telegraph : Table
        The unstable pixels, as `telegraph.telegraph_pixels` gives them; no rows where they are not tested.
    """

    dq: np.ndarray = field(repr=False)
    counts: dict[str, int]
    tested: dict[str, bool]
    expected_false: dict[str, float]
    power: dict[str, float]
    telegraph: Table


@dataclass(frozen=True)
class Evidence:
    """What the classes of a night rest on.

    Attributes
    ----------
    statistics : PixelStatistics
        Of the whole frame.
    level : (ny, nx) uint16 array
        Median over the frames, whole counts.
    model : NoiseModel
        Of the night.
    prior : (ny, nx) float32 array
        ``model.variance(level)``.
    step : int
        Greatest common step of the codes (`CountsAudit.step`; 0 counts as 1): coarse codes repeat by chance.
    """

    statistics: PixelStatistics
    level: np.ndarray
    model: NoiseModel
    prior: np.ndarray
    step: int = 1


def classify(stack, evidence: Evidence) -> PixelClasses:
    """Class every pixel of a night.

    Parameters
    ----------
    stack : Capture, or candidates.search.Stack
        For its `parameters` (scale, top code), `known` pixels (None for none), and `band`: the raw counts of some rows
        in every frame, asked for only where pixels are suspected of telegraph noise.
    evidence : Evidence
        From the same frames.

    Notes
    -----
    Noisy: s² over its level's variance beyond the F(N-1, prior_dof) tail of one pixel a frame, and still beyond 1 in
    1000 without the frame farthest from the mean. Unstable: `two_levels` among pixels with s² in excess. Neither is
    tested below five frames. Constant pixels are not tested where more than one would be expected by chance; those
    constant at code 0 or at the rail are flagged in any case. Warm and hot are apart from each other.
    """
    statistics, prior, model = evidence.statistics, evidence.prior, evidence.model
    n, pixels = statistics.frames, prior.size
    chance_constant = _chance_constant(prior, n, evidence.step)
    dq, counts = np.zeros(prior.shape, np.uint16), {}
    for flag, plane in _planes(stack, evidence, chance_constant > 1):
        dq |= plane * np.uint16(flag)
        counts[name_of(flag)] = int(np.count_nonzero(plane))
    telegraph = telegraph_pixels(stack.band, statistics, prior, model, stack.parameters.scale)
    telegraph = telegraph[dq[telegraph["y"], telegraph["x"]] & ODD == 0]
    dq[telegraph["y"], telegraph["x"]] |= np.uint16(PixelClass.UNSTABLE)
    enough = n >= LEAST_FRAMES
    return PixelClasses(
        dq=dq,
        counts=counts | {name_of(PixelClass.UNSTABLE): len(telegraph)},
        tested={"zero_variance": bool(chance_constant <= 1), "noisy": enough, "unstable": enough},
        expected_false={
            "zero_variance": chance_constant,
            "warm": pixels * 2.87e-7,
            "noisy": 1.0,
            "unstable": min(1.0, pixels * suspect_chance(pixels) * SPLIT_CHANCE),
        },
        power=_power(n, pixels, model.prior_dof) if enough else {},
        telegraph=telegraph,
    )


def _planes(stack, evidence: Evidence, rails_only: bool) -> Iterator[tuple[PixelClass, np.ndarray]]:
    """Decide class by class, all but the unstable, which pixels are in it."""
    statistics, prior, model = evidence.statistics, evidence.prior, evidence.model
    excess, top_code = smooth_level(evidence.level), stack.parameters.top_code
    np.subtract(evidence.level, excess, out=excess)
    spread = _level_spread(excess, prior, model)
    plane = np.ones(excess.shape, bool)
    plane[EDGE_WIDTH:-EDGE_WIDTH, EDGE_WIDTH:-EDGE_WIDTH] = False
    yield PixelClass.EDGE, plane
    odd = _metadata(statistics, excess, spread, prior)
    yield PixelClass.METADATA, odd
    yield PixelClass.KNOWN, np.zeros_like(odd) if stack.known is None else np.asarray(stack.known, bool)
    plane = statistics.minimum == statistics.maximum
    if rails_only:
        plane &= (statistics.minimum == 0) | (statistics.minimum >= top_code)
    odd |= plane
    yield PixelClass.ZERO_VARIANCE, plane
    plane = statistics.maximum >= top_code
    odd |= plane
    yield PixelClass.SATURATED, plane
    lines = _columns_and_rows(excess, spread, evidence)
    apart = np.subtract(excess, lines.distance, out=lines.distance)
    high = (apart > WARM_SIGMA * spread) & ~odd
    plane = high & (apart > HOT_NOISES * np.sqrt(np.median(prior[:: max(1, len(prior) // 256)])))
    yield PixelClass.HOT, plane
    yield PixelClass.WARM, high & ~plane
    yield PixelClass.COLUMN_ROW, lines.odd
    few = statistics.frames < LEAST_FRAMES
    yield PixelClass.NOISY, np.zeros_like(odd) if few else (_noisy(statistics, prior, model) | lines.noisy) & ~odd


def _level_spread(excess, prior, model):
    """1 sigma of a pixel's excess over its surroundings, in counts: fixed pattern, and noise of the level."""
    noise = prior * np.float32(combined_variance(model.frames, model.method))
    sampled = (slice(None, None, max(1, excess.shape[0] // 256)), slice(None))
    total = (1.4826 * np.median(np.abs(excess[sampled]))) ** 2
    noise += np.float32(max(0.0, total - float(np.median(noise[sampled]))))
    return np.sqrt(noise, out=noise)


def _metadata(statistics, excess, spread, prior):
    """Blocks at the ends of the first and last row that are unlike the chip, in rows that otherwise are like it.

    A block ends with its last wild pixel: one that is constant, that varies far more than its level explains, or whose
    level is far from its surroundings and from the next row's. An amplifier's ramp is in the next row, too.
    """
    plane = np.zeros(excess.shape, bool)
    reach = min(METADATA_REACH, excess.shape[1] // 2)
    for row, beside in ((0, 1), (-1, -2)):
        if len(excess) < 2:
            break
        own, apart = np.abs(excess[row]), np.abs(excess[row] - excess[beside])
        odd = (own > WILD_SIGMA * spread[row]) & (apart > np.maximum(WILD_SIGMA * spread[row], own / 2))
        variance = statistics.variance[row]
        wild = odd | (variance == 0) | (variance > WILD_VARIANCE * prior[row])
        for line, flags in ((wild, plane[row]), (wild[::-1], plane[row, ::-1])):
            size = np.flatnonzero(np.append(True, line[:reach]))[-1]
            sound = not line[reach:-reach].any() or line[reach:-reach].mean() < 0.1  # a narrow frame has no such part
            if size >= LEAST_METADATA and line[:size].mean() > 0.5 and sound:
                flags[:size] = True
    return plane


def _chance_constant(prior, n, step):
    """Pixels expected to give the same rounded count n times: Gaussian density of n - 1 equal differences."""
    variance = np.maximum(prior[:: max(1, len(prior) // 256)].astype(np.float64) / max(step, 1) ** 2, 1 / 12)
    chance = np.minimum(1, (2 * np.pi * variance) ** (-(n - 1) / 2) / np.sqrt(n))
    return float(chance.mean() * prior.size)


@dataclass(frozen=True)
class _Lines:
    """Columns and rows apart from their neighbours: all of them, the noisy ones, and the levels' distances."""

    odd: np.ndarray
    noisy: np.ndarray
    distance: np.ndarray


def _columns_and_rows(excess, spread, evidence) -> _Lines:
    """Find columns and rows with an odd median level or variance; every other pixel of a large frame is looked at."""
    statistics, prior = evidence.statistics, evidence.prior
    # medians of whole numbers are quick: in units of 1/256 the median pixel of a good line has a variance of 256
    unit = np.float32(256 / variance_ratio_ppf(0.5, statistics.frames - 1))
    odd, noisy, distance = [], [], []
    for axis, size in enumerate(excess.shape[::-1]):
        sampled = (slice(None), slice(None, None, max(1, size // 1024)))[:: 1 if axis == 0 else -1]
        levels = np.clip(excess[sampled], -32768, 32767).astype(np.int16)
        noise = np.clip(statistics.variance[sampled] * (unit / prior[sampled]), 0, 65535).astype(np.uint16)
        level_profile, noise_profile = line_medians(levels, 1 - axis), line_medians(noise, 1 - axis)
        sampling = 1.2533 * np.median(spread[:: max(1, len(spread) // 64)]) / np.sqrt(levels.shape[1 - axis])
        away, stands_out = _away(level_profile, max(sampling, evidence.step / 4))
        wide = _away(noise_profile, 1.0)[1] & (noise_profile > LINE_VARIANCE * 256)
        odd.append(stands_out | wide)
        noisy.append(wide)
        distance.append(np.where(stands_out, away, 0).astype(np.float32))
    return _Lines(*(np.add.outer(rows, columns) for rows, columns in (odd, noisy, distance)))


def _away(profile, least: float, width: int = 31):
    """Distance from the running median, and whether it is beyond LINE_SIGMA of the profile's robust scatter.

    The scatter is taken as `least` at least: medians of whole counts may all but agree.
    """
    half = min(width, 2 * (len(profile) // 4) + 1) // 2
    padded = np.pad(profile, half, mode="reflect")
    away = profile - np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1), axis=1)
    scatter = 1.4826 * np.median(np.abs(away))
    return away, np.abs(away) > LINE_SIGMA * max(scatter, least)


def _noisy(statistics, prior, model):
    n, pixels = statistics.frames, prior.size
    suspect = statistics.variance > prior * np.float32(variance_ratio_isf(1 / pixels, n - 1, model.prior_dof))
    y, x = np.nonzero(suspect)
    mean, variance = statistics.mean[y, x].astype(float), statistics.variance[y, x].astype(float)
    farthest = np.maximum(statistics.maximum[y, x] - mean, mean - statistics.minimum[y, x])
    others = leave_one_out_variance(farthest, 0.0, variance, n)
    suspect[y, x] = others > prior[y, x] * variance_ratio_isf(PERSISTENCE_CHANCE, n - 2, model.prior_dof)
    return suspect


@cache
def _power(n: int, pixels: int, prior_dof: float) -> dict[str, float]:
    """Chances that `PixelClasses.power` states, from 20,000 simulated pixels each."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((n, 20_000))

    def unstable(duty):
        readings = noise + 5.0 * (rng.random(noise.shape) < duty)
        suspect = readings.var(axis=0, ddof=1) > variance_ratio_isf(suspect_chance(pixels), n - 1, prior_dof)
        return float(np.mean(suspect & two_levels(readings)))

    wide = 9 * noise.var(axis=0, ddof=1)
    farthest = 3 * np.abs(noise - noise.mean(axis=0)).max(axis=0)
    others = leave_one_out_variance(farthest, 0.0, wide, n)
    noisy = (wide > variance_ratio_isf(1 / pixels, n - 1, prior_dof)) & (
        others > variance_ratio_isf(PERSISTENCE_CHANCE, n - 2, prior_dof)
    )
    return {"noisy": float(noisy.mean()), "unstable": unstable(0.3), "unstable_10_percent": unstable(0.1)}
