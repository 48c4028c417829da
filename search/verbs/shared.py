"""What all verbs share: their options, how they find a home and a study, and how they answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from search.study import Study

DONE, INFEASIBLE, BAD_INPUT, BUG, INTERRUPTED = 0, 1, 2, 70, 130

HomeOption = Annotated[
    Path | None, typer.Option(help="Folder of all state; else $PLEACH_HOME, else ./.pleach.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")]
NameArgument = Annotated[str, typer.Argument(help="The study's name.", show_default=False)]
WhereOption = Annotated[
    str | None, typer.Option(help='A further condition, e.g. "latency_ms <= 5 and macs <= 0.5 * baseline".')
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def home(folder: Path | None) -> Any:
    """The home; tasks find it in the environment."""
    from search.home import Home

    home = Home.find(folder)
    os.environ["PLEACH_HOME"] = str(home.root)
    return home


def study(name: str, folder: Path | None) -> Study:
    from search.study import Study

    return Study.load(name, home(folder))


def progress(quiet: bool) -> Any:
    from search.console import err

    return err(quiet=quiet)


def ask(question: str, default: str) -> str:
    try:
        return str(typer.prompt(question, default=default, err=True))
    except typer.Abort:
        raise typer.Exit(INTERRUPTED) from None


def answer(work: Callable[[], Mapping[str, Any]], json: bool, verb: str) -> None:
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
