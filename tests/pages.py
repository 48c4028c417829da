"""The pages of the docs that are written from the code: ``python -m tests.pages`` writes them, a test compares them.

``python -m tests.pages policies`` writes one of them alone; `networks` takes a minute, for it runs the whole zoo.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from objectives.tasks import TASKS
from search.installation import ROOT
from spaces import POLICIES
from spaces.policy import Knob, Policy, When
from tests.search.zoo_page import networks_page

POLICIES_HEAD = """\
# Policies

A policy is one way to change a network. A study names the policies it searches under `[spaces]`; what it does not
name is off. `{}` (an empty table) searches every knob over the range below; a value fixes a knob, a list or `{ low,
high, log }` searches it over another range, up to what the mechanism can do. `optional = true` lets the search also
decide whether the policy is on at all (the knob `<policy>.on`). A knob that can act nowhere under what the file fixes
is an error, and one that does not act under what a trial has drawn is not asked for: no profile carries a number that
does nothing.

Shares are shares of the trial's training: with `last_prune = 0.7` and 1,000 optimizer steps the last cut falls at
step 700.
"""

TASKS_HEAD = """\
# Tasks that come along

Each is a short name for `[task] target`; `[task] args` are its arguments. None downloads anything. For a task of your
own see [tasks](task.md).
"""


def policies_page() -> str:
    """Every policy with its knobs."""
    return "\n".join([POLICIES_HEAD, *(_policy(policy) for policy in POLICIES.values()), _foot("policies")])


def tasks_page() -> str:
    """Every task that comes along with its arguments."""
    return "\n".join([TASKS_HEAD, *(_task(name, target) for name, target in TASKS.items()), _foot("tasks")])


#: Per page of the docs, what writes it.
PAGES: Mapping[str, Callable[[], str]] = {
    "policies.md": policies_page,
    "built-in-tasks.md": tasks_page,
    "networks.md": networks_page,
}


def _foot(what: str) -> str:
    return f"This page is written from the {what}' own code by `python -m tests.pages`.\n"


def _policy(policy: type[Policy]) -> str:
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


def _task(name: str, target: str) -> str:
    module, _, attribute = target.partition(":")
    made = getattr(importlib.import_module(module), attribute)
    summary, explained = _read(inspect.getdoc(made) or "")
    lines = [f"## `{name}`", "", summary, "", "| argument | default | |", "|---|---|---|"]
    for argument, parameter in inspect.signature(made).parameters.items():
        default = parameter.default
        shown = "required" if default is parameter.empty else "none" if default is None else f"`{_toml(default)}`"
        lines.append(f"| `{argument}` | {shown} | {explained[argument].replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def _read(doc: str) -> tuple[str, dict[str, str]]:
    """The summary of a docstring, and what it says of each argument."""
    summary, _, rest = doc.partition("\n\nArgs:\n")
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", rest.partition("\n\nRaises:")[0], flags=re.MULTILINE)
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


def main() -> None:
    for name, page in PAGES.items():
        if sys.argv[1:] and name.removesuffix(".md") not in sys.argv[1:]:
            continue
        (ROOT / "docs" / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
