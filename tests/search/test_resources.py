"""Readings and a budget give caps; the manager only lowers, writes down and can be repeated."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.resources import (
    MachineReader,
    Override,
    Readings,
    ResourceBudget,
    ResourceManager,
    caps,
    pressure,
    recorded,
    replaying,
)

LADDER = (32, 16, 8, 4)
shares = st.none() | st.floats(0.01, 1.0)
readings_ = st.builds(Readings, shares, shares, shares, shares)
budgets = st.builds(ResourceBudget, shares, shares, shares, shares, st.none() | st.floats(2, 40))
ladders_ = st.lists(st.sampled_from([LADDER, (16, 8, 4), (8, 4, 2), (8,)]), min_size=1, max_size=4)


def test_caps_by_hand() -> None:
    busy = Readings(cpu=0.5, memory=0.8)
    assert pressure(busy, ResourceBudget(memory=0.4, cpu=1.0)) == 2.0
    assert caps(busy, ResourceBudget(), [LADDER]) == (32,)
    assert caps(busy, ResourceBudget(memory=0.8), [LADDER]) == (32,)
    assert caps(busy, ResourceBudget(memory=0.4), [LADDER, (8, 4)]) == (16, 4)
    assert caps(busy, ResourceBudget(memory=0.1), [LADDER, (8, 4)]) == (4, 4)
    assert caps(busy, ResourceBudget(bits=10), [LADDER, (16,)]) == (8, 16)
    assert pressure(busy, ResourceBudget(gpu=0.1)) == 0.0


@settings(max_examples=150, deadline=None)
@given(readings_, budgets, ladders_)
def test_caps_are_levels_of_the_ladder_and_a_tighter_budget_never_raises_one(
    readings: Readings, budget: ResourceBudget, ladders: list[tuple[int, ...]]
) -> None:
    found = caps(readings, budget, ladders)
    assert all(cap in ladder for cap, ladder in zip(found, ladders, strict=True))
    limits = {n: None if (v := getattr(budget, n)) is None else v / 2 for n in ("cpu", "memory", "gpu", "gpu_memory")}
    tighter = ResourceBudget(**limits, bits=None if budget.bits is None else budget.bits / 2)
    assert all(a <= b for a, b in zip(caps(readings, tighter, ladders), found, strict=True))


@settings(max_examples=100, deadline=None)
@given(st.lists(readings_, min_size=1, max_size=6), budgets, st.data())
def test_overrides_only_lower_and_a_run_can_be_repeated(
    stream: list[Readings], budget: ResourceBudget, data: st.DataObject
) -> None:
    manager = ResourceManager(budget, recorded(stream))
    units = {f"layer{i}[0]": LADDER for i in range(3)}
    asked, given_ = [], []
    for _ in range(len(stream) + 1):
        wanted = {name: data.draw(st.sampled_from(ladder)) for name, ladder in units.items()}
        asked.append(wanted)
        given_.append(manager.given(wanted, list(units.values())))
        assert all(level <= want for level, want in zip(given_[-1], wanted.values(), strict=True))
        held = {o.unit for o in manager.overrides}
        lowered = {n for n, level in zip(wanted, given_[-1], strict=True) if level < wanted[n]}
        assert lowered <= held
    again = replaying(json.loads(json.dumps(manager.log())))
    assert [again.given(wanted, list(units.values())) for wanted in asked] == given_
    assert again.overrides == manager.overrides


def test_a_budget_that_shrinks_holds_from_the_next_batch_on() -> None:
    manager = ResourceManager(ResourceBudget(memory=0.9), recorded([Readings(memory=0.8)]))
    wanted, ladders = {"a": 16, "b": 8}, [(32, 16, 8, 4)] * 2
    assert manager.given(wanted, ladders) == (16, 8)
    assert manager.overrides == []
    manager.budget = ResourceBudget(memory=0.2)
    assert manager.given(wanted, ladders) == (8, 8)
    assert manager.overrides == [Override(1, "a", 16, 8)]
    assert manager.given(wanted, ladders) == (8, 8)
    assert len(manager.overrides) == 1
    manager.budget = ResourceBudget(memory=0.9)
    assert manager.given(wanted, ladders) == (16, 8)


def test_this_machine_is_read() -> None:
    readings = MachineReader()()
    assert readings.memory is not None
    assert 0 < readings.memory < 1
    assert readings.cpu is not None
    assert 0 <= readings.cpu <= 1


@pytest.mark.parametrize("limits", [{"cpu": 0.0}, {"memory": 1.5}, {"gpu": -1.0}, {"bits": 0.5}])
def test_a_budget_that_means_nothing_is_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"a budget of {next(iter(limits))} must"):
        ResourceBudget(**limits)
