"""The page of the docs that is written from the code: ``python -m tests.pages`` writes it, a test compares it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search.installation import ROOT
from spaces import POLICIES
from spaces.policy import Knob, Policy, When

PAGE = ROOT / "docs" / "policies.md"

HEAD = """\
# Policies

A policy is one way to change a network. A study names the policies it searches under `[spaces]`; what it does not
name is off. `{}` (an empty table) searches every knob over the range below; a value fixes a knob, a list or `{ low,
high, log }` searches it over another range, up to what the mechanism can do. `optional = true` lets the search also
decide whether the policy is on at all (the knob `<policy>.on`). A knob that can act nowhere under what the file
fixes is an error, and one that does not act under what a trial has drawn is not asked for: no profile carries a
number that does nothing.

Shares are shares of the trial's training: with `last_prune = 0.7` and 1,000 optimizer steps the last cut falls at
step 700.
"""

FOOT = """\
This page is written from the policies' own code by `python -m tests.pages`.
"""


def policies_page() -> str:
    """The text of the page."""
    return "\n".join([HEAD, *(_section(policy) for policy in POLICIES.values()), FOOT])


def _section(policy: type[Policy]) -> str:
    summary, explained = _read(inspect.getdoc(policy) or "")
    per_layer = [knob.name for knob in policy.knobs().values() if knob.per_layer]
    lines = [f"## `{policy.name}`", "", summary, ""]
    lines += ["| knob | searched | can be | default | acts where |", "|---|---|---|---|---|"]
    for knob in policy.knobs().values():
        acts = " and ".join(map(_condition, knob.when)) or "always"
        lines.append(f"| `{knob.name}` | {_searched(knob)} | {_possible(knob)} | `{_toml(knob.default)}` | {acts} |")
    lines += [""] + [f"- `{name}`: {text}" for name, text in explained.items()]
    if per_layer:
        names = " and ".join(f"`{name}`" for name in per_layer)
        lines += ["", f"{names} may differ by layer: see `[[spaces.layers]]` in [the study file](study-file.md)."]
    return "\n".join(lines) + "\n"


def _read(doc: str) -> tuple[str, dict[str, str]]:
    """The summary of a docstring, and what it says of each argument."""
    summary, _, rest = doc.partition("\n\nArgs:\n")
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", rest, flags=re.MULTILINE)
    tidy = {name: " ".join(text.split()).replace("``", "`") for name, text in found}
    return " ".join(summary.split()).replace("``", "`"), tidy


def _searched(knob: Knob) -> str:
    found = knob.distribution
    if isinstance(found, CategoricalDistribution):
        return " ".join(f"`{_toml(choice)}`" for choice in found.choices)
    assert isinstance(found, FloatDistribution | IntDistribution)
    return f"{found.low:g} to {found.high:g}" + (", log" if found.log else "")


def _possible(knob: Knob) -> str:
    if knob.limits is None:
        return "one of these"
    whole = "whole, " if isinstance(knob.distribution, IntDistribution) else ""
    return f"{whole}{knob.limits.low:g} to {knob.limits.high:g}"


def _condition(when: When) -> str:
    owner = when.knob.rpartition(".")[0]
    or_off = f", or `{owner}` is off" if owner and when.absent else ""
    return f"`{when.knob}` is {' or '.join(f'`{_toml(value)}`' for value in when.values)}{or_off}"


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def main(path: Path = PAGE) -> None:
    path.write_text(policies_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
