"""The grammar of criteria, and what a violation is."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.criterion import Criterion, parse, parse_bound
from spaces.errors import CriterionError

BASELINE = {"accuracy": 0.9, "macs": 1000.0, "plasticity": 0.0, "loss": -2.0}
numbers = st.floats(-1e9, 1e9)
names = st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_./]*\Z").filter(lambda name: name not in {"and", "baseline"})
criteria = st.builds(Criterion, names, st.booleans(), st.none() | numbers, numbers)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("accuracy >= baseline - 0.01", Criterion("accuracy", False, 1.0, -0.01)),
        ("latency_ms<=0.6*baseline", Criterion("latency_ms", True, 0.6, 0.0)),
        ("macs <= .5 * baseline + 1e3", Criterion("macs", True, 0.5, 1000.0)),
        ("size_bytes <= 100000", Criterion("size_bytes", True, None, 100000.0)),
        ("loss >= -0.5", Criterion("loss", False, None, -0.5)),
        ("loss >= -2 * baseline", Criterion("loss", False, -2.0, 0.0)),
        ("accuracy >= baseline -0.01", Criterion("accuracy", False, 1.0, -0.01)),
        ("quality/f1.macro >= 3.", Criterion("quality/f1.macro", False, None, 3.0)),
    ],
)
def test_a_condition_reads_as_written(text: str, expected: Criterion) -> None:
    assert parse(text) == (expected,)


def test_conditions_join_by_and() -> None:
    assert parse("accuracy >= baseline - 0.01 and macs <= 0.5 * baseline\n and bops<=7") == (
        Criterion("accuracy", False, 1.0, -0.01),
        Criterion("macs", True, 0.5, 0.0),
        Criterion("bops", True, None, 7.0),
    )


def test_a_bound_has_its_name_elsewhere() -> None:
    assert parse_bound("macs", "<= 0.6 * baseline") == Criterion("macs", True, 0.6, 0.0)


@given(st.lists(criteria, min_size=1, max_size=3))
def test_what_is_written_is_read_back(sentences: list[Criterion]) -> None:
    assert parse(" and ".join(str(criterion) for criterion in sentences)) == tuple(sentences)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the name of a score in '', but found the end at 0"),
        ("accuracy", "expected '<=' or '>=' in 'accuracy', but found the end at 8"),
        ("accuracy < 3", "has '<' at 9"),
        ("accuracy == 3", "has '=' at 9"),
        ("accuracy >=", "expected a number or 'baseline' in 'accuracy >=', but found the end at 11"),
        ("accuracy >= baseline * 0.5", "but found '*' at 21"),
        ("accuracy >= 0.5 * 3", "expected 'baseline' in 'accuracy >= 0.5 * 3', but found '3' at 18"),
        ("accuracy >= 0.5 baseline", "expected 'and' in"),
        ("accuracy >= baseline - baseline", "expected a number in"),
        ("accuracy >= baseline - -1", "expected a number in"),
        ("accuracy >= 1 or macs <= 2", "but found 'or' at 14"),
        ("accuracy >= 1 and", "expected the name of a score"),
        ("accuracy >= 1 and and macs <= 2", "expected the name of a score"),
        ("baseline >= 1", "expected the name of a score in 'baseline >= 1', but found 'baseline' at 0"),
        ("accuracy >= __import__('os')", "has '(' at 22"),
        ("accuracy >= 1e999", "must be finite"),
        ("accuracy >= nan", "expected a number"),
        ("accuracy >= 1_000", "has '1' at 12"),
        ("accuracy >= 0x10", "has '0' at 12"),
        ("accuracy >= 1.2.3", "has '1' at 12"),
        ("accuracy ≤ 3", "has '≤' at 9"),
    ],
)
def test_what_is_no_criterion_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(CriterionError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        read = parse(text)
    except CriterionError:
        return
    assert all(isinstance(criterion, Criterion) for criterion in read)


def test_more_after_a_bound_is_refused() -> None:
    with pytest.raises(CriterionError, match="expected nothing more"):
        parse_bound("macs", "<= 3 and bops <= 2")
    with pytest.raises(CriterionError, match="name must be a word"):
        parse_bound("two words", "<= 3")


@pytest.mark.parametrize(
    ("text", "scores", "violation"),
    [
        # ceiling 600: 660 is a tenth of it too much
        ("macs <= 0.6 * baseline", {"macs": 660.0}, 0.1),
        ("macs <= 0.6 * baseline", {"macs": 600.0}, 0.0),
        ("macs <= 0.6 * baseline", {"macs": 300.0}, -0.5),
        # floor 0.8: 0.6 lacks a quarter of it
        ("accuracy >= baseline - 0.1", {"accuracy": 0.6}, 0.25),
        ("accuracy >= 0.8", {"accuracy": 1.0}, -0.25),
        # bounds below 0 and at 0
        ("loss >= baseline", {"loss": -3.0}, 0.5),
        ("loss >= baseline", {"loss": -1.0}, -0.5),
        ("plasticity >= 0", {"plasticity": 0.25}, -0.25),
        ("plasticity <= baseline", {"plasticity": 0.25}, 0.25),
        # a score that is not there
        ("macs <= 600", {}, math.inf),
        ("macs <= 600", {"macs": math.nan}, math.inf),
        ("macs <= 600", {"macs": math.inf}, math.inf),
    ],
)
def test_a_violation_is_relative_to_the_bound(text: str, scores: dict[str, float], violation: float) -> None:
    (criterion,) = parse(text)
    assert criterion.violation(scores, BASELINE) == pytest.approx(violation)
    assert criterion.holds(scores, BASELINE) is (violation <= 0)


@given(criteria, numbers, numbers)
def test_a_criterion_holds_exactly_where_the_comparison_does(criterion: Criterion, value: float, base: float) -> None:
    baseline = {criterion.name: base}
    bound = criterion.bound(baseline)
    expected = value <= bound if criterion.at_most else value >= bound
    assert criterion.holds({criterion.name: value}, baseline) is expected


def test_a_bound_needs_its_baseline() -> None:
    with pytest.raises(CriterionError, match="the baseline has no bops"):
        parse_bound("bops", "<= 0.5 * baseline").bound(BASELINE)
    assert parse_bound("bops", "<= 5").bound({}) == 5.0
