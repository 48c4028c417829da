"""The rows of a layer's weight at levels of their own: as runs, as what lies together, as codes and as packed bytes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from search.surgery import granularity_codes as codes
from spaces.errors import ExportError

#: Runs of output channels: bits and how many.
Rows = tuple[tuple[int, int], ...]
#: Rows of one kind: the kind, from, to (not included).
Segment = tuple[str, int, int]
LEVELS = (32, 16, 8, 4, 2)


def segments(bits: Sequence[int]) -> list[Segment]:
    """Rows of one kind that lie together: ``full``, ``half`` or ``coded``, from, to (not included)."""
    found, start = [], 0
    for kind, rows in itertools.groupby(bits, key=kind_of):
        stop = start + sum(1 for _ in rows)
        found.append((kind, start, stop))
        start = stop
    return found


def kind_of(bits: int) -> str:
    """How numbers of so many bits are held."""
    return "full" if bits > 16 else "half" if bits == 16 else "coded"


def coded(weight: Tensor, bits: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Codes of rows at levels of their own, and what code 1 is worth in each: (O, ...) int8, (O,)."""
    scale = codes.scales(weight)
    whole = codes.encode(weight, scale)
    if len(set(bits)) == 1:
        return codes.nested(whole, bits[0]), scale * (1 << (8 - bits[0]))
    parts, factors, start = [], [], 0
    for level, rows in itertools.groupby(bits):
        count = sum(1 for _ in rows)
        parts.append(codes.nested(whole[start : start + count], level))
        factors += [1 << (8 - level)] * count
        start += count
    return torch.cat(parts), scale * torch.tensor(factors, device=scale.device, dtype=scale.dtype)


def decoded(weight: Tensor, bits: Sequence[int]) -> Tensor:
    """Rows as they are at levels of their own."""
    whole, scale = coded(weight, bits)
    return whole.to(scale.dtype) * codes.rows(scale, whole)


def checked(rows: object, count: int) -> Rows:
    """Runs of rows as a file gives them.

    Raises:
        ExportError: If they are no runs of known levels that make up so many rows.
    """
    good = isinstance(rows, tuple | list) and all(
        isinstance(run, tuple | list) and len(run) == 2 and run[0] in LEVELS and type(run[1]) is int and run[1] > 0
        for run in rows
    )
    if not good or sum(run[1] for run in cast(Rows, rows)) != count:
        raise ExportError(
            f"a layer of codes must say the bits of all of its {count} rows, but does not: export it again"
        )
    return tuple((int(bits), int(number)) for bits, number in cast(Rows, rows))


def packed(values: Tensor, bits: int) -> Tensor:
    """Codes as bytes, the first in the lowest bits.

    Args:
        values: (O, K) int8 in [-2^(bits-1), 2^(bits-1)).
        bits: 8 (as they are), 4 or 2.

    Returns:
        (O, ceil(K * bits / 8)), uint8 for 4 and 2.
    """
    if bits == 8:
        return values.contiguous()
    each = 8 // bits
    wide = F.pad(values.to(torch.int16) & ((1 << bits) - 1), (0, -values.shape[1] % each))
    parts = wide.view(len(values), -1, each)
    return sum((parts[..., i] << (bits * i) for i in range(each)), torch.zeros_like(parts[..., 0])).to(torch.uint8)


def unpacked(values: Tensor, bits: int, count: int) -> Tensor:
    """The inverse of `packed`: (O, count) int8."""
    if bits == 8:
        return values
    each, half = 8 // bits, 1 << (bits - 1)
    wide = values.to(torch.int16)
    parts = torch.stack([(wide >> (bits * i)) & ((1 << bits) - 1) for i in range(each)], -1)
    return (((parts ^ half) - half).flatten(1)[:, :count]).to(torch.int8).contiguous()


def runs(bits: Sequence[int]) -> Rows:
    """Levels of rows as runs."""
    found: list[tuple[int, int]] = []
    for level in bits:
        if found and found[-1][0] == level:
            found[-1] = (level, found[-1][1] + 1)
        else:
            found.append((level, 1))
    return tuple(found)


def positions(rows: Rows, bits: int) -> Tensor:
    """Where the rows of a level lie."""
    found: list[int] = []
    start = 0
    for level, count in rows:
        if level == bits:
            found += range(start, start + count)
        start += count
    return torch.tensor(found, dtype=torch.int64)
