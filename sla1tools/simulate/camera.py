"""A simulated sensor: its defects, its noise and what strikes it, drawn frame by frame from named random streams."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from scipy.special import erf

from sla1tools.errors import ParametersError
from sla1tools.parameters import MOST_PIXELS, MOST_SIDE

TOP_CODE = 65535
FULL_FRAME = 2048 * 2048
MOST_FRAMES = 10_000  # of a night
METADATA_PIXELS = 22
MUONS_PER_FULL_FRAME = 2.5
GLOW_WIDTH = 0.15  # of the frame's side
DSNU = 4.0  # electrons, 1 sigma
COLUMN_OFFSET = 150.0  # electrons
EXPOSURE, TEMPERATURE = 30.0, -20.0  # seconds and degrees Celsius, of which levels and defects are given
DOUBLING = 6.0  # K
CHIP_PEDESTAL = 300.0  # electrons
PIXEL_SHARE = {"hot": 5e-4, "warm": 2e-3, "noisy": 2e-4, "rts": 2e-4, "stuck": 2e-6, "saturated": 5e-6}
# Every random stream has its own key, so that a frame depends neither on the frames after it nor on the stars.
PIXEL_STREAM, STAR_STREAM, NOISE_STREAM, RTS_STREAM, MUON_STREAM, HEADER_STREAM, FIELD_STREAM = range(7)
TRUTH = np.dtype("i4, i4, f8, f8, U9, i4, f8, f8, f8, i4")
TRUTH.names = ("x", "y", "x_true", "y_true", "kind", "frame", "value", "fwhm", "duty", "track")


@dataclass(frozen=True)
class Star:
    """A one-frame transient with a pixel-integrated Gaussian profile.

    Parameters
    ----------
    flux : float
        Expected total, in electrons.
    fwhm : float
        Full width at half maximum, in pixels.
    x, y : float, optional
        Sub-pixel position, 0-based, pixel centres at integers. Seeded and uniform over the frame where not given.
    frame : int, optional
        0-based frame that holds the star. Seeded among the night's frames where not given.

    Raises
    ------
    ParametersError
        Where flux or width is not a positive finite number.
    """

    flux: float
    fwhm: float
    x: float | None = None
    y: float | None = None
    frame: int | None = None

    def __post_init__(self):
        """Refuse what cannot be drawn."""
        for name, most in (("flux", 1e9), ("fwhm", 1e3)):
            value = getattr(self, name)
            if not 0 < value <= most:
                raise ParametersError(f"star: {name} must be a positive number up to {most:g}; got {value!r}")


@dataclass
class Camera:
    """A simulated camera and night: its pixels are drawn when it is made, each frame when it is exposed.

    Parameters
    ----------
    frames : int
        Number of frames.
    shape : (ny, nx)
        Rows and columns.
    seed : int
        The same seed gives the same pixels, and a shorter night is the start of a longer one (stars without a `frame`
        excepted: they are spread over the frames there are).
    noise : float
        1-sigma of one raw frame where the level is `level`, in electrons.
    stars : sequence of Star
        Transients to add, each in one frame.
    clean : bool
        Level, noise and stars alone: no pixel structure, no muons, no metadata pixels.
    level : float
        Signal away from the glow, pedestal included, in electrons, of 30 s at -20 C, as `noise` and `glow` are.
    glow : float
        Excess at the last pixel of the last row, in electrons; falls off as a Gaussian of 0.15 of each side.
    pedestal : float, optional
        Part of `level` that carries no shot noise, in electrons: 300 of a chip, else 0.
    scale : float
        Electrons per raw count.
    chip_seed : int, optional
        Nights of one such seed share their pixels: defects, bias pattern, dark current, telegraph levels and rates.
        Noise, hits, stars and the states of telegraph pixels come from `seed`, as the pixels do without it.
    exposure : float
        Seconds; 0 is a bias, without hits.
    temperature, doubling : float
        Of the chip in degrees Celsius, and the kelvins that double the dark current of every pixel.
    telegraph_pairs : int
        So many telegraph pixels, at most all, get a partner of the same height beside them that switches with them.

    Attributes
    ----------
    level_map, noise_map : (ny, nx) float32 arrays
        The smooth level (pedestal, dark and glow) without pixel structure, and the 1-sigma of one raw frame at that
        level, in electrons.
    mean, sigma : (ny, nx) float32 arrays
        Those with the defects.
    defects, placed : arrays
        Rows of `truth`: defective pixels and stars.

    Raises
    ------
    ParametersError
        Where a number is out of range, or a star lies outside the night.

    Notes
    -----
    Variance is (signal - pedestal) + read noise^2, with read noise^2 = noise^2 - (level - pedestal). Where that would
    be negative the read noise is 0 and the shot noise is scaled to give `noise`: the photon transfer's slope is then
    noise^2 / (level - pedestal), not 1. The dark's noise is Gaussian, which at 1300 e- differs from Poisson (skewness
    0.03) only in the far tail. Stars, muons and RTS steps are truly Poisson. Readings are rounded to whole counts and
    clipped to 0..65535; every low bit is used, as in the printed frames.

    Defects scale with the area, at least one of each kind where there is room. Muons are Poisson, 2.5 a frame of
    2048 x 2048, except that the first frame has at least one. Row 0 begins with the 44 bytes that a QHY GPS camera
    writes there: a big-endian frame number and a counter modulo 8, read as little-endian pixels, give the values that
    the observers printed. A muon or star leaves no mark on a stuck, saturated or metadata pixel.

    All that is dark signal grows with exposure and temperature: the level over the pedestal, the glow, hot and warm
    pixels, with their shot noise. Offsets of single pixels (4 e-) and of the column stay, as in a bias, and so does the
    height of telegraph pixels, which belongs to the reading.
    """

    frames: int = 10
    shape: tuple[int, int] = (2048, 2048)
    seed: int = 20240508
    noise: float = 37.0
    stars: Sequence[Star] = ()
    clean: bool = False
    level: float = 1300.0
    glow: float = 1100.0
    pedestal: float | None = None
    scale: float = 1.39 / 16
    chip_seed: int | None = None
    exposure: float = EXPOSURE
    temperature: float = TEMPERATURE
    doubling: float = DOUBLING
    telegraph_pairs: int = 0

    def __post_init__(self):
        """Draw the pixels and place the stars."""
        usual = 0.0 if self.chip_seed is None else CHIP_PEDESTAL
        self.pedestal = pedestal = usual if self.pedestal is None else self.pedestal
        self._check(pedestal)
        falls = (np.exp(-((np.arange(n)[::-1] / (n * GLOW_WIDTH)) ** 2) / 2) for n in self.shape)
        level_map = (self.level + self.glow * np.outer(*falls)).astype(np.float32)
        dark = self.level - pedestal
        shot = min(1.0, self.noise**2 / dark) if dark else 1.0
        noise_map = np.sqrt(shot * (level_map - pedestal) + max(self.noise**2 - dark, 0.0)).astype(np.float32)
        mean, sigma, self.defects = level_map, noise_map, truth_rows("", [], [], 0.0)
        if not self.clean:
            pixels = stream(self.seed if self.chip_seed is None else self.chip_seed, PIXEL_STREAM)
            mean, sigma, self.defects = _add_defects(
                pixels, level_map, noise_map, shot, self.scale, self.telegraph_pairs
            )
        heating = 2 ** ((self.temperature - TEMPERATURE) / self.doubling)
        self.dark_current, growth = dark / EXPOSURE * heating, self.exposure / EXPOSURE * heating
        signal = level_map - np.float32(pedestal)
        self.level_map, self.noise_map = _grown(level_map, noise_map, signal, shot, growth, self.defects[:0])
        self.mean, self.sigma = _grown(mean, sigma, signal, shot, growth, self.defects)
        if self.level_map.max() >= TOP_CODE * self.scale:
            state = f"exposure {self.exposure:g} s at {self.temperature:g} C"
            raise ParametersError(f"{state}: the level would reach the top code")
        stars = [_place(star, stream(self.seed, STAR_STREAM, i, 0), self) for i, star in enumerate(self.stars)]
        self.placed = np.concatenate([truth_rows("", [], [], 0.0), *stars])

    def _check(self, pedestal):
        rules = {
            f"frames: must be from 1 to {MOST_FRAMES}": 1 <= self.frames <= MOST_FRAMES,
            f"shape: must be rows and columns, each from 1 to {MOST_SIDE}": (
                len(self.shape) == 2 and 1 <= min(self.shape) <= max(self.shape) <= MOST_SIDE
            ),
            f"shape: must have at most {MOST_PIXELS} pixels": math.prod(self.shape) <= MOST_PIXELS,
            "seed: must be from 0 to 2**63 - 1": 0 <= self.seed < 2**63,
            "chip_seed: must be from 0 to 2**63 - 1": 0 <= (self.chip_seed or 0) < 2**63,
            "exposure: must be from 0 to 1e6 s": 0 <= self.exposure <= 1e6,
            "temperature: must lie between -273 and 100 C": -273 <= self.temperature <= 100,
            "doubling: must be at least 1 K": 1 <= self.doubling < math.inf,
            "noise: must be from 0 to 1e6 e-": 0 <= self.noise <= 1e6,
            "scale: must be finite and positive": 0 < self.scale < math.inf,
            f"pedestal: must lie between 0 and the level, {self.level}": 0 <= pedestal <= self.level,
            "glow: must not be negative, nor reach the top code": 0 <= self.glow < TOP_CODE * self.scale - self.level,
        }
        for rule, kept in rules.items():
            if not kept:
                raise ParametersError(f"{rule}; got {getattr(self, rule.partition(':')[0])}")

    def expose(self, k: int) -> np.ndarray:
        """Draw the counts of frame `k`."""
        reading = stream(self.seed, NOISE_STREAM, k).standard_normal(self.mean.shape, dtype=np.float32)
        reading *= self.sigma
        reading += self.mean
        for rows in (*self.muons(k), self.steps(k)):
            reading[rows["y"], rows["x"]] += rows["value"]
        for i in np.flatnonzero(self.placed["frame"] == k):
            star = self.placed[i]
            y, x, share = _gaussian_shares(star["x_true"], star["y_true"], star["fwhm"], self.mean.shape)
            reading[y, x] += stream(self.seed, STAR_STREAM, i, 1).poisson(star["value"] * share)
        reading /= self.scale
        np.rint(reading, out=reading)
        counts = np.clip(reading, 0, TOP_CODE, out=reading).astype(np.uint16)
        constant = self.defects[np.isin(self.defects["kind"], ["stuck", "saturated"])]
        counts[constant["y"], constant["x"]] = np.rint(constant["value"] / self.scale)
        if not self.clean:
            metadata = _metadata(k)[: counts.shape[1]]
            counts[0, : len(metadata)] = metadata
        return counts

    def truth(self) -> Table:
        """Tell what is true of the night, one row a defective pixel, struck pixel or star.

        Returns
        -------
        truth : Table
            `x`, `y` (int32, the pixel), `x_true`, `y_true` (sub-pixel for stars, else the pixel), `kind`, `frame`
            (0-based; -1: every frame), `value` (electrons), `fwhm` (px, stars), `duty` (share of frames up, rts),
            `track` (muons, and telegraph pixels that switch together; -1 elsewhere). NaN where a column does not apply.
            `value` means, by kind: hot, warm, column: mean excess over `level_map`; noisy: 1-sigma of one frame; rts:
            height of the upper state; stuck, saturated: the constant reading; metadata: the reading in the first frame;
            muon: electrons deposited; star: expected flux. `meta` holds frames, seed and scale, and of a night of a
            chip its chip_seed, exposure (s), temperature (C), pedestal (electrons), dark_current (electrons a second
            away from the glow, at that temperature) and doubling_kelvin.
        """
        tracks = [rows for k in range(self.frames) for rows in self.muons(k)]
        for number, rows in enumerate(tracks):
            rows["track"] = number
        units = {"x_true": "pix", "y_true": "pix", "value": "electron", "fwhm": "pix"}
        meta = {"frames": self.frames, "seed": self.seed, "scale": self.scale}
        if self.chip_seed is not None:
            meta |= {name: getattr(self, name) for name in ("chip_seed", "exposure", "temperature", "pedestal")}
            meta |= {"dark_current": self.dark_current, "doubling_kelvin": self.doubling}
        return Table(np.concatenate([self.defects, *tracks, self.placed]), units=units, meta=meta)

    def steps(self, k):
        """Truth rows of the pixels that are up in frame `k`, with the electrons each gains there."""
        rts = self.defects[self.defects["kind"] == "rts"]
        rng, paired = stream(self.seed, RTS_STREAM, k), rts["track"] >= 0
        draws = rng.random(len(rts))
        draws[paired] = draws[rts["track"][paired]]
        up = draws < rts["duty"]
        rts["value"] = rng.poisson(rts["value"])
        return rts[up]

    def muons(self, k):
        """Truth rows of the muons of frame `k`, one array a muon."""
        if self.clean:
            return []
        rng = stream(self.seed, MUON_STREAM, k)
        number = rng.poisson(MUONS_PER_FULL_FRAME * self.mean.size / FULL_FRAME * (self.exposure / EXPOSURE))
        return [_muon(rng, self.mean.shape, k) for _ in range(max(number, k == 0 < self.exposure))]


def _grown(mean, sigma, signal, shot, growth, defects):
    """Mean and noise where the dark signal is `growth` times the given one, the same to the bit where that is 1.

    Hot and warm pixels add to the signal; the values of defects become what they then are.
    """
    hot = np.isin(defects["kind"], ["hot", "warm"])
    signal = signal.copy()
    signal[defects["y"][hot], defects["x"][hot]] += defects["value"][hot]
    grown = mean + (growth - 1) * signal
    variance = np.maximum(sigma.astype(float) ** 2 + shot * (growth - 1) * signal, 0)
    sigma = np.sqrt(variance).astype(np.float32)
    if growth != 1:
        defects["value"][hot] *= growth
        noisy = defects["kind"] == "noisy"
        defects["value"][noisy] = sigma[defects["y"][noisy], defects["x"][noisy]]
    return grown, sigma


def _add_defects(rng, level_map, noise_map, shot, scale, telegraph_pairs):
    """Give every defect its pixels, one kind a pixel; return the mean and noise of each pixel, and the truth rows."""
    ny, nx = level_map.shape
    top = TOP_CODE * scale
    mean = level_map + np.float32(DSNU) * rng.standard_normal((ny, nx), dtype=np.float32)
    sigma = noise_map.copy()
    metadata = np.arange(min(METADATA_PIXELS, nx))
    free = np.ones((ny, nx), bool)
    free[0, metadata] = False
    column = rng.integers(min(METADATA_PIXELS, nx - 1), nx)
    rows = np.flatnonzero(free[:, column])
    free[rows, column] = False
    mean[rows, column] += COLUMN_OFFSET
    sigma[rows, column] *= 2
    defects = [
        truth_rows("metadata", metadata, 0 * metadata, _metadata(0)[:nx] * scale),
        truth_rows("column", column + 0 * rows, rows, COLUMN_OFFSET),
    ]
    places = rng.permutation(np.flatnonzero(free))
    for kind, share in PIXEL_SHARE.items():
        number = max(1, round(share * ny * nx))
        (y, x), places = np.unravel_index(places[:number], (ny, nx)), places[number:]
        value = _defect_values(kind, rng, 0.9 * (top - level_map[y, x]), noise_map[y, x], scale)
        if kind in ("hot", "warm"):
            mean[y, x] += value
            sigma[y, x] = np.sqrt(sigma[y, x] ** 2 + shot * value)
        elif kind == "noisy":
            sigma[y, x] = value
        free[y, x] = False
        defects.append(truth_rows(kind, x, y, value))
        if kind == "rts":
            defects[-1]["duty"] = rng.uniform(0.05, 0.5, len(x))
    rows = np.concatenate(defects)
    return mean, sigma, np.concatenate([rows, *_partners(rows, free, telegraph_pairs)])


def _partners(defects, free, pairs):
    """Rows of telegraph pixels beside others that they switch with; `track` of both is the first one's number."""
    first = np.flatnonzero(defects["kind"] == "rts")
    for number, row in enumerate(first):
        y, x = defects["y"][row], defects["x"][row] + 1
        if pairs > 0 and x < free.shape[1] and free[y, x]:
            pairs, free[y, x], defects["track"][row] = pairs - 1, False, number
            partner = defects[row : row + 1].copy()
            partner["x"], partner["x_true"] = x, x
            yield partner


