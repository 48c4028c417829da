"""What a finished trial hands to the objectives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from spaces.ledger import Ledger
from spaces.profile import CompressionProfile


@dataclass(frozen=True)
class Outcome:
    """A compressed network beside what it came from.

    Args:
        network: The finalized, plain network, in eval mode, on the CPU.
        baseline: The objectives of the network before compression, by name.
        ledger: What was switched on and off.
        profile: What was asked for.
        measured: Figures that need data or a clock and so were taken by the trial: ``accuracy`` (mean score on the
            validation split), a task's own metrics, the plasticity counts (``survived``, ``ever_pruned`` ...),
            ``latency_ms``.
        inputs: Example inputs, ``network(*inputs)`` runs; dimension 0 is the batch.
    """

    network: nn.Module
    baseline: Mapping[str, float]
    ledger: Ledger
    profile: CompressionProfile
    measured: Mapping[str, float] = field(default_factory=dict)
    inputs: tuple[object, ...] = ()
