"""Channels by the block: what stays of a group is a multiple of what a device computes at a time. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search.surgery.channel import ChannelGroup


@dataclass(frozen=True)
class Row:
    """The open channels of one group.

    Args:
        size: Channels of the group, closed ones included.
        multiple: What stays is a multiple of it, >= 1.
        values: One per open channel, ascending: in which order they would go, comparable between the rows.
    """

    size: int
    multiple: int
    values: Sequence[float]

    @property
    def narrow(self) -> bool:
        """Whether the group has no two multiples: it stays whole while others can go."""
        return self.size <= self.multiple


def multiple(group: ChannelGroup, align: int) -> int:
    """How many channels of a group make its width a multiple of `align`: 1 for heads of that width."""
    parts = (*group.channels[0].produced, *group.channels[0].consumed)
    width = math.gcd(*(len(index[-1]) for _, index in parts))
    return align // math.gcd(align, max(1, width))


def leaving(missing: int, rows: Mapping[str, Row]) -> dict[str, int]:
    """How many channels of each row go, so that every group that loses any keeps a multiple, and never none.

    Blocks go by the mean of their values, as long as that brings the sum nearer to `missing`; narrow groups lose single
    channels, and only once nothing else is left to go. What was no multiple before is brought down to one.

    Args:
        missing: How many are to go in all.
        rows: The groups.

    Returns:
        Per row a number >= 0. The sum is within half the largest multiple of `missing`, unless the groups have fewer to
        give or more that must go to reach a multiple.
    """
    going = {name: _surplus(row) for name, row in rows.items()}
    left = missing - sum(going.values())
    blocks = sorted(
        (block for name, row in rows.items() if not row.narrow for block in _blocks(name, row, going[name])),
        key=lambda block: block[0],
    )
    for _, size, name in blocks:
        if size >= 2 * left:
            return going
        going[name] += size
        left -= size
    singles = sorted(
        ((value, name) for name, row in rows.items() if row.narrow for value in row.values[: len(row.values) - 1]),
        key=lambda single: single[0],
    )
    for _, name in singles[: max(0, left)]:
        going[name] += 1
    return going


def _surplus(row: Row) -> int:
    """What a group that has lost some already is above a multiple."""
    open_ = len(row.values)
    return open_ % row.multiple if row.multiple < open_ < row.size else 0


def _blocks(name: str, row: Row, gone: int) -> list[tuple[float, int, str]]:
    """Mean value, size and name of the blocks that can go after `gone` channels, in the order in which they go."""
    found = []
    while len(row.values) - gone > row.multiple:
        size = (len(row.values) - gone) % row.multiple or row.multiple
        found.append((sum(row.values[gone : gone + size]) / size, size, name))
        gone += size
    return found
