"""The command line: `pleach VERB`. The verbs are in search/verbs/, the work they have done in search/commands/.

Exit codes: 0 done, 1 no trial meets the constraints, 2 bad input, 70 a bug of ours, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from search.installation import check_installation
from search.verbs import buds, devices, places, results, service, shared, studies
from search.verbs.shared import BAD_INPUT, BUG, INTERRUPTED, HomeOption

app = typer.Typer(
    name="pleach",
    help="Search for the compression profile that suits a trained network: prune it, weave it anew, measure it.",
    epilog="Begin with: pleach demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(studies.verbs)
app.add_typer(results.verbs)
app.add_typer(devices.verbs)
app.add_typer(places.verbs)
app.add_typer(service.verbs)
app.add_typer(buds.verbs, rich_help_panel="Buds")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"pleach {version('pleach')}")
        raise typer.Exit


@app.callback()
def _root(
    home: HomeOption = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if home is not None:
        shared.home(home)


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
