"""Exports for tests: made, read, broken and signed again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from search.export import export, load
from search.result import TaskReference
from spaces.errors import ExportError
from spaces.ledger import Event, Ledger
from spaces.profile import CompressionProfile
from spaces.pruning import PruningPolicy
from spaces.search_policy import SearchPolicy
from tests.search.zoo import bred

PROFILE = CompressionProfile.of(PruningPolicy(sparsity=0.75))
LEDGER = Ledger((Event(0, "conv.weight", "pruning", "magnitude", 3, 10),), {"conv.weight": 100})


def exported(out: Path, network: nn.Module, inputs: tuple[Tensor, ...], **more: Any) -> Path:
    figures = {"accuracy": 0.875, "macs": 30_000.0, "latency_ms": float("nan")}
    more = {"profile": PROFILE, "metrics": figures, "baseline": {"accuracy": 0.9, "macs": 60_000.0}, **more}
    return export(out, network=network, example_inputs=inputs, **more)


def outputs(network: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        result: Tensor = network(*inputs)
    return result


def letters(folder: Path) -> Path:
    """A whole export of a network whose weights are tied, with everything that an export can hold."""
    network, inputs = bred("tied_weights")
    more = {
        "ledger": LEDGER,
        "search_policy": SearchPolicy("space"),
        "task": TaskReference("digits"),
        "title": "Letters",
    }
    return exported(folder / "letters", network, inputs, **more)


def signed(folder: Path) -> None:
    """Make the manifest right for whatever the folder holds: what an attacker would do as well."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        data = (folder / name).read_bytes()
        manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def refusal(folder: Path, network: nn.Module | None = None) -> str:
    """The one line in which a folder is refused."""
    with pytest.raises(ExportError) as caught:
        load(folder, network)
    assert "\n" not in str(caught.value)
    return str(caught.value)
