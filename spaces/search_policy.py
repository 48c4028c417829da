"""What a search has learnt: where its best trials lie, which knobs matter, and the profiles to start from next time."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from optuna.distributions import BaseDistribution, CategoricalDistribution

from spaces import files
from spaces.errors import ProfileError, shown
from spaces.policy import Value
from spaces.profile import CompressionProfile
from spaces.space import SearchSpace

SCHEMA = 1
#: How many profiles are kept.
BEST = 10


@dataclass(frozen=True)
class KnobReport:
    """Where the best quarter of the trials lies on one knob. Both forms are empty where the knob acted in none of them.

    Args:
        importance: Share of the variation between trials that the knob explains, >= 0.
        range: Lowest and highest value, for a number.
        frequencies: Each choice with its share of those trials, for a choice; the shares add up to 1.
    """

    importance: float = 0.0
    range: tuple[float, float] | None = None
    frequencies: tuple[tuple[Value, float], ...] = ()

    def __post_init__(self) -> None:
        numbers = [self.importance, *(self.range or ()), *(share for _, share in self.frequencies)]
        if not all(_is_number(number) for number in numbers) or self.importance < 0:
            raise ProfileError(f"a knob's report must hold finite numbers, but has {shown(numbers)}: export it again")
        if self.range and (self.range[0] > self.range[1] or self.frequencies):
            raise ProfileError(f"a knob's range must run from low to high, but is {shown(self.range)}: export it again")
        shares = [share for _, share in self.frequencies]
        if shares and (min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6)):
            raise ProfileError(f"a knob's frequencies must add up to 1, but are {shown(shares)}: export it again")
        if not all(isinstance(choice, Value) for choice, _ in self.frequencies):
            raise ProfileError("a knob's choices must be numbers, texts or truths, but are not: export it again")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form; the inverse of :meth:`from_dict`."""
        return {
            "importance": self.importance,
            "range": list(self.range) if self.range else None,
            "frequencies": [list(pair) for pair in self.frequencies],
        }

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Read what :meth:`to_dict` wrote.

        Raises:
            ProfileError: If it is something else.
        """
        if isinstance(data, Mapping) and set(data) == {"importance", "range", "frequencies"}:
            span, pairs = data["range"], data["frequencies"]
            if (span is None or _is_pair(span)) and isinstance(pairs, list) and all(_is_pair(pair) for pair in pairs):
                return cls(data["importance"], tuple(span) if span else None, tuple((c, share) for c, share in pairs))
        raise ProfileError(
            f"a knob's report must be {{importance, range, frequencies}}, but is {shown(data)}: export it again"
        )


@dataclass(frozen=True)
class SearchPolicy:
    """What a study hands to the next one.

    Args:
        space: Fingerprint of the space that was searched.
        trials: How many trials it was learnt from.
        knobs: One report per searched name, e.g. ``pruning.sparsity``.
        best: The best profiles, the best first, at most ten.
    """

    space: str
    trials: int = 0
    knobs: Mapping[str, KnobReport] = field(default_factory=dict)
    best: tuple[CompressionProfile, ...] = ()

    @classmethod
    def learn(
        cls,
        space: SearchSpace,
        evaluated: Sequence[tuple[Mapping[str, Value], int]],
        importances: Mapping[str, float],
    ) -> Self:
        """Sum up a search.

        Args:
            space: What was searched.
            evaluated: Per trial its searched names and values, and its rank among all of them: lower is better, trials
                that do not dominate each other share one.
            importances: Share of the variation per searched name; a name that is missing counts 0.

        Raises:
            ProfileError: If a trial does not lie in the space.
        """
        ranked = [params for params, _ in sorted(evaluated, key=lambda trial: trial[1])]
        top = ranked[: math.ceil(len(ranked) / 4)]
        knobs = {
            name: _report(distribution, [params[name] for params in top if name in params], importances.get(name, 0.0))
            for name, distribution in space.distributions().items()
        }
        best: dict[str, CompressionProfile] = {}
        for params in ranked:
            if len(best) == BEST:
                break
            profile = space.profile(params)
            best.setdefault(profile.fingerprint(), profile)
        return cls(space.fingerprint(), len(evaluated), knobs, tuple(best.values()))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form; the inverse of :meth:`from_dict`."""
        return {
            "schema": SCHEMA,
            "space": self.space,
            "trials": self.trials,
            "knobs": {name: report.to_dict() for name, report in self.knobs.items()},
            "best": [profile.to_dict() for profile in self.best],
        }

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Read what :meth:`to_dict` wrote.

        Raises:
            ProfileError: If it is something else, or of a schema this version does not know.
        """
        if not isinstance(data, Mapping) or set(data) != {"schema", "space", "trials", "knobs", "best"}:
            raise ProfileError(
                "a search policy must be an object with schema, space, trials, knobs and best: see the docs"
            )
        if not _is_count(data["schema"]) or data["schema"] != SCHEMA:
            raise ProfileError(
                f"a search policy's schema must be {SCHEMA}, but is {shown(data['schema'])}: export it again"
            )
        space, trials, knobs, best = data["space"], data["trials"], data["knobs"], data["best"]
        if not isinstance(space, str) or not _is_count(trials) or not isinstance(knobs, Mapping):
            raise ProfileError("a search policy needs a space's fingerprint, a count of trials and a table of knobs")
        if not isinstance(best, list) or len(best) > BEST:
            raise ProfileError(
                f"a search policy's best must be a list of at most {BEST} profiles, but is {shown(best)}"
            )
        return cls(
            space,
            trials,
            {str(name): KnobReport.from_dict(report) for name, report in knobs.items()},
            tuple(CompressionProfile.from_dict(profile) for profile in best),
        )

    def to_json(self) -> str:
        """Canonical JSON: keys sorted, so that equal policies are equal texts."""
        return json.dumps(self.to_dict(), sort_keys=True, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            ProfileError: If it is not JSON, or not a search policy.
        """
        return cls.from_dict(files.parse(text, "a search policy"))

    def save(self, path: str | Path) -> None:
        """Write the canonical JSON.

        Raises:
            StorageError: If the file cannot be written.
        """
        files.write(path, self.to_json(), "the search policy")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a search policy from a file.

        Raises:
            StorageError: If the file cannot be read.
            ProfileError: If it is not a search policy.
        """
        return cls.from_json(files.read(path, "the search policy"))


def _report(distribution: BaseDistribution, values: Sequence[Value], importance: float) -> KnobReport:
    if not values:
        return KnobReport(importance)
    if isinstance(distribution, CategoricalDistribution):
        choices = (choice for choice in distribution.choices if choice is not None)
        return KnobReport(importance, None, tuple((choice, values.count(choice) / len(values)) for choice in choices))
    numbers = [value for value in values if isinstance(value, int | float)]
    return KnobReport(importance, (min(numbers), max(numbers)))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2
