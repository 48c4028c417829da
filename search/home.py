"""Where everything of a user lives on disk: the layout of the folder, writes that never tear, and the driver's lock."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from spaces.errors import StorageError, StudyError
from spaces.policy import nearest

#: Ray's sockets lie some sixty bytes below its folder, and a Unix socket's path has at most 107.
LONGEST_RAY_PATH = 40
RAY_PREFIX = "pleach-ray-"
STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class StudyFolder:
    """The files of one study."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def file(self) -> Path:
        """The study file of the first run."""
        return self.root / "study.toml"

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def lock(self) -> Path:
        return self.root / "driver.lock"

    @property
    def stop(self) -> Path:
        """There while somebody asks the driver to stop; see :meth:`search.study.Study.stop`."""
        return self.root / "stop"

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    def result(self, number: int) -> Path:
        """The result of a decided trial."""
        return self.root / "results" / f"{number}.json"

    def results(self) -> dict[int, Path]:
        """The files of all decided trials, by number in rising order."""
        found = {int(path.stem): path for path in (self.root / "results").glob("*.json") if path.stem.isdigit()}
        return dict(sorted(found.items()))

    def confirmation(self, key: str) -> Path:
        """The result of a finalist that ran again with a fresh seed."""
        return self.root / "results" / "confirmed" / f"{key}.json"

    def confirmations(self) -> list[Path]:
        return sorted((self.root / "results" / "confirmed").glob("*.json"))

    def ablation(self, trial: int) -> Path:
        """The folder of what became of a trial's profile with each of its policies left out or replaced."""
        return self.root / "results" / "ablations" / str(trial)

    def checkpoints(self, key: str) -> Path:
        """The folder of a trial's checkpoints and, once it is complete, of its network."""
        return self.root / "checkpoints" / key


@dataclass(frozen=True)
class Home:
    """The one folder under which all state of a user lives."""

    root: Path

    @classmethod
    def find(cls, folder: str | Path | None = None) -> Home:
        """The folder given, else ``$PLEACH_HOME``, else ``./.pleach``; it need not exist."""
        return cls(Path(folder or os.environ.get("PLEACH_HOME") or ".pleach").expanduser().resolve())

    @property
    def journal(self) -> Path:
        return self.root / "optuna.journal"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def mlflow_uri(self) -> str:
        return f"sqlite:///{self.root / 'mlflow.db'}"

    def cache(self, task_hash: str) -> Path:
        """Where what belongs to a task (its trained network) is kept."""
        return self.root / "cache" / task_hash

    def study(self, name: str) -> StudyFolder:
        """The folder of a study, which need not exist.

        Raises:
            StudyError: If the name cannot be a folder's.
        """
        if not STUDY_NAME.fullmatch(name):
            raise StudyError(
                f"a study's name must be letters, digits, '.', '_' and '-', at most 64, but is {name!r}: rename it"
            )
        return StudyFolder(self.root / "studies" / name)

    def existing(self, name: str) -> StudyFolder:
        """The folder of a study that has run.

        Raises:
            StudyError: If there is none; the message names the nearest.
        """
        folder = self.study(name)
        if not folder.file.is_file():
            known = self.studies()
            remedy = nearest(name, known) if known else "no study has run there"
            raise StudyError(f"there is no study {name!r} in {self.root}: {remedy}")
        return folder

    def studies(self) -> list[str]:
        """The names of all studies, sorted."""
        return sorted(path.parent.name for path in (self.root / "studies").glob("*/study.toml"))


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn what the operating system says of a write into one line.

    Raises:
        StorageError: Where a write failed: a full disk, a read-only folder, a file in the way.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written ({error.strerror or error}): free or permit the space, or choose another --home"
        ) from error


def write_text(path: Path, text: str, *, durable: bool = True, private: bool = False) -> None:
    """Write a file so that at any moment there is the old one or the new one, whole.

    Args:
        path: Where; its folder is made.
        text: What.
        durable: Whether it must also outlive a power cut, which takes milliseconds.
        private: Whether nobody else may read it.

    Raises:
        StorageError: If it cannot be written.
    """
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                if private:
                    os.fchmod(file.fileno(), 0o600)
                file.write(text)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        if durable:
            _sync_folder(path.parent)


