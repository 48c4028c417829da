"""A parent, its buds and the system they make: accuracy, size, cost and time per request, and requests per second.

    python -m tests.benchmarks.buds --json
    python -m tests.benchmarks.buds --task cifar10 --out DIR --json

One trial of fixed knobs, each bud trained for one epoch of its samples; validated on the test split, which nothing was
chosen on. `choices` says what other values of `assurance`, which needs no training, would make of the same buds on the
validation split. With ``--out`` the trial leaves its checkpoints there and goes on where it was cut off.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import uvicorn
from torch import Tensor

from objectives.cost import count_macs
from objectives.loading import load_task
from objectives.task import Task
from search.buds.bundle import Bundle, read_bundle, subtasks_of
from search.buds.cut import Cut
from search.buds.find import Stages, Subtasks
from search.buds.manager import BudManager, Serving
from search.buds.serve import application
from search.buds.system import System, costs
from search.buds.trial import FOLDER, run_bud_trial
from search.buds.validate import validate
from search.result import Budget, TrialRequest, TrialResult
from spaces.budding import BuddingPolicy
from spaces.finetuning import FinetuningPolicy
from spaces.profile import CompressionProfile
from tests.data import FOLDER as DATA

#: Per task its arguments, the knobs, and the precision of training.
CASES: Mapping[str, tuple[Mapping[str, Any], tuple[BuddingPolicy, FinetuningPolicy], str]] = {
    "digits": ({}, (BuddingPolicy(), FinetuningPolicy()), "fp32"),
    "cifar10": (
        {
            "data_dir": str(DATA / "cifar10"),
            "weights": str(DATA / "weights" / "resnet20-cifar10-jpeg.safetensors"),
            "validation": "test-head",
            "batch_size": 64,
            "shift": 0,
        },
        (
            BuddingPolicy(
                stem=0.02,
                keep=0.35,
                slope=0.4,
                rank=2,
                plastic=0.02,
                distillation=2.0,
                matching=30.0,
                pruning=0.0,
                outside=0.3,
                confidence=0.5,
                blend=1,
                assurance=0.86,
            ),
            FinetuningPolicy(learning_rate=0.005, temperature=4.0),
        ),
        "bf16",
    ),
}
#: Requests that are timed one by one, and seconds that each contender is under load, from so many clients.
TIMED, SECONDS, CLIENTS = 200, 4.0, 4
#: Values of `assurance` that are tried on finished buds.
CHOICES = (0.0, 0.5, 0.7, 0.8, 0.86, 0.9, 0.95)


def measure(name: str, out: Path, epochs: float, seed: int = 0) -> dict[str, Any]:
    """Train, validate, time; the ratios first."""
    args, policies, precision = CASES[name]
    task = load_task(name, args)
    request = TrialRequest(0, name, CompressionProfile.of(*policies), seed, Budget(epochs, 4, precision))
    if not (out / FOLDER / "buds").is_dir():
        *_, result = run_bud_trial(request, task, ("accuracy", "macs"), {}, checkpoints=out)
        if not isinstance(result, TrialResult) or result.state != "complete":
            raise SystemExit(f"the trial failed: {getattr(result, 'reason', '')}")
    bundle = read_bundle(out / FOLDER)
    whole, rows = _table(bundle, task, out / FOLDER)
    parent, system = rows[0], rows[-1]
    load = _under_load(bundle, task)
    return {
        "macs": system["macs"] / parent["macs"],
        "drop": parent["accuracy"] - system["accuracy"],
        "latency": system["p50_ms"] / parent["p50_ms"],
        "throughput": load["system"] / load["parent"],
        "task": name,
        "epochs": epochs,
        "seed": seed,
        "knobs": {policy.name: policy.values() for policy in policies},
        "rows": rows,
        "requests_per_second": load,
        "routing": whole,
        "choices": _choices(bundle, task, out / FOLDER),
    }


def _table(bundle: Bundle, task: Task, folder: Path) -> tuple[dict[str, float], list[dict[str, Any]]]:
    system, inputs = bundle.system, task.example_inputs()
    hidden, stages = _stages(system, inputs)
    tail = system.parent
    found = validate(system, stages, Subtasks(**subtasks_of(folder)), task, "test")
    spent, network = costs(system, inputs, hidden), task.network().eval()
    samples = next(iter(task.batches("test", shuffle_seed=None)))[0]
    assert isinstance(samples, Tensor)
    size = float(sum(p.numel() for p in network.parameters()))
    macs = float(sum(count_macs(network, inputs).values()))
    rows: list[dict[str, Any]] = [
        {"who": "parent", "accuracy": found.parent, "parameters": size, "macs": macs, "p50_ms": _p50(network, samples)}
    ]
    for index, bud in sorted(found.buds.items()):
        alone = System(system.stem, tail, system.router, {index: system.buds[index]})

        def answer(x: Tensor, alone: System = alone, index: int = index) -> Tensor:
            said: Tensor = alone.buds[index](alone.stem(x))
            return said

        rows.append(
            {
                "who": f"bud {index}",
                "accuracy": bud.accuracy,
                "parent_accuracy": bud.parent,
                "share": bud.share,
                "classes": list(bundle.buds[index].classes),
                "parameters": bundle.buds[index].parameters,
                "macs": spent.stem + spent.buds[index],
                "p50_ms": _p50(answer, samples),
            }
        )
    rows.append(
        {
            "who": "system",
            "accuracy": found.accuracy,
            "parameters": spent.parameters,
            "macs": spent.expected(found.use, found.asked),
            "p50_ms": _p50(lambda x: system.answer(x).outputs, samples),
        }
    )
    return {"right": found.routing, "parent_asked": found.asked, "blended": found.blended}, rows


def _stages(system: System, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Stages]:
    with torch.no_grad():
        hidden = system.stem(*inputs)
    assert isinstance(system.parent, torch.fx.GraphModule)
    assert isinstance(system.stem, torch.fx.GraphModule)
    return hidden, Stages(Cut(system.stem, system.parent, hidden, 0.0))


def _choices(bundle: Bundle, task: Task, folder: Path) -> list[dict[str, float]]:
    """What the same buds come to on the validation split as the parent is asked more or less often."""
    inputs = task.example_inputs()
    hidden, stages = _stages(bundle.system, inputs)
    subtasks, rows = Subtasks(**subtasks_of(folder)), list[dict[str, float]]()
    spent, whole = costs(bundle.system, inputs, hidden), sum(count_macs(task.network(), inputs).values())
    for assurance in CHOICES:
        found = validate(replace(bundle.system, assurance=assurance), stages, subtasks, task, "validation")
        macs = spent.expected(found.use, found.asked) / whole
        rows.append({"assurance": assurance, "accuracy": found.accuracy, "macs": macs, "asked": found.asked})
    return rows


@torch.no_grad()
def _p50(answer: Callable[[Tensor], Tensor], samples: Tensor) -> float:
    """Median milliseconds of a request of one sample, over different samples."""
    times = []
    for index in range(TIMED + 10):
        x = samples[index % len(samples)].unsqueeze(0)
        began = time.perf_counter()
        answer(x)
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times[10:])


def _under_load(bundle: Bundle, task: Task) -> dict[str, float]:
    """Requests per second over HTTP on this machine: the parent alone, then the system, by the same clients."""
    samples = next(iter(task.batches("test", shuffle_seed=None)))[0]
    assert isinstance(samples, Tensor)
    shape = tuple(bundle.about["inputs"])
    network = task.network().eval()
    alone = System(torch.nn.Identity(), network, bundle.system.router, {})
    alone = _Alone(alone.stem, alone.parent, alone.router)
    return {
        "parent": _rate(BudManager(Serving(alone, inputs=shape)), samples),
        "system": _rate(BudManager.of(bundle), samples),
    }


class _Alone(System):
    """The parent without a router."""

    def routed(self, hidden: Tensor) -> Tensor:
        return torch.zeros(len(hidden), self.subtasks)


def _rate(manager: BudManager, samples: Tensor) -> float:
    bodies = [safetensors.torch.save({"inputs": x.unsqueeze(0).clone()}) for x in samples[:64]]
    counts, failed = [0] * CLIENTS, list[str]()
    with _served(manager) as port:

        def ask(client: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            end = time.monotonic() + SECONDS
            try:
                while time.monotonic() < end:
                    connection.request("POST", "/v1/answer/raw", bodies[counts[client] % len(bodies)])
                    answer = connection.getresponse()
                    answer.read()
                    if answer.status != 200:
                        failed.append(f"status {answer.status}")
                    counts[client] += 1
            except (OSError, http.client.HTTPException) as error:
                failed.append(repr(error))
            finally:
                connection.close()

        threads = [threading.Thread(target=ask, args=(client,)) for client in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failed:
        raise SystemExit(f"{len(failed)} requests failed: {failed[:3]}")
    return sum(counts) / SECONDS


@contextmanager
def _served(manager: BudManager) -> Iterator[int]:
    config = uvicorn.Config(application(manager), host="127.0.0.1", port=0, log_level="error", access_log=False)
    socket = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([socket],))
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield int(socket.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()
        socket.close()


def main() -> None:
    """Print the table, or all of it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=sorted(CASES), default="digits")
    parser.add_argument("--out", type=Path, help="keep the trial here, and go on with what is there")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(given.task, given.out or Path(folder), given.epochs, given.seed)
    if given.json:
        print(json.dumps(found))
        return
    print("| | accuracy | its parent's | parameters | MACs per request | ms per request |")
    print("|---|---|---|---|---|---|")
    for row in found["rows"]:
        beside = f"{100 * row['parent_accuracy']:.2f}" if "parent_accuracy" in row else ""
        cells = (f"{100 * row['accuracy']:.2f}", beside, f"{row['parameters']:,.0f}", f"{row['macs']:,.0f}")
        print(f"| {row['who']} | {' | '.join(cells)} | {row['p50_ms']:.2f} |")
    print("| assurance | accuracy | MACs, share of the parent's | parent asked |")
    print("|---|---|---|---|")
    for row in found["choices"]:
        figures = (f"{100 * row['accuracy']:.2f}", f"{row['macs']:.2f}", f"{100 * row['asked']:.1f} %")
        print(f"| {row['assurance']} | {' | '.join(figures)} |")
    print({name: found[name] for name in ("macs", "drop", "latency", "throughput", "requests_per_second", "routing")})


if __name__ == "__main__":
    main()
