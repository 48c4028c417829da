"""Everything that needs a GPU, in one run: latency by events, int8, 4 bits, fp8, 2:4, and a study that shares it.

    python -m tests.benchmarks.gpu [--out gpu.json] [--width 4096] [--seconds 2]

Prints one JSON object. Each part is tried on its own: one that fails says why and does not stop the others. Without a
GPU it says so and exits with 3.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from objectives.tasks.resnet import ResNet
from search.formats.accelerated import FORMS, accelerated, unavailable
from search.latency.bench import bench
from search.latency.clock import paired
from search.latency.runtimes import ready
from search.latency.setting import Setting
from search.study import Study
from tests.benchmarks.efficiency import cut


def layers(width: int) -> nn.Module:
    """Two wide linear layers: what tensor cores are made for."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)).eval()


def channels(seconds: float) -> dict[str, Any]:
    """ResNet-20 with half the inner channels, timed by events at batch 1, 64 and 1024."""
    inputs = (torch.randn(2, 3, 32, 32),)
    network = ResNet(20).eval()
    smaller = cut(copy.deepcopy(network), inputs, 0.0, {"layer*.conv1": 0.5}, align=1)
    found = bench(
        network, smaller, inputs, batches=(1, 64, 1024), runtimes=("eager", "compile"), seconds=seconds, device="cuda"
    )
    return found.to_dict()


def forms(width: int, seconds: float) -> dict[str, Any]:
    """Each form of two wide layers against bfloat16, with how far its outputs are off."""
    baseline = layers(width).to("cuda", torch.bfloat16)
    inputs: tuple[Tensor, ...] = (torch.randn(2, width, device="cuda", dtype=torch.bfloat16),)
    rows: dict[str, Any] = {}
    for name in FORMS:
        reason = unavailable(name)
        if reason:
            rows[name] = {"skipped": reason}
            continue
        rows[name] = _tried(lambda name=name: _form(name, baseline, inputs, seconds))  # type: ignore[misc]
    return rows


def _form(name: str, baseline: nn.Module, inputs: tuple[Tensor, ...], seconds: float) -> dict[str, Any]:
    network = accelerated(copy.deepcopy(baseline), name)
    found: dict[str, Any] = {}
    with torch.no_grad():
        expected = accelerated(copy.deepcopy(baseline), "dense 2:4" if name == "2:4" else "bf16")(*inputs)
        found["relative_difference"] = float((network(*inputs) - expected).norm() / expected.norm())
    for batch in (1, 64, 1024):
        setting = Setting(batch, 1, "eager", "cuda")
        calls = [ready(each, inputs, setting) for each in (baseline, network)]
        first, second = paired(calls, seconds=seconds, device="cuda")
        found[str(batch)] = {"bf16_ms": first.p50_ms, "ms": second.p50_ms, "speedup": second.speedup}
    return found


def study(home: Path) -> dict[str, Any]:
    """Four trials of digits on a quarter of the device each, their latency taken by events."""
    file = {
        "study": {"name": "gpu", "trials": 4, "sampler": "random"},
        "task": {"target": "digits"},
        "objectives": {
            "accuracy": "maximize",
            "latency_ms": {"direction": "minimize", "batch": 64, "runtime": "eager"},
        },
        "budget": {"epochs": 1.0, "iterations": 2},
        "resources": {"concurrent": 4, "cpu": 1.0, "gpu": 0.25},
        "spaces": {"pruning": {"granularity": "channel", "schedule": "oneshot", "sparsity": {"low": 0.2, "high": 0.8}}},
    }
    findings = Study.create(file, home=home).run()
    return {key: findings.summary[key] for key in ("state", "trials", "baseline", "front", "seconds")}


def _tried(part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return part()
    except Exception as error:  # the parts are independent, and this script is to report on all of them
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write it there")
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.stderr.write("there is no GPU that PyTorch can use: run this where there is one\n")
        raise SystemExit(3)
    with tempfile.TemporaryDirectory() as home:
        found = {
            "device": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "channels": _tried(lambda: channels(args.seconds)),
            "forms": _tried(lambda: forms(args.width, args.seconds)),
            "study": _tried(lambda: study(Path(home))),
        }
    text = json.dumps(found, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
