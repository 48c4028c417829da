"""Studies as jobs of a Ray cluster: sent from anywhere, driven on the cluster's head."""

from __future__ import annotations

import secrets
import shlex
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from search.runners.head import Head
from search.runners.parcel import stage
from search.study_file import StudyFile
from search.toml import to_toml
from spaces.errors import StudyFileError

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


def job_name(study: str) -> str:
    """A new name for the job of a study."""
    return f"pleach-{study}-{secrets.token_hex(4)}"


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
    job = job_name(study)
    text = _for_the_cluster(file)
    with tempfile.TemporaryDirectory(prefix="pleach-job-") as folder:
        code = stage(Path(folder) / "code", file.task.target)
        (code / "study.toml").write_text(text, encoding="utf-8")
        reference = file.task_reference
        if reference.source is not None:
            (code / _file_name(file.task.target)).write_text(reference.source, encoding="utf-8")
        Head(address).send(job, shlex.join(words), code, {"study": study})
    return Job(job, study, address, home)


def send_words(head: Head, job: str, file: StudyFile, words: Sequence[str], *, needs: Path, by: str) -> None:
    """Let a cluster do what the command line does, with a home that its head shares with this machine.

    Args:
        head: Of the cluster.
        job: Its name there.
        file: The study.
        words: Of the command line, e.g. ``run FILE --home HOME``; their paths absolute.
        needs: A file of the home without which the head does not share it.
        by: Who asks.

    Raises:
        StudyFileError: If the study cannot be a job.
        StudyError: If the cluster does not take the job.
    """
    check_runner(file)
    sorry = (
        "the cluster's head must see the service's home under the same path, but does not: start the service on the "
        "head, or share that folder with it"
    )
    entrypoint = (
        f"test -r {shlex.quote(str(needs))} || {{ echo {shlex.quote(f'pleach: {sorry}')} >&2; exit 2; }}; "
        f"exec {shlex.join(['python', '-m', 'search.cli', *words])}"
    )
    with tempfile.TemporaryDirectory(prefix="pleach-job-") as folder:
        code = stage(Path(folder) / "code", file.task.target)
        head.send(job, entrypoint, code, {"study": file.name, "by": by})


def check_runner(file: StudyFile) -> None:
    """Refuse a study that would train on the head itself.

    Raises:
        StudyFileError: If it would.
    """
    if file.resources.runner != "tune":
        raise StudyFileError('resources.runner of a submitted study must be "tune", but is "inline": leave it out')


def _for_the_cluster(file: StudyFile) -> str:
    """The study file as the job runs it: on the cluster that it is part of, its task's file beside it."""
    for name, value in file.task.args.items():
        if file.task_reference.args[name] != value and not Path(str(value)).expanduser().is_absolute():
            raise StudyFileError(
                f"a path in a submitted study must be the cluster's, from its root, but task.args.{name} is {value!r}: "
                "write it in full, or give the data as the task's arrays"
            )
    check_runner(file)
    data = tomllib.loads(file.text)
    data.setdefault("resources", {})["address"] = "auto"
    target = file.task.target
    if file.task_reference.source is not None:
        data["task"]["target"] = f"{_file_name(target)}:{target.rpartition(':')[2]}"
    return to_toml(data)


def _file_name(target: str) -> str:
    return Path(target.rpartition(":")[0]).name
