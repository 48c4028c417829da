"""The service's own folder in a home: nobody but its owner reads it."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from search.home import storing


def made_private(folder: Path) -> Path:
    """A folder that only its owner enters; made where it is missing.

    Raises:
        StorageError: If it cannot be made.
    """
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    return folder


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads from its first byte on; at any moment there is the old one or the new one.

    Raises:
        StorageError: If it cannot be written.
    """
    with storing(path):
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
