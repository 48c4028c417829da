"""An export's further formats: each written, read back, and compared with the network in memory.

A format that this network or this machine cannot do is left out with its reason; it does not spoil the export.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from objectives.task import Task
from search.artifact.parity import TOLERANCE, compared, outputs_of
from search.formats.int8_file import LOSS, scores, to_int8
from search.formats.lowered import lowered, rounds
from search.formats.onnx_file import Session, missing, to_onnx
from search.formats.pt2_file import outputs_of_pt2, to_pt2
from search.latency.batching import batch_of
from spaces.errors import ExportError

ONNX, INT8, PT2 = "model.onnx", "model.int8.onnx", "model.pt2"
#: By the name that ``--format`` takes.
FILES: Mapping[str, str] = {"onnx": ONNX, "int8": INT8, "pt2": PT2}
#: Files that are for other loaders; Pleach's own checks their sums and reads none of them.
NOTES: Mapping[str, str] = {
    ONNX: "for onnxruntime and other ONNX runtimes",
    INT8: "for onnxruntime and other ONNX runtimes",
    PT2: "for torch.export.load, whose archive may hold pickles: open it only where this folder comes from a friend",
}
#: What outputs may differ by where layers round their inputs: a difference in the last digit may round to another code.
ROUNDED = 0.05
#: Another batch than the example's, to see that the batch is open.
_OTHER_BATCH = 5


@dataclass
class Formats:
    """What was written.

    Args:
        parity: Per file: how far its outputs are from those in memory, and on which batches that was looked at.
        left_out: Per file: why it is not there.
        contents: The files.
    """

    parity: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)


def write_formats(
    folder: Path, network: nn.Module, inputs: tuple[Tensor, ...], names: Sequence[str], task: Task | None = None
) -> Formats:
    """Write the named formats of a network into a folder.

    Args:
        folder: Must exist.
        network: The finalized network, on the CPU.
        inputs: ``network(*inputs)`` runs.
        names: Of `FILES`.
        task: Calibrates int8 and measures its accuracy.

    Raises:
        ExportError: If a name is unknown, or a format computes something else than the network.
    """
    made = Formats()
    makers: Mapping[str, Callable[[], None]] = {
        "onnx": lambda: _onnx(made, network, inputs),
        "pt2": lambda: _pt2(made, network, inputs),
        "int8": lambda: _int8(made, network, inputs, task),
    }
    unknown = [name for name in names if name not in makers]
    if unknown:
        raise ExportError(f"there is no format {unknown[0]!r}: use {', '.join(makers)}")
    for name in sorted(names, key=list(makers).index):
        makers[name]()
    for file, data in made.contents.items():
        (folder / file).write_bytes(data)
    return made


def onnx_forms(network: nn.Module, inputs: tuple[Tensor, ...], task: Task) -> dict[str, bytes]:
    """The ONNX files that an export of a network of few bits holds: in floats, and in int8 where that is as accurate.

    Args:
        network: The finalized network, on the CPU.
        inputs: ``network(*inputs)`` runs.
        task: Calibrates int8 and measures its accuracy.

    Raises:
        ExportError: If there is no such form, or it computes something else than the network.
    """
    made = Formats()
    _int8(made, network, inputs, task)
    if ONNX not in made.contents:
        raise ExportError(made.left_out[INT8])
    return made.contents


def _onnx(made: Formats, network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    try:
        data = to_onnx(network, inputs)
    except ExportError as error:
        made.left_out[ONNX] = str(error)
        return
    session = Session(data)
    made.parity[ONNX] = _parity(session, network, inputs, open_batch=session.batch is None)
    made.contents[ONNX] = data


def _pt2(made: Formats, network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    try:
        data = to_pt2(network, inputs)
    except ExportError as error:
        made.left_out[PT2] = str(error)
        return

    def run(*values: Tensor) -> list[Tensor]:
        leaves = pytree.tree_leaves(outputs_of_pt2(data, values))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    made.parity[PT2] = _parity(run, network, inputs, open_batch=False)
    made.contents[PT2] = data


def _int8(made: Formats, network: nn.Module, inputs: tuple[Tensor, ...], task: Task | None) -> None:
    if task is None or missing():
        made.left_out[INT8] = missing() or "int8 needs the task's inputs for calibration, but there is no task"
        return
    if ONNX not in made.contents:
        _onnx(made, network, inputs)
    if ONNX not in made.contents:
        made.left_out[INT8] = made.left_out[ONNX]
        return
    plain = lowered(network, rounding=False)
    try:
        source = made.contents[ONNX] if plain is network else to_onnx(plain, inputs)
        for everything in (True, False):
            data = to_int8(source, task, everything=everything)
            (before, after), count = scores([Session(made.contents[ONNX]), Session(data)], task)
            if after >= before - LOSS:
                made.parity[INT8] = {"accuracy": after, "accuracy_float": before, "samples": count}
                made.contents[INT8] = data
                return
    except ExportError as error:
        made.left_out[INT8] = str(error)
        return
    made.left_out[INT8] = (
        f"int8 may cost {100 * LOSS:g} points of accuracy, but costs {100 * (before - after):.2f} on {count} samples"
    )


def _parity(
    run: Callable[..., list[Tensor]], network: nn.Module, inputs: tuple[Tensor, ...], *, open_batch: bool
) -> dict[str, Any]:
    sizes = [next((x.shape[0] for x in inputs if x.dim()), 1)] + ([_OTHER_BATCH] if open_batch else [])
    difference = largest = 0.0
    for size in sizes:
        values = batch_of(inputs, size)
        with torch.no_grad():
            found = run(*values)
        beside = [x.to(y.dtype) for x, y in _beside(found, network, values)]
        figures = compared(outputs_of(network, values), beside, ROUNDED if rounds(network) else TOLERANCE)
        difference = max(difference, figures["max_abs_difference"])
        largest = max(largest, figures["max_abs_output"])
    return {"max_abs_difference": difference, "max_abs_output": largest, "batches": sizes}


def _beside(found: Sequence[Tensor], network: nn.Module, values: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor]]:
    """Outputs with those in memory, whose types a runtime may widen; too few or too many are left to the comparison."""
    expected = outputs_of(network, values)
    return list(zip(found, expected, strict=False)) if len(found) == len(expected) else [(x, x) for x in found]
