"""One sentence about a score: a constraint, a stop criterion or a `--where` clause. Parsed, never evaluated.

criterion  = condition { "and" condition }
condition  = NAME ( "<=" | ">=" ) bound
bound      = [ NUMBER "*" ] "baseline" [ ( "+" | "-" ) NUMBER ]  |  NUMBER
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from spaces.errors import CriterionError

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    | (?P<name>[A-Za-z_][A-Za-z0-9_./]*)
    | (?P<sign><=|>=|[*+-])
    )""",
    re.VERBOSE | re.ASCII,
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_./]*", re.ASCII)
_RESERVED = frozenset({"and", "baseline"})
#: Characters; the longest that makes sense has some hundred.
_LONGEST = 2000
_EXAMPLE = "write e.g. 'latency_ms <= 0.6 * baseline' or 'accuracy >= baseline - 0.01'"


@dataclass(frozen=True)
class Criterion:
    """A bound on one score.

    Args:
        name: Of the score: an objective, or one of a task's own metrics.
        at_most: Whether the bound is a ceiling (``<=``) rather than a floor (``>=``).
        factor: The baseline's share in the bound; None where the bound does not depend on the baseline.
        offset: What is added to it, or the bound itself.

    Raises:
        CriterionError: If the name cannot stand in a sentence, or a number is not finite.
    """

    name: str
    at_most: bool
    factor: float | None
    offset: float

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name in _RESERVED:
            raise CriterionError(f"a score's name must be a word other than 'and' and 'baseline', but is {self.name!r}")
        if not math.isfinite(self.offset) or not math.isfinite(self.factor or 0.0):
            raise CriterionError(f"the numbers of a bound on {self.name} must be finite, but are not: {_EXAMPLE}")

    def bound(self, baseline: Mapping[str, float]) -> float:
        """The bound as a number.

        Raises:
            CriterionError: If it depends on a score that the baseline does not have.
        """
        if self.factor is None:
            return self.offset
        if self.name not in baseline:
            known = ", ".join(sorted(baseline)) or "none"
            raise CriterionError(f"the baseline has no {self.name}, so '{self}' has no bound: it has {known}")
        return self.factor * baseline[self.name] + self.offset

    def violation(self, scores: Mapping[str, float], baseline: Mapping[str, float]) -> float:
        """By how much the bound is missed, as a share of its size; <= 0 where it is met.

        Args:
            scores: Of the trial; infinite where the score is missing or NaN.
            baseline: Scores of the network before compression.

        Returns:
            Relative to \\|bound\\|, absolute where the bound is 0.
        """
        value, bound = scores.get(self.name, math.nan), self.bound(baseline)
        if math.isnan(value) or math.isnan(bound):
            return math.inf
        excess = value - bound if self.at_most else bound - value
        return excess / (abs(bound) or 1.0)

    def holds(self, scores: Mapping[str, float], baseline: Mapping[str, float]) -> bool:
        """Whether the score is there and within its bound."""
        return self.violation(scores, baseline) <= 0

    def __str__(self) -> str:
        """The sentence that parses to this criterion."""
        left = f"{self.name} {'<=' if self.at_most else '>='} "
        if self.factor is None:
            return left + repr(self.offset)
        relative = "baseline" if self.factor == 1 else f"{self.factor!r} * baseline"
        if self.offset:
            relative += f" {'+' if self.offset > 0 else '-'} {abs(self.offset)!r}"
        return left + relative


def parse(text: str) -> tuple[Criterion, ...]:
    """Read one or more conditions joined by ``and``.

    Raises:
        CriterionError: If the text does not follow the grammar; names the place.
    """
    reader = _Reader(text)
    criteria = [reader.condition()]
    while not reader.done:
        reader.take("name", "and")
        criteria.append(reader.condition())
    return tuple(criteria)


def parse_bound(name: str, text: str) -> Criterion:
    """Read a bound whose score is named elsewhere: ``parse_bound("macs", "<= 0.6 * baseline")``.

    Raises:
        CriterionError: If the text does not follow the grammar; names the place.
    """
    reader = _Reader(text)
    criterion = reader.bound(name)
    if not reader.done:
        raise reader.error("nothing more")
    return criterion


class _Reader:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = [*_tokens(text), ("end", "", len(text))]
        self.place = 0

    @property
    def done(self) -> bool:
        return self.tokens[self.place][0] == "end"

    def error(self, expected: str) -> CriterionError:
        kind, found, place = self.tokens[self.place]
        found = "the end" if kind == "end" else f"{found!r}"
        return CriterionError(f"expected {expected} in {_quoted(self.text)}, but found {found} at {place}: {_EXAMPLE}")

    def take(self, kind: str, *words: str, expected: str = "") -> str:
        """The next token, if it is of that kind and one of the words (any word where none is named)."""
        found, word, _ = self.tokens[self.place]
        if found != kind or (words and word not in words):
            raise self.error(expected or " or ".join(f"'{w}'" for w in words) or f"a {kind}")
        self.place += 1
        return word

    def at(self, *words: str) -> bool:
        return self.tokens[self.place][1] in words

    def condition(self) -> Criterion:
        if self.at(*_RESERVED):
            raise self.error("the name of a score")
        return self.bound(self.take("name", expected="the name of a score"))

    def bound(self, name: str) -> Criterion:
        at_most = self.take("sign", "<=", ">=") == "<="
        if self.at("baseline"):
            return Criterion(name, at_most, *self.baseline(1.0))
        number = self.number(signed=True)
        if self.at("*"):
            self.take("sign", "*")
            return Criterion(name, at_most, *self.baseline(number))
        return Criterion(name, at_most, None, number)

    def baseline(self, factor: float) -> tuple[float, float]:
        self.take("name", "baseline")
        if not self.at("+", "-"):
            return factor, 0.0
        sign = self.take("sign")
        offset = self.number(signed=False)
        return factor, -offset if sign == "-" else offset

    def number(self, *, signed: bool) -> float:
        sign = self.take("sign") if signed and self.at("+", "-") else "+"
        value = float(self.take("number", expected="a number or 'baseline'" if signed else "a number"))
        return -value if sign == "-" else value


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    place, end = 0, len(text.rstrip())
    if end > _LONGEST:
        raise CriterionError(f"a criterion may have {_LONGEST} characters, but has {end}: {_EXAMPLE}")
    while place < end:
        match = _TOKEN.match(text, place)
        if match is None or match.lastgroup is None:
            place += len(text[place:]) - len(text[place:].lstrip())
            raise CriterionError(
                f"a criterion is made of names, numbers, '<=', '>=', '*', '+' and '-', "
                f"but {_quoted(text)} has {text[place]!r} at {place}: {_EXAMPLE}"
            )
        yield match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)
        place = match.end()


def _quoted(text: str) -> str:
    text = repr(text.strip())
    return text if len(text) <= 120 else f"{text[:116]}...'"
