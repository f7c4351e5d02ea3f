"""The workers of a batch: one task a night by dask, on this machine or elsewhere; each night has a log of its own."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from sla1tools import __version__
from sla1tools.errors import BusyError, ParametersError, Sla1Error
from sla1tools.parameters import Parameters
from sla1tools.places import working_folder, working_in
from sla1tools.published import LOCKS, LOGS, Summary, night_path, read_json
from sla1tools.published.folder import take_outputs, using
from sla1tools.run.night import NO_NOTEBOOKS, fail_night, give_back_memory, run_night
from sla1tools.run.publishing import refuse_links
from sla1tools.run.resuming import finished_since, is_current
from sla1tools.text import printable

if TYPE_CHECKING:
    from distributed import Client

BATCH = ".batch"  # below the locks: held while a batch looks at a night and runs it
CONNECT_SECONDS = 10
MOST_DEATHS = 2  # of workers that ran a night, until it is called failed
MOST_LOSSES = 10  # of a night with workers that died over others
REVISIT_SECONDS = 2.0  # before a night that someone else runs is looked at again
CURRENT, BUSY = "current", "busy"
LOST = ("its worker died, maybe over another night",)


@dataclass(frozen=True)
class Job:
    """What a worker needs to know of a night.

    `home` is the working folder, from which paths in parameters start; a worker has another.
    `since` is when the batch began: a run of the night that someone else ended later counts as this batch's. `topic`
    is where the steps of the night are reported, and the name of the file by which a worker knows the batch's outputs
    (empty: they are not in question).
    """

    parameters: Parameters
    outputs: Path
    force: bool
    since: str
    version: str
    topic: str
    notebooks: tuple[Path, ...] | None = None  # by default the working folder's, else those of the worker's package
    home: Path = field(default_factory=working_folder)
    timeout: int | None = None

    @property
    def night(self) -> str:
        """The night's folder below the outputs, with slashes."""
        return night_path(self.parameters).as_posix()


@dataclass(frozen=True)
class Outcome:
    """What became of a night in a batch.

    Attributes
    ----------
    night : str
        Its folder below the outputs.
    verdict : {'ok', 'degraded', 'failed', 'current', 'busy'}
        Current: what is there is what a run would give. Busy, someone else is running it, is no final verdict.
    reasons : tuple of str
        Why it is not ok.
    candidates : int or None
        Of the configured criterion and reference, in all frames.
    seconds : float
        Spent on it, checks included.
    """

    night: str
    verdict: str
    reasons: tuple[str, ...] = ()
    candidates: int | None = None
    seconds: float = 0.0


@contextmanager
def usable(outputs: Path, topic: str) -> Iterator[None]:
    """Make sure that the outputs can be written; the file is there for the workers to see."""
    sign = _sign(outputs, topic)
    take_outputs(outputs)
    with using(outputs):
        sign.parent.mkdir(parents=True, exist_ok=True)
        sign.touch()
    try:
        yield
    finally:
        with suppress(OSError):
            sign.unlink()


def _sign(outputs: Path, topic: str) -> Path:
    return outputs / LOCKS / BATCH / topic


