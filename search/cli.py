"""The command line: one function per verb, which reads its options, has the work done, and prints.

This is the one file that imports inside of functions: torch, Ray and MLflow take seconds to load, and `pleach --help`,
completion and typing errors must not wait for them. A verb imports what it needs when it is called.

Exit codes: 0 done, 1 no trial meets the constraints, 2 bad input, 70 a bug of ours, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.installation import check_installation

if TYPE_CHECKING:
    from search.study import Study

DONE, INFEASIBLE, BAD_INPUT, BUG, INTERRUPTED = 0, 1, 2, 70, 130

app = typer.Typer(
    name="pleach",
    help="Search for the compression profile that suits a trained network: prune it, weave it anew, measure it.",
    epilog="Begin with: pleach demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

HomeOption = Annotated[
    Path | None, typer.Option(help="Folder of all state; else $PLEACH_HOME, else ./.pleach.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")]
NameArgument = Annotated[str, typer.Argument(help="The study's name.", show_default=False)]
WhereOption = Annotated[
    str | None, typer.Option(help='A further condition, e.g. "latency_ms <= 5 and macs <= 0.5 * baseline".')
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


@app.command()
def demo(
    home: HomeOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the export; else demo-export in the home.")] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials to evaluate.")] = 24,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """A real study on handwritten digits: no set-up, three minutes, an exported network at the end."""
    from search.commands.demo import run_demo

    _answer(lambda: run_demo(_home(home), out=out, trials=trials, console=_progress(quiet)), json, "demo")


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The study file to write.")] = Path("study.toml"),
    task: Annotated[str | None, typer.Option(help="Short name, pkg.module:Name or file.py:Name.")] = None,
    name: Annotated[str | None, typer.Option(help="The study's name; else the file's.")] = None,
    objective: Annotated[list[str] | None, typer.Option(help="An objective; may be given several times.")] = None,
    constraint: Annotated[
        list[str] | None, typer.Option(help='A constraint, e.g. "accuracy >= baseline - 0.01"; several times.')
    ] = None,
    policy: Annotated[list[str] | None, typer.Option(help="A policy to search; several times.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="How many trials.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Training per trial, in epochs.")] = None,
    concurrent: Annotated[int | None, typer.Option(min=1, help="Trials at once.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing, take defaults.")] = False,
    force: Annotated[bool, typer.Option(help="Overwrite the file.")] = False,
    json: JsonOption = False,
) -> None:
    """Write a commented study file; asks for what the options leave open."""
    from search.commands.init import Answers, known, write

    given = Answers(task, name, objective, constraint, policy, trials, epochs, concurrent)
    ask = _ask if sys.stdin.isatty() and not yes else None
    _answer(lambda: {"file": str(write(path, known(given, path, ask), force=force))}, json, "init")


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="The study file.", show_default=False)],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Check a study file and its task, measure the baseline, and say whether the study can succeed."""
    from search.commands.check import check_file

    _home(home)
    _answer(lambda: check_file(file), json, "check")


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="The study file.", show_default=False)],
    home: HomeOption = None,
    name: Annotated[str | None, typer.Option(help="Another name than the file's.")] = None,
    origin: Annotated[
        str | None, typer.Option("--from", help="A study of this home whose best profiles are tried first.")
    ] = None,
    checked: Annotated[bool, typer.Option("--check/--no-check", help="Look before the first trial.")] = True,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Launch a study, or continue it: Ctrl-C once finishes the running trials, twice stops now; nothing is lost."""
    from search.commands.run import run_file

    progress = _progress(quiet)
    _answer(
        lambda: run_file(file, _home(home), name=name, origin=origin, checked=checked, console=progress), json, "run"
    )


@app.command()
def resume(
    name: NameArgument,
    home: HomeOption = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Go on to this many trials in all.")] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Continue a study by its name, with the file of its latest run."""
    from search.commands.run import resume_study

    _answer(lambda: resume_study(name, _home(home), trials=trials, console=_progress(quiet)), json, "run")


