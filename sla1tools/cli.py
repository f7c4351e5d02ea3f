"""The command line. What a command needs is imported when it runs, so that help is quick."""

import atexit
import gc
import io
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from sla1tools import __version__
from sla1tools.errors import ParametersError, Sla1Error
from sla1tools.parameters import Parameters, read_parameters
from sla1tools.places import HOME, expanded, missing, outputs_folder, own_or_shipped, working_folder
from sla1tools.text import printable


class _Commands(click.Group):
    """Commands whose errors end in a message and the published exit code, never in a bare traceback."""

    def invoke(self, ctx: click.Context):
        try:
            return super().invoke(ctx)
        except Sla1Error as error:
            click.echo("sla1: " + "\n      ".join(map(printable, str(error).splitlines())), err=True)
            ctx.exit(error.exit_status)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            with tempfile.NamedTemporaryFile("wb", prefix="sla1-", suffix=".txt", delete=False) as file:
                file.write(traceback.format_exc().encode("utf-8", "backslashreplace"))
            click.echo(printable(f"sla1: {type(error).__name__}: {error} (details: {file.name})"), err=True)
            ctx.exit(1)


class _Command(click.Command):
    """Let -p take KEY=VALUE as well as KEY VALUE, and one --stars several values, as in --stars 3000@2.0 800@2.0."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        for before, argument in zip(["", *args], args, strict=False):
            if before == "-p" and "=" in argument:
                spread += argument.split("=", 1)
            elif re.match("-p[a-z_]+=", argument):
                spread += ["-p", *argument[2:].split("=", 1)]
            elif "--stars" in args and before != "--stars" and re.fullmatch(r"[\d.eE+]+@[\d.eE+]+", argument):
                spread += ["--stars", argument]
            else:
                spread.append(argument)
        return super().parse_args(ctx, spread)


_Commands.command_class = _Command


class _Path(click.Path):
    """A path whose `~` and `$NAME` are expanded: not every shell does, and none in `--outputs=~/x`."""

    def convert(self, value, param, ctx) -> Path:
        try:
            path = expanded(value)
            there = path.exists()
        except ValueError as error:
            return self.fail(str(error), param, ctx)
        except OSError as error:  # a name that is too long, a folder that may not be entered
            return self.fail(f"{printable(value[:80])}: {error.strerror}", param, ctx)
        if not self.file_okay and not path.is_dir():
            return self.fail(f"{path}: {'is not a folder' if there else missing(path)}", param, ctx)
        return path


def _keys(ctx, param, incomplete: str) -> list[str]:
    """Complete the name of a parameter."""
    return [key for key in Parameters.model_fields if key.startswith(incomplete)]


PATH, FOLDER = _Path(), _Path(file_okay=False)
NIGHT = click.argument("nights", nargs=-1, required=True, type=PATH, metavar="NIGHT...")
FILES = click.option("-f", "files", multiple=True, type=PATH, metavar="FILE", help="Parameters below the night's.")
OVER_ALL = "A parameter's value, over all files; KEY=VALUE, too."
OVERRIDES = click.option(
    "-p", "overrides", nargs=2, multiple=True, metavar="KEY VALUE", shell_complete=_keys, help=OVER_ALL
)
DARKS = click.option(
    "-f", "files", multiple=True, required=True, type=PATH, help="The night whose darks are of the frames' exposure."
)
OUTPUTS = click.option("--outputs", type=PATH, default=outputs_folder, help="Where nights go.  [outputs]")
TIMEOUT = click.option(
    "--timeout", type=click.IntRange(1, 10**6), help="Seconds that a notebook's cell may take.  [no limit]"
)
NO_NOTEBOOKS = click.option(
    "--no-notebooks", is_flag=True, help="Write tables, maps and the night page, and run no notebook."
)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sla1")
@click.option("-v", "--verbose", is_flag=True, help="Show what the parts say while they work.")
@click.pass_context
def main(ctx: click.Context, verbose: bool) -> None:
    """Tell how often the camera alone makes a flash: a night of darks, answered."""
    atexit.register(gc.freeze)  # else Python looks for reference cycles in all that is held, before it ends
    _open_streams()
    try:
        os.getcwd()
    except OSError:
        raise ParametersError("the current folder is gone: change to another, and run again") from None
    os.environ["PYTHONSAFEPATH"] = "1"  # what is started from here imports nothing from the current folder either
    if ctx.invoked_subcommand != "lab":
        os.environ.pop("MPLBACKEND", None)  # nothing is drawn on a screen, and an unknown one ends the import
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s")
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal or a file cannot hold must not end a command
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Before numpy: its threads wait for one another, at several times the cost of the work, wherever cores are shared.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    if not verbose:
        logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it says of a failure is told by us


def _open_streams() -> None:
    """Give a closed standard stream to nowhere: its number would be that of the next file, which then got our words."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))


