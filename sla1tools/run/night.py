"""Run one night: measure once, write every product, run the notebooks on them, publish the folder whole."""

import ctypes
import json
import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sla1tools.candidates.psf import psf_of
from sla1tools.errors import NightError, ParametersError, Sla1Error
from sla1tools.frames.capture import judge_capture, judged_files
from sla1tools.frames.known_pixels import read_known_pixels
from sla1tools.measure import measure_night
from sla1tools.night.cache import digest_of
from sla1tools.night.reading import with_raw_frames
from sla1tools.nights.pooling import identity
from sla1tools.parameters import Parameters, require_capture
from sla1tools.places import own_or_shipped
from sla1tools.published import night_path, write_manifest
from sla1tools.published.formats import store
from sla1tools.run.products import PRODUCTS, write_products, write_summary
from sla1tools.run.provenance import git_commit, versions
from sla1tools.run.publishing import Claim, claim, refuse_to_mix
from sla1tools.run.resuming import measured_before
from sla1tools.show.heading import Heading
from sla1tools.text import moment

NAMES = ("01_dark_characterization", "02_candidate_finding", "03_injection_testing")
NO_NOTEBOOKS: tuple[Path, ...] = ()
STEPS = (  # as `progress` is told of them
    *("frames judged", "darks characterized", "leaders measured", "stars injected", "night summed up"),
    *("products written", "notebooks run", "reports written"),
)


@dataclass(frozen=True)
class NightResult:
    """What became of a night.

    Attributes
    ----------
    verdict : {'ok', 'degraded', 'failed'}
        A degraded night is published with its reasons; a failed one is not.
    reasons : tuple of str
        Why it is not ok.
    directory : Path or None
        The night's folder; for a failed night the folder below ``.failed`` with what there is, None if not even that
        could be written.
    """

    verdict: str
    reasons: tuple[str, ...]
    directory: Path | None


def night_notebooks() -> tuple[Path, ...]:
    """Return the notebooks of a night: the working folder's, else those that came with the package."""
    return tuple(own_or_shipped("notebooks", f"{name}.ipynb") for name in NAMES)


def run_night(
    parameters: Parameters,
    outputs: str | Path,
    notebooks: Sequence[Path] | None = None,
    timeout: int | None = None,
    side_by_side: bool = True,
    progress: Callable[[str], Any] | None = None,
) -> NightResult:
    """Measure a night, run the notebooks on it, and publish everything at once.

    Parameters
    ----------
    parameters : Parameters
        Which night, and how.
    outputs : path
        The outputs folder; the night goes to capture_date/capture_time/object_name below it.
    notebooks : sequence of Path, optional
        By default those of the working folder, else those that came with the package. The night page shows their
        figures and links their reports in this order. With `NO_NOTEBOOKS` there are tables, maps and the page alone.
    timeout : int, optional
        Seconds that a notebook's cell may take; no limit by default.
    side_by_side : bool
        Run the notebooks' kernels at the same time, or in turn where the processor's cores have other nights to do.
    progress : callable, optional
        Called with a word for each step that is done.

    Returns
    -------
    result : NightResult
        Failed where a notebook, the disk, or the publishing failed; the earlier outputs are then untouched.

    Raises
    ------
    ParametersError
        If the outputs folder cannot be used, or the known pixels, or there is no capture folder; nothing was made.
    BusyError
        If someone else is running this night.
    NightError
        If the night is unusable.
    """
    require_capture(parameters)
    refuse_to_mix(parameters, outputs)
    read_known_pixels(parameters)
    psf_of(parameters)
    with claim(outputs, night_path(parameters)) as claimed:
        manifest = _begun(parameters)
        try:
            sources = night_notebooks() if notebooks is None else notebooks
            manifest["notebooks"] = notebooks != NO_NOTEBOOKS
            run = _NotebookRun(sources, parameters, claimed, timeout, side_by_side)
            _build(parameters, claimed, run, manifest, progress or (lambda step: None))
            directory = claimed.publish()
        except NightError as error:
            with suppress(Sla1Error):  # the folder may be gone, too
                manifest["inputs"] = judged_files(judge_capture(parameters))
            _publish_failure(claimed, manifest, error, exit_status=3)
            raise
        except OSError as error:
            failure = Sla1Error(f"{error.filename or claimed.outputs / claimed.night}: {error.strerror or error}")
            return NightResult("failed", (str(failure),), _publish_failure(claimed, manifest, failure))
        except Sla1Error as error:
            return NightResult("failed", (str(error),), _publish_failure(claimed, manifest, error))
        except Exception as error:
            _publish_failure(claimed, manifest, error)
            raise
        return NightResult(manifest["verdict"], tuple(manifest["reasons"]), directory)


