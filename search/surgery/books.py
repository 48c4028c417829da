"""The books of connections while they are written: what every change of one reason comes to, by iteration and layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from spaces.ledger import Event, Ledger


class Books:
    """Lines of created and pruned connections, and how many are active by them.

    Args:
        active: Connections per layer at the start.
    """

    def __init__(self, active: Mapping[str, int]) -> None:
        self.start = dict(active)
        self.active = dict(active)
        self.iteration = 0
        self._lines: dict[tuple[int, str, str, str], tuple[int, int]] = {}

    def enter(self, layer: str) -> None:
        """A layer joins with nothing active; one that was there before goes on with its lines."""
        self.active[layer] = 0
        self.start.setdefault(layer, 0)

    def write(self, layer: str, policy: str, reason: str, created: int, pruned: int) -> None:
        """Book a change; changes of one reason within one iteration and layer stand in one line."""
        self.active[layer] += created - pruned
        key = (self.iteration, layer, policy, reason)
        before = self._lines.get(key, (0, 0))
        self._lines[key] = (before[0] + created, before[1] + pruned)

    def ledger(self, receipts: Mapping[str, Mapping[str, float]] | None = None) -> Ledger:
        """The books so far."""
        events = tuple(Event(*key, created, pruned) for key, (created, pruned) in self._lines.items())
        return Ledger(events, dict(self.start), dict(receipts or {}))

    def state(self) -> dict[str, Tensor]:
        """The lines as tensors; the inverse of :meth:`load_state`."""
        names = list(self.start)
        policies, reasons = sorted({key[2] for key in self._lines}), sorted({key[3] for key in self._lines})
        rows = [
            [iteration, names.index(layer), policies.index(policy), reasons.index(reason), created, pruned]
            for (iteration, layer, policy, reason), (created, pruned) in self._lines.items()
        ]
        return {
            "books": torch.tensor(rows, dtype=torch.int64).reshape(-1, 6),
            "layers": _encode(names),
            "starts": torch.tensor(list(self.start.values()), dtype=torch.int64),
            "policies": _encode(policies),
            "reasons": _encode(reasons),
            "iteration": torch.tensor(self.iteration),
        }

    def load_state(self, state: Mapping[str, Tensor], recount: Mapping[str, int]) -> None:
        """Take up what :meth:`state` gave.

        Args:
            state: May hold more than that.
            recount: Active connections per layer, counted from the masks; a layer that has left has none.
        """
        names, starts = _decode(state["layers"]), state["starts"].tolist()
        policies, reasons = _decode(state["policies"]), _decode(state["reasons"])
        self.start = dict(zip(names, starts, strict=True))
        self.active = dict.fromkeys(names, 0) | dict(recount)
        self.iteration = int(state["iteration"])
        self._lines = {
            (iteration, names[layer], policies[policy], reasons[reason]): (created, pruned)
            for iteration, layer, policy, reason, created, pruned in state["books"].tolist()
        }


def _encode(words: Iterable[str]) -> Tensor:
    return torch.tensor(list("\n".join(words).encode()), dtype=torch.uint8)


def _decode(encoded: Tensor) -> list[str]:
    return bytes(encoded.tolist()).decode().split("\n")
