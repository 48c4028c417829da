"""The optimizer as surgery sees it: weights come and go, and their momentum comes and goes with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from search.recipe import Recipe


class TrainingOptimizer:
    """A torch optimizer whose state follows the surgery.

    Args:
        optimizer: Any of torch's that keeps its state per entry of a parameter (SGD, Adam, AdamW, RMSprop ...).
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._torch = optimizer
        for group in optimizer.param_groups:
            group.setdefault("lr_factor", 1.0)

    @classmethod
    def from_recipe(cls, parameters: Iterable[nn.Parameter], recipe: Recipe) -> TrainingOptimizer:
        """The recipe's algorithm over those parameters that are trained.

        Not in torch's fused form, which is faster: it walks through memory and takes for granted that a weight, its
        gradient and its momentum lie in the same order, which surgery and a checkpoint do not promise.
        """
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        rate, decay = recipe.learning_rate, recipe.weight_decay
        if recipe.optimizer == "adamw":
            return cls(torch.optim.AdamW(trained, lr=rate, weight_decay=decay))
        nesterov = recipe.momentum > 0
        return cls(torch.optim.SGD(trained, rate, momentum=recipe.momentum, weight_decay=decay, nesterov=nesterov))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Everything that is trained now, in the order of adoption."""
        return [parameter for group in self._torch.param_groups for parameter in group["params"]]

    def step(self, learning_rate: float) -> None:
        """One update at this learning rate; adopted parameters move at their own factor of it."""
        for group in self._torch.param_groups:
            group["lr"] = learning_rate * group["lr_factor"]
        self._torch.step()

    def zero_grad(self) -> None:
        """Drop all gradients."""
        self._torch.zero_grad(set_to_none=True)

    def adopt(self, parameters: Iterable[nn.Parameter], lr_factor: float = 1.0) -> None:
        """Train these too, at `lr_factor` times the learning rate."""
        self._torch.add_param_group({"params": list(parameters), "lr_factor": lr_factor})

    def release(self, parameters: Iterable[nn.Parameter]) -> None:
        """Train these no longer and forget their state."""
        gone = {id(parameter) for parameter in parameters}
        for group in self._torch.param_groups:
            for parameter in group["params"]:
                if id(parameter) in gone:
                    self._torch.state.pop(parameter, None)
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in gone]
        self._torch.param_groups = [group for group in self._torch.param_groups if group["params"]]

    def forget(self, parameter: nn.Parameter, where: Tensor) -> None:
        """Zero the state of single entries: momentum would otherwise move a connection that is gone.

        Args:
            parameter: One that is trained.
            where: Boolean, of the parameter's shape.
        """
        for value in self._moments(parameter).values():
            value.masked_fill_(where, 0)

    def momentum(self, parameter: nn.Parameter) -> Tensor:
        """The running mean of the gradient, of the parameter's shape; 0 before the first step."""
        moments = self._moments(parameter)
        return moments.get("momentum_buffer", moments.get("exp_avg", torch.zeros_like(parameter)))

    def move(self, parameter: nn.Parameter, source: object, target: object) -> None:
        """Let the state of the entries `source` (an index) become that of `target`, and clear the source."""
        for value in self._moments(parameter).values():
            value[target] = value[source].clone()  # type: ignore[index]
            value[source] = 0  # type: ignore[index]

    def state(self) -> dict[str, Tensor]:
        """The state as flat tensors; the inverse of :meth:`load_state`."""
        return {
            f"{index}.{name}": value
            for index, parameter in enumerate(self.parameters)
            for name, value in self._torch.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`state` gave, for the same parameters in the same order."""
        parameters = self.parameters
        for name, value in state.items():
            index, _, key = name.partition(".")
            parameter = parameters[int(index)]
            keep = value.clone() if key == "step" else value.to(parameter.device).clone()
            self._torch.state[parameter][key] = keep

    def _moments(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        state = self._torch.state.get(parameter, {})
        return {k: v for k, v in state.items() if isinstance(v, Tensor) and v.shape == parameter.shape}
