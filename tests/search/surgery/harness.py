"""Puts a profile to work on a tiny network, step by step, so that laws can be checked after every one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from objectives.task import Task
from search.finetune import Finetuning, in_fast_layout
from search.recipe import Recipe
from search.surgery.connectivity import Connectivity
from search.surgery.mechanism import Mechanism
from search.surgery.mechanisms import mechanisms_for
from search.surgery.network import prepared
from search.surgery.optimizer import TrainingOptimizer
from search.surgery.site import Site
from spaces.profile import CompressionProfile


def site_for(
    network: nn.Module, task: Task, profile: CompressionProfile, steps: int, recipe: Recipe | None = None
) -> Site:
    """A site as a trial makes it."""
    network, untraceable = prepared(network, task.example_inputs())
    network = in_fast_layout(network)
    connectivity = Connectivity(network)
    optimizer = TrainingOptimizer.from_recipe(network.parameters(), recipe or Recipe(learning_rate=0.05))
    connectivity.optimizer = optimizer
    return Site(
        network=network,
        profile=profile,
        connectivity=connectivity,
        generator=torch.Generator().manual_seed(0),
        steps=steps,
        example_inputs=task.example_inputs(),
        optimizer=optimizer,
        task=task,
        untraceable=untraceable,
    )


def operate(
    task: Task,
    profile: CompressionProfile,
    steps: int = 20,
    after_each: Callable[[Site], None] | None = None,
    recipe: Recipe | None = None,
) -> tuple[Site, list[Mechanism]]:
    """Run a profile's whole budget; `after_each` looks at the site after every optimizer step."""
    torch.manual_seed(0)
    site = site_for(task.network(), task, profile, steps, recipe)
    mechanisms = mechanisms_for(profile)
    for mechanism in mechanisms:
        mechanism.attach(site)
    loop = Finetuning(site, mechanisms, task, recipe or Recipe(), start=0.05, seed=0)
    for step in range(steps):
        loop.train(until=step + 1, iteration=step * 4 // steps)
        if after_each is not None:
            after_each(site)
    return site, mechanisms
