"""Every study runs in a process of its own, which the service starts, finds again after a restart, and may outlive it.

What was launched is written beside the home's studies: the process by its number and its time of birth, so that a
number which the system gave away again is no study's.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil

from search.home import Home, StudyFolder, driver, read_json
from search.service.folder import made_private, write_private
from search.state import read_state
from search.study_file import StudyFile
from spaces.errors import PleachError, StorageError

#: The most of a launch's log that is read for its last line.
TAIL = 4096


@dataclass(frozen=True)
class Launch:
    """The latest process that the service started for a study.

    Args:
        study: Its name.
        by: The name of the token that asked for it.
        at: When, in seconds since 1970.
        pid: The process.
        born: When the process began, in seconds since 1970 as the system tells.
        ended: Whether the service was asked to end it before the study began.
    """

    study: str
    by: str
    at: float
    pid: int
    born: float
    ended: bool = False

    def alive(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.born and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


@dataclass(frozen=True)
class Standing:
    """What is known of a study from its processes alone.

    Args:
        state: ``starting``: its process is not yet at work; ``refused``: it ended before it was. ``""``: ask the study.
        reason: Why it was refused, one line.
    """

    state: Literal["", "starting", "refused"] = ""
    reason: str = ""


class Processes:
    """The processes of a home's studies.

    Args:
        home: The home.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._folder = home.root / "service" / "launches"
        self._known: dict[str, tuple[int, Launch]] = {}

    def start(self, file: StudyFile, by: str) -> Launch:
        """Start a study.

        Args:
            file: The study, its paths absolute.
            by: Who asks.

        Raises:
            StorageError: If its file cannot be written.
        """
        made_private(self._folder.parent)
        path = made_private(self._folder) / f"{file.name}.toml"
        write_private(path, file.text)
        return self._spawn(file.name, by, ["run", str(path), "--quiet"])

    def resume(self, name: str, by: str, trials: int | None) -> Launch:
        """Let a study go on, to `trials` in all if given.

        Raises:
            StorageError: If nothing can be written.
        """
        more = [] if trials is None else ["--trials", str(trials)]
        return self._spawn(name, by, ["resume", name, "--quiet", *more])

    def end(self, launch: Launch) -> None:
        """End a process whose study has not begun."""
        write_private(self._record(launch.study), _text({**asdict(launch), "ended": True}))
        if launch.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(launch.pid, 15)

    def latest(self, name: str) -> Launch | None:
        """What was launched last under a name, by this service or the one before it."""
        path = self._record(name)
        try:
            stamp = path.stat().st_ino
            if self._known.get(name, (0, None))[0] != stamp:
                self._known[name] = (stamp, Launch(**read_json(path)))
        except (OSError, TypeError, PleachError):
            return None
        return self._known[name][1]

    def names(self) -> list[str]:
        """The studies that were launched here, sorted."""
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def standing(self, name: str) -> Standing:
        """Where a study is as far as its processes tell."""
        launch = self.latest(name)
        folder = self._home.study(name)
        if launch is None or driver(folder) is not None or _began(folder, launch):
            return Standing()
        if launch.alive():
            return Standing("starting")
        if launch.ended:
            return Standing("refused", "it was stopped before its first trial")
        return Standing("refused", self._last_words(name))

    def running(self) -> int:
        """How many studies run or start now, whoever started them."""
        names = {*self.names(), *self._home.studies()}
        return sum(self.at_work(name) for name in names)

    def at_work(self, name: str) -> bool:
        """Whether a study runs, starts, or has a process that is about to end."""
        launch = self.latest(name)
        return (launch is not None and launch.alive()) or driver(self._home.study(name)) is not None

    def settle(self, name: str, seconds: float = 30.0) -> None:
        """Wait while a study that is over already still writes its records."""
        limit = time.monotonic() + seconds
        while self.at_work(name) and time.monotonic() < limit:
            starting = self.standing(name).state == "starting"
            if starting or read_state(self._home.study(name)).phase == "running":
                return
            time.sleep(0.05)

    def _record(self, name: str) -> Path:
        return self._folder / f"{self._home.study(name).name}.json"

    def _spawn(self, name: str, by: str, arguments: Sequence[str]) -> Launch:
        made_private(self._folder.parent)
        log = made_private(self._folder) / f"{name}.log"
        command = [sys.executable, "-m", "search.cli", *arguments, "--home", str(self._home.root), "--json"]
        at = time.time()
        write_private(log, "")
        try:
            with log.open("ab") as output:
                # A session of its own: neither Ctrl-C nor the end of the service reaches it.
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
                )
        except OSError as error:
            raise StorageError(f"a study's process cannot be started ({error.strerror}): free the machine") from None
        try:
            born = psutil.Process(process.pid).create_time()
        except psutil.Error:
            born = at
        threading.Thread(target=process.wait, daemon=True).start()  # else a dead one would seem to live
        launch = Launch(name, by, at, process.pid, born)
        write_private(self._record(name), _text(asdict(launch)))
        return launch

    def _last_words(self, name: str) -> str:
        """What the process said last, as the command line says it."""
        try:
            with (self._folder / f"{name}.log").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
                lines = file.read().decode("utf-8", "replace").split("\n")
        except OSError:
            lines = []
        said = [line.removeprefix("pleach: ") for line in lines if line.startswith("pleach: ")]
        return said[-1] if said else "its process ended without a word"


def _began(folder: StudyFolder, launch: Launch) -> bool:
    """Whether the study was at work since the launch."""
    try:
        return folder.state.stat().st_mtime >= launch.at
    except OSError:
        return False


def _text(data: object) -> str:
    return json.dumps(data)