@main.command()
@click.argument("directory", default=".", type=PATH, metavar="[DIR]")
def init(directory) -> None:
    """Make a working folder: notebooks, parameters and a place for outputs. Nothing is overwritten.

    \b
    Example:
      sla1 init darks && cd darks && sla1 demo
    """
    from sla1tools.run.starting import make_working_folder

    for path in make_working_folder(directory):
        click.echo(f"kept as it is: {path}", err=True)
    click.echo(f"working folder: {directory.absolute()}")


@main.command()
@click.argument("capture", type=FOLDER, metavar="CAPTURE")
@click.option("--to", "target", type=PATH, metavar="FILE", help="[params/DATE_TIME_OBJECT.yaml]")
def params(capture, target) -> None:
    """Write a night's parameters from its headers, each with its origin. Nothing is overwritten.

    \b
    Example:
      sla1 params "D:/2024 SLA Sessions/2024-05-08/03_38_48/Dark30s"
    """
    from sla1tools.run.starting import write_night

    click.echo(write_night(capture, target))


@main.command()
@NIGHT
@FILES
@OVERRIDES
def check(nights, files, overrides) -> None:
    """Judge the night's files and run nothing: the folder, a line a file, remarks, the number of frames used.

    NIGHT is one or more parameter files, or a capture folder (its last three parts name the night).

    \b
    Example:
      sla1 check params/qhy42pro.yaml params/2024-05-08.yaml
      sla1 check -f params/qhy42pro.yaml "D:/2024 SLA Sessions/2024-05-08/03_38_48/Dark30s"
    """
    from sla1tools.candidates.psf import psf_of
    from sla1tools.frames.capture import judge_capture, judged_files
    from sla1tools.frames.codes import audit_capture
    from sla1tools.verdict import Opinion, judge_scale

    parameters = read_parameters([*files, *nights], overrides)
    psf_of(parameters)
    night = judge_capture(parameters)
    click.echo(printable(night.parameters.capture_directory))
    rows = judged_files(night)
    for row in rows:
        verdict = f"rejected {row['reason']}  {row['detail']}" if "reason" in row else row["verdict"]
        click.echo(printable(f"{row['name']} {verdict}"))
    scale = judge_scale(night, audit_capture(night)) if night.frames else Opinion()
    doubts = [*night.doubts, *(f"{doubt.reason}: {doubt.meaning}" for doubt in scale.doubts)]
    for remark in [f"degraded: {doubt}" for doubt in doubts] + [f"note: {note}" for note in night.notes + scale.notes]:
        click.echo(printable(remark))
    click.echo(f"{len(night.frames)} used of {len(rows)}")
    night.require_usable()


@main.command()
@NIGHT
@FILES
@OVERRIDES
@OUTPUTS
@TIMEOUT
@NO_NOTEBOOKS
@click.option("--strict", is_flag=True, help="Exit with 1 for a degraded night, too.")
@click.option("--adopt", is_flag=True, help="Write the recommended setting into params/, to be layered over others.")
@click.option("--open", "show", is_flag=True, help="Show the night in the browser when it is done.")
def run(nights, files, overrides, outputs, timeout, no_notebooks, strict, adopt, show) -> None:
    """Measure a night, run the notebooks on it, and publish products and reports.

    NIGHT is one or more parameter files, or a capture folder (its last three parts name the night).

    \b
    Example:
      sla1 run params/qhy42pro.yaml params/2024-05-08.yaml --open
      sla1 run -f params/qhy42pro.yaml "D:/2024 SLA Sessions/2024-05-08/03_38_48/Dark30s" -p threshold=180
    """
    parameters = read_parameters([*files, *nights], overrides)
    verdict, page = _run_and_tell(parameters, outputs, timeout=timeout, notebooks=() if no_notebooks else None)
    if show:
        click.launch(page.absolute().as_uri())
    if adopt:
        from sla1tools.run.season import adopt_night

        adopted, lacking = adopt_night(parameters, page.parent, outputs)
        if lacking:
            click.echo(f"{lacking}; the season's setting is taken", err=True)
        click.echo(f"adopted: {adopted}")
    if strict and verdict != "ok":
        raise click.exceptions.Exit(1)


