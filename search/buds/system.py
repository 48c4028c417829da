"""A parent and its buds as one: a stem, a router, and who answers which request. Every request has an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from objectives.cost import count
from objectives.size import stored
from objectives.task import Inputs, call, move
from search.buds.route import Router, shares
from spaces.errors import NetworkError


@dataclass(frozen=True, eq=False)
class Answer:
    """What a system says to a batch of requests.

    Args:
        outputs: (batch, ...): as the parent's.
        weights: (batch, K): each bud's part in them; rows sum to 1, or to 0 where the parent's answer stands.
        ran: (batch, K) boolean: which buds ran, also where their answer did not stand.
    """

    outputs: Tensor
    weights: Tensor
    ran: Tensor

    @property
    def asked(self) -> Tensor:
        """(batch,) boolean: where the parent answered."""
        return self.weights.sum(1) == 0


@dataclass(frozen=True, eq=False)
class System:
    """A parent and its buds, in evaluation mode on the CPU.

    Args:
        stem: What all share.
        parent: The parent's tail.
        router: Tells the sub-task.
        buds: Per sub-task, 0 to K - 1, its bud; one that is missing is the parent's business.
        confidence: See `search.buds.route.shares`.
        blend: See there.
        assurance: Below this probability of the likeliest class a bud's answer does not stand; 0 lets all stand.
    """

    stem: nn.Module
    parent: nn.Module
    router: Router
    buds: Mapping[int, nn.Module] = field(default_factory=dict)
    confidence: float = 0.8
    blend: int = 2
    assurance: float = 0.0

    @property
    def subtasks(self) -> int:
        """K."""
        return len(self.router.bias)

    def having(self, buds: Mapping[int, nn.Module]) -> System:
        """The same parent with other buds.

        Raises:
            NetworkError: If a bud is for a sub-task that the router does not know.
        """
        unknown = [index for index in buds if not 0 <= index < self.subtasks]
        if unknown:
            raise NetworkError(f"a bud's sub-task must be one of {self.subtasks}, but is {unknown[0]}: count from 0")
        return replace(self, buds=dict(buds))

    @torch.no_grad()
    def answer(self, inputs: Inputs) -> Answer:
        """Answer each request on its own, in groups that go to the same bud."""
        hidden = call(self.stem, inputs)
        weights = self.routed(hidden)
        outputs, answered = self._from_buds(hidden, weights)
        asked = weights.sum(1) == 0
        if self.assurance > 0 and answered and outputs.ndim == 2:
            # NaN is no assurance either.
            asked = asked | ~(outputs.softmax(1).amax(1) >= self.assurance)
        if bool(asked.any()):
            taught = self.parent(hidden[asked])
            if not answered:
                outputs = taught.new_zeros((len(hidden), *taught.shape[1:]))
            outputs[asked] = taught.to(outputs.dtype)
        return Answer(outputs, weights.masked_fill(asked.unsqueeze(1), 0.0), weights > 0)

    def routed(self, hidden: Tensor) -> Tensor:
        """Each bud's part in the answer to each request, (batch, K); a row of zeros is the parent's."""
        likely, known = self.router(hidden)
        present = torch.tensor([index in self.buds for index in range(self.subtasks)])
        return shares(likely, known, present, self.confidence, self.blend)

    def _from_buds(self, hidden: Tensor, weights: Tensor) -> tuple[Tensor, bool]:
        """The blended outputs, and whether there are any; 0 where no bud was asked."""
        outputs: Tensor | None = None
        # In the order of the sub-tasks, never of the weights: a blend does not depend on who comes first.
        for index in sorted(self.buds):
            where = (weights[:, index] > 0).nonzero()[:, 0]
            if not len(where):
                continue
            said = self.buds[index](hidden[where])
            if outputs is None:
                outputs = said.new_zeros((len(hidden), *said.shape[1:]))
            part = weights[where, index].view(-1, *([1] * (said.ndim - 1)))
            outputs.index_add_(0, where, said * part.to(said.dtype))
        return (outputs, True) if outputs is not None else (hidden.new_zeros(0), False)


class AsNetwork(nn.Module):
    """A system as a network: for metrics that want one."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self._system = system

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """What the system answers."""
        given: Inputs = named or (inputs if len(inputs) != 1 else inputs[0])
        return self._system.answer(move(given, "cpu")).outputs


@dataclass(frozen=True)
class Costs:
    """Multiply-accumulates per request, part by part, and what is stored.

    Args:
        stem: Of what all share, the router included.
        parent: Of the parent's tail.
        buds: Per sub-task.
        parameters: Numbers stored, of all parts.
        size_bytes: Bytes of their safetensors.
    """

    stem: float
    parent: float
    buds: Mapping[int, float]
    parameters: float
    size_bytes: float

    def expected(self, use: Sequence[float], asked: float) -> float:
        """Per request, given how often each bud runs and how often the parent does."""
        return (
            self.stem + sum(self.buds[i] * share for i, share in enumerate(use) if i in self.buds) + asked * self.parent
        )


def costs(system: System, example_inputs: tuple[Tensor, ...], hidden: Tensor) -> Costs:
    """Count the parts of a system, each by what it really runs."""
    parts: list[nn.Module] = [system.stem, system.parent, *system.buds.values()]
    return Costs(
        stem=_macs(system.stem, example_inputs) + system.router.macs,
        parent=_macs(system.parent, (hidden,)),
        buds={index: _macs(bud, (hidden,)) for index, bud in system.buds.items()},
        parameters=float(sum(p.numel() for part in parts for p in part.parameters()) + system.router.macs),
        size_bytes=float(sum(len(stored(part)) for part in [*parts, system.router])),
    )


def _macs(network: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    return sum(layer.macs for layer in count(network, inputs).values())
