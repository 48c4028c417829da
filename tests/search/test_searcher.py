"""Proposals: they depend on seed, number and what was told, survive every cut, and keep the books exact."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from objectives.objective import Direction
from search import grid as grids
from search.grid import GRID_STEPS, grid
from search.result import Budget, State, TrialRequest, TrialResult
from search.searcher import Proposal, Searcher
from spaces.errors import StorageError, StudyError, StudyFileError
from spaces.profile import CompressionProfile
from spaces.pruning import PruningPolicy
from spaces.reconnection import ReconnectionPolicy
from spaces.space import SearchSpace

SPACE = SearchSpace.from_settings({"pruning": {"exclude": "none"}, "reconnection": {"optional": True}})
TWO: dict[str, Direction] = {"accuracy": "maximize", "macs": "minimize"}
Open = Callable[..., Searcher]


def searcher_in(
    storage: Path | str | None, sampler: str = "tpe", space: SearchSpace = SPACE, seed: int = 0, name: str = "study"
) -> Searcher:
    """Opens a study of two objectives."""
    return Searcher(name, space, TWO, sampler=sampler, seed=seed, storage=storage)


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Opens the one study of a folder, again and again."""

    def open_(
        sampler: str = "tpe", *, space: SearchSpace = SPACE, seed: int = 0, storage: str | None = None
    ) -> Searcher:
        return Searcher(
            "study",
            space,
            {"accuracy": "maximize", "macs": "minimize"},
            sampler=sampler,
            seed=seed,
            storage=storage or tmp_path / "optuna.journal",
        )

    return open_


def result_of(proposal: Proposal, state: State = "complete", violation: float = -1.0) -> TrialResult:
    """A result that follows from the profile."""
    request = TrialRequest(proposal.number, proposal.key, proposal.profile, 0, Budget())
    pruning = proposal.profile.policies["pruning"]
    sparsity = pruning.sparsity if isinstance(pruning, PruningPolicy) else 0.0
    scores = {"accuracy": 1 - sparsity**2, "macs": 1 - sparsity}
    return TrialResult(
        request, state, scores=scores if state != "failed" else {}, constraints={"accuracy": violation}, reason="why"
    )


def step(searcher: Searcher, results: dict[int, TrialResult], state: State = "complete") -> Proposal:
    """Propose, decide and tell one trial."""
    proposal = searcher.propose()
    assert proposal is not None
    results[proposal.number] = result_of(proposal, state)
    searcher.update(results[proposal.number])
    return proposal


def stored(tmp_path: Path) -> list[optuna.trial.FrozenTrial]:
    """The trials as a stranger reads them from the journal."""
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "optuna.journal")))
    return optuna.load_study(study_name="study", storage=storage).get_trials()


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "nsga3", "gp", "random"])
def test_every_sampler_proposes_the_same_again_and_goes_on_where_it_was(
    sampler: str, opened: Open, tmp_path: Path
) -> None:
    count, cut = (12, 11) if sampler == "gp" else (25, 22)
    whole: dict[int, TrialResult] = {}
    other = searcher_in(None, sampler)
    expected = [step(other, whole, "pruned" if n % 5 == 4 else "complete") for n in range(count)]

    results: dict[int, TrialResult] = {}
    searcher = opened(sampler)
    found = [step(searcher, results, "pruned" if n % 5 == 4 else "complete") for n in range(cut)]
    searcher = opened(sampler)
    searcher.recover(results)
    found += [step(searcher, results, "pruned" if n % 5 == 4 else "complete") for n in range(cut, count)]
    assert found == expected
    assert [trial.number for trial in stored(tmp_path)] == list(range(count))


def test_another_seed_proposes_something_else(opened: Open) -> None:
    first = opened(seed=0).propose()
    second = opened(seed=1).propose()
    assert first is not None
    assert second is not None
    assert first.profile != second.profile


def test_each_state_is_told_as_what_it_is_with_its_constraints(opened: Open, tmp_path: Path) -> None:
    searcher, results = opened(), dict[int, TrialResult]()
    states: tuple[State, ...] = ("complete", "pruned", "failed")
    for state in states:
        step(searcher, results, state)
    trials = stored(tmp_path)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    assert trials[0].values == [results[0].scores["accuracy"], results[0].scores["macs"]]
    assert [trial.constraints for trial in trials] == [{"accuracy": -1.0}, {"accuracy": -1.0}, {}]
    searcher.update(results[0])
    assert len(stored(tmp_path)) == 3


