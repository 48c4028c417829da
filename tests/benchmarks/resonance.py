"""What resonance costs and what it is worth: memory and time a step at 10 million weights, points lost on ResNet-20.

    python -m tests.benchmarks.resonance --json                              # memory and time
    python -m tests.benchmarks.resonance --resnet20 rows.jsonl               # one epoch per contender, appended
    python -m tests.benchmarks.resonance --resnet20 rows.jsonl --table       # prints what the file holds

Time: blocks of plain steps and of steps with resonance alternate, and the ratio is that of the sums of the process's
CPU seconds, on one thread, so that what else the machine does hardly counts. A block is one decision's interval: 50
steps, 32 entries written, one decision.
The contenders on ResNet-20 differ in their profile alone; validation is the first half of the test file, the figures
are of its second half.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from objectives.accuracy import mean_score
from objectives.size import nonzeros, weights
from objectives.tasks.cifar10 import Cifar10
from search.result import Budget, TrialRequest
from search.surgery.resonance import Resonance
from search.trial import Trial
from spaces import FinetuningPolicy, PruningPolicy, ResonancePolicy
from spaces.policy import Policy
from spaces.profile import CompressionProfile
from tests.benchmarks.resnet20 import EVERY
from tests.benchmarks.step_overhead import Noise, loop_for
from tests.data import FOLDER

#: Steps between two decisions, and how many decisions are timed.
INTERVAL, DECISIONS = 50, 3


def perceptron() -> nn.Module:
    """9.8 million parameters in four layers: the hard case, for each weight is used once per sample."""
    widths = (1024, 2560, 2560, 256, 10)
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def convolutions() -> nn.Module:
    """10.3 million parameters in eight 3x3 convolutions over 8x8 positions and less."""
    layers: list[nn.Module] = []
    for before, after, stride in (
        (3, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1), (512, 512, 1), (512, 512, 1),
        (512, 256, 1),
    ):  # fmt: skip
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))


NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron": (perceptron, (1024,)),
    "convolutions": (convolutions, (3, 8, 8)),
}


def overhead(network: nn.Module, batch: int, shape: tuple[int, ...]) -> dict[str, float]:
    """Seconds per step with and without, from blocks that alternate."""
    steps = 8 * INTERVAL * DECISIONS
    policy = ResonancePolicy(history=32, average=1, every=INTERVAL / steps, sparsity=0.9, cooling=1)
    task = Noise(network, batch, shape)
    profile = CompressionProfile.of(policy)
    first = policy.decision_steps(steps)[0]
    plain, _ = loop_for(task, CompressionProfile(), steps)
    ours, site = loop_for(task, profile, steps)
    (resonance,) = (m for m in ours._mechanisms if isinstance(m, Resonance))
    # The first interval ends with the first decision; what follows is timed.
    for loop in (plain, ours):
        loop.train(until=first + 1, iteration=0)
    seconds = {"plain": [0.0] * DECISIONS, "resonance": [0.0] * DECISIONS}
    for block in range(DECISIONS):
        for name, loop in (("plain", plain), ("resonance", ours)):
            started = time.process_time()
            loop.train(until=first + 1 + (block + 1) * INTERVAL, iteration=0)
            seconds[name][block] = time.process_time() - started
    ledger = site.connectivity.ledger()
    receipt = resonance.finish()
    return {
        "ratio": sum(seconds["resonance"]) / sum(seconds["plain"]),
        "ratio_of_the_fastest": min(seconds["resonance"]) / min(seconds["plain"]),
        "plain_ms": 1e3 * sum(seconds["plain"]) / DECISIONS / INTERVAL,
        "resonance_ms": 1e3 * sum(seconds["resonance"]) / DECISIONS / INTERVAL,
        "weights": receipt["governed"],
        "bytes_per_weight": receipt["bytes_per_weight"],
        "decisions": receipt["decisions"],
        "disabled": ledger.pruned(),
        "restored": ledger.created(),
    }


def contenders(sparsity: float) -> dict[str, list[Policy]]:
    """Profiles that end at one sparsity, by name."""
    ours = ResonancePolicy(sparsity=sparsity)
    found: dict[str, list[Policy]] = {
        "gradual magnitude, global": [PruningPolicy(sparsity=sparsity, interval=EVERY)],
        "gradual magnitude, uniform": [PruningPolicy(sparsity=sparsity, interval=EVERY, allocation="uniform")],
        "resonance": [ours],
        "resonance, stored": [ours.changed({"resume": "stored"})],
        "resonance, every peak": [ours.changed({"significance": "off"})],
        "resonance, low": [ours.changed({"keep": "low"})],
        "resonance, lag-1": [ours.changed({"estimator": "lag1"})],
        "resonance, base 0.05": [ours.changed({"base": 0.05})],
        "resonance, base 0.5": [ours.changed({"base": 0.5})],
    }
    return found | {f"control: {name}": [control] for name, control in ours.controls().items()}


def resnet20(name: str, sparsity: float, seed: int, task: Cifar10) -> dict[str, Any]:
    """One epoch in bf16 from a learning rate of 0.02, six iterations, so that the accuracy can steer."""
    profile = CompressionProfile.of(*contenders(sparsity)[name], FinetuningPolicy(learning_rate=0.02))
    request = TrialRequest(0, "benchmark", profile, seed, Budget(1.0, 6, "bf16"))
    trial = Trial(request, task, ["accuracy"], {})
    started = time.perf_counter()
    for _ in trial.iterations():
        pass
    finished = trial.finish()
    return {
        "name": name,
        "sparsity": sparsity,
        "seed": seed,
        "test": 100 * mean_score(finished.network, task, "test"),
        "baseline": 100 * mean_score(task.network(), task, "test"),
        "left": nonzeros(finished.network) / weights(task.network()),
        "seconds": time.perf_counter() - started,
        "receipts": finished.ledger.receipts,
        "created": finished.ledger.created(),
        "pruned": finished.ledger.pruned(),
    }


def table(rows: list[Mapping[str, Any]]) -> str:
    """Markdown: points lost, and what the controller left to the exact projection."""
    lines = [
        "| contender | weights left | points lost | mean sparsity before the projection | projected | switched on |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        receipt = row["receipts"].get("resonance")
        own = f"{receipt['before_projection']:.3f} | {receipt['projection']:.2%}" if receipt else "- | -"
        lost = row["baseline"] - row["test"]
        lines.append(f"| {row['name']} | {row['left']:.3f} | {lost:.2f} | {own} | {row['created']} |")
    return "\n".join(lines)


def main() -> None:
    """Print one JSON object, or run what a file of rows does not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--network", choices=NETWORKS, help="time this one alone")
    parser.add_argument("--resnet20", type=Path, help="rows, one line of JSON each; appended to")
    parser.add_argument("--table", action="store_true", help="print the rows' table and run nothing")
    parser.add_argument("--only", default="", help="contenders whose name holds this text")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.resnet20 is None:
        names = [args.network] if args.network else list(NETWORKS)
        rows = {name: overhead(NETWORKS[name][0](), 128, NETWORKS[name][1]) for name in names}
        report: dict[str, Any] = {key: rows[names[0]][key] for key in ("ratio", "bytes_per_weight")}
        print(json.dumps(report | rows, indent=None if args.json else 2))
        return
    done = [json.loads(line) for line in args.resnet20.read_text().splitlines()] if args.resnet20.exists() else []
    if args.table:
        print(table(done))
        return
    with tempfile.TemporaryDirectory() as cache:
        weights_file = str(FOLDER / "weights" / "resnet20-cifar10-jpeg.safetensors")
        data = str(FOLDER / "cifar10")
        task = Cifar10(data_dir=data, weights=weights_file, validation="test-head", cache_dir=cache)
        keys = {(row["name"], row["sparsity"], row["seed"]) for row in done}
        for name in contenders(args.sparsity):
            if args.only in name and (name, args.sparsity, args.seed) not in keys:
                row = resnet20(name, args.sparsity, args.seed, task)
                with args.resnet20.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
