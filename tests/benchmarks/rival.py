"""torch-pruning as the benchmarks' rival: its own pruner, then the training that every contender gets."""

from __future__ import annotations

from typing import Any

import torch
import torch_pruning
from torch import nn

from objectives.task import Task
from search.finetune import Finetuning, in_fast_layout, recalibrate, steps_per_epoch
from search.recipe import recipe_for
from search.surgery.connectivity import Connectivity
from search.surgery.optimizer import TrainingOptimizer
from search.surgery.site import Site
from spaces import FinetuningPolicy
from spaces.profile import CompressionProfile


def pruned(task: Task, ratio: float, *, taylor: bool = False, inner_only: bool = False, seed: int = 0) -> nn.Module:
    """The task's network with a share of its channels gone: L2 and uniform, or by Taylor and global.

    Args:
        task: Whose network.
        ratio: Share of the channels that goes, in [0, 1).
        taylor: Ask for gradients on four batches, and rank over all layers.
        inner_only: Take channels of the residual blocks' first convolutions alone: elsewhere it fails on shortcuts
            without parameters.
        seed: Of the batches.
    """
    torch.manual_seed(seed)
    network = task.network()
    layers = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    inner = [m for n, m in layers if n.endswith("conv1") and n != "conv1"]
    left = [m for _, m in layers if m not in inner] if inner_only else [layers[-1][1]]
    importance: Any = (
        torch_pruning.importance.GroupTaylorImportance()
        if taylor
        else torch_pruning.importance.MagnitudeImportance(p=2)
    )
    pruner = torch_pruning.pruner.MetaPruner(
        network,
        task.example_inputs(),
        importance=importance,
        pruning_ratio=ratio,
        global_pruning=taylor,
        ignored_layers=left,
    )
    if taylor:
        for _, (x, y) in zip(range(4), task.batches("train", shuffle_seed=seed), strict=False):
            task.loss(network(x), y).backward()  # type: ignore[no-untyped-call]
    pruner.step()
    network.zero_grad(set_to_none=True)
    return network


def trained(
    network: nn.Module, task: Task, recipe: FinetuningPolicy, *, epochs: float, seed: int, precision: str
) -> nn.Module:
    """The same network after the training that a trial gets, in eval mode."""
    in_fast_layout(network)
    constants = recipe_for(task, recipe, precision)
    connectivity = Connectivity(network)
    optimizer = TrainingOptimizer.from_recipe(network.parameters(), constants)
    steps = max(1, round(epochs * steps_per_epoch(task)))
    site = Site(network, CompressionProfile(), connectivity, torch.Generator(), steps, task.example_inputs(), optimizer)
    teacher = task.network() if constants.distillation > 0 else None
    loop = Finetuning(site, [], task, constants, start=constants.learning_rate, seed=seed, teacher=teacher)
    loop.train(until=steps, iteration=0)
    recalibrate(network, task, seed, "cpu")
    return network.eval()
