"""Before the first trial: what compression costs and saves at the ends of the space, and whether the study can succeed.

A constraint that no profile of the space can meet, or a budget in which a policy hardly acts, is refused here and not
found out after hours.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

import torch
from optuna.distributions import CategoricalDistribution

from objectives.checking import check_task
from objectives.criterion import Criterion
from objectives.loading import load_task
from objectives.task import Task, call
from search.decisions import Corner, Decisions, decisions, enough_steps, point_at
from search.finetune import in_fast_layout, steps_per_epoch, stream
from search.home import Home
from search.latency.wanted import clocked_for
from search.projection import PROJECTED, projected
from search.scoring import measure_baseline
from search.study_file import StudyFile
from search.surgery.network import prepared
from spaces.errors import StudyFileError
from spaces.policy import Value
from spaces.profile import CompressionProfile
from spaces.space import SearchSpace

CORNERS: tuple[Corner, ...] = ("mildest", "middle", "harshest")
#: The choice that decides whether anything gets smaller at all.
GRANULARITY = "pruning.granularity"
#: After training a global ranking may cut elsewhere: a projected cost that misses its bound by less is let pass.
SLACK = 0.05
#: What no outcome can exceed.
CEILINGS = {"plasticity": 1.0, "sparsity": 1.0}
#: Seconds that the look at the speed of training may take.
TIMED = 1.5


@dataclass(frozen=True)
class Limit:
    """One constraint, and what is known of it before any training.

    Args:
        text: As the study file has it.
        bound: What it comes to.
        baseline: The value before compression.
        reachable: The best value of any profile that was projected; None where only training can tell.
        verdict: ``met`` by the baseline, ``reachable``, ``close`` to out of reach, ``impossible``, or ``training``
            where only training can tell.
    """

    text: str
    bound: float
    baseline: float | None
    reachable: float | None
    verdict: Literal["met", "reachable", "close", "impossible", "training"]


@dataclass(frozen=True)
class Preflight:
    """What is known before the first trial.

    Args:
        study: The study's name.
        task: The task's name.
        baseline: The measures of the network before compression.
        corners: The objectives of `PROJECTED` at the mildest, middle and harshest profile, and at the harshest one in
            every other granularity.
        profiles: These profiles' knobs.
        decisions: Per policy that acts on steps.
        limits: The constraints.
        steps_per_epoch: Optimizer steps of one pass.
        steps: Of one trial.
        seconds_per_trial: A rough estimate for one thread, without evaluation.
        notes: What the user should know, one line each.
        refusals: Why the study cannot succeed as it is, one line each; empty where it can.
    """

    study: str
    task: str
    baseline: Mapping[str, float]
    corners: Mapping[str, Mapping[str, float]]
    profiles: Mapping[str, Mapping[str, Value]]
    decisions: Mapping[str, Decisions]
    limits: tuple[Limit, ...]
    steps_per_epoch: int
    steps: int
    seconds_per_trial: float
    notes: tuple[str, ...] = ()
    refusals: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form."""
        return asdict(self)

    def refuse(self) -> None:
        """Raise the first refusal.

        Raises:
            StudyFileError: If there is one.
        """
        if self.refusals:
            raise StudyFileError(self.refusals[0])


def check(file: StudyFile, home: Home | None = None) -> Preflight:
    """Load the task, check it, measure the baseline, and look at the study.

    Args:
        file: The study.
        home: Where tables of latencies are kept; None keeps nothing.

    Raises:
        PleachError: If the task or its network cannot be used at all.
    """
    reference = file.task_reference
    task = load_task(reference.target, reference.args, reference.source)
    check_task(task)
    return look(file, task, measure_baseline(task, file.measures, clocked=clocked_for(file, home)))


def look(file: StudyFile, task: Task, baseline: Mapping[str, float]) -> Preflight:
    """Everything that can be said before the first trial.

    Args:
        file: The study.
        task: Built and checked.
        baseline: The measures of its network, with ``weights``.

    Raises:
        PleachError: If the network cannot be compressed as a corner of the space asks.
    """
    per_epoch = steps_per_epoch(task)
    steps = max(1, round(file.trial_budget.epochs * per_epoch))
    acting = {name: decisions(file.space, name, steps) for name in file.space.policies}
    acting = {name: found for name, found in acting.items() if found.wanted}
    # What a system of buds costs depends on who answers which request, which training decides.
    profiles = {} if file.buds else _profiles(file.space)
    costs = {label: projected(task, profile, baseline, steps=steps) for label, profile in profiles.items()}
    limits = tuple(_limit(criterion, file, task, baseline, costs, steps) for criterion in file.criteria)
    return Preflight(
        study=file.name,
        task=str(getattr(task, "name", type(task).__name__)),
        baseline=baseline,
        corners=costs,
        profiles={label: profile.parameters() for label, profile in profiles.items()},
        decisions=acting,
        limits=limits,
        steps_per_epoch=per_epoch,
        steps=steps,
        seconds_per_trial=steps * _seconds_per_step(task),
        notes=tuple(_notes(file, task, limits)),
        refusals=(
            *(_refused_limit(limit) for limit in limits if limit.verdict == "impossible"),
            *(
                _refused_budget(file, name, found, steps, per_epoch)
                for name, found in acting.items()
                if not found.enough
            ),
        ),
    )


