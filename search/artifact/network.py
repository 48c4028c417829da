"""One network in one folder: what it is as JSON, its tensors as safetensors. Nothing is pickled, nothing imported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, fx, nn

from search.architecture import SCHEMA, build_architecture, write_architecture
from search.artifact.modules import describe_modules, replace_modules
from search.artifact.tensors import describe_tensors, fill, tensors, tie, ties
from search.surgery.graph import class_of, trace
from spaces.errors import ExportError, StorageError, TraceError

ARCHITECTURE = "architecture.json"
WEIGHTS = "model.safetensors"
#: The name of the weights among a trial's checkpoints.
FINAL = "final.safetensors"
#: A network of a thousand layers takes some 3 MB.
_LARGEST = 32 * 2**20


def save_network(
    folder: Path, network: nn.Module, example_inputs: tuple[Tensor, ...], *, weights: str = FINAL
) -> dict[str, Any]:
    """Write a network as ``architecture.json`` and its weights; the weights come last and mark the pair as whole.

    A network that torch.fx cannot trace, or that calls what a file must not name, is written without its graph: its
    architecture then says under ``rebuild`` which class must be given to read it.

    Args:
        folder: Must exist.
        network: The finalized network; traced here unless it is a traced one.
        example_inputs: ``network(*example_inputs)`` runs.
        weights: File name of the weights.

    Returns:
        The architecture.

    Raises:
        ExportError: If its tensors cannot be stored.
        StorageError: If the files cannot be written.
    """
    data, described = _described(network, example_inputs)
    values = _values(described)
    try:
        for name in (ARCHITECTURE, weights):
            partial = folder / f".{name}.partial"
            if name == ARCHITECTURE:
                partial.write_text(json.dumps(data), encoding="utf-8")
            else:
                save_file(values, partial, metadata={"format": "pt"})
            partial.replace(folder / name)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"the network cannot be written to {folder} ({error}): make room or choose a folder"
        ) from error
    return data


def read_network(folder: Path, network: nn.Module | None = None, *, weights: str = FINAL) -> nn.Module:
    """Read what `save_network` wrote, in evaluation mode, on the CPU.

    Args:
        folder: Holds ``architecture.json`` and the weights.
        network: Of the class that the architecture names; only for a network that was written without its graph. It is
            edited in place and returned.
        weights: File name of the weights.

    Raises:
        ExportError: If the files are no network, or `network` is missing or not asked for.
        StorageError: If they cannot be read.
    """
    try:
        text, data = (folder / ARCHITECTURE).read_bytes(), (folder / weights).read_bytes()
    except OSError as error:
        raise StorageError(
            f"the network in {folder} cannot be read ({error.strerror}): let the trial finish"
        ) from error
    return assembled(text, data, network)


def assembled(architecture: bytes, weights: bytes, network: nn.Module | None = None) -> nn.Module:
    """The network that two files hold; see `read_network`."""
    data = parsed(architecture, ARCHITECTURE, _LARGEST)
    try:
        values = load(weights)
    # The parser of safetensors leaves its errors as they come.
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ExportError(f"{WEIGHTS} must be safetensors, but does not parse ({error}): export it again") from error
    if "rebuild" in data:
        return _rebuilt(data, values, network)
    if network is not None:
        raise ExportError("this network is stored with its graph and needs no class: leave network= out")
    built = build_architecture(data)
    fill(built, values)
    return built


def parsed(text: bytes, name: str, largest: int) -> dict[str, Any]:
    """A JSON object from a file that is trusted in nothing.

    Raises:
        ExportError: If it is none, or larger than it may be.
    """
    if len(text) > largest:
        raise ExportError(f"{name} may have {largest} bytes, but has {len(text)}: do not trust this export")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{name} must be JSON, but does not parse ({error}): export it again") from error
    if not isinstance(data, dict):
        raise ExportError(f"{name} must be a JSON object, but is none: export it again")
    return data


def _described(network: nn.Module, example_inputs: tuple[Tensor, ...]) -> tuple[dict[str, Any], nn.Module]:
    """The architecture, and the network that it describes: the traced one where there is one."""
    try:
        traced = network if isinstance(network, fx.GraphModule) else trace(network, example_inputs)
        return write_architecture(traced), traced
    except (TraceError, ExportError) as error:
        data = {
            "schema": SCHEMA,
            "rebuild": {"class": class_of(network), "args": {}, "reason": str(error)},
            "modules": describe_modules(network),
            "tensors": describe_tensors(network),
            "ties": ties(network),
        }
        return data, network


def _values(network: nn.Module) -> dict[str, Tensor]:
    """Every tensor under its first name, each with memory of its own: safetensors holds no views."""
    tied, values, memories = ties(network), dict[str, Tensor](), set[int]()
    for name, tensor in tensors(network).items():
        if name not in tied:
            value = tensor.detach().cpu().contiguous()
            storage = value.untyped_storage()
            whole = storage.nbytes() == value.numel() * value.element_size()
            values[name] = value if whole and storage.data_ptr() not in memories else value.clone()
            memories.add(storage.data_ptr())
    return values


def _rebuilt(data: Mapping[str, Any], values: Mapping[str, Tensor], network: nn.Module | None) -> nn.Module:
    rebuild = data["rebuild"]
    if (
        not isinstance(rebuild, dict)
        or not isinstance(data.get("modules"), dict)
        or not isinstance(data.get("ties"), dict)
    ):
        raise ExportError(
            "an architecture to rebuild must hold rebuild, modules and ties, but does not: export it again"
        )
    if network is None:
        raise ExportError(
            f"this network needs its own class, for it is stored without its graph ({rebuild.get('reason')}): "
            f"pass network=, a {rebuild.get('class')}"
        )
    replace_modules(network, data["modules"])
    tie(network, data["ties"])
    fill(network, values)
    return network.eval()
