"""What a real study of a few short trials finds for ResNet-20: one more contender of ``tests.benchmarks.resnet20``.

Trials are compared on the validation half and stopped early by successive halving: most end after a quarter of their
epoch. The recipe is not searched, so that the profile alone is what the study found.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.books import Books
from search.progress import Silent
from search.result import TrialResult
from search.study import Study
from spaces.profile import CompressionProfile
from tests.data import FOLDER

#: The contender's name in the table.
FOUND = "ours, found by a study"

_RECIPE = {"learning_rate": 0.05, "distillation": 0.9, "temperature": 4.0, "adaptive": False}
_CHANNELS: Mapping[str, Any] = {
    "pruning": {
        "granularity": "channel",
        "criterion": ["magnitude", "gradient"],
        "allocation": ["global", "uniform"],
        "schedule": "gradual",
        "sparsity": {"low": 0.3, "high": 0.55},
        "last_prune": {"low": 0.1, "high": 0.6},
        "interval": 10 / 391,
        "merge": False,
        "exclude": "none",
    },
    # Channels that run along the shortcuts are worth more than those inside the blocks; how much more is searched.
    "layers": [
        {"match": match, "pruning": {"sparsity": {"low": 0.0, "high": 0.3}}} for match in ("conv1", "layer[23].0.conv2")
    ],
}


def _weights(sparsity: float) -> dict[str, Any]:
    return {
        "pruning": {
            "granularity": "weight",
            "criterion": ["magnitude", "gradient", "movement"],
            "allocation": ["global", "erk"],
            "schedule": "gradual",
            "sparsity": sparsity,
            "last_prune": {"low": 0.4, "high": 0.85},
            "interval": 10 / 391,
            "exclude": "none",
        },
        "reconnection": {
            "optional": True,
            "mode": "gmp_regrow",
            "criterion": ["gradient", "momentum", "random"],
            "granularity": "weight",
            "radius": 0,
            "zeta": {"low": 0.05, "high": 0.4},
            "interval": {"low": 0.02, "high": 0.1, "log": True},
            "t_end": {"low": 0.4, "high": 0.85},
            "regrow": 1.0,
            "distribution": ["global", "redistribute"],
            "protect": [0, 1, 2],
        },
    }


@dataclass(frozen=True)
class _Search:
    kind: str
    at: float
    constraints: Mapping[str, str]
    spaces: Mapping[str, Any]


#: What may be searched, by the name that the command line takes. The last of the sparsity's digits is left open: what
#: is cut is a whole number of connections.
SEARCHES: Mapping[str, _Search] = {
    "channels": _Search("channels", 0.5, {"macs": "<= 0.51 * baseline"}, _CHANNELS),
    "0.9": _Search("weights", 0.9, {"sparsity": ">= 0.8999"}, _weights(0.9)),
    "0.95": _Search("weights", 0.95, {"sparsity": ">= 0.9499"}, _weights(0.95)),
}


@dataclass(frozen=True)
class Found:
    """What a study found.

    Args:
        kind: What goes: ``weights`` or ``channels``.
        at: How much of it, as the table names it.
        profile: The best feasible profile, with the recipe in it.
    """

    kind: str
    at: float
    profile: CompressionProfile


class _Told(Silent):
    """A line per trial on stderr."""

    def decided(self, result: TrialResult, books: Books) -> None:
        print(f"trial {result.number}: {result.state} {dict(result.scores)} {result.seconds:.0f} s", file=sys.stderr)


def found(name: str, home: Path, *, trials: int, epochs: float, precision: str) -> Found:
    """Run the search of that name, or go on with it, or look up what it found.

    Args:
        name: One of `SEARCHES`.
        home: Where studies are kept.
        trials: How many are decided.
        epochs: Of a trial that is not stopped.
        precision: Of the forward passes in training.

    Raises:
        SystemExit: If no trial meets the constraint.
    """
    search = SEARCHES[name]
    study = Study.create(study_of(name, trials=trials, epochs=epochs, precision=precision), home)
    study.run(_Told())
    best = study.best()
    if best is None or not study.books().holds(best, ()):
        raise SystemExit(f"no trial of {study.name} meets {dict(search.constraints)}: give it more trials")
    return Found(search.kind, search.at, best.request.profile)


def study_of(name: str, *, trials: int, epochs: float, precision: str) -> dict[str, Any]:
    """The study file of a search, as a mapping."""
    search = SEARCHES[name]
    weights = FOLDER / "weights" / "resnet20-cifar10-jpeg.safetensors"
    return {
        "study": {"name": f"resnet20-{name}", "trials": trials},
        "task": {
            "target": "cifar10",
            "args": {"data_dir": str(FOLDER / "cifar10"), "weights": str(weights), "validation": "test-head"},
        },
        "objectives": {"accuracy": "maximize"},
        "constraints": dict(search.constraints),
        "budget": {"epochs": epochs, "iterations": 4, "precision": precision, "scheduler": "mo-asha"},
        "resources": {"runner": "inline"},
        "spaces": {**search.spaces, "finetuning": _RECIPE},
    }
