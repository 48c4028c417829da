"""Verbs that look at the home and at the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.verbs import shared
from search.verbs.shared import HomeOption, JsonOption, NameArgument

verbs = typer.Typer()

#: Where `pleach ui` serves if it is not told otherwise.
UI = "http://127.0.0.1:5000"


@verbs.command(rich_help_panel="This machine")
def ui(
    name: Annotated[str | None, typer.Argument(help="Open at this study.", show_default=False)] = None,
    home: HomeOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 5000,
    browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the browser.")] = True,
) -> None:
    """The MLflow UI on this home's database, for this machine only; Ctrl-C ends it."""
    from search.commands.ui import serve_ui

    serve_ui(shared.home(home), name, port=port, browser=browser)


@verbs.command(rich_help_panel="This machine")
def dashboard(
    name: Annotated[str | None, typer.Argument(help="Open at this study.", show_default=False)] = None,
    home: HomeOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 5050,
    browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the browser.")] = True,
    mlflow: Annotated[str, typer.Option(help="Where `pleach ui` serves, for links to the runs.")] = UI,
) -> None:
    """Live pages of this home's studies, for this machine only; Ctrl-C ends it."""
    from search.commands.dashboard import serve_dashboard

    serve_dashboard(shared.home(home), name, port=port, browser=browser, mlflow=mlflow, console=shared.progress(False))


@verbs.command(rich_help_panel="Results")
def report(
    name: NameArgument,
    out: Annotated[Path, typer.Option(help="The file to write.", show_default=False)],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Write a study as one HTML file that stands alone: figures, tables, the best trials in detail."""
    from search.commands.dashboard import write_report

    shared.answer(lambda: write_report(shared.study(name, home), out), json, "report")


@verbs.command(rich_help_panel="This machine")
def doctor(
    home: HomeOption = None,
    full: Annotated[bool, typer.Option("--full", help="Also run a tiny study on Ray: half a minute.")] = False,
    json: JsonOption = False,
) -> None:
    """What works on this machine, and what to do about what does not."""
    from search.commands.doctor import examine

    shared.answer(lambda: examine(shared.home(home), full=full), json, "doctor")
