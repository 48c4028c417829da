"""How much of the saved work is saved time: compressed networks against their baselines in onnxruntime, one thread.

    python -m tests.benchmarks.efficiency [--json] [--seconds 4] [--runtime onnxruntime]

Efficiency is the measured speed-up by the ratio of multiply-accumulates. Networks are cut by the pruner and not
trained: time depends on shapes alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from objectives.tasks.decoder import Decoder
from objectives.tasks.resnet import ResNet
from search.latency.bench import bench
from search.latency.setting import RuntimeName
from search.machine import hardware
from search.projection import at_its_end
from search.surgery.finalize import plain
from spaces.profile import CompressionProfile, LayerOverride
from spaces.pruning import PruningPolicy

#: Share of the channels that go, layers that lose another share, and what the widths that stay are a multiple of.
Cut = tuple[float, Mapping[str, float], int]
#: The first takes half of the work away; the others show what a device's block of channels does to the same share.
RESNET: Mapping[str, Cut] = {
    "ResNet-20, inner channels halved": (0.0, {"layer*.conv1": 0.5}, 1),
    "ResNet-20, inner channels of stages 2 and 3 halved": (0.0, {"layer2*.conv1": 0.5, "layer3*.conv1": 0.5}, 1),
    "ResNet-20, all channels halved": (0.5, {}, 1),
    "ResNet-20, 30 % of the channels gone": (0.3, {}, 1),
    "ResNet-20, 30 % of the channels gone, multiples of 16": (0.3, {}, 16),
    "ResNet-20, half of the channels gone, multiples of 16": (0.5, {}, 16),
}
CHARS: Mapping[str, Cut] = {"transformer, all channels halved": (0.5, {}, 1)}


def cut(
    network: nn.Module, inputs: tuple[Tensor, ...], share: float, layers: Mapping[str, float], align: int
) -> nn.Module:
    """The network without a share of its channels, finalized."""
    policy = PruningPolicy(granularity="channel", sparsity=share, allocation="uniform", schedule="oneshot", align=align)
    overrides = [LayerOverride(match, "pruning", {"sparsity": value}) for match, value in layers.items()]
    profile = CompressionProfile.of(policy, layers=overrides)
    with at_its_end(network, inputs, profile) as end:
        return plain(end)


def measured(runtime: RuntimeName, seconds: float) -> list[dict[str, Any]]:
    """A row per network and batch."""
    torch.manual_seed(0)
    images, tokens = (torch.randn(2, 3, 32, 32),), (torch.randint(0, 65, (2, 64)),)
    subjects: list[tuple[nn.Module, tuple[Tensor, ...], Mapping[str, Cut]]] = [
        (ResNet(20).eval(), images, RESNET),
        (Decoder(65, 64, 64, 2, 4).eval(), tokens, CHARS),
    ]
    rows = []
    for network, inputs, cuts in subjects:
        for name, (share, layers, align) in cuts.items():
            smaller = cut(network, inputs, share, layers, align)
            found = bench(network, smaller, inputs, runtimes=(runtime,), seconds=seconds)
            saved = found.macs["baseline"] / found.macs["compressed"]
            rows += [{"network": name, "macs": saved, **row.to_dict()} for row in found.rows]
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| network | MACs saved | batch | baseline | compressed | speed-up | efficiency |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['network']} | {r['macs']:.2f} x | {r['batch']} | {r['baseline_ms']:.3g} ms | {r['p50_ms']:.3g} ms "
        f"| {r['speedup']:.2f} x | {r['efficiency']:.2f} |"
        for r in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object, the ratios first")
    parser.add_argument("--seconds", type=float, default=4.0, help="of timing per network and batch")
    parser.add_argument("--runtime", default="onnxruntime", choices=("onnxruntime", "eager", "compile"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = measured(args.runtime, args.seconds)
    if not args.json:
        print(table(rows))
        return
    ratios = {f"{r['network']}, batch {r['batch']}": round(r["efficiency"], 3) for r in rows}
    print(json.dumps({"efficiency": ratios, "hardware": hardware(), "rows": rows}))


if __name__ == "__main__":
    main()
