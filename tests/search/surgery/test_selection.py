"""Exact counts, ties by position, capacities respected: for all inputs."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from search.surgery.selection import (
    apportion,
    best_entry,
    erk_densities,
    grouped,
    highest,
    lowest,
    lowest_in_groups,
    lowest_overall,
    room_in_groups,
    ungrouped,
)

scores = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, -1.0]), min_size=1, max_size=30)


@given(scores, st.integers(0, 40), st.data())
def test_lowest_selects_exactly_as_many_as_asked_and_none_higher_than_what_it_leaves(
    values: Any, count: Any, data: Any
) -> None:
    among = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    tensor = torch.tensor(values)
    chosen = lowest(tensor, count, among)
    assert int(chosen.sum()) == min(count, int(among.sum()))
    assert not (chosen & ~among).any()
    left = among & ~chosen
    if chosen.any() and left.any():
        assert tensor[chosen].max() <= tensor[left].min()


def test_ties_go_to_the_lower_index() -> None:
    everything = torch.ones(4, dtype=torch.bool)
    assert lowest(torch.tensor([1.0, 1.0, 0.0, 1.0]), 2, everything).tolist() == [True, False, True, False]
    assert highest(torch.tensor([1.0, 1.0, 0.0, 1.0]), 2, everything).tolist() == [True, True, False, False]


def test_the_memory_layout_of_a_weight_does_not_matter() -> None:
    scores = torch.randint(0, 3, (4, 3, 2, 2)).float()
    among = torch.rand(4, 3, 2, 2) < 0.8
    last = torch.channels_last
    for choose in (lowest, highest):
        plain = choose(scores, 7, among)
        assert torch.equal(choose(scores.to(memory_format=last), 7, among.to(memory_format=last)), plain)
    plain = best_entry(scores, among)
    assert torch.equal(best_entry(scores.to(memory_format=last), among.to(memory_format=last)), plain)


def test_the_best_entry_is_a_number_among_those_that_may_be_chosen() -> None:
    nan, among = float("nan"), torch.tensor([False, True, True, True])
    assert best_entry(torch.tensor([9.0, nan, 1.0, 2.0]), among).tolist() == [False, False, False, True]
    assert best_entry(torch.tensor([9.0, nan, nan, nan]), among).tolist() == [False, True, False, False]
    assert best_entry(torch.tensor([9.0, 1.0, 3.0, 3.0]), among).tolist() == [False, False, True, False]
    assert not best_entry(torch.tensor([nan, 1.0, 3.0, 3.0]), torch.zeros(4, dtype=torch.bool)).any()


def test_lowest_overall_ranks_over_layers_and_breaks_ties_by_layer() -> None:
    values = {"a": torch.tensor([[1.0, 3.0]]), "b": torch.tensor([1.0, 0.0, 9.0])}
    among = {name: torch.ones_like(value, dtype=torch.bool) for name, value in values.items()}
    chosen = lowest_overall(values, 2, among)
    assert chosen["a"].tolist() == [[True, False]]
    assert chosen["b"].tolist() == [False, True, False]


def test_normalized_ranking_compares_layers_of_different_scale() -> None:
    values = {"large": torch.tensor([100.0, 300.0]), "small": torch.tensor([0.15, 0.05])}
    among = {name: torch.ones_like(value, dtype=torch.bool) for name, value in values.items()}
    plain, normalized = lowest_overall(values, 2, among), lowest_overall(values, 2, among, normalize=True)
    assert plain["small"].tolist() == [True, True]
    assert normalized["small"].tolist() == [False, True]
    assert normalized["large"].tolist() == [True, False]


@given(
    st.lists(st.tuples(st.floats(0, 10), st.integers(0, 20)), min_size=1, max_size=6),
    st.integers(0, 200),
)
def test_apportion_adds_up_exactly_and_never_exceeds_a_capacity(rows: Any, total: Any) -> None:
    shares = {str(i): share for i, (share, _) in enumerate(rows)}
    capacity = {str(i): room for i, (_, room) in enumerate(rows)}
    given_ = apportion(total, shares, capacity)
    assert sum(given_.values()) == min(total, sum(capacity.values()))
    assert all(0 <= given_[name] <= capacity[name] for name in shares)


def test_apportion_by_largest_remainder() -> None:
    # 10 split 1:2:4 is 1.43, 2.86, 5.71: floors 1, 2, 5, and the two left go to the largest remainders.
    assert apportion(10, {"a": 1, "b": 2, "c": 4}, {"a": 99, "b": 99, "c": 99}) == {"a": 1, "b": 3, "c": 6}


@given(
    st.lists(st.tuples(st.integers(1, 64), st.integers(1, 64), st.sampled_from([1, 3])), min_size=1, max_size=6),
    st.floats(0.01, 1.0),
)
def test_erk_keeps_the_total_and_no_layer_above_dense(shapes: Any, density: Any) -> None:
    layers = {str(i): (o, k, s, s) for i, (o, k, s) in enumerate(shapes)}
    found = erk_densities(layers, density)
    sizes = {name: math.prod(shape) for name, shape in layers.items()}
    assert all(0 <= value <= 1 + 1e-9 for value in found.values())
    assert math.isclose(sum(found[n] * sizes[n] for n in sizes), density * sum(sizes.values()), rel_tol=1e-6)


def test_erk_by_hand() -> None:
    # Two linear layers of 4x4 and 8x8: raw densities 8/16 and 16/64, at half of all 80 weights the scale is
    # 40 / (8 + 16) = 5/3, so 5/6 and 5/12.
    found = erk_densities({"a": (4, 4), "b": (8, 8)}, 0.5)
    assert math.isclose(found["a"], 5 / 6)
    assert math.isclose(found["b"], 5 / 12)


@given(st.integers(1, 4), st.integers(1, 3), st.sampled_from([(1, 4), (2, 4), (4, 8)]), st.integers(0, 1000))
def test_pattern_leaves_n_of_every_m_and_growth_respects_it(rows: Any, runs: Any, pattern: Any, seed: Any) -> None:
    keep, of = pattern
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, runs * of, 3, generator=generator)
    mask = torch.ones_like(weight, dtype=torch.bool)
    mask &= ~lowest_in_groups(weight.abs(), mask, keep, of)
    assert (grouped(mask, of).sum(-1) == keep).all()
    kept = grouped(weight.abs(), of).masked_fill(~grouped(mask, of), math.inf).min(-1).values
    dropped = grouped(weight.abs(), of).masked_fill(grouped(mask, of), -math.inf).max(-1).values
    assert (kept >= dropped).all()
    mask[:, 0] = False
    grown = room_in_groups(torch.rand(weight.shape, generator=generator), mask, keep, of)
    assert not (grown & mask).any()
    assert (grouped(mask | grown, of).sum(-1) == keep).all()


@given(st.integers(1, 3), st.integers(1, 3), st.lists(st.integers(1, 3), max_size=2))
def test_grouping_is_undone_exactly(rows: Any, runs: Any, kernel: Any) -> None:
    weight = torch.randn(rows, runs * 4, *kernel)
    assert torch.equal(ungrouped(grouped(weight, 4), weight), weight)
