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
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Answer only who brings a token with the right read.")
    ] = False,
    certificate: Annotated[Path | None, typer.Option(help="For TLS, in PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="The certificate's private key, in PEM.")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let others reach it without TLS: tokens are sent in clear.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks at the registry.")] = 2.0,
    batch: Annotated[int, typer.Option(min=1, help="The most samples that are answered together.")] = 256,
    samples: Annotated[int, typer.Option(min=1, help="The most samples in one request.")] = 1024,
    megabytes: Annotated[float, typer.Option(min=0.001, help="The largest request.")] = 16.0,
    ray: Annotated[bool, typer.Option("--ray", help="Answer with processes of Ray Serve.")] = False,
    replicas: Annotated[int, typer.Option(min=1, help="With --ray: how many.")] = 2,
    loaded: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Spread buds over the processes, at most so many in each; else each has all.",
            show_default=False,
        ),
    ] = None,
    cpu: Annotated[float, typer.Option(min=0.1, help="With --ray: processors of each.")] = 1.0,
    address: Annotated[
        str | None, typer.Option(help="With --ray: a cluster's address; else this machine.", show_default=False)
    ] = None,
) -> None:
    """Answer requests over HTTP, on this machine; follows the aliases of the registry. Ctrl-C ends it."""
    from search.buds.serve import Limits
    from search.commands.buds import Terms, serve_on_ray
    from search.commands.buds import serve as serve_system
    from search.service.server import Address

    limits = Limits(bytes=round(megabytes * 2**20), samples=samples, batch=batch)
    terms = Terms(Address(host, port, certificate, key, insecure), tokens, every, limits)
    place = shared.home(home)
    ready = lambda where: typer.echo(f"serving {name} at {where}", err=True)  # noqa: E731
    if ray or loaded is not None:
        serve_on_ray(name, place, terms, ready, replicas=replicas, loaded=loaded, cpu=cpu, address=address)
    else:
        serve_system(name, place, terms, ready)