# -- after a kill ---------------------------------------------------------------------------------------------------


def test_what_was_cut_off_comes_first_with_its_number_key_and_profile(opened: Open, tmp_path: Path) -> None:
    searcher, results = opened(), dict[int, TrialResult]()
    step(searcher, results)
    cut = [searcher.propose(), searcher.propose()]
    again = opened()
    again.recover(results)
    assert again.interrupted == 2
    assert [again.propose(), again.propose()] == cut
    assert again.interrupted == 2
    third = again.propose()
    assert third is not None
    assert third.number == 3
    # Cut off a second time, and one of them never taken up in between.
    opened().recover(results)
    last = opened()
    last.recover(results)
    assert [last.propose() for _ in range(3)] == [*cut, third]
    assert last.interrupted == 2 + 3
    assert len(stored(tmp_path)) == 4


def test_what_has_a_result_but_was_not_told_is_told(opened: Open, tmp_path: Path) -> None:
    searcher, results = opened(), dict[int, TrialResult]()
    proposals = [searcher.propose() for _ in range(3)]
    states: tuple[State, ...] = ("complete", "pruned", "failed")
    for proposal, state in zip(proposals, states, strict=True):
        assert proposal is not None
        results[proposal.number] = result_of(proposal, state)
    again = opened()
    again.recover(results)
    assert [trial.state for trial in stored(tmp_path)] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    assert stored(tmp_path)[0].constraints == {"accuracy": -1.0}
    assert again.interrupted == 0


def test_a_kill_between_constraint_and_tell_is_made_good(opened: Open, tmp_path: Path) -> None:
    searcher = opened()
    proposal = searcher.propose()
    assert proposal is not None
    searcher._running[0].set_constraint("accuracy", -1.0)
    again = opened()
    again.recover({0: result_of(proposal)})
    assert stored(tmp_path)[0].state == TrialState.COMPLETE
    assert stored(tmp_path)[0].constraints == {"accuracy": -1.0}


@settings(max_examples=20)
@given(cut=st.integers(0, 60), told=st.integers(0, 3))
def test_a_journal_cut_after_any_record_goes_on(tmp_path_factory: pytest.TempPathFactory, cut: int, told: int) -> None:
    folder = tmp_path_factory.mktemp("cut")

    results: dict[int, TrialResult] = {}
    searcher = searcher_in(folder / "optuna.journal")
    expected = [step(searcher, results) for _ in range(4)]
    lines = (folder / "optuna.journal").read_bytes().splitlines(keepends=True)
    (folder / "optuna.journal").write_bytes(b"".join(lines[: 1 + cut]))
    # A result is on the disk before anything of it is told.
    begun = [t.number for t in stored(folder) if t.state.is_finished() or t.constraints] if cut else []
    told = max([told, *(number + 1 for number in begun)])
    kept = {number: result for number, result in results.items() if number < told}
    again = searcher_in(folder / "optuna.journal")
    again.recover(kept)
    whole = {t.number for t in stored(folder) if t.params == SPACE.parameters(expected[t.number].profile)}
    for number in range(told, 4):
        proposal = again.propose()
        assert proposal is not None
        assert proposal.number == number
        # What was cut in the middle of being proposed never ran, and may become another profile.
        assert proposal == expected[number] or number not in whole
        again.update(result_of(proposal))
    assert [(t.number, t.state) for t in stored(folder)] == [(n, TrialState.COMPLETE) for n in range(4)]


def test_a_lost_journal_is_written_anew_from_the_results(opened: Open, tmp_path: Path) -> None:
    searcher, results = opened(), dict[int, TrialResult]()
    states: tuple[State, ...] = ("complete", "failed", "pruned", "complete")
    for state in states:
        step(searcher, results, state)
    before = stored(tmp_path)
    next_ = searcher.propose()
    (tmp_path / "optuna.journal").unlink()
    del results[1]  # of a number that nothing is known of, a failed trial keeps the place
    again = opened()
    again.recover(results)
    after = stored(tmp_path)
    assert [trial.state for trial in after] == [trial.state for trial in before]
    assert [trial.values for trial in after] == [trial.values for trial in before]
    assert [trial.params for trial in after if trial.number != 1] == [t.params for t in before if t.number != 1]
    proposal = again.propose()
    assert proposal is not None
    assert next_ is not None
    assert proposal.number == next_.number == 4


