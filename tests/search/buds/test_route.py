"""Who answers: weights that sum to 1 or nobody, whatever the router says, in whatever order buds stand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from search.buds.route import Router, features_of, fit, shares

logits = st.integers(1, 5).flatmap(
    lambda k: st.lists(st.lists(st.floats(-8, 8), min_size=k, max_size=k), min_size=1, max_size=6)
)


@given(logits, st.floats(0.05, 1.0), st.integers(1, 5), st.data())
def test_weights_sum_to_one_or_nobody_answers(
    rows: list[list[float]], confidence: float, blend: int, data: st.DataObject
) -> None:
    likely = torch.tensor(rows, dtype=torch.float64).softmax(1)
    known = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))))
    present = torch.tensor(data.draw(st.lists(st.booleans(), min_size=likely.shape[1], max_size=likely.shape[1])))
    weights = shares(likely, known, present, confidence, blend)
    total, used = weights.sum(1), weights > 0
    assert bool((torch.isclose(total, torch.ones_like(total)) | (total == 0)).all())
    assert bool((used.sum(1) <= blend).all())
    assert not bool((used & ~present).any())
    assert not bool(used[~known].any())
    for row, part in zip(likely, used, strict=True):
        if bool(part.any()):
            assert float(row[part].sum()) >= confidence - 1e-5
            assert float(row[part].min()) >= float(row[~part].max() if bool((~part).any()) else 0)


@given(logits, st.floats(0.1, 0.99), st.integers(1, 4), st.randoms(use_true_random=False))
def test_a_blend_does_not_depend_on_the_order_of_the_buds(
    rows: list[list[float]], confidence: float, blend: int, random: object
) -> None:
    noise = torch.linspace(0, 1e-3, len(rows[0]), dtype=torch.float64)  # no two are equally likely
    likely = (torch.tensor(rows, dtype=torch.float64) + noise).softmax(1)
    order = torch.randperm(likely.shape[1], generator=torch.Generator().manual_seed(len(rows)))
    every = torch.ones(likely.shape[1], dtype=torch.bool)
    known = torch.ones(len(rows), dtype=torch.bool)
    one = shares(likely, known, every, confidence, blend)
    other = shares(likely[:, order], known, every, confidence, blend)
    assert torch.allclose(one[:, order], other)


def test_who_answers_by_hand() -> None:
    likely = torch.tensor([[0.9, 0.06, 0.04], [0.5, 0.4, 0.1], [0.4, 0.3, 0.3], [0.2, 0.2, 0.6]])
    all_here, known = torch.tensor([True, True, True]), torch.tensor([True, True, True, True])
    found = shares(likely, known, all_here, 0.8, 2)
    expected = torch.tensor([[1, 0, 0], [5 / 9, 4 / 9, 0], [0, 0, 0], [0.25, 0, 0.75]])
    assert torch.allclose(found, expected)
    # Without the second bud its requests go to the parent, and nobody else's do.
    gone = shares(likely, known, torch.tensor([True, False, True]), 0.8, 2)
    assert torch.allclose(gone, expected * torch.tensor([1, 0, 1, 1]).view(-1, 1))


@pytest.mark.parametrize("kind", ["logistic", "centroid"])
def test_sub_tasks_that_lie_apart_are_told_apart(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    x = torch.randn(120, 5, generator=generator) * 0.2 + torch.eye(5)[labels] * 3
    router = fit(kind, x, labels, 3)
    likely, known = router(x)
    assert torch.equal(likely.argmax(1), labels)
    assert bool(known.all())
    assert float(likely.gather(1, labels.view(-1, 1)).mean()) > 0.95


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30, 1e4])
def test_what_lies_beyond_the_training_samples_is_not_known(value: float) -> None:
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    router = fit("logistic", x, (x[:, 0] > 0).long(), 2)
    assert router(torch.full((3, 4), value))[1].tolist() == [False] * 3


def test_features_have_a_size_of_their_own_for_every_shape() -> None:
    shapes: dict[tuple[int, ...], int] = {
        (2, 7): 7,
        (2, 16, 32, 32): 16 * 64,
        (2, 1, 8, 8): 64,
        (2, 5, 6): 12,
        (2, 3, 4, 4, 4): 6,
    }
    for shape, size in shapes.items():
        found: Tensor = features_of(torch.randn(shape))
        assert found.shape == (2, size)
    assert Router(4, 3).macs == 12
