"""What the built-in tasks are that bring their own data: size, time of training, figures, and what compression leaves.

    python -m tests.benchmarks.tasks --json

Each is trained from nothing in a folder that goes away, then compressed for two epochs by one fixed profile: 70 % of
the weights off, reconnection beside it. `kept` is what is left of the score on validation.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import torch

from objectives.accuracy import extra_scores, mean_score
from objectives.loading import load_task
from search.compress import compress
from search.surgery.network import prepared
from spaces import PruningPolicy, ReconnectionPolicy
from spaces.profile import CompressionProfile

PROFILE = CompressionProfile.of(PruningPolicy(sparsity=0.7), ReconnectionPolicy())
_SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128, "hidden_size": 64}
_GPT2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
_VIT = {"model_type": "vit", "image_size": 8, "patch_size": 2, "num_channels": 1}
CASES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "chars": ("chars", {}),
    "digits": ("digits", {}),
    "tabular breast-cancer": ("tabular", {}),
    "tabular wine": ("tabular", {"data": "wine"}),
    "tabular diabetes": ("tabular", {"data": "diabetes"}),
    "transformers gpt2": ("transformers", {"kind": "causal-lm", "config": _GPT2}),
    "transformers vit": ("transformers", {"kind": "image-classification", "config": _SMALL | _VIT, "epochs": 10}),
}


def measure(target: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """One task's figures."""
    with tempfile.TemporaryDirectory() as folder:
        task = load_task(target, {**args, "cache_dir": folder})
        started = time.perf_counter()
        network = task.network()
        seconds = time.perf_counter() - started
        inputs = task.example_inputs()
        scores = {split: mean_score(network, task, split) for split in ("train", "validation", "test")}
        result = compress(network, PROFILE, task, epochs=2)
        return {
            "kept": result.scores["accuracy"] / result.baseline["accuracy"],
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "seconds": seconds,
            "traced": not prepared(network, inputs)[1],
            "score": scores,
            "test": extra_scores(network, task, "test"),
            "created": result.ledger.created(),
            "pruned": result.ledger.pruned(),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--only", help="the cases whose name holds this text")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name, (target, args) in CASES.items():
        if arguments.only and arguments.only not in name:
            continue
        if target == "transformers" and importlib.util.find_spec("transformers") is None:
            continue
        found[name] = measure(target, args)
        if not arguments.json:
            row = found[name]
            figures = ", ".join(f"{key} {value:.3g}" for key, value in row["test"].items())
            score = " / ".join(f"{value:.3f}" for value in row["score"].values())
            print(f"{name}: {row['parameters']:,} parameters, {row['seconds']:.0f} s, {score}, {figures}", flush=True)
            print(f"  kept {row['kept']:.3f}, created {row['created']:,}, pruned {row['pruned']:,}", flush=True)
    if arguments.json:
        print(json.dumps({"kept": min(row["kept"] for row in found.values()), "tasks": found}))


if __name__ == "__main__":
    main()
