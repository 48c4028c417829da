"""Where mechanisms work: one network under surgery, with its graph, its connections and its optimizer."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from search.surgery.connectivity import Connectivity
from search.surgery.optimizer import TrainingOptimizer
from spaces.profile import CompressionProfile


@dataclass
class Site:
    """One network under surgery.

    Args:
        network: The network; a traced one where torch.fx can trace it.
        profile: What is asked for.
        connectivity: Its masks and books.
        generator: The only source of random choices.
        steps: Optimizer steps of the whole trial.
        example_inputs: ``network(*example_inputs)`` runs; dimension 0 is the batch.
        optimizer: None while nothing is trained.
        untraceable: Why torch.fx cannot trace the network; "" where it can.
        receipts: What the mechanisms that have finished report, by policy.
    """

    network: nn.Module
    profile: CompressionProfile
    connectivity: Connectivity
    generator: torch.Generator
    steps: int
    example_inputs: tuple[Tensor, ...]
    optimizer: TrainingOptimizer | None = None
    untraceable: str = ""
    receipts: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def graph(self) -> fx.GraphModule | None:
        """The traced network, or None where it cannot be traced."""
        return self.network if isinstance(self.network, fx.GraphModule) else None

    def copy(self) -> Site:
        """The same network and masks apart from this one: for a look at what would come of it. It is not trained."""
        network = copy.deepcopy(self.network)
        generator = torch.Generator()
        generator.set_state(self.generator.get_state())
        return Site(
            network=network,
            profile=self.profile,
            connectivity=self.connectivity.copy_onto(network),
            generator=generator,
            steps=self.steps,
            example_inputs=self.example_inputs,
            untraceable=self.untraceable,
        )
