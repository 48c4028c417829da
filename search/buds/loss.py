"""What a bud is trained for: its sub-task, its parent's answers, and features of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from objectives.task import Task
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
    """

    hidden: Tensor
    targets: Tensor
    taught: Tensor
    last: Tensor
    inside: Tensor

    def __len__(self) -> int:
        return len(self.inside)

    def take(self, where: Tensor | slice) -> Rows:
        """Some of them."""
        return Rows(*(value[where] for value in self.tensors().values()))

    def and_(self, other: Rows) -> Rows:
        """These and then the others."""
        pairs = zip(self.tensors().values(), other.tensors().values(), strict=True)
        return Rows(*(torch.cat(pair) for pair in pairs))

    def tensors(self) -> dict[str, Tensor]:
        """By name."""
        return {
            "hidden": self.hidden,
            "targets": self.targets,
            "taught": self.taught,
            "last": self.last,
            "inside": self.inside,
        }


def bud_loss(
    task: Task, policy: BuddingPolicy, outputs: Tensor, last: Tensor, rows: Rows, temperature: float
) -> Tensor:
    """Task + beta * distillation + gamma * diversity on the bud's own samples, the parent's answers on the others.

    Args:
        task: Whose loss counts.
        policy: The weights.
        outputs: The bud's, (batch, ...).
        last: The bud's last stage, pooled, (batch, features).
        rows: What they were made from.
        temperature: Of the distillation.
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
        loss = loss + (1 - share) * distillation(outputs[others], rows.taught[others], temperature)
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
