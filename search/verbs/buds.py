"""Verbs of buds: `pleach bud run | list | promote | rollback | delete | serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.verbs import shared
from search.verbs.shared import HomeOption, JsonOption, QuietOption

verbs = typer.Typer(
    name="bud",
    help="Grow buds from a network, each for a part of its inputs; keep and serve them.",
    no_args_is_help=True,
)

SystemArgument = Annotated[str, typer.Argument(help="A system's name.", show_default=False)]
ModelArgument = Annotated[str, typer.Argument(help="A system's name, or NAME.0 for its first bud.", show_default=False)]


@verbs.command()
def run(
    file: Annotated[Path, typer.Argument(help="The study file, with [spaces.budding].", show_default=False)],
    home: HomeOption = None,
    name: Annotated[str | None, typer.Option(help="Another name than the file's.")] = None,
    system: Annotated[str | None, typer.Option("--as", help="Name of the system; else the study's.")] = None,
    checked: Annotated[bool, typer.Option("--check/--no-check", help="Look before the first trial.")] = True,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Launch a study of buds, or continue it, and register the best system: it serves from then on."""
    from search.commands.buds import run_buds

    console = shared.progress(quiet)
    shared.answer(
        lambda: run_buds(file, shared.home(home), name=name, system=system, checked=checked, console=console),
        json,
        "bud run",
    )


@verbs.command(name="list")
def list_(
    name: Annotated[str | None, typer.Argument(help="A system; else all of them.", show_default=False)] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """The systems of this home, or the versions of one."""
    from search.commands.buds import list_buds

    shared.answer(lambda: list_buds(name, shared.home(home)), json, "bud list")


@verbs.command()
def promote(
    name: ModelArgument,
    version: Annotated[int, typer.Argument(min=1, help="Its number.", show_default=False)],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Let a version serve; a running service takes it up within seconds."""
    from search.commands.buds import change

    shared.answer(
        lambda: change(name, shared.home(home), lambda registry: registry.promote(name, version)), json, "bud promote"
    )


@verbs.command()
def rollback(name: ModelArgument, home: HomeOption = None, json: JsonOption = False) -> None:
    """Let the version serve that did before."""
    from search.commands.buds import change

    shared.answer(
        lambda: change(name, shared.home(home), lambda registry: registry.rollback(name)), json, "bud rollback"
    )


@verbs.command()
def delete(
    name: ModelArgument,
    version: Annotated[int | None, typer.Option(min=1, help="One version; else all of them.")] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Delete a version, or a model with all its versions; of a system with its buds."""
    from search.commands.buds import delete as delete_model

    shared.answer(lambda: delete_model(name, shared.home(home), version), json, "bud delete")


@verbs.command()
def serve(
    name: SystemArgument,
    home: HomeOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8300,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks at the registry.")] = 2.0,
    batch: Annotated[int, typer.Option(min=1, help="The most samples that are answered together.")] = 256,
    samples: Annotated[int, typer.Option(min=1, help="The most samples in one request.")] = 1024,
    megabytes: Annotated[float, typer.Option(min=0.001, help="The largest request.")] = 16.0,
) -> None:
    """Answer requests over HTTP, on this machine; follows the aliases of the registry. Ctrl-C ends it."""
    from search.buds.serve import Limits
    from search.commands.buds import serve as serve_system

    limits = Limits(bytes=round(megabytes * 2**20), samples=samples, batch=batch)
    place = shared.home(home)
    ready = lambda address: typer.echo(f"serving {name} at {address}", err=True)  # noqa: E731
    serve_system(name, place, host=host, port=port, every=every, limits=limits, ready=ready)
