"""MLflow takes seconds to make the tables of a new database: a test process has that done once, and copies the file."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

PREFIX = "sqlite:///"


def with_tables(home: Path) -> Path:
    """A home as every study but its first finds it: with MLflow's tables, and nothing in them."""
    from search.record import store

    home.mkdir(parents=True, exist_ok=True)
    copied(f"{PREFIX}{home}/mlflow.db", getattr(store._create_whole, "__wrapped__", store._create_whole))
    return home


def copied(uri: str, create: Callable[[str], None]) -> None:
    """Make a SQLite database that is not there yet, as a copy of one that `create` has made."""
    database = Path(uri.removeprefix(PREFIX))
    if uri.startswith(PREFIX) and not database.exists():
        part = database.with_name(f".{database.name}.copy")
        shutil.copyfile(_tables(create), part)
        part.replace(database)


@functools.cache
def _tables(create: Callable[[str], None]) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="pleach-tables-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    create(f"{PREFIX}{folder}/mlflow.db")
    return folder / "mlflow.db"
