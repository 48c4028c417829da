"""Channels of networks that have no graph, by torch-pruning's dependency graph, which walks what autograd recorded."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from objectives.maskable import maskable
from search.surgery.channel import Channel, ChannelGroup
from search.surgery.closing import Index
from search.surgery.units import sealed, tied

_CONNECTED = (nn.modules.conv._ConvNd, nn.Linear)
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


def dependent(network: nn.Module, example_inputs: tuple[Tensor, ...]) -> list[ChannelGroup]:
    """The groups that torch-pruning finds, in the order of the network; none where it cannot walk the network."""
    training = network.training
    try:
        graph = _dependencies(network.eval(), example_inputs)
        return _groups(network, graph)
    except Exception:  # the graph walks autograd internals; what it cannot walk has no removable channels
        return []
    finally:
        network.train(training)


def remove_dependent(network: nn.Module, channels: Sequence[Channel], example_inputs: tuple[Tensor, ...]) -> None:
    """Take channels out of a network, in place, with all that depends on them."""
    by_root: dict[str, list[int]] = {}
    for channel in channels:
        by_root.setdefault(channel.root, []).append(channel.index)
    graph = _dependencies(network, example_inputs)
    for root, indices in by_root.items():
        module = network.get_submodule(root.rpartition(".")[0])
        prune = graph.get_pruner_of_module(module).prune_out_channels
        graph.get_pruning_group(module, prune, sorted(indices)).prune(record_history=False)


def _dependencies(network: nn.Module, example_inputs: tuple[Tensor, ...]) -> Any:
    device = next(network.parameters()).device
    frozen = [parameter for parameter in network.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # torch-pruning warns of every parameter outside of a module it knows
            graph = torch_pruning.DependencyGraph()
            inputs = tuple(x.to(device) for x in example_inputs)
            return graph.build_dependency(network, example_inputs=inputs, verbose=False)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _groups(network: nn.Module, graph: Any) -> list[ChannelGroup]:
    names = {id(module): name for name, module in network.named_modules()}
    known, shared = list(maskable(network)), tied(network)
    # Stacks of torch's transformer layers can be stored only where all layers are alike.
    stacks = sealed(network, (nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder))
    found: list[ChannelGroup] = []
    visited: set[str] = set()
    for root in known:
        module = network.get_submodule(root.rpartition(".")[0])
        if (
            root in visited
            or root.rpartition(".")[0] in stacks
            or not isinstance(module, _CONNECTED)
            or module not in graph.module2node
        ):
            continue
        pruner = graph.get_pruner_of_module(module)
        width = pruner.get_out_channels(module)
        group = graph.get_pruning_group(module, pruner.prune_out_channels, list(range(width)))
        channels = _channels(root, group, graph, names, set(known) - shared)
        if channels:
            visited |= {name for name, _ in channels[0].produced}
            if len(channels) > 1:
                found.append(ChannelGroup(root, channels))
    return found


@dataclass(frozen=True)
class _Part:
    """One parameter's share in a group: which of its positions along a dimension belong to which root channel."""

    kind: str
    name: str
    dim: int
    rows: int
    positions: Mapping[int, Sequence[int]]

    def of(self, channel: int) -> tuple[str, Index]:
        positions = torch.tensor(self.positions[channel], dtype=torch.int64)
        return self.name, ((positions,) if self.dim == 0 else (torch.arange(self.rows), positions))


def _channels(
    root: str, group: Any, graph: Any, names: Mapping[int, str], known: set[str]
) -> tuple[Channel, ...] | None:
    """The channels of one of torch-pruning's groups; None where it holds a layer that cannot be masked by channel."""
    parts: list[_Part] = []
    for item in group:
        module, name = item.dep.target.module, names.get(id(item.dep.target.module), "")
        positions: dict[int, list[int]] = {}
        for position, origin in zip(item.idxs, item.root_idxs, strict=True):
            positions.setdefault(origin, []).append(position)
        if isinstance(module, _CONNECTED) and f"{name}.weight" in known:
            depthwise = getattr(module, "groups", 1) == module.weight.shape[0] > 1
            if getattr(module, "groups", 1) > 1 and not depthwise:
                return None
            reads = item.dep.handler == graph.get_pruner_of_module(module).prune_in_channels and not depthwise
            dim = int(reads != getattr(module, "transposed", False))
            if max(item.idxs) >= module.weight.shape[dim]:
                return None
            kind = "consumed" if reads else "produced"
            parts.append(_Part(kind, f"{name}.weight", dim, module.weight.shape[0], positions))
            if not reads and module.bias is not None:
                parts.append(_Part("held", f"{name}.bias", 0, 0, positions))
        elif isinstance(module, _NORMS):
            affine = [p for p in ("weight", "bias") if getattr(module, p, None) is not None]
            if not affine or max(item.idxs) >= len(getattr(module, affine[0])):
                return None
            parts += [_Part("held", f"{name}.{p}", 0, 0, positions) for p in affine]
        elif not isinstance(module, nn.Module) or any(True for _ in module.parameters()):
            return None
    width = len(group[0].idxs)
    counts = [{len(part.positions.get(i, ())) for i in range(width)} for part in parts]
    if any(len(count) > 1 or 0 in count for count in counts):
        return None
    return tuple(
        Channel(root, i, _of(parts, "produced", i), _of(parts, "consumed", i), _of(parts, "held", i), "dependency")
        for i in range(width)
    )


def _of(parts: Sequence[_Part], kind: str, channel: int) -> tuple[tuple[str, Index], ...]:
    return tuple(part.of(channel) for part in parts if part.kind == kind)
