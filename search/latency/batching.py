"""A batch of any size from example inputs: dimension 0 is repeated or cut."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def batch_of(inputs: Sequence[Tensor], size: int) -> tuple[Tensor, ...]:
    """The inputs with `size` samples; every tensor has the batch in dimension 0."""
    made = []
    for value in inputs:
        count = value.shape[0] if value.dim() else 0
        if not count:
            made.append(value)
            continue
        times = [-(-size // count), *[1] * (value.dim() - 1)]
        made.append(value.repeat(times)[:size].contiguous())
    return tuple(made)
