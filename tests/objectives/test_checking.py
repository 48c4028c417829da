"""A task that passes can be used; what cannot be used is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from objectives.checking import check_task
from objectives.task import Batch, Inputs, Split
from spaces.errors import TaskError
from tests.nets import Blobs


class Good:
    """Correct in every form that inputs may have."""

    def __init__(self, form: str = "tensor") -> None:
        self.form = form

    def network(self) -> nn.Module:
        return Sum()

    def example_inputs(self) -> tuple[Tensor, ...]:
        return torch.zeros(2, 3), torch.zeros(2, 3)

    def batches(self, split: Split, *, shuffle_seed: int | None) -> Iterator[Batch]:
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(shuffle_seed or 0))
        inputs: dict[str, Inputs] = {"tensor": x, "tuple": (x, x), "dict": {"a": x, "b": x}}
        yield inputs[self.form], torch.zeros(4).long()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.argmax(1) == targets


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        y: Tensor = self.layer(a if b is None else a + b)
        return y


@pytest.mark.parametrize("form", ["tensor", "tuple", "dict"])
def test_each_form_of_inputs_passes(form: str) -> None:
    check_task(Good(form))


def test_a_real_task_passes() -> None:
    check_task(Blobs())


shared = nn.Linear(3, 2)
x = torch.zeros(4, 3)
y = torch.zeros(4).long()


def fails(*_: Any, **__: Any) -> Any:
    raise KeyError("pixels\nhere")


def unseeded(split: str, *, shuffle_seed: int | None) -> list[Batch]:
    return [(torch.randn(4, 3), y)]


class Pair(nn.Linear):
    def forward(self, *inputs: Tensor) -> Any:
        return inputs, inputs


@pytest.mark.parametrize(
    ("method", "replacement", "message"),
    [
        ("network", fails, "network() must run, but raised KeyError: 'pixels\\nhere'"),
        ("network", lambda: 3, "network() must return a torch.nn.Module, but returned int"),
        ("network", lambda: shared, "a new copy each time"),
        ("network", lambda: nn.BatchNorm1d(3), "there is nothing to compress"),
        ("network", lambda: nn.Linear(3, 2, device="meta"), "must be on the CPU, but is on meta"),
        ("network", lambda: Pair(3, 2), "the network must return one tensor, but returned tuple"),
        ("network", lambda: nn.Linear(5, 2), "network(*example_inputs()) must run, but raised TypeError"),
        ("example_inputs", lambda: x, "must return a tuple of tensors, but returned a tensor of shape (4, 3)"),
        ("example_inputs", lambda: (x, 3), "must hold only tensors, but holds int"),
        ("example_inputs", lambda: (x[:1], x[:1]), "a batch of at least 2 in dimension 0, but has the shape (1, 3)"),
        ("batches", fails, "batches('train') must run, but raised KeyError"),
        ("batches", lambda split, shuffle_seed: [], "must give at least one batch"),
        ("batches", lambda split, shuffle_seed: [x], "must give (inputs, targets), but gives a tensor of shape (4, 3)"),
        ("batches", lambda split, shuffle_seed: [([x], y)], "must be a tensor, or a tuple or dict of tensors"),
        ("batches", lambda split, shuffle_seed: [(x, [0])], "the targets of batches('train') must be a tensor"),
        ("batches", unseeded, "batches('train', shuffle_seed=0) must be the same each time"),
        ("batches", lambda split, shuffle_seed: [(x[:, :2], y)], "the network on a train batch must run"),
        ("batches", lambda split, shuffle_seed: [(x * torch.nan, y)], "loss must be finite on the trained network"),
        ("loss", fails, "loss must run, but raised KeyError"),
        ("loss", lambda outputs, targets: outputs, "loss must return a scalar tensor, but returned a tensor of shape"),
        ("loss", lambda outputs, targets: 0.5, "loss must return a scalar tensor, but returned float"),
        ("loss", lambda outputs, targets: outputs.sum() * torch.inf, "loss must be finite"),
        ("loss", lambda outputs, targets: outputs.detach().sum(), "loss must have a gradient"),
        ("score", lambda outputs, targets: outputs.sum(), "one value per sample, (4,) here, but returned a tensor"),
        ("score", lambda outputs, targets: outputs[:, 0] / 0, "score must be finite"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, method: str, replacement: Callable[..., Any], message: str
) -> None:
    task = Good()
    monkeypatch.setattr(task, method, replacement)
    with pytest.raises(TaskError) as caught:
        check_task(task)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_later_split_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Good()
    batches = task.batches

    def untested(split: Split, *, shuffle_seed: int | None) -> Iterator[Batch]:
        return iter(()) if split == "test" else batches(split, shuffle_seed=shuffle_seed)

    monkeypatch.setattr(task, "batches", untested)
    with pytest.raises(TaskError, match=r"batches\('test'\) must give at least one batch"):
        check_task(task)
