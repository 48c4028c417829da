"""How a network grows buds: small networks of its own weights, each for a part of its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from spaces.policy import Harsher, Limits, Policy, When


@dataclass(frozen=True, kw_only=True)
class BuddingPolicy(Policy):
    """Grow a bud for each group of inputs that excites the network alike, and route every request to the bud it needs.

    A study that searches this policy searches no other but `finetuning`: it is run with `pleach bud run`.

    Args:
        clusters: How groups of inputs are found among the activations of the last stages: ``kmeans``, or ``hdbscan``,
            which finds their number by itself.
        subtasks: How many groups k-means makes, each with one bud.
        smallest: The smallest group that HDBSCAN may find, as a share of the inputs.
        stem: Share of the network's multiplications that all buds leave as they are and share, at most: the first
            layers, computed once per request, from which the sub-task is told.
        router: How the sub-task is told from the stem: ``logistic`` regression or the nearest ``centroid``.
        keep: Share of the channels that a bud keeps of each group of coupled channels, the best for its sub-task.
        slope: How much more of its channels the last group keeps than the first: the share grows evenly from
            ``keep * (1 - slope)`` to ``keep * (1 + slope)``, unless ``keep`` is 1. What is special to a sub-task is
            told late.
        rank: Of the plasticity layers, the low-rank adapters after each inherited block.
        plastic: Share of the budget in which only the plasticity layers train; then the weakest inherited connections
            go and everything trains.
        distillation: Weight of the loss against the parent's outputs on the bud's own inputs, beside the task's loss,
            which weighs 1. On others nothing else counts, with a weight of at least 1.
        matching: Weight of the squared distance between what flows at the ends of the bud's blocks and its parent's, in
            units of the parent's variance (Romero et al. 2015); in a short budget it teaches more than outputs do.
        diverse: Whether a bud is pushed away from the features of its parent.
        diversity: Weight of that push.
        alike: Likeness to the parent (CKA) from which on it is pushed.
        pruning: Share of the inherited connections that go, the weakest first.
        outside: Share of a bud's training samples that belong to other sub-tasks and are learnt from the parent.
        confidence: A request goes to one bud if its sub-task is at least so likely; else to as many as make up that
            likelihood together.
        blend: The most buds whose answers are blended; where they are too few the parent answers.
        assurance: Least probability of the likeliest class with which a bud's answer stands; below it the parent is
            asked as well, and answers. 0 asks never.
    """

    name: ClassVar[str] = "budding"

    clusters: Annotated[str, CategoricalDistribution(("kmeans", "hdbscan"))] = "kmeans"
    subtasks: Annotated[int, IntDistribution(2, 6), Limits(1, 64), When("clusters", ("kmeans",))] = 2
    smallest: Annotated[
        float, FloatDistribution(0.02, 0.2, log=True), Limits(0.001, 0.5), When("clusters", ("hdbscan",))
    ] = 0.05
    stem: Annotated[float, FloatDistribution(0.0, 0.4), Limits(0.0, 0.9)] = 0.15
    router: Annotated[str, CategoricalDistribution(("logistic", "centroid"))] = "logistic"
    keep: Annotated[float, FloatDistribution(0.2, 0.7), Limits(0.01, 1.0), Harsher.DOWN] = 0.5
    slope: Annotated[float, FloatDistribution(-0.2, 0.6), Limits(-1.0, 1.0)] = 0.0
    rank: Annotated[int, CategoricalDistribution((2, 4, 8, 16))] = 8
    plastic: Annotated[float, FloatDistribution(0.05, 0.5), Limits(0.0, 1.0)] = 0.15
    distillation: Annotated[float, FloatDistribution(0.0, 2.0), Limits(0.0, 100.0)] = 1.0
    matching: Annotated[float, FloatDistribution(0.0, 30.0), Limits(0.0, 1000.0)] = 10.0
    diverse: Annotated[bool, CategoricalDistribution((False, True))] = False
    diversity: Annotated[
        float, FloatDistribution(1e-3, 0.3, log=True), Limits(0.0, 100.0), When("diverse", (True,))
    ] = 0.01
    alike: Annotated[float, FloatDistribution(0.5, 0.95), Limits(0.0, 1.0), When("diverse", (True,))] = 0.8
    pruning: Annotated[float, FloatDistribution(0.0, 0.8), Limits(0.0, 0.99), Harsher.UP] = 0.3
    outside: Annotated[float, FloatDistribution(0.05, 0.3), Limits(0.0, 0.9)] = 0.15
    confidence: Annotated[float, FloatDistribution(0.5, 0.95), Limits(0.0, 1.0)] = 0.8
    blend: Annotated[int, IntDistribution(1, 3), Limits(1, 64)] = 2
    assurance: Annotated[float, FloatDistribution(0.0, 0.9), Limits(0.0, 1.0), Harsher.DOWN] = 0.5
