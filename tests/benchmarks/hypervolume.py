"""What the search is worth: a study of 30 trials against torch-pruning's uniform ladder of 30 points, epoch for epoch.

    python -m tests.benchmarks.hypervolume --json
    python -m tests.benchmarks.hypervolume --task cifar10 --json      # ResNet-20, needs the data; an hour on one core

Every point of both gets the same epochs and the same recipe (a learning rate of 0.05, distillation from the unpruned
network), so both spend the same in all. The front of each is chosen on the validation split; its hypervolume over
(accuracy, macs), in units of the baseline, is that of the test split, which nothing was chosen by.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from objectives.accuracy import mean_score
from objectives.cost import count_macs
from objectives.loading import load_task
from objectives.objective import Direction
from objectives.pareto import front, normalized_hypervolume
from objectives.task import Task
from search.artifact.network import read_network
from search.books import Books
from search.progress import Silent
from search.result import TrialResult
from search.study import Study
from spaces import FinetuningPolicy
from tests.benchmarks.rival import pruned, trained
from tests.data import FOLDER

DIRECTIONS: Mapping[str, Direction] = {"accuracy": "maximize", "macs": "minimize"}
RECIPE = FinetuningPolicy(learning_rate=0.05, distillation=0.9, temperature=4.0)
#: The harshest ratio of the ladder; its points lie at equal distances from it to 0.
HARSHEST = 0.95
SEED = 0


@dataclass(frozen=True)
class Case:
    """A task and what the study may try on it.

    Args:
        target: The task's short name.
        args: Its arguments.
        epochs: Of every trial and of every point.
        precision: Of the forward passes in training.
        inner_only: Whether torch-pruning must keep to the inner channels.
        spaces: The study's search space.
    """

    target: str
    args: Mapping[str, Any]
    epochs: float
    precision: str
    inner_only: bool
    spaces: Mapping[str, Any]


_PRUNING: Mapping[str, Any] = {
    "granularity": "channel",
    "criterion": ["magnitude", "gradient", "activation"],
    "schedule": "gradual",
    "sparsity": {"low": 0.15, "high": 0.95},
    "last_prune": {"low": 0.1, "high": 0.6},
    "interval": 0.03,
    "merge": False,
    "exclude": "none",
}
_RECIPE = {"finetuning": dict(RECIPE.values())}
#: Channels that run along ResNet-20's shortcuts are worth more than those inside its blocks; how much more is searched.
_STREAMS = [
    {"match": match, "pruning": {"sparsity": {"low": 0.0, "high": 0.6}}} for match in ("conv1", "layer[23].0.conv2")
]
CASES: Mapping[str, Case] = {
    "digits": Case("digits", {}, 1.0, "fp32", False, {"pruning": {**_PRUNING, "allocation": "uniform"}, **_RECIPE}),
    "cifar10": Case(
        "cifar10",
        {
            "data_dir": str(FOLDER / "cifar10"),
            "weights": str(FOLDER / "weights" / "resnet20-cifar10-jpeg.safetensors"),
            "validation": "test-head",
        },
        0.25,
        "bf16",
        True,
        {"pruning": {**_PRUNING, "allocation": ["global", "uniform"]}, "layers": _STREAMS, **_RECIPE},
    ),
}


class _Told(Silent):
    """A line per trial on stderr."""

    def decided(self, result: TrialResult, books: Books) -> None:
        print(f"trial {result.number}: {result.state} {dict(result.scores)} {result.seconds:.0f} s", file=sys.stderr)


def points(networks: Mapping[str, nn.Module], task: Task) -> dict[str, dict[str, float]]:
    """By name what each network scores on both splits, and what it costs."""
    return {
        name: {
            "validation": mean_score(network, task, "validation"),
            "test": mean_score(network, task, "test"),
            "macs": float(sum(count_macs(network, task.example_inputs()).values())),
        }
        for name, network in networks.items()
    }


def worth(found: Mapping[str, Mapping[str, float]], baseline: Mapping[str, float]) -> dict[str, Any]:
    """The front by validation, and its hypervolume by test."""
    chosen = [{"accuracy": row["validation"], "macs": row["macs"]} for row in found.values()]
    members = [list(found.values())[index] for index in front(chosen, DIRECTIONS)]
    rows = [{"accuracy": row["test"], "macs": row["macs"]} for row in members]
    return {
        "hypervolume": normalized_hypervolume(rows, DIRECTIONS, {"accuracy": baseline["test"], **_macs(baseline)}),
        "on_validation": normalized_hypervolume(
            chosen, DIRECTIONS, {"accuracy": baseline["validation"], **_macs(baseline)}
        ),
        "front": sorted(
            ([round(row["macs"] / baseline["macs"], 4), round(row["test"], 4)] for row in members), reverse=True
        ),
    }


def study(case: Case, trials: int, epochs: float, home: Path) -> Study:
    """Run the search, or go on with it."""
    data = {
        "study": {"name": f"hypervolume-{case.target}", "trials": trials, "seed": SEED},
        "task": {"target": case.target, "args": dict(case.args)},
        "objectives": dict(DIRECTIONS),
        "budget": {"epochs": epochs, "iterations": 1, "precision": case.precision},
        "resources": {"runner": "inline"},
        "spaces": dict(case.spaces),
    }
    made = Study.create(data, home)
    made.run(_Told())
    return made


def ours(made: Study, task: Task) -> dict[str, dict[str, float]]:
    """Every complete trial of the study, measured from the network that it left."""
    return points(
        {
            f"trial {each.number}": read_network(made.folder.checkpoints(each.request.key))
            for each in made.books().complete()
        },
        task,
    )


def theirs(case: Case, task: Task, count: int, epochs: float) -> dict[str, dict[str, float]]:
    """The ladder."""
    found: dict[str, dict[str, float]] = {}
    for step in range(count):
        ratio = HARSHEST * (step + 1) / count
        network = pruned(task, ratio, inner_only=case.inner_only, seed=SEED)
        trained(network, task, RECIPE, epochs=epochs, seed=SEED, precision=case.precision)
        found |= points({f"ratio {ratio:.3f}": network}, task)
    return found


def compare(case: Case, trials: int, epochs: float, home: Path) -> dict[str, Any]:
    """Both, and their ratio."""
    task = load_task(case.target, dict(case.args))
    (baseline,) = points({"baseline": task.network()}, task).values()
    began = time.monotonic()
    made = study(case, trials, epochs, home)
    mine = ours(made, task)
    between = time.monotonic()
    rival = theirs(case, task, trials, epochs)
    a, b = worth(mine, baseline), worth(rival, baseline)
    return {
        "ratio": a["hypervolume"] / b["hypervolume"],
        "ratio_on_validation": a["on_validation"] / b["on_validation"],
        "task": case.target,
        "trials": trials,
        "complete": len(mine),
        "epochs_each": epochs,
        "ours": a,
        "uniform": b,
        "baseline": baseline,
        "seconds": {"ours": between - began, "uniform": time.monotonic() - between},
    }


def _macs(baseline: Mapping[str, float]) -> dict[str, float]:
    return {"macs": baseline["macs"]}


def main() -> None:
    """Print one JSON object, the ratio first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--task", choices=CASES, default="digits")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--epochs", type=float, help="of every trial and of every point")
    parser.add_argument("--home", type=Path, help="where the study is kept, to go on with it later")
    args = parser.parse_args()
    torch.set_num_threads(1)
    case = CASES[args.task]
    with tempfile.TemporaryDirectory(prefix="pleach-") as folder:
        report = compare(case, args.trials, args.epochs or case.epochs, args.home or Path(folder))
    print(json.dumps(report, indent=None if args.json else 2))


if __name__ == "__main__":
    main()
