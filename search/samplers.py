"""Who proposes, by name; and TPE with a view of a long study that does not grow with it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Container, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from search.history import History


class ShortSighted(TPESampler):
    """TPE that looks at the best and the latest trials of a study: a proposal costs the same, however many there are.

    Args:
        seed: Of the draws.
        history: Of the study, kept from proposal to proposal.
    """

    def __init__(self, seed: int, history: History) -> None:
        super().__init__(seed=seed, multivariate=True, group=True, constant_liar=True)
        self._history = history

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return super().infer_relative_search_space(self._view(study), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return super().sample_relative(self._view(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return super().sample_independent(self._view(study), trial, param_name, param_distribution)

    def _view(self, study: optuna.Study) -> optuna.Study:
        """The study as if it had only the trials that are looked at."""
        if isinstance(study, _View):
            return study
        view = object.__new__(_View)
        view.__dict__ |= study.__dict__
        trials = study._get_trials(deepcopy=False)
        view.seen = [trials[number] for number in sorted(self._history.seen(trials))]
        return view


class _View(optuna.Study):
    """A study of which some trials are seen, as they were when it was made: the storage is asked once a proposal."""

    seen: list[FrozenTrial]

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = [trial for trial in self.seen if states is None or trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials


SAMPLERS: Mapping[str, Callable[[int, History], BaseSampler]] = {
    "tpe": ShortSighted,
    "nsga2": lambda seed, _: NSGAIISampler(seed=seed, population_size=20),
    "nsga3": lambda seed, _: NSGAIIISampler(seed=seed, population_size=20),
    "gp": lambda seed, _: GPSampler(seed=seed, warn_independent_sampling=False),
    "random": lambda seed, _: RandomSampler(seed=seed),
    "grid": lambda seed, _: RandomSampler(seed=seed),  # every point of a grid is enqueued, so nothing is sampled
}


def sampler(name: str, seed: int, history: History) -> BaseSampler:
    """A new sampler of `SAMPLERS`."""
    with warnings.catch_warnings():
        # TPE's `group` and NSGA-III: their interface may change, which a pinned version does not.
        warnings.simplefilter("ignore", ExperimentalWarning)
        return SAMPLERS[name](seed, history)
