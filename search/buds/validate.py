"""Buds beside their parent: on their sub-task, over the whole task, and all together as a system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from objectives.task import Split, Task, call, samples
from search.buds.find import Stages, Subtasks
from search.buds.system import System
from spaces.errors import TaskError


@dataclass(frozen=True)
class BudScore:
    """One bud beside its parent.

    Args:
        share: Of the samples that belong to its sub-task.
        accuracy: Mean score on them; NaN where there are none.
        parent: The parent's on the same samples.
        whole: The bud's over the whole split.
        use: Share of all requests in which it ran.
    """

    share: float
    accuracy: float
    parent: float
    whole: float
    use: float


@dataclass(frozen=True)
class Validation:
    """A system on a split.

    Args:
        accuracy: Mean score of the system, routing errors included.
        parent: Of the parent alone.
        routing: Share of the samples whose likeliest sub-task is the one they belong to.
        asked: Share of the requests that the parent answered.
        blended: Share in which several buds answered together.
        buds: Per sub-task.
    """

    accuracy: float
    parent: float
    routing: float
    asked: float
    blended: float
    buds: Mapping[int, BudScore]

    @property
    def use(self) -> list[float]:
        """How often each bud ran, per request."""
        return [bud.use for _, bud in sorted(self.buds.items())]


@torch.no_grad()
def validate(
    system: System, stages: Stages, subtasks: Subtasks, task: Task, split: Split, limit: int | None = None
) -> Validation:
    """Measure a system on a split, in its fixed order and without augmentation.

    Args:
        system: With a bud for each sub-task.
        stages: The parent's tail, on the CPU.
        subtasks: Which sample belongs where.
        task: Whose batches and score are used.
        split: ``train``, ``validation`` or ``test``.
        limit: At most so many samples, rounded up to a batch.

    Raises:
        TaskError: If the split is empty.
    """
    rows: dict[str, list[Tensor]] = {}
    done = 0
    for inputs, targets in task.batches(split, shuffle_seed=None):
        hidden = call(system.stem, inputs)
        taught, features, _ = stages(hidden)
        answer = system.answer(inputs)
        found = {
            "system": task.score(answer.outputs, targets),
            "parent": task.score(taught, targets),
            "member": subtasks.assign(features),
            "likely": system.router(hidden)[0].argmax(1),
            "asked": answer.asked,
            "blended": (answer.weights > 0).sum(1) > 1,
            "ran": answer.ran,
        }
        found |= {f"bud{index}": task.score(bud(hidden), targets) for index, bud in system.buds.items()}
        for name, value in found.items():
            rows.setdefault(name, []).append(value)
        done += samples(inputs)
        if limit is not None and done >= limit:
            break
    if not rows:
        raise TaskError(f"the {split} split must have at least one batch, but has none: check batches({split!r})")
    whole = {name: torch.cat(parts) for name, parts in rows.items()}
    buds = {index: _bud(whole, index) for index in system.buds}
    return Validation(
        _mean(whole["system"]),
        _mean(whole["parent"]),
        _mean(whole["likely"] == whole["member"]),
        _mean(whole["asked"]),
        _mean(whole["blended"]),
        buds,
    )


def _bud(whole: Mapping[str, Tensor], index: int) -> BudScore:
    own, score = whole["member"] == index, whole[f"bud{index}"]
    return BudScore(
        share=_mean(own),
        accuracy=_mean(score[own]),
        parent=_mean(whole["parent"][own]),
        whole=_mean(score),
        use=_mean(whole["ran"][:, index]),
    )


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
