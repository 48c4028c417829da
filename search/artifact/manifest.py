"""The manifest of an export: which files belong to it, with size and sha256, and what must be known to read it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch

from search.artifact.network import parsed
from spaces.errors import ExportError

MANIFEST = "manifest.json"
SCHEMA = 1
#: A file lies in the folder itself: no separators, no hidden names.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", re.ASCII)
_LARGEST = 2**20
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class Manifest:
    """A checked manifest.

    Args:
        files: Size in bytes and sha256 by file name.
        rebuild: ``{class, args, reason}`` of a network that is stored without its graph, else None.
        versions: Of what wrote the export.
        unread: Files for other loaders, and for which: Pleach's own checks their sums and does not look into them.
    """

    files: Mapping[str, tuple[int, str]]
    rebuild: Mapping[str, Any] | None
    versions: Mapping[str, str]
    unread: Mapping[str, str]


def write_manifest(folder: Path, rebuild: Mapping[str, Any] | None, unread: Mapping[str, str] | None = None) -> None:
    """Take stock of a folder: every file in it becomes part of the export.

    Args:
        folder: Of the export.
        rebuild: ``{class, args, reason}`` of a network that needs its own class, else None.
        unread: What to say of files that are for other loaders.
    """
    files: dict[str, dict[str, object]] = {}
    for path in sorted(folder.iterdir()):
        if path.name != MANIFEST:
            contents = path.read_bytes()
            files[path.name] = {"size": len(contents), "sha256": hashlib.sha256(contents).hexdigest()}
    data = {
        "schema": SCHEMA,
        "versions": versions(),
        "files": files,
        "rebuild": rebuild,
        "unread": dict(unread or {}),
    }
    (folder / MANIFEST).write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of an export; its files are not looked at yet.

    Raises:
        ExportError: If there is none, or it breaks a rule.
    """
    data = parsed(_contents(folder, MANIFEST, _LARGEST), MANIFEST, _LARGEST)
    if data.get("schema") != SCHEMA:
        raise ExportError(f"an export's schema must be {SCHEMA}, but is {data.get('schema')!r}: export it again")
    files, rebuild, made_with = data.get("files"), data.get("rebuild"), data.get("versions")
    unread = data.get("unread", {})
    if (
        set(data) - {"unread"} != {"schema", "versions", "files", "rebuild"}
        or not isinstance(unread, dict)
        or not all(isinstance(note, str) for note in unread.values())
        or not isinstance(files, dict)
        or not isinstance(made_with, dict)
        or not (rebuild is None or isinstance(rebuild, dict))
    ):
        raise ExportError(f"{MANIFEST} must hold schema, versions, files and rebuild, but does not: export it again")
    return Manifest({name: _entry(name, entry) for name, entry in files.items()}, rebuild, made_with, unread)


def verified(folder: Path, manifest: Manifest, wanted: tuple[str, ...]) -> dict[str, bytes]:
    """Check every file of an export against its manifest.

    Returns:
        The contents of the wanted files: the very bytes that were checked.

    Raises:
        ExportError: If a file is missing, no plain file, or not what was written.
    """
    missing = [name for name in wanted if name not in manifest.files]
    if missing:
        raise ExportError(f"an export must hold {missing[0]}, but its manifest does not list it: export it again")
    found: dict[str, bytes] = {}
    for name, (size, digest) in manifest.files.items():
        data = _contents(folder, name, size)
        if len(data) != size:
            raise ExportError(f"{name} must have {size} bytes, but has {len(data)}: copy the export again")
        if hashlib.sha256(data).hexdigest() != digest:
            raise ExportError(f"{name} is not what was exported, its sha256 differs: copy the export again")
        if name in wanted:
            found[name] = data
    return found


def versions() -> dict[str, str]:
    """What writes the export."""
    try:
        own = importlib.metadata.version("pleach")
    except importlib.metadata.PackageNotFoundError:
        own = "uninstalled"
    return {
        "pleach": own,
        "torch": torch.__version__,
        "safetensors": safetensors.__version__,
        "python": platform.python_version(),
    }


def _entry(name: str, entry: object) -> tuple[int, str]:
    if not _NAME.fullmatch(name) or name == MANIFEST:
        raise ExportError(f"an export's files lie in its folder, but its manifest lists {name[:60]!r}: do not trust it")
    if (
        not isinstance(entry, dict)
        or set(entry) != {"size", "sha256"}
        or type(entry["size"]) is not int
        or entry["size"] < 0
        or not isinstance(entry["sha256"], str)
        or not _DIGEST.fullmatch(entry["sha256"])
    ):
        raise ExportError(f"a manifest must give size and sha256 of {name}, but does not: export it again")
    return entry["size"], entry["sha256"]


def _contents(folder: Path, name: str, most: int) -> bytes:
    """At most one byte more than `most` of a plain file; neither links nor pipes nor devices are opened."""
    try:
        if not stat.S_ISREG(os.lstat(folder / name).st_mode):
            raise ExportError(f"{name} must be a plain file, but is none: copy the export again, without links")
        descriptor = os.open(folder / name, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            # What the manifest claims is no reason to set memory aside: what is there decides.
            return file.read(min(most, os.fstat(descriptor).st_size) + 1)
    except FileNotFoundError:
        raise ExportError(
            f"{folder} must hold {name}, but does not: name a folder that `pleach export` wrote"
        ) from None
    except OSError as error:
        raise ExportError(f"{folder / name} cannot be read ({error.strerror}): check the path") from error
