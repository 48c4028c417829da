"""`pleach bud`: grow buds in a study, keep them in the registry, and serve them."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi.middleware.trustedhost import TrustedHostMiddleware
from rich.console import Console

from search.buds.front import front
from search.buds.manager import BudManager
from search.buds.registry import Registry, Version
from search.buds.serve import Limits, application
from search.buds.trial import FOLDER
from search.commands.run import look_first, run_study
from search.home import Home, ray_folder
from search.runners.environment import settle
from search.service.asking import App
from search.service.guard import Guard
from search.service.guard import Limits as CallerLimits
from search.service.server import Address, is_loopback, run
from search.service.tokens import Tokens
from search.study import Study
from search.study_file import StudyFile
from spaces.errors import RequestError, StudyError, StudyFileError

#: Calls a second of one token; what a request costs is bounded by its size.
CALLS = 10_000.0


def run_buds(
    path: Path, home: Home, *, name: str | None, system: str | None, checked: bool, console: Console
) -> dict[str, Any]:
    """Run a study of buds, or go on with it, and register the system of its best trial.

    Raises:
        PleachError: If it cannot run, or the system cannot be registered.
    """
    study = Study.create(StudyFile.load(path), home, name=name)
    if not study.file.buds:
        raise StudyFileError("a study of buds must name the policy budding, but does not: add [spaces.budding]")
    if checked and dict(study.state.judged) != study.file.constraints:
        look_first(study, console)
    summary = run_study(study, console)
    versions = register_best(study, system)
    return {**summary, "system": versions[0].model if versions else None, "versions": [_shown(v) for v in versions]}


def register_best(study: Study, system: str | None = None) -> Sequence[Version]:
    """Register the system of a study's best trial, unless that is what was registered last; () where there is none.

    Raises:
        StudyError: If the trial's system is gone.
    """
    best = study.best()
    if best is None:
        return ()
    name = system or re.sub(r"[^A-Za-z0-9_-]", "-", study.name)
    registry = Registry.of(study.home, study)
    kept = study.books().results[best.cached] if best.cached is not None else best
    folder = study.folder.checkpoints(kept.request.key) / FOLDER
    if not folder.is_dir():
        raise StudyError(f"the system of trial {kept.number} must be in {folder}, but is not: run its profile again")
    tags = {
        "trial": str(kept.number),
        "profile.hash": kept.request.profile.fingerprint(),
        "identity": study.state.identity,
    }
    if name in registry.systems():
        serving = registry.serving(name)
        if name in serving and all(serving[name].tags.get(key) == value for key, value in tags.items()):
            return list(serving.values())
    return registry.register(name, folder, study=study.name, tags=tags)


def list_buds(name: str | None, home: Home) -> dict[str, Any]:
    """The systems of a home, or all versions of one.

    Raises:
        StudyError: If there is no such system.
    """
    registry = Registry.of(home)
    versions = registry.versions(name) if name is not None else []
    return {"systems": registry.systems(), "versions": [_shown(version) for version in versions]}


def change(name: str, home: Home, work: Callable[[Registry], Sequence[Version]]) -> dict[str, Any]:
    """Promote or roll back, and say what serves now."""
    return {"model": name, "versions": [_shown(version) for version in work(Registry.of(home))]}


def delete(name: str, home: Home, version: int | None) -> dict[str, Any]:
    """Delete a version, or a model with all of them."""
    return {"deleted": Registry.of(home).delete(name, version)}


@dataclass(frozen=True)
class Terms:
    """How a system of buds is served.

    Args:
        address: Where it listens, with TLS or without.
        tokens: Whether a caller must bring one with the right ``read``.
        every: Seconds between two looks at the registry.
        limits: What a request may ask for.
    """

    address: Address
    tokens: bool = False
    every: float = 2.0
    limits: Limits = field(default_factory=Limits)


def serve(name: str, home: Home, terms: Terms, ready: Callable[[str], None]) -> None:
    """Serve a system in this process until a signal ends it.

    Raises:
        PleachError: If there is no such system, or it must not be served like that.
    """
    door = guarded(home, terms)
    manager = BudManager.load(name, home)
    manager.watch(terms.every)
    run(door(application(manager, terms.limits)), terms.address, ready=ready)


def serve_on_ray(
    name: str,
    home: Home,
    terms: Terms,
    ready: Callable[[str], None],
    *,
    replicas: int,
    loaded: int | None,
    cpu: float,
    address: str | None,
) -> None:
    """Serve a system with replicas on Ray Serve until a signal ends it.

    Args:
        name: The system.
        home: Where it is registered.
        terms: How it is served.
        ready: Called with the address once requests are answered.
        replicas: How many processes answer.
        loaded: The most buds in the memory of one; None for all of them in each.
        cpu: Processors per process.
        address: A cluster's; None for one of our own.

    Raises:
        PleachError: If there is no such system, or it must not be served like that.
    """
    door = guarded(home, terms)
    if name not in Registry.of(home).serving(name):
        BudManager.load(name, home)  # says what is missing
    folder = ray_folder(home)
    settle(folder if address is None else None)
    if importlib.util.find_spec("grpc") is None:
        raise StudyError("replicas need Ray Serve, but it is not installed: pip install 'pleach[serve]'")
    from search.buds.replicas import Replicas, Spread  # Ray reads its settings when it is imported

    spread = Spread(replicas, loaded, cpu, address)
    with Replicas(name, home, folder, spread, every=terms.every, limits=terms.limits) as found, ended_by_signals():
        run(door(front(found.call, terms.limits)), terms.address, ready=ready)


def guarded(home: Home, terms: Terms) -> Callable[[App], App]:
    """What stands before the application: tokens, or, on this machine alone, a look at the name that was called.

    Raises:
        RequestError: If others could reach it without a token or without TLS, or there is no token.
    """
    terms.address.check()
    if not terms.tokens:
        if not is_loopback(terms.address.host):
            raise RequestError(
                f"what others can reach must ask who comes, but {terms.address.host!r} would answer everybody: "
                "add --tokens, and make one with pleach token add NAME"
            )
        # A page elsewhere whose name is made to point here could read the answers otherwise.
        return lambda app: TrustedHostMiddleware(app, ["localhost", "127.0.0.1", "[::1]", "::1"])
    tokens = Tokens.of(home)
    if not any("read" in token.rights for token in tokens.all()):
        raise RequestError(
            "callers need a token with the right read, but there is none: make one with pleach token add NAME"
        )
    limits = CallerLimits(bytes=terms.limits.bytes, rate=CALLS, burst=CALLS)
    return lambda app: Guard(
        app, tokens, limits, secure=terms.address.secure, browsers=False, needed=lambda scope: "read"
    )


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let a signal unwind this process as Ctrl-C does, so that what was started is ended."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _shown(version: Version) -> dict[str, Any]:
    return {**version.to_dict(), "subtask": version.subtask}
