"""Where mechanisms work: one network under surgery, with its graph, its connections and its optimizer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from objectives.task import Batch, Task
from search.resources import ResourceManager
from search.surgery.channels import Channel, ChannelGroup, groups
from search.surgery.connectivity import Connectivity
from search.surgery.granularity_units import bypassed
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
        task: Whose batches are looked at where a mechanism must probe the network.
        device: Where the network is.
        seed: Decides which batches those are.
        barred: Whether no edge may start at the one node and end at the other.
        resources: Holds numbers to what the machine has to spare; None where nothing is limited.
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
    task: Task | None = None
    device: str = "cpu"
    seed: int = 0
    barred: Callable[[fx.Node, fx.Node], bool] | None = None
    resources: ResourceManager | None = None
    _groups: tuple[ChannelGroup, ...] | None = None

    @property
    def graph(self) -> fx.GraphModule | None:
        """The traced network, or None where it cannot be traced."""
        return self.network if isinstance(self.network, fx.GraphModule) else None

    def batches(self, count: int, step: int) -> list[Batch]:
        """A few training batches to look at, others at every step, the same for the same seed.

        Raises:
            ValueError: If the site was made without a task.
        """
        if self.task is None:
            raise ValueError("site.task must be set where a mechanism probes the network, but is None: give it a task")
        stream = self.task.batches("train", shuffle_seed=self.seed * 100_003 + step)
        return [batch for _, batch in zip(range(count), stream, strict=False)]

    def channel_groups(self) -> tuple[ChannelGroup, ...]:
        """The groups of channels that can be removed from the network as it stands now."""
        if self._groups is None:
            with bypassed(self.network):
                self._groups = groups(self.network, self.example_inputs)
        return self._groups

    def rewired(self) -> bool:
        """Call after the graph has changed: channels are coupled anew.

        Returns:
            Whether every masked channel can still be removed.
        """
        self._groups = None
        return self.connectivity.closed.keys() <= self._channels().keys()

    def recouple(self) -> None:
        """Call after a new weight has been adopted: masked channels also cover what it reads or computes of them."""
        self.connectivity.recouple(self._channels())

    def _channels(self) -> dict[tuple[str, int], Channel]:
        if not self.connectivity.closed:
            return {}
        return {channel.key: channel for group in self.channel_groups() for channel in group.channels}

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
            task=self.task,
            device=self.device,
            seed=self.seed,
        )
