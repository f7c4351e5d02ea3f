"""Many nights: what `sla1 batch` is asked, what it tells, and the page of all nights at the end.

What is finished and current is not run again. A bar over the nights, a line a finished night, a table at the end.
"""

import logging
import os
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from sla1tools import __version__
from sla1tools.errors import ParametersError
from sla1tools.frames.sessions import find_nights, nights_in
from sla1tools.parameters import NIGHT_KEYS, Parameters, read_layer, read_parameters
from sla1tools.published import LOGS
from sla1tools.run.night import STEPS
from sla1tools.run.publishing import refuse_to_mix
from sla1tools.run.workers import BUSY, CURRENT, Job, Outcome, connect, finished, refuse_unfit, usable
from sla1tools.text import counted, moment, printable

VERDICTS = ("ok", "degraded", "failed", CURRENT)
BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} to go"
MOST_LINES = 8  # of nights that are being run, below the bar


def nights_of(
    night_files: Sequence[Path], sessions: Path | None, files: Sequence[Path], overrides: Sequence[tuple[str, str]]
) -> list[Parameters]:
    """Return the nights that a batch is asked for: every night's file over the base files, every night found in a tree.

    Raises
    ------
    ParametersError
        If a file or parameter is wrong, or there is no night at all.
    """
    for path in night_files:
        values, mistakes = read_layer(path)
        if not {*NIGHT_KEYS, ""} & {*values, *mistakes}:  # it can be read, and names no night
            raise ParametersError(f"{path}: names no night; what all nights share is given by -f: -f {path}")
    nights = [read_parameters([*files, path], overrides) for path in night_files]
    if sessions is not None:
        base = read_parameters(files, [*overrides, *((key, "to be found") for key in NIGHT_KEYS)])
        for folder in find_nights(sessions, base.file_pattern):
            try:
                nights += nights_in(folder, base)
            except ParametersError as error:
                click.echo(f"left out: {printable(error)}", err=True)
    if not nights:
        raise ParametersError(
            f"{sessions}: holds no folder of darks" if sessions else "no night: name night files, or --sessions DIR"
        )
    return nights


def run_batch(
    nights: Sequence[Parameters],
    outputs: str | Path,
    workers: int | None = None,
    scheduler: str | None = None,
    force: bool = False,
    timeout: int | None = None,
    notebooks: tuple[Path, ...] | None = None,
    tell: Callable[[Outcome], Any] = lambda outcome: None,
    step: Callable[[str, str], Any] = lambda night, text: None,
) -> None:
    """Run nights that are not current, each whole or not at all; one night's failure stops no other.

    Parameters
    ----------
    nights : sequence of Parameters
        A night given twice is run once. Two that would be published in one place but differ are a failure of the
        second.
    outputs : path
        The outputs folder, made where missing. Every worker must see it.
    workers : int, optional
        Processes of a cluster of our own; by default one a core, never more than nights.
    scheduler : str, optional
        Address of a running dask scheduler, whose workers are used instead.
    force : bool
        Run current nights, too.
    timeout : int, optional
        Seconds that a notebook's cell may take; no limit by default.
    notebooks : tuple of Path, optional
        As for `night.run_night`.
    tell : callable
        Called with the outcome of each night as it is known.
    step : callable
        Called with a night and a word whenever a worker has done a step of it.

    Raises
    ------
    ParametersError
        If the outputs cannot be used or would mix with raw files, the scheduler cannot be reached, or a worker runs
        another version of this package or does not see the outputs; no night was begun.

    Notes
    -----
    A night whose worker dies is run again; if that kills another worker, the night gets a failed verdict, and no other
    night does. A night that someone else is running is looked at again when all others are done, until it is free: it
    is then current, or run here.
    """
    outputs = Path(outputs).absolute()
    for parameters in nights:
        refuse_to_mix(parameters, outputs)
    since, topic = moment(), f"sla1-{uuid.uuid4().hex}"
    make = partial(Job, outputs=outputs, force=force, since=since, version=__version__, topic=topic, timeout=timeout)
    jobs, clashes = _jobs(nights, partial(make, notebooks=notebooks))
    for outcome in clashes:
        tell(outcome)
    with usable(outputs, topic), connect(scheduler, workers, len(jobs)) as client:
        refuse_unfit(client, outputs, topic)
        client.subscribe_topic(topic, lambda event: step(*event[1]))
        for outcome in finished(client, jobs):
            if outcome.verdict == BUSY:
                step(outcome.night, f"{outcome.reasons[0]}; looked at again later")
            else:
                tell(outcome)
        client.unsubscribe_topic(topic)


