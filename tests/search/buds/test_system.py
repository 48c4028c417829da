"""A system answers every request, each by itself, with the buds that it needs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from search.buds.system import Costs, System, costs
from spaces.errors import NetworkError
from tests.search.buds.nets import Quarters, system


def requests(count: int = 24, seed: int = 3) -> torch.Tensor:
    return torch.randn(count, 2, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2


@pytest.mark.parametrize("assurance", [0.0, 0.3])
def test_answers_in_groups_are_the_answers_one_by_one(assurance: float) -> None:
    whole, x = system(4, assurance=assurance, confidence=0.97), requests(64)
    together = whole.answer(x)
    alone = [whole.answer(each.unsqueeze(0)) for each in x]
    torch.testing.assert_close(together.outputs, torch.cat([a.outputs for a in alone]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together.weights, torch.cat([a.weights for a in alone]), rtol=1e-5, atol=1e-6)
    kinds = (together.weights > 0).sum(1)
    assert set(kinds.tolist()) == {0, 1, 2}  # by the parent, by one bud, blended


def test_a_blend_is_the_weighted_sum_and_the_rest_is_the_parents() -> None:
    whole, x = system(3), requests()
    answer, hidden = whole.answer(x), whole.stem(x)
    said = torch.stack([whole.buds[i](hidden) for i in range(3)], 1)
    expected = (said * answer.weights.unsqueeze(2)).sum(1)
    expected[answer.asked] = whole.parent(hidden)[answer.asked].detach()
    torch.testing.assert_close(answer.outputs, expected)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.sampled_from(["random", "nan", "inf", "huge", "zero", "plain"]), min_size=1, max_size=8),
    st.integers(0, 99),
)
def test_every_request_has_an_answer_and_what_is_strange_has_the_parents(kinds: list[str], seed: int) -> None:
    whole, task = system(2), Quarters()
    x = requests(len(kinds), seed)
    strange = {"nan": float("nan"), "inf": float("inf"), "huge": 1e12}
    for row, kind in zip(x, kinds, strict=True):
        if kind in strange:
            row[0, 0, 0] = strange[kind]
        elif kind == "zero":
            row.zero_()
    answer = whole.answer(x)
    assert answer.outputs.shape == (len(kinds), 4)
    total = answer.weights.sum(1)
    assert bool((torch.isclose(total, torch.ones_like(total)) | (total == 0)).all())
    parent = task.network()(x).detach()
    for index, kind in enumerate(kinds):
        if kind in strange:
            assert bool(answer.asked[index])
        if bool(answer.asked[index]):
            torch.testing.assert_close(answer.outputs[index], parent[index], equal_nan=True, rtol=1e-4, atol=1e-5)
        else:
            assert bool(answer.outputs[index].isfinite().all())


def test_without_buds_the_system_is_its_parent() -> None:
    whole, x = system(2).having({}), requests()
    answer = whole.answer(x)
    assert bool(answer.asked.all())
    torch.testing.assert_close(answer.outputs, Quarters().network()(x).detach())


def test_an_answer_without_assurance_is_asked_again_and_paid_twice() -> None:
    unsure, x = system(2, assurance=1.0, confidence=0.0), requests()
    answer = unsure.answer(x)
    assert bool(answer.asked.all())
    assert bool((answer.ran.sum(1) == 1).any())


def test_what_a_request_costs_is_expected_over_who_runs() -> None:
    spent = Costs(stem=10.0, parent=100.0, buds={0: 20.0, 1: 40.0}, parameters=0.0, size_bytes=0.0)
    assert spent.expected([0.5, 0.25], 0.1) == 10 + 0.5 * 20 + 0.25 * 40 + 0.1 * 100
    whole = system(1).having({0: nn.Flatten()})
    found = costs(whole, Quarters().example_inputs(), whole.stem(Quarters().example_inputs()[0]).detach())
    # 3x3 kernels on 16 positions: 2 -> 6 channels; then 6 -> 8 -> 6, and a head of 6 x 4; the router has 96 features.
    assert found.stem == 16 * 9 * 2 * 6 + 96
    assert found.parent == 16 * 9 * (6 * 8 + 8 * 6) + 24
    assert found.buds == {0: 0.0}


def test_a_bud_for_a_sub_task_that_nobody_knows_is_refused() -> None:
    with pytest.raises(NetworkError, match="one of 2, but is 2"):
        system(2).having({2: nn.Identity()})


def test_a_system_is_never_changed_only_replaced() -> None:
    first = system(2)
    second: System = first.having({0: nn.Identity()})
    assert set(first.buds) == {0, 1}
    assert set(second.buds) == {0}