def give_back_memory() -> None:
    """Give the system what was freed: glibc keeps it, in holes between what is held. Elsewhere, do nothing."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def fail_night(parameters: Parameters, outputs: str | Path, reason: str) -> tuple[str, tuple[str, ...]]:
    """Keep the failed verdict of a night whose runs could not tell it, and return verdict and reasons."""
    with claim(outputs, night_path(parameters)) as claimed:
        _publish_failure(claimed, _begun(parameters), Sla1Error(reason))
    return "failed", (reason,)


def _begun(parameters: Parameters) -> dict[str, Any]:
    """Begin a run's manifest."""
    return {
        "parameters": parameters.model_dump(mode="json") | {"products_directory": None},
        "psf_sha256": digest_of(parameters.psf),
        "inputs": [],
        "versions": versions(),
        "git_commit": git_commit(),
        "random_seed": parameters.random_seed,
        "start": moment(),
    }


def _build(parameters, claimed, run, manifest, progress) -> None:
    """Fill the staging folder; the manifest, written last, makes it publishable."""
    staging = claimed.staging
    with run:

        def step(word: str) -> None:
            if run.side_by_side:
                run.start()  # once the frames are judged: an unusable night needs no kernel
            progress(word)

        measurement = measured_before(parameters, claimed.outputs, notebooks=bool(run.executed))
        published = claimed.outputs / claimed.night if measurement else None
        if measurement and run.executed:  # notebooks ask the frames
            measurement = with_raw_frames(measurement, parameters.capture_directory)
            step("frames judged")
        measurement = measurement or measure_night(parameters, step)
        give_back_memory()  # before kernels and products ask for theirs
        capture = measurement.capture
        star = psf_of(parameters)
        manifest |= {"inputs": judged_files(capture), "camera": capture.camera}
        manifest["star"] = {"fwhm": star.fwhm, "size_error": star.size_error}
        links = {
            "The night at a glance": "index.html",
            **{_title_of(path): path.with_suffix(".html").name for path in run.executed},
            "All nights": "../../../index.html",
            "Manifest": "manifest.json",
        }
        night, exposure = night_path(parameters).as_posix(), parameters.dark_exposure
        run.heading = Heading(night, capture.camera, len(capture.frames), exposure, links)
        if run.executed:
            store(measurement, run.handed_over)
        run.start()
        run.opened.set()
        write_products(measurement, staging, published)
        progress("products written")
        run.finish()
    if run.executed:
        progress("notebooks run")
    from sla1tools.run.season import season_setting
    from sla1tools.show.pages import write_index

    manifest |= {key: measurement.summary[key] for key in ("verdict", "reasons")}
    manifest |= {"doubts": [asdict(doubt) for doubt in measurement.doubts], "end": moment(), "exit_status": 0}
    with suppress(ParametersError):  # there is no season yet, or it recommends nothing
        comparable = identity(capture.camera, manifest["parameters"])
        manifest["season_setting"] = season_setting(claimed.outputs, parameters.criterion, comparable).cuts
    links |= {name: name for name in PRODUCTS}
    write_index(staging / "index.html", measurement.summary, manifest, run.figures(), links)
    write_manifest(staging, manifest)
    progress("reports written")


