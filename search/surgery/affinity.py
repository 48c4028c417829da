"""How much two layers, or two units, want to be joined: measured on a few batches, streamed pair by pair.

Memory is that of the pairs looked at, units of one layer by units of the other, never of all layers at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from objectives.maskable import maskable
from objectives.task import Batch, Task, move
from search.surgery.covariance import Covariance
from search.surgery.edges import Candidate, adapted

#: Extents are averaged to at most this many positions before features are compared sample by sample.
_POSITIONS = 4


class _Taps(fx.Interpreter):
    """Runs a traced network and keeps what some of its nodes computed, with the gradient where it is wanted."""

    def __init__(self, traced: fx.GraphModule, nodes: set[str], gradients: set[str]) -> None:
        super().__init__(traced)
        self._nodes, self._gradients = nodes, gradients
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self._nodes or n.name in self._gradients:
            if n.name in self._gradients and result.requires_grad:
                result.retain_grad()
            self.values[n.name] = result
        return result


def taps(
    traced: fx.GraphModule,
    task: Task,
    batches: Iterable[Batch],
    candidates: Sequence[Candidate],
    device: str,
    *,
    gradients: bool,
) -> Iterator[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]:
    """What flows at both ends of each candidate, batch by batch: values by node, and dL/d(value) at the targets.

    The network runs in evaluation mode, so that its statistics stay as they are; its gradients stay as they are too.
    Gradients of its weights are not wanted, and a third of the work is left out with them.
    """
    sources, targets = {c.source_node for c in candidates}, {c.target_node for c in candidates}
    kept = [(parameter, parameter.grad) for parameter in traced.parameters()]
    modes = [(module, module.training) for module in traced.modules()]
    # Not only put aside: backward would add to the very tensors that are to come back.
    traced.zero_grad(set_to_none=True)
    traced.eval()
    frozen = [weight for weight in maskable(traced).values() if weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(False)
    try:
        for inputs, wanted in batches:
            interpreter = _Taps(traced, sources | targets, targets if gradients else set())
            moved = move(inputs, device)
            arguments = (
                (moved,) if isinstance(moved, Tensor) else tuple(moved.values() if isinstance(moved, dict) else moved)
            )
            if gradients:
                # Where all weights are frozen, the gradient must begin somewhere.
                arguments = tuple(x.detach().requires_grad_(x.is_floating_point()) for x in arguments)
            with torch.set_grad_enabled(gradients):
                outputs = interpreter.run(*arguments)
                if gradients:
                    task.loss(outputs, wanted.to(device)).backward()  # type: ignore[no-untyped-call]
            values = {name: value.detach() for name, value in interpreter.values.items()}
            slopes = (
                {n: v.grad for n, v in interpreter.values.items() if n in targets and v.grad is not None}
                if gradients
                else {}
            )
            yield values, slopes
    finally:
        for weight in frozen:
            weight.requires_grad_(True)
        for parameter, gradient in kept:
            parameter.grad = gradient
        for module, training in modes:
            module.training = training


class PairGradient:
    """dL/dw of every pair of units that an edge could join, for w = 0: the mean over batches."""

    def __init__(self, candidate: Candidate) -> None:
        self._candidate, self._sum, self._count = candidate, torch.zeros(()), 0

    def add(self, values: Mapping[str, Tensor], slopes: Mapping[str, Tensor]) -> None:
        x = units_last(adapted(self._candidate, values[self._candidate.source_node]), self._candidate)
        slope = units_last(slopes[self._candidate.target_node], self._candidate)
        self._sum = self._sum.to(x.device) + slope.T @ x
        self._count += 1

    def scores(self) -> Tensor:
        """(target units, source units), >= 0."""
        return (self._sum / max(1, self._count)).abs()


class PairCorrelation:
    """|Pearson correlation| of every pair of units over samples and positions, streamed."""

    def __init__(self, candidate: Candidate) -> None:
        self._candidate, self._seen = candidate, Covariance()

    def add(self, values: Mapping[str, Tensor], slopes: Mapping[str, Tensor]) -> None:
        x = units_last(adapted(self._candidate, values[self._candidate.source_node]), self._candidate)
        self._seen.add(units_last(values[self._candidate.target_node], self._candidate), x)

    def scores(self) -> Tensor:
        """(target units, source units), in [0, 1]; 0 where a unit never varies."""
        return self._seen.correlation()


class Alignment:
    """Minibatch-unbiased linear CKA of two layers' features (Nguyen et al. 2021, equation 3; HSIC_1 of Song et al.)."""

    def __init__(self, candidate: Candidate) -> None:
        self._candidate = candidate
        self._xy = self._xx = self._yy = 0.0

    def add(self, values: Mapping[str, Tensor], slopes: Mapping[str, Tensor]) -> None:
        x = _gram(values[self._candidate.source_node], self._candidate.tokens)
        y = _gram(values[self._candidate.target_node], self._candidate.tokens)
        if len(x) < 4:
            return  # the estimator divides by n - 3
        self._xy += hsic_1(x, y)
        self._xx += hsic_1(x, x)
        self._yy += hsic_1(y, y)

    def value(self) -> float:
        """1 where the features are the same up to rotation and scale, near 0 where they have nothing in common."""
        scale = math.sqrt(self._xx * self._yy) if self._xx > 0 and self._yy > 0 else 0.0
        return self._xy / scale if scale > 0 else 0.0


def hsic_1(k: Tensor, m: Tensor) -> float:
    """The unbiased estimator of the Hilbert-Schmidt independence criterion (Song et al. 2012, equation 5).

    Args:
        k: Gram matrix of one set of features, (n, n), n >= 4.
        m: Of the other, over the same samples.
    """
    n = len(k)
    k, m = k.clone().fill_diagonal_(0), m.clone().fill_diagonal_(0)
    trace = (k * m.T).sum()
    both = k.sum() * m.sum() / ((n - 1) * (n - 2))
    middle = 2 / (n - 2) * (k.sum(0) @ m.sum(1))
    return float((trace + both - middle) / (n * (n - 3)))


def divergence(alignments: Sequence[tuple[int, float]]) -> list[float]:
    """How much less alike each pair is than pairs at its distance usually are: the residual of a line over distance.

    Args:
        alignments: Per pair its distance in layers and its alignment.

    Returns:
        Per pair expected minus found; the highest diverge most. Alikeness always falls with distance, so without the
        trend removed the farthest pair would win every time.
    """
    distances = torch.tensor([float(d) for d, _ in alignments])
    found = torch.tensor([a for _, a in alignments])
    centred = distances - distances.mean()
    spread = float(centred.square().sum())
    slope = float((centred * (found - found.mean())).sum()) / spread if spread > 0 else 0.0
    return (found.mean() + slope * centred - found).tolist()


def units_last(x: Tensor, candidate: Candidate) -> Tensor:
    """(samples and positions, units)."""
    moved = x if candidate.tokens or x.ndim == 2 else x.movedim(1, -1)
    return moved.reshape(-1, moved.shape[-1]).float()


def _gram(x: Tensor, tokens: bool) -> Tensor:
    """Inner products of the samples' features, positions averaged down to a few."""
    if x.ndim > 2 and not tokens:
        for dim in range(2, x.ndim):
            while x.shape[dim] > _POSITIONS and x.shape[dim] % 2 == 0:
                x = x.reshape(*x.shape[:dim], -1, 2, *x.shape[dim + 1 :]).mean(dim + 1)
    elif x.ndim > 2:
        x = x.mean(1)
    flat = x.flatten(1).double()
    return flat @ flat.T