def _jobs(nights: Sequence[Parameters], make: Callable[[Parameters], Job]) -> tuple[list[Job], list[Outcome]]:
    jobs: dict[str, Job] = {}
    clashes: list[Outcome] = []
    for parameters in nights:
        job = make(parameters)
        first = jobs.setdefault(os.path.normcase(job.night), job)
        if _whole_path(first.parameters) != _whole_path(parameters):
            reason = f"another night of this batch goes to the same place, with other parameters ({first.night})"
            clashes.append(Outcome(f"{job.night} ({parameters.capture_directory})", "failed", (reason,)))
    return list(jobs.values()), clashes


def _whole_path(parameters: Parameters) -> Parameters:
    return parameters.model_copy(update={"sessions_directory": os.path.abspath(parameters.capture_directory)})


def run_and_tell(nights: Sequence[Parameters], outputs: Path, **options) -> int:
    """Run a batch and tell of it; then write the page of all nights.

    Returns
    -------
    status : int
        1 if a night failed or the page could not be written, else 0.

    Notes
    -----
    Lines of finished nights go to standard output, the bar and all else to standard error. There is no bar where
    standard error is not a terminal.
    """
    nights = list(dict.fromkeys(nights))
    _quieten()
    board = _Board(len(nights))
    try:
        run_batch(nights, outputs, tell=board.tell, step=board.step, **options)
    except KeyboardInterrupt:
        ended = counted(len(board.outcomes), "night")
        click.echo(f"\ninterrupted after {ended}; the same command goes on with the rest", err=True)
        raise
    finally:
        board.close()
    tally = Counter(outcome.verdict for outcome in board.outcomes)
    for verdict in filter(tally.get, VERDICTS):
        click.echo(f"{tally[verdict]:6} {verdict}", err=True)
    if tally["failed"]:
        click.echo(f"the logs of what failed are in {Path(outputs) / LOGS}", err=True)
    from sla1tools.run.season import write_trends

    try:
        click.echo(f"all nights: {write_trends(outputs)}")
    except ParametersError as error:  # a disk that filled meanwhile: the nights themselves are told of
        click.echo(f"sla1: {printable(error)}", err=True)
        return 1
    return int(tally["failed"] > 0)


class _Board:
    """A bar that moves with every step of every night, and below it a line for each night that is being run."""

    def __init__(self, nights: int):
        self.nights = nights
        self.outcomes: list[Outcome] = []
        self.running: dict[str, str] = {}
        self.lines: list[tqdm] = []
        self.lock = threading.Lock()  # steps are told in another thread than outcomes
        self.bar = tqdm(total=nights, disable=None, dynamic_ncols=True, smoothing=0, bar_format=BAR)

    def step(self, night: str, text: str) -> None:
        with self.lock:
            if all(outcome.night != night for outcome in self.outcomes):  # a word may come later than the end
                self.running[night] = text
                self._show()

    def tell(self, outcome: Outcome) -> None:
        with self.lock:
            self.running.pop(outcome.night, None)
            self.outcomes.append(outcome)
            if outcome.verdict != CURRENT:
                tqdm.write(_line(outcome), file=sys.stdout)
                sys.stdout.flush()
            self._show()

    def _show(self) -> None:
        if self.bar.disable:
            return
        current = sum(outcome.verdict == CURRENT for outcome in self.outcomes)  # cost no time: no part of the bar
        begun = sum((STEPS.index(text) + 1) / len(STEPS) for text in self.running.values() if text in STEPS)
        self.bar.total, self.bar.n = self.nights - current, len(self.outcomes) - current + begun
        self.bar.set_description_str(counted(len(self.outcomes), "night") + f" of {self.nights}")
        states = [printable(f"{night}: {text}") for night, text in islice(self.running.items(), MOST_LINES)]
        for position in range(len(self.lines), len(states)):
            self.lines.append(tqdm(position=position + 1, bar_format="{desc}", dynamic_ncols=True, leave=False))
        for line, text in zip(self.lines, chain(states, repeat("")), strict=False):
            line.set_description_str(text)

    def close(self) -> None:
        for line in [*self.lines, self.bar]:
            line.close()


def _line(outcome: Outcome) -> str:
    found = "" if outcome.candidates is None else counted(outcome.candidates, "candidate")
    line = f"{outcome.verdict:8}  {outcome.night}  {found:>14}  {outcome.seconds:6.1f} s  {'; '.join(outcome.reasons)}"
    return printable(line.rstrip())


def _quieten() -> None:
    """Keep what dask says of its own comings and goings from the terminal, unless all is to be shown."""
    import distributed  # noqa: F401  # which sets its levels when it is imported

    if logging.getLogger().level > logging.INFO:
        for name in [name for name in logging.Logger.manager.loggerDict if name.partition(".")[0] == "distributed"]:
            logging.getLogger(name).setLevel(logging.CRITICAL)
