"""One profile on one network, without a study: the Python entry."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from torch import nn

from objectives.task import Task
from search.resources import ResourceManager
from search.result import Budget, TrialRequest
from search.scoring import measure_baseline
from search.trial import Trial
from spaces.ledger import Ledger
from spaces.profile import CompressionProfile


@dataclass(frozen=True)
class Compressed:
    """A compressed network and what is known of it.

    Args:
        network: The plain, smaller network, in eval mode on the CPU.
        ledger: What was switched on and off.
        scores: Every objective of the closed list and the task's own metrics, on the validation split.
        baseline: The same of the network before.
    """

    network: nn.Module
    ledger: Ledger
    scores: Mapping[str, float]
    baseline: Mapping[str, float]


class _WithNetwork:
    """A task whose network is another one; everything else is the task's own."""

    def __init__(self, task: Task, network: nn.Module) -> None:
        self._task, self._network = task, network

    def network(self) -> nn.Module:
        return copy.deepcopy(self._network).cpu()

    def __getattr__(self, name: str) -> object:
        return getattr(self._task, name)


def compress(
    network: nn.Module,
    profile: CompressionProfile,
    task: Task,
    *,
    seed: int = 0,
    epochs: float = 1.0,
    device: str = "cpu",
    resources: ResourceManager | None = None,
) -> Compressed:
    """Compress a trained network as a profile says.

    Args:
        network: Trained; it is copied, not changed.
        profile: What to do.
        task: The data, the loss and the score; its own network is not used.
        seed: The same seed gives the same result.
        epochs: Passes over the training split, > 0.
        device: Where to train.
        resources: Holds `granularity` to what the machine has to spare; its log says afterwards what it went by, and
            ``replaying(log)`` in its place repeats the run. Left out, nothing is limited.

    Raises:
        PleachError: If the network cannot be compressed as the profile asks.
        DivergedError: If the loss is not finite.
    """
    bound = cast(Task, _WithNetwork(task, network))
    baseline = measure_baseline(bound, device=device)
    request = TrialRequest(0, "compress", profile, seed, Budget(epochs=epochs))
    measures = [name for name in baseline if name != "weights"]
    trial = Trial(request, bound, measures, baseline, device=device, resources=resources)
    for _ in trial.iterations():
        pass
    finished = trial.finish()
    return Compressed(finished.network, finished.ledger, finished.scores, baseline)
