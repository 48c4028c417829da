"""Whether an export computes what the network in memory computes: a fresh process, with only the files, is asked."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from objectives.mode import evaluating
from spaces.errors import ExportError

INPUTS = "inputs.safetensors"
OUTPUTS = "outputs.safetensors"
#: Of the largest output: what another order of sums may change, and far below what a wrong weight does.
TOLERANCE = 1e-4
_SECONDS = 300
_PACKAGES = Path(__file__).parents[2]


def outputs_of(network: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Every tensor that a network returns in evaluation mode, in order."""
    with evaluating(network):
        leaves = pytree.tree_leaves(network(*(x.clone() for x in inputs)))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def outputs_in_fresh_process(folder: Path, inputs: Sequence[Tensor]) -> list[Tensor]:
    """What an export computes in a process that has neither the network nor the task's code.

    Raises:
        ExportError: If it cannot be loaded or run there.
    """
    with tempfile.TemporaryDirectory(prefix="pleach-parity-") as exchange:
        save_file(
            {str(i): x.detach().cpu().contiguous().clone() for i, x in enumerate(inputs)}, Path(exchange) / INPUTS
        )
        paths = [str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
        command = [sys.executable, "-P", "-m", "search.artifact.reload", str(folder.absolute()), exchange]
        try:
            done = subprocess.run(
                [*command, str(torch.get_num_threads())],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                cwd=exchange,
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ExportError(f"the export must run in a fresh process within {_SECONDS} s, but did not") from None
        if done.returncode != 0:
            said = next(reversed(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
            raise ExportError(f"the export must load in a fresh process, but does not: {said}")
        stored = load_file(Path(exchange) / OUTPUTS)
        return [stored[str(i)].clone() for i in range(len(stored))]


def compared(expected: Sequence[Tensor], found: Sequence[Tensor], tolerance: float = TOLERANCE) -> dict[str, Any]:
    """The largest difference between outputs, as ``parity.json`` holds it.

    Args:
        expected: What is given in memory.
        found: What is given elsewhere.
        tolerance: What they may differ by, as a share of the largest output or, where all are below 1, of 1.

    Raises:
        ExportError: If they are not the same outputs within rounding.
    """
    if [(x.shape, x.dtype) for x in expected] != [(x.shape, x.dtype) for x in found]:
        raise ExportError("the reloaded network must have the outputs of the one in memory, but has others")
    difference = largest = 0.0
    for ours, theirs in zip(expected, found, strict=True):
        if ours.numel():
            a, b = ours.detach().cpu().double(), theirs.double()
            # Infinities and NaN in the same places are no difference.
            apart = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs())
            difference = max(difference, float(apart.nan_to_num(torch.inf).max()))
            largest = max(largest, float(a[a.isfinite()].abs().max()) if a.isfinite().any() else 0.0)
    if difference > tolerance * max(1.0, largest):
        raise ExportError(f"the reloaded network must compute the same, but its outputs differ by {difference:.3g}")
    return {"max_abs_difference": difference, "max_abs_output": largest, "threads": torch.get_num_threads()}
