"""What search and reconnection are worth on ResNet-20: every contender, one epoch, the same recipes, three seeds.

    python -m tests.benchmarks.resnet20 --out rows.jsonl                # runs what the file does not hold yet
    python -m tests.benchmarks.resnet20 --out rows.jsonl --table        # prints the table of what it holds

Validation is the first half of the test file; the figures are of its second half, by which nothing is chosen.
Contenders differ in their profile alone; the recipe is the same for all: ``plain`` is one epoch from a learning rate of
0.02, ``tuned`` one from 0.05 with distillation from the unpruned network (0.9 of the loss, temperature 4), chosen on
the validation half for gradual magnitude pruning, the control. Forward passes are in bf16 where that is faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch_pruning
from torch import nn

from objectives.accuracy import mean_score
from objectives.cost import count_macs
from objectives.size import nonzeros, weights
from objectives.task import Task
from objectives.tasks.cifar10 import Cifar10
from search.finetune import Finetuning, in_fast_layout, recalibrate, steps_per_epoch
from search.recipe import recipe_for
from search.result import Budget, TrialRequest
from search.surgery.connectivity import Connectivity
from search.surgery.optimizer import TrainingOptimizer
from search.surgery.site import Site
from search.trial import Trial
from spaces import FinetuningPolicy, PruningPolicy, ReconnectionPolicy
from spaces.policy import Policy
from spaces.profile import CompressionProfile
from tests.data import FOLDER

RECIPES = {
    "plain": FinetuningPolicy(learning_rate=0.02),
    "tuned": FinetuningPolicy(learning_rate=0.05, distillation=0.9, temperature=4.0),
}
#: A cut every ten of the epoch's 391 steps, the last at 70 %.
EVERY = 10 / 391


def contenders(sparsity: float) -> dict[str, list[Policy]]:
    """Profiles at one unstructured sparsity, by name."""
    gradual = PruningPolicy(sparsity=sparsity, interval=EVERY)
    within: dict[str, Any] = {"interval": 0.05, "t_end": 0.75, "zeta": 0.2, "distribution": "global"}
    return {
        "one-shot magnitude": [PruningPolicy(sparsity=sparsity, schedule="oneshot")],
        "gradual magnitude": [gradual],
        "+ random regrowth": [gradual, ReconnectionPolicy(criterion="random", **within)],
        "+ gradient regrowth": [gradual, ReconnectionPolicy(criterion="gradient", **within)],
        "+ edges, radius 2": [gradual, ReconnectionPolicy(criterion="gradient", radius=2, skips=4, **within)],
    }


def channel_contenders() -> dict[str, list[Policy]]:
    """Profiles that take half of the inner channels."""
    whole: dict[str, Any] = {"granularity": "channel", "sparsity": 0.5, "interval": EVERY, "last_prune": 0.5}
    return {
        "ours, uniform": [PruningPolicy(allocation="uniform", **whole)],
        "ours, uniform, merged": [PruningPolicy(allocation="uniform", merge=True, **whole)],
        "ours, global gradient": [PruningPolicy(allocation="global", criterion="gradient", **whole)],
    }


def jobs(seeds: int) -> Iterator[dict[str, Any]]:
    """Every row of the table, each named by its keys."""
    for recipe in RECIPES:
        for seed in range(seeds):
            for sparsity in (0.9, 0.95):
                for name in contenders(sparsity):
                    yield {"kind": "weights", "name": name, "at": sparsity, "recipe": recipe, "seed": seed}
            for name in (*channel_contenders(), "torch-pruning L2", "torch-pruning Taylor"):
                yield {"kind": "channels", "name": name, "at": 0.5, "recipe": recipe, "seed": seed}


def run(job: Mapping[str, Any], task: Task, precision: str) -> dict[str, float]:
    """Compress, train one epoch, and measure on the half that nothing was chosen by."""
    recipe = RECIPES[job["recipe"]]
    if job["name"].startswith("torch-pruning"):
        network = _rival(job["name"], task, recipe, job["seed"], precision)
    else:
        policies = (contenders(job["at"]) if job["kind"] == "weights" else channel_contenders())[job["name"]]
        profile = CompressionProfile.of(*policies, recipe)
        request = TrialRequest(0, "benchmark", profile, job["seed"], Budget(1.0, 1, precision))
        trial = Trial(request, task, ["accuracy"], {})
        for _ in trial.iterations():
            pass
        network = trial.finish().network
    original, inputs = task.network(), task.example_inputs()
    before = sum(count_macs(original, inputs).values())
    return {
        "test": 100 * mean_score(network, task, "test"),
        "validation": 100 * mean_score(network, task, "validation"),
        "baseline": 100 * mean_score(original, task, "test"),
        "macs": sum(count_macs(network, inputs).values()) / before,
        "weights": nonzeros(network) / weights(original),
    }


def _rival(name: str, task: Task, recipe: FinetuningPolicy, seed: int, precision: str) -> nn.Module:
    """torch-pruning's own pruner over the inner channels, then the same epoch."""
    torch.manual_seed(seed)
    network = task.network()
    inputs = task.example_inputs()
    inner = [m for n, m in network.named_modules() if n.endswith("conv1") and n != "conv1"]
    left = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear) and m not in inner]
    taylor = name.endswith("Taylor")
    importance: Any = (
        torch_pruning.importance.GroupTaylorImportance()
        if taylor
        else torch_pruning.importance.MagnitudeImportance(p=2)
    )
    pruner = torch_pruning.pruner.MetaPruner(
        network, inputs, importance=importance, pruning_ratio=0.5, global_pruning=taylor, ignored_layers=left
    )
    if taylor:
        for _, (x, y) in zip(range(4), task.batches("train", shuffle_seed=seed), strict=False):
            task.loss(network(x), y).backward()  # type: ignore[no-untyped-call]
    pruner.step()
    network.zero_grad(set_to_none=True)
    in_fast_layout(network)
    constants = recipe_for(task, recipe, precision)
    connectivity = Connectivity(network)
    optimizer = TrainingOptimizer.from_recipe(network.parameters(), constants)
    steps = steps_per_epoch(task)
    site = Site(network, CompressionProfile(), connectivity, torch.Generator(), steps, inputs, optimizer)
    teacher = task.network() if constants.distillation > 0 else None
    loop = Finetuning(site, [], task, constants, start=constants.learning_rate, seed=seed, teacher=teacher)
    loop.train(until=steps, iteration=0)
    recalibrate(network, task, seed, "cpu")
    return network.eval()


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: mean and range over seeds, as points lost against the baseline of the same half."""
    groups: dict[tuple[str, float, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["at"], row["recipe"], row["name"]), []).append(row)
    lines = [
        "| what goes | recipe | contender | points lost | seeds | MACs | weights |",
        "|---|---|---|---|---|---|---|",
    ]
    for (kind, at, recipe, name), found in groups.items():
        lost = [row["baseline"] - row["test"] for row in found]
        spread = f" ± {(max(lost) - min(lost)) / 2:.2f}" if len(lost) > 1 else ""
        macs, share = (statistics.mean(row[key] for row in found) for key in ("macs", "weights"))
        what = f"{at:.0%} of the {kind}"
        mean = statistics.mean(lost)
        lines.append(f"| {what} | {recipe} | {name} | {mean:.2f}{spread} | {len(lost)} | {macs:.3f} | {share:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Run the rows that are missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="rows, one line of JSON each; appended to")
    parser.add_argument("--table", action="store_true", help="print the table and run nothing")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--part", default="0/1", help="I/N: run every N-th row from the I-th, one process each")
    parser.add_argument("--only", default="", help="rows whose line holds this text")
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    args = parser.parse_args()
    files = sorted(args.out.parent.glob(f"{args.out.stem}*{args.out.suffix}"))
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    if args.table:
        print(table(rows))
        return
    torch.set_num_threads(1)
    part, parts = map(int, args.part.split("/"))
    done = {json.dumps(row["job"], sort_keys=True) for row in rows}
    missing = [j for j in jobs(args.seeds) if json.dumps(j, sort_keys=True) not in done and args.only in json.dumps(j)]
    weights_file = FOLDER / "weights" / "resnet20-cifar10-jpeg.safetensors"
    with tempfile.TemporaryDirectory() as cache:
        task = Cifar10(
            data_dir=str(FOLDER / "cifar10"), weights=str(weights_file), validation="test-head", cache_dir=cache
        )
        for job in missing[part::parts]:
            row = dict(job) | run(job, task, args.precision) | {"job": job}
            with args.out.with_stem(f"{args.out.stem}-{part}").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
