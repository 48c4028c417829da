"""Verbs of the service: `pleach serve` and `pleach token add | list | revoke`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.verbs import shared
from search.verbs.shared import HomeOption, JsonOption

verbs = typer.Typer()
tokens = typer.Typer(help="Who may call the service, and what.", no_args_is_help=True)
verbs.add_typer(tokens, name="token", rich_help_panel="Service")


@verbs.command(rich_help_panel="Service")
def serve(
    home: HomeOption = None,
    tasks: Annotated[
        Path | None, typer.Option(help="TOML file of the tasks that may be launched, and how large studies may be.")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="A task that comes along and may be launched; several times.")
    ] = None,
    submit: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Let a Ray cluster run every study as a job, e.g. http://head:8265; its head must see the home.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8400,
    certificate: Annotated[Path | None, typer.Option(help="For TLS, in PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="The certificate's private key, in PEM.")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let others reach it without TLS: tokens are sent in clear.")
    ] = False,
    rate: Annotated[float, typer.Option(min=0.1, help="Calls a second that one token may make.")] = 200.0,
    failures: Annotated[
        float, typer.Option(min=1, help="Calls a minute without a valid token that an address may make.")
    ] = 60.0,
    megabytes: Annotated[float, typer.Option(min=0.001, help="The largest request.")] = 1.0,
) -> None:
    """Launch and follow studies over HTTP, with tokens. Ctrl-C ends the service; the studies go on without it."""
    from search.commands.serve import serve_home
    from search.service.guard import Limits
    from search.service.server import Address

    address = Address(host, port, certificate, key, insecure)
    limits = Limits(bytes=round(megabytes * 2**20), rate=rate, burst=max(1.0, 2 * rate), failures=failures)
    ready = lambda where: typer.echo(f"serving at {where}", err=True)  # noqa: E731
    serve_home(shared.home(home), address, tasks=tasks, names=task or (), limits=limits, cluster=submit, ready=ready)


@tokens.command()
def add(
    name: Annotated[str, typer.Argument(help="Who gets it.", show_default=False)],
    rights: Annotated[str, typer.Option(help="read, launch, or both with a comma.")] = "read",
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Make a token and show it, this once."""
    from search.commands.tokens import add_token

    shared.answer(lambda: add_token(shared.home(home), name, rights), json, "token add")


@tokens.command(name="list")
def list_(home: HomeOption = None, json: JsonOption = False) -> None:
    """Who has a token."""
    from search.commands.tokens import list_tokens

    shared.answer(lambda: list_tokens(shared.home(home)), json, "token list")


@tokens.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Whose.", show_default=False)],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Take a token back; a running service knows at once."""
    from search.commands.tokens import revoke_token

    shared.answer(lambda: revoke_token(shared.home(home), name), json, "token revoke")
