"""Run one night: measure once, write every product, run the notebooks on them, publish the folder whole."""

import json
import pickle
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sla1tools.errors import NightError, Sla1Error
from sla1tools.frames.capture import judge_capture, judged_files, read_known_pixels
from sla1tools.measure import measure_night
from sla1tools.night import PICKLE
from sla1tools.parameters import CHECKOUT, Parameters
from sla1tools.published import night_path, write_manifest
from sla1tools.run.notebooks import execute, tagged_figures
from sla1tools.run.products import write_products, write_summary
from sla1tools.run.provenance import git_commit, versions
from sla1tools.run.publishing import Claim, claim, refuse_to_mix
from sla1tools.show.heading import Heading
from sla1tools.text import moment

NOTEBOOKS = CHECKOUT / "notebooks"
TITLES = {
    "01_dark_characterization": "Dark characterization",
    "02_candidate_finding": "Candidate finding",
    "03_injection_testing": "Injection testing",
}
PRODUCTS = ("master_dark.fits", "leaders.fits", "candidates.ecsv", "candidates.reg", "injections.fits", "summary.json")
LINKS = {
    "The night at a glance": "index.html",
    **{title: f"{name}.html" for name, title in TITLES.items()},
    "All nights": "../../../index.html",
    "Manifest": "manifest.json",
}


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


def run_night(
    parameters: Parameters,
    outputs: str | Path,
    timeout: int | None = None,
    side_by_side: bool = True,
    progress: Callable[[str], Any] | None = None,
) -> NightResult:
    """Measure a night, run the three notebooks on it, and publish everything at once.

    Parameters
    ----------
    parameters : Parameters
        Which night, and how.
    outputs : path
        The outputs folder; the night goes to capture_date/capture_time/object_name below it.
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
        If the outputs folder cannot be used, or the known pixels; no frame was read.
    BusyError
        If someone else is running this night.
    NightError
        If the night is unusable.
    """
    refuse_to_mix(parameters, outputs)
    read_known_pixels(parameters)
    with claim(outputs, night_path(parameters)) as claimed:
        manifest: dict[str, Any] = {
            "parameters": parameters.model_dump(mode="json") | {"products_directory": None},
            "inputs": [],
            "versions": versions(),
            "git_commit": git_commit(),
            "random_seed": parameters.random_seed,
            "start": moment(),
        }
        try:
            _build(parameters, claimed.staging, manifest, timeout, side_by_side, progress or (lambda step: None))
            directory = claimed.publish()
        except NightError as error:
            with suppress(NightError):
                manifest["inputs"] = judged_files(judge_capture(parameters))
            _publish_failure(claimed, manifest, error, exit_status=3)
            raise
        except OSError as error:
            told = Sla1Error(f"{error.filename or claimed.staging}: {error.strerror or error}")
            return NightResult("failed", (str(told),), _publish_failure(claimed, manifest, told))
        except Sla1Error as error:
            return NightResult("failed", (str(error),), _publish_failure(claimed, manifest, error))
        except Exception as error:
            _publish_failure(claimed, manifest, error)
            raise
        return NightResult(manifest["verdict"], tuple(manifest["reasons"]), directory)


def _build(parameters, staging, manifest, timeout, side_by_side, progress) -> None:
    """Fill the staging folder; the manifest, written last, makes it publishable."""
    with _NotebookRun(parameters, staging, timeout, side_by_side) as notebooks:

        def step(word: str) -> None:
            if side_by_side:
                notebooks.start()  # once the frames are judged: an unusable night needs no kernel
            progress(word)

        measurement = measure_night(parameters, step)
        manifest |= {"inputs": judged_files(measurement.capture), "camera": measurement.capture.camera}
        notebooks.heading = Heading(
            night_path(parameters).as_posix(),
            measurement.capture.camera,
            len(measurement.capture.frames),
            parameters.dark_exposure,
            LINKS,
        )
        (staging / PICKLE).write_bytes(pickle.dumps(measurement, protocol=pickle.HIGHEST_PROTOCOL))
        notebooks.start()
        notebooks.open(*list(notebooks.opened)[:1])  # the longest: the others would only take its core now
        write_products(measurement, staging)
        progress("products written")
        notebooks.finish()
    progress("notebooks run")
    from sla1tools.show.pages import write_index

    (staging / PICKLE).unlink()
    manifest |= {key: measurement.summary[key] for key in ("verdict", "reasons")}
    manifest |= {"end": moment(), "exit_status": 0}
    links = {**LINKS, **{name: name for name in PRODUCTS}}
    figures = {title: png for name in TITLES for title, png in tagged_figures(staging / f"{name}.ipynb").items()}
    write_index(staging / "index.html", measurement.summary, manifest, figures, links)
    write_manifest(staging, manifest)
    progress("reports written")


class _NotebookRun:
    """The three notebooks, run and exported in threads; side by side, their kernels start while the night is measured.

    The threads are daemons, so that Ctrl-C ends the program at once; the kernels end when their parent is gone.
    """

    def __init__(self, parameters: Parameters, staging: Path, timeout: int | None, side_by_side: bool):
        self.failures: dict[str, Exception] = {}
        self.heading: Heading | None = None  # known once the frames are judged
        self.opened = {name: threading.Event() for name in TITLES}
        self.cancelled = False
        self.exporting = threading.Lock()  # nbconvert does not say that threads may share an exporter
        values = parameters.model_dump(mode="json") | {"products_directory": str(staging)}
        jobs = {
            name: (NOTEBOOKS / f"{name}.ipynb", staging / f"{name}.ipynb", values, timeout, self._waiting(opened))
            for name, opened in self.opened.items()
        }
        groups = [{name: job} for name, job in jobs.items()] if side_by_side else [jobs]
        self.threads = [threading.Thread(target=self._run, args=(group,), daemon=True) for group in groups]

    def __enter__(self) -> "_NotebookRun":
        return self

    def __exit__(self, kind, *_) -> None:
        """End the notebooks with what failed beside them; a program that is interrupted does not wait for them."""
        self.cancelled = True
        self.open(*self.opened)
        if kind and issubclass(kind, Exception):
            self._join()

    def start(self) -> None:
        """Start the kernels; a second time, do nothing."""
        for thread in self.threads:
            if thread.ident is None:
                thread.start()

    def open(self, *names: str) -> None:
        """Let notebooks open the measured night."""
        for name in names:
            self.opened[name].set()

    def _waiting(self, opened: threading.Event) -> Callable[[bool], None]:
        def before_cell(opens_night: bool) -> None:
            if opens_night:
                opened.wait()
            if self.cancelled:
                raise Sla1Error("the run failed elsewhere")

        return before_cell

    def _run(self, jobs: Mapping[str, tuple]) -> None:
        from sla1tools.show.pages import export_html

        for name, job in jobs.items():
            try:
                execute(*job)
                with self.exporting:
                    export_html(job[1], job[1].with_suffix(".html"), self.heading)
            except Exception as error:
                self.failures[name] = error
                return

    def _join(self) -> None:
        for thread in self.threads:
            while thread.is_alive():
                thread.join(0.5)  # without a limit, Windows would not see Ctrl-C

    def finish(self) -> None:
        """Open the rest and wait for all; raise the first notebook's failure."""
        self.open(*self.opened)
        self._join()
        for name in TITLES:
            if name in self.failures:
                raise self.failures[name]


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
