"""Verbs that answer from what studies have found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.verbs import shared
from search.verbs.shared import HomeOption, JsonOption, NameArgument, QuietOption, WhereOption

verbs = typer.Typer()


@verbs.command(rich_help_panel="Results")
def best(name: NameArgument, home: HomeOption = None, where: WhereOption = None, json: JsonOption = False) -> None:
    """The best trial of a study: its scores and its profile; also while the study runs."""
    shared.answer(lambda: shared.study(name, home).summary(where), json, "best")


@verbs.command(rich_help_panel="Results")
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

    shared.answer(lambda: compare_items(items, shared.home(home), every=every), json, "compare")


@verbs.command(rich_help_panel="Results")
def export(
    name: NameArgument,
    out: Annotated[Path, typer.Option(help="The folder to write.", show_default=False)],
    home: HomeOption = None,
    trial: Annotated[int | None, typer.Option(min=0, help="A trial; else the best.")] = None,
    where: WhereOption = None,
    force: Annotated[bool, typer.Option(help="Replace an earlier export there.")] = False,
    form: Annotated[
        list[str] | None,
        typer.Option("--format", help="onnx, int8, pt2 beside safetensors; several times. Else what suits."),
    ] = None,
    timing: Annotated[bool, typer.Option("--timing/--no-timing", help="Time it beside the baseline.")] = True,
    json: JsonOption = False,
) -> None:
    """Write a trial's network as a folder that stands alone: weights, graph, profile, figures, model card."""
    from search.commands.export import export_best

    study = shared.study(name, home)
    shared.answer(
        lambda: export_best(study, out, trial=trial, where=where, force=force, formats=form, timing=timing),
        json,
        "export",
    )


@verbs.command(rich_help_panel="Results")
def ablate(
    name: NameArgument,
    home: HomeOption = None,
    trial: Annotated[int | None, typer.Option(min=0, help="A trial; else the best.")] = None,
    where: WhereOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs per variant, each with a fresh seed.")] = 3,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """What each policy of the best profile is worth: without it, and with a control in its place, at equal budget."""
    from search.commands.ablate import ablate_study

    study, console = shared.study(name, home), shared.progress(quiet)
    shared.answer(lambda: ablate_study(study, trial=trial, where=where, seeds=seeds, console=console), json, "ablate")
