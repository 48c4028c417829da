"""All five policies searched together, and what each of them is worth in the best profile.

    python -m tests.benchmarks.joint                                # handwritten digits
    python -m tests.benchmarks.joint --task cifar10 --home DIR      # ResNet-20; goes on where it was cut off

A study of the five policies, each of them on in every trial, then the ablation of its best profile over fresh seeds.
For ResNet-20, validation is the first half of the test file, which the network was not trained on.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from search.ablation import markdown
from search.home import Home
from search.machine import cores
from search.study import Study
from spaces import (
    FinetuningPolicy,
    GranularityPolicy,
    PruningPolicy,
    ReconnectionPolicy,
    ResonancePolicy,
    RoutingPolicy,
)
from spaces.policy import Policy
from tests.data import FOLDER

OBJECTIVES = {"accuracy": "maximize", "bops": "minimize", "size_bytes": "minimize"}


def joint_study(task: str, *, trials: int, epochs: float, concurrent: int) -> dict[str, Any]:
    """The study as a file would say it."""
    args: dict[str, Any] = {}
    if task == "cifar10":
        weights = FOLDER / "weights" / "resnet20-cifar10-jpeg.safetensors"
        args = {"data_dir": str(FOLDER / "cifar10"), "weights": str(weights), "validation": "test-head"}
    return {
        "study": {"name": f"joint-{task}", "trials": trials},
        "task": {"target": task, "args": args},
        "objectives": OBJECTIVES,
        "constraints": {"accuracy": ">= baseline - 0.1", "bops": "<= 0.5 * baseline"},
        "budget": {"epochs": epochs, "iterations": 6, "scheduler": "mo-asha", "grace": 2},
        "resources": {"concurrent": concurrent},
        "spaces": {
            "pruning": _searching(
                PruningPolicy(granularity="channel", interval=0.05),
                sparsity={"low": 0.1, "high": 0.6},
                criterion=["magnitude", "gradient", "activation"],
                allocation=["global", "uniform"],
            ),
            "reconnection": _searching(
                ReconnectionPolicy(radius=2), radius={"low": 0, "high": 2}, criterion=["gradient", "momentum"]
            ),
            "routing": _searching(
                RoutingPolicy(blocks="residual"),
                target_cost={"low": 0.6, "high": 0.95},
                unit=["block", "channel_group"],
                pooling=["average", "attention"],
            ),
            "granularity": _searching(
                GranularityPolicy(), bits={"low": 4.0, "high": 8.0}, controller=["sqnr", "variance", "learned"]
            ),
            "resonance": _searching(
                ResonancePolicy(history=16, average=1),
                sparsity={"low": 0.5, "high": 0.9},
                keep=["high", "low"],
                estimator=["fft", "lag1"],
            ),
            "finetuning": _searching(
                FinetuningPolicy(distillation=0.9, temperature=4.0), learning_rate={"low": 0.02, "high": 0.1}
            ),
        },
    }


def _searching(policy: Policy, **searched: object) -> dict[str, object]:
    """A table of a study file that searches the knobs named and leaves the others at the policy's values."""
    return {**policy.values(), **searched}


def run(task: str, home: Path, *, trials: int, epochs: float, seeds: int) -> dict[str, Any]:
    """The study and the ablation of its best profile; what has run in `home` is not run again."""
    data = joint_study(task, trials=trials, epochs=epochs, concurrent=min(2, cores()))
    if task == "cifar10":
        data["budget"]["precision"] = "bf16"
    began = time.monotonic()
    study = Study.create(data, Home(home.resolve()))
    summary = study.run().summary
    searched = time.monotonic() - began

    def say(over: int, of: int, what: str) -> None:
        sys.stderr.write(f"[{over}/{of}] {what}\n")

    ablation = study.ablate(seeds=seeds, watch=say)
    best = summary["best"]
    return {
        "share_of_bops": best["scores"]["bops"] / summary["baseline"]["bops"],
        "accuracy_lost": summary["baseline"]["accuracy"] - best["scores"]["accuracy"],
        "feasible": best["feasible"],
        "study_seconds": searched,
        "trials": summary["trials"],
        "best": best,
        "front": summary["front"],
        "baseline": summary["baseline"],
        "ablation": ablation,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("digits", "cifar10"), default="digits")
    parser.add_argument("--home", type=Path, help="keep the study there; left out, it is thrown away")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--epochs", type=float, help="per trial; 6 for digits, a quarter for ResNet-20")
    parser.add_argument("--seeds", type=int, default=3, help="of the ablation")
    parser.add_argument("--json", action="store_true", help="one JSON object, the ratios first")
    args = parser.parse_args()
    epochs = args.epochs or (6.0 if args.task == "digits" else 0.25)
    with tempfile.TemporaryDirectory() as folder:
        found = run(args.task, args.home or Path(folder), trials=args.trials, epochs=epochs, seeds=args.seeds)
    if args.json:
        print(json.dumps(found))
        return
    best, baseline = found["best"], found["baseline"]
    print(
        f"{found['trials']} in {found['study_seconds']:.0f} s; best: trial {best['trial']}, feasible {best['feasible']}"
    )
    for name in OBJECTIVES:
        print(f"  {name}: {best['scores'][name]:.4g} (baseline {baseline[name]:.4g})")
    print(json.dumps(best["profile"]["policies"], indent=2))
    print(markdown(found["ablation"]))


if __name__ == "__main__":
    main()
