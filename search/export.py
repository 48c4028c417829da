"""A finished network as a folder that stands alone, and the way back.

`export` writes the folder beside its place and moves it there when it is whole. `load` checks every file before it
reads one, unpickles nothing and imports nothing that a file names.
"""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from objectives.task import Task
from search.artifact.card import card
from search.artifact.described import described
from search.artifact.manifest import MANIFEST, read_manifest, verified, write_manifest
from search.artifact.network import ARCHITECTURE, WEIGHTS, assembled, read_network, save_network
from search.artifact.parity import compared, outputs_in_fresh_process, outputs_of
from search.formats.written import NOTES, write_formats
from search.machine import hardware
from search.result import TaskReference
from spaces.errors import ExportError, StorageError
from spaces.ledger import Ledger
from spaces.profile import CompressionProfile
from spaces.search_policy import SearchPolicy

__all__ = ["export", "load", "read_network", "save_network"]


def export(
    out: str | Path,
    *,
    network: nn.Module,
    example_inputs: tuple[Tensor, ...],
    profile: CompressionProfile,
    metrics: Mapping[str, float],
    baseline: Mapping[str, float],
    search_policy: SearchPolicy | None = None,
    task: TaskReference | None = None,
    ledger: Ledger | None = None,
    title: str = "",
    overwrite: bool = False,
    original: nn.Module | None = None,
    formats: Sequence[str] = (),
    data: Task | None = None,
    timed: float = 0.0,
) -> Path:
    """Write a network and all that is known of it into a new folder.

    Args:
        out: The folder; it must not exist, or be empty.
        network: The finalized network, on the CPU, e.g. from `read_network`.
        example_inputs: ``network(*example_inputs)`` runs; its outputs are compared with the reloaded network's.
        profile: What was done to it.
        metrics: Its figures by objective.
        baseline: The same of the network before compression.
        search_policy: What the search learnt.
        task: Where the network comes from; the card names it.
        ledger: What was switched on and off.
        title: Of the card; left out: the name of the folder.
        overwrite: Replace an earlier export in `out`; never anything else.
        original: The network before compression: its graph, without weights, goes along for `pleach bench`.
        formats: Further formats, of :data:`search.formats.written.FILES`; what cannot be written is left out, and
            ``parity.json`` says why.
        data: The task itself; its validation inputs calibrate int8.
        timed: Seconds for which the network is timed beside the original per runtime and batch; 0 times nothing.

    Returns:
        The folder.

    Raises:
        ExportError: If `out` is taken, the network cannot be stored, or the reloaded one computes something else.
        StorageError: If the folder cannot be written.
    """
    out = Path(out).absolute()
    _check_place(out, overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    except OSError as error:
        raise StorageError(f"{out} cannot be written ({error.strerror}): choose a folder that can") from error
    try:
        stored = save_network(folder, network, example_inputs, weights=WEIGHTS)
        rebuild = stored.get("rebuild")
        _write_json(folder / "profile.json", profile.to_dict())
        if search_policy is not None:
            _write_json(folder / "search_policy.json", search_policy.to_dict())
        if ledger is not None:
            _write_json(folder / "ledger.json", ledger.to_dict())
        figures = {"baseline": _finite(baseline), "compressed": _finite(metrics), "hardware": hardware()}
        if task is not None:
            figures["task"] = task.target
        write_manifest(folder, rebuild)
        parity = _parity(folder, network, example_inputs, rebuild)
        made = write_formats(folder, network, example_inputs, formats, data)
        parity |= {"formats": made.parity, "left_out": made.left_out}
        execution = described(folder, network, original, example_inputs, made, seconds=timed)
        figures |= {"timings": execution.pop("timings", None)} if timed else {}
        _write_json(folder / "metrics.json", figures)
        _write_json(folder / "parity.json", parity)
        _write_json(folder / "execution.json", execution)
        names = [*(path.name for path in folder.iterdir()), "README.md"]
        text = card(title or out.name, profile, figures, ledger, parity, rebuild, tuple(sorted(names)), execution)
        (folder / "README.md").write_text(text, encoding="utf-8")
        write_manifest(folder, rebuild, {name: note for name, note in NOTES.items() if name in made.contents})
        _settle(folder, out)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"{out} cannot be written ({error.strerror or error}): make room or choose a folder"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return out


def load(folder: str | Path, network: nn.Module | None = None) -> nn.Module:
    """The network of an export, in evaluation mode, on the CPU.

    Args:
        folder: What `export` wrote. Trusted in nothing: every file is checked against the manifest first.
        network: Of the class that the manifest names under ``rebuild``; only for a network that was stored without its
            graph. It is edited in place and returned.

    Raises:
        ExportError: If the folder is no whole export, or `network` is missing or not asked for.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    contents = verified(folder, manifest, (ARCHITECTURE, WEIGHTS))
    return assembled(contents[ARCHITECTURE], contents[WEIGHTS], network)


def _parity(
    folder: Path, network: nn.Module, inputs: Sequence[Tensor], rebuild: Mapping[str, Any] | None
) -> dict[str, Any]:
    expected = outputs_of(network, inputs)
    if rebuild is None:
        return {**compared(expected, outputs_in_fresh_process(folder, inputs)), "process": "a fresh process"}
    # No other process has the network's class: what can be checked is that the files hold its weights.
    twin = load(folder, copy.deepcopy(network))
    return {**compared(expected, outputs_of(twin, inputs)), "process": "the same process"}


def _check_place(out: Path, overwrite: bool) -> None:
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
        earlier = out.with_name(f"{folder.name}.earlier")
        out.rename(earlier)
    try:
        folder.rename(out)
    except OSError:
        if earlier is not None:
            earlier.rename(out)
        raise
    if earlier is not None:
        shutil.rmtree(earlier, ignore_errors=True)


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if math.isfinite(value)}
