"""Which connections: exact counts, ties broken by position, never an empty layer. Pure functions of tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from search.surgery.ranking import lowest_of, number


def lowest(scores: Tensor, count: int, among: Tensor, leave: int = 0) -> Tensor:
    """The `count` lowest scores among some entries; ties go to the lower index.

    Args:
        scores: Any shape, finite.
        count: How many, 0 <= count; no more than there are.
        among: Boolean, of the same shape: which entries may be chosen.
        leave: How many of them are left in any case.

    Returns:
        Boolean, of the same shape, with exactly ``min(count, among.sum() - leave)`` entries set.
    """
    if leave:
        count = min(count, number(among) - leave)
    return lowest_of([scores], [among], count)[0]


def highest(scores: Tensor, count: int, among: Tensor) -> Tensor:
    """The `count` highest scores among some entries; ties go to the lower index. See :func:`lowest`."""
    return lowest_of([scores], [among], count, sign=-1)[0]


def lowest_overall(
    scores: Mapping[str, Tensor],
    count: int,
    among: Mapping[str, Tensor],
    normalize: bool = False,
    leave_one: bool = False,
) -> dict[str, Tensor]:
    """The `count` lowest scores over all layers together; ties go to the earlier layer, then to the lower index.

    Args:
        scores: Per layer, any shapes.
        count: How many in all.
        among: Per layer, which entries may be chosen.
        normalize: Divide each layer's scores by their mean first.
        leave_one: Leave of each layer the highest entry that may be chosen, whatever the others are.
    """
    names, ranked = list(scores), [_scaled(each, normalize) for each in scores.values()]
    candidates = [among[name] for name in names]
    chosen = lowest_of(ranked, candidates, count)
    if leave_one and any(number(c) and number(c) == number(a) for c, a in zip(chosen, candidates, strict=True)):
        spared = [a & ~best_entry(score, a) for score, a in zip(ranked, candidates, strict=True)]
        chosen = lowest_of(ranked, spared, count)
    return dict(zip(names, chosen, strict=True))


def highest_overall(scores: Mapping[str, Tensor], count: int, among: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The `count` highest scores over all layers together. See :func:`lowest_overall`."""
    chosen = lowest_of(list(scores.values()), [among[name] for name in scores], count, sign=-1)
    return dict(zip(scores, chosen, strict=True))


def best_entry(scores: Tensor, among: Tensor) -> Tensor:
    """The single highest entry, so that it can be spared; none where `among` is empty, ties go to the lower index.

    What is not a number ranks last: where the loss has diverged, the training loop says so and not this.
    """
    chosen = torch.zeros_like(among, memory_format=torch.contiguous_format)
    ranked = scores.masked_fill(~among, -math.inf)
    if among.any():
        if ranked.max().isnan():
            ranked = ranked.masked_fill(ranked.isnan(), -math.inf)
        chosen.view(-1)[int(((ranked == ranked.max()) & among).flatten().nonzero()[0])] = True
    return chosen


def room_in_groups(scores: Tensor, mask: Tensor, keep: int, of: int) -> Tensor:
    """Which inactive entries may come back without breaking an N:M pattern: the best ones of groups with room.

    Args:
        scores: What an entry is worth, (O, I, ...) of a weight.
        mask: The active entries.
        keep: N, the most that may be active of each group.
        of: M, the size of a group along dimension 1.
    """
    grouped_mask, grouped_scores = grouped(mask, of), grouped(scores, of)
    room = keep - grouped_mask.sum(-1, keepdim=True)
    ranked = grouped_scores.masked_fill(grouped_mask, -math.inf).argsort(dim=-1, descending=True, stable=True)
    rank = ranked.argsort(dim=-1, stable=True)
    return ungrouped((rank < room) & ~grouped_mask, mask)


def lowest_in_groups(scores: Tensor, mask: Tensor, keep: int, of: int) -> Tensor:
    """The active entries to switch off so that at most `keep` of every `of` stay active; ties keep the lower index."""
    grouped_mask = grouped(mask, of)
    values = grouped(scores, of).masked_fill(~grouped_mask, -math.inf)
    rank = values.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1, stable=True)
    return ungrouped((rank >= keep) & grouped_mask, mask)


def grouped(tensor: Tensor, of: int) -> Tensor:
    """(O, I, ...) -> (O, ..., I / of, of): the groups of an N:M pattern run along the input."""
    moved = tensor.movedim(1, -1)
    return moved.reshape(*moved.shape[:-1], -1, of)


def ungrouped(tensor: Tensor, like: Tensor) -> Tensor:
    """The inverse of :func:`grouped`."""
    moved = like.movedim(1, -1)
    return tensor.reshape(moved.shape).movedim(-1, 1)


def erk_densities(shapes: Mapping[str, Sequence[int]], density: float) -> dict[str, float]:
    """Erdős-Rényi-kernel densities: a layer's density is proportional to sum(shape) / prod(shape), at most 1.

    Args:
        shapes: Per layer the shape of its weight, (O, I, ...).
        density: Share of all weights that stays, in [0, 1].

    Returns:
        Per layer the share that stays; the total is `density` of all weights (Evci et al. 2020, appendix F).
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {name: sum(shape) / sizes[name] for name, shape in shapes.items()}
    dense: set[str] = set()
    budget = density * sum(sizes.values())
    while len(dense) < len(shapes):
        rest = budget - sum(sizes[name] for name in dense)
        weight = sum(raw[name] * sizes[name] for name in shapes if name not in dense)
        scale = rest / weight if weight > 0 else 0.0
        over = {name for name in shapes if name not in dense and raw[name] * scale > 1}
        if not over:
            return {name: 1.0 if name in dense else max(0.0, raw[name] * scale) for name in shapes}
        dense |= over
    return dict.fromkeys(shapes, 1.0)


def apportion(total: int, shares: Mapping[str, float], capacity: Mapping[str, int]) -> dict[str, int]:
    """Split `total` by `shares`, whole numbers that add up exactly (largest remainder), none above its capacity.

    What does not fit goes to the others by their shares; ties go to the earlier name.
    """
    total = min(total, sum(capacity.values()))
    given = dict.fromkeys(shares, 0)
    open_names = [name for name in shares if capacity[name] > 0]
    while total > sum(given.values()) and open_names:
        left = total - sum(given.values())
        weight = sum(shares[name] for name in open_names)
        ideal = {n: left * (shares[n] / weight if weight > 0 else 1 / len(open_names)) for n in open_names}
        for name in open_names:
            given[name] += min(math.floor(ideal[name]), capacity[name] - given[name])
        left = total - sum(given.values())
        by_remainder = sorted(open_names, key=lambda n: ideal[n] - math.floor(ideal[n]), reverse=True)
        for name in by_remainder:
            if left > 0 and given[name] < capacity[name]:
                given[name] += 1
                left -= 1
        open_names = [name for name in open_names if given[name] < capacity[name]]
    return given


def _scaled(scores: Tensor, normalize: bool) -> Tensor:
    return scores / scores.mean().clamp_min(1e-30) if normalize else scores
