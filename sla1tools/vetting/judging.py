"""Is this flash the camera's? A verdict on each flash of a science frame, with its reasons."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.table import MaskedColumn, Table
from scipy.spatial import cKDTree

from sla1tools.candidates.criteria import candidates
from sla1tools.candidates.leaders import cut_stamps
from sla1tools.candidates.rows import LEADER_COLUMNS, UNITS, Floors
from sla1tools.candidates.selection import column_of
from sla1tools.darks.classes import BLOCKING, names_in
from sla1tools.darks.model import DarkModel
from sla1tools.errors import FrameError, NightError
from sla1tools.frames.capture import Capture
from sla1tools.parameters import Parameters
from sla1tools.text import chance_text, counted, shown
from sla1tools.vetting.expectation import CameraFlashes
from sla1tools.vetting.measuring import NEARBY, ScienceFrame, measure

VERDICTS = ("camera", "camera-like", "not told apart", "not the camera's", "not judged")
COLUMNS = ("frame", "time", *LEADER_COLUMNS[1:])
OWN_COLUMNS = ("sky", "searched", "expected", "expected_high", "verdict", "reasons")
FORMATS = {"snr": ".1f", "p_value": ".2g", "searched": ".3g", "expected": ".2g", "expected_high": ".2g", "sky": ".0f"}
PLACE_PIXELS = 25  # of a place fixed before looking: the flash's own 5x5
LEAST_HEIGHT = 3.0  # sigma: a flagged peak below it is noise
JUMP_SIGMA = 5.0  # of a dark: noise alone makes one such in three million pixels
EXPLAINS = 0.5  # of the flash's height: a pixel that has jumped so far may do so again
OUTSHONE = 4.0  # times: beside it a wing's noise is the leader
FAINT = 20.0  # S/N below which half of the real hits pass for stars


@dataclass(frozen=True)
class Witness:
    """What a night's darks can say of a flash.

    Attributes
    ----------
    dark : DarkModel
    parameters : Parameters
    floors : Floors
        Above which the darks' leaders were measured.
    flashes : CameraFlashes
        Of the darks.
    candidates : (n, 2) int array
        x, y of every candidate of the darks, of this night and others.
    histories : callable
        ``histories(x, y)``: held-out residuals of n pixels in every dark, in sigma, (n, N); or `highest_of`.
    gain, camera : float and str, optional
        GAIN and INSTRUME of the darks; None where their headers give none.
    """

    dark: DarkModel
    parameters: Parameters
    floors: Floors
    flashes: CameraFlashes
    candidates: np.ndarray
    histories: Callable[[np.ndarray, np.ndarray], np.ndarray] = field(repr=False)
    gain: float | None = None
    camera: str | None = None

    @classmethod
    def of(cls, capture: Capture, dark: DarkModel, leaders: Table, floors: Floors, histories) -> "Witness":
        """Take what a night measured; `histories` as `Measurement.histories`.

        Raises
        ------
        NightError
            Where leaders were left out of the table: what the camera makes is not known.
        """
        if floors.left_out:
            raise NightError(f"{floors.left_out:,} leaders of these darks were not measured: they cannot judge a flash")
        held = leaders[leaders["reference"] == "leave_one_out"]
        found, frames = held[candidates(held, capture.parameters)], capture.frames
        return cls(
            dark=dark,
            parameters=capture.parameters,
            floors=floors,
            flashes=CameraFlashes.of(held, len(frames), capture.parameters),
            candidates=np.stack([found["x"], found["y"]], axis=1),
            histories=histories,
            gain=next((frame.gain for frame in frames if frame.gain is not None), None),
            camera=capture.camera,
        )

    def take(self, source) -> ScienceFrame:
        """Take a science frame, a path or raw counts; errors as for `ScienceFrame.of`."""
        return ScienceFrame.of(source, self.dark, self.parameters, gain=self.gain, camera=self.camera)

    def vet(self, frame: ScienceFrame, x, y, searched: float) -> Table:
        """Judge what is at some places of a science frame.

        Parameters
        ----------
        frame : ScienceFrame
        x, y : (n,) arrays
            As for `measuring.measure`.
        searched : float
            Whole frames that were searched; 0 for places that were fixed before looking.

        Returns
        -------
        judged : Table
            A row a place, in order: the columns of the leader table, masked where nothing was measured, and `sky`,
            `searched`, `expected`, `expected_high`, `verdict`, `reasons`, and `stamp`.
        """
        found, problems = self._found(frame, x, y, searched)
        return _in_order([found], problems)

    def vet_flashes(
        self,
        flashes: Table,
        paths: Mapping[str, Path],
        searched: float,
        look: Callable[[ScienceFrame, Table], None] = lambda frame, found: None,
    ) -> Table:
        """Judge the flashes of a table, one frame in memory at a time.

        Parameters
        ----------
        flashes, paths
            As from `flashes.read_flashes`.
        searched : float
            As for `vet`.
        look : callable
            Called with each frame and those of its flashes that were measured: rows as of `vet`, and `place`, their
            row in `flashes`.

        Returns
        -------
        judged : Table
            As from `vet`, a row a flash. Of a frame that is not of the darks' shape, exposure and gain nothing is
            judged.
        """
        names, every, problems = np.asarray(flashes["file"]), [], np.full(len(flashes), "", "U200")
        for name, path in paths.items():
            rows = np.flatnonzero(names == name)
            try:
                frame = self.take(path)
            except FrameError as error:
                problems[rows] = f"no frame of these darks: {error.detail}"
                continue
            x, y = (np.asarray(flashes[axis])[rows] for axis in ("x", "y"))
            found, problems[rows] = self._found(frame, x, y, searched)
            found["place"] = rows[found["place"]]
            look(frame, found)
            every.append(found)
        return _in_order(every, problems)

    def _found(self, frame: ScienceFrame, x, y, searched: float) -> tuple[Table, np.ndarray]:
        """Measure and judge; what could not be measured has a problem instead."""
        found, problems = measure(frame, x, y)
        share = searched or PLACE_PIXELS / frame.counts.size
        snr = column_of(found, "snr")
        found["searched"] = np.full(len(found), share)
        for name, values in zip(("expected", "expected_high"), self.flashes.expected(snr, share), strict=True):
            found[name] = MaskedColumn(values, mask=~np.isfinite(snr))
        verdicts = self._judge(found)
        found["verdict"] = np.array([verdict for verdict, _ in verdicts], "U")
        found["reasons"] = np.array(["; ".join(reasons) for _, reasons in verdicts], "U")
        return found, problems

    def _judge(self, found: Table) -> list[tuple[str, list[str]]]:
        if not len(found):
            return []
        x, y = (np.asarray(found[axis]) for axis in ("x", "y"))
        around = cut_stamps(self.dark.classes.dq, y, x, 0)
        around[:, 2, 2] = 0
        nearby = np.bitwise_or.reduce(around, axis=(1, 2)) & int(BLOCKING)
        histories = self.histories(x, y)
        tree = cKDTree(self.candidates.reshape(-1, 2))
        again = tree.query_ball_point(np.stack([x, y], axis=1), 1, p=np.inf, return_length=True)
        return [self._verdict(*row) for row in zip(found, nearby, histories, again, strict=True)]

    def _verdict(self, row, nearby: int, history, again: int) -> tuple[str, list[str]]:
        """Return the verdict and its reasons, the deciding one first."""
        snr, p_value, own = row["snr"], row["p_value"], int(row["dq"]) & int(BLOCKING)
        jumps = np.count_nonzero(history >= max(JUMP_SIGMA, EXPLAINS * row["height"]))
        frames = self.dark.reference.frames
        most = "" if len(history) == frames else "at most (by mean and variance, as the raw frames are gone) "
        highest = f"highest of its {counted(frames, 'dark')}: {most}{history.max():.1f} σ"
        reasons = [f"{highest}, this flash: {row['height']:.1f} σ"]
        reasons += [f"beside it a pixel is flagged: {names_in(nearby)}"] if nearby else []
        switching = self.dark.classes.telegraph
        for pixel in switching[(switching["x"] == row["x"]) & (switching["y"] == row["y"])]:
            reasons.append(f"it switches from {pixel['low']:.0f} to {pixel['high']:.0f} e-, up in {pixel['up']} darks")
        if own and row["height"] >= LEAST_HEIGHT:
            return "camera", [f"its pixel is flagged by the darks: {names_in(own)}", *reasons]
        if own or not snr > self.floors.snr:
            strength = f"{row['height']:.1f} σ" if own or snr is np.ma.masked else f"S/N {snr:.1f}"
            return "not judged", [f"nothing above the noise: {strength}", *reasons]
        if jumps:
            return "camera", [f"its pixel has jumped so before, in {jumps} of {frames} darks", *reasons]
        if again:
            near = f"{counted(again, 'candidate')} of darks, on this night or others, within a pixel of it"
            return "camera", [near, *reasons]
        shape = f"p {chance_text(p_value, equals='= ')}, p_min {self.parameters.p_min:g}"
        if row["rival_margin"] > 0:
            better = row["chi2"] - row["rival_margin"]
            shape += f"; a {row['best_rival']} fits better (χ² {better:.0f} against {row['chi2']:.0f})"
        if p_value < self.parameters.p_min and row["nearby"] > OUTSHONE * row["peak"]:
            brighter = f"something {OUTSHONE:g} times as bright within {NEARBY} px"
            return "not judged", [f"its shape cannot be judged, with {brighter}: {shape}", *reasons]
        if p_value < self.parameters.p_min:
            return "camera-like", [f"no star looks so: {shape}", *reasons]
        reasons.insert(0, f"it looks like a star: {shape}")
        if snr < FAINT:
            reasons.append(f"below S/N {FAINT:g} half of the particle hits look like stars, too")
        least, most = (shown(float(row[name]), digits=2) for name in ("expected", "expected_high"))
        made = f"the camera made {self.flashes.at_least(snr):,} such flashes in {self.flashes.seen}"
        reasons.insert(0, f"{made}: {least} are expected in what was searched, at most {most}")
        if row["expected_high"] <= self.parameters.vet_level:
            return "not the camera's", reasons
        enough = self.flashes.darks_to_clear(snr, row["searched"], self.parameters.vet_level)
        reasons.insert(1, f"{enough:,} darks in all would clear it" if enough else "no number of darks would clear it")
        return "not told apart", reasons


def highest_of(dark: DarkModel, x, y) -> np.ndarray:
    """Bound the highest reading of n pixels by their stored variance, in sigma, (n, 1): it is reached by one jump."""
    frames, where = dark.reference.frames, (np.asarray(y), np.asarray(x))
    return (np.sqrt(dark.variance[where] / dark.prior[where]) * (frames - 1) / np.sqrt(frames))[:, None]


def _in_order(every: list[Table], problems: np.ndarray) -> Table:
    """Put the measured rows into their places among all; what could not be measured is masked, and says why."""
    judged, places = Table(masked=True), [place for found in every for place in found["place"]]
    for name in (*COLUMNS, *OWN_COLUMNS, "stamp"):
        parts = np.ma.concatenate([np.ma.asarray(found[name]) for found in every] or [np.zeros(0)])
        values = np.ma.array(np.zeros((len(problems), *parts.shape[1:]), parts.dtype), mask=True)
        values[places] = parts
        judged[name] = MaskedColumn(values, unit=UNITS.get(name), format=FORMATS.get(name))
    for name, texts in (("verdict", np.full(len(problems), "not judged")), ("reasons", problems)):
        judged[name] = np.where(problems != "", texts, judged[name].astype("U").filled(""))
    return judged
