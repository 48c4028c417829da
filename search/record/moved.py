"""A home that was moved or copied: MLflow keeps absolute paths, and would go on writing to the old place."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

#: Every column of MLflow's tables that holds the place of an artefact.
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def follow(uri: str, artifacts: Path) -> None:
    """Point a home's own database at the artefacts that lie beside it; other databases are left alone.

    Args:
        uri: Of the database.
        artifacts: The home's folder of artefacts.

    Raises:
        sqlite3.Error: If the database cannot be changed.
    """
    database = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or database.parent != artifacts.parent or not database.is_file():
        return
    here = artifacts.as_uri()
    with closing(sqlite3.connect(database, timeout=20)) as connection, connection:
        tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
        if "experiments" not in tables:
            return
        # An experiment of ours lies right in the folder; MLflow's own default one does not, and is left alone.
        named = connection.execute("select distinct artifact_location from experiments").fetchall()
        elsewhere = [place for (place,) in named if place.startswith("file:") and place != here]
        for old in elsewhere:
            if Path(old).name != artifacts.name:
                continue
            for table, column in PLACES:
                if table in tables:
                    connection.execute(
                        f"update {table} set {column} = ? || substr({column}, ?) where {column} = ? or {column} like ?",
                        (here, len(old) + 1, old, f"{old}/%"),
                    )
