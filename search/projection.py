"""What a profile would leave of a network, without training it: the sizes are exact, the accuracy is not looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from objectives.objective import OBJECTIVES
from objectives.outcome import Outcome
from objectives.task import Task
from search.surgery.connectivity import Connectivity
from search.surgery.finalize import plain
from search.surgery.mechanisms import mechanisms_for
from search.surgery.network import prepared
from search.surgery.site import Site
from spaces.profile import CompressionProfile

#: The objectives that follow from the shapes and zeros of the finished network alone.
PROJECTED = ("macs", "bops", "parameters", "size_bytes", "sparsity")


def projected(
    task: Task, profile: CompressionProfile, baseline: Mapping[str, float], *, steps: int, seed: int = 0
) -> dict[str, float]:
    """The objectives of `PROJECTED` for a profile's end state, taken at once.

    Which connections and channels go may differ after training, and with a global ranking so may the cost: by a few
    per cent.

    Args:
        task: Its network is cut; its data are not used.
        profile: What to do.
        baseline: Of the network before compression, with ``weights``.
        steps: Optimizer steps of a trial.
        seed: Of random choices.

    Raises:
        PleachError: If the network cannot be compressed as the profile asks.
    """
    inputs = task.example_inputs()
    with at_its_end(task.network(), inputs, profile, steps=steps, seed=seed) as end:
        finished = plain(end)
    outcome = Outcome(finished, baseline, end.connectivity.ledger({}), profile, {}, inputs)
    return {name: OBJECTIVES[name].measure(outcome) for name in PROJECTED}


@contextmanager
def at_its_end(
    network: nn.Module, inputs: tuple[Tensor, ...], profile: CompressionProfile, *, steps: int = 1, seed: int = 0
) -> Iterator[Site]:
    """A copy of a network with the masks of a profile's end state, taken at once; untrained, not yet finalized.

    Raises:
        PleachError: If the network cannot be compressed as the profile asks.
    """
    traced, untraceable = prepared(network.eval(), inputs)
    site = Site(
        network=traced,
        profile=profile,
        connectivity=Connectivity(traced),
        generator=torch.Generator().manual_seed(seed),
        steps=steps,
        example_inputs=inputs,
        untraceable=untraceable,
    )
    mechanisms = mechanisms_for(profile)
    for mechanism in mechanisms:
        mechanism.attach(site)
    end = site.copy()
    for mechanism in mechanisms:
        mechanism.project(end)
    yield end
    for mechanism in mechanisms:
        mechanism.finish()
