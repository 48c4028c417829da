"""What really runs in an exported network, layer by layer: what was removed, what is dense, what is only simulated."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from objectives.maskable import maskable
from search.surgery.granularity_layers import CodedLayer
from search.surgery.routing_gate import RoutingGate

#: Below this share of zeros a layer is called dense.
FEW_ZEROS = 0.05
#: N:M patterns that accelerators know or papers use, the hardware's first.
PATTERNS = ((2, 4), (1, 4), (4, 8), (2, 8))


def execution_rows(
    network: nn.Module,
    baseline: nn.Module | None,
    gains: Mapping[str, Mapping[str, Mapping[str, float]]],
    csr: Mapping[str, Mapping[int, float]] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """One row per layer with weights.

    Args:
        network: The finalized network.
        baseline: Before compression; None where only the network itself is known.
        gains: Per layer and batch: how much faster it runs alone.
        csr: Per layer and batch: how many times as fast it is in PyTorch as compressed rows, where it is faster.

    Returns:
        ``{layer, kind, runs, simulated, weight, baseline_weight, zeros, gain}``: `runs` says what a runtime executes,
        `simulated` what is in the numbers and saves no time.
    """
    named = dict(network.named_modules())
    now = _by_layer(network)
    before = _by_layer(baseline) if baseline is not None else {}
    rows = []
    for name, weights in now.items():
        module = named.get(name)
        zeros, total = sum(_zeros(w) for w in weights.values()), sum(w.numel() for w in weights.values())
        share = zeros / total if total else 0.0
        rows.append(
            {
                "layer": name,
                "kind": type(module).__name__,
                "runs": [*_runs(weights, before.get(name), baseline is not None), *_skipping(csr.get(name, {}))],
                "simulated": [*_simulated(weights, share), *_rounded(module)],
                "weight": {key: list(w.shape) for key, w in weights.items()},
                "baseline_weight": {key: list(w.shape) for key, w in before.get(name, {}).items()},
                "zeros": round(share, 6),
                "gain": {batch: dict(row) for batch, row in gains.get(name, {}).items()},
            }
        )
    rows += [
        {
            "layer": name,
            "kind": "",
            "runs": ["removed"],
            "simulated": [],
            "weight": {},
            "baseline_weight": {key: list(w.shape) for key, w in weights.items()},
            "zeros": 0.0,
            "gain": {},
        }
        for name, weights in before.items()
        if name not in now
    ]
    return rows


def gates(network: nn.Module) -> dict[str, Any]:
    """What there is to say of a network with gates: how many, and that every block runs in the exported forms."""
    names = [name for name, module in network.named_modules() if isinstance(module, RoutingGate)]
    if not names:
        return {}
    return {
        "gates": {
            "names": names,
            "mode": "masked: every block runs and shut ones count for nothing, so no time is saved",
        }
    }


def pattern_of(weight: Tensor) -> tuple[int, int] | None:
    """The strictest N:M pattern that a weight keeps along its inputs: at most N non-zeros in every M; None for none."""
    flat = weight.detach().flatten(1)
    best: tuple[int, int] | None = None
    for n, m in PATTERNS:
        if flat.shape[1] % m:
            continue
        groups = (flat.reshape(-1, m) != 0).sum(1)
        if int(groups.max()) <= n and (best is None or n / m < best[0] / best[1]):
            best = n, m
    return best


def _by_layer(network: nn.Module) -> dict[str, dict[str, Tensor]]:
    found = {
        name: {"weight": layer.values()} for name, layer in network.named_modules() if isinstance(layer, CodedLayer)
    }
    for name, weight in maskable(network).items():
        layer, _, attribute = name.rpartition(".")
        found.setdefault(layer, {})[attribute] = weight
    return found


def _zeros(weight: Tensor) -> int:
    return weight.numel() - int(torch.count_nonzero(weight))


def _runs(weights: Mapping[str, Tensor], before: Mapping[str, Tensor] | None, compared: bool) -> list[str]:
    dtypes = {str(w.dtype).removeprefix("torch.") for w in weights.values()} - {"float32"}
    forms = sorted(dtypes)
    if before is None:
        return [*forms, "added"] if compared else [*forms, "dense"]
    smaller = any(key in before and w.numel() < before[key].numel() for key, w in weights.items())
    return [*forms, "channels removed" if smaller else "dense"]


def _skipping(gains: Mapping[int, float]) -> list[str]:
    """Where PyTorch is faster at skipping the zeros than at multiplying them."""
    return [f"csr in PyTorch at batch {batch}, {gain:.1f} x" for batch, gain in sorted(gains.items())]


def _rounded(module: nn.Module | None) -> list[str]:
    """Bits that a float runtime computes with rounded numbers."""
    if not isinstance(module, CodedLayer):
        return []
    inputs = "" if module.activations == "none" else f", {module.activations} 8-bit inputs"
    return [f"{module.weight_bits:.3g}-bit weights{inputs}"]


def _simulated(weights: Mapping[str, Tensor], share: float) -> list[str]:
    if share < FEW_ZEROS:
        return []
    patterns = {pattern_of(weight) for weight in weights.values() if weight.dim() > 1}
    if len(patterns) == 1 and (pattern := patterns.pop()) is not None:
        return [f"{pattern[0]}:{pattern[1]} zeros, {share:.0%}"]
    return [f"scattered zeros, {share:.0%}"]