def test_other_constraints_judge_old_trials_and_lose_none(opened: Open, tmp_path: Path) -> None:
    searcher, results = opened(), dict[int, TrialResult]()
    for _ in range(3):
        step(searcher, results)
    running = searcher.propose()
    judged = {
        number: TrialResult(**{**vars(result), "constraints": {"macs": 0.5}}) for number, result in results.items()
    }
    again = opened()
    again.judge_again(judged)
    trials = stored(tmp_path)
    assert [trial.constraints for trial in trials] == [{"macs": 0.5}] * 3 + [{}]
    assert [trial.values for trial in trials[:3]] == [
        [r.scores["accuracy"], r.scores["macs"]] for r in results.values()
    ]
    assert again.propose() == running


def test_a_study_whose_folder_was_removed_starts_anew(tmp_path: Path) -> None:
    journal = tmp_path / "optuna.journal"
    step(Searcher("study", SPACE, TWO, sampler="tpe", seed=0, storage=journal, identity="old"), {})
    assert len(stored(tmp_path)) == 1
    proposal = Searcher("study", SPACE, TWO, sampler="tpe", seed=0, storage=journal, identity="new").propose()
    assert proposal is not None
    assert proposal.number == 0


def test_another_home_s_study_in_a_shared_database_is_left_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db"
    step(Searcher("study", SPACE, TWO, sampler="tpe", seed=0, storage=url, identity="one"), {})
    with pytest.raises(StudyError, match="holds another study 'study': use another name with --name"):
        Searcher("study", SPACE, TWO, sampler="tpe", seed=0, storage=url, identity="two")
    again = Searcher("study", SPACE, TWO, sampler="tpe", seed=0, storage=url, identity="one").propose()
    assert again is not None
    assert again.number == 1


def test_a_damaged_journal_is_one_line(tmp_path: Path, opened: Open) -> None:
    opened().propose()
    journal = tmp_path / "optuna.journal"
    journal.write_bytes(b"garbage\n" + journal.read_bytes())
    with pytest.raises(StorageError, match="is damaged"):
        opened()


def test_storage_that_cannot_be_used_is_one_line(tmp_path: Path, opened: Open) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="choose another --home"):
        searcher_in(tmp_path / "file" / "optuna.journal")
    with pytest.raises(StorageError) as error:
        opened(storage=f"sqlite:///{tmp_path}/none/optuna.db")
    assert "\n" not in str(error.value)


def test_a_database_does_what_the_journal_does(opened: Open, tmp_path: Path) -> None:
    url, results = f"sqlite:///{tmp_path}/optuna.db", dict[int, TrialResult]()
    searcher = opened(storage=url)
    first = step(searcher, results)
    cut = searcher.propose()
    again = opened(storage=url)
    again.recover(results)
    assert again.propose() == cut
    assert opened().propose() == first


def test_a_password_is_not_shown(opened: Open) -> None:
    with pytest.raises(StorageError) as error:
        opened(storage="postgresql+psycopg://user:secret@127.0.0.1:1/optuna")
    assert "secret" not in str(error.value)


def test_studies_in_several_processes_share_a_journal(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.search.test_searcher import searcher_in, step\n"
        "s, results = searcher_in(Path(sys.argv[1]), 'random', name=sys.argv[2]), {}\n"
        "for _ in range(30): step(s, results)\n"
    )
    journal = tmp_path / "optuna.journal"
    children = [subprocess.Popen([sys.executable, "-c", code, str(journal), name]) for name in ("one", "two")]
    assert [child.wait() for child in children] == [0, 0]
    for line in journal.read_text().splitlines():
        json.loads(line)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    for name in ("one", "two"):
        states = [trial.state for trial in optuna.load_study(study_name=name, storage=storage).trials]
        assert states == [TrialState.COMPLETE] * 30


# -- warm starts and grids ------------------------------------------------------------------------------------------


def test_profiles_of_another_study_are_tried_first(opened: Open) -> None:
    first = CompressionProfile.of(PruningPolicy(sparsity=0.77))
    second = CompressionProfile.of(PruningPolicy(sparsity=0.5, schedule="oneshot"), ReconnectionPolicy(zeta=0.25))
    searcher, results = opened(), dict[int, TrialResult]()
    searcher.enqueue([first, second])
    searcher.enqueue([first, second])
    assert [step(searcher, results).profile for _ in range(2)] == [first, second]
    assert [step(searcher, results).number for _ in range(2)] == [2, 3]


