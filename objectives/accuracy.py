"""How well a network does its task: the mean score, and the metrics that are no mean over samples."""

from __future__ import annotations

import torch
from torch import nn

from objectives.mode import evaluating
from objectives.outcome import Outcome
from objectives.task import Evaluates, Split, Task, call, move, samples
from spaces.errors import TaskError


def accuracy(outcome: Outcome) -> float:
    """The mean score on the validation split, as the trial measured it; the unit is the task's."""
    return outcome.measured["accuracy"]


def mean_score(network: nn.Module, task: Task, split: Split, device: str = "cpu", limit: int | None = None) -> float:
    """The mean of `task.score` over a split, in its fixed order and without augmentation.

    Args:
        network: On `device` already; runs in evaluation mode without gradients and gets its modes back.
        task: Whose batches and score are used.
        split: ``train``, ``validation`` or ``test``.
        device: Where inputs and targets are moved to.
        limit: Use at most the first so many samples, >= 1; None for all.

    Returns:
        The mean over the samples; NaN where a score is NaN.

    Raises:
        TaskError: If the split is empty, or `score` does not return one value per sample.
    """
    if limit is not None and limit < 1:
        raise TaskError(f"limit must be at least 1 sample, but is {limit}: leave it out to use the whole split")
    totals: list[torch.Tensor] = []
    count = 0
    with evaluating(network):
        for inputs, targets in task.batches(split, shuffle_seed=None):
            moved = move(inputs, device)
            scores = task.score(call(network, moved), targets.to(device, non_blocking=True))
            if scores.shape != (samples(inputs),):
                raise TaskError(
                    f"score must return one value per sample, {(samples(inputs),)} here, "
                    f"but returned {tuple(scores.shape)}: reduce every other dimension"
                )
            if limit is not None:
                scores = scores[: limit - count]
            count += len(scores)
            # Kept on the device: fetching each sum would make the accelerator wait for every batch.
            totals.append(scores.detach().float().sum())
            if count == limit:
                break
    if count == 0:
        raise TaskError(f"the {split} split must have at least one batch, but has none: check batches({split!r})")
    return float(torch.stack(totals).cpu().double().sum()) / count


def extra_scores(network: nn.Module, task: Task, split: Split) -> dict[str, float]:
    """What `task.evaluate` reports beside the mean score; {} where the task has no such method.

    Raises:
        TaskError: If it does not return numbers by name.
    """
    if not isinstance(task, Evaluates):
        return {}
    with evaluating(network):
        figures = task.evaluate(network, split)
    try:
        return {str(name): float(value) for name, value in figures.items()}
    except (AttributeError, TypeError, ValueError):
        raise TaskError(f"evaluate must return numbers by name, but returned {figures!r}: return a dict") from None
