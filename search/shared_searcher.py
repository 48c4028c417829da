"""Who proposes where several drivers work on one study: Optuna's database has the proposals, the register the claims.

Optuna gives the numbers, and a number is a driver's once the register has it. So no trial is handed out twice, and no
more are handed out than the study is to have.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial, TrialState

from objectives.objective import Direction
from search.books import result_text
from search.faults import fault
from search.register import Register
from search.result import TrialResult
from search.searcher import INTERRUPTED, Proposal, Searcher
from spaces.errors import StudyError
from spaces.profile import CompressionProfile
from spaces.space import SearchSpace

#: Seconds after which a driver that found nothing to do looks again.
PAUSE = 0.5
T = TypeVar("T")


class SharedSearcher(Searcher):
    """A study in PostgreSQL; see :class:`search.searcher.Searcher`. Every call waits for a server that is gone.

    Args:
        register: Of this study in the same database; joined.
        trials: How many trials the study is to have.
        identity: As all drivers have agreed.
        clock: Seconds that only rise.
    """

    def __init__(
        self,
        name: str,
        space: SearchSpace,
        directions: Mapping[str, Direction],
        *,
        sampler: str,
        seed: int,
        register: Register,
        trials: int,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._register, self._trials, self._clock = register, trials, clock
        self._held: set[int] = set()
        self._idle_until = -PAUSE
        self._interruptions = 0
        with register.turn("optuna"):  # its tables as well: one driver makes them
            super().__init__(
                name, space, directions, sampler=sampler, seed=seed, storage=register.url, identity=identity
            )

    def propose(self) -> Proposal | None:
        """The next profile; what any driver left behind comes first. None where there is none now; look again then."""
        if self._clock() < self._idle_until:
            return None
        number, again = self._register.take_up(self._held), True
        if number is None:
            number, again = self._register.claim(self._trials, self._fresh), False
        if number is None:
            self._idle_until = self._clock() + PAUSE
            return None
        self._held.add(number)
        return self._patiently(lambda: self._proposal(number, again=again))

    def _fresh(self, claimed: Collection[int]) -> int | None:
        """A trial of Optuna's that is nobody's yet: one that waits, one whose claim came to nothing, or a new one."""
        with self._stored():
            known = self._study.get_trials(deepcopy=False)
            free = [t for t in known if not t.state.is_finished() and t.number not in claimed]
            if free:
                return int(free[0].number)
            if self._grid is not None:
                if len(known) >= len(self._grid):
                    self.exhausted = True
                    return None
                self._study.enqueue_trial(self._grid[len(known)])
                return len(known)
            number = -1
            while number in {-1, *claimed}:  # more than one only where Optuna's tables are older than the register's
                number = self._storage.get_trial(self._storage.create_new_trial(self._study._study_id)).number
            return number

    def _proposal(self, number: int, *, again: bool) -> Proposal:
        with self._stored():
            # Also makes this trial known to Optuna's cache, and a trial that a restored backup lacks known to Optuna.
            while len(known := self._study.get_trials(deepcopy=False)) <= number:
                self._storage.create_new_trial(self._study._study_id)
            before = known[number]
            self._interruptions = sum(t.user_attrs.get(INTERRUPTED, 0) for t in known) + again
            if before.state == TrialState.WAITING:
                self._storage.set_trial_state_values(before._trial_id, TrialState.RUNNING)
            self._study.sampler = self._sampler_for(number)
            self._study._thread_local.cached_all_trials = None  # as `ask` does: what others told meanwhile counts
            trial = Trial(self._study, before._trial_id)
            if again and number not in self._running:
                trial.set_user_attr(INTERRUPTED, before.user_attrs.get(INTERRUPTED, 0) + 1)
            self._running[number] = trial
            profile = self._space.suggest(trial)
        return Proposal(number, f"{number:05d}-{profile.fingerprint()[:8]}", profile)

    def update(self, result: TrialResult) -> int | None:
        """Enter a decided trial, then tell it. Doing it again changes nothing."""
        number = result.number
        place = self._register.decide(str(number), result_text(result))
        self._held.discard(number)
        fault("after-share", number)
        trial = self._running.pop(number, None)
        if trial is not None and place is not None:
            self._patiently(lambda: self._told(trial, result))
        return place

    def _told(self, trial: Trial, result: TrialResult) -> None:
        # Another driver may have found the entry, and told it meanwhile.
        with self._stored(), contextlib.suppress(UpdateFinishedTrialError):
            self._tell(trial, result, self._storage.get_trial(trial._trial_id).constraints)

    def enqueue(self, profiles: Iterable[CompressionProfile]) -> None:
        """Try these next, where the study has no trial yet."""
        wanted = list(profiles)

        def once() -> None:
            with self._register.turn("optuna"), self._stored():
                if not self._study.get_trials(deepcopy=False):
                    super(SharedSearcher, self).enqueue(wanted)

        self._patiently(once)

    # -- at the start and at the end --------------------------------------------------------------------------------

    def recover(self, results: Mapping[int, TrialResult]) -> None:
        """Bring Optuna's side to what is entered in the register, as one who was killed in between left it."""

        def once() -> None:
            with self._register.turn("optuna"):
                super(SharedSearcher, self).recover(results)

        self._patiently(once)

    def _bring(self, results: Mapping[int, TrialResult]) -> None:
        """Leave to living drivers what they are about to tell; and what is cut off, the register knows."""
        mine = self._register.mine()
        known = len(self._study.get_trials(deepcopy=False))
        super()._bring({number: result for number, result in results.items() if number >= known or number in mine})
        self._cut_off = []

    def judge_again(self, results: Mapping[int, TrialResult]) -> None:
        """Tell every decided trial anew.

        Raises:
            StudyError: If other drivers work on the study, which judge by the constraints of before.
        """
        others = self._register.others()
        if others:
            raise StudyError(
                f"the constraints of {self._name!r} must stay as they are while others drive it ({', '.join(others)}): "
                "stop those first"
            )
        with self._register.turn("optuna"):
            super().judge_again(results)

    def let_go(self) -> None:
        """The run is over: what this driver holds is anybody's."""
        self._running.clear()
        self._held.clear()
        self._patiently(self._count)

    def _count(self) -> None:
        with self._stored():
            known = self._study.get_trials(deepcopy=False)
            self._interruptions = sum(t.user_attrs.get(INTERRUPTED, 0) for t in known)

    @property
    def interrupted(self) -> int:
        """How often a trial was cut off and taken up again, over all trials and drivers, as of the last proposal."""
        return self._interruptions

    def _patiently(self, work: Callable[[], T]) -> T:
        return self._register.patience(work)
