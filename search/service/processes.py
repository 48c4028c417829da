"""Every study runs in a process of its own, which the service starts, finds again after a restart, and may outlive it.

That process is one of this machine or, where the service is told a cluster, a job of that cluster. A job's driver may
live where this machine cannot see it: whether it does is the cluster's to say.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil

from search.home import Home, driver, read_json, write_text
from search.runners import environment
from search.service.launches import Launch, Launches
from search.state import read_state
from search.study_file import StudyFile
from spaces.errors import PleachError, StorageError, StudyError, UnreachableError

if TYPE_CHECKING:
    from search.runners.head import Head

#: Seconds after which a job that was to stop at once, and still runs, is ended.
GRACE = 30.0
SILENT = "the cluster does not answer now: this is what the home shows"


@dataclass(frozen=True)
class Standing:
    """What is known of a study from its processes alone.

    Args:
        state: ``starting``: its process is not yet at work; ``refused``: it ended before it was; ``driven``: it began
            as a job, and its driver is none that this machine sees. ``""``: ask the study.
        reason: Why it was refused, or why no more is known, one line.
    """

    state: Literal["", "starting", "refused", "driven"] = ""
    reason: str = ""


class Processes:
    """The processes and jobs of a home's studies.

    Args:
        home: The home.
        cluster: The address of a cluster's dashboard, which gets every study as a job; None: this machine.
    """

    def __init__(self, home: Home, cluster: str | None = None) -> None:
        self._home, self._cluster = home, cluster
        self._launches = Launches(home)
        self._heads: dict[str, Head] = {}
        self._sending: set[str] = set()

    def check(self) -> None:
        """Refuse a cluster that does not answer.

        Raises:
            StudyError: If it does not.
        """
        if self._cluster is not None:
            self._head(self._cluster).check()

    def start(self, file: StudyFile, by: str) -> None:
        """Start a study.

        Args:
            file: The study, its paths absolute.
            by: Who asks.

        Raises:
            StudyFileError: If the study cannot be a job, and is to be one.
            StorageError: If its file cannot be written, or the cluster does not take it.
        """
        path = self._launches.keep_file(file.name, file.text)
        self._launch(file, by, ["run", str(path)], path)

    def resume(self, file: StudyFile, by: str, trials: int | None) -> None:
        """Let a study go on, to `trials` in all if given.

        Raises:
            StudyFileError: As `start`.
            StorageError: As `start`.
        """
        more = [] if trials is None else ["--trials", str(trials)]
        self._launch(file, by, ["resume", file.name, *more], self._home.study(file.name).file)

    def end(self, launch: Launch) -> None:
        """End a process or job whose study has not begun.

        Raises:
            StorageError: If that cannot be written down, or the cluster does not answer.
        """
        self._launches.keep(replace(launch, ended=True))
        if not launch.job:
            if launch.alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(launch.pid, 15)
            return
        try:
            self._head(launch.cluster).end(launch.job)
        except StudyError as error:
            self._launches.keep(launch)
            raise UnreachableError(str(error)) from error

    def stop_job(self, name: str, *, now: bool) -> bool:
        """Ask the driver of a job to stop as `Study.stop` does; whether there is such a job.

        One that was to stop at once and still runs half a minute later is ended; nothing that is decided is lost.

        Raises:
            StorageError: If the question cannot be written.
        """
        launch = self.latest(name)
        if launch is None or not launch.job or self._life(launch) == "ended":
            return False
        write_text(self._home.study(name).stop, "now" if now else "finish")
        if now:
            timer = threading.Timer(GRACE, self._end_late, (launch,))
            timer.daemon = True
            timer.start()
        return True

    def latest(self, name: str) -> Launch | None:
        """What was launched last under a name, by this service or the one before it."""
        return self._launches.latest(name)

    def names(self) -> list[str]:
        """The studies that were launched here, sorted."""
        return self._launches.names()

    def standing(self, name: str) -> Standing:
        """Where a study is as far as its processes tell."""
        launch = self.latest(name)
        if launch is None or driver(self._home.study(name)) is not None:
            return Standing()
        life = self._life(launch)  # asked first: what began and ended meanwhile did begin
        silent = SILENT if life == "unknown" else ""
        if self._launches.began(launch):
            return Standing("driven", silent) if launch.job and life != "ended" else Standing()
        if life != "ended":
            return Standing("starting", silent)
        if launch.ended:
            return Standing("refused", "it was stopped before its first trial")
        return Standing("refused", self._last_words(launch))

    def at_rest(self, name: str) -> bool:
        """Whether a study's last word, if any, is that it is not running."""
        if self.standing(name).state == "driven":
            return not self.says_running(name)
        return read_state(self._home.study(name)).phase != "running"

    def says_running(self, name: str) -> bool:
        """Whether a study's own last word is that it runs, whoever drives it and wherever."""
        try:
            return read_json(self._home.study(name).state).get("phase") == "running"
        except PleachError:
            return False

    def running(self) -> int:
        """How many studies run or start now, whoever started them."""
        names = {*self.names(), *self._home.studies()}
        return sum(self.at_work(name) for name in names)

    def at_work(self, name: str) -> bool:
        """Whether a study runs, starts, or has a process that is about to end; what a silent cluster had, it has."""
        launch = self.latest(name)
        return (launch is not None and self._life(launch) != "ended") or driver(self._home.study(name)) is not None

    def settle(self, name: str, seconds: float = 30.0) -> None:
        """Wait while a study that is over already still writes its records."""
        limit = time.monotonic() + seconds
        while self.at_work(name) and time.monotonic() < limit:
            if self.standing(name).state == "starting" or not self.at_rest(name):
                return
            time.sleep(0.05)

    # -- one launch -------------------------------------------------------------------------------------------------

    def _launch(self, file: StudyFile, by: str, words: Sequence[str], needs: Path) -> None:
        words = [*words, "--quiet", "--home", str(self._home.root), "--json"]
        if self._cluster is None:
            self._spawn(file.name, by, words)
        else:
            self._send(self._cluster, file, by, words, needs)

    def _spawn(self, name: str, by: str, words: Sequence[str]) -> None:
        log = self._launches.new_log(name)
        at = time.time()
        try:
            with log.open("ab") as output:
                # A session of its own: neither Ctrl-C nor the end of the service reaches it.
                process = subprocess.Popen(
                    [sys.executable, "-m", "search.cli", *words],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError as error:
            raise StorageError(f"a study's process cannot be started ({error.strerror}): free the machine") from None
        try:
            born = psutil.Process(process.pid).create_time()
        except psutil.Error:
            born = at
        threading.Thread(target=process.wait, daemon=True).start()  # else a dead one would seem to live
        self._launches.keep(Launch(name, by, at, process.pid, born))

    def _send(self, cluster: str, file: StudyFile, by: str, words: Sequence[str], needs: Path) -> None:
        head = self._head(cluster)
        from search.runners.jobs import check_runner, job_name, send_words

        check_runner(file)
        before = self.latest(file.name)
        launch = Launch(file.name, by, time.time(), job=job_name(file.name), cluster=cluster)
        self._sending.add(file.name)
        try:
            self._launches.keep(launch)  # first: a service that is killed meanwhile finds the job all the same
            send_words(head, launch.job, file, words, needs=needs, by=by)
        except BaseException as error:
            with contextlib.suppress(StudyError):
                head.end(launch.job)  # its answer may be all that was lost
            if before is None:
                self._launches.forget(file.name)
            else:
                self._launches.keep(before)
            if isinstance(error, StudyError):
                raise UnreachableError(str(error)) from error
            raise
        finally:
            self._sending.discard(file.name)

    def _life(self, launch: Launch) -> Literal["lives", "ended", "unknown"]:
        if not launch.job:
            return "lives" if launch.alive() else "ended"
        if launch.study in self._sending:
            return "lives"
        return self._head(launch.cluster).life(launch.job)

    def _end_late(self, launch: Launch) -> None:
        if self.latest(launch.study) == launch and self._life(launch) != "ended" and self.says_running(launch.study):
            with contextlib.suppress(StudyError):
                self._head(launch.cluster).end(launch.job)

    def _last_words(self, launch: Launch) -> str:
        """What the process said last, as the command line says it."""
        log = self._head(launch.cluster).log(launch.job) if launch.job else self._launches.log(launch.study)
        said = [line.removeprefix("pleach: ") for line in log.splitlines() if line.startswith("pleach: ")]
        return said[-1] if said else f"its {'job' if launch.job else 'process'} ended without a word"

    def _head(self, address: str) -> Head:
        if address not in self._heads:
            environment.settle(None)
            # Ray reads its settings when it is imported.
            from search.runners.head import Head

            self._heads[address] = Head(address)
        return self._heads[address]
