"""What skipping is worth: packed ResNet-20 against the dense network and against dropping blocks for everybody.

    python -m tests.benchmarks.routing --json            # wall-clock, one thread, batch 64 and 1
    python -m tests.benchmarks.routing --train --json    # one epoch of routing and of the static control

The gates that are timed are given, not learned: each opens for a fixed share of real images, by what it reads. The
first figure is the packed network's time over what the executed share of the dense network's multiply-accumulates
would cost; 1.0 is the ideal. The static control drops whole blocks until it executes as much.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from objectives.accuracy import mean_score
from objectives.cost import count
from objectives.execution import USE, gates
from objectives.task import Task
from objectives.tasks.cifar10 import Cifar10
from search.result import Budget, TrialRequest
from search.scoring import measure
from search.surgery.connectivity import Connectivity
from search.surgery.finalize import plain
from search.surgery.network import prepared
from search.surgery.routing import Routing
from search.surgery.routing_gate import RoutingGate
from search.surgery.routing_packing import packed
from search.surgery.site import Site
from search.trial import Trial
from spaces import FinetuningPolicy, RoutingPolicy
from spaces.profile import CompressionProfile
from tests.data import FOLDER

#: How much slower than its share of the work the packed network may be.
LIMIT = 1.15
SHARES = (0.25, 0.5, 0.75)
IMAGES = 64


def resnet20(cache: str) -> Task:
    """The task of all figures: the supplied weights, validation on the first half of the test images."""
    weights = FOLDER / "weights" / "resnet20-cifar10-jpeg.safetensors"
    return Cifar10(data_dir=str(FOLDER / "cifar10"), weights=str(weights), validation="test-head", cache_dir=cache)


def routed(task: Task) -> Site:
    """ResNet-20 with an untrained gate at every block."""
    network, _ = prepared(task.network().eval(), task.example_inputs())
    profile = CompressionProfile.of(RoutingPolicy(hidden=8))
    generator = torch.Generator().manual_seed(0)
    site = Site(network, profile, Connectivity(network), generator, 100, task.example_inputs(), task=task)
    routing = Routing(RoutingPolicy(hidden=8))
    routing.attach(site)
    routing.finish()
    return site


@torch.no_grad()
def opened_for(site: Site, share: float, images: Tensor) -> nn.Module:
    """The finalized network whose gates each open for a share of some images."""
    site = site.copy()
    site.network.eval()
    generator = torch.Generator().manual_seed(1)
    for gate in gates(site.network).values():
        assert isinstance(gate, RoutingGate)
        gate.second.copy_(torch.randn(gate.second.shape, generator=generator))
        seen: list[Tensor] = []
        handle = gate.register_forward_pre_hook(lambda g, args, seen=seen: seen.append(g.scores(args[0])))
        site.network(images)
        handle.remove()
        gate.bias.sub_(torch.quantile(torch.cat(seen), 1 - share))
    return plain(site)


def dropped(site: Site, names: Sequence[str]) -> nn.Module:
    """The finalized network without some blocks, and without gates."""
    site = site.copy()
    for name, gate in gates(site.network).items():
        assert isinstance(gate, RoutingGate)
        gate.forced = (0,) if name in names else (1,)
    return plain(site)


def nearest_static(site: Site, macs: float, images: Tensor) -> tuple[nn.Module, float]:
    """The network that drops blocks, from the last one on, down to as many multiply-accumulates as are given."""
    names = list(gates(site.network))
    candidates = [dropped(site, names[len(names) - n :]) for n in range(len(names) + 1)]
    costs = [_macs(candidate, images[:2]) for candidate in candidates]
    best = min(range(len(costs)), key=lambda i: abs(costs[i] - macs))
    return candidates[best], costs[best]


def timed(networks: Mapping[str, nn.Module], images: Tensor, batch: int, rounds: int) -> dict[str, float]:
    """Milliseconds for all images: medians over rounds in which every network has its turn.

    Returns:
        ``<name>_ms`` by the clock on the wall, and ``<name>_cpu_ms`` by the processor's time of this one thread, which
        is the same on an idle machine and means more on a busy one.
    """
    parts = torch.split(images, batch)
    found: dict[str, list[float]] = {f"{name}{kind}": [] for name in networks for kind in ("_ms", "_cpu_ms")}
    with torch.inference_mode():
        for turn in range(rounds + 1):
            for name, network in networks.items():
                wall, cpu = time.perf_counter(), time.thread_time()
                for part in parts:
                    network(part)
                if turn:
                    found[f"{name}_ms"].append(1000 * (time.perf_counter() - wall))
                    found[f"{name}_cpu_ms"].append(1000 * (time.thread_time() - cpu))
    return {name: statistics.median(values) for name, values in found.items()}


def speed(task: Task, rounds: int) -> dict[str, Any]:
    """The table of times."""
    site = routed(task)
    images = next(iter(task.batches("validation", shuffle_seed=None)))[0]
    assert isinstance(images, Tensor)
    images = images[:IMAGES]
    dense = dropped(site, [])
    whole = _macs(dense, images[:2])
    rows = []
    for share in SHARES:
        masked = opened_for(site, share, images)
        true = packed(masked, task.example_inputs())
        # What really runs on these images, gates included.
        executed = _macs(true, images)
        static, static_macs = nearest_static(site, executed, images)
        networks = {"dense": dense, "masked": masked, "packed": true, "static": static}
        for batch in (64, 1):
            times = timed(networks, images, batch, rounds)
            row = {"open": share, "batch": batch, "executed": executed / whole, "static_executed": static_macs / whole}
            row |= times
            for kind in ("", "_cpu"):
                ideal = times[f"dense{kind}_ms"]
                row[f"ratio{kind}"] = times[f"packed{kind}_ms"] / (ideal * row["executed"])
                row[f"static_ratio{kind}"] = times[f"static{kind}_ms"] / (ideal * row["static_executed"])
            rows.append(row)
    worst = {
        f"ratio{kind}_batch_{batch}": max(row[f"ratio{kind}"] for row in rows if row["batch"] == batch)
        for batch in (64, 1)
        for kind in ("", "_cpu")
    }
    return worst | {"limit": LIMIT, "rows": rows, "threads": torch.get_num_threads()}


def trained(task: Task, policy: RoutingPolicy, seed: int = 0) -> dict[str, Any]:
    """One epoch of routing: what the gates ended as, and what the network is worth on both halves of the test file."""
    started = time.perf_counter()
    profile = CompressionProfile.of(policy, FinetuningPolicy(learning_rate=0.02))
    trial = Trial(TrialRequest(0, "benchmark", profile, seed, Budget(1.0, 1, "bf16")), task, ["accuracy"], {})
    for _ in trial.iterations():
        pass
    finished = trial.finish()
    measured = measure(finished.network, task, "cpu")
    use = {name.removeprefix(USE): value for name, value in measured.items() if name.startswith(USE)}
    whole = _macs(task.network(), task.example_inputs()[0])
    cost = sum(layer.macs for layer in count(finished.network, task.example_inputs(), measured).values())
    return {
        "test": 100 * mean_score(finished.network, task, "test"),
        "validation": 100 * measured["accuracy"],
        "executed": cost / whole,
        "use": use,
        "dynamic": sum(0.05 <= value <= 0.95 for value in use.values()),
        "receipt": dict(finished.ledger.receipts["routing"]),
        "seconds": time.perf_counter() - started,
    }


def static_control(task: Task, macs: float, seed: int = 0) -> dict[str, Any]:
    """The same epoch after blocks have been dropped for everybody, down to a share of the multiply-accumulates.

    Dropped are those whose loss costs least accuracy on training images, one after the other.
    """
    site = routed(task)
    whole = _macs(dropped(site, []), task.example_inputs()[0])
    gone: list[str] = []
    while _macs(dropped(site, gone), task.example_inputs()[0]) / whole > macs:
        left = [name for name in gates(site.network) if name not in gone]
        scores = {name: mean_score(dropped(site, [*gone, name]), task, "train", limit=1024) for name in left}
        gone.append(max(left, key=lambda name: scores[name]))
    network = dropped(site, gone)
    bound = _Bound(task, network)
    profile = CompressionProfile.of(FinetuningPolicy(learning_rate=0.02))
    trial = Trial(TrialRequest(0, "benchmark", profile, seed, Budget(1.0, 1, "bf16")), bound, ["accuracy"], {})
    for _ in trial.iterations():
        pass
    finished = trial.finish()
    return {
        "test": 100 * mean_score(finished.network, task, "test"),
        "validation": 100 * mean_score(finished.network, task, "validation"),
        "executed": _macs(finished.network, task.example_inputs()[0]) / whole,
        "dropped": gone,
    }


class _Bound:
    """A task whose network is another one."""

    def __init__(self, task: Task, network: nn.Module) -> None:
        self._task, self._network = task, network

    def network(self) -> nn.Module:
        return copy.deepcopy(self._network)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)


def _macs(network: nn.Module, images: Tensor) -> float:
    return sum(layer.macs for layer in count(network, (images,)).values())


def main() -> None:
    """Measure and print one JSON object, or lines to read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--train", action="store_true", help="train instead of timing")
    parser.add_argument("--target", type=float, default=0.7, help="share of the work that is to run")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as cache:
        task = resnet20(cache)
        result: dict[str, Any]
        if args.train:
            found = trained(task, RoutingPolicy(target_cost=args.target))
            result = {"dynamic": found["dynamic"], "routing": found, "static": static_control(task, found["executed"])}
        else:
            result = speed(task, args.rounds)
    show: Callable[[Any], str] = json.dumps if args.json else lambda value: json.dumps(value, indent=2)
    print(show(result))


if __name__ == "__main__":
    main()
