"""Blocks that are removed for everybody: the control of per-sample routing."""

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
    """Shut gates until no more than a share of the network's work is left.

    First go the blocks whose absence adds least to the loss per multiply-accumulate, each looked at alone; without a
    task to look at, the last ones.

    Args:
        site: Its gates are all open or shut; some are shut in place.
        shares: What each gate governs, of the multiply-accumulates of the whole network.
        target: The share that may stay, in [0, 1]; what no gate governs stays in any case.
        step: Decides which training batches are looked at.
    """
    held = {name: gate for name, gate in gates(site.network).items() if isinstance(gate, RoutingGate)}
    ranked = [name for name, gate in held.items() if gate.forced == (1,)][::-1]
    runs = 1 - sum(shares[name] for name in held if name not in ranked)
    if runs <= target:
        return
    if site.task is not None:
        batches = site.batches(BATCHES, step)
        before = _loss(site, batches)
        added = {name: (_without(site, held[name], batches) - before) / shares[name] for name in ranked}
        ranked.sort(key=lambda name: added[name])
    for name in ranked:
        if runs <= target:
            return
        held[name].forced = (0,)
        runs -= shares[name]


def _without(site: Site, gate: RoutingGate, batches: list[Batch]) -> float:
    gate.forced = (0,)
    try:
        return _loss(site, batches)
    finally:
        gate.forced = (1,)


def _loss(site: Site, batches: list[Batch]) -> float:
    assert site.task is not None
    with evaluating(site.network):
        losses = [
            float(site.task.loss(call(site.network, move(inputs, site.device)), targets.to(site.device)))
            for inputs, targets in batches
        ]
    return sum(losses) / len(losses)
