"""What `sla1 batch` says: a bar over the nights, a line a finished night, a table at the end."""

import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click
from tqdm import tqdm

from sla1tools.errors import ParametersError
from sla1tools.frames.sessions import find_nights, night_in
from sla1tools.parameters import NIGHT_KEYS, Parameters, read_parameters, read_yaml
from sla1tools.published import LOGS
from sla1tools.run.batch import CURRENT, Outcome, run_batch
from sla1tools.text import counted, printable

WORDS = {
    "ok": "ok",
    "degraded": "usable, with reservations",
    "failed": "failed",
    CURRENT: "current already",
}
BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"  # the state fits 80 columns


def nights_of(
    night_files: Sequence[str], sessions: Path | None, files: Sequence[str], overrides: Sequence[tuple[str, str]]
) -> list[Parameters]:
    """Return the nights that a batch is asked for: every night's file over the base files, every night found in a tree.

    Raises
    ------
    ParametersError
        If a file or parameter is wrong, or there is no night at all.
    """
    shared = [path for path in night_files if not Path(path).is_dir() and not set(NIGHT_KEYS) & set(read_yaml(path))]
    if shared:
        raise ParametersError(f"{shared[0]}: names no night; what all nights share is given by -f: -f {shared[0]}")
    nights = [read_parameters([*files, path], overrides) for path in night_files]
    if sessions is not None:
        base = read_parameters(files, [*overrides, *((key, "to be found") for key in NIGHT_KEYS)])
        for folder in find_nights(sessions, base.file_pattern):
            try:
                nights.append(night_in(folder, base))
            except ParametersError as error:
                click.echo(f"left out: {printable(error)}", err=True)
    if not nights:
        raise ParametersError(
            f"{sessions}: holds no folder of darks" if sessions else "no night: name night files, or --sessions DIR"
        )
    return nights


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
    outcomes: list[Outcome] = []
    nights = list(dict.fromkeys(nights))
    _quieten()
    with tqdm(total=len(nights), disable=None, dynamic_ncols=True, smoothing=0.1, bar_format=BAR) as bar:

        def tell(outcome: Outcome) -> None:
            outcomes.append(outcome)
            if outcome.verdict != CURRENT:
                tqdm.write(_line(outcome), file=sys.stdout)
                sys.stdout.flush()
            bar.update(len(outcomes) - bar.n)

        try:
            run_batch(nights, outputs, tell=tell, step=lambda text: bar.set_postfix_str(printable(text)), **options)
        except KeyboardInterrupt:
            bar.close()
            click.echo(
                f"\ninterrupted after {counted(len(outcomes), 'night')}; the same command goes on with the rest",
                err=True,
            )
            raise
    _close(outcomes, outputs)
    from sla1tools.run.season import write_trends

    try:
        click.echo(f"all nights: {write_trends(outputs)}")
    except ParametersError as error:  # a disk that filled meanwhile: the nights themselves are told of
        click.echo(f"sla1: {printable(error)}", err=True)
        return 1
    return int(any(outcome.verdict == "failed" for outcome in outcomes))


def _line(outcome: Outcome) -> str:
    found = "" if outcome.candidates is None else counted(outcome.candidates, "candidate")
    line = f"{outcome.verdict:8}  {outcome.night}  {found:>14}  {outcome.seconds:6.1f} s  {'; '.join(outcome.reasons)}"
    return printable(line.rstrip())


def _close(outcomes: Sequence[Outcome], outputs: Path) -> None:
    tally = Counter(outcome.verdict for outcome in outcomes)
    for verdict, words in WORDS.items():
        if tally[verdict]:
            click.echo(f"{tally[verdict]:6} {words}", err=True)
    failed = [outcome for outcome in outcomes if outcome.verdict == "failed"]
    for outcome in failed:
        click.echo(printable(f"failed: {outcome.night}: {'; '.join(outcome.reasons)}"), err=True)
    if failed:
        click.echo(f"their logs are in {Path(outputs) / LOGS}", err=True)


def _quieten() -> None:
    """Keep what dask says of its own comings and goings from the terminal, unless all is to be shown."""
    import distributed  # noqa: F401  # which sets its levels when it is imported

    if logging.getLogger().level > logging.INFO:
        for name in [name for name in logging.Logger.manager.loggerDict if name.partition(".")[0] == "distributed"]:
            logging.getLogger(name).setLevel(logging.CRITICAL)
