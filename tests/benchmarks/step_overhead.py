"""What surgery costs: training steps with pruning and reconnection on, against the plain steps of the same run.

    python -m tests.benchmarks.step_overhead --json

The blocks of the two alternate, so that whatever else the machine does hits both. The timed steps hold all cuts of a
gradual schedule and at least five cycles of growth by gradient; the counts of what was created and pruned are printed,
because a step in which nothing happens is cheap.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from objectives.task import Batch, Split
from objectives.tasks.resnet import ResNet
from search.finetune import Finetuning
from search.recipe import Recipe
from search.surgery.connectivity import Connectivity
from search.surgery.mechanisms import mechanisms_for
from search.surgery.optimizer import TrainingOptimizer
from search.surgery.site import Site
from spaces import PruningPolicy, ReconnectionPolicy
from spaces.profile import CompressionProfile

PROFILE = CompressionProfile.of(
    PruningPolicy(criterion="magnitude", sparsity=0.9, interval=0.05),
    ReconnectionPolicy(criterion="gradient", interval=0.125, t_end=0.75, distribution="global"),
)
#: Cycles at 0, 1/8, ... 6/8 of the steps.
CYCLES = 7


class Noise:
    """A task of random data: only the time of its steps matters."""

    def __init__(self, network: nn.Module, batch: int, shape: tuple[int, ...]) -> None:
        self._network = network
        generator = torch.Generator().manual_seed(0)
        self._batch = (torch.randn(batch, *shape, generator=generator), torch.arange(batch) % 10)

    def network(self) -> nn.Module:
        return self._network

    def example_inputs(self) -> tuple[Tensor, ...]:
        return (self._batch[0][:2],)

    def batches(self, split: Split, *, shuffle_seed: int | None) -> Iterator[Batch]:
        while True:
            yield self._batch

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) == targets).float()


def loop_for(task: Noise, profile: CompressionProfile, steps: int) -> tuple[Finetuning, Site]:
    """A training loop over a copy of the task's network, with the profile's mechanisms attached."""
    torch.manual_seed(0)
    recipe = Recipe(learning_rate=0.01)
    network = task.network()
    connectivity = Connectivity(network)
    optimizer = TrainingOptimizer.from_recipe(network.parameters(), recipe)
    connectivity.optimizer = optimizer
    generator = torch.Generator().manual_seed(0)
    site = Site(network, profile, connectivity, generator, steps, task.example_inputs(), optimizer)
    mechanisms = mechanisms_for(profile)
    for mechanism in mechanisms:
        mechanism.attach(site)
    return Finetuning(site, mechanisms, task, recipe, start=0.01, seed=0), site


def compare(make: object, batch: int, shape: tuple[int, ...], steps: int, blocks: int = 20) -> dict[str, float]:
    """Time the two, block by block in turn."""
    ours, site = loop_for(Noise(make(), batch, shape), PROFILE, steps)  # type: ignore[operator]
    plain, _ = loop_for(Noise(make(), batch, shape), CompressionProfile(), steps)  # type: ignore[operator]
    warm, _ = loop_for(Noise(make(), batch, shape), CompressionProfile(), 3)  # type: ignore[operator]
    warm.train(until=3, iteration=0)
    seconds = {"plain": 0.0, "surgery": 0.0}
    for block in range(1, blocks + 1):
        for name, loop in (("plain", plain), ("surgery", ours)):
            started = time.perf_counter()
            loop.train(until=block * steps // blocks, iteration=0)
            seconds[name] += time.perf_counter() - started
    ledger = site.connectivity.ledger()
    return {
        "ratio": seconds["surgery"] / seconds["plain"],
        "plain_ms": 1e3 * seconds["plain"] / steps,
        "surgery_ms": 1e3 * seconds["surgery"] / steps,
        "steps": steps,
        "cycles": CYCLES,
        "created": ledger.created(),
        "pruned": ledger.pruned(),
    }


def large_mlp() -> nn.Module:
    """25 million parameters in five layers."""
    widths = (3072, 2600, 2600, 2600, 1000, 10)
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def main() -> None:
    """Print one JSON object, ratios first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=160)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = {f"resnet20_batch{b}": compare(lambda: ResNet(20), b, (3, 32, 32), args.steps) for b in (32, 128)}
    rows["mlp25m_batch128"] = compare(large_mlp, 128, (3, 32, 32), args.steps // 2)
    report = {f"ratio_{name}": round(row["ratio"], 4) for name, row in rows.items()}
    print(json.dumps(report | {"threads": args.threads} | rows, indent=None if args.json else 2))


if __name__ == "__main__":
    main()