@app.command()
def stop(
    name: NameArgument,
    home: HomeOption = None,
    now: Annotated[
        bool, typer.Option("--now", help="Drop the running trials; they are taken up by the next run.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Ask a running study to stop after the trials that run now."""

    def ask() -> Mapping[str, Any]:
        _study(name, home).stop(now=now)
        return {"study": name, "stopping": "now" if now else "after the running trials"}

    _answer(ask, json, "stop")


@app.command(name="list")
def list_(home: HomeOption = None, json: JsonOption = False) -> None:
    """All studies of the home."""
    from search.console import out, print_json, studies_table
    from search.study import Study
    from spaces.errors import PleachError

    place = _home(home)
    summaries = []
    for name in place.studies():
        try:
            summaries.append(Study.load(name, place).summary())
        except PleachError as error:  # the others can be listed all the same
            sys.stderr.write(f"pleach: {' '.join(str(error).split())}\n")
    if json:
        print_json(summaries)
    else:
        out().print(studies_table(summaries))


@app.command()
def watch(
    name: NameArgument,
    home: HomeOption = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once.")] = False,
    json: JsonOption = False,
) -> None:
    """Follow a running study from any terminal."""
    from search.commands.watch import watch_study

    _answer(lambda: watch_study(_study(name, home), every=every, once=once or json), json, "watch")


@app.command()
def best(name: NameArgument, home: HomeOption = None, where: WhereOption = None, json: JsonOption = False) -> None:
    """The best trial of a study: its scores and its profile; also while the study runs."""
    _answer(lambda: _study(name, home).summary(where), json, "best")


@app.command()
def compare(
    items: Annotated[
        list[str], typer.Argument(help="Two or more of: NAME (its best), NAME:TRIAL, a profile.json, an export.")
    ],
    home: HomeOption = None,
    every: Annotated[bool, typer.Option("--all", help="Also the knobs that agree.")] = False,
    json: JsonOption = False,
) -> None:
    """Profiles and scores side by side."""
    from search.commands.compare import compare_items

    _answer(lambda: compare_items(items, _home(home), every=every), json, "compare")


@app.command()
def export(
    name: NameArgument,
    out: Annotated[Path, typer.Option(help="The folder to write.", show_default=False)],
    home: HomeOption = None,
    trial: Annotated[int | None, typer.Option(min=0, help="A trial; else the best.")] = None,
    where: WhereOption = None,
    force: Annotated[bool, typer.Option(help="Replace an earlier export there.")] = False,
    json: JsonOption = False,
) -> None:
    """Write a trial's network as a folder that stands alone: weights, graph, profile, figures, model card."""
    from search.commands.export import export_best

    study = _study(name, home)
    _answer(lambda: export_best(study, out, trial=trial, where=where, force=force), json, "export")


@app.command()
def ui(
    name: Annotated[str | None, typer.Argument(help="Open at this study.", show_default=False)] = None,
    home: HomeOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 5000,
    browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the browser.")] = True,
) -> None:
    """The MLflow UI on this home's database, for this machine only; Ctrl-C ends it."""
    from search.commands.ui import serve_ui

    serve_ui(_home(home), name, port=port, browser=browser)


@app.command()
def doctor(
    home: HomeOption = None,
    full: Annotated[bool, typer.Option("--full", help="Also run a tiny study on Ray: half a minute.")] = False,
    json: JsonOption = False,
) -> None:
    """What works on this machine, and what to do about what does not."""
    from search.commands.doctor import examine

    _answer(lambda: examine(_home(home), full=full), json, "doctor")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"pleach {version('pleach')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


# -- what the verbs share -------------------------------------------------------------------------------------------


def _home(folder: Path | None) -> Any:
    """The home; tasks find it in the environment."""
    from search.home import Home

    home = Home.find(folder)
    os.environ["PLEACH_HOME"] = str(home.root)
    return home


def _study(name: str, folder: Path | None) -> Study:
    from search.study import Study

    return Study.load(name, _home(folder))


def _progress(quiet: bool) -> Any:
    from search.console import err

    return err(quiet=quiet)


def _ask(question: str, default: str) -> str:
    try:
        return str(typer.prompt(question, default=default, err=True))
    except typer.Abort:
        raise typer.Exit(INTERRUPTED) from None


def _answer(work: Callable[[], Mapping[str, Any]], json: bool, verb: str) -> None:
    """Do the work and print what it gives, as JSON or as the verb's tables; exit with the code that it comes to."""
    from search.commands.answers import RENDER, exit_code
    from search.console import out, print_json, stdout_kept_for_json

    if json:
        with stdout_kept_for_json():
            answer = work()
        print_json(answer)
    else:
        answer = work()
        out().print(RENDER[verb](answer))
    raise typer.Exit(exit_code(verb, answer))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; every error a user can mend is one line on standard error."""
    try:
        check_installation()
    except ImportError as error:
        _fail(str(error), BAD_INPUT)
    from spaces.errors import PleachError

    try:
        app(args=None if arguments is None else list(arguments), prog_name="pleach")
    except PleachError as error:
        _fail(" ".join(str(error).split()), BAD_INPUT)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    except Exception as error:  # the outermost edge: what comes here is a bug
        _fail(f"this is a bug in pleach ({type(error).__name__}: {' '.join(str(error).split())[:200]}){_logged()}", BUG)


def _logged() -> str:
    """Write the traceback into the home's log and say where; on standard error where that cannot be written."""
    text = traceback.format_exc()
    log = Path(os.environ.get("PLEACH_HOME") or ".pleach") / "log.txt"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        sys.stderr.write(text)
        return ""
    return f": the traceback is in {log}"


def _fail(message: str, code: int) -> None:
    sys.stderr.write(f"pleach: {message}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
