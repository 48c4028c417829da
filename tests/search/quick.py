"""A task that fits anywhere and a trial that takes no time, for tests of the engine around them."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from objectives.task import Batch, Split, Task
from search.result import Report, TrialRequest, TrialResult
from spaces.pruning import PruningPolicy


class TinyTask:
    """Which of four directions a point lies in; a network of two layers knows it."""

    name = "tiny"

    def __init__(self, samples: int = 64) -> None:
        generator = torch.Generator().manual_seed(0)
        self._x = torch.randn(samples, 8, generator=generator)
        self._y = self._x[:, :4].argmax(dim=1)

    def network(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

    def example_inputs(self) -> tuple[Tensor, ...]:
        return (self._x[:2],)

    def batches(self, split: Split, *, shuffle_seed: int | None) -> Iterable[Batch]:
        for start in range(0, len(self._x), 32):
            yield self._x[start : start + 32], self._y[start : start + 32]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(dim=1) == targets).float()

    def arrays(self) -> dict[str, np.ndarray]:
        return {"x": self._x.numpy(), "y": self._y.numpy()}

    def use(self, arrays: Mapping[str, np.ndarray]) -> None:
        assert not arrays["x"].flags.writeable
        self._x, self._y = torch.from_numpy(arrays["x"].copy()), torch.from_numpy(arrays["y"].copy())


def quick_trial(
    request: TrialRequest,
    task: Task,
    measures: Sequence[str],
    baseline: Mapping[str, float],
    *,
    device: str = "cpu",
    checkpoints: Path | None = None,
) -> Iterator[Report | TrialResult]:
    """Scores that follow from the profile by arithmetic; keeps a checkpoint like a real trial.

    Every iteration that is really computed leaves a line in ``$PLEACH_TRACE``. ``$PLEACH_PAUSE`` seconds are slept in
    each; a seed of 13 fails, 14 gives NaN, 15 kills its worker at the third iteration until a file says it did so.
    """
    pruning = request.profile.get(PruningPolicy)
    sparsity = pruning.sparsity if pruning else 0.0
    store = checkpoints / "reports.json" if checkpoints else None
    done = json.loads(store.read_text()) if store and store.exists() else 0
    reports: list[Report] = []
    of = request.budget.iterations
    for iteration in range(1, of + 1):
        scores = _scores(sparsity, iteration / of, measures, baseline)
        reports.append(Report(iteration, of, scores, {"quality/accuracy": scores.get("accuracy", 0.0)}))
        if iteration > done:
            _work(request, iteration, checkpoints)
            if store:
                store.parent.mkdir(parents=True, exist_ok=True)
                store.write_text(json.dumps(iteration))
        yield reports[-1]
    if request.seed == 13:
        yield TrialResult(request, "failed", reason="ValueError: the seed is 13")
        return
    scores = _scores(sparsity, 1.0, measures, baseline)
    if request.seed == 14:
        scores["accuracy"] = math.nan
    yield TrialResult(
        request, "complete", scores, {"compute/macs": scores.get("macs", 0.0)}, tuple(reports), seconds=0.1
    )


def _work(request: TrialRequest, iteration: int, checkpoints: Path | None) -> None:
    time.sleep(float(os.environ.get("PLEACH_PAUSE", "0")))
    trace = os.environ.get("PLEACH_TRACE")
    if trace:
        with Path(trace).open("a") as file:
            file.write(f"{request.key} {iteration} {os.getpid()}\n")
    if request.seed == 15 and iteration == 3 and checkpoints is not None:
        died = checkpoints.parent.parent / f"died-{request.key}"
        if len(list(died.parent.glob(f"{died.name}*"))) < int(os.environ.get("PLEACH_DEATHS", "1")):
            died.with_name(f"{died.name}-{time.time_ns()}").touch()
            os._exit(1)


def _scores(sparsity: float, share: float, measures: Sequence[str], baseline: Mapping[str, float]) -> dict[str, float]:
    """Accuracy falls with the square of the sparsity, macs fall with it, and training makes up for a part."""
    known = {
        "accuracy": baseline["accuracy"] * (1 - 0.3 * sparsity**2 / (0.5 + 0.5 * share)),
        "macs": baseline["macs"] * (1 - sparsity),
        "plasticity": sparsity / 2,
    }
    return {name: known[name] for name in measures if name in known}
