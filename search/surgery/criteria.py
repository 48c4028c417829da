"""What a connection is worth, watched while the network trains and only in the steps that need it."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search.surgery.covariance import Covariance

#: Gradients are averaged over this many steps before a decision: one batch alone is mostly noise.
WINDOW = 4


class GradientWatch:
    """The mean gradient of every weight, inactive ones too, over the steps before each decision.

    Args:
        weights: Whose gradients.
        decisions: The steps of the decisions, ascending.
        width: Over how many steps at most; None means all since the last decision.
    """

    def __init__(
        self, weights: Mapping[str, nn.Parameter], decisions: Sequence[int], width: int | None = WINDOW
    ) -> None:
        self.weights = weights
        self._listens: set[int] = set()
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        before = -1
        for decision in decisions:
            first = before + 1 if width is None else max(before + 1, decision - width + 1)
            self._listens |= set(range(first, decision + 1))
            before = decision

    @torch.no_grad()
    def after_backward(self, step: int) -> None:
        """Take the gradients of this step where a decision is near."""
        if step not in self._listens:
            return
        for name, weight in self.weights.items():
            if weight.grad is not None:
                if name in self._sums:
                    self._sums[name] += weight.grad
                else:
                    self._sums[name] = weight.grad.clone()
        self._count += 1

    def mean(self) -> dict[str, Tensor]:
        """The mean gradient per weight; 0 where none was seen."""
        count = max(1, self._count)
        return {n: self._sums[n] / count if n in self._sums else torch.zeros_like(w) for n, w in self.weights.items()}

    def take(self) -> dict[str, Tensor]:
        """Its size per weight, up to a factor that all have in common, and forget; 0 where none was seen."""
        found = {n: self._sums[n].abs_() if n in self._sums else torch.zeros_like(w) for n, w in self.weights.items()}
        self.clear()
        return found

    def clear(self) -> None:
        """Forget, so that the memory is free until the next decision is near."""
        self._sums, self._count = {}, 0

    def state(self) -> dict[str, Tensor]:
        return {"count": torch.tensor(self._count)} | {f"sum/{n}": value.clone() for n, value in self._sums.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._count = int(state["count"])
        self._sums = {
            name: state[f"sum/{name}"].to(weight.device).clone()
            for name, weight in self.weights.items()
            if f"sum/{name}" in state
        }


class MovementWatch:
    """The sum of -w * dL/dw over all steps: how far a weight moves away from zero (Sanh et al. 2020)."""

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        self.weights = weights
        self.score = {name: torch.zeros_like(weight) for name, weight in weights.items()}

    @torch.no_grad()
    def after_backward(self) -> None:
        for name, weight in self.weights.items():
            if weight.grad is not None:
                self.score[name].addcmul_(weight, weight.grad, value=-1)

    def state(self) -> dict[str, Tensor]:
        return {name: score.clone() for name, score in self.score.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.score = {name: state[name].to(weight.device).clone() for name, weight in self.weights.items()}


class _LayerWatch(ABC):
    """Listens to the layers of some weights in the training steps before each decision.

    Layers whose input is not seen (attention's and recurrent layers' weights, which their modules hand to fused
    kernels) are named in `unobserved`.

    Args:
        network: On whose layers to listen.
        weights: Which.
        decisions: The steps of the decisions, ascending.
        always: Listen in evaluation mode too, and from the start.
    """

    def __init__(
        self,
        network: nn.Module,
        weights: Mapping[str, nn.Parameter],
        decisions: Sequence[int],
        always: bool = False,
    ) -> None:
        self._weights = weights
        self._listening = self._always = always
        self._steps = {s for d in decisions for s in range(max(0, d - WINDOW + 1), d + 1)}
        self._handles = []
        self.unobserved: list[str] = []
        for name in weights:
            module = network.get_submodule(name.rpartition(".")[0])
            if isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and not getattr(module, "transposed", False):
                self._handles.append(module.register_forward_hook(functools.partial(self._look, name)))
            else:
                self.unobserved.append(name)

    def before_forward(self, step: int) -> None:
        """Listen in the steps before a decision, and in no other."""
        self._listening = step in self._steps

    def after_backward(self) -> None:
        """Stop listening: copies of the network share its hooks."""
        self._listening = self._always

    def remove(self) -> None:
        """Take the hooks off the network."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @torch.no_grad()
    def _look(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if self._listening and (module.training or self._always):
            self._see(name, isinstance(module, nn.Linear), inputs[0].detach(), output.detach())

    @abstractmethod
    def _see(self, name: str, last: bool, x: Tensor, y: Tensor) -> None:
        """Take what a layer read and gave; its units are in the `last` dimension, or else in dimension 1."""


class ActivationWatch(_LayerWatch):
    """The size of each input that a weight multiplies, over the steps before each decision (Wanda, Sun et al. 2023).

    It is the root mean square, not the L2 norm: within a layer they rank alike, and over all layers those with many
    positions would otherwise win by their number. Where a layer is not seen, the criterion is the magnitude.
    """

    def __init__(self, network: nn.Module, weights: Mapping[str, nn.Parameter], decisions: Sequence[int]) -> None:
        super().__init__(network, weights, decisions)
        self._squares: dict[str, Tensor] = {}

    def norms(self, name: str, weight: Tensor) -> Tensor:
        """The inputs' sizes, shaped so that they multiply the weight; 1 where the input was not seen."""
        if name not in self._squares:
            return torch.ones((), device=weight.device)
        norm = self._squares[name].sqrt()
        groups = norm.numel() // weight.shape[1]
        # The rows of group g read the g-th run of input channels.
        rows = norm.reshape(groups, 1, weight.shape[1]).expand(groups, weight.shape[0] // groups, weight.shape[1])
        return rows.reshape(weight.shape[0], weight.shape[1], *[1] * (weight.ndim - 2))

    def clear(self) -> None:
        """Forget what was seen."""
        self._squares = {}

    def state(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self._squares.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._squares = {name: value.clone() for name, value in state.items()}

    def _see(self, name: str, last: bool, x: Tensor, y: Tensor) -> None:
        squares = x.movedim(-1 if last else 1, -1).flatten(0, -2).square().mean(0)
        self._squares[name] = self._squares[name] + squares if name in self._squares else squares


class CorrelationWatch(_LayerWatch):
    """|Pearson correlation| of each input unit with each output unit of a layer, over the steps before each decision.

    Positions count as samples; where a layer changes the extent, its input is averaged to that of its output. Layers
    that are not seen score 0.
    """

    def __init__(
        self,
        network: nn.Module,
        weights: Mapping[str, nn.Parameter],
        decisions: Sequence[int],
        always: bool = False,
    ) -> None:
        super().__init__(network, weights, decisions, always)
        self._seen: dict[str, Covariance] = {}

    def scores(self, name: str, weight: Tensor) -> Tensor:
        """The correlation of the units that each entry of a weight joins, of the weight's shape, in [0, 1]."""
        if name not in self._seen:
            return torch.zeros_like(weight)
        correlation = self._seen[name].correlation()
        groups = correlation.shape[1] // weight.shape[1]
        # The rows of group g read the g-th run of input units.
        rows = [
            part[:, g * weight.shape[1] : (g + 1) * weight.shape[1]] for g, part in enumerate(correlation.chunk(groups))
        ]
        matrix = torch.cat(rows).to(weight.dtype)
        return matrix.reshape(*matrix.shape, *[1] * (weight.ndim - 2)).expand_as(weight)

    def clear(self) -> None:
        """Forget what was seen."""
        self._seen = {}

    def state(self) -> dict[str, Tensor]:
        return {f"{n}/{part}": v for n, seen in self._seen.items() for part, v in seen.state().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        rows: dict[str, dict[str, Tensor]] = {}
        for key, value in state.items():
            name, _, part = key.rpartition("/")
            rows.setdefault(name, {})[part] = value
        self._seen = {name: Covariance.of(row, self._weights[name].device) for name, row in rows.items()}

    def _see(self, name: str, last: bool, x: Tensor, y: Tensor) -> None:
        x, y = x.float(), y.float()
        if not last and x.shape[2:] != y.shape[2:]:
            x = getattr(F, f"adaptive_avg_pool{x.ndim - 2}d")(x, y.shape[2:])
        rows = [(t if last else t.movedim(1, -1)).reshape(-1, t.shape[-1 if last else 1]) for t in (y, x)]
        self._seen.setdefault(name, Covariance()).add(*rows)
