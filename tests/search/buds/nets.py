"""A parent and samples so small that everything about buds can be tried on them."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from objectives.task import Batch, Split
from search.buds.cut import Cut, cut
from search.buds.route import Router
from search.buds.system import System
from search.result import Budget, TrialRequest
from spaces.budding import BuddingPolicy
from spaces.profile import CompressionProfile


class Parent(nn.Module):
    """Images (N, 2, 4, 4) to 4 logits: a stem, a residual block and a head."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.stem = nn.Conv2d(2, 6, 3, padding=1)
            self.norm = nn.BatchNorm2d(6)
            self.inner = nn.Conv2d(6, 8, 3, padding=1)
            self.outer = nn.Conv2d(8, 6, 3, padding=1)
            self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.outer(F.relu(self.inner(x))))
        y: Tensor = self.head(x.mean((2, 3)))
        return y


#: The parent, trained once in a process.
_WEIGHTS: dict[str, Tensor] = {}


class Quarters:
    """Four classes: which channel is bright, and whether it is very bright; the parent is trained for a moment."""

    name = "quarters"

    def __init__(self, samples: int = 192) -> None:
        generator = torch.Generator().manual_seed(0)
        self._y = torch.randint(0, 4, (samples,), generator=generator)
        self._x = 0.3 * torch.randn(samples, 2, 4, 4, generator=generator)
        self._x[torch.arange(samples), self._y // 2] += (1.5 + 2.0 * (self._y % 2)).view(-1, 1, 1)

    def network(self) -> nn.Module:
        network = Parent()
        if not _WEIGHTS:
            with torch.random.fork_rng(), torch.enable_grad():
                optimizer = torch.optim.Adam(network.parameters(), 0.02)
                for _ in range(60):
                    optimizer.zero_grad()
                    self.loss(network(self._x), self._y).backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
            _WEIGHTS.update({name: value.clone() for name, value in network.state_dict().items()})
        network.load_state_dict(_WEIGHTS)
        return network.eval()

    def example_inputs(self) -> tuple[Tensor, ...]:
        return (self._x[:2],)

    def batches(self, split: Split, *, shuffle_seed: int | None) -> Iterable[Batch]:
        order = torch.arange(len(self._x))
        if shuffle_seed is not None:
            order = torch.randperm(len(order), generator=torch.Generator().manual_seed(shuffle_seed))
        return [(self._x[part], self._y[part]) for part in order.split(32)]  # type: ignore[no-untyped-call]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(dim=1) == targets).float()


def request(epochs: float = 2.0, iterations: int = 3, **knobs: Any) -> TrialRequest:
    """A trial of buds."""
    policy = BuddingPolicy.from_values({"stem": 0.4, "rank": 2, **knobs})
    return TrialRequest(0, "key", CompressionProfile.of(policy), 0, Budget(epochs, iterations))


@functools.cache
def parted(share: float = 0.4) -> Cut:
    """The parent, cut; nobody writes into it."""
    task = Quarters()
    return cut(task.network(), task.example_inputs(), share)


def system(buds: int = 2, *, assurance: float = 0.0, blend: int = 2, confidence: float = 0.7) -> System:
    """A system whose buds say a constant each, and whose router looks at the first channel's mean."""

    class Says(nn.Module):
        def __init__(self, index: int) -> None:
            super().__init__()
            self.index = index

        def forward(self, hidden: Tensor) -> Tensor:
            return F.one_hot(torch.full((len(hidden),), self.index), 4).float() * hidden.mean((1, 2, 3)).view(-1, 1)

    parts = parted()
    router = Router(6 * 16, buds)
    generator = torch.Generator().manual_seed(1)
    router.weight.copy_(torch.randn(router.weight.shape, generator=generator) * 0.3)
    router.reach.fill_(50.0)
    said = {index: Says(index) for index in range(buds)}
    return System(parts.stem, parts.tail, router, said, confidence=confidence, blend=blend, assurance=assurance)
