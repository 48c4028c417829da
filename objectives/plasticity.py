"""How readily a network rewires while it is compressed: the objective, and the figures that keep it honest.

The ratio of the seed can be raised by pointless churn: prune, create, prune again. So the objective counts each
connection once, and only if it is active in the end; the other figures are reported beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from objectives.maskable import CONVOLUTIONS
from objectives.mode import evaluating
from objectives.outcome import Outcome
from objectives.task import Inputs, call
from spaces.ledger import Ledger

#: A boolean mask per weight, by qualified name.
Masks = Mapping[str, Tensor]


def plasticity(outcome: Outcome) -> float:
    """Created connections active in the end, per distinct connection ever pruned; in [0, 1], 0 if none was pruned.

    Reads the trial's counts ``survived`` and ``ever_pruned``. Switching a connection off and on again any number of
    times counts once, so churn does not pay; new edges that were never pruned can not raise it above 1.
    """
    pruned = outcome.measured["ever_pruned"]
    return min(1.0, outcome.measured["survived"] / pruned) if pruned else 0.0


def ratio(ledger: Ledger) -> float:
    """Connections created per connection pruned, over all events; 0 if none was pruned (seed 11755603, 4)."""
    pruned = ledger.pruned()
    return ledger.created() / pruned if pruned else 0.0


def churn(before: Masks, after: Masks) -> float:
    """Share of all connections that are on in one of the two and off in the other, in [0, 1]."""
    return _share({name: mask ^ after[name] for name, mask in before.items()})


def explored(ever_active: Masks) -> float:
    """Share of all connections that were active at some time, in [0, 1] (R_s of Liu et al. 2021, ITOP)."""
    return _share(ever_active)


def regrown_survival(created: Masks, active: Masks) -> float:
    """Share of the connections `created` at some update that are active now, in [0, 1]; 0 if none was created."""
    total = sum(int(mask.sum()) for mask in created.values())
    return sum(int((mask & active[name]).sum()) for name, mask in created.items()) / total if total else 0.0


def recovery(after_training: float, after_pruning: float) -> float:
    """Accuracy won back by training after a pruning step (pruning plasticity of Liu et al. 2021, GraNet)."""
    return after_training - after_pruning


def dormant(network: nn.Module, batches: Iterable[Inputs], tau: float = 0.025) -> float:
    """Share of units whose mean \\|activation\\| is at most `tau` times their layer's mean (Sokar et al. 2023, ReDo).

    A unit is a channel or feature as a convolution or linear layer receives it, that is after norm and non-linearity
    wherever they stand. The network's own inputs and its outputs are not units; a tensor that several layers read
    counts once.

    Args:
        network: Runs in evaluation mode on the device of the batches, and gets its modes back.
        batches: Inputs, at least one batch.
        tau: The threshold, in [0, 1].

    Returns:
        In [0, 1]; 0 where no layer follows another.
    """
    sums: dict[str, Tensor] = {}
    # The tensors themselves are kept until the batch is through: addresses of freed memory are given out again.
    seen: list[Tensor] = []

    def watch(name: str, dimension: int) -> object:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            activations = arguments[0]
            if any(activations.data_ptr() == other.data_ptr() for other in seen):
                return
            seen.append(activations)
            magnitude = activations.abs().double()
            others = [d for d in range(magnitude.dim()) if d != dimension % magnitude.dim()]
            total = magnitude.mean(dim=others) if others else magnitude
            sums[name] = sums[name] + total if name in sums else total

        return hook

    handles = []
    for name, module in network.named_modules():
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
            dimension = -1 if isinstance(module, nn.Linear) else 1
            handles.append(module.register_forward_pre_hook(watch(name, dimension)))  # type: ignore[arg-type]
    try:
        with evaluating(network):
            for inputs in batches:
                seen[:] = _tensors(inputs)
                call(network, inputs)
    finally:
        for handle in handles:
            handle.remove()
    units = sum(total.numel() for total in sums.values())
    asleep = sum(int((total <= tau * total.mean()).sum()) for total in sums.values())
    return asleep / units if units else 0.0


def _tensors(inputs: Inputs) -> list[Tensor]:
    if isinstance(inputs, Tensor):
        return [inputs]
    return list(inputs.values() if isinstance(inputs, dict) else inputs)


def _share(masks: Masks) -> float:
    total = sum(mask.numel() for mask in masks.values())
    return sum(int(mask.sum()) for mask in masks.values()) / total if total else 0.0