def _title_of(path: Path) -> str:
    """Return what a notebook is called on pages: "Dark characterization" for 01_dark_characterization.ipynb."""
    return path.stem.lstrip("0123456789_").replace("_", " ").capitalize()


class _NotebookRun:
    """Notebooks, run and exported in threads; side by side, their kernels start while the night is measured.

    Papermill is imported in them, too, which takes as long as judging ten frames. The threads are daemons, so that
    Ctrl-C ends the program at once; the kernels end when their parent is gone.
    """

    def __init__(
        self, notebooks: Sequence[Path], parameters: Parameters, claimed: Claim, timeout: int | None, side_by_side: bool
    ):
        staging = claimed.staging
        self.handed_over = claimed.run / secrets.token_hex(16)  # a name that nobody else can know beforehand
        self.side_by_side = side_by_side
        self.failures: dict[Path, Exception] = {}
        self.heading: Heading | None = None  # known once the frames are judged
        self.executed = [staging / source.name for source in notebooks]
        self.opened = threading.Event()  # the measured night is there for them
        self.cancelled = False
        self.exporting = threading.Lock()  # nbconvert does not say that threads may share an exporter
        values = parameters.model_dump(mode="json") | {"products_directory": str(self.handed_over)}
        both = zip(notebooks, self.executed, strict=True)
        jobs = [(source, executed, values, timeout, self._before_cell) for source, executed in both]
        groups = [[job] for job in jobs] if side_by_side else [jobs]
        self.threads = [threading.Thread(target=self._run, args=(group,), daemon=True) for group in groups]

    def __enter__(self) -> "_NotebookRun":
        return self

    def __exit__(self, kind, *_) -> None:
        """End the notebooks with what failed beside them; a program that is interrupted does not wait for them."""
        self.cancelled = True
        self.opened.set()
        if kind and issubclass(kind, Exception):
            self._join()

    def start(self) -> None:
        """Start the kernels; a second time, do nothing."""
        for thread in self.threads:
            if thread.ident is None:
                thread.start()

    def _before_cell(self, opens_night: bool) -> None:
        if opens_night:
            self.opened.wait()
        if self.cancelled:
            raise Sla1Error("the run failed elsewhere")

    def figures(self) -> dict[str, bytes]:
        """Return what the night's page shows of them, by title."""
        if not self.executed:
            return {}
        from sla1tools.run.notebooks import tagged_figures

        return {title: png for path in self.executed for title, png in tagged_figures(path).items()}

    def _run(self, jobs: Sequence[tuple]) -> None:
        from sla1tools.run.notebooks import execute, keep_pictures
        from sla1tools.show.pages import export_html

        for job in jobs:
            executed = job[1]
            try:
                execute(*job)
                with self.exporting:
                    export_html(executed, executed.with_suffix(".html"), self.heading)
                keep_pictures(executed)
            except Exception as error:
                self.failures[executed] = error
                return

    def _join(self) -> None:
        for thread in self.threads:
            while thread.is_alive():
                thread.join(0.5)  # without a limit, Windows would not see Ctrl-C

    def finish(self) -> None:
        """Wait for all; raise the first notebook's failure."""
        self._join()
        for executed in self.executed:
            if executed in self.failures:
                raise self.failures[executed]


def _publish_failure(claimed: Claim, manifest: dict, error: Exception, exit_status: int = 1) -> Path | None:
    """Keep a failed run's verdict and its partial notebooks, out of the way of good outputs."""
    staging, failed = claimed.staging, {"verdict": "failed", "reasons": [str(error) or type(error).__name__]}
    with suppress(OSError):  # a full disk, say: the message has been told, the good outputs are untouched
        for path in [path for path in staging.iterdir() if path.suffix not in (".ipynb", ".json")]:
            path.unlink()
        with suppress(FileNotFoundError, ValueError):
            summary = json.loads((staging / "summary.json").read_text(encoding="utf-8"))
            write_summary(staging / "summary.json", summary | failed)
        write_manifest(staging, manifest | failed | {"end": moment(), "exit_status": exit_status})
        return claimed.publish_failed()
    return None
