"""Early stopping: golden decisions by hand, and the laws of the order at a rung."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.criterion import Criterion, parse_bound
from objectives.objective import Direction
from objectives.pareto import ranks
from search.result import Report
from search.scheduler import Scheduler, epsilon_net

ONE: dict[str, Direction] = {"accuracy": "maximize"}
TWO: dict[str, Direction] = {"accuracy": "maximize", "macs": "minimize"}


def report(iteration: int, of: int = 9, **scores: float) -> Report:
    return Report(iteration, of, scores)


def test_rungs_are_a_factor_of_eta_apart_and_the_last_iteration_is_none() -> None:
    def rungs(eta: int, grace: int, of: int) -> list[int]:
        scheduler = Scheduler(ONE, eta=eta, grace=grace)
        return [i for i in range(1, of + 1) if scheduler.is_rung(report(i, of, accuracy=0.0))]

    assert rungs(3, 1, 9) == [1, 3]
    assert rungs(2, 1, 9) == [1, 2, 4, 8]
    assert rungs(2, 3, 12) == [3, 6]
    assert rungs(3, 1, 6) == [1, 3]
    assert rungs(3, 1, 1) == []
    assert rungs(0, 1, 9) == []


def test_one_in_three_goes_on() -> None:
    scheduler = Scheduler(ONE, eta=3)
    # The first two have nothing to be measured against; from the third on only the best third stays.
    stops = [scheduler.stops(n, report(1, accuracy=a)) for n, a in enumerate([0.5, 0.4, 0.3, 0.6, 0.2, 0.55, 0.1])]
    assert stops == [False, False, True, False, True, False, True]


def test_other_iterations_stop_nobody() -> None:
    scheduler = Scheduler(ONE, eta=3)
    assert not any(scheduler.stops(n, report(2, accuracy=-float(n))) for n in range(9))


def test_with_two_objectives_the_front_goes_on() -> None:
    scheduler = Scheduler(TWO, eta=2)
    assert not scheduler.stops(0, report(1, accuracy=0.9, macs=9.0))
    # Not better anywhere: second of two.
    assert scheduler.stops(1, report(1, accuracy=0.8, macs=9.5))
    # On the front beside 0.
    assert not scheduler.stops(2, report(1, accuracy=0.5, macs=1.0))
    assert scheduler.stops(3, report(1, accuracy=0.4, macs=1.5))
    # A fifth of the front's kind: three of five stay, and it is the farthest from those two.
    assert not scheduler.stops(4, report(1, accuracy=0.7, macs=5.0))


def test_what_misses_a_constraint_comes_after_what_meets_it() -> None:
    criteria = (parse_bound("macs", "<= 5"),)
    scheduler = Scheduler(TWO, criteria, {}, eta=2)
    rung = {
        0: {"accuracy": 0.9, "macs": 10.0},  # misses by 1.0
        1: {"accuracy": 0.1, "macs": 5.0},
        2: {"accuracy": 0.5, "macs": 6.0},  # misses by 0.2
        3: {"accuracy": 0.2, "macs": 5.0},
    }
    assert scheduler.order(rung) == [3, 1, 2, 0]


def test_a_trial_without_an_objective_is_last() -> None:
    scheduler = Scheduler(TWO)
    rung = {0: {"accuracy": math.nan, "macs": 1.0}, 1: {"macs": 0.0}, 2: {"accuracy": 0.0, "macs": 9.0}}
    assert scheduler.order(rung) == [2, 0, 1]


def test_of_two_trials_that_end_alike_the_later_schedule_is_not_preferred() -> None:
    # Reports are projected to the profile's end state, so a late pruner shows no better figures than an early one.
    alike = {"accuracy": 0.8, "macs": 4.0}
    for early, late in ((0, 1), (1, 0)):
        scheduler = Scheduler(TWO, eta=2)
        order = scheduler.order({early: alike, late: dict(alike)})
        assert order == [0, 1]


def test_a_spread_front_is_kept_before_a_crowd() -> None:
    scheduler = Scheduler(TWO, eta=2)
    rung = {
        0: {"accuracy": 0.50, "macs": 5.0},  # nearest to the ideal
        1: {"accuracy": 0.51, "macs": 5.1},  # crowds it
        2: {"accuracy": 1.00, "macs": 10.0},
        3: {"accuracy": 0.00, "macs": 0.0},
    }
    assert scheduler.order(rung)[-1] == 1


def test_earlier_runs_are_remembered() -> None:
    scheduler = Scheduler(ONE, eta=3)
    for number, accuracy in enumerate([0.5, 0.4]):
        scheduler.note(number, [report(1, accuracy=accuracy), report(2, accuracy=0.0)])
    assert scheduler.stops(2, report(1, accuracy=0.3))


def test_a_retried_trial_counts_once() -> None:
    scheduler = Scheduler(ONE, eta=3)
    for _ in range(5):
        assert not scheduler.stops(0, report(1, accuracy=0.1))


_SCORES = st.fixed_dictionaries({"accuracy": st.integers(0, 4).map(float), "macs": st.integers(0, 4).map(float)})
_RUNG = st.lists(_SCORES, min_size=1, max_size=12)
_CRITERIA = st.sampled_from([(), (Criterion("macs", True, None, 2.0),)])


@given(_RUNG, _CRITERIA)
def test_the_order_has_everyone_once_feasible_first_and_by_rank(
    rows: list[dict[str, float]], criteria: tuple[Criterion, ...]
) -> None:
    order = Scheduler(TWO, criteria, {}).order(dict(enumerate(rows)))
    assert sorted(order) == list(range(len(rows)))
    feasible = [n for n in order if all(c.holds(rows[n], {}) for c in criteria)]
    assert order[: len(feasible)] == feasible
    by_rank = ranks([rows[n] for n in feasible], TWO)
    assert by_rank == sorted(by_rank)


@given(_RUNG)
def test_with_one_objective_the_order_is_the_value_then_the_number(rows: list[dict[str, float]]) -> None:
    order = Scheduler(ONE).order(dict(enumerate(rows)))
    assert order == sorted(range(len(rows)), key=lambda n: (-rows[n]["accuracy"], n))


@given(_RUNG)
def test_what_is_best_at_its_rung_is_never_stopped(rows: list[dict[str, float]]) -> None:
    scheduler = Scheduler(ONE, eta=3)
    for number, row in enumerate(rows):
        stopped = scheduler.stops(number, report(1, accuracy=row["accuracy"]))
        if all(row["accuracy"] > earlier["accuracy"] for earlier in rows[:number]):
            assert not stopped


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=10))
def test_an_epsilon_net_takes_every_point_once_and_always_the_farthest(points: list[tuple[int, int]]) -> None:
    array = np.array(points, dtype=np.float64)
    order = epsilon_net(array)
    assert sorted(order) == list(range(len(points)))
    for place in range(1, len(order)):
        taken = array[order[:place]]
        left = [min(float(((array[i] - t) ** 2).sum()) for t in taken) for i in order[place:]]
        assert left[0] == pytest.approx(max(left))