@main.command()
@click.argument("directory", type=PATH, metavar="DIR")
@click.option("--frames", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--shape", type=click.IntRange(min=1), nargs=2, default=(2048, 2048), metavar="NY NX", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=20240508, show_default=True)
@click.option("--chip-seed", type=click.IntRange(min=0), help="Nights of one chip-seed share their pixels.")
@click.option("--exposure", type=float, default=30.0, show_default=True, help="Seconds; 0: a bias.")
@click.option("--temperature", type=float, default=-20.0, show_default=True, help="Degrees Celsius.")
@click.option("--noise", type=float, default=37.0, show_default=True, help="Of one frame of 30 s at -20 C, electrons.")
@click.option("--stars", multiple=True, metavar="FLUX@FWHM...", help="Electrons and pixels; may take several.")
@click.option("--clean", is_flag=True, help="Noise alone: no defect, glow, or particle.")
def simulate(directory, stars, **choices) -> None:
    """Write a simulated night of darks into the capture folder DIR, and the truth beside it.

    \b
    Example:
      sla1 simulate /tmp/darks/2024-05-08/03_38_48/Dark30s --frames 5 --shape 512 512 --stars 3000@2.0
      sla1 simulate /tmp/darks/2024-05-08/04_10_00/Dark0s --exposure 0 --chip-seed 1 --seed 2
    """
    from sla1tools.simulate.night import parse_star, simulate_night
    from sla1tools.text import counted

    paths = simulate_night(directory, stars=[parse_star(text) for text in stars], **choices)
    click.echo(f"{counted(len(paths), 'frame')} in {directory}")


@main.command()
def demo() -> None:
    """Run the notebooks on the demo night, simulated if it is not there, with the PSF of its frames of stars.

    \b
    Example:
      sla1 demo
    """
    from sla1tools.run.star_image import demo_psf
    from sla1tools.simulate.night import ensure_demo_night

    parameters = read_parameters([own_or_shipped("params", name) for name in ("qhy42pro.yaml", "demo.yaml")])
    if not (parameters.capture_directory / "truth.ecsv").is_file():
        click.echo("simulating the demo night", err=True)
    ensure_demo_night(parameters)
    _run_and_tell(demo_psf(parameters), outputs_folder())


@main.command()
@click.argument("frames", nargs=-1, required=True, type=PATH, metavar="FRAME...")
@DARKS
@OVERRIDES
@click.option("--to", type=PATH, default="psf.json", show_default=True, help="What to write.")
def psf(frames, files, overrides, to) -> None:
    """Measure the star's image on raw frames of stars, for `psf:` in a parameters file; a page goes beside it.

    \b
    Example:
      sla1 psf stars/*.fits -f params/qhy42pro.yaml -f params/2024-05-08.yaml --to params/psf.json
    """
    from sla1tools.candidates.psf_measuring import BAD_FIT, ELONGATED, elongation
    from sla1tools.run.star_image import write_psf

    measured = write_psf(frames, read_parameters(files, overrides), to)
    long = elongation(measured.psf)
    errors = ", ".join(f"{name} {value:g}" for name, value in measured.as_json()["errors"].items())
    click.echo(
        f"{measured.count} stars, FWHM {measured.psf.fwhm:.2f} px, {long:.2f} times as long as wide, held-out χ²/dof "
        f"{measured.chi2_per_dof:.2f}; errors: {errors}\n{to}\n{to.with_suffix('.html')}"
    )
    if measured.chi2_per_dof > BAD_FIT:
        click.echo(f"warning: χ²/dof above {BAD_FIT}: the stars are not alike; see the page", err=True)
    if long > ELONGATED:
        click.echo("warning: the stars are long: use it for nights of the same tracking only", err=True)


@main.command()
@click.argument("flashes", nargs=-1, required=True, type=PATH, metavar="FLASHES | FRAME...")
@click.option("--search", is_flag=True, help="Find the flashes: what one FRAME of a pointing shows and no other does.")
@DARKS
@OVERRIDES
@click.option("--frames", type=PATH, metavar="DIR", help="Where the files are.  [beside FLASHES]")
@click.option("--searched", type=click.IntRange(min=1), metavar="N", help="Whole frames that were searched.")
@click.option("--known-places", is_flag=True, help="The places were fixed before looking: nothing was searched.")
@OUTPUTS
@click.option("--to", type=PATH, help="What to write.  [FLASHES_vetted.ecsv]")
def vet(flashes, search, files, overrides, frames, searched, known_places, outputs, to) -> None:
    """Judge flashes of science frames by the darks: is it the camera? A table, DS9 regions and a page are written.

    FLASHES is a CSV or ECSV table with columns file, x, y (0-based), or a DS9 file of points and circles in image
    coordinates with the file's name as text. What was searched counts: where it is not given, all frames of the darks'
    shape and exposure beside those named. With --search it is no transient pipeline: frames of one pointing are shifted
    by whole pixels, not turned, and variable stars, asteroids and satellites are flashes, too.

    \b
    Example:
      sla1 vet flashes.csv -f params/qhy42pro.yaml -f params/2024-05-08.yaml --frames science --searched 960
      sla1 vet --search science/*.fits -f params/qhy42pro.yaml -f params/2024-05-08.yaml
    """
    from sla1tools.run.vetting import files_to_write, open_darks, write_vetted
    from sla1tools.vetting.flashes import read_flashes
    from sla1tools.vetting.searching import find_flashes, what_was_searched

    if known_places and (search or searched):
        raise click.UsageError("--known-places says that nothing was searched: leave out --search and --searched")
    if not search and len(flashes) > 1:
        raise click.UsageError("name one file of flashes; or --search, to find flashes in several frames")
    targets = files_to_write(to or Path(f"{'found' if search else flashes[0].stem}_vetted.ecsv"))
    if not search:
        listed, paths = read_flashes(flashes[0], frames)
    night = open_darks(read_parameters(files, overrides), outputs)
    for reason in night.summary["reasons"]:
        click.echo(printable(f"the darks are {night.summary['verdict']}: {reason}"), err=True)
    witness, hint = night.season_witness(outputs), ""
    if search:
        listed, notes = find_flashes(flashes, witness)
        paths, number = {str(path): path for path in flashes}, searched or len(flashes)
        click.echo("\n".join(map(printable, notes)), err=True)
        what = number, f"{number} whole frames for what one of them shows and no other"
    elif known_places:
        what = 0, "places fixed before looking, of each flash its own 5 x 5 pixels of one frame"
    elif searched:
        what = searched, f"{searched} whole frames, as given"
    else:
        what, hint = what_was_searched(witness, paths.values()), "; if others: --searched N or --known-places"
    click.echo(printable(f"searched: {what[1]}{hint}"))
    judged = write_vetted(night, witness, listed, paths, what, targets)
    for verdict, number in Counter(judged["verdict"]).most_common():
        click.echo(f"{number} {verdict}")
    click.echo("\n".join(map(str, targets)))
    if "not judged" in judged["verdict"]:
        raise click.exceptions.Exit(1)


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[FILE]... [JUPYTERLAB ARGUMENTS]...")
def lab(arguments) -> None:
    """Open JupyterLab on the working folder, for this machine's user alone.

    With a night's FILEs (or its capture folder) on working copies of the notebooks, lab/DATE_TIME_OBJECT/, whose
    parameters are filled in. A copy that is there is kept.

    \b
    Example:
      sla1 lab params/qhy42pro.yaml params/2024-05-08.yaml
    """
    files = [name for name in arguments if name.endswith((".yaml", ".yml")) or expanded(name).is_dir()]
    home, page = working_folder(), "notebooks"
    if files:
        from sla1tools.run.night import night_notebooks
        from sla1tools.run.starting import copy_notebooks

        folder, kept = copy_notebooks(read_parameters(files), night_notebooks())
        page = folder.relative_to(home).as_posix()
        if kept:
            click.echo(f"kept as they are, with the parameters they had: {', '.join(kept)} in {folder}", err=True)
    elif not (home / page).is_dir():
        raise ParametersError(f"{home}: holds no notebooks; sla1 init makes a working folder")
    command = [sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={home}"]
    command += [f"--LabApp.default_url=/lab/tree/{quote(page)}", "--KernelManager.transport_encryption=required"]
    command += [name for name in arguments if name not in files]
    _become(command, {**os.environ, HOME: str(home)})


def _become(command: list[str], environment: dict[str, str]) -> None:
    """End as another program, so that Ctrl-C and a request to end reach it and nothing else."""
    if os.name == "posix":
        os.execve(command[0], command, environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise click.exceptions.Exit(subprocess.run(command, env=environment).returncode)


def _run_and_tell(parameters: Parameters, outputs: Path, **options: Any) -> tuple[str, Path]:
    """Run a night, say what became of it, and return its verdict and its page."""
    from sla1tools.run.night import run_night

    click.echo(printable(parameters.capture_directory), err=True)
    result = run_night(parameters, outputs, progress=lambda step: click.echo(step, err=True), **options)
    for reason in result.reasons:
        click.echo(printable(f"{result.verdict}: {reason}"), err=True)
    if result.verdict == "failed" or result.directory is None:
        kept = f"what there is of this run is in {result.directory}" if result.directory else "nothing of it is kept"
        raise Sla1Error(f"the night failed; earlier outputs are untouched, {kept}")
    _write_trends(outputs)
    page = result.directory / "index.html"
    click.echo(f"{result.verdict}: {page}")
    return result.verdict, page


def _write_trends(outputs: Path) -> None:
    """Write the page of all nights, to which every night's pages lead; where that fails the night stands."""
    from sla1tools.run.season import write_trends

    try:
        write_trends(outputs)
    except ParametersError as error:
        click.echo(f"sla1: {error}", err=True)


@main.command()
@click.argument("nights", nargs=-1, type=PATH, metavar="[NIGHT]...")
@click.option("--sessions", type=FOLDER, metavar="DIR", help="Find every night of darks below DIR.")
@FILES
@OVERRIDES
@OUTPUTS
@click.option("--workers", type=click.IntRange(1, 1024), help="Nights at a time on this machine.  [one a core]")
@click.option("--scheduler", metavar="ADDRESS", help="Use the workers of a dask scheduler, as tcp://host:8786.")
@click.option("--force", is_flag=True, help="Run nights again whose outputs are current.")
@TIMEOUT
@NO_NOTEBOOKS
def batch(nights, sessions, files, overrides, outputs, workers, scheduler, force, timeout, no_notebooks) -> None:
    """Run many nights; those whose inputs, parameters and version have not changed are skipped.

    Every NIGHT is one night's file, or its capture folder, over the -f files.

    \b
    Example:
      sla1 batch -f params/qhy42pro.yaml --sessions "D:/2024 SLA Sessions"
    """
    from sla1tools.run.batch import nights_of, run_and_tell

    if workers and scheduler:
        raise click.UsageError("--workers and --scheduler exclude one another: the scheduler has its own workers")
    found = nights_of(nights, sessions, files, overrides)
    options = {"workers": workers, "scheduler": scheduler, "force": force, "timeout": timeout}
    raise click.exceptions.Exit(run_and_tell(found, outputs, notebooks=() if no_notebooks else None, **options))


@main.command()
@click.argument("night", type=PATH, metavar="NIGHT")
@OUTPUTS
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(night, outputs, yes) -> None:
    """Take a failed or published night out of the outputs; files of your own in it are kept, and named.

    NIGHT is DATE/TIME/OBJECT below the outputs. Raw frames are not touched.

    \b
    Example:
      sla1 forget 2024-05-08/03_38_48/Dark30s
    """
    from sla1tools.run.publishing import forget as forget_night

    parts = night.parts[-3:]
    if len(parts) < 3 or ".." in parts:
        raise ParametersError(f"{night}: a night is named by its folder below the outputs, DATE/TIME/OBJECT")
    if not yes:
        click.confirm(f"forget {'/'.join(parts)} in {outputs}?", abort=True)
    for path in forget_night(outputs, Path(*parts)):
        click.echo(f"kept: {path}")
    _write_trends(outputs)


@main.command()
@click.option("--outputs", type=FOLDER, default=outputs_folder, help="Where nights are.  [outputs]")
@click.option("--adopt", is_flag=True, help="Write the season's recommended setting into params/adopted-season.yaml.")
def trends(outputs, adopt) -> None:
    """Say on one page what all nights say together, what changed, and which pixels flash again and again.

    \b
    Example:
      sla1 trends --outputs outputs --adopt
    """
    from sla1tools.published.folder import holds_outputs
    from sla1tools.run.season import adopt_season, write_trends

    if any(outputs.iterdir()) and not holds_outputs(outputs):
        raise ParametersError(f"{outputs}: holds no night of sla1; name the folder that does: --outputs DIR")
    click.echo(write_trends(outputs))
    if adopt:
        click.echo(f"adopted: {adopt_season(outputs)}")