def test_a_profile_outside_of_the_ranges_guides_as_far_as_it_goes(opened: Open) -> None:
    searcher = opened()
    searcher.enqueue([CompressionProfile.of(PruningPolicy(sparsity=0.99, criterion="random"))])
    proposal = searcher.propose()
    assert proposal is not None
    pruning = proposal.profile.policies["pruning"]
    assert isinstance(pruning, PruningPolicy)
    assert pruning.criterion == "random"
    assert pruning.sparsity < 0.99 or pruning.granularity == "nm"


def test_a_grid_has_every_point_once(opened: Open) -> None:
    space = SearchSpace.from_settings(
        {
            "pruning": {
                "sparsity": {"low": 0.1, "high": 0.9},
                "criterion": ["magnitude", "random"],
                "granularity": ["weight", "nm"],
                "pattern": ["2:4", "1:4", "4:8"],
                "allocation": "global",
                "schedule": "oneshot",
                "exclude": "none",
            }
        }
    )
    # Per criterion: the sparsities of single weights, or the patterns of N:M, where no sparsity acts.
    count = 2 * (GRID_STEPS + 3)
    searcher, results = opened("grid", space=space), dict[int, TrialResult]()
    profiles = [step(searcher, results).profile.fingerprint() for _ in range(count)]
    assert len(set(profiles)) == count
    assert searcher.propose() is None
    again = opened("grid", space=space)
    again.recover(results)
    assert again.propose() is None


def test_a_grid_goes_on_where_it_was(opened: Open) -> None:
    space = SearchSpace.from_settings({"pruning": {"granularity": "nm", "schedule": "oneshot", "exclude": "none"}})
    searcher, results = opened("grid", space=space), dict[int, TrialResult]()
    count = len(grid(space, 0))
    found = [step(searcher, results).profile.fingerprint() for _ in range(count // 2)]
    again = opened("grid", space=space)
    again.recover(results)
    found += [step(again, results).profile.fingerprint() for _ in range(count - len(found))]
    assert len(set(found)) == count


def test_a_grid_spreads_over_a_range_as_the_range_is_measured() -> None:
    space = SearchSpace.from_settings(
        {
            "pruning": {
                "granularity": "weight", "criterion": "magnitude", "allocation": "global", "exclude": "none",
                "sparsity": 0.5, "schedule": "gradual", "last_prune": 0.5, "interval": {"low": 0.001, "high": 0.1},
            }
        }
    )  # fmt: skip
    values = sorted(point["pruning.interval"] for point in grid(space, 0))
    assert values == pytest.approx([0.001, 0.001 * 10**0.5, 0.01, 0.01 * 10**0.5, 0.1])


def test_a_grid_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grids, "GRID_LIMIT", 100)
    with pytest.raises(StudyFileError, match="a grid may have 100 points"):
        grid(SearchSpace.from_settings({"pruning": {}, "reconnection": {}}), 0)


def test_a_space_without_a_choice_has_one_point() -> None:
    space = SearchSpace.from_settings({"pruning": {"granularity": "nm", "pattern": "2:4", "criterion": "random",
                                                   "schedule": "oneshot", "exclude": "none"}})  # fmt: skip
    assert grid(space, 0) == [{}]


# -- what was learnt ------------------------------------------------------------------------------------------------


def test_the_knob_that_decides_is_the_important_one(opened: Open) -> None:
    space = SearchSpace.from_settings({"pruning": {"granularity": "weight", "schedule": "oneshot"}, "finetuning": {}})
    searcher, results = opened("random", space=space), dict[int, TrialResult]()
    for _ in range(60):
        step(searcher, results)
    order = sorted(results, key=lambda number: -results[number].scores["accuracy"])
    shares = searcher.importances({number: place for place, number in enumerate(order)})
    assert set(shares) == set(space.distributions())
    assert sum(shares.values()) == pytest.approx(1.0)
    assert max(shares, key=lambda name: shares[name]) == "pruning.sparsity"
    assert shares["pruning.sparsity"] > 0.5


def test_nothing_is_said_of_importances_too_early(opened: Open) -> None:
    searcher, results = opened(), dict[int, TrialResult]()
    for _ in range(3):
        step(searcher, results)
    assert set(searcher.importances({0: 0, 1: 1, 2: 2}).values()) == {0.0}


def test_a_proposal_costs_little(opened: Open) -> None:
    searcher, results = opened(), dict[int, TrialResult]()
    for _ in range(100):
        step(searcher, results)
    began = time.process_time()
    for _ in range(10):
        step(searcher, results)
    # Some 15 ms on an idle machine: bounded so that a quadratic search for duplicates would show.
    assert (time.process_time() - began) / 10 < 0.15
