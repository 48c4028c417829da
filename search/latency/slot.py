"""One clock per machine: while a network is timed, no trial of the home computes.

Two files that processes lock. Who computes holds the floor together with others; who measures takes it alone, and
while it waits nobody new is let in. A process that dies lets go of its locks, whatever it was doing.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol


class Floor(Protocol):
    """Where trials compute and are measured."""

    def enter(self) -> None:
        """Begin to compute."""
        ...

    def give_way(self) -> None:
        """Between two steps: let those go first who wait to measure."""
        ...

    def leave(self) -> None:
        """Compute no more for now."""
        ...


class Slot:
    """The floor of this machine.

    Args:
        folder: Of the home; machines that share it have files of their own there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        host = "".join(c if c.isalnum() else "-" for c in socket.gethostname())[:40]
        self._door = os.open(folder / f"{host}.door", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._floor = os.open(folder / f"{host}.floor", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._inside = False

    def enter(self) -> None:
        """Begin to compute; waits while somebody measures."""
        if self._inside:
            return
        fcntl.flock(self._door, fcntl.LOCK_SH)
        try:
            fcntl.flock(self._floor, fcntl.LOCK_SH)
        finally:
            fcntl.flock(self._door, fcntl.LOCK_UN)
        self._inside = True

    def give_way(self) -> None:
        """Between two steps: if somebody waits to measure, let go until it is done."""
        if not self._inside:
            return
        try:
            fcntl.flock(self._door, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            self.leave()
            self.enter()
        else:
            fcntl.flock(self._door, fcntl.LOCK_UN)

    def leave(self) -> None:
        """Compute no more for now."""
        if self._inside:
            fcntl.flock(self._floor, fcntl.LOCK_UN)
            self._inside = False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Measure: waits until everybody gave way, and keeps them waiting meanwhile."""
        was_inside = self._inside
        self.leave()
        fcntl.flock(self._door, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._floor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._floor, fcntl.LOCK_UN)
        finally:
            fcntl.flock(self._door, fcntl.LOCK_UN)
            if was_inside:
                self.enter()

    def close(self) -> None:
        """Let go of the files."""
        self.leave()
        os.close(self._door)
        os.close(self._floor)
