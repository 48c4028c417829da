"""A finished network as a folder that stands alone, and the way back.

`export` writes the folder beside its place and moves it there when it is whole. `load` checks every file before it
reads one, unpickles nothing and imports nothing that a file names.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from objectives.task import Task
from search.artifact.card import card
from search.artifact.described import described
from search.artifact.manifest import read_manifest, verified, write_manifest
from search.artifact.network import ARCHITECTURE, WEIGHTS, assembled, read_network, save_network
from search.artifact.parity import compared, outputs_in_fresh_process, outputs_of
from search.artifact.place import draft
from search.formats.written import NOTES, write_formats
from search.machine import hardware
from search.result import TaskReference
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
    with draft(out, overwrite=overwrite) as folder:
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


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if math.isfinite(value)}