# -- why a study is refused --------------------------------------------------------------------------------------------


def _refused_budget(file: StudyFile, policy: str, found: Decisions, steps: int, per_epoch: int) -> str:
    times = f"{found.fewest} time{'' if found.fewest == 1 else 's'}"
    needed = enough_steps(file.space, policy, steps)
    remedy = f"raise budget.epochs to {_round_up(needed / per_epoch):g}" if needed else f"narrow spaces.{policy}"
    return (
        f"{policy} must act at least {found.wanted} times in a trial, but acts only {times} in its {steps} steps "
        f"at one end of the space: {remedy}, or fix its schedule"
    )


def _round_up(epochs: float) -> float:
    """To two significant digits, never down."""
    if epochs <= 0:
        return epochs
    unit = 10.0 ** (math.floor(math.log10(epochs)) - 1)
    return math.ceil(round(epochs / unit, 6)) * unit


def _refused_limit(limit: Limit) -> str:
    return (
        f"the constraint '{limit.text}' must be within reach, but the harshest profile of the space comes to "
        f"{limit.reachable:.4g} where {limit.bound:.4g} is asked for: relax it, or widen the space"
    )


# -- whether a constraint can be met ----------------------------------------------------------------------------------


def _limit(
    criterion: Criterion,
    file: StudyFile,
    task: Task,
    baseline: Mapping[str, float],
    costs: Mapping[str, Mapping[str, float]],
    steps: int,
) -> Limit:
    name, bound = criterion.name, criterion.bound(baseline)
    text, before = f"{name} {file.constraints[name]}", baseline.get(name)
    if criterion.holds(baseline, baseline):
        return Limit(text, bound, before, None, "met")
    if not criterion.at_most and bound > CEILINGS.get(name, math.inf):
        return Limit(text, bound, before, CEILINGS[name], "impossible")
    if name not in PROJECTED or file.buds:
        return Limit(text, bound, before, None, "training")
    best, missed = None, math.inf
    known = iter(costs.values())
    # The other choices (channels instead of weights, ...) are projected only while the bound is out of reach.
    others = (projected(task, profile, baseline, steps=steps) for profile in _other_choices(file.space))
    for scores in itertools.chain(known, others):
        violation = criterion.violation(scores, baseline)
        if violation < missed:
            best, missed = scores[name], violation
        if missed <= 0:
            return Limit(text, bound, before, best, "reachable")
    return Limit(text, bound, before, best, "close" if missed <= SLACK else "impossible")


def _profiles(space: SearchSpace) -> dict[str, CompressionProfile]:
    """What the table shows: the corners with the first choice of everything, and the harshest with what else can go."""
    profiles: dict[str, CompressionProfile] = {which: space.corner(which) for which in CORNERS}
    granularity = space.distributions().get(GRANULARITY)
    if isinstance(granularity, CategoricalDistribution):
        harshest = point_at(space, "harshest")
        for choice in cast(tuple[str, ...], granularity.choices)[1:]:
            profiles[f"harshest, {choice}"] = space.profile({**harshest, GRANULARITY: choice})
    return profiles


def _other_choices(space: SearchSpace) -> Iterator[CompressionProfile]:
    """The harshest profile with one choice at a time replaced by each of its alternatives."""
    harshest = point_at(space, "harshest")
    for name, distribution in space.distributions().items():
        if isinstance(distribution, CategoricalDistribution) and not name.endswith(".on"):
            for choice in cast(tuple[Value, ...], distribution.choices)[1:]:
                yield space.profile({**harshest, name: choice})


# -- what else to know ------------------------------------------------------------------------------------------------


def _notes(file: StudyFile, task: Task, limits: tuple[Limit, ...]) -> Iterator[str]:
    untraceable = prepared(task.network().eval(), task.example_inputs())[1]
    if untraceable:
        yield f"the network cannot be traced, so only single weights can go: {untraceable}"
    for limit in limits:
        if limit.verdict == "close":
            yield f"'{limit.text}' is at the very edge of the space ({limit.reachable:.4g} without training)"
        if limit.verdict == "training" and limit.baseline is not None and not file.buds:
            more = limit.bound > limit.baseline
            yield (
                f"'{limit.text}' asks for more than the baseline's {limit.baseline:.4g}: compression seldom gives it"
                if more
                else f"'{limit.text}' ({limit.bound:.4g}) is known only once the first trials have been measured"
            )
    if not file.constraints:
        yield "there are no constraints, so every complete trial counts as feasible"


def _seconds_per_step(task: Task) -> float:
    """Forward and backward on a few training batches; the first one, which warms up, does not count."""
    network = in_fast_layout(task.network().train())
    batches = stream(task, seed=0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times: list[float] = []
    began = time.perf_counter()
    try:
        while len(times) < 6 and time.perf_counter() - began < TIMED:
            inputs, targets = next(batches)
            network.zero_grad(set_to_none=True)
            start = time.perf_counter()
            task.loss(call(network, inputs), targets).backward()  # type: ignore[no-untyped-call]
            times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return statistics.median(times[1:] or times)
