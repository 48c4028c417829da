"""How a network is trained while it is compressed: one recipe for every policy and every control."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from objectives.task import Task
from spaces.errors import TaskError
from spaces.finetuning import FinetuningPolicy
from spaces.policy import nearest


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The constants of the fine-tuning.

    Args:
        optimizer: ``sgd`` (Nesterov) or ``adamw``.
        learning_rate: The highest rate; it falls linearly to 0 (Zimmer et al. 2023, LLR).
        momentum: Of SGD, in [0, 1).
        weight_decay: >= 0.
        distillation: Weight of the loss against the unpruned network's outputs, in [0, 1]; the task's loss has the
            rest (Hinton et al. 2015).
        temperature: Of the distillation, > 0.
        adaptive: Start lower where the profile removes little (Zimmer et al. 2023, ALLR).
        precision: Of the forward pass in training, ``fp32`` or ``bf16`` (automatic mixed precision); figures are always
            measured in float32.
    """

    optimizer: str = "sgd"
    learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    distillation: float = 0.0
    temperature: float = 2.0
    adaptive: bool = False
    precision: str = "fp32"


def recipe_for(task: Task, finetuning: FinetuningPolicy | None, precision: str | None = None) -> Recipe:
    """The recipe of a trial: the task's own (``task.recipe``, a mapping), then the profile's knobs, then the study's
    precision.

    Raises:
        TaskError: If ``task.recipe`` names an unknown constant.
    """
    recipe = Recipe()
    own: Mapping[str, Any] = getattr(task, "recipe", None) or {}
    known = {field.name for field in fields(Recipe)}
    for name in own:
        if name not in known:
            raise TaskError(f"the task's recipe has no constant {name!r}: {nearest(name, known)}")
    recipe = replace(recipe, **own)
    if finetuning is not None:
        knobs: dict[str, Any] = dict(finetuning.values())
        recipe = replace(recipe, **knobs)
    return replace(recipe, precision=precision) if precision is not None else recipe


def learning_rate_at(step: int, steps: int, start: float) -> float:
    """The rate of a step, from 0: linear from `start` towards 0, which it would reach after the last step."""
    return start * (1 - step / max(1, steps))


def adaptive_start(recipe: Recipe, removed_norm: float, total_norm: float, sparsity: float) -> float:
    """The first learning rate, lower where little was removed (ALLR, Zimmer et al. 2023, section 3.2).

    Args:
        recipe: Whose rate is the ceiling.
        removed_norm: L2 norm of the weights that the profile's end state switches off.
        total_norm: L2 norm of all governed weights.
        sparsity: Share of them that is switched off, in [0, 1].

    Returns:
        ``learning_rate * max(d, 0.1)`` with d = removed / (total * sqrt(sparsity)), at most the recipe's rate.
    """
    if not recipe.adaptive or total_norm <= 0 or sparsity <= 0:
        return recipe.learning_rate
    distance = removed_norm / (total_norm * math.sqrt(sparsity))
    return recipe.learning_rate * min(1.0, max(0.1, distance))
