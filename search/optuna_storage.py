"""Optuna's storages as this project opens them: a journal file of one home, or a database of several."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import SQLAlchemyError

from search.database import engine_options, explained, is_shared
from search.home import storing
from spaces.errors import StorageError

Place = Path | str | None


def open_storage(place: Place) -> BaseStorage:
    """Open a file as Optuna's journal, a database by its URL, or this process's memory.

    Raises:
        StorageError: If the journal is damaged.
    """
    if isinstance(place, str) and is_shared(place):
        return optuna.storages.get_storage(RDBStorage(place, engine_kwargs={"pool_size": 1, **engine_options(place)}))
    if not isinstance(place, Path):
        return optuna.storages.get_storage(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        return JournalStorage(_Journal(place))
    except ValueError as error:
        raise StorageError(
            f"the journal {place} is damaged ({error}): move it away, and it is written anew from the results"
        ) from None


def close_storage(storage: BaseStorage) -> None:
    """Give back the connections of a database."""
    backend = getattr(storage, "_backend", None)
    if isinstance(backend, RDBStorage):
        backend.remove_session()
        backend.engine.dispose()


@contextlib.contextmanager
def stored(place: Place) -> Iterator[None]:
    """What Optuna and its database raise inside becomes a StorageError of one line.

    Raises:
        StorageError: Instead of them; an UnreachableError where waiting may help.
    """
    try:
        with storing(place) if isinstance(place, Path) else contextlib.nullcontext():
            yield
    except (StorageInternalError, SQLAlchemyError, ImportError) as error:
        raise explained(str(place), error) from None


class _Journal(JournalFileBackend):
    """Optuna's journal, written in one system call a record and locked by the kernel.

    Optuna's own locks outlive a killed owner by half a minute, and its fsync after every single parameter costs more
    than all else of a proposal. A kill loses nothing here; what a power cut loses, the result files bring back.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        data = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with self._path.open("ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = file.seek(0, os.SEEK_END)
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:
                file.truncate(end)  # a full disk takes a part of the record
                raise
