"""What search and reconnection are worth on ResNet-20: every contender, one epoch, the same recipes, three seeds.

    python -m tests.benchmarks.resnet20 --out rows.jsonl                # runs what the file does not hold yet
    python -m tests.benchmarks.resnet20 --out rows.jsonl --table        # prints the table of what it holds
    python -m tests.benchmarks.resnet20 --out rows.jsonl --search channels 0.9 --home studies --only found

With ``--search`` a study of 20 trials looks for a profile first (a quarter of an hour on one core; interrupted, it goes
on where it was), and the best of its short trials joins as one more contender under the recipe ``tuned``.

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

from objectives.accuracy import mean_score
from objectives.cost import count_macs
from objectives.size import nonzeros, weights
from objectives.task import Task
from objectives.tasks.cifar10 import Cifar10
from search.result import Budget, TrialRequest
from search.trial import Trial
from spaces import FinetuningPolicy, PruningPolicy, ReconnectionPolicy
from spaces.policy import Policy
from spaces.profile import CompressionProfile, LayerOverride
from tests.benchmarks.found import FOUND, SEARCHES, Found, found
from tests.benchmarks.rival import pruned, trained
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


#: Groups of channels that run along a stage's shortcuts: with them left alone, half of the others is half of the MACs.
STREAMS = ("conv1", "layer2.0.conv2", "layer3.0.conv2")


def channel_contenders() -> dict[str, CompressionProfile]:
    """Profiles that take about half of the MACs, of blocks' inner channels or of all."""
    whole: dict[str, Any] = {"granularity": "channel", "interval": EVERY, "last_prune": 0.5}
    left = [LayerOverride(layer, "pruning", {"sparsity": 0.0}) for layer in STREAMS]
    inner = {
        "ours, uniform, inner": PruningPolicy(allocation="uniform", sparsity=0.5, **whole),
        "ours, global gradient, inner": PruningPolicy(criterion="gradient", sparsity=0.5, **whole),
    }
    everywhere = {
        "ours, uniform": PruningPolicy(allocation="uniform", sparsity=0.29, **whole),
        "ours, global gradient": PruningPolicy(criterion="gradient", sparsity=0.29, **whole),
    }
    return {name: CompressionProfile.of(policy, layers=left) for name, policy in inner.items()} | {
        name: CompressionProfile.of(policy) for name, policy in everywhere.items()
    }


def jobs(seeds: int, searched: Mapping[str, Found]) -> Iterator[dict[str, Any]]:
    """Every row of the table, each named by its keys."""
    for recipe in RECIPES:
        for seed in range(seeds):
            for sparsity in (0.9, 0.95):
                for name in contenders(sparsity):
                    yield {"kind": "weights", "name": name, "at": sparsity, "recipe": recipe, "seed": seed}
            for name in (*channel_contenders(), "torch-pruning L2", "torch-pruning Taylor"):
                yield {"kind": "channels", "name": name, "at": 0.5, "recipe": recipe, "seed": seed}
    for seed in range(seeds):
        for each in searched.values():
            yield {"kind": each.kind, "name": FOUND, "at": each.at, "recipe": "tuned", "seed": seed}


def run(job: Mapping[str, Any], task: Task, precision: str, searched: Mapping[str, Found]) -> dict[str, float]:
    """Compress, train one epoch, and measure on the half that nothing was chosen by."""
    recipe = RECIPES[job["recipe"]]
    if job["name"].startswith("torch-pruning"):
        network = pruned(task, job["at"], taylor=job["name"].endswith("Taylor"), inner_only=True, seed=job["seed"])
        trained(network, task, recipe, epochs=1.0, seed=job["seed"], precision=precision)
    else:
        profile = _profile(job, recipe, searched)
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


def _profile(job: Mapping[str, Any], recipe: FinetuningPolicy, searched: Mapping[str, Found]) -> CompressionProfile:
    if job["name"] == FOUND:
        return next(each.profile for each in searched.values() if (each.kind, each.at) == (job["kind"], job["at"]))
    if job["kind"] == "weights":
        return CompressionProfile.of(*contenders(job["at"])[job["name"]], recipe)
    made = channel_contenders()[job["name"]]
    return CompressionProfile.of(*made.policies.values(), recipe, layers=made.layers)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: mean and range over seeds, as points lost against the baseline of the same half."""
    groups: dict[tuple[str, float, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["at"], row["recipe"], row["name"]), []).append(row)
    lines = [
        "| what goes | recipe | contender | points lost | seeds | MACs | weights |",
        "|---|---|---|---|---|---|---|",
    ]
    for (kind, at, recipe, name), group in groups.items():
        lost = [row["baseline"] - row["test"] for row in group]
        spread = f" ± {(max(lost) - min(lost)) / 2:.2f}" if len(lost) > 1 else ""
        macs, share = (statistics.mean(row[key] for row in group) for key in ("macs", "weights"))
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
    parser.add_argument("--search", nargs="+", default=[], choices=SEARCHES, help="look for a profile first")
    parser.add_argument("--home", type=Path, help="where the searches are kept; needed to go on with them")
    parser.add_argument("--trials", type=int, default=20, help="of a search")
    parser.add_argument("--epochs", type=float, default=1.0, help="of a search's trials at most")
    args = parser.parse_args()
    files = sorted(args.out.parent.glob(f"{args.out.stem}*{args.out.suffix}"))
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    if args.table:
        print(table(rows))
        return
    torch.set_num_threads(1)
    part, parts = map(int, args.part.split("/"))
    done = {json.dumps(row["job"], sort_keys=True) for row in rows}
    with tempfile.TemporaryDirectory() as cache:
        home = args.home or Path(cache)
        searched = {
            name: found(name, home, trials=args.trials, epochs=args.epochs, precision=args.precision)
            for name in args.search
        }
        wanted = [json.dumps(job, sort_keys=True) for job in jobs(args.seeds, searched)]
        missing = [json.loads(job) for job in wanted if job not in done and args.only in job]
        weights_file = FOLDER / "weights" / "resnet20-cifar10-jpeg.safetensors"
        task = Cifar10(
            data_dir=str(FOLDER / "cifar10"), weights=str(weights_file), validation="test-head", cache_dir=cache
        )
        for job in missing[part::parts]:
            row = job | run(job, task, args.precision, searched) | {"job": job}
            if job["name"] == FOUND:
                row["profile"] = _profile(job, RECIPES[job["recipe"]], searched).to_dict()
            with args.out.with_stem(f"{args.out.stem}-{part}").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
