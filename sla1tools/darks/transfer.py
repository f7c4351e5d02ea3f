"""Dark photon transfer: temporal variance against dark level, which tells gain and pedestal from darks alone."""

from dataclasses import dataclass, field

import numpy as np

from sla1tools.darks.variance import LEAST_GROUPS, Curve, fit_curve, sample_rows, variance_ratio_ppf

GAIN_PRECISION = 0.2  # relative 1-sigma above which a gain is not quoted
LEAST_SPAN = 0.5  # counts between the groups' levels, below which they are one level
HOT = 8.0  # robust sigma by which a pixel stands above its row neighbours
STANDING_OUT = 6.0  # and by this many temporal sigma of its surroundings
JUMPING = 6.0  # excess squared over variance: of a pixel that jumps between two levels it is about 4
LEAST_HOT = 100
HOT_FACTOR = 1.3  # either way: hot pixels flicker, and three frames tell a median variance to 15 %
HOT_SIGMAS = 4.0
HOT_PRECISION = 0.1  # relative 1-sigma to which hot pixels must know the slope that they confirm
Z_95 = 1.959964


@dataclass(frozen=True)
class PhotonTransfer:
    """Temporal variance against dark level: the gain, and as much of the pedestal as darks can tell.

    A dark follows ``variance = (level - pedestal) / gain + read_noise**2``: the slope is the gain's inverse, but
    pedestal and read noise are one intercept. `pedestal`, the level where the variance would vanish, is given as if
    there were no read noise, and is therefore a lower limit of the true one.

    Attributes
    ----------
    gain, gain_error : float
        Electrons per raw count, and 1 sigma. NaN unless `can_tell`.
    pedestal, pedestal_error : float
        Raw counts, if the read noise is zero. NaN unless `can_tell`.
    can_tell : bool
        The levels reach far enough for the gain to be known better than 20 %, and the hot pixels do not deny it.
    dark_signal : bool
        The hot pixels, whose excess is dark signal, agree within a factor of 1.3 and know it to 10 %; without them the
        gain holds if the level is dark signal, which a second exposure would tell.
    reason : str
        One sentence, with the numbers.
    level, variance, error : (bins,) arrays
        Raw counts; counts squared and 1 sigma: median level and robust variance of each group of pixels.
    slope, slope_error, intercept : float
        The line through them, counts squared per count and counts squared; NaN where there is but one level.
    """

    gain: float
    gain_error: float
    pedestal: float
    pedestal_error: float
    can_tell: bool
    dark_signal: bool
    reason: str
    level: np.ndarray = field(repr=False)
    variance: np.ndarray = field(repr=False)
    error: np.ndarray = field(repr=False)
    slope: float
    slope_error: float
    intercept: float

    def agrees_with(self, configured: float) -> bool | None:
        """Whether the configured gain, in electrons per raw count, lies in the 95 % interval; None if it cannot tell.

        The interval is symmetric in the slope, which is what was measured.
        """
        if not self.can_tell:
            return None
        return bool(abs(1 / configured - self.slope) <= Z_95 * self.slope_error)

    def verdict(self, configured: float) -> str:
        """Say what was measured beside the configured gain, electrons per raw count."""
        if not self.can_tell:
            return f"Not tested: {self.reason}."
        agrees = "agrees" if self.agrees_with(configured) else "disagrees"
        pedestal, error = self.pedestal * configured, self.pedestal_error * configured
        measured = "The measured gain"
        if not self.dark_signal:
            measured = "If the level is dark signal, which a second exposure would tell, the measured gain"
        borne_out = (
            f" The hot pixels bear it out to a factor of {HOT_FACTOR}: what a bias pattern adds within that cannot be "
            "told, but by a second exposure."
        )
        return (
            f"{measured} is {self.gain:.4f} ± {self.gain_error:.4f} e- per count; it {agrees} with the "
            f"configured {configured:.4f} (at 95 %).{borne_out if self.dark_signal else ''} If there is no read noise "
            f"the pedestal is {pedestal:.0f} ± {error:.0f} e-."
        )


