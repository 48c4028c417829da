"""What clients see of studies, read once per change and not once per question.

A study's files say by their times whether anything changed; while they do not, the same bytes are handed out.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from objectives.criterion import parse
from search.books import Books
from search.export_trial import chosen
from search.home import Home, driver
from search.service.asking import one_line
from search.service.processes import Processes, Standing
from search.study import Study
from spaces.errors import PleachError, StudyError
from spaces.policy import nearest

#: Seconds for which a look is not repeated, however many ask.
FRESH = 0.2
#: Of a summary, what is the operator's alone: folders and addresses, which may hold passwords.
PRIVATE = ("home", "mlflow_uri")
#: A study whose process has not yet begun, or never did.
UNBEGUN: Mapping[str, Any] = {
    "trials": {},
    "baseline": {},
    "best": None,
    "front": [],
    "hypervolume": 0.0,
    "confirmed": [],
    "seconds": 0.0,
}
Signature = tuple[Any, ...]


@dataclass(frozen=True)
class Look:
    """A study at one moment.

    Args:
        summary: What clients see.
        body: The same as JSON.
        tag: Changes whenever the body does.
        active: Whether it runs or is about to.
        identity: Tells it from another study of its name; "" before it begins.
    """

    summary: Mapping[str, Any]
    body: bytes
    tag: str
    active: bool
    identity: str


@dataclass
class Watched:
    """One study that is looked at again and again.

    Args:
        name: The study.
        home: Its home.
        processes: Who knows of its processes.
    """

    name: str
    home: Home
    processes: Processes
    lock: threading.Lock = field(default_factory=threading.Lock)
    study: Study | None = None
    books: Books | None = None
    latest: Look | None = None
    looked: float = -math.inf
    _signature: Signature = ()
    _judged: Signature = ()

    def look(self) -> Look:
        """The study as it is now, give or take `FRESH`.

        Raises:
            PleachError: If there is none, or it cannot be read.
        """
        with self.lock:
            if self.latest is None or time.monotonic() - self.looked > FRESH:
                self._look()
            assert self.latest is not None
            return self.latest

    def _look(self) -> None:
        standing = self.processes.standing(self.name)
        signature = self._signed(standing)
        if self.latest is None or signature != self._signature:
            self.latest = self._read(standing)
            self._signature = signature  # taken before the reading: what changed meanwhile is read again
        self.looked = time.monotonic()

    def _signed(self, standing: Standing) -> Signature:
        folder = self.home.study(self.name)
        paths = (folder.file, folder.state, folder.result(0).parent, folder.confirmation("").parent)
        return (standing, driver(folder), *(_stamp(path) for path in paths))

    def _read(self, standing: Standing) -> Look:
        folder = self.home.study(self.name)
        if not folder.file.is_file():
            if not standing.state:
                raise StudyError(f"there is no study {self.name!r} any more: its folder is gone")
            return _look({"study": self.name, "state": standing.state, "reason": standing.reason, **UNBEGUN}, "")
        study = Study.load(self.name, self.home)
        state = study.state
        judged = (state.identity, study.file.text, tuple(sorted(state.baseline.items())))
        if self.books is None or judged != self._judged:
            self.books = study.books()
        else:
            self.books.read(study.folder)
        self.study, self._judged = study, judged
        summary = {key: value for key, value in study.summary(books=self.books).items() if key not in PRIVATE}
        if standing.state == "starting":
            summary |= {"state": "starting", "reason": standing.reason}
        elif standing.state == "refused":
            summary |= {"reason": standing.reason}
        elif standing.state == "driven" and self.processes.says_running(self.name):
            summary |= {"state": "running", "reason": standing.reason}  # elsewhere, where no lock tells of its driver
        return _look(summary, state.identity)


class Looks:
    """All studies of a home, as clients see them.

    Args:
        home: The home.
        processes: Who knows of their processes.
    """

    def __init__(self, home: Home, processes: Processes) -> None:
        self._home, self._processes = home, processes
        self._known: dict[str, Watched] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Every study that ran, starts or was refused, sorted."""
        return sorted({*self._home.studies(), *self._processes.names()})

    def look(self, name: str) -> Look:
        """A study as it is now, give or take `FRESH`.

        Raises:
            StudyError: If there is none; the message names the nearest.
            StorageError: If it cannot be read.
        """
        return self._watched(name).look()

    async def soon(self, name: str) -> Look:
        """As `look`, for an event loop: in a thread where files must be looked at, at once where they were just now.

        Raises:
            PleachError: As `look`.
        """
        watched = self._known.get(name)
        if watched is not None and watched.latest is not None and time.monotonic() - watched.looked <= FRESH:
            return watched.latest
        return await asyncio.to_thread(self.look, name)

    def list(self) -> bytes:
        """All studies as a JSON list; one that cannot be read is a line about it."""
        return b"[" + b",".join(self._line(name) for name in self.names()) + b"]"

    def best(self, name: str, where: str | None) -> dict[str, Any]:
        """The best trial of a study, under a further condition if given.

        Raises:
            PleachError: As `look`, or if the condition does not parse.
        """
        conditions = parse(where) if where else ()
        watched = self._watched(name)
        summary = watched.look().summary
        with watched.lock:
            books = watched.books
            best = books.best(conditions) if books is not None else None
            if books is None or best is None:
                return {"study": name, "state": summary["state"], "best": None}
            found = {
                "trial": best.number,
                "feasible": books.holds(best, conditions),
                "scores": dict(best.scores),
                "profile": best.request.profile.to_dict(),
            }
        return {"study": name, "state": summary["state"], "best": plain(found)}

    def exported(self, name: str, trial: int | None, where: str | None) -> tuple[str, int]:
        """The study's identity and the number of the trial that an export is of.

        Raises:
            PleachError: As `look`, or if there is no such complete trial, or the condition does not parse.
        """
        watched = self._watched(name)
        look = watched.look()
        with watched.lock:
            if watched.books is None:
                raise StudyError(f"no trial of {name!r} is complete, so there is nothing to export: wait for one")
            return look.identity, chosen(name, watched.books, trial, where).number

    def study(self, name: str) -> Study:
        """A study that has begun.

        Raises:
            StudyError: If there is none.
            StorageError: If it cannot be read.
        """
        return Study.load(name, self._home)

    def known(self, name: str) -> None:
        """Refuse a name that no study has; folders are nobody's to know.

        Raises:
            StudyError: If none has; the message names the nearest.
        """
        if self._processes.latest(name) is None and not self._home.study(name).file.is_file():
            names = self.names()
            raise StudyError(
                f"there is no study {name!r}: {nearest(name, names) if names else 'none was launched yet'}"
            )

    def _watched(self, name: str) -> Watched:
        with self._lock:
            if name not in self._known:
                self.known(name)  # whatever is asked for, only studies are remembered
                self._known[name] = Watched(name, self._home, self._processes)
            return self._known[name]

    def _line(self, name: str) -> bytes:
        try:
            return self.look(name).body
        except PleachError as error:  # the others can be shown all the same
            return _look({"study": name, "state": "unreadable", "reason": one_line(error), **UNBEGUN}, "").body


def plain(value: Any) -> Any:
    """The same with null for what JSON cannot say."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _look(summary: Mapping[str, Any], identity: str) -> Look:
    body = json.dumps(plain(summary), separators=(",", ":"), allow_nan=False).encode()
    active = summary["state"] in ("starting", "running", "new")
    return Look(summary, body, hashlib.sha256(body).hexdigest()[:24], active, identity)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
