"""Hypothesis strategies for what may be asked: values, profiles, study file tables, spaces and hostile JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, IntDistribution

from spaces import POLICIES
from spaces.errors import ProfileError
from spaces.policy import Knob, Value
from spaces.profile import CompressionProfile
from spaces.space import SearchSpace

#: Names that a layer of a network, or a pattern for some, may have.
patterns = st.sampled_from(["*", "layer1.*", "layer3.*", "layer3.0.conv?", "[fh]ead", "features.0"])

#: Anything that JSON can say, and a little that only Python's reader accepts (NaN, Infinity, endless numbers).
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


class Drawn:
    """Answers like an Optuna trial, with values that Hypothesis draws, and remembers what it was asked."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.params: dict[str, Any] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self._answer(name, st.floats(low, high)))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return int(self._answer(name, st.integers(low, high)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._answer(name, st.sampled_from(list(choices)))

    def _answer(self, name: str, values: st.SearchStrategy[Any]) -> Any:
        assert name not in self.params, f"{name} was asked for twice"
        self.params[name] = self.draw(values)
        return self.params[name]


def values(knob: Knob) -> st.SearchStrategy[Any]:
    """Every value that the knob takes."""
    if isinstance(knob.distribution, CategoricalDistribution):
        return st.sampled_from(list(knob.distribution.choices))
    assert knob.limits is not None, f"{knob.name} is a number without limits"
    if isinstance(knob.distribution, IntDistribution):
        return st.integers(int(knob.limits.low), int(knob.limits.high))
    return st.floats(knob.limits.low, knob.limits.high)


@st.composite
def settings(draw: st.DrawFn, knob: Knob) -> Any:
    """What a study file may say of the knob: a value, choices, or a range."""
    form = draw(st.sampled_from(["value", "choices", "range"]))
    if form == "value":
        return draw(values(knob))
    if form == "choices" or isinstance(knob.distribution, CategoricalDistribution):
        return draw(st.lists(values(knob), min_size=1, max_size=4, unique=True))
    low, high = sorted(draw(st.tuples(values(knob), values(knob))))
    return {"low": low, "high": high} | ({"log": draw(st.booleans())} if low > 0 else {"log": False})


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    """A valid ``[spaces]`` table of a study file."""
    table: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(list(POLICIES)), unique=True)):
        table[name] = {"optional": True} if draw(st.booleans()) else {}
        for knob in POLICIES[name].knobs().values():
            if draw(st.booleans()):
                table[name][knob.name] = draw(settings(knob))
                if refusal(SearchSpace.from_settings, table):  # it could act nowhere beside what is already there
                    del table[name][knob.name]
    rows = draw(st.lists(patterns, unique=True, max_size=2)) if "pruning" in table else []
    for match in rows:
        row = {"match": match, "pruning": {"sparsity": draw(settings(POLICIES["pruning"].knob("sparsity")))}}
        candidate = table | {"layers": [*table.get("layers", []), row]}
        table = table if refusal(SearchSpace.from_settings, candidate) else candidate
    return table


spaces = tables().map(SearchSpace.from_settings)


def _widest(knob: Knob) -> Any:
    if isinstance(knob.distribution, CategoricalDistribution):
        return list(knob.distribution.choices)
    assert knob.limits is not None
    return {"low": knob.limits.low, "high": knob.limits.high, "log": False}


#: Everything that any profile may hold: each policy optional, each number as wide as its mechanism allows.
EVERYTHING = SearchSpace.from_settings(
    {
        name: {"optional": True} | {knob.name: _widest(knob) for knob in policy.knobs().values()}
        for name, policy in POLICIES.items()
    }
    | {"layers": [{"match": "layer3.*", "pruning": {"sparsity": _widest(POLICIES["pruning"].knob("sparsity"))}}]}
)


@st.composite
def profiles(draw: st.DrawFn) -> CompressionProfile:
    """Any valid profile."""
    return EVERYTHING.suggest(Drawn(draw))


#: A space of every policy with the ranges it has where a study file says nothing more.
DEFAULTS = SearchSpace.from_settings({name: {} for name in POLICIES})


def refusal(action: Callable[..., object], *args: object) -> str | None:
    """The message with which something is refused, None where it is not; any other error passes through."""
    try:
        action(*args)
    except ProfileError as error:
        return str(error)
    return None


def plain(value: Value) -> tuple[type, Value]:
    """A value with its type, so that 1, 1.0 and True differ."""
    return type(value), value
