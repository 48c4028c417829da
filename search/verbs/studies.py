"""Verbs that make, run and follow studies."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from search.verbs import shared
from search.verbs.shared import HomeOption, JsonOption, NameArgument, QuietOption

verbs = typer.Typer()


@verbs.command(rich_help_panel="Studies")
def demo(
    home: HomeOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the export; else demo-export in the home.")] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials to evaluate.")] = 24,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """A real study on handwritten digits: no set-up, three minutes, an exported network at the end."""
    from search.commands.demo import run_demo

    shared.answer(
        lambda: run_demo(shared.home(home), out=out, trials=trials, console=shared.progress(quiet)), json, "demo"
    )


@verbs.command(rich_help_panel="Studies")
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
    ask = shared.ask if sys.stdin.isatty() and not yes else None
    shared.answer(lambda: {"file": str(write(path, known(given, path, ask), force=force))}, json, "init")


@verbs.command(rich_help_panel="Studies")
def check(
    file: Annotated[Path, typer.Argument(help="The study file.", show_default=False)],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Check a study file and its task, measure the baseline, and say whether the study can succeed."""
    from search.commands.check import check_file

    shared.home(home)
    shared.answer(lambda: check_file(file), json, "check")


@verbs.command(rich_help_panel="Studies")
def run(
    file: Annotated[Path, typer.Argument(help="The study file.", show_default=False)],
    home: HomeOption = None,
    name: Annotated[str | None, typer.Option(help="Another name than the file's.")] = None,
    origin: Annotated[
        str | None, typer.Option("--from", help="A study of this home whose best profiles are tried first.")
    ] = None,
    checked: Annotated[bool, typer.Option("--check/--no-check", help="Look before the first trial.")] = True,
    submit: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Let a Ray cluster run it as a job, e.g. http://head:8265; --home is then a folder there.",
        ),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Launch a study, or continue it: Ctrl-C once finishes the running trials, twice stops now; nothing is lost."""
    if submit is not None:
        from search.commands.submit import submit_file

        place = None if home is None else str(home)
        shared.answer(
            lambda: submit_file(file, submit, home=place, name=name, origin=origin, checked=checked), json, "submit"
        )
    from search.commands.run import run_file

    progress = shared.progress(quiet)
    shared.answer(
        lambda: run_file(file, shared.home(home), name=name, origin=origin, checked=checked, console=progress),
        json,
        "run",
    )


@verbs.command(rich_help_panel="Studies")
def resume(
    name: NameArgument,
    home: HomeOption = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Go on to this many trials in all.")] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Continue a study by its name, with the file of its latest run."""
    from search.commands.run import resume_study

    shared.answer(
        lambda: resume_study(name, shared.home(home), trials=trials, console=shared.progress(quiet)), json, "run"
    )


@verbs.command(rich_help_panel="Studies")
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
        shared.study(name, home).stop(now=now)
        return {"study": name, "stopping": "now" if now else "after the running trials"}

    shared.answer(ask, json, "stop")


@verbs.command(name="list", rich_help_panel="Studies")
def list_(home: HomeOption = None, json: JsonOption = False) -> None:
    """All studies of the home."""
    from search.console import out, print_json, studies_table
    from search.study import Study
    from spaces.errors import PleachError

    place = shared.home(home)
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


@verbs.command(rich_help_panel="Studies")
def watch(
    name: NameArgument,
    home: HomeOption = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once.")] = False,
    json: JsonOption = False,
) -> None:
    """Follow a running study from any terminal."""
    from search.commands.watch import watch_study

    shared.answer(lambda: watch_study(shared.study(name, home), every=every, once=once or json), json, "watch")
