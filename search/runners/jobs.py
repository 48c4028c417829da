"""A study as a job of a Ray cluster: submitted from anywhere, driven on the cluster's head."""

from __future__ import annotations

import secrets
import shlex
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from ray.job_submission import JobSubmissionClient

from search.runners.parcel import stage
from search.study_file import StudyFile
from search.toml import to_toml
from spaces.errors import StudyError, StudyFileError

#: Where a job keeps its studies, on the cluster's head.
HOME = "~/.pleach"


@dataclass(frozen=True)
class Job:
    """A study that was submitted.

    Args:
        job: Its name on the cluster.
        study: The study's name.
        address: Where it was submitted.
        home: Where the study is kept, on the cluster's head.
    """

    job: str
    study: str
    address: str
    home: str

    def commands(self) -> dict[str, str]:
        """What to do next, by purpose."""
        at = f"--address {self.address}"
        return {
            "follow": f"ray job logs {self.job} {at} --follow",
            "status": f"ray job status {self.job} {at}",
            "stop": f"ray job stop {self.job} {at}",
            "watch": f"pleach watch {self.study} --home {self.home}",
        }


def submit(
    file: StudyFile,
    address: str,
    *,
    home: str = HOME,
    name: str | None = None,
    origin: str | None = None,
    checked: bool = True,
) -> Job:
    """Let a cluster run a study; returns as soon as the cluster has it.

    Args:
        file: The study.
        address: Of the cluster's dashboard, e.g. ``http://head:8265``.
        home: Where the study is kept, on the cluster's head; submitting it again goes on there.
        name: Another name than the file's.
        origin: A study of that home whose best profiles are tried first.
        checked: Whether the job looks before its first trial.

    Raises:
        StudyFileError: If the file names what the cluster cannot have.
        StudyError: If the cluster does not take the job.
    """
    study = name or file.name
    words = ["python", "-m", "search.cli", "run", "study.toml", "--home", home, "--name", study]
    words += ["--from", origin] if origin is not None else []
    words += [] if checked else ["--no-check"]
    job = f"pleach-{study}-{secrets.token_hex(4)}"
    text = _for_the_cluster(file)
    with tempfile.TemporaryDirectory(prefix="pleach-job-") as folder:
        code = stage(Path(folder) / "code", file.task.target)
        (code / "study.toml").write_text(text, encoding="utf-8")
        reference = file.task_reference
        if reference.source is not None:
            (code / _file_name(file.task.target)).write_text(reference.source, encoding="utf-8")
        try:
            client = JobSubmissionClient(address)
            client.submit_job(entrypoint=shlex.join(words), submission_id=job, runtime_env={"working_dir": str(code)})
        except (ConnectionError, RuntimeError, ValueError, ImportError, OSError) as error:
            line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise StudyError(
                f"the cluster at {address} does not take the study ({line}): give the address of its dashboard, as in "
                "http://HEAD:8265, and install pleach[cluster] here and there"
            ) from error
    return Job(job, study, address, home)


def _for_the_cluster(file: StudyFile) -> str:
    """The study file as the job runs it: on the cluster that it is part of, its task's file beside it."""
    for name, value in file.task.args.items():
        if file.task_reference.args[name] != value and not Path(str(value)).expanduser().is_absolute():
            raise StudyFileError(
                f"a path in a submitted study must be the cluster's, from its root, but task.args.{name} is {value!r}: "
                "write it in full, or give the data as the task's arrays"
            )
    if file.resources.runner != "tune":
        raise StudyFileError('resources.runner of a submitted study must be "tune", but is "inline": leave it out')
    data = tomllib.loads(file.text)
    data.setdefault("resources", {})["address"] = "auto"
    target = file.task.target
    if file.task_reference.source is not None:
        data["task"]["target"] = f"{_file_name(target)}:{target.rpartition(':')[2]}"
    return to_toml(data)


def _file_name(target: str) -> str:
    return Path(target.rpartition(":")[0]).name
