"""The exact end: from where the controller has led to the very number of connections that the policy asks for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from search.surgery.connectivity import Connectivity
from search.surgery.pruning import Pruning
from search.surgery.resonance_layer import LayerMemory
from search.surgery.selection import highest_overall, lowest_overall, room_in_groups


def allowed(connectivity: Connectivity, pruning: Pruning | None, name: str, scores: Tensor, where: Tensor) -> Tensor:
    """Which of the connections `where` may be switched on: no masked channel covers them, an N:M pattern has room.

    Args:
        connectivity: Of the network.
        pruning: Works on it too, or None.
        name: Of the layer.
        scores: Of the weight's shape: within a group of a pattern the highest come first.
        where: Boolean, of the same shape.
    """
    room = where & connectivity.revivable(name)
    pattern = pruning.pattern if pruning is not None and pruning.governs(name) else None
    if pattern is None:
        return room
    return room & room_in_groups(scores.masked_fill(~room, -1), connectivity.masks[name], *pattern)


@torch.no_grad()
def project(
    connectivity: Connectivity,
    pruning: Pruning | None,
    memories: Mapping[str, LayerMemory],
    positions: Mapping[str, Tensor],
    keep: int,
    stored: bool,
) -> int:
    """Bring the number of active connections to `keep`: the lowest go, or the highest that resonance cut come back.

    What another policy has cut stays cut, and no layer is emptied, even if the number is missed.

    Args:
        connectivity: Of the network, or of a copy.
        pruning: Works on it too, or None.
        memories: What resonance has cut, by governed layer.
        positions: (connections,) per layer, flat, >= 0: higher is kept.
        keep: Connections of the whole network, edges included, that are active at the end.
        stored: Whether what comes back has its stored value.

    Returns:
        How many connections were switched.
    """
    names = list(memories)
    shaped = {name: memories[name].shaped(positions[name]) for name in names}
    excess = sum(connectivity.active.values()) - keep
    if excess > 0:
        scores = {name: connectivity.spared_last(name, shaped[name]) for name in names}
        among = {name: connectivity.masks[name] for name in names}
        going = lowest_overall(scores, excess, among, leave_one=True)
        return sum(connectivity.prune(name, where, "resonance", "projection") for name, where in going.items())
    if excess == 0:
        return 0
    own = {name: memories[name].shaped(memories[name].own(connectivity.masks[name])) for name in names}
    among = {name: allowed(connectivity, pruning, name, shaped[name], own[name]) for name in names}
    coming = highest_overall(shaped, -excess, among)
    values = {name: memories[name].shaped(memories[name].stored) if stored else None for name in names}
    return sum(
        connectivity.create(name, where, "resonance", "projection", values[name]) for name, where in coming.items()
    )
