"""Channels that can go: which entries of which weights belong to one channel, and how channels are removed for real.

The coupling is torch-pruning's dependency graph. It does not see everything (a parameter-free shortcut that pads
channels, a view with a fixed width), so no group is trusted: of each, one channel is masked in one copy and removed in
another, and where the two outputs differ the group is not offered. Masking therefore always equals removal.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn import functional as F

from objectives.maskable import maskable
from search.surgery.connectivity import Connectivity, Index
from search.surgery.edges import HOLDER

_CONNECTED = (nn.modules.conv._ConvNd, nn.Linear)
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


@dataclass(frozen=True, eq=False)
class Channel:
    """One channel of one group.

    Args:
        root: Name of the weight whose output it is.
        index: Its position in that weight's dimension 0.
        produced: Entries of the weights that compute it.
        consumed: Entries of the weights that read it.
        held: Entries of biases and norms that would give it a value of its own.
    """

    root: str
    index: int
    produced: tuple[tuple[str, Index], ...]
    consumed: tuple[tuple[str, Index], ...]
    held: tuple[tuple[str, Index], ...]

    @property
    def key(self) -> tuple[str, int]:
        """What names it: the root and the index."""
        return (self.root, self.index)


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that live and die in the same layers."""

    root: str
    channels: tuple[Channel, ...]

    @property
    def size(self) -> int:
        """How many channels there are."""
        return len(self.channels)

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the weights that compute or read these channels."""
        first = self.channels[0]
        return tuple(dict.fromkeys(name for name, _ in (*first.produced, *first.consumed)))


def groups(network: nn.Module, example_inputs: tuple[Tensor, ...]) -> tuple[ChannelGroup, ...]:
    """The groups of which channels can be removed, in the order of the network; verified one by one.

    Which they are depends on the architecture alone, so the verdict is remembered for it.
    """
    key = _architecture(network, example_inputs)
    candidates = _candidates(network, example_inputs)
    if key not in _VERIFIED:
        together = [group.channels[-1] for group in candidates]
        if _removal_equals_masking(network, together, example_inputs):
            _VERIFIED[key] = frozenset(group.root for group in candidates)
        else:
            _VERIFIED[key] = frozenset(
                group.root
                for group in candidates
                if _removal_equals_masking(network, [group.channels[-1]], example_inputs)
            )
    return tuple(group for group in candidates if group.root in _VERIFIED[key])


def remove(network: nn.Module, channels: Iterable[Channel], example_inputs: tuple[Tensor, ...]) -> None:
    """Take channels out of the network in place: its layers become smaller.

    Args:
        network: Not one that is still being trained.
        channels: Which ones; of each group at least one must stay.
        example_inputs: ``network(*example_inputs)`` runs.
    """
    by_root: dict[str, list[int]] = {}
    for channel in channels:
        by_root.setdefault(channel.root, []).append(channel.index)
    if not by_root:
        return
    graph = _dependencies(network, example_inputs)
    for root, indices in by_root.items():
        module = network.get_submodule(root.rpartition(".")[0])
        prune = graph.get_pruner_of_module(module).prune_out_channels
        graph.get_pruning_group(module, prune, sorted(indices)).prune(record_history=False)


def worth(group: ChannelGroup, scores: Mapping[str, Tensor], normalize: bool) -> Tensor:
    """What each channel of a group is worth: the mean of its connections' scores, layer by layer.

    Args:
        group: The channels.
        scores: Per weight, of its shape; weights that are not in it have no say.
        normalize: Relative to the group's mean, so that groups can be compared.

    Returns:
        (channels,) float.
    """
    total = torch.zeros(group.size)
    parts = zip(*([*channel.produced, *channel.consumed] for channel in group.channels), strict=True)
    for part in parts:
        if part[0][0] not in scores:
            continue
        score = scores[part[0][0]].float()
        dim = len(part[0][1]) - 1
        means = score.transpose(0, dim).flatten(1).mean(1)
        per_channel = torch.stack([means[index[dim]].mean() for _, index in part])
        total += (per_channel / means.mean().clamp_min(1e-30)).cpu()
    return total / total.mean().clamp_min(1e-30) if normalize else total


@torch.no_grad()
def merge(
    network: nn.Module, leaving: Sequence[Channel], groups: Sequence[ChannelGroup], connectivity: Connectivity
) -> None:
    """Add what consumers read of each leaving channel to what they read of the nearest that stays.

    Nearest by the cosine of the filters that compute them, biases and norms folded in as far as they scale; the
    addition is scaled so that a channel which is a multiple of another merges without loss.
    """
    gone = {channel.key for channel in leaving} | set(connectivity.closed)
    for group in groups:
        filters = torch.stack([_filter(network, connectivity, channel) for channel in group.channels])
        stays = [i for i, channel in enumerate(group.channels) if channel.key not in gone]
        for channel in (c for c in leaving if c.root == group.root and stays):
            likeness = F.cosine_similarity(filters[channel.index].unsqueeze(0), filters[stays])
            nearest = group.channels[stays[int(likeness.argmax())]]
            norm = filters[nearest.index].square().sum().clamp_min(1e-12)
            scale = (filters[channel.index] @ filters[nearest.index]) / norm
            if scale <= 0:
                continue  # behind a ReLU only a positive multiple is the same signal
            for (name, of), (_, to) in zip(channel.consumed, nearest.consumed, strict=True):
                weight, mask = connectivity.weights[name], connectivity.masks[name]
                added = weight[:, of[-1]] * scale.to(weight.dtype)
                weight[:, to[-1]] += added * mask[:, to[-1]]


def _filter(network: nn.Module, connectivity: Connectivity, channel: Channel) -> Tensor:
    """Everything that computes a channel, as one vector, scaled by its norm's gain."""
    rows = [connectivity.weights[name][index[0]].flatten() for name, index in channel.produced]
    gain = torch.ones((), device=rows[0].device)
    for name, index in channel.held:
        owner, _, kind = name.rpartition(".")
        module = network.get_submodule(owner)
        if kind == "weight" and isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            gain = gain * (module.weight[index[0]] / (module.running_var[index[0]] + module.eps).sqrt()).mean()
    return torch.cat(rows).float() * gain


