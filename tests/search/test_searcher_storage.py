"""After a kill: a search goes on from whatever its storage holds, and storage that is of no use is one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from search.result import State, TrialResult
from search.searcher import Searcher
from spaces.errors import StorageError, StudyError
from tests.search.searchers import SPACE, TWO, Open, opening, result_of, searcher_in, step, stored

opened = pytest.fixture(opening)


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
        "import sys; from pathlib import Path; from tests.search.searchers import searcher_in, step\n"
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
