"""The ledger of connections: what was switched on and off, by whom and why. Numbers only, no tensors.

The unit is one scalar weight. An identity edge counts as C connections, a unit pair as 1, a 1x1 projection as its
active entries, so every entry stands for the same thing: one multiplication by one learnt or fixed number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spaces import reading

#: Above every count.
MOST = 2**63
#: Reasons that describe bookkeeping rather than a policy's decision; they do not enter the plasticity ratio.
OUTSIDE_RATIO = frozenset({"zero"})


@dataclass(frozen=True)
class Event:
    """One change to one layer.

    Args:
        iteration: The iteration of the training loop in which it happened, from 0.
        layer: Qualified name of the weight, e.g. ``layer1.0.conv1.weight``.
        policy: The policy that asked for it, e.g. ``pruning``.
        reason: Why, in the policy's words, e.g. ``magnitude``, ``gradient``, ``coupled``, ``zero``.
        created: Connections switched on, >= 0.
        pruned: Connections switched off, >= 0.
    """

    iteration: int
    layer: str
    policy: str
    reason: str
    created: int
    pruned: int


@dataclass(frozen=True)
class Ledger:
    """All events of one trial, and where the books started.

    The books balance: for each layer and in total ``active = active_at_start - pruned + created``, and that equals a
    recount of the masks at every iteration.

    Args:
        events: In the order in which they happened.
        active_at_start: Connections active before the first event, per layer.
        receipts: What each policy reports of its own work when it finishes, numbers only: ``{policy: {name: value}}``.
    """

    events: tuple[Event, ...] = ()
    active_at_start: Mapping[str, int] = field(default_factory=dict)
    receipts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def active(self) -> dict[str, int]:
        """Connections active after the last event, per layer."""
        active = dict(self.active_at_start)
        for event in self.events:
            active[event.layer] = active.get(event.layer, 0) + event.created - event.pruned
        return active

    def created(self) -> int:
        """Connections created over the whole trial, by decisions that enter the ratio."""
        return sum(event.created for event in self.events if event.reason not in OUTSIDE_RATIO)

    def pruned(self) -> int:
        """Connections pruned over the whole trial, by decisions that enter the ratio."""
        return sum(event.pruned for event in self.events if event.reason not in OUTSIDE_RATIO)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form; the inverse of :meth:`from_dict`."""
        return {
            "events": [[e.iteration, e.layer, e.policy, e.reason, e.created, e.pruned] for e in self.events],
            "active_at_start": dict(self.active_at_start),
            "receipts": {policy: dict(values) for policy, values in self.receipts.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Ledger:
        """Read what :meth:`to_dict` wrote.

        Raises:
            ValueError: If it is something else.
            KeyError: If something is missing.
        """
        data = reading.table(data, "ledger")
        start = reading.table(data["active_at_start"], "active_at_start")
        receipts = reading.table(data["receipts"], "receipts")
        return cls(
            events=tuple(_event(row) for row in reading.rows(data["events"], "events")),
            active_at_start={layer: reading.count(n, f"active_at_start.{layer}") for layer, n in start.items()},
            receipts={policy: reading.numbers(values, f"receipts.{policy}") for policy, values in receipts.items()},
        )


def _event(row: object) -> Event:
    values = reading.rows(row, "an event")
    if len(values) != 6:
        raise ValueError(f"an event must have 6 values, but has {len(values)}")
    iteration, layer, policy, reason, created, pruned = values
    if (
        type(iteration) is type(created) is type(pruned) is int
        and type(layer) is type(policy) is type(reason) is str
        and 0 <= iteration < MOST
        and 0 <= created < MOST
        and 0 <= pruned < MOST
    ):
        return Event(iteration, layer, policy, reason, created, pruned)  # a study has a hundred thousand of them
    return Event(
        reading.count(iteration, "iteration"),
        reading.text(layer, "layer"),
        reading.text(policy, "policy"),
        reading.text(reason, "reason"),
        reading.count(created, "created"),
        reading.count(pruned, "pruned"),
    )
