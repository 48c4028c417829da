"""What a client can do to studies: launch, stop, resume. One at a time, so that no two launch the same."""

from __future__ import annotations

import threading
import tomllib
from typing import Any

from search.home import Home
from search.service.allowed import Allowed
from search.service.looks import Looks
from search.service.processes import Processes
from search.study import Study
from search.study_file import StudyFile
from spaces.errors import StudyError


class Control:
    """The studies of a home, as far as clients may change them.

    Args:
        home: The home.
        allowed: What the operator allows.
        processes: Who starts.
        looks: Who looks.
    """

    def __init__(self, home: Home, allowed: Allowed, processes: Processes, looks: Looks) -> None:
        self._home, self._allowed, self._processes, self._looks = home, allowed, processes, looks
        self._lock = threading.Lock()

    def launch(self, data: object, by: str) -> str:
        """Begin a new study; its name.

        Args:
            data: A study file as JSON, its task a name of the operator's list.
            by: Who asks.

        Raises:
            PleachError: If it breaks a rule, is there already, or too many run.
        """
        file = self._allowed.admitted(data)
        with self._lock:
            if self._home.study(file.name).file.exists() or self._processes.at_work(file.name):
                raise StudyError(
                    f"a study's name must be new, but there is a study {file.name!r}: resume it, or choose another name"
                )
            self._check_room()
            self._processes.start(file, by)
        return file.name

    def resume(self, name: str, trials: int | None, by: str) -> None:
        """Let a study go on, to `trials` in all if given.

        Raises:
            PleachError: If it runs, its task is not on the list, or too many run.
        """
        self._looks.known(name)
        self._processes.settle(name)
        with self._lock:
            study = Study.load(name, self._home)
            self._allowed.check_listed(study.file)
            self._allowed.check_size(study.file, trials)
            if trials is not None:
                data: dict[str, Any] = tomllib.loads(study.file.text)
                data["study"]["trials"] = trials
                StudyFile.of(data, study.file.folder)
            if self._processes.at_work(name):
                raise StudyError(f"only a study at rest can be resumed, but {name!r} runs: stop it, or wait")
            self._check_room()
            self._processes.resume(study.file, by, trials)

    def stop(self, name: str, *, now: bool) -> str:
        """Ask a study to stop; what it is going to do.

        Raises:
            PleachError: If there is none, or it does not run.
        """
        self._looks.known(name)
        with self._lock:
            launch = self._processes.latest(name)
            if launch is not None and self._processes.standing(name).state == "starting":
                self._processes.end(launch)
                return "now"
            if not self._processes.stop_job(name, now=now):
                Study.load(name, self._home).stop(now=now)
        return "now" if now else "after the running trials"

    def _check_room(self) -> None:
        most = self._allowed.file.limits.running
        if self._processes.running() >= most:
            raise StudyError(f"at most {most} studies may run at once, but so many do: wait for one, or stop it")
