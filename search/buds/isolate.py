"""Which channels matter to a sub-task: E|a * dL/da| of what each channel's readers read of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, fx, nn

from objectives.maskable import CONVOLUTIONS
from objectives.task import Task
from search.surgery.channels import Channel, ChannelGroup, groups, worth

#: (what flows into the tail, targets): samples of one sub-task.
Part = tuple[Tensor, Tensor]
_READERS = (*CONVOLUTIONS, nn.Linear)


def excitement(tail: fx.GraphModule, parts: Iterable[Part], task: Task, device: str = "cpu") -> dict[str, Tensor]:
    """Per layer that reads channels, E|a * dL/da| of each of its inputs: (inputs,), summed over positions.

    Args:
        tail: In evaluation mode; its weights get no gradient.
        parts: Samples of one sub-task.
        task: Whose loss is differentiated.
        device: Where the tail is.
    """
    readers = {name: m for name, m in tail.named_modules() if isinstance(m, _READERS)}
    totals: dict[str, Tensor] = {}
    read: dict[str, Tensor] = {}

    def listen(name: str, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].requires_grad:
            inputs[0].retain_grad()
            read[name] = inputs[0]

    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: listen(name, inputs))
        for name, module in readers.items()
    ]
    try:
        with torch.enable_grad():
            for hidden, targets in parts:
                read.clear()
                outputs = tail(hidden.float().to(device).detach().requires_grad_())
                tail.zero_grad(set_to_none=True)
                task.loss(outputs, targets.to(device)).backward()  # type: ignore[no-untyped-call]
                for name, a in read.items():
                    if a.grad is not None:
                        each = _by_channel((a.detach() * a.grad), readers[name]) * len(hidden)
                        totals[name] = totals.get(name, torch.zeros_like(each)) + each
    finally:
        tail.zero_grad(set_to_none=True)
        for hook in hooks:
            hook.remove()
    return {name: total.cpu() for name, total in totals.items()}


def _by_channel(product: Tensor, reader: nn.Module) -> Tensor:
    """Mean over samples of the absolute value of each channel's sum over positions, (channels,)."""
    if isinstance(reader, nn.Linear):
        product = product.flatten(1, -2).sum(1) if product.ndim > 2 else product
        return product.abs().mean(0)
    return (product.flatten(2).sum(2) if product.ndim > 2 else product).abs().mean(0)


def leaving(
    tail: fx.GraphModule, hidden: Tensor, scores: Mapping[str, Tensor], keep: float, slope: float = 0.0
) -> list[Channel]:
    """The channels that go: of each group all but the best, at least one stays.

    Args:
        tail: Whose groups of coupled channels are looked at.
        hidden: Example of what flows into it.
        scores: From `excitement`; a group that none of them covers is judged by the size of its weights.
        keep: Share that stays, in (0, 1]; 1 keeps all channels, whatever the slope.
        slope: From the first group to the last that share grows evenly from ``keep * (1 - slope)`` to
            ``keep * (1 + slope)``, but never beyond 1.
    """
    if keep >= 1:
        return []
    going: list[Channel] = []
    found = groups(tail, (hidden,))
    for place, group in enumerate(found):
        depth = 2 * place / (len(found) - 1) - 1 if len(found) > 1 else 0.0  # -1 to 1
        stays = max(1, round(min(1.0, keep * (1 + slope * depth)) * group.size))
        order = _worth(tail, group, scores).argsort(descending=True, stable=True)
        going += [group.channels[int(index)] for index in sorted(order[stays:].tolist())]
    return going


def _worth(tail: fx.GraphModule, group: ChannelGroup, scores: Mapping[str, Tensor]) -> Tensor:
    """(channels,): the mean over its readers of a channel's share of what excites each of them."""
    total, readers = torch.zeros(group.size), 0
    for parts in zip(*(channel.consumed for channel in group.channels), strict=True):
        name, index = parts[0]
        owner, _, kind = name.rpartition(".")
        score = scores.get(owner)
        if kind != "weight" or score is None or float(score.sum()) <= 0:
            continue
        module = tail.get_submodule(owner)
        if len(index) - 1 != (0 if getattr(module, "transposed", False) else 1) or getattr(module, "groups", 1) != 1:
            continue
        per_channel = torch.stack([score[place[-1]].sum() for _, place in parts])
        total += per_channel / per_channel.sum().clamp_min(1e-30)
        readers += 1
    if readers:
        return total / readers
    return worth(group, {name: p.detach().abs() for name, p in tail.named_parameters()}, normalize=True)
