"""What the service launched, written beside the home's studies, so that the next service finds it again."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from search.home import Home, read_json
from search.service.folder import made_private, write_private
from spaces.errors import PleachError

#: The most of a launch's log that is read for its last line.
TAIL = 4096


@dataclass(frozen=True)
class Launch:
    """The latest process, or job of a cluster, that the service started for a study.

    Args:
        study: Its name.
        by: The name of the token that asked for it.
        at: When, in seconds since 1970.
        pid: The process; 0 for a job.
        born: When the process began, in seconds since 1970 as the system tells: a number that the system gave away
            again is no study's.
        ended: Whether the service was asked to end it before the study began.
        job: The job's name on its cluster; "" for a process of this machine.
        cluster: The address of that cluster's dashboard.
    """

    study: str
    by: str
    at: float
    pid: int = 0
    born: float = 0.0
    ended: bool = False
    job: str = ""
    cluster: str = ""

    def alive(self) -> bool:
        """Whether its process lives on this machine."""
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.born and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


class Launches:
    """The launches of a home.

    Args:
        home: The home.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._folder = home.root / "service" / "launches"
        self._known: dict[str, tuple[int, Launch]] = {}

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

    def keep(self, launch: Launch) -> None:
        """Write a launch down.

        Raises:
            StorageError: If it cannot be written.
        """
        self._made()
        write_private(self._record(launch.study), json.dumps(asdict(launch)))

    def forget(self, name: str) -> None:
        """Take back what was written of a launch."""
        self._record(name).unlink(missing_ok=True)

    def keep_file(self, name: str, text: str) -> Path:
        """Write down the study file that is launched; its path.

        Raises:
            StorageError: If it cannot be written.
        """
        path = self._made() / f"{name}.toml"
        write_private(path, text)
        return path

    def new_log(self, name: str) -> Path:
        """An empty file for what a process says.

        Raises:
            StorageError: If it cannot be written.
        """
        path = self._made() / f"{name}.log"
        write_private(path, "")
        return path

    def log(self, name: str) -> str:
        """The end of what the process said."""
        try:
            with (self._folder / f"{name}.log").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def began(self, launch: Launch) -> bool:
        """Whether the study was at work since the launch.

        A job may write from another machine, whose clock is another: what counts is the clock of the home's files. It
        is written down before it is sent, and a process after it is started.
        """
        try:
            since = self._record(launch.study).stat().st_mtime if launch.job else launch.at
            return self._home.study(launch.study).state.stat().st_mtime >= since
        except OSError:
            return False

    def _record(self, name: str) -> Path:
        return self._folder / f"{self._home.study(name).name}.json"

    def _made(self) -> Path:
        made_private(self._folder.parent)
        return made_private(self._folder)
