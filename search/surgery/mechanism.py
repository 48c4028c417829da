"""What every mechanism is: a verb with a receipt. It never samples, logs, saves or scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

if TYPE_CHECKING:
    from search.surgery.site import Site

Receipt = Mapping[str, float]


@dataclass(frozen=True)
class Clock:
    """Where the training loop is.

    Args:
        step: The optimizer step, from 0.
        steps: How many the trial has in all.
        iteration: The iteration, from 0.
    """

    step: int
    steps: int
    iteration: int


class Mechanism(ABC):
    """One policy at work on one network. Only `attach` and `finish` must be written; the rest does nothing."""

    #: The policy's name, under which the ledger books what it does.
    name: ClassVar[str]

    @abstractmethod
    def attach(self, site: Site) -> None:
        """Take hold of the network; its evaluation outputs stay as they are."""

    @abstractmethod
    def finish(self) -> Receipt:
        """Let go of the network and say in numbers what was done."""

    def penalty(self) -> Tensor | None:
        """A term of the training loss, a scalar, or None."""
        return None

    def before_forward(self, clock: Clock) -> None:
        """Called before each training step's forward pass: the place to start listening to activations."""

    def after_backward(self, clock: Clock) -> None:
        """Called when the gradients of all weights, inactive ones too, are there and none is masked yet."""

    def after_step(self, clock: Clock) -> None:
        """Called after the optimizer's step."""

    def end_of_iteration(self, clock: Clock, score: float | None) -> None:
        """Called after each iteration with the validation score, None where it was not measured."""

    def figures(self) -> Mapping[str, float]:
        """What is worth a curve, at the end of an iteration: ``<name>`` or ``<name>/<place>``, e.g. a layer's."""
        return {}

    def project(self, site: Site) -> None:
        """Bring `site`, a copy, to this mechanism's end state at once: what early stopping compares."""

    def structure(self) -> object:
        """What this mechanism has added to the graph, JSON-able; `rebuild` adds it to another network."""
        return None

    def rebuild(self, structure: object) -> None:
        """Add to the graph what `structure` tells of, before weights and masks are loaded."""

    def state(self) -> dict[str, Tensor]:
        """Everything that `load_state` needs to go on as if nothing had happened."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