def _defect_values(kind, rng, room, noise, scale):
    """Electrons that say how bad each pixel of a kind is; `room` is what its level leaves below the top code."""
    n = len(room)
    if kind == "hot":
        # Exponential modulo a limit is the exponential cut off there: pixels on the rail are a kind of their own.
        return 800 + rng.exponential(1200, n) % np.maximum(room - 800, 1)
    if kind == "noisy":
        return noise * rng.uniform(2, 4, n)
    if kind == "stuck":
        return rng.integers(1, TOP_CODE, n) * scale
    if kind == "saturated":
        return np.full(n, TOP_CODE * scale)
    return rng.uniform(150, 800 if kind == "warm" else 1500, n)


def stream(seed: int, *key) -> np.random.Generator:
    """Return the random stream of a night's seed and a key; no two keys share numbers."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def truth_rows(kind, x, y, value, frame=-1):
    """Return rows of `Camera.truth`, of one kind."""
    rows = np.zeros(len(x), TRUTH)
    rows["kind"], rows["frame"], rows["value"], rows["track"] = kind, frame, value, -1
    rows["x_true"], rows["y_true"], rows["fwhm"], rows["duty"] = x, y, np.nan, np.nan
    rows["x"], rows["y"] = np.rint(rows["x_true"]), np.rint(rows["y_true"])
    return rows


def _gaussian_shares(x, y, fwhm, shape):
    """Rows, columns and shares of the flux of a pixel-integrated Gaussian, the part that falls on the frame."""
    sigma = fwhm / math.sqrt(8 * math.log(2))
    reach = math.ceil(6 * sigma) + 1
    axes, shares = [], []
    for centre, size in zip((y, x), shape, strict=True):
        pixels = np.arange(max(0, round(centre) - reach), min(size, round(centre) + reach + 1))
        axes.append(pixels)
        shares.append(np.diff(erf((np.append(pixels, pixels[-1] + 1) - 0.5 - centre) / (sigma * math.sqrt(2)))) / 2)
    rows, columns = np.meshgrid(*axes, indexing="ij")
    return rows.ravel(), columns.ravel(), np.outer(*shares).ravel()


def _muon(rng, shape, k):
    """Truth rows of one muon: three in four leave a straight track, the others a spot that looks like a star."""
    ny, nx = shape
    x, y, total = rng.uniform(-0.5, nx - 0.5), rng.uniform(-0.5, ny - 0.5), 10 ** rng.uniform(3.0, 3.9)
    if rng.random() < 0.25:
        rows, columns, share = _gaussian_shares(x, y, rng.uniform(1.2, 2.5), shape)
    else:
        length, angle = rng.uniform(1, 20), rng.uniform(0, 2 * np.pi)
        along = np.linspace(0, length, math.ceil(8 * length))
        columns = np.rint(x + along * np.cos(angle) + 0.25 * rng.standard_normal(along.size)).astype(int)
        rows = np.rint(y + along * np.sin(angle) + 0.25 * rng.standard_normal(along.size)).astype(int)
        share = rng.exponential(size=along.size)
        inside = (rows >= 0) & (rows < ny) & (columns >= 0) & (columns < nx)
        places, where = np.unique(rows[inside] * nx + columns[inside], return_inverse=True)
        rows, columns = np.divmod(places, nx)
        share = np.bincount(where, share[inside], len(places)) / share.sum()
    electrons = rng.poisson(total * share)
    hit = electrons > 0
    return truth_rows("muon", columns[hit], rows[hit], electrons[hit], k)


def _metadata(k):
    """Counts that the camera's 44 bytes make of frame `k`: its number, a small counter, a clock without a lock."""
    header = (0x0019C6EB + k).to_bytes(4, "big") + bytes([(k + 3) % 8]) + bytes(29)
    header += (30 * k).to_bytes(4, "big") + (738_154).to_bytes(3, "big") + (10_000_000).to_bytes(3, "big")
    return np.frombuffer(header, "<u2")


def _place(star, rng, camera):
    (ny, nx), frame = camera.shape, star.frame
    x, y, share = rng.uniform(-0.5, nx - 0.5), rng.uniform(-0.5, ny - 0.5), rng.random()
    x, y = x if star.x is None else star.x, y if star.y is None else star.y
    frame = int(share * camera.frames) if frame is None else frame
    if not (-0.5 <= x < nx - 0.5 and -0.5 <= y < ny - 0.5):
        raise ParametersError(f"star at x={x:g}, y={y:g}: outside the frame of {nx} columns and {ny} rows")
    if not 0 <= frame < camera.frames:
        raise ParametersError(f"star in frame {frame}: the night has frames 0 to {camera.frames - 1}")
    rows = truth_rows("star", [x], [y], star.flux, frame)
    rows["fwhm"] = star.fwhm
    return rows
