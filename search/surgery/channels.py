"""Channels that can go: found by how layers hang together, offered only where masking has been seen to equal removal.

No finding is trusted: of each group channels are masked in one copy of the network and removed in another, and where
the two compute different things the group is not offered.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import random
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from objectives.mode import evaluating
from search.surgery.attention import narrowed, written_out
from search.surgery.channel import Channel, ChannelGroup, merge, worth
from search.surgery.connectivity import Connectivity
from search.surgery.coupling import Coupling
from search.surgery.dependency import dependent, remove_dependent
from search.surgery.network import prepared
from search.surgery.removal import Rewriting, close, cut
from search.surgery.units import coupled, inner, tied

__all__ = ["Channel", "ChannelGroup", "groups", "merge", "refusal", "remove", "worth"]

Inputs = tuple[Tensor, ...]
#: Architectures whose groups are remembered.
_REMEMBERED = 32


def groups(network: nn.Module, example_inputs: Inputs) -> tuple[ChannelGroup, ...]:
    """The groups of which channels can be removed, in the order of the network; verified one by one.

    Which they are depends on the architecture alone, so they are remembered for it.
    """
    key = _architecture(network, example_inputs)
    if key not in _KNOWN:
        _KNOWN[key] = tuple(_found(network, example_inputs))
    _KNOWN.move_to_end(key)
    while len(_KNOWN) > _REMEMBERED:
        _KNOWN.popitem(last=False)
    return _KNOWN[key]


def remove(
    network: nn.Module,
    channels: Iterable[Channel],
    example_inputs: Inputs,
    masked: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """Take channels out of the network in place: its layers become smaller, and its graph fits them.

    Args:
        network: Not one that is still being trained.
        channels: Which ones, from :func:`groups`; of each group at least one must stay.
        example_inputs: ``network(*example_inputs)`` runs.
        masked: What the nodes of its graph give while these channels are masked; compared where it is given.

    Raises:
        ValueError: If the graph has no place for what is left, which the groups' verification has ruled out.
    """
    by: dict[str, list[Channel]] = {}
    for channel in channels:
        by.setdefault(channel.by, []).append(channel)
    if by.get("dependency"):
        remove_dependent(network, by["dependency"], example_inputs)
    inputs = _on_device(network, example_inputs)
    followed: list[tuple[Coupling, Tensor]] = []
    ways = [way for way in ("whole", "equal") if way in by]
    if ways and (traced := _graph(network, example_inputs)) is not None:
        followed = [_gone(traced, by[way], inputs, whole=way == "whole") for way in ways]
    cut(network, followed)
    _remove_inside(network, by.get("inside", []))
    if isinstance(network, fx.GraphModule):
        if followed:
            before = [({node.name: mark for node, mark in each.marks.items()}, gone) for each, gone in followed]
            with evaluating(network):
                Rewriting(network, before, masked).run(*inputs)
        if by.get("inside"):
            written_out(network)
        network.graph.lint()
        network.recompile()


def refusal(network: nn.Module, layer: str) -> str:
    """Why the channels of a layer are not offered, in one sentence."""
    module = network.get_submodule(layer.rpartition(".")[0])
    if layer in (shared := tied(network)):
        parameter = network.get_parameter(layer)
        others = [n for n in sorted(shared) if n != layer and network.get_parameter(n) is parameter]
        return f"its weight is tied to {', '.join(others)}, which must keep its shape"
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return "the units of a recurrent layer can only be masked connection by connection"
    return "they reach the network's output, or something (a LayerNorm, say) computes with all of them at once"


# -- finding them ------------------------------------------------------------------------------------------------------

_KNOWN: OrderedDict[str, tuple[ChannelGroup, ...]] = OrderedDict()


def _architecture(network: nn.Module, example_inputs: Inputs) -> str:
    """A digest of all that decides what can be removed: the graph, or the modules with their settings, and shapes."""
    names: dict[int, str] = {}
    parts: list[object] = [[tuple(x.shape) for x in example_inputs], getattr(network, "code", "")]
    for name, module in network.named_modules():
        settings = {
            k: v for k, v in vars(module).items() if isinstance(v, int | float | str | tuple) and k != "training"
        }
        # Each graph has a class of its own; elsewhere two classes of one name may do different things.
        kind = "graph" if isinstance(module, fx.GraphModule) else f"{type(module).__qualname__} {id(type(module))}"
        parts.append((name, kind, repr(settings)))
    for name, value in [*network.named_parameters(remove_duplicate=False), *network.named_buffers()]:
        parts.append((name, tuple(value.shape), names.setdefault(id(value), name)))
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _graph(network: nn.Module, example_inputs: Inputs) -> fx.GraphModule | None:
    traced = network if isinstance(network, fx.GraphModule) else prepared(network, example_inputs)[0]
    return traced if isinstance(traced, fx.GraphModule) else None


def _found(network: nn.Module, example_inputs: Inputs) -> list[ChannelGroup]:
    traced = _graph(network, example_inputs)
    if traced is None:
        candidates = [*dependent(network, example_inputs), *inner(network, traced=False)]
        return _verified(network, _apart(candidates), [], example_inputs)
    candidates, ambiguous = _coupled(traced, example_inputs, whole=True)
    found = _verified(network, [*candidates, *inner(network, traced=True)], [], example_inputs)
    if ambiguous:
        others, _ = _coupled(traced, example_inputs, whole=False)
        found = _verified(network, _apart([*found, *others])[len(found) :], found, example_inputs)
    order = [name for name, _ in network.named_parameters()]
    return sorted(found, key=lambda group: (order.index(group.root), group.channels[0].index))


def _coupled(traced: fx.GraphModule, example_inputs: Inputs, *, whole: bool) -> tuple[list[ChannelGroup], bool]:
    coupling = Coupling(traced, whole=whole)
    try:
        with evaluating(traced):
            roots = coupling.follow(_on_device(traced, example_inputs))
    except Exception:  # whatever a rule makes of a network that nobody foresaw, nothing of it is offered
        return [], True
    return coupled(traced, coupling, roots), coupling.ambiguous


def _apart(candidates: Sequence[ChannelGroup]) -> list[ChannelGroup]:
    """The groups of which no earlier one holds an entry."""
    found, taken = [], set[tuple[str, int, int]]()
    for group in candidates:
        entries = {
            (name, len(index), position)
            for channel in group.channels
            for name, index in (*channel.produced, *channel.consumed)
            for position in index[-1].tolist()
        }
        if not entries & taken:
            found.append(group)
            taken |= entries
    return found


def _on_device(network: nn.Module, example_inputs: Inputs) -> Inputs:
    """The first two samples, where the network is."""
    device = next(network.parameters()).device
    return tuple(x[:2].to(device) if x.dim() else x.to(device) for x in example_inputs)


# -- removing them -----------------------------------------------------------------------------------------------------


def _gone(
    traced: fx.GraphModule, channels: Sequence[Channel], inputs: Inputs, *, whole: bool
) -> tuple[Coupling, Tensor]:
    coupling = Coupling(traced, whole=whole)
    with evaluating(traced):
        roots = coupling.follow(inputs)
    leaving = []
    for channel in channels:
        name, index = next(part for part in channel.produced if part[0] == channel.root)
        leaving.append(roots[coupling.slots[name, len(index) - 1].labels[channel.index]])
    return coupling, torch.isin(roots, torch.stack(leaving))


def _remove_inside(network: nn.Module, channels: Sequence[Channel]) -> None:
    by_owner: dict[str, list[Channel]] = {}
    for channel in channels:
        by_owner.setdefault(channel.root.rpartition(".")[0], []).append(channel)
    for owner, leaving in by_owner.items():
        module = network.get_submodule(owner)
        parent, _, atom = owner.rpartition(".")
        holder = network.get_submodule(parent)
        if isinstance(module, nn.MultiheadAttention):
            setattr(holder, atom, narrowed(module, [channel.index // module.head_dim for channel in leaving]))
            continue
        keep = torch.ones(holder.linear1.out_features, dtype=torch.bool)  # type: ignore[union-attr,arg-type]
        keep[[channel.index for channel in leaving]] = False
        for name, dim in (("linear1.weight", 0), ("linear1.bias", 0), ("linear2.weight", 1)):
            layer, kind = holder.get_submodule(name.partition(".")[0]), name.partition(".")[2]
            if (before := getattr(layer, kind)) is not None:
                after = before.detach().index_select(dim, keep.nonzero()[:, 0].to(before.device))
                setattr(layer, kind, nn.Parameter(after, before.requires_grad))
        holder.linear1.out_features = holder.linear2.in_features = int(keep.sum())  # type: ignore[union-attr]


# -- the experiment ----------------------------------------------------------------------------------------------------


def _verified(
    network: nn.Module, candidates: Sequence[ChannelGroup], trusted: Sequence[ChannelGroup], example_inputs: Inputs
) -> list[ChannelGroup]:
    """Those of the candidates that pass the experiment beside the trusted ones, which come first."""
    if not candidates or _removal_equals_masking(network, [*trusted, *candidates], example_inputs):
        return [*trusted, *candidates]
    if len(candidates) == 1:
        return list(trusted)
    half = len(candidates) // 2
    trusted = _verified(network, candidates[:half], trusted, example_inputs)
    return _verified(network, candidates[half:], trusted, example_inputs)


@torch.no_grad()
def _removal_equals_masking(network: nn.Module, tried: Sequence[ChannelGroup], example_inputs: Inputs) -> bool:
    """Whether a copy without some channels of each group computes what a copy with them masked does.

    In a graph every node is compared: a mistake behind which everything is 0 anyway is one all the same.
    """
    choice = random.Random(0)
    channels = [c for group in tried for c in choice.sample(group.channels, max(1, group.size // 3))]
    for kind in (torch.float64, None):  # in double precision, unless the network insists on another one
        masked, inputs = _filled(network, kind), _cast(_on_device(network, example_inputs), kind)
        removed = copy.deepcopy(masked)
        Connectivity(masked).close(channels, "probe", "probe")
        record = _Record(masked) if isinstance(masked, fx.GraphModule) else None
        # Whatever breaks on a wrong type or shape, in the network or in the graph, is the answer no; a graph that
        # breaks says so on the error stream as well.
        with contextlib.suppress(Exception), contextlib.redirect_stderr(io.StringIO()):
            expected = masked(*inputs) if record is None else record.run(*inputs)
            try:
                remove(removed, channels, inputs, record.values if record is not None else {})
                pairs = zip(pytree.tree_leaves(expected), pytree.tree_leaves(removed(*inputs)), strict=True)
                return all(close(a, b) for a, b in pairs if isinstance(a, Tensor))
            except Exception:  # as above, but the masked copy ran: another type would not help
                return False
    return False


def _filled(network: nn.Module, kind: torch.dtype | None) -> nn.Module:
    """A copy in evaluation mode whose weights are nowhere 0: where connections are off a mistake would not show."""
    twin = copy.deepcopy(network).eval().to(kind)
    generator = torch.Generator().manual_seed(0)
    for parameter in twin.parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter) * 0.1
        parameter.copy_(torch.where(parameter == 0, noise, parameter))
    return twin


def _cast(inputs: Inputs, kind: torch.dtype | None) -> Inputs:
    return tuple(x.to(kind) if kind is not None and x.is_floating_point() else x for x in inputs)


class _Record(fx.Interpreter):
    """Keeps what every node gives."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.extra_traceback = False
        self.values: dict[str, object] = {}

    def run_node(self, n: fx.Node) -> object:
        # A copy, because the next node may write into what this one gave.
        result = super().run_node(n)
        self.values[n.name] = pytree.tree_map_only(Tensor, torch.clone, result)
        return result