_VERIFIED: dict[str, frozenset[str]] = {}


def _architecture(network: nn.Module, example_inputs: tuple[Tensor, ...]) -> str:
    shapes = [(name, tuple(value.shape)) for name, value in network.state_dict().items()]
    code = getattr(network, "code", "")
    return f"{network}\n{code}\n{shapes}\n{[tuple(x.shape) for x in example_inputs]}"


def _dependencies(network: nn.Module, example_inputs: tuple[Tensor, ...]) -> Any:
    device = next(network.parameters()).device
    frozen = [parameter for parameter in network.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch-pruning warns of every parameter outside of a module it knows
            graph = torch_pruning.DependencyGraph()
            return graph.build_dependency(network, example_inputs=tuple(x.to(device) for x in example_inputs))
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _candidates(network: nn.Module, example_inputs: tuple[Tensor, ...]) -> list[ChannelGroup]:
    training = network.training
    try:
        graph = _dependencies(network.eval(), example_inputs)
    except Exception:  # the graph walks autograd internals; what it cannot walk has no removable channels
        return []
    finally:
        network.train(training)
    names = {id(module): name for name, module in network.named_modules()}
    known = list(maskable(network))
    found: list[ChannelGroup] = []
    visited: set[str] = set()
    # Edges come last, so that a group keeps its root when an edge joins it.
    for root in sorted(known, key=lambda name: name.startswith(f"{HOLDER}.")):
        module = network.get_submodule(root.rpartition(".")[0])
        if root in visited or not isinstance(module, _CONNECTED) or module not in graph.module2node:
            continue
        pruner = graph.get_pruner_of_module(module)
        width = pruner.get_out_channels(module)
        group = graph.get_pruning_group(module, pruner.prune_out_channels, list(range(width)))
        channels = _channels(root, group, graph, names, set(known))
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
        positions = torch.tensor(self.positions.get(channel, []), dtype=torch.int64)
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
            kind = "consumed" if reads else "produced"
            parts.append(_Part(kind, f"{name}.weight", dim, module.weight.shape[0], positions))
            if not reads and module.bias is not None:
                parts.append(_Part("held", f"{name}.bias", 0, 0, positions))
        elif isinstance(module, _NORMS):
            affine = [p for p in ("weight", "bias") if getattr(module, p, None) is not None]
            if not affine:
                return None
            parts += [_Part("held", f"{name}.{p}", 0, 0, positions) for p in affine]
        elif not isinstance(module, nn.Module) or any(True for _ in module.parameters()):
            return None
    by_kind = {kind: [part for part in parts if part.kind == kind] for kind in ("produced", "consumed", "held")}
    return tuple(
        Channel(root, i, *(tuple(part.of(i) for part in by_kind[kind]) for kind in ("produced", "consumed", "held")))
        for i in range(len(group[0].idxs))
    )


@torch.no_grad()
def _removal_equals_masking(
    network: nn.Module, channels: Sequence[Channel], example_inputs: tuple[Tensor, ...]
) -> bool:
    """Whether a copy without these channels computes what a copy with them masked does."""
    masked, removed = copy.deepcopy(network).eval(), copy.deepcopy(network).eval()
    inputs = tuple(x.to(next(network.parameters()).device) for x in example_inputs)
    try:
        Connectivity(masked).close(channels, "probe", "probe")
        remove(removed, channels, example_inputs)
        expected, found = masked(*inputs), removed(*inputs)
    except Exception:  # whatever breaks on a wrong shape, in the network or in the graph, is the answer no
        return False
    if expected.shape != found.shape:
        return False
    scale = float(expected.abs().max().clamp_min(1e-6))
    return bool((expected - found).abs().max() <= 1e-4 * scale)
