"""What the sparsity would be by now if no connection changed its place: the reference that the controller follows.

Sparsity follows the target only when the wave's crest comes, and the cooling has passed. A controller that saw this lag
as an error would wind up over it and overshoot; so it compares with a layer that has the same waves and the same lag.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from search.surgery.resonance_layer import OFF, LayerMemory

#: Connections of the reference.
PLACES = 1000


class Reference:
    """A layer whose connections stand evenly over [0, 1] and stay there, governed like any other.

    Args:
        cooling: Decisions below the threshold until a connection goes, and off until it may come back.
    """

    def __init__(self, cooling: int) -> None:
        self._cooling = cooling
        self._places = (torch.arange(PLACES) + 0.5) / PLACES
        self._memory = LayerMemory(nn.Parameter(torch.zeros(PLACES)))
        self._mask = torch.ones(PLACES, dtype=torch.bool)

    @property
    def sparsity(self) -> float:
        """Share that is off."""
        return 1 - int(self._mask.count_nonzero()) / PLACES

    def decide(self, threshold: float, returning: float) -> None:
        """One decision.

        Args:
            threshold: Connections below it are counted, and go.
            returning: Those at it or above come back.
        """
        reaches, returns = self._places >= threshold, self._places >= returning
        switch = self._memory.decide(self._mask, reaches, returns, self._cooling)
        self._memory.count.masked_fill_(switch.disable, OFF).masked_fill_(switch.restore, 0)
        self._mask = (self._mask & ~switch.disable) | switch.restore

    def state(self) -> dict[str, Tensor]:
        return {"count": self._memory.count.clone(), "mask": self._mask.clone()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._memory.count.copy_(state["count"])
        self._mask = state["mask"].cpu().clone()
