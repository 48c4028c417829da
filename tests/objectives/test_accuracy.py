"""The mean score is the mean over samples, whatever the batches, and measuring leaves the network as it was."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from objectives.accuracy import accuracy, extra_scores, mean_score
from objectives.outcome import Outcome
from objectives.task import Batch, Split
from spaces.errors import TaskError
from spaces.ledger import Ledger
from spaces.profile import CompressionProfile

SIZES = {"train": [4], "validation": [4, 4, 2], "test": []}


class Numbers:
    """Ten samples in uneven batches; a sample's score is its own value, so the means are known."""

    def __init__(self, width: int = 1) -> None:
        self.width = width

    def network(self) -> nn.Module:
        return nn.Sequential(nn.Identity(), nn.Dropout(0.5))

    def example_inputs(self) -> tuple[Tensor, ...]:
        return (torch.zeros(2, 1),)

    def batches(self, split: Split, *, shuffle_seed: int | None) -> Iterable[Batch]:
        assert shuffle_seed is None
        start = 0
        for size in SIZES[split]:
            inputs = torch.arange(start, start + size, dtype=torch.float32)[:, None]
            yield inputs, torch.zeros(size)
            start += size

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs[:, 0] - targets).mean()

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return outputs[:, 0] if self.width == 1 else outputs.expand(-1, self.width)


class Measured(Numbers):
    """A task with a metric of its own."""

    def evaluate(self, network: nn.Module, split: Split) -> dict[str, float]:
        return {"evaluating": float(not network.training), "graph": float(torch.is_grad_enabled())}


def test_the_mean_is_over_samples_not_over_batches() -> None:
    task = Numbers()
    # 0..9 in batches of 4, 4, 2: the mean of the batch means would be (1.5 + 5.5 + 8.5) / 3 = 5.17.
    assert mean_score(task.network(), task, "validation") == pytest.approx(4.5)


@pytest.mark.parametrize(("limit", "mean"), [(1, 0.0), (4, 1.5), (6, 2.5), (10, 4.5), (99, 4.5)])
def test_a_limit_counts_samples(limit: int, mean: float) -> None:
    task = Numbers()
    assert mean_score(task.network(), task, "validation", limit=limit) == pytest.approx(mean)


def test_every_module_gets_its_own_mode_back_even_after_an_error() -> None:
    network = Numbers().network()
    network.train()
    network[0].eval()  # type: ignore[index]
    modes = [module.training for module in network.modules()]
    mean_score(network, Numbers(), "validation")
    assert [module.training for module in network.modules()] == modes
    with pytest.raises(TaskError):
        mean_score(network, Numbers(width=3), "validation")
    assert [module.training for module in network.modules()] == modes == [True, False, True]


def test_a_nan_score_is_not_hidden() -> None:
    network = nn.Sequential(nn.Threshold(5.0, math.nan))
    assert math.isnan(mean_score(network, Numbers(), "validation"))


@pytest.mark.parametrize(
    ("task", "split", "limit", "message"),
    [
        (Numbers(), "test", None, "the test split must have at least one batch"),
        (Numbers(width=3), "validation", None, "one value per sample, (4,) here, but returned (4, 3)"),
        (Numbers(), "validation", 0, "limit must be at least 1"),
    ],
)
def test_what_cannot_be_a_mean_is_refused(task: Numbers, split: Split, limit: int | None, message: str) -> None:
    with pytest.raises(TaskError) as caught:
        mean_score(task.network(), task, split, limit=limit)
    assert message in str(caught.value)


def test_a_tasks_own_metrics_see_an_evaluating_network() -> None:
    task = Measured()
    assert extra_scores(task.network(), task, "validation") == {"evaluating": 1.0, "graph": 0.0}
    assert extra_scores(task.network(), Numbers(), "validation") == {}


def test_metrics_must_be_numbers_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Measured()
    monkeypatch.setattr(task, "evaluate", lambda network, split: {"f1": "high"})
    with pytest.raises(TaskError, match="numbers by name"):
        extra_scores(task.network(), task, "validation")


def test_accuracy_is_what_the_trial_measured() -> None:
    outcome = Outcome(nn.Linear(1, 1), {"accuracy": 0.9}, Ledger(), CompressionProfile(), {"accuracy": 0.875})
    assert accuracy(outcome) == 0.875
