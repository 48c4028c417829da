"""What one cycle of reconnection costs, in training steps: time, memory on top, and what is kept per weight.

    python -m tests.benchmarks.surgery --json

A cycle is all that a plain step does not do: listening in the steps before a decision, and the decision itself. It is
timed against the quiet steps right before it, of the same network with the same edges, in processor time of one thread:
what else the machine does counts little. Half of the weights are off, cut at the first step.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from objectives.tasks.resnet import ResNet
from search.finetune import Finetuning, in_fast_layout
from search.recipe import Recipe
from search.surgery.connectivity import Connectivity
from search.surgery.criteria import WINDOW
from search.surgery.mechanism import Mechanism
from search.surgery.mechanisms import mechanisms_for
from search.surgery.network import prepared
from search.surgery.optimizer import TrainingOptimizer
from search.surgery.site import Site
from spaces import PruningPolicy, ReconnectionPolicy
from spaces.policy import Policy
from spaces.profile import CompressionProfile
from tests.benchmarks.step_overhead import Noise, large_mlp

#: Quiet steps before the listening begins.
QUIET = 2
PERIOD = QUIET + WINDOW
CLEAR_PEAK = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")

_AT: Mapping[str, Any] = {"t_end": 1.0, "zeta": 0.3}
#: What a cycle may be, by name.
CYCLES: Mapping[str, Mapping[str, Any]] = {
    "weight_gradient": {"criterion": "gradient"},
    "weight_gradient_global": {"criterion": "gradient", "distribution": "global"},
    "weight_random": {"criterion": "random"},
    "channel_gradient": {"criterion": "gradient", "granularity": "channel"},
    "edges_correlation": {"criterion": "correlation", "radius": 2, "skips": 2},
    "edges_divergence": {"criterion": "divergence", "radius": 2, "skips": 2},
}
NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet56": (lambda: ResNet(56), 128),
    "mlp25m": (large_mlp, 128),
}


def profile_of(cycle: Mapping[str, Any], steps: int) -> CompressionProfile:
    """Half of what there is off from the first step on, a cycle every `PERIOD` steps."""
    granularity = cycle.get("granularity", "weight")
    policies: list[Policy] = [
        PruningPolicy(granularity=granularity, schedule="oneshot", sparsity=0.5),
        ReconnectionPolicy(**cycle, **_AT, interval=PERIOD / steps),
    ]
    return CompressionProfile.of(*policies)


def site_for(task: Noise, profile: CompressionProfile, steps: int) -> tuple[Finetuning, Site, list[Mechanism]]:
    """A training loop with its mechanisms attached, on a network that is traced, as a trial's is."""
    torch.manual_seed(0)
    inputs = task.example_inputs()
    network = in_fast_layout(prepared(task.network(), inputs)[0])
    recipe = Recipe()
    connectivity = Connectivity(network)
    optimizer = TrainingOptimizer.from_recipe(network.parameters(), recipe)
    connectivity.optimizer = optimizer
    site = Site(network, profile, connectivity, torch.Generator().manual_seed(0), steps, inputs, optimizer, task=task)
    mechanisms = mechanisms_for(profile)
    for mechanism in mechanisms:
        mechanism.attach(site)
    return Finetuning(site, mechanisms, task, recipe, start=recipe.learning_rate, seed=0), site, mechanisms


def timed(loop: Finetuning, until: int) -> Iterator[float]:
    """Train step by step; seconds of processor time of each."""
    while loop.step < until:
        started = time.process_time()
        loop.train(until=loop.step + 1, iteration=0)
        yield time.process_time() - started


def measure(task: Noise, cycle: Mapping[str, Any], cycles: int) -> dict[str, float]:
    """One kind of cycle on one network: the first, in which memory is allocated for good, does not count."""
    steps = (cycles + 2) * PERIOD
    loop, site, mechanisms = site_for(task, profile_of(cycle, steps), steps)
    weights = site.connectivity.size
    list(timed(loop, PERIOD + 1))
    costs, quiet_steps, extra, kept = [], [], [], 0
    for _ in range(cycles):
        with _peak() as plain:
            quiet = list(timed(loop, loop.step + QUIET))
        with _peak() as busy:
            listening = list(timed(loop, loop.step + WINDOW - 1))
            kept = max(kept, _bytes(site, mechanisms))
            listening += timed(loop, loop.step + 1)
        step = min(quiet)
        costs.append(sum(listening) - len(listening) * step)
        quiet_steps.append(step)
        extra.append(busy[0] - plain[0])
    ledger = site.connectivity.ledger()
    created = sum(event.created for event in ledger.events if event.policy == "reconnection")
    dropped = sum(event.pruned for event in ledger.events if event.policy == "reconnection")
    step = min(quiet_steps)
    return {
        "steps_per_cycle": round(statistics.median(costs) / step, 3),
        "cycle_ms": round(1e3 * statistics.median(costs), 1),
        "step_ms": round(1e3 * step, 1),
        "peak_bytes_per_weight": round(max(extra) / weights, 1),
        "state_bytes_per_weight": round(kept / weights, 1),
        "weights": weights,
        "created": created,
        "dropped": dropped,
        "edges": sum(1 for name in site.connectivity.weights if name.startswith("edges.")),
    }


def _bytes(site: Site, mechanisms: Sequence[Mechanism]) -> int:
    """What surgery keeps, right before a decision: masks and books, and what the mechanisms have listened to."""
    held: list[Tensor] = list(site.connectivity.state().values())
    held += [value for mechanism in mechanisms for value in mechanism.state().values()]
    off = sum(weight.numel() for weight in site.connectivity.weights.values())
    return off + sum(value.numel() * value.element_size() for value in held)


class _peak:  # noqa: N801 - a context manager
    """The highest resident memory of the process within a block, in bytes; 0 where the system does not tell."""

    def __enter__(self) -> list[int]:
        self._found = [0]
        gc.collect()
        if CLEAR_PEAK.exists():
            # What was freed goes back to the system, or it would hide what is asked for next.
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            CLEAR_PEAK.write_text("5", encoding="ascii")
        return self._found

    def __exit__(self, *_: object) -> None:
        if STATUS.exists():
            line = next(x for x in STATUS.read_text(encoding="ascii").splitlines() if x.startswith("VmHWM"))
            self._found[0] = 1024 * int(line.split()[1])


def main() -> None:
    """Print one JSON object, ratios first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--cycles", type=int, default=2, help="that are timed, of each kind")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--kinds", nargs="+", choices=CYCLES, default=list(CYCLES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, dict[str, float]] = {}
    for name in args.networks:
        make, batch = NETWORKS[name]
        for kind in args.kinds:
            if name == "mlp25m" and kind == "weight_gradient_global" and args.kinds == list(CYCLES):
                continue
            rows[f"{name}_{kind}"] = measure(Noise(make(), batch, (3, 32, 32)), CYCLES[kind], args.cycles)
            gc.collect()
    report: dict[str, Any] = {f"ratio_{name}": row["steps_per_cycle"] for name, row in rows.items()}
    print(json.dumps(report | {"threads": 1, "cycles": args.cycles} | rows, indent=None if args.json else 2))


if __name__ == "__main__":
    main()
