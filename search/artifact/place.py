"""Where an export is written: beside its name, and moved there when it is whole."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from search.artifact.manifest import MANIFEST, read_manifest
from spaces.errors import ExportError, StorageError

_DRAFT, _EARLIER = ".partial", ".earlier"


@contextmanager
def draft(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder to fill, which takes the name of `out` at the end; nothing is left of it where something goes wrong.

    Args:
        out: Absolute; it must not exist, or be empty.
        overwrite: An earlier export may be there; it gives way at the last moment.

    Raises:
        ExportError: If `out` is taken.
        StorageError: If the folder cannot be written.
    """
    _sweep(out)
    _check(out, overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.{os.getpid()}.", suffix=_DRAFT, dir=out.parent))
    except OSError as error:
        raise StorageError(f"{out} cannot be written ({error.strerror}): choose a folder that can") from error
    try:
        yield folder
        _settle(folder, out)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"{out} cannot be written ({error.strerror or error}): make room or choose a folder"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(out: Path) -> None:
    """Remove what a process that was killed has left; an export that it had put aside comes back."""
    ours = re.compile(rf"\.{re.escape(out.name)}\.(\d+)\..*({re.escape(_DRAFT)}|{re.escape(_EARLIER)})")
    # Put aside first, so that it finds its name free.
    for path in sorted(out.parent.glob(f".{_quoted(out.name)}.*"), key=lambda path: path.suffix):
        found = ours.fullmatch(path.name)
        if found is None or psutil.pid_exists(int(found[1])):
            continue
        if path.suffix == _EARLIER and not out.exists():
            path.rename(out)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _quoted(name: str) -> str:
    """A name in which nothing is a pattern."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def _check(out: Path, overwrite: bool) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if out.is_symlink() or not out.is_dir():
        raise ExportError(f"an export is a folder, but {out} is something else: choose another name")
    present = {path.name for path in out.iterdir()}
    if not present:
        return
    if not overwrite:
        raise ExportError(f"an export needs a new folder, but {out} is not empty: choose another or ask for overwrite")
    try:
        ours = {MANIFEST, *read_manifest(out).files}
    except ExportError as error:
        raise ExportError(f"only an earlier export may be overwritten, and {out} is none ({error})") from error
    foreign = sorted(present - ours)
    if foreign:
        raise ExportError(
            f"only an earlier export may be overwritten, but {out} holds {foreign[0]}: choose another folder"
        )


def _settle(folder: Path, out: Path) -> None:
    """Move the whole folder to its name; an earlier one gives way at the last moment."""
    for path in folder.iterdir():
        path.chmod(0o644)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    folder.chmod(0o755)
    earlier = None
    if out.exists():
        earlier = folder.with_suffix(_EARLIER)
        out.rename(earlier)
    try:
        folder.rename(out)
    except OSError:
        if earlier is not None:
            earlier.rename(out)
        raise
    if earlier is not None:
        shutil.rmtree(earlier, ignore_errors=True)
