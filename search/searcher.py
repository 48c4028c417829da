"""Who proposes: the only home of Optuna's studies and samplers. Its storage knows every trial, decided or not.

A trial is one Optuna trial from its proposal to its end, also across interruptions: what was cut off is handed out
again under the same number and key, with the same profile, and no second trial stands for it.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Container, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from objectives.objective import Direction
from search.database import without_password
from search.grid import grid
from search.history import History
from search.optuna_storage import close_storage, open_storage, stored
from search.result import TrialResult
from search.samplers import sampler as sampler_by_name
from spaces.errors import StudyError
from spaces.profile import CompressionProfile
from spaces.space import SearchSpace

optuna.logging.set_verbosity(optuna.logging.ERROR)

#: With fewer complete trials nothing is said of importances.
FEWEST_FOR_IMPORTANCE = 10
#: A note on a trial: how often it was cut off and taken up again.
INTERRUPTED = "interrupted"
#: A note on the study: whose it is.
IDENTITY = "identity"
STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


@dataclass(frozen=True)
class Proposal:
    """What to try next.

    Args:
        number: The trial's number in the study, from 0.
        key: Names the trial's checkpoints; the same after an interruption.
        profile: What to do.
    """

    number: int
    key: str
    profile: CompressionProfile


class Searcher:
    """One study in Optuna's storage, opened or created.

    Args:
        name: The study's name in the storage.
        space: What may be tried.
        directions: Which way is better, per objective, in the order of the values told.
        sampler: One of :data:`search.samplers.SAMPLERS`.
        seed: Every proposal depends on it, on the trial's number and on what was told before, and on nothing else.
        storage: A file for Optuna's journal, a database's URL, or None for this process's memory.
        identity: Tells this study from another one of its name: from one whose folder was removed, of which the
            journal is cleared, and from another home's in a shared database, which is left alone.

    Raises:
        StorageError: If the storage cannot be used.
        StudyError: If the name is taken in a shared database.
        StudyFileError: If a grid over the space would be too large.
    """

    def __init__(
        self,
        name: str,
        space: SearchSpace,
        directions: Mapping[str, Direction],
        *,
        sampler: str,
        seed: int,
        storage: Path | str | None,
        identity: str = "",
    ) -> None:
        self._name, self._space, self._directions = name, space, dict(directions)
        self._sampler, self._seed, self._place, self._identity = sampler, seed, storage, identity
        self._running: dict[int, Trial] = {}
        self._cut_off: list[FrozenTrial] = []
        self._decided = 0
        self._history = History(self._directions)
        #: Whether a grid has been walked to its end.
        self.exhausted = False
        self._grid = grid(space, seed) if sampler == "grid" else None
        with self._stored():
            self._storage = open_storage(storage)
            self._study = self._opened()

    def propose(self) -> Proposal | None:
        """The next profile; what was cut off comes first. None where a grid has been walked to its end.

        Raises:
            StorageError: If the storage cannot be used.
        """
        with self._stored():
            trial = self._take_up() if self._cut_off else self._ask()
            if trial is None:
                return None
            profile = self._space.suggest(trial)
        self._running[trial.number] = trial
        return Proposal(trial.number, f"{trial.number:05d}-{profile.fingerprint()[:8]}", profile)

    def _take_up(self) -> Trial:
        cut_off = self._cut_off.pop(0)
        self._study.sampler = self._sampler_for(cut_off.number)
        trial = Trial(self._study, cut_off._trial_id)
        trial.set_user_attr(INTERRUPTED, cut_off.user_attrs.get(INTERRUPTED, 0) + 1)
        return trial

    def _ask(self) -> Trial | None:
        known = self._study.get_trials(deepcopy=False)
        number = next((t.number for t in known if t.state == TrialState.WAITING), len(known))
        if self._grid is not None and number == len(known):
            if number >= len(self._grid):
                self.exhausted = True
                return None
            self._study.enqueue_trial(self._grid[number])
        self._study.sampler = self._sampler_for(number)
        return self._study.ask()

    def enqueue(self, profiles: Iterable[CompressionProfile]) -> None:
        """Try these next: what another study found best, as far as it lies in this one's ranges.

        Raises:
            StorageError: If the storage cannot be used.
        """
        with self._stored():
            for profile in profiles:
                parameters = self._space.parameters(profile)
                if parameters:
                    self._study.enqueue_trial(parameters, skip_if_exists=True)

    def update(self, result: TrialResult) -> int | None:
        """Tell a decided trial. Telling it again changes nothing.

        Returns:
            How many trials are decided with it; None where it is another driver's, whose result counts.

        Raises:
            StorageError: If the storage cannot be used.
        """
        with self._stored():
            trial = self._running.pop(result.number, None)
            if trial is not None:
                self._tell(trial, result)
                self._decided += 1
        return self._decided

    def _tell(self, trial: Trial, result: TrialResult, told: Container[str] = ()) -> None:
        for name, violation in _violations(result).items():
            if name not in told:
                trial.set_constraint(name, violation)
        self._study.tell(trial, self._values(result), STATES[result.state], skip_if_finished=True)

    def _values(self, result: TrialResult) -> list[float] | None:
        return [result.scores[name] for name in self._directions] if result.state == "complete" else None

    # -- after a kill, and for other constraints --------------------------------------------------------------------

    def recover(self, results: Mapping[int, TrialResult]) -> None:
        """Bring the storage to what the result files say, and queue again what was cut off.

        Raises:
            StorageError: If the storage cannot be used.
        """
        with self._stored():
            self._bring(results)

    def _bring(self, results: Mapping[int, TrialResult]) -> None:
        self._decided = len(results)
        self._history = History(self._directions)
        for number in range(len(self._study.get_trials(deepcopy=False)), max(results, default=-1) + 1):
            self._study.add_trial(self._finished(results.get(number)))
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.number in results:
                self._tell(Trial(self._study, trial._trial_id), results[trial.number], trial.constraints)
        self._cut_off = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def let_go(self) -> None:
        """Everything that was proposed and not told is cut off: the run is over."""
        with self._stored():
            self._running.clear()
            self._cut_off = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def close(self) -> None:
        """Give back what the storage holds open; nothing can be asked any more."""
        close_storage(self._storage)

    def judge_again(self, results: Mapping[int, TrialResult]) -> None:
        """Tell every decided trial anew, as other constraints judge it: a trial that was told cannot be changed.

        Where this is cut short, `recover` brings back what is missing.

        Raises:
            StorageError: If the storage cannot be used.
        """
        with self._stored():
            before = self._study.get_trials()
            optuna.delete_study(study_name=self._name, storage=self._storage)
            self._study = self._opened()
            for trial in before:
                decided = results.get(trial.number)
                self._study.add_trial(self._finished(decided, trial.user_attrs) if decided else trial)
            self._bring(results)

    def _finished(self, result: TrialResult | None, notes: Mapping[str, Any] | None = None) -> FrozenTrial:
        """A decided trial as the storage holds it; a failed one where its number is all that is known."""
        if result is None:
            return create_trial(state=TrialState.FAIL)
        searched = self._space.distributions()
        params = self._space.parameters(result.request.profile)
        return create_trial(
            state=STATES[result.state],
            values=self._values(result),
            params=params,
            distributions={name: searched[name] for name in params},
            user_attrs=dict(notes or {}),
            system_attrs={f"constraints:{name}": violation for name, violation in _violations(result).items()},
        )

    @property
    def interrupted(self) -> int:
        """How often a trial was cut off, over all trials."""
        taken_up: int = sum(t.user_attrs.get(INTERRUPTED, 0) for t in self._study.get_trials(deepcopy=False))
        return taken_up + len(self._cut_off)

    # -- what was learnt --------------------------------------------------------------------------------------------

    def importances(self, places: Mapping[int, int]) -> dict[str, float]:
        """How much each searched knob decides whether a trial is among the best (PED-ANOVA, Watanabe et al. 2023).

        Args:
            places: Per complete trial its place among them, 0 for the best.

        Returns:
            Shares per searched name that sum to 1; all 0 where nothing can be told yet.
        """
        shares = dict.fromkeys(self._space.distributions(), 0.0)
        if len(places) >= FEWEST_FOR_IMPORTANCE and shares:
            from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances  # brings scikit-learn

            with warnings.catch_warnings():
                # It warns that low targets count as good, and so they are here; that a knob always had one value, or
                # that too few trials are at hand, leaves the shares at 0.
                warnings.filterwarnings("ignore", category=UserWarning, module="optuna")
                found = get_param_importances(
                    self._study,
                    evaluator=PedAnovaImportanceEvaluator(),
                    target=lambda trial: places.get(trial.number, math.nan),
                )
            shares |= {name: float(share) for name, share in found.items() if math.isfinite(share)}
        return shares

    # -- storage ----------------------------------------------------------------------------------------------------

    def _opened(self) -> optuna.Study:
        study = optuna.create_study(
            study_name=self._name,
            storage=self._storage,
            directions=list(self._directions.values()),
            sampler=RandomSampler(seed=self._seed),
            load_if_exists=True,
        )
        found = study.user_attrs.get(IDENTITY)
        if found is None:
            study.set_user_attr(IDENTITY, self._identity)
        elif found != self._identity:
            if not isinstance(self._place, Path):
                raise StudyError(
                    f"a study's name must be its own, but {without_password(str(self._place))} holds another study "
                    f"{self._name!r}: use another name with --name"
                )
            optuna.delete_study(study_name=self._name, storage=self._storage)
            return self._opened()
        return study

    def _sampler_for(self, number: int) -> BaseSampler:
        """A new sampler per proposal, so that a study that was cut short proposes what an uninterrupted one would."""
        seed = int.from_bytes(hashlib.sha256(f"{self._seed}/{number}".encode()).digest()[:4], "big")
        return sampler_by_name(self._sampler, seed, self._history)

    def _stored(self) -> AbstractContextManager[None]:
        return stored(self._place)


def _violations(result: TrialResult) -> dict[str, float]:
    """What Optuna is told of the constraints; a failed trial has none."""
    return dict(result.constraints) if result.state != "failed" else {}
