"""The tensors of a network by name: what they are, which of them are one under two names, and how they are put in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from search.artifact.encoding import dtype_name, dtype_named
from search.artifact.names import container, split
from spaces.errors import ExportError

_KINDS = ("parameter", "buffer", "constant")
_DIMENSIONS = 10
#: No tensor of any network comes near; products beyond it overflow.
_ELEMENTS = 2**44


def tensors(network: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by qualified name, those included that are no state and those that are tied."""
    return {
        **dict(network.named_parameters(remove_duplicate=False)),
        **dict(network.named_buffers(remove_duplicate=False)),
    }


def ties(network: nn.Module) -> dict[str, str]:
    """The tensors that are one under several names: each further name with the first."""
    first: dict[int, str] = {}
    found = ((name, first.setdefault(id(tensor), name)) for name, tensor in tensors(network).items())
    return {name: original for name, original in found if name != original}


def describe_tensors(network: nn.Module) -> dict[str, dict[str, Any]]:
    """Shape, type and kind of every tensor, JSON-able.

    Kinds are ``parameter``, ``buffer`` and ``constant``, a buffer that is no state. ``grad`` says whether a parameter
    is trained.

    Raises:
        ExportError: If a tensor is sparse, quantized or of an exotic type.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors(network).items():
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise ExportError(f"stored tensors must be dense, but {name} is {tensor.layout}: make it dense")
        owner, _, attribute = name.rpartition(".")
        if isinstance(tensor, nn.Parameter):
            kind = "parameter"
        else:
            passing = attribute in network.get_submodule(owner)._non_persistent_buffers_set
            kind = "constant" if passing else "buffer"
        found[name] = {"shape": list(tensor.shape), "dtype": dtype_name(tensor.dtype), "kind": kind}
        if kind == "parameter":
            found[name]["grad"] = tensor.requires_grad
    return found


def declare_tensors(root: nn.Module, described: object, tied: object) -> None:
    """Make the tensors of a network on the meta device as they are described.

    Args:
        root: Holds the leaf modules already; their tensors must be as described, others are registered.
        described: What `describe_tensors` gave, from JSON, trusted in nothing.
        tied: What `ties` gave.

    Raises:
        ExportError: If the description breaks a rule or does not fit the modules.
    """
    if not isinstance(described, dict) or not isinstance(tied, dict):
        raise ExportError("an architecture's tensors and ties must be objects, but are not: export it again")
    for name, data in described.items():
        shape, dtype, kind, grad = _checked(name, data)
        path, attribute = split(name)
        owner = container(root, path, name)
        own = owner._parameters.get(attribute, owner._buffers.get(attribute))
        if own is not None and (own.shape != shape or isinstance(own, nn.Parameter) != (kind == "parameter")):
            raise ExportError(
                f"the tensor {name} must have the shape {tuple(own.shape)} that its module gives it, but is stored as "
                f"{kind} of {tuple(shape)}: export it again"
            )
        if own is None and type(owner) is not nn.Module:
            raise ExportError(f"the tensor {name} must be one of its module's, but is none: do not trust this file")
        _put(owner, attribute, torch.empty(shape, dtype=dtype, device="meta"), kind, grad, name)
    present = tensors(root)
    if set(present) != set(described):
        missing = ", ".join(sorted(set(present) - set(described))[:3])
        raise ExportError(f"every tensor of a stored network must be described, but {missing} is not: export it again")
    tie(root, tied)


def tie(network: nn.Module, tied: Mapping[str, object]) -> None:
    """Make tensors one.

    Args:
        network: Edited in place.
        tied: What `ties` gave, from JSON, trusted in nothing.

    Raises:
        ExportError: If two of them cannot be one.
    """
    present = tensors(network)
    for name, original in tied.items():
        ours, theirs = present.get(name), present.get(original) if isinstance(original, str) else None
        if ours is None or theirs is None or original in tied or not _alike(ours, theirs):
            raise ExportError(
                f"tied tensors must be alike, but {name[:80]} is not as what it is tied to: export it again"
            )
        owner, _, attribute = name.rpartition(".")
        setattr(network.get_submodule(owner), attribute, theirs)


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and isinstance(a, nn.Parameter) == isinstance(b, nn.Parameter)


def fill(network: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Put tensors into a network as they are, without a copy.

    Args:
        network: From `declare_tensors`, or any whose tensors have the names; tied ones stay tied.
        values: By one name of each tensor.

    Raises:
        ExportError: If one is missing, too many, or of another shape or type.
    """
    present, tied = tensors(network), ties(network)
    groups: dict[str, list[str]] = {}
    for name in present:
        groups.setdefault(tied.get(name, name), []).append(name)
    # Which name of a tensor comes first depends on the order of the modules, which need not be that of the writer.
    stored = {first: next((name for name in names if name in values), first) for first, names in groups.items()}
    expected = {stored[first]: present[first] for first in groups}
    for name in [*expected, *values]:
        if name not in values or name not in expected:
            state = "is missing" if name in expected else "belongs to no layer"
            raise ExportError(f"the weights must be those of the architecture, but {name} {state}: export it again")
        if values[name].shape != expected[name].shape or values[name].dtype != expected[name].dtype:
            raise ExportError(
                f"the weights must be those of the architecture, but {name} is {_kind(values[name])} and must be "
                f"{_kind(expected[name])}: export it again"
            )
    for first, names in groups.items():
        value, before = values[stored[first]], present[first]
        made = nn.Parameter(value, before.requires_grad) if isinstance(before, nn.Parameter) else value
        for name in names:
            owner, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(owner), attribute, made)


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"


def _checked(name: str, data: object) -> tuple[torch.Size, torch.dtype, str, bool]:
    broken = ExportError(f"a stored tensor must be {{shape, dtype, kind}}, but {name[:80]} is not: export it again")
    if not isinstance(data, dict) or data.get("kind") not in _KINDS:
        raise broken
    wanted = {"shape", "dtype", "kind", "grad"} if data["kind"] == "parameter" else {"shape", "dtype", "kind"}
    shape = data.get("shape")
    if set(data) != wanted or not isinstance(shape, list) or len(shape) > _DIMENSIONS:
        raise broken
    if not all(type(size) is int and size >= 0 for size in shape):
        raise broken
    if math.prod(shape) > _ELEMENTS:
        raise ExportError(
            f"a stored tensor may have {_ELEMENTS} entries, but {name[:80]} has more: do not trust this file"
        )
    dtype, grad = dtype_named(data["dtype"]), data.get("grad", False)
    if type(grad) is not bool or (grad and not (dtype.is_floating_point or dtype.is_complex)):
        raise broken
    return torch.Size(shape), dtype, data["kind"], grad


def _put(owner: nn.Module, attribute: str, tensor: Tensor, kind: str, grad: bool, name: str) -> None:
    present = attribute in owner._parameters or attribute in owner._buffers
    if kind == "parameter":
        value = nn.Parameter(tensor, requires_grad=grad)
        if present:
            setattr(owner, attribute, value)
            return
    elif present:
        setattr(owner, attribute, tensor)
        return
    try:
        if kind == "parameter":
            owner.register_parameter(attribute, value)
        else:
            owner.register_buffer(attribute, tensor, persistent=kind == "buffer")
    except KeyError as error:
        raise ExportError(f"a tensor cannot be called {name}, which the module keeps for itself: rename it") from error
