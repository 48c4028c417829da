"""The trials of a study's final front, as the record takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

#: At most so many networks of a front are kept, and the champion.
MODELS_KEPT = 3


@dataclass(frozen=True)
class FrontMember:
    """One trial of the final front.

    Args:
        number: The trial.
        champion: Whether it is the best one.
        files: Texts to keep with its run by name, e.g. ``layers.html``.
        network: The finalized network in eval mode on the CPU; None where its weights are gone.
        inputs: Example inputs of at least two samples.
    """

    number: int
    champion: bool = False
    files: Mapping[str, str] = field(default_factory=dict)
    network: nn.Module | None = None
    inputs: tuple[Tensor, ...] = ()
