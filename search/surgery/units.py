"""From what hangs together to channels: classes of labels, and the heads and inner channels of torch's own modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from objectives.maskable import maskable
from search.surgery.channel import By, Channel, ChannelGroup
from search.surgery.closing import Index
from search.surgery.coupling import Coupling, Slot
from search.surgery.edges import HOLDER
from search.surgery.labels import FIXED

Part = tuple[str, Index]
_SEALED = (nn.Transformer, nn.TransformerDecoder, nn.TransformerDecoderLayer)


def coupled(network: nn.Module, coupling: Coupling, roots: Tensor) -> list[ChannelGroup]:
    """Groups of channels that a coupling found, in the order of the network.

    Args:
        network: The one that was followed.
        coupling: Followed to its end.
        roots: What that gave.
    """
    known = _order(network)
    shared = tied(network)
    by: By = "whole" if coupling.whole else "equal"
    shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    alike: dict[tuple[tuple[str, int, str, int], ...], list[Channel]] = {}
    for parts in _classes(coupling.slots.values(), roots).values():
        weights = [slot.name for slot, _ in parts if slot.role in ("produced", "consumed")]
        if any(slot.name in shared for slot, _ in parts) or not all(name in known for name in weights):
            continue
        produced = [(slot, positions) for slot, positions in parts if slot.role == "produced"]
        if not produced:
            continue
        root, first = min(produced, key=lambda part: known[part[0].name])
        entries: dict[str, list[Part]] = {"produced": [], "consumed": [], "held": []}
        for slot, positions in parts:
            rest = (torch.arange(size) for size in shapes[slot.name][: slot.dim])
            entries[slot.role].append((slot.name, (*rest, positions)))
        signature = tuple((slot.name, slot.dim, slot.role, len(positions)) for slot, positions in parts)
        channel = Channel(
            root.name,
            int(first[0]),
            tuple(entries["produced"]),
            tuple(entries["consumed"]),
            tuple(entries["held"]),
            by,
        )
        alike.setdefault(signature, []).append(channel)
    found = [
        ChannelGroup(members[0].root, tuple(sorted(members, key=lambda channel: channel.index)))
        for members in alike.values()
        if len(members) > 1
    ]
    return sorted(found, key=lambda group: (known[group.root], group.channels[0].index))


def inner(network: nn.Module, *, traced: bool) -> list[ChannelGroup]:
    """Heads of torch's attention, and the inner channels of its transformer layers: what no graph shows.

    Args:
        network: Whose modules.
        traced: Whether it is a graph, in which the calls of torch's encoder layers can be written out. Layers that stay
            what torch makes of them can be stored only in the sizes that their constructors know.
    """
    found, shared = [], tied(network)
    closed = sealed(network, _SEALED if traced else (*_SEALED, nn.TransformerEncoder, nn.TransformerEncoderLayer))
    for name, module in network.named_modules():
        if name in closed:
            continue
        units: list[Channel] = []
        if isinstance(module, nn.MultiheadAttention) and module.bias_k is None and not module.add_zero_attn:
            units = list(_heads(name, module))
        elif isinstance(module, nn.TransformerEncoderLayer):
            units = list(_feedforward(name, module))
        parts = {part for unit in units for part, _ in (*unit.produced, *unit.consumed, *unit.held)}
        if len(units) > 1 and not parts & shared:
            found.append(ChannelGroup(units[0].root, tuple(units)))
    return found


def sealed(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> set[str]:
    """Names of all modules inside of some kinds, these included."""
    return {
        f"{name}.{part}".strip(".")
        for name, module in network.named_modules()
        if isinstance(module, kinds)
        for part, _ in module.named_modules()
    }


def tied(network: nn.Module) -> set[str]:
    """Names of parameters that have another name as well."""
    names: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {name for each in names.values() if len(each) > 1 for name in each}


def _order(network: nn.Module) -> dict[str, tuple[bool, int]]:
    """Weights in the order of the network; edges come last, so that a group keeps its root when an edge joins it."""
    return {name: (name.startswith(f"{HOLDER}."), i) for i, name in enumerate(maskable(network))}


def _classes(slots: Iterable[Slot], roots: Tensor) -> Mapping[int, list[tuple[Slot, Tensor]]]:
    """By root, the positions of every slot that belong to it."""
    found: dict[int, list[tuple[Slot, Tensor]]] = {}
    for slot in slots:
        if slot.role == "kept":
            continue
        values, order = roots[slot.labels].sort(stable=True)
        labels, counts = torch.unique_consecutive(values, return_counts=True)
        for label, positions in zip(labels.tolist(), torch.split(order, counts.tolist()), strict=True):
            if label != FIXED:
                found.setdefault(label, []).append((slot, positions))
    return found


def _heads(name: str, module: nn.MultiheadAttention) -> Iterator[Channel]:
    width = module.head_dim
    total = module.num_heads * width
    columns = torch.arange(module.out_proj.weight.shape[0])
    for head in range(module.num_heads):
        one = torch.arange(head * width, (head + 1) * width)
        three = torch.cat([one, one + total, one + 2 * total])
        separate = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        shared: Tensor | None = module.in_proj_weight
        produced: list[Part] = [(f"{name}.in_proj_weight", (three,))]
        if shared is None:
            produced = [(f"{name}.{each}", (one,)) for each in separate]
        held = [(f"{name}.in_proj_bias", (three,))] if module.in_proj_bias is not None else []
        consumed = [(f"{name}.out_proj.weight", (columns, one))]
        yield Channel(produced[0][0], head * width, tuple(produced), tuple(consumed), tuple(held), "inside")


def _feedforward(name: str, module: nn.TransformerEncoderLayer) -> Iterator[Channel]:
    columns = torch.arange(module.linear2.out_features)
    for i in range(module.linear1.out_features):
        here = torch.tensor([i])
        held = [(f"{name}.linear1.bias", (here,))] if module.linear1.bias is not None else []
        yield Channel(
            f"{name}.linear1.weight",
            i,
            ((f"{name}.linear1.weight", (here,)),),
            ((f"{name}.linear2.weight", (columns, here)),),
            tuple(held),
            "inside",
        )
