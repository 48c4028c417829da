"""Exported networks as zipped folders: made once, one at a time, each by a process of its own.

An export runs the task's code and times networks, which must neither slow the answers to others nor end them.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from search.home import Home, storing
from search.service.folder import made_private
from spaces.errors import ExportError, StudyError

#: How many are kept, the latest ones.
KEPT = 16
#: How many may wait.
WAITING = 8
#: Seconds that one may take.
LONGEST = 1800.0


class Exports:
    """The exports of a home.

    Args:
        home: The home.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._folder = home.root / "service" / "exports"
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="export")
        self._waiting: dict[Path, Future[Path]] = {}
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._closed = False

    def wanted(self, name: str, identity: str, trial: int) -> Future[Path]:
        """A trial's network as a zipped folder, now or once it is made.

        Args:
            name: The study.
            identity: Tells the study from another of its name.
            trial: A complete trial.

        Raises:
            StudyError: If too many wait.
        """
        file = self._folder / identity / f"{name}-{trial}.zip"
        with self._lock:
            if file in self._waiting:
                return self._waiting[file]
            if file.is_file():
                done: Future[Path] = Future()
                done.set_result(file)
                return done
            if len(self._waiting) >= WAITING:
                raise StudyError(f"at most {WAITING} exports may wait, but so many do: ask again in a minute")
            made = self._pool.submit(self._make, name, trial, file)
            self._waiting[file] = made
        made.add_done_callback(lambda _: self._waiting.pop(file, None))
        return made

    def close(self) -> None:
        """End what is being made."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()

    def _make(self, name: str, trial: int, file: Path) -> Path:
        made_private(self._folder.parent)
        made_private(self._folder)
        made_private(file.parent)
        base = file.with_suffix("")
        command = [sys.executable, "-m", "search.cli", "export", name, "--out", str(base), "--trial", str(trial)]
        command += ["--home", str(self._home.root), "--force", "--json"]
        with storing(file):
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            try:
                _, said = self._process.communicate(timeout=LONGEST)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()
                raise ExportError(f"an export may take {LONGEST:.0f} s, but trial {trial} took longer") from None
            if self._process.returncode != 0:
                lines = [line for line in said.splitlines() if line.startswith("pleach: ")]
                raise ExportError(lines[-1].removeprefix("pleach: ") if lines else "the export ended without a word")
            part = shutil.make_archive(f"{base}.part", "zip", root_dir=base.parent, base_dir=base.name)
            shutil.rmtree(base)
            Path(part).replace(file)
        self._tidy(file)
        return file

    def _tidy(self, latest: Path) -> None:
        """Only the latest ones stay."""
        files = sorted(self._folder.glob("*/*.zip"), key=lambda path: path.stat().st_mtime)
        for file in files[:-KEPT]:
            if file != latest:
                with contextlib.suppress(OSError):
                    file.unlink()