def write_json(path: Path, data: Mapping[str, Any], *, durable: bool = True, private: bool = False) -> None:
    """Write JSON as :func:`write_text` does."""
    write_text(path, json.dumps(data, separators=(",", ":"), allow_nan=False), durable=durable, private=private)


def read_json(path: Path) -> dict[str, Any]:
    """Read an object that :func:`write_json` wrote.

    Raises:
        StorageError: If it cannot be read, or is no JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StorageError(f"{path} cannot be read ({error}): restore it from a copy, or move it away") from None
    if not isinstance(data, dict):
        raise StorageError(f"{path} must hold a JSON object, but does not: restore it from a copy, or move it away")
    return data


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- who drives -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def driver_lock(folder: StudyFolder) -> Iterator[None]:
    """Be the one driver of a study. The kernel drops the lock of a dead owner, so nothing is left to clear away.

    Raises:
        StudyError: If another process drives it.
        StorageError: If the folder cannot be written.
    """
    with storing(folder.lock):
        folder.root.mkdir(parents=True, exist_ok=True)
        file = folder.lock.open("a+", encoding="utf-8")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _read_owner(folder).get("pid", "unknown")
            raise StudyError(
                f"a study has one driver, but process {owner} drives {folder.name!r}: "
                f"wait for it, or stop it with pleach stop {folder.name}"
            ) from None
        with storing(folder.lock):
            file.truncate(0)
            file.write(json.dumps({"pid": os.getpid(), "started": psutil.Process().create_time()}))
            file.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                file.truncate(0)


def driver(folder: StudyFolder) -> int | None:
    """The process that drives a study now, or None: a dead owner's name in the lock does not count."""
    owner = _read_owner(folder)
    try:
        process = psutil.Process(owner["pid"])
        alive = process.create_time() == owner["started"] and process.status() != psutil.STATUS_ZOMBIE
    except (KeyError, TypeError, ValueError, psutil.Error):
        return None
    return int(owner["pid"]) if alive else None


def _read_owner(folder: StudyFolder) -> dict[str, Any]:
    try:
        owner = json.loads(folder.lock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


# -- what a kill leaves ---------------------------------------------------------------------------------------------


def repair_journal(journal: Path) -> Path | None:
    """Cut a journal to its last complete line: a torn one would swallow the record that is appended next.

    Returns:
        The copy of the journal as it was, or None where nothing was torn.

    Raises:
        StorageError: If it cannot be written.
    """
    if not journal.exists():
        return None
    with storing(journal), journal.open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # drivers of other studies append to it as well
        size = file.seek(0, os.SEEK_END)
        end = _end_of_last_line(file.fileno(), size)
        if end == size:
            return None
        copy = journal.with_name(f"{journal.name}.torn-{time.time_ns()}")
        shutil.copyfile(journal, copy)
        file.truncate(end)
        os.fsync(file.fileno())
        return copy


def _end_of_last_line(descriptor: int, size: int, block: int = 65536) -> int:
    """The offset just behind the last newline, 0 where there is none."""
    while size > 0:
        start = max(0, size - block)
        found = os.pread(descriptor, size - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        size = start
    return 0


def ray_folder(home: Home) -> Path:
    """Where Ray keeps its sockets and logs: in the home, or, where that path is too long, a new private folder."""
    if len(os.fsencode(home.root / "ray")) <= LONGEST_RAY_PATH:
        return home.root / "ray"
    parent = Path(tempfile.gettempdir())
    if len(os.fsencode(parent / RAY_PREFIX)) + 8 > LONGEST_RAY_PATH:  # mkdtemp adds eight characters
        parent = Path("/tmp")
    with storing(parent):
        return Path(tempfile.mkdtemp(prefix=RAY_PREFIX, dir=parent))


def sweep(folder: Path) -> None:
    """Remove what dead processes left in a folder that :func:`ray_folder` gave; a private one goes altogether.

    Ray's sessions, and our folders beside them, end in the process that made them.
    """
    if folder.name.startswith(RAY_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.glob("*_*"):
        owner = path.name.rpartition("_")[2]
        if owner.isdigit() and (int(owner) == os.getpid() or not psutil.pid_exists(int(owner))):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    latest = folder / "session_latest"
    if latest.is_symlink() and not latest.exists():
        latest.unlink(missing_ok=True)