def photon_transfer(level: np.ndarray, variance: np.ndarray, n: int) -> PhotonTransfer:
    """Measure the gain from darks alone: variance against level over the smooth part of the frame's dark level.

    Parameters
    ----------
    level : (ny, nx) array
        Dark level of each pixel in raw counts, mean or median over the frames.
    variance : (ny, nx) float array
        Sample variance over the frames, counts squared.
    n : int
        Number of frames.

    Notes
    -----
    Pixels are grouped by the median level of their four neighbours along the row, not by their own: grouping by one's
    own noisy level flattens the slope, and it would gather the hot pixels, whose flicker is not shot noise, in the
    highest groups. A group's variance is its median over the median of chi-square: unstable pixels do not move it.
    Errors grow with the scatter about the line.

    A bias pattern whose noise differs from place to place has a slope too, and no gain. So the smooth slope is compared
    with that of the hot pixels: the median of excess variance over excess level, both above the row neighbours, with
    each column's median taken off, of pixels that do not jump. More than a factor of 1.3 apart, beyond four errors, no
    gain is given; where they cannot confirm it, it is given with an "if" (`dark_signal`).

    A glow that changes during the night counts as variance, most where the glow is: believe the gain where
    `structure.frame_drift` is flat.
    """
    own, spread, around = sample_rows(level, variance)
    curve = fit_curve(around, own, spread, n - 1)
    slope, slope_error = curve.slope, curve.slope_error
    one_level = len(curve.level) < LEAST_GROUPS or np.ptp(curve.level) < LEAST_SPAN
    if one_level:
        slope = slope_error = np.nan
    precise = bool(slope_error < GAIN_PRECISION * slope)
    hot, hot_error, pixels = _hot_slope(own - around, spread, around, curve, level.shape[1], n)
    margin = HOT_SIGMAS * np.hypot(hot_error, slope_error)
    denied = precise and (hot + margin < slope / HOT_FACTOR or hot - margin > slope * HOT_FACTOR)
    can_tell = precise and not denied
    gain, gain_error = (1 / slope, slope_error / slope**2) if can_tell else (np.nan, np.nan)
    intercept = curve.middle - slope * curve.centre
    pedestal_error = np.hypot(curve.middle_error, slope_error * curve.middle / slope) / slope if can_tell else np.nan
    if one_level:
        reason = "the level has too few distinguishable values: no gain from these darks"
    elif denied:
        reason = (
            f"the smooth level gives a slope of {slope:.3g} ± {slope_error:.2g} counts²/count, {pixels:,} hot pixels "
            f"{hot:.3g} ± {hot_error:.2g}: the level is not dark signal alone, no gain from these darks"
        )
    else:
        reason = f"levels of {curve.level.min():.0f} to {curve.level.max():.0f} counts give "
        reason += (
            f"{gain:.4f} ± {gain_error:.4f} electrons per count"
            if can_tell
            else f"the slope only as {slope:.3g} ± {slope_error:.2g} counts²/count: no gain from these darks"
        )
    return PhotonTransfer(
        gain=gain,
        gain_error=gain_error,
        pedestal=-intercept * gain,
        pedestal_error=float(pedestal_error),
        can_tell=can_tell,
        dark_signal=bool(
            can_tell and hot_error < HOT_PRECISION * hot and slope / HOT_FACTOR < hot < slope * HOT_FACTOR
        ),
        reason=reason,
        level=curve.level,
        variance=curve.variance,
        error=curve.error,
        slope=slope,
        slope_error=slope_error,
        intercept=intercept,
    )


def _hot_slope(excess, variance, around, curve: Curve, columns: int, n: int) -> tuple[float, float, int]:
    """Slope of variance against level of the hot pixels alone, its error, and how many they are; NaN of too few."""
    if columns < 5:
        return np.nan, np.nan, 0
    rows = excess.reshape(-1, columns - 4)
    excess = (rows - np.median(rows, axis=0)).ravel()  # else an offset column is hot
    hot = np.flatnonzero(excess > max(HOT * 1.4826 * np.median(np.abs(excess)), 1.0))
    smooth = np.interp(around[hot], curve.level, curve.variance)
    stands_out = excess[hot] ** 2 > STANDING_OUT**2 * smooth
    steady = stands_out & (excess[hot] ** 2 > JUMPING * variance[hot])
    hot, smooth = hot[steady], smooth[steady]
    pixels = len(hot)
    if pixels < LEAST_HOT:
        return np.nan, np.nan, pixels
    slopes = (variance[hot] / variance_ratio_ppf(0.5, n - 1) - smooth) / excess[hot]
    slope = float(np.median(slopes))
    spread = 1.4826 * float(np.median(np.abs(slopes - slope)))
    return slope, float(np.sqrt(np.pi / 2)) * spread / np.sqrt(pixels), pixels
