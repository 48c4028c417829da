"""What TPE looks at of a long study: few trials, the best among them, and the same ones after a restart."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.history import BLOCK, KEPT, History
from search.result import Budget, TrialRequest, TrialResult
from search.samplers import ShortSighted
from search.searcher import Searcher
from search.study_file import StudyFile
from tests.search.drive import study_of


@dataclass
class State:
    finished: bool = True

    def is_finished(self) -> bool:
        return self.finished


@dataclass
class Trial:
    number: int
    values: list[float] | None
    constraints: dict[str, float] = field(default_factory=dict)
    state: State = field(default_factory=State)


def trials(count: int) -> list[Trial]:
    """Every tenth failed; the others get worse and worse."""
    return [Trial(n, None if n % 10 == 9 else [1.0 - n / 10_000, float(n)]) for n in range(count)]


def history() -> History:
    return History({"accuracy": "maximize", "macs": "minimize"})


def test_a_short_study_is_seen_whole_and_a_long_one_no_more_than_its_best_and_its_latest() -> None:
    for count in (0, 1, BLOCK, 2 * BLOCK - 1):
        assert history().seen(trials(count)) == set(range(count))
    for count in (2 * BLOCK, 700, 2000):
        seen = history().seen(trials(count))
        assert len(seen) < KEPT + 2 * BLOCK
        assert set(range(count - BLOCK, count)) <= seen
        assert 0 in seen  # the best of all is the first


def test_the_best_stay_whenever_they_came_and_what_is_infeasible_gives_way() -> None:
    known = trials(600)
    known[130].values, known[290].values = [2.0, 0.0], [9.0, -5.0]
    known[290].constraints = {"macs": 1.0}
    seen = history().seen(known)
    assert 130 in seen
    assert 290 not in seen


def test_a_trial_that_takes_long_keeps_its_block_open() -> None:
    known = trials(600)
    known[100].state.finished = False
    assert set(range(BLOCK, 600)) <= history().seen(known)
    known[100].state.finished = True
    assert len(history().seen(known)) < KEPT + 2 * BLOCK


def test_hundreds_of_workers_make_it_no_longer() -> None:
    known = trials(3000)
    for number in range(1000, 3000):
        known[number].state.finished = number % 2 == 0  # a thousand run, and keep every block from there on open
        known[number].values = known[number].values if known[number].state.finished else None
    known[1500].values = [2.0, 0.0]
    seen = history().seen(known)
    assert len(seen) < KEPT + 27 * KEPT // 10 + 3 * BLOCK
    assert {0, 1500, 2998} <= seen  # the best of all, the best of an open block, the latest


@given(st.lists(st.integers(0, 900), max_size=6), st.integers(0, 900))
def test_what_is_seen_follows_from_the_trials_alone(looks: list[int], last: int) -> None:
    known, watched = trials(900), history()
    for look in sorted(look for look in looks if look <= last):
        watched.seen(known[:look])
    assert watched.seen(known[:last]) == history().seen(known[:last])


def test_a_long_study_is_proposed_for_with_a_short_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = StudyFile.of(study_of(10))
    looked: list[int] = []
    plain = ShortSighted._view

    def view(self: ShortSighted, study: object) -> object:
        found = plain(self, study)  # type: ignore[arg-type]
        looked.append(len(found._get_trials(deepcopy=False)))
        return found

    monkeypatch.setattr(ShortSighted, "_view", view)
    searcher = Searcher("s", file.space, file.directions, sampler="tpe", seed=0, storage=None)
    random = Searcher("r", file.space, file.directions, sampler="random", seed=1, storage=None)
    results = {}
    for number in range(400):
        proposal = random.propose()
        assert proposal is not None
        request = TrialRequest(number, proposal.key, proposal.profile, 0, Budget())
        results[number] = TrialResult(request, "complete", {"accuracy": (number % 97) / 97, "macs": float(number % 89)})
    searcher.recover(results)
    assert searcher.propose() is not None
    assert looked
    assert max(looked) < KEPT + 2 * BLOCK
