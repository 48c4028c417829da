"""Fronts, ranks and volumes against brute force, hand arithmetic and counting of cells."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.objective import Direction
from objectives.pareto import Growing, front, hypervolume, nearest_to_ideal, normalized_hypervolume, ranks

BOTH: dict[str, Direction] = {"accuracy": "maximize", "macs": "minimize"}
NAMES = ("a", "b", "c")
MINIMIZED: dict[str, Direction] = dict.fromkeys(NAMES, "minimize")
MAXIMIZED: dict[str, Direction] = dict.fromkeys(NAMES, "maximize")
#: Small integers, so that ties and equal rows are frequent.
rows_strategy = st.lists(st.fixed_dictionaries({name: st.integers(0, 4) for name in NAMES}), max_size=12)


def boxes(dimensions: int, most: int = 7) -> st.SearchStrategy[list[tuple[int, ...]]]:
    return st.lists(st.tuples(*[st.integers(0, 5)] * dimensions), max_size=most)


def dominates(one: dict[str, float], other: dict[str, float]) -> bool:
    return all(one[n] <= other[n] for n in NAMES) and any(one[n] < other[n] for n in NAMES)


@given(rows_strategy)
def test_the_front_is_what_nothing_dominates(rows: list[dict[str, float]]) -> None:
    expected = [i for i, row in enumerate(rows) if not any(dominates(other, row) for other in rows)]
    assert front(rows, MINIMIZED) == expected


@given(rows_strategy)
def test_each_rank_is_the_front_of_what_the_ranks_before_left(rows: list[dict[str, float]]) -> None:
    left, rank = list(range(len(rows))), 0
    found = ranks(rows, MINIMIZED)
    while left:
        peeled = [i for i in left if not any(dominates(rows[j], rows[i]) for j in left)]
        assert [i for i in left if found[i] == rank] == peeled
        left, rank = [i for i in left if i not in peeled], rank + 1


@given(rows_strategy)
def test_maximising_is_minimising_the_negative(rows: list[dict[str, float]]) -> None:
    negative = [{name: -value for name, value in row.items()} for row in rows]
    assert front(rows, MINIMIZED) == front(negative, MAXIMIZED)


def test_directions_are_per_objective() -> None:
    rows = [
        {"accuracy": 0.9, "macs": 100.0},
        {"accuracy": 0.8, "macs": 50.0},
        {"accuracy": 0.8, "macs": 60.0},  # dominated by the row above
        {"accuracy": 0.95, "macs": 200.0, "loss": 1.0},
        {"accuracy": 0.7, "macs": 60.0},
    ]
    assert front(rows, BOTH) == [0, 1, 3]
    assert ranks(rows, BOTH) == [0, 0, 1, 0, 2]


def test_a_row_without_a_score_is_last_and_on_no_front() -> None:
    rows = [{"accuracy": 0.9}, {"accuracy": 0.5, "macs": 9.0}, {"accuracy": math.nan, "macs": 1.0}]
    assert front(rows, BOTH) == [1]
    assert ranks(rows, BOTH) == [1, 0, 1]
    assert front(rows[::2], BOTH) == []
    assert nearest_to_ideal(rows[::2], BOTH) is None
    assert normalized_hypervolume(rows[::2], BOTH, {"accuracy": 0.9, "macs": 10.0}) == 0.0


def test_the_pick_is_nearest_to_the_ideal_on_the_fronts_own_scale() -> None:
    rows = [
        {"accuracy": 0.90, "macs": 100.0},  # scaled (0, 1)
        {"accuracy": 0.88, "macs": 60.0},  # scaled (.2, .2): the knee
        {"accuracy": 0.80, "macs": 50.0},  # scaled (1, 0)
        {"accuracy": 0.10, "macs": 1e9},  # dominated: must not stretch the scale
    ]
    assert nearest_to_ideal(rows, BOTH) == 1
    assert nearest_to_ideal([rows[0], rows[2]], BOTH) == 0
    assert nearest_to_ideal([rows[2], rows[0]], BOTH) == 0


def test_with_one_objective_the_best_value_is_picked_and_the_first_of_equals() -> None:
    rows = [{"accuracy": 0.5}, {"accuracy": 0.7}, {"accuracy": 0.7}]
    assert nearest_to_ideal(rows, {"accuracy": "maximize"}) == 1
    assert nearest_to_ideal(rows, {"accuracy": "minimize"}) == 0


@pytest.mark.parametrize(
    ("points", "reference", "volume"),
    [
        ([], [1.0], 0.0),
        ([[0.25], [0.5]], [1.0], 0.75),
        ([[2.0]], [1.0], 0.0),
        # two 2 x 1 rectangles that overlap in 1 x 1
        ([[0.0, 1.0], [1.0, 0.0]], [2.0, 2.0], 3.0),
        # three bars of 3 x 1 x 1 along the axes, meeting in one unit cube
        ([[0, 2, 2], [2, 0, 2], [2, 2, 0]], [3, 3, 3], 7.0),
        # the same in four and five dimensions: d bars of length 3, d (3 - 1) + 1
        ((2 - 2 * np.eye(4)).tolist(), [3] * 4, 9.0),
        ((2 - 2 * np.eye(5)).tolist(), [3] * 5, 11.0),
        # on the reference: nothing
        ([[0.0, 2.0]], [2.0, 2.0], 0.0),
        ([[-math.inf, 0.0]], [1.0, 1.0], math.inf),
    ],
)
def test_volumes_by_hand(points: Sequence[Sequence[float]], reference: Sequence[float], volume: float) -> None:
    assert hypervolume(points, reference) == pytest.approx(volume)


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4, 5])
def test_the_volume_is_the_number_of_unit_cells_dominated(dimensions: int) -> None:
    side = range(4)

    @settings(deadline=None, max_examples=40)
    @given(boxes(dimensions))
    def check(points: list[tuple[int, ...]]) -> None:
        cells = sum(
            any(all(p <= c for p, c in zip(point, cell, strict=True)) for point in points)
            for cell in itertools.product(side, repeat=dimensions)
        )
        assert hypervolume(np.array(points, dtype=float).reshape(-1, dimensions), [4.0] * dimensions) == cells

    check()


@pytest.mark.parametrize("dimensions", [3, 5])
def test_the_volume_agrees_with_random_darts(dimensions: int) -> None:
    generator = np.random.default_rng(dimensions)
    directions = np.abs(generator.normal(size=(30, dimensions)))
    points = 1 - directions / np.linalg.norm(directions, axis=1, keepdims=True)
    darts = generator.random((40_000, dimensions))
    hit = np.zeros(len(darts), dtype=bool)
    for point in points:
        hit |= (darts >= point).all(axis=1)
    # Five standard errors of a share of 40,000 darts are at most 0.0125.
    assert hypervolume(points, np.ones(dimensions)) == pytest.approx(hit.mean(), abs=0.0125)


@settings(deadline=None)
@given(boxes(3), st.tuples(*[st.integers(0, 5)] * 3), st.randoms())
def test_a_further_point_never_lowers_the_volume_and_order_does_not_matter(
    points: list[tuple[int, ...]], further: tuple[int, ...], random: object
) -> None:
    before = hypervolume(np.array(points, dtype=float).reshape(-1, 3), [4.0] * 3)
    more = [*points, further]
    random.shuffle(more)  # type: ignore[attr-defined]
    assert hypervolume(np.array(more, dtype=float), [4.0] * 3) >= before - 1e-9


def test_the_normalised_volume_is_in_units_of_the_baseline() -> None:
    baseline = {"accuracy": 0.8, "macs": 1000.0, "plasticity": 0.0}
    # Half the cost at the baseline's accuracy covers half of the unit square; an eighth at half of it .5 * .875.
    half, eighth = {"accuracy": 0.8, "macs": 500.0}, {"accuracy": 0.4, "macs": 125.0}
    assert normalized_hypervolume([half], BOTH, baseline) == pytest.approx(0.5)
    assert normalized_hypervolume([eighth], BOTH, baseline) == pytest.approx(0.4375)
    assert normalized_hypervolume([half, eighth], BOTH, baseline) == pytest.approx(0.5 + 0.5 * 0.375)
    # The baseline itself saves nothing; better than the baseline counts as more than 1.
    assert normalized_hypervolume([{"accuracy": 0.8, "macs": 1000.0}], BOTH, baseline) == 0.0
    assert normalized_hypervolume([{"accuracy": 0.88, "macs": 0.0}], BOTH, baseline) == pytest.approx(1.1)
    # Plasticity has a baseline of 0, so its unit is 1.
    three: dict[str, Direction] = {**BOTH, "plasticity": "maximize"}
    assert normalized_hypervolume([{**half, "plasticity": 0.2}], three, baseline) == pytest.approx(0.1)


@given(st.lists(st.tuples(*[st.floats(0, 1.5)] * 3), max_size=25), st.sampled_from([1, 2, 3]))
def test_a_volume_that_grows_row_by_row_is_the_volume_of_all_rows(
    points: list[tuple[float, float, float]], dimensions: int
) -> None:
    directions: dict[str, Direction] = dict(zip("abc"[:dimensions], ("maximize", "minimize", "minimize"), strict=False))
    baseline = {"a": 0.8, "b": 1.0, "c": 1.2}
    growing, rows = Growing(directions, baseline), list[dict[str, float]]()
    for point in points:
        rows.append(dict(zip("abc", point, strict=True)))
        growing.add(rows[-1])
        assert growing.volume == pytest.approx(normalized_hypervolume(rows, directions, baseline), abs=1e-9)
    growing.add({"a": math.nan})
    assert growing.volume == pytest.approx(normalized_hypervolume(rows, directions, baseline), abs=1e-9)
