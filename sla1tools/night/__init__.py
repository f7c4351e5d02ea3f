"""The night as a user holds it: opened from parameters or a folder, selected from, tried with stars, explored."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from sla1tools.candidates.criteria import CRITERIA, in_words
from sla1tools.candidates.psf import psf_of
from sla1tools.errors import NightError, ParametersError
from sla1tools.injections.injection import inject
from sla1tools.measure import Measurement, depends_on, measure_night, selected_again
from sla1tools.night import cache
from sla1tools.night.reading import read_published, with_raw_frames
from sla1tools.parameters import Parameters, read_parameters, validate
from sla1tools.places import from_working_folder
from sla1tools.published import MANIFEST, read_manifest
from sla1tools.published.formats import ARCHIVE, stored
from sla1tools.simulate.night import ensure_demo_night
from sla1tools.text import counted, printable
from sla1tools.vetting.judging import Witness, highest_of
from sla1tools.vetting.pooled import with_season


@dataclass(frozen=True, repr=False)
class Night(Measurement):
    """A measured night: its tables and maps, and what can be asked of them without measuring again.

    `open_night` makes it. `leaders` has every leader of every frame above the floors, `trials` every injected star,
    `hits` the particle-like hits; `dark` is the reference, noise and pixel classes, `capture` the frames with their
    verdicts, `parameters` how it was measured, `summary` the numbers. `residual(k)` is a frame less its reference,
    `candidates()` a selection of the leaders at any cuts.
    """

    def __repr__(self) -> str:
        """Say in three lines which night this is and what was found."""
        summary, parameters = self.summary, self.parameters
        name = printable("/".join(map(str, summary["night"].values())))
        cuts = in_words(CRITERIA[parameters.criterion].configured(parameters))
        ny, nx = self.capture.shape
        return (
            f"Night {name} ({summary['verdict']}): {len(self.capture.frames)} frames of {ny} x {nx}, level "
            f"{summary['dark']['level']:.0f} e-, noise {summary['dark']['noise']:.1f} e-\n"
            f"  {counted(len(self.leaders), 'leader')} above {self.floors.peak:g} e- or S/N {self.floors.snr:g} "
            f"(held out and in sample), {counted(len(self.trials), 'injected star')}\n"
            f"  {counted(len(self.candidates()), 'candidate')} by {parameters.criterion} at {cuts}"
        )

    def inject(self, *, x: float, y: float, flux: float, frame: int = 0) -> Table:
        """Put one star into a frame's raw counts and measure what becomes of it, as every injected star is.

        Parameters
        ----------
        x, y : float
            Column and row, 0-based; whole numbers are the middle of a pixel.
        flux : float
            Electrons in the whole image of the star.
        frame : int
            Index of the frame, from 0.

        Returns
        -------
        star : Table
            One row, as in `trials`: what was measured, whether each criterion recovers it, and `miss_reason`.

        Raises
        ------
        ParametersError
            Where the star lies outside the frame, the flux is no number from 0 up, or there is no such frame.
        """
        night = self.with_frames
        night.capture.require_frame(frame)
        star = {"x_true": x, "y_true": y, "flux_true": flux, "fwhm_true": psf_of(self.parameters).fwhm}
        try:
            stars = Table({"frame_number": [int(frame)]} | {name: [float(value)] for name, value in star.items()})
        except (TypeError, ValueError):
            raise ParametersError(f"inject: x={x!r}, y={y!r} and flux={flux!r} must be numbers") from None
        return inject(night.capture, night.dark, self.floors, stars).trials

    @cached_property
    def witness(self) -> Witness:
        """What the darks can say of a flash in a science frame."""
        histories = self.histories if self.has_frames else partial(highest_of, self.dark)
        return Witness.of(self.capture, self.dark, self.leaders, self.floors, histories)

    def season_witness(self, outputs: str | Path) -> Witness:
        """Return `witness` with all comparable nights that are published in an outputs folder."""
        return with_season(self.witness, self.capture, self.counts, Path(outputs))

    def vet(
        self, frame, x, y, *, searched: int = 1, known_place: bool = False, outputs: str | Path | None = None
    ) -> Table:
        """Judge a flash of a science frame: is it the camera's?

        Parameters
        ----------
        frame : path, or (ny, nx) array
            A raw frame of the sky of the darks' shape, exposure and gain, not one of them; only read.
        x, y : float, or (n,) arrays
            Column and row, 0-based.
        searched : int
            Frames that were searched, whole, where the flash was found.
        known_place : bool
            The place was fixed before looking, as that of a known source: nothing was searched but its own 5x5 pixels.
        outputs : path, optional
            An outputs folder whose comparable nights speak, too.

        Returns
        -------
        judged : Table
            A row a flash, as `sla1 vet` writes it: what was measured, `searched`, `expected` and `expected_high` (such
            flashes of the camera in what was searched, and the 95 % limit), `verdict` and `reasons`.

        Raises
        ------
        FrameError, ParametersError
            Where the frame is not one of raw counts of the darks' shape, exposure and gain.
        """
        if not known_place and searched < 1:
            raise ParametersError(f"vet: searched={searched!r} must be at least one frame")
        witness = self.witness if outputs is None else self.season_witness(outputs)
        return witness.vet(witness.take(frame), np.atleast_1d(x), np.atleast_1d(y), 0 if known_place else searched)

    def explore(self, show: str = "candidates"):
        """Give the sliders over the night's tables, for a cell's last line; `show="injections"` for injected stars."""
        from sla1tools.show.explorer.payload import Exhibit
        from sla1tools.show.explorer.widget import Explorer

        return Explorer(Exhibit.of(self, show))


@dataclass(frozen=True, repr=False)
class PublishedNight(Night):
    """A night opened from its published folder: the same tables and numbers, without its raw frames.

    `dark.mean` and `dark.variance` are rounded. Raw frames are asked for, and combined again, by
    `residual`, `inject`, `histories`, `history` and `surroundings` alone; `NightError` says which are gone or changed.
    """

    folder: Path = Path()

    @cached_property
    def with_frames(self) -> Night:
        """The night with its raw frames and what only they tell."""
        try:
            whole = with_raw_frames(self, _published_parameters(self.folder).capture_directory)
        except NightError as error:
            raise NightError(f"{self.folder}: {error}") from None
        return Night(**_parts(whole))


def open_night(*sources: str | Path | Parameters, **changes: Any) -> Night:
    """Measure a night, take it over from the run that measured it, or open a published one.

    What is measured here is kept in `outputs/.cache` of the working folder (at most 5 GB, the oldest go): other cuts of
    the same files are then a selection. The cache may be deleted.

    Parameters
    ----------
    *sources : paths or Parameters
        Parameter files, layered left to right; among them may be a capture folder, whose last three parts name the
        night. Or one published night's folder, which is opened as it was measured, whether or not its raw frames are
        still there; other cuts are a selection. With other changes, or where an older version published it, its raw
        frames are measured by its parameters. Or one `Parameters`. Without a source, the demo night, which is simulated
        on first use. A relative path is looked up from the current folder, then from the working folder.
    **changes
        Parameters that replace those of the sources: ``threshold=150``.

    Returns
    -------
    night : Night

    Raises
    ------
    ParametersError
        Where a file, a key or a value is wrong.
    NightError
        Where the night is unusable, or a file of a published night's folder is not the one that was published.
    """
    published = None
    if len(sources) == 1 and isinstance(sources[0], Parameters):
        parameters = sources[0]
    elif sources:
        paths = [_located(source) for source in sources]
        published = next((path for path in paths if (path / MANIFEST).is_file()), None)
        if published and len(paths) > 1:
            raise ParametersError(f"{published}: a published night has its own parameters; open it alone")
        parameters = _published_parameters(published) if published else read_parameters(paths)
    else:
        parameters = Parameters()
    asked = validate(parameters.model_dump() | changes, "open_night") if changes else parameters
    if published and (published / ARCHIVE).is_file() and depends_on(asked) == depends_on(parameters):
        night = selected_again(read_published(published), asked)
        if night is not None:
            return PublishedNight(**_parts(night), folder=published)
    ensure_demo_night(asked)
    return Night(**_parts(handed_over(asked) or _measured(asked)))


def _parts(measured: Measurement) -> dict[str, Any]:
    return {field.name: getattr(measured, field.name) for field in fields(Measurement)}


def _measured(parameters: Parameters) -> Measurement:
    """Measure a night, or select again from what was measured of it before."""
    place = cache.place_of(parameters)
    before = place and cache.kept(place)
    night = selected_again(before, parameters) if before else None
    if night is None:
        night = measure_night(parameters, _teller())
        if place:
            cache.keep(night, place)
    return night


def _teller() -> Callable[[str], None] | None:
    """Return what tells the steps where somebody looks: a line each in a terminal, in a notebook one, which stays."""
    shell, began, line = sys.modules.get("IPython"), time.monotonic(), None
    if shell and shell.get_ipython():
        from IPython.display import display

        line = display({"text/plain": "measuring"}, raw=True, display_id=True)
    elif not (sys.stderr and sys.stderr.isatty()):
        return None

    def tell(word: str) -> None:
        text = f"{word}, {time.monotonic() - began:.0f} s"
        if line:
            line.update({"text/plain": text}, raw=True)
        else:
            print(text, file=sys.stderr)

    return tell


def handed_over(parameters: Parameters) -> Measurement | None:
    """Load the measurement that a run left for its notebooks; None where there is none (any more)."""
    folder = Path(parameters.products_directory or "")
    if not (parameters.products_directory and folder.is_dir()):
        return None
    left = stored(Measurement, folder)
    return replace(left, capture=replace(left.capture, parameters=parameters))


def _located(source) -> Path:
    if not isinstance(source, str | Path):
        raise ParametersError(f"open_night takes paths, or one Parameters alone; got {type(source).__name__}")
    try:
        return Path(source) if Path(source).exists() else from_working_folder(source)
    except ValueError as error:
        raise ParametersError(str(error)) from None


def _published_parameters(folder: Path) -> Parameters:
    manifest = read_manifest(folder)
    if manifest is None or not manifest.parameters:
        raise ParametersError(f"{folder / MANIFEST}: names no parameters; it is not the manifest of a published night")
    return validate(manifest.parameters | {"products_directory": None}, str(folder / MANIFEST))
