"""What a bud is trained for: its sub-task, its parent's answers, and features of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from objectives.task import Task
from search.buds.match import matching
from search.finetune import distillation
from spaces.budding import BuddingPolicy


@dataclass(frozen=True, eq=False)
class Rows:
    """Samples on their way through a bud.

    Args:
        hidden: What the stem gave, (batch, ...).
        targets: The task's own, (batch, ...).
        taught: What the parent answers, (batch, ...).
        last: The parent's last stage, pooled, (batch, features).
        inside: Which belong to the bud's sub-task, (batch,) boolean.
        blocks: What flows at the ends of the parent's blocks, of the channels that the bud has; empty where buds are
            not held to it.
    """

    hidden: Tensor
    targets: Tensor
    taught: Tensor
    last: Tensor
    inside: Tensor
    blocks: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.inside)

    def take(self, where: Tensor | slice) -> Rows:
        """Some of them."""
        return Rows.of({name: value[where] for name, value in self.tensors().items()})

    def and_(self, other: Rows) -> Rows:
        """These and then the others."""
        others = other.tensors()
        return Rows.of({name: torch.cat((value, others[name])) for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """By name."""
        return {
            "hidden": self.hidden,
            "targets": self.targets,
            "taught": self.taught,
            "last": self.last,
            "inside": self.inside,
            **{f"block{index}": block for index, block in enumerate(self.blocks)},
        }

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Rows:
        """The inverse of :meth:`tensors`."""
        own = {name: value for name, value in tensors.items() if not name.startswith("block")}
        return cls(**own, blocks=tuple(tensors[f"block{index}"] for index in range(len(tensors) - len(own))))


def bud_loss(
    task: Task,
    policy: BuddingPolicy,
    outputs: Tensor,
    last: Tensor,
    rows: Rows,
    temperature: float,
    blocks: Sequence[Tensor] = (),
) -> Tensor:
    """Task + beta * distillation + gamma * diversity on the bud's own samples, the parent's answers on the others.

    On all of them it is held to its parent block by block, as far as `BuddingPolicy.matching` says.

    Args:
        task: Whose loss counts.
        policy: The weights.
        outputs: The bud's, (batch, ...).
        last: The bud's last stage, pooled, (batch, features).
        rows: What they were made from.
        temperature: Of the distillation.
        blocks: What flows at the ends of the bud's blocks, as `rows.blocks` does in the parent.
    """
    loss = outputs.new_zeros(())
    own, others = rows.inside, ~rows.inside
    share = float(own.float().mean())
    if share > 0:
        loss = loss + share * task.loss(outputs[own], rows.targets[own])
        if policy.distillation > 0:
            loss = loss + share * policy.distillation * distillation(outputs[own], rows.taught[own], temperature)
        if policy.diverse and policy.diversity > 0 and int(own.sum()) > 1:
            excess = (cka(last[own], rows.last[own]) - policy.alike).clamp_min(0)
            loss = loss + policy.diversity * excess
    if share < 1:
        # A parent that is heard on the bud's own samples is heard as much on the others, of which it says all.
        weight = (1 - share) * max(1.0, policy.distillation)
        loss = loss + weight * distillation(outputs[others], rows.taught[others], temperature)
    if rows.blocks:
        loss = loss + policy.matching * matching(blocks, rows.blocks)
    return loss


def cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear centred kernel alignment of two sets of features of the same samples (Kornblith et al. 2019), in [0, 1].

    Args:
        x: (samples, features).
        y: (samples, other features).
    """
    x, y = x.float() - x.float().mean(0), y.float() - y.float().mean(0)
    shared = (x.T @ y).square().sum()
    alike: Tensor = shared / ((x.T @ x).norm() * (y.T @ y).norm()).clamp_min(1e-12)
    return alike
