"""Where tasks keep what takes long to make, and how several processes may make it at once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from spaces.errors import StorageError


def cache_folder(key: str, cache_dir: str | Path | None = None) -> Path:
    """The folder for what is made from `key`; it need not exist.

    Args:
        key: A hash of everything that decides the content.
        cache_dir: Its parent; left out, ``$PLEACH_HOME/cache``, else ``./.pleach/cache``.
    """
    parent = Path(cache_dir) if cache_dir else Path(os.environ.get("PLEACH_HOME") or ".pleach") / "cache"
    return parent.expanduser().resolve() / key


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that others see all of it or nothing; of two that write at once the later one stays.

    Args:
        path: Where it shall be; its folder is made.
        write: Is called with a path in the same folder, with the same suffix.

    Raises:
        StorageError: If the folder or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"the cache {path} must be writable, but is not ({error.strerror or error})") from None
