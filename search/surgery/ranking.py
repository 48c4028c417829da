"""The lowest of many numbers that lie in several tensors: exact, and in one pass over them where they are many.

A sample says between which two values the threshold lies. Then one pass, in parts that stay in the processor's cache,
takes what is below them and puts aside the few that lie between, which alone are ranked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

#: So many entries are looked at at a time on a processor.
_PART = 1 << 17
#: With fewer entries all are ranked.
_FEW = 1 << 18
_SAMPLE = 1 << 16


def lowest_of(scores: Sequence[Tensor], among: Sequence[Tensor], count: int, sign: int = 1) -> list[Tensor]:
    """The `count` lowest entries over all tensors together; ties go to the earlier tensor, then to the lower index.

    Args:
        scores: Any shapes, finite, on one device.
        among: Boolean, of the same shapes: which entries may be chosen.
        count: How many, no more than there are.
        sign: -1 for the highest instead.

    Returns:
        Boolean, of the same shapes, with exactly ``min(count, entries that may be chosen)`` set in all.
    """
    available = sum(number(each) for each in among)
    if count >= available:
        return [each.clone() for each in among]
    chosen = [torch.zeros_like(each, memory_format=torch.contiguous_format) for each in among]
    if count <= 0:
        return chosen
    # Weights may lie channels-last; positions are counted in the order of their indices.
    flat = [(s.flatten(), a.flatten()) for s, a in zip(scores, among, strict=True)]
    places = [each.view(-1) for each in chosen]
    if sum(s.numel() for s, _ in flat) < _FEW or not _pass(flat, places, count, sign, _bracket(flat, count, sign)):
        _pass(flat, places, count, sign, None)
    return chosen


def number(mask: Tensor) -> int:
    """How many entries of a boolean tensor are set."""
    # On a processor numpy is several times faster at this, and at positions.
    return int(np.count_nonzero(mask.numpy())) if mask.device.type == "cpu" else int(mask.count_nonzero())


def positions(mask: Tensor) -> Tensor:
    """Which entries of a flat boolean tensor are set, ascending."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().squeeze(1)


def _pass(
    flat: Sequence[tuple[Tensor, Tensor]],
    chosen: Sequence[Tensor],
    count: int,
    sign: int,
    bracket: tuple[Tensor, Tensor] | None,
) -> bool:
    """Choose, if the threshold lies in the bracket (None: anywhere); otherwise say so."""
    left, values, places = count, [], []
    for (score, among), choice in zip(flat, chosen, strict=True):
        found = []
        for start, part, allowed in _parts(score, among):
            ranked = part if sign > 0 else -part
            near = allowed
            if bracket is not None:
                sure = (ranked < bracket[0]).logical_and_(allowed)
                choice[start : start + len(part)] = sure
                left -= number(sure)
                near = (ranked <= bracket[1]).logical_and_(allowed).logical_xor_(sure)
            index = positions(near)
            values.append(ranked[index])
            found.append(index + start)
        places.append(torch.cat(found))
    between = torch.cat(values)
    if not 1 <= left <= len(between):
        return False
    threshold = between.kthvalue(left).values
    taken = between < threshold
    taken[positions(between == threshold)[: left - number(taken)]] = True
    for choice, place, picked in zip(chosen, places, torch.split(taken, [len(place) for place in places]), strict=True):
        choice[place[picked]] = True
    return True


def _bracket(flat: Sequence[tuple[Tensor, Tensor]], count: int, sign: int) -> tuple[Tensor, Tensor]:
    """Two values between which the threshold lies almost surely."""
    available = sum(number(among) for _, among in flat)
    # An odd stride walks through all columns of a matrix.
    stride = max(1, available // _SAMPLE) | 1
    sample = torch.cat([score[::stride][among[::stride]] for score, among in flat]) * sign
    share = count / available
    margin = 5 * math.sqrt(len(sample) * share * (1 - share)) + 8
    low, high = math.floor(share * len(sample) - margin), math.ceil(share * len(sample) + margin)
    lowest, highest = sample.new_tensor(-math.inf), sample.new_tensor(math.inf)
    return (
        sample.kthvalue(low).values if low >= 1 else lowest,
        sample.kthvalue(high).values if high <= len(sample) else highest,
    )


def _parts(score: Tensor, among: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Position, scores and candidates, part by part; an accelerator takes all at once."""
    size = _PART if score.device.type == "cpu" else max(1, len(score))
    for start in range(0, len(score), size):
        yield start, score[start : start + size], among[start : start + size]
