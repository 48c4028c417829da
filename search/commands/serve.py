"""`pleach serve`: a home's studies over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from search.home import Home
from search.service.allowed import Allowed
from search.service.api import application
from search.service.guard import Limits
from search.service.parts import Service
from search.service.processes import Processes
from search.service.server import Address, run
from search.service.tokens import Tokens
from spaces.errors import RequestError


def serve_home(
    home: Home,
    address: Address,
    *,
    tasks: Path | None,
    names: Sequence[str],
    limits: Limits,
    cluster: str | None,
    ready: Callable[[str], None],
) -> None:
    """Serve a home's studies until a signal ends it; the studies go on.

    Args:
        home: Whose studies.
        address: Where to listen.
        tasks: The operator's file; None: only `names`.
        names: Tasks that come along and may be launched as they are.
        limits: What a caller may ask for.
        cluster: The address of a cluster's dashboard, which gets every study as a job; None: this machine.
        ready: Called with the address once requests are answered.

    Raises:
        PleachError: If it cannot be served like that.
    """
    if tasks is not None and names:
        raise RequestError("tasks are listed by --tasks or by --task, but both are given: put all of them in the file")
    address.check()
    tokens = Tokens.of(home)
    if not tokens.all():
        raise RequestError(
            "a service needs a token to call it with, but there is none: make one with "
            "pleach token add NAME --rights read,launch"
        )
    allowed = Allowed.load(tasks) if tasks is not None else Allowed.of(names)
    processes = Processes(home, cluster)
    processes.check()
    app = application(Service.of(home, allowed, limits, processes), tokens, secure=address.secure)
    run(app, address, ready=ready, connections=limits.connections)
