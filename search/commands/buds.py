"""`pleach bud`: grow buds in a study, keep them in the registry, and serve them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from search.buds.manager import BudManager
from search.buds.registry import Registry, Version
from search.buds.serve import Limits, application
from search.buds.trial import FOLDER
from search.commands.run import look_first, run_study
from search.home import Home
from search.service.server import Address, run
from search.study import Study
from search.study_file import StudyFile
from spaces.errors import StudyError, StudyFileError

LOOPBACK = ("127.0.0.1", "::1", "localhost")


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


def serve(
    name: str, home: Home, *, host: str, port: int, every: float, limits: Limits, ready: Callable[[str], None]
) -> None:
    """Serve a system until a signal ends it.

    Raises:
        StudyError: If there is no such system, or the address is open to others.
    """
    if host not in LOOPBACK:
        raise StudyError(
            f"the service knows no users and so listens on this machine alone, but the address is {host}: "
            "put a proxy that asks who comes in front of it"
        )
    manager = BudManager.load(name, home)
    manager.watch(every)
    run(application(manager, limits), Address(host, port), ready=ready)


def _shown(version: Version) -> dict[str, Any]:
    return {**version.to_dict(), "subtask": version.subtask}
