"""Verbs about how a network runs: what it gains on this machine, and which of its layers can bear what."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.verbs import shared
from search.verbs.shared import HomeOption, JsonOption, QuietOption

verbs = typer.Typer()


@verbs.command(rich_help_panel="Results")
def bench(
    folder: Annotated[Path, typer.Argument(help="What `pleach export` wrote.", show_default=False)],
    batch: Annotated[list[int] | None, typer.Option(min=1, help="A batch size; several times. Else 1 and 64.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of a call.")] = 1,
    runtime: Annotated[
        list[str] | None,
        typer.Option(help="onnxruntime, eager or compile; several times. Else the first two."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.05, help="Of timing, per runtime and batch.")] = 2.0,
    layers: Annotated[bool, typer.Option("--layers/--no-layers", help="Time layers alone as well.")] = True,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    study: Annotated[
        str | None, typer.Option(help="The study it comes from: gives the baseline where the export has none.")
    ] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """An exported network against its baseline, timed in turn on this machine: how much faster, layer by layer."""
    from search.commands.bench import bench_export, task_of
    from search.latency.bench import BATCHES, RUNTIMES

    task = task_of(shared.study(study, home)) if study is not None else None
    shared.answer(
        lambda: bench_export(
            folder,
            batches=batch or BATCHES,
            threads=threads,
            runtimes=runtime or RUNTIMES,
            seconds=seconds,
            layers=layers,
            device=device,
            task=task,
        ),
        json,
        "bench",
    )


@verbs.command(rich_help_panel="Studies")
def sensitivity(
    file: Annotated[Path, typer.Argument(help="A study file: its task is looked at.", show_default=False)],
    level: Annotated[
        list[float] | None, typer.Option(help="A share of a layer; several times. Else 0.25, 0.5 and 0.75.")
    ] = None,
    home: HomeOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """How much each layer can bear: one at a time is cut and the score is looked at, without training."""
    from search.commands.sensitivity import look
    from search.latency.sensitivity import LEVELS

    place, console = shared.home(home), shared.progress(quiet)
    shared.answer(lambda: look(file, place, levels=level or LEVELS, console=console), json, "sensitivity")
