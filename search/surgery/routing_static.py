"""Blocks, or groups of their channels, that are removed for everybody: the control of per-sample routing."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from objectives.execution import gates
from objectives.mode import evaluating
from objectives.task import Batch, call, move
from search.surgery.routing_gate import RoutingGate
from search.surgery.site import Site

#: Training batches on which an absence is looked at.
BATCHES = 2


@torch.no_grad()
def remove_blocks(site: Site, shares: Mapping[str, float], target: float, step: int) -> None:
    """Shut choices until no more than a share of the network's work is left.

    First go those whose absence adds least to the loss per multiply-accumulate, each looked at alone; without a task to
    look at, the last ones.

    Args:
        site: Every choice of its gates is open or shut; some are shut in place.
        shares: What each gate governs, of the multiply-accumulates of the whole network.
        target: The share that may stay, in [0, 1]; what no gate governs stays in any case.
        step: Decides which training batches are looked at.
    """
    held = {name: gate for name, gate in gates(site.network).items() if isinstance(gate, RoutingGate)}
    saves = {
        (gate, unit): shares[name] * part
        for name, gate in held.items()
        for unit, part in enumerate(gate.parts().tolist())
    }
    left = [(gate, unit) for gate, unit in saves if gate.forced[unit] == 1]
    runs = 1 - sum(saves.values()) + sum(saves[choice] for choice in left)
    if runs <= target:
        return
    ranked = left[::-1]
    if site.task is not None:
        batches = site.batches(BATCHES, step)
        before = _loss(site, batches)
        added = {choice: (_without(site, *choice, batches) - before) / saves[choice] for choice in left}
        ranked.sort(key=lambda choice: added[choice])
    for gate, unit in ranked:
        if runs <= target:
            return
        gate.forced = _replaced(gate.forced, unit, 0)
        runs -= saves[gate, unit]


def _without(site: Site, gate: RoutingGate, unit: int, batches: list[Batch]) -> float:
    gate.forced, before = _replaced(gate.forced, unit, 0), gate.forced
    try:
        return _loss(site, batches)
    finally:
        gate.forced = before


def _loss(site: Site, batches: list[Batch]) -> float:
    assert site.task is not None
    with evaluating(site.network):
        losses = [
            float(site.task.loss(call(site.network, move(inputs, site.device)), targets.to(site.device)))
            for inputs, targets in batches
        ]
    return sum(losses) / len(losses)


def _replaced(values: tuple[int, ...], index: int, value: int) -> tuple[int, ...]:
    return (*values[:index], value, *values[index + 1 :])
