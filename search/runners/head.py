"""The head of a Ray cluster, which takes jobs, says whether they live, and ends them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ray.exceptions import RayError
from ray.job_submission import JobSubmissionClient

from spaces.errors import StudyError

#: Seconds for which what a head said of a job is not asked again.
FRESH = 1.0
#: Seconds for which a head that did not answer is left alone.
PAUSE = 10.0
#: Seconds that an answer may take: to a question, and to what is sent.
ANSWER, SENT = 10.0, 60.0
#: Seconds for which a head that was just started may say that it is not ready; each time it takes its time to say so.
STARTING = 30.0
#: What the client throws, and what it lets through.
TROUBLE = (RuntimeError, ValueError, ImportError, OSError, RayError)

#: ``unknown``: the head does not answer now.
Life = Literal["lives", "ended", "unknown"]

# Else every job is two lines about the name of its package.
for name in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
    logging.getLogger(name).setLevel(logging.WARNING)


class Head:
    """The head of a cluster; nothing is asked before it is needed.

    Args:
        address: Of its dashboard, e.g. ``http://head:8265``.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._client: _Client | None = None
        self._heard: dict[str, tuple[float, Life]] = {}
        self._silent = -math.inf

    def check(self) -> None:
        """Refuse an address where no cluster answers.

        Raises:
            StudyError: If none does.
        """
        self._connected("does not answer")

    def send(self, job: str, entrypoint: str, code: Path, metadata: Mapping[str, str]) -> None:
        """Send a job; returns as soon as the cluster has it.

        Args:
            job: Its name, new on that cluster.
            entrypoint: What a shell runs, in a copy of the code.
            code: The folder that goes along.
            metadata: What the cluster's pages say of it.

        Raises:
            StudyError: If the cluster does not take it.
        """
        client = self._connected("does not take the study")
        limit = time.monotonic() + STARTING
        while True:
            try:
                client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=job,
                    runtime_env={"working_dir": str(code)},
                    metadata=dict(metadata),
                )
            except TROUBLE as error:
                if f"{job} already exists" in str(error):
                    return  # it took it the time before, and only its answer was late
                if "try again later" not in str(error) or time.monotonic() > limit:
                    raise self._refused("does not take the study", error) from error
            else:
                return

    def life(self, job: str) -> Life:
        """Whether a job waits or runs, give or take a second; one that the cluster does not know has ended."""
        when, life = self._heard.get(job, (-math.inf, "unknown"))
        if life == "ended" or time.monotonic() - when < FRESH:
            return life
        life = self._asked(job)
        self._heard[job] = (time.monotonic(), life)
        return life

    def end(self, job: str) -> None:
        """End a job: with SIGTERM, three seconds later with SIGKILL.

        Raises:
            StudyError: If the cluster does not do it.
        """
        try:
            self._connected("does not end the job").stop_job(job)
        except TROUBLE as error:
            raise self._refused("does not end the job", error) from error

    def log(self, job: str) -> str:
        """What a job has printed; "" where that is gone, or the cluster does not answer."""
        try:
            return str(self._connected("does not answer").get_job_logs(job))
        except TROUBLE:
            return ""

    def _asked(self, job: str) -> Life:
        if time.monotonic() - self._silent < PAUSE:
            return "unknown"
        try:
            status = self._connected("does not answer").get_job_status(job)
        except TROUBLE as error:
            if "status code 404" in str(error):  # of a head that was started anew, perhaps
                return "ended"
            self._silent = time.monotonic()
            return "unknown"
        return "ended" if status.is_terminal() else "lives"

    def _connected(self, what: str) -> _Client:
        if self._client is None:
            try:
                self._client = _Client(self.address)
            except TROUBLE as error:
                raise self._refused(what, error) from error
        return self._client

    def _refused(self, what: str, error: Exception) -> StudyError:
        if isinstance(error, StudyError):
            return error
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return StudyError(
            f"the cluster at {self.address} {what} ({line}): give the address of its dashboard, as in "
            "http://HEAD:8265, and install pleach[cluster] here and there"
        )


class _Client(JobSubmissionClient):
    """Waits for an answer, but not for ever."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        options.setdefault("timeout", ANSWER if method == "GET" else SENT)
        return super()._do_request(method, endpoint, **options)
