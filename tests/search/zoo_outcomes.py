"""What becomes of every network of the zoo at every granularity: once each, end to end, for the tests and the docs.

A network is traced once; each operation works on a copy: it attaches, trains a few steps, lets go, removes and stores.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from objectives.maskable import maskable
from objectives.size import nonzeros
from objectives.task import Batch, Split
from search.export import read_network, save_network
from search.finetune import Finetuning, in_fast_layout
from search.recipe import Recipe
from search.surgery.channels import ChannelGroup
from search.surgery.connectivity import Connectivity
from search.surgery.finalize import finalize
from search.surgery.mechanisms import mechanisms_for
from search.surgery.network import prepared
from search.surgery.optimizer import TrainingOptimizer
from search.surgery.site import Site
from spaces import PruningPolicy, ReconnectionPolicy
from spaces.errors import PleachError
from spaces.profile import CompressionProfile
from tests.search.zoo import bred

STEPS = 6
_CUT = {"sparsity": 0.5, "schedule": "gradual", "interval": 0.3, "last_prune": 0.5}
_AGAIN = ReconnectionPolicy(interval=0.3, t_end=0.9, zeta=0.4)
#: Every granularity, by the title of its column.
OPERATIONS: Mapping[str, CompressionProfile] = {
    "weights": CompressionProfile.of(PruningPolicy.from_values(_CUT)),
    "2:4": CompressionProfile.of(PruningPolicy(granularity="nm", criterion="gradient", interval=0.3, last_prune=0.5)),
    "channels": CompressionProfile.of(PruningPolicy.from_values(_CUT | {"granularity": "channel"})),
    "regrown weights": CompressionProfile.of(PruningPolicy.from_values(_CUT), _AGAIN),
    "regrown channels": CompressionProfile.of(
        PruningPolicy.from_values(_CUT | {"granularity": "channel"}),
        ReconnectionPolicy(interval=0.3, t_end=0.9, zeta=0.4, granularity="channel"),
    ),
    "edges": CompressionProfile.of(
        PruningPolicy.from_values(_CUT),
        ReconnectionPolicy(interval=0.3, t_end=0.9, zeta=0.4, radius=2, across=0.5),
    ),
}


@dataclass(frozen=True)
class Subject:
    """A network of the zoo, ready for surgery.

    Args:
        network: Traced where it can be.
        untraceable: Why not, else "".
        inputs: Example inputs.
        groups: Its removable channels.
    """

    network: nn.Module
    untraceable: str
    inputs: tuple[Tensor, ...]
    groups: tuple[ChannelGroup, ...]


@dataclass(frozen=True)
class Outcome:
    """What one operation did to one network.

    Args:
        refusal: The error's message where the operation was refused; all else is then empty.
        created: Connections created.
        pruned: Connections pruned.
        edges: Edges that stand in the end.
        closed: Channels that were masked in the end.
        parameters: Before and after, the edges' own left out.
        difference: Between the outputs attached and finalized, relative to the largest output.
        restored: The same between finalized and read back from its files.
        booked: Active connections by the books, and the non-zeros of the finalized network.
    """

    refusal: str = ""
    created: int = 0
    pruned: int = 0
    edges: int = 0
    closed: int = 0
    parameters: tuple[int, int] = (0, 0)
    difference: float = 0.0
    restored: float = 0.0
    booked: tuple[int, int] = (0, 0)

    def faults(self, operation: str) -> list[str]:
        """What is not as it must be where the operation was not refused; nothing may be right by doing nothing."""
        if self.refusal:
            return []
        right = {
            "nothing was switched off": self.pruned > 0,
            "the books do not count the non-zeros": self.booked[0] == self.booked[1] > 0,
            f"finalizing changes the outputs by {self.difference:.1e}": self.difference < 1e-4,
            f"reading back changes the outputs by {self.restored:.1e}": self.restored < 1e-5,
            "nothing came back": self.created > 0 or "regrown" not in operation,
            "no edge stands": self.edges > 0 or operation != "edges",
            "no channel went": self.closed > 0 or "channels" not in operation,
            "the network is no smaller": self.parameters[1] < self.parameters[0] or "channels" not in operation,
        }
        return [fault for fault, holds in right.items() if not holds]


class Noise:
    """A task without sense: inputs like the examples, targets at random. Enough to move every weight."""

    def __init__(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._network, self._inputs = network, inputs

    def network(self) -> nn.Module:
        return copy.deepcopy(self._network)

    def example_inputs(self) -> tuple[Tensor, ...]:
        return self._inputs

    def batches(self, split: Split, *, shuffle_seed: int | None) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(shuffle_seed or 0)
        for _ in range(4):
            order = torch.randperm(len(self._inputs[0]), generator=generator)
            inputs = tuple(
                x + 0.3 * torch.randn(x.shape, generator=generator) if x.is_floating_point() else x[order]
                for x in self._inputs
            )
            yield inputs, torch.randn(len(order), generator=generator)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.flatten(1) - targets[:, None]).square().mean()

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return -(outputs.flatten(1) - targets[:, None]).square().mean(1)


@cache
def subject(name: str) -> Subject:
    """A network, traced once."""
    network, inputs = bred(name)
    prepared_, untraceable = prepared(network, inputs)
    prepared_ = in_fast_layout(prepared_)
    site = _site(prepared_, untraceable, inputs, CompressionProfile())
    return Subject(prepared_, untraceable, inputs, site.channel_groups())


@cache
def outcome(name: str, operation: str) -> Outcome:
    """What an operation does to a network; what is refused with a message is an outcome, all else is raised."""
    torch.manual_seed(0)
    known, profile = subject(name), OPERATIONS[operation]
    site = site_of(known, profile)
    before = sum(parameter.numel() for parameter in site.network.parameters())
    mechanisms = mechanisms_for(profile)
    try:
        for mechanism in mechanisms:
            mechanism.attach(site)
        assert site.task is not None
        Finetuning(site, mechanisms, site.task, Recipe(), start=0.02, seed=0).train(until=STEPS, iteration=0)
        with torch.no_grad():
            attached = site.network.eval()(*known.inputs)
        network = finalize(site, mechanisms)
    except PleachError as error:
        return Outcome(refusal=str(error))
    with torch.no_grad():
        finalized = network(*known.inputs)
    after = sum(p.numel() for n, p in network.named_parameters() if not n.startswith("edges."))
    ledger = site.connectivity.ledger()
    return Outcome(
        created=ledger.created(),
        pruned=ledger.pruned(),
        edges=int(site.receipts.get("reconnection", {}).get("edges", 0)),
        closed=len(site.connectivity.closed),
        parameters=(before, after),
        difference=_apart(attached, finalized),
        restored=_apart(finalized, _restored(network, known, attached)),
        booked=(sum(ledger.active().values()), nonzeros(network)),
    )


def site_of(known: Subject, profile: CompressionProfile) -> Site:
    """A site over a copy of a network."""
    return _site(copy.deepcopy(known.network), known.untraceable, known.inputs, profile)


def covered(name: str) -> tuple[int, int]:
    """Layers of which channels can be removed, and all."""
    known = subject(name)
    computed = {weight for group in known.groups for channel in group.channels for weight, _ in channel.produced}
    return len(computed), len(maskable(known.network))


def _site(network: nn.Module, untraceable: str, inputs: tuple[Tensor, ...], profile: CompressionProfile) -> Site:
    connectivity = Connectivity(network)
    optimizer = TrainingOptimizer.from_recipe(network.parameters(), Recipe(learning_rate=0.02))
    connectivity.optimizer = optimizer
    return Site(
        network=network,
        profile=profile,
        connectivity=connectivity,
        generator=torch.Generator().manual_seed(0),
        steps=STEPS,
        example_inputs=inputs,
        optimizer=optimizer,
        task=Noise(network, inputs),
        untraceable=untraceable,
    )


def _restored(network: nn.Module, known: Subject, like: Tensor) -> Tensor:
    """What the network computes when it has been written and read again."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        described = save_network(Path(folder), network, known.inputs)
        given = copy.deepcopy(network) if described.get("rebuild") is not None else None
        outputs: Tensor = read_network(Path(folder), given)(*known.inputs)
    return outputs


def _apart(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        return float("inf")
    return float((one - other).abs().max() / one.abs().max().clamp_min(1e-6))
