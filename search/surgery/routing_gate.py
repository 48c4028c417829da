"""A gate: for every sample it reads what enters a block, and says whether the block runs, or which of its channels.

Shapes: B samples, C channels that are read, P positions, U choices, W channels that are opened and shut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from objectives.execution import Gate


@dataclass(eq=False)
class Annealing:
    """How the gates of one network are trained just now; they share it, and a copy of the network does not train.

    Args:
        generator: Gives the noise.
        hard: Whether both paths are chosen between, not blended.
        tau: Temperature of the sigmoid.
        noise: Width of the logistic noise on a gate's value.
    """

    generator: torch.Generator
    hard: bool
    tau: float = 1.0
    noise: float = 0.0

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None


class RoutingGate(Gate):
    """z = w2 . relu(W1 . pooled(x)) + b, open where z > 0; what is pooled is centred and scaled by fixed numbers.

    In evaluation its outputs are exactly 0 or 1. In training they are the choice with a gradient through its
    probability, or the probability itself where both paths are blended.

    Args:
        channels: C.
        ndim: Dimensions of what it is multiplied with.
        units: U, one choice for all, or one per group of channels.
        hidden: Width of the hidden layer; 0: none.
        attends: Whether positions are weighted by a learned query rather than averaged.
        last: Whether channels stand in the last dimension (tokens), of x and of what is multiplied, not in
            dimension 1.
        width: W; 0 where it opens and shuts everything at once.
        forced: Per choice 1 (open), 0 (shut) or -1 (as z says); () where all are free.
    """

    member: Tensor
    center: Tensor
    scale: Tensor

    def __init__(
        self,
        channels: int,
        ndim: int,
        units: int = 1,
        hidden: int = 0,
        attends: bool = False,
        last: bool = False,
        width: int = 0,
        forced: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.channels, self.ndim, self.units, self.hidden = channels, ndim, units, hidden
        self.attends, self.last, self.width, self.forced = attends, last, width, tuple(forced)
        self.query = nn.Parameter(torch.zeros(channels)) if attends else None
        self.first = nn.Parameter(torch.zeros(hidden, channels)) if hidden else None
        self.second = nn.Parameter(torch.zeros(units, hidden or channels))
        self.bias = nn.Parameter(torch.zeros(units))
        self.register_buffer("center", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        if width:
            # Which choice each channel follows.
            self.register_buffer("member", torch.arange(width) * units // width)
        self.annealing: Annealing | None = None
        self.latest: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy has no part in the training step that the latest values belong to.
        return {**self.__dict__, "latest": None}

    @torch.no_grad()
    def start(self, bias: float, generator: torch.Generator) -> None:
        """Open for everything, and ready to learn: w2 = 0, b = `bias` > 0."""
        self.bias.fill_(bias)
        self.second.zero_()
        for weight, scale in ((self.first, 1.0), (self.query, 0.1)):
            if weight is not None:
                drawn = torch.randn(weight.shape, generator=generator) * scale / self.channels**0.5
                weight.copy_(drawn.to(weight))

    @torch.no_grad()
    def standardize(self, pooled_BC: Tensor) -> None:
        """Centre and scale what is read as these samples have it: else all of them look much alike to a gate."""
        self.center.copy_(pooled_BC.mean(0))
        self.scale.copy_(1 / pooled_BC.std(0).clamp_min(1e-3))

    @property
    def fixed(self) -> bool:
        """Whether every choice is the same for all samples."""
        return bool(self.forced) and -1 not in self.forced

    def reads(self) -> list[Tensor]:
        """The parameters whose last dimension counts the channels that are read."""
        return [w for w in (self.query, self.first if self.hidden else self.second) if w is not None]

    def parts(self) -> Tensor:
        """(U,): which share of what is governed each choice opens and shuts; 1 in all."""
        if not self.width:
            return torch.ones(1, device=self.bias.device)
        return torch.bincount(self.member, minlength=self.units) / max(1, self.width)

    def scores(self, x: Tensor) -> Tensor:
        """z, (B, U)."""
        pooled_BC = (self.pooled(x) - self.center) * self.scale
        if self.first is not None:
            pooled_BC = F.relu(F.linear(pooled_BC, self.first))
        return F.linear(pooled_BC, self.second, self.bias)

    def choices(self, z_BU: Tensor) -> Tensor:
        """Which of the choices are open, (B, U), of 0 and 1."""
        return self._settled((z_BU > 0).to(z_BU.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (B, C, ...), or (B, ..., C) where channels stand last.

        Returns:
            (B, 1, ..., 1), or with W channels where it opens and shuts these.
        """
        if self.fixed:
            return self._spread(torch.tensor(self.forced, dtype=x.dtype, device=x.device).expand(x.shape[0], -1))
        if not self.training or self.annealing is None:
            return self._spread(self.choices(self.scores(x))).to(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            z_BU = self.scores(x.float())
            self.latest = z_BU
            return self._spread(self._settled(self._tried(z_BU, self.annealing))).to(x.dtype)

    def _tried(self, z_BU: Tensor, annealing: Annealing) -> Tensor:
        if annealing.hard and annealing.noise > 0:
            u_BU = torch.rand(z_BU.shape, generator=annealing.generator).clamp(1e-6, 1 - 1e-6)
            z_BU = z_BU + annealing.noise * torch.logit(u_BU).to(z_BU.device)
        p_BU = torch.sigmoid(z_BU / annealing.tau)
        if not annealing.hard:
            return p_BU
        return (p_BU > 0.5).to(p_BU.dtype) - p_BU.detach() + p_BU

    def _settled(self, g_BU: Tensor) -> Tensor:
        if not self.forced:
            return g_BU
        forced_U = torch.tensor(self.forced, device=g_BU.device)
        return torch.where(forced_U < 0, g_BU, forced_U.to(g_BU.dtype))

    def _spread(self, g_BU: Tensor) -> Tensor:
        if not self.width:
            return g_BU.view(-1, *[1] * (self.ndim - 1))
        g_BW = g_BU[:, self.member]
        places = [1] * (self.ndim - 2)
        return g_BW.view(len(g_BW), *places, -1) if self.last else g_BW.view(len(g_BW), -1, *places)

    def pooled(self, x: Tensor) -> Tensor:
        """What is read of each channel, (B, C)."""
        if x.ndim == 2:
            return x
        if self.query is None:
            return x.mean(tuple(range(1, x.ndim - 1)) if self.last else tuple(range(2, x.ndim)))
        x_BPC = x.flatten(1, -2) if self.last else x.flatten(2).transpose(1, 2)
        weight_BP = torch.softmax(x_BPC @ self.query, dim=1)
        return torch.einsum("bp,bpc->bc", weight_BP, x_BPC)