@contextmanager
def connect(scheduler: str | None, workers: int | None, most: int) -> Iterator["Client"]:
    """Give a client of the scheduler at this address, or of a cluster of our own that lasts as long.

    It has so many `workers`, by default one a core that this program may use, but not more than there are nights.
    """
    import dask
    from dask.system import CPU_COUNT
    from distributed import Client, LocalCluster
    from distributed.comm import get_address_host_port

    if scheduler is None:
        with (
            # By default dask has workers give each freed array back to the system: a night takes half as long again.
            dask.config.set({"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None}),
            # No limit of memory: a worker's kernels are not counted, and a night that is killed at a limit is lost.
            LocalCluster(
                n_workers=max(min(workers or CPU_COUNT, most), 1),
                threads_per_worker=1,
                processes=True,
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                memory_limit=0,
                security=True,  # dask's temporary TLS: nobody else of this machine can connect
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client
        return
    try:
        get_address_host_port(scheduler)  # an address of no kind would leave half a client behind
        client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ParametersError(f"--scheduler {scheduler}: no dask scheduler can be reached there: {reason}") from None
    with client:
        yield client


def refuse_unfit(client: "Client", outputs: Path, topic: str) -> None:
    """Refuse workers that would compute something else, or publish somewhere else."""
    answers = client.run(_unfit, __version__, outputs, topic, on_error="return")
    for address, answer in sorted(answers.items()):
        if isinstance(answer, BaseException):
            answer = f"cannot run nights: {type(answer).__name__}: {answer}"
        if answer:
            raise ParametersError(f"worker {address}: {answer}")
    if not answers:
        logging.getLogger(__name__).warning("the scheduler has no worker yet: waiting for one")


def _unfit(version: str, outputs: Path, topic: str) -> str:
    """Say why this worker must run no night of a batch; "" if it may."""
    import sla1tools

    if sla1tools.__version__ != version:
        return f"runs sla1tools {sla1tools.__version__}, the batch {version}: update one"
    seen = not topic or _sign(outputs, topic).is_file()
    return "" if seen else f"does not see {outputs}: use a folder that all machines share"


def finished(client: "Client", jobs: Sequence[Job]) -> Iterator[Outcome]:
    """Run all, and yield what becomes of each; a busy night is looked at again when all others are done."""
    losses = Counter[str]()
    while jobs:
        busy = []
        for job, outcome in _submitted(client, jobs):
            losses[job.night] += outcome.reasons == LOST
            if losses[job.night] > MOST_LOSSES:
                outcome = Outcome(job.night, "failed", LOST)
            if outcome.verdict == BUSY:
                busy.append(job)
            yield outcome
        jobs = busy
        if jobs:
            time.sleep(REVISIT_SECONDS)


def _submitted(client: "Client", jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
    """Submit all, and yield each when it ends; a future is forgotten at once, so that memory does not grow."""
    from distributed import KilledWorker, as_completed

    futures = {client.submit(run_one, job, pure=False, key=f"{job.night}-{time.time_ns()}"): job for job in jobs}
    for future in as_completed(list(futures), loop=client.loop):
        job = futures.pop(future)
        try:
            yield job, future.result()
        except KilledWorker:  # dask blames every night that a dead worker held; `_run_counted` knows better
            yield job, Outcome(job.night, BUSY, LOST)
        except Exception as error:  # lost with the scheduler; run_one itself raises nothing
            yield job, Outcome(job.night, "failed", (_explained(error),))


def _explained(error: BaseException) -> str:
    from distributed import CancelledError

    if isinstance(error, CancelledError):
        return "the scheduler was lost"
    return f"{type(error).__name__}: {error}"


def run_one(job: Job) -> Outcome:
    """Run one night in a worker, unless it is current or someone else is running it; never raises."""
    start = time.monotonic()
    candidates = None
    try:
        if told := _unfit(job.version, job.outputs, job.topic):  # it may have come later than the batch's first look
            raise Sla1Error(f"the worker {told}")
        with working_in(job.home), _only_batch(job):
            wanted = job.notebooks != NO_NOTEBOOKS
            if not job.force and is_current(job.parameters, job.outputs, wanted):
                return Outcome(job.night, CURRENT, seconds=time.monotonic() - start)
            known = finished_since(job.parameters, job.outputs, job.since, wanted)
            verdict, reasons = known or _run_counted(job)
        if verdict != "failed":
            candidates = _candidates(job)
    except BusyError:
        verdict, reasons = BUSY, ("someone else is running it",)
    except Exception as error:
        text = str(error) if isinstance(error, Sla1Error) else f"{type(error).__name__}: {error}"
        verdict, reasons = "failed", (text.removeprefix(f"{job.parameters.capture_directory}: "),)
    finally:
        give_back_memory()
    return Outcome(job.night, verdict, tuple(reasons), candidates, time.monotonic() - start)


@contextmanager
def _only_batch(job: Job) -> Iterator[None]:
    """Let no other batch look at or run this night: between looking and running nobody else can finish it."""
    path = job.outputs / LOCKS / BATCH / f"{job.night}.lock"
    take_outputs(job.outputs)
    refuse_links(job.outputs, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=0):
            yield
    except Timeout:
        raise BusyError(f"{job.night}: is being run by another batch") from None


def _run_counted(job: Job) -> tuple[str, Sequence[str]]:
    """Run the night, unless workers of this batch died of it before: each leaves a line, which a run's end deletes."""
    begun = job.outputs / LOCKS / BATCH / f"{job.night}.begun"
    refuse_links(job.outputs, begun)
    lines = begun.read_text(encoding="utf-8").split() if begun.is_file() else []
    deaths = lines.count(job.topic)
    try:
        if deaths >= MOST_DEATHS:
            reason = f"ended the process that ran it {deaths} times; out of memory?"
            return fail_night(job.parameters, job.outputs, reason)
        begun.write_text(f"{job.topic}\n" * (deaths + 1), encoding="utf-8")
        return _run_logged(job)
    finally:
        begun.unlink(missing_ok=True)


def _run_logged(job: Job) -> tuple[str, Sequence[str]]:
    """Run the night, and keep a log of it beside the outputs: the last run's."""
    with _night_log(job) as log:
        log.info("%s, parameters %s", job.night, job.parameters.model_dump_json())
        try:
            tell = partial(_tell, job, log)
            tell("begun")
            options: dict[str, Any] = {"timeout": job.timeout, "side_by_side": False, "progress": tell}
            result = run_night(job.parameters, job.outputs, job.notebooks, **options)
        except Exception as error:
            log.error("%s", error, exc_info=not isinstance(error, Sla1Error))
            raise
        for reason in result.reasons:
            log.warning("%s", reason)
        log.info("%s: %s", result.verdict, result.directory)
        return result.verdict, result.reasons


def _tell(job: Job, log: logging.Logger, text: str) -> None:
    from distributed import get_worker

    log.info("%s", text)
    with suppress(ValueError):  # not in a worker
        get_worker().log_event(job.topic, (job.night, text))


@contextmanager
def _night_log(job: Job) -> Iterator[logging.Logger]:
    """Give a logger that writes to the night's own file; without one, where the disk is full or the folder odd."""
    log = logging.Logger(job.night, logging.INFO)  # in no registry: thousands of nights leave nothing behind
    path = job.outputs / LOGS / f"{job.night}.log"
    handler: logging.Handler = logging.NullHandler()
    with suppress(OSError, ParametersError):
        refuse_links(job.outputs, path)
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _QuietFile(path, "w", encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_Plain("%(asctime)s %(levelname)s %(message)s"))
    thread = threading.get_ident()
    handler.addFilter(lambda record: record.thread == thread)  # another night may run in this process
    log.addHandler(handler)
    package = logging.getLogger("sla1tools")
    package.addHandler(handler)
    try:
        yield log
    finally:
        package.removeHandler(handler)
        with suppress(OSError):
            handler.close()


class _QuietFile(logging.FileHandler):
    """A log that gives up when the disk is full: the night's verdict is what matters."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class _Plain(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


def _candidates(job: Job) -> int | None:
    summary = read_json(job.outputs / job.night / "summary.json", Summary) or Summary()
    own = summary.candidates.get(job.parameters.criterion)
    return sum(own.per_frame) if own else None
