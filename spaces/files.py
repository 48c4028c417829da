"""Text files and JSON of a user: read and written with errors that say what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spaces.errors import ProfileError, StorageError


def write(path: str | Path, text: str, what: str) -> None:
    """Write a text file.

    Raises:
        StorageError: If it cannot be written.
    """
    try:
        Path(path).write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise StorageError(f"{what} cannot be written to {path} ({error}): choose a folder that exists") from None


def read(path: str | Path, what: str) -> str:
    """Read a text file.

    Raises:
        StorageError: If it cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise StorageError(f"{what} {path} cannot be read ({error}): check the path") from None


def parse(text: str, what: str) -> Any:
    """Read JSON.

    Raises:
        ProfileError: If it is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # json raises a bare ValueError for endless numbers
        raise ProfileError(f"{what} must be JSON, but does not parse ({error}): export it again") from None
