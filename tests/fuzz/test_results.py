"""Results and states of trials that were torn or edited: one line names the file, and without it the study goes on."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given

from objectives.criterion import parse_bound
from search import launch
from search.books import Books, result_text, write_result
from search.home import Home, StudyFolder
from search.result import Budget, Report, TrialRequest, TrialResult
from search.state import State, read_state
from search.study import Study
from spaces.errors import StorageError
from spaces.ledger import Event, Ledger
from spaces.profile import CompressionProfile
from spaces.pruning import PruningPolicy
from tests.fuzz.bent import as_json, bent, changed
from tests.fuzz.oracle import accepted
from tests.search.drive import Nothing, study_of
from tests.search.quick import quick_trial

DIRECTIONS = {"accuracy": "maximize", "macs": "minimize"}
SCORES = {"accuracy": 0.75, "macs": 1e6}


def result(number: int = 0) -> TrialResult:
    asked = TrialRequest(
        number, "abc", CompressionProfile.of(PruningPolicy(sparsity=0.5)), 0, Budget(epochs=1, iterations=2)
    )
    reports = tuple(Report(i, 2, SCORES, {"quality/accuracy": 0.5}) for i in (1, 2))
    ledger = Ledger((Event(1, "conv.weight", "pruning", "magnitude", 0, 10),), {"conv.weight": 100})
    layers = ({"layer": "conv.weight", "weights": 100, "active": 90, "created": 0, "pruned": 10},)
    return TrialResult(asked, "complete", SCORES, {"size/bytes": 1.0}, reports, ledger, layers, {"macs": -0.5}, 1.5)


def books() -> Books:
    return Books(DIRECTIONS, (parse_bound("macs", "<= 0.6 * baseline"),), {"accuracy": 0.8, "macs": 2e6})  # type: ignore[arg-type]


def judged(folder: StudyFolder) -> Any:
    """Everything that is asked of the books of a study."""
    found = books()
    found.read(folder)
    texts = [result_text(one) for one in found.results.values()]
    return texts, found.counts(), found.front(), found.best(), found.places(), found.figures()


def study(place: str, contents: bytes) -> StudyFolder:
    folder = StudyFolder(Path(place) / "study")
    folder.result(1).parent.mkdir(parents=True)
    write_result(folder.result(1), result(1))
    folder.result(0).write_bytes(contents)
    return folder


@given(changed([result().to_dict()]))
def test_a_changed_result_is_read_or_named(tree: Any) -> None:
    with tempfile.TemporaryDirectory() as place:
        accepted(lambda: judged(study(place, as_json(tree))), StorageError)


@given(bent([json.dumps(result().to_dict()).encode()]))
@example(b"")
@example(b"\x00" * 4096)
@example(b"[" * 100_000)
@example(b'{"request": ' + b"1" * 10_000 + b"}")
def test_a_torn_result_is_read_or_named(contents: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = study(place, contents)
        accepted(lambda: judged(folder), StorageError)
        folder.result(0).unlink()  # the remedy
        assert judged(folder)[1]["complete"] == 1


@given(changed([State(identity="i", judged={"macs": "<= 1"}, baseline={"macs": 1.0}).to_dict()]))
def test_a_changed_state_is_read_or_named(tree: Any) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = StudyFolder(Path(place))
        folder.state.write_bytes(as_json(tree))
        state = accepted(lambda: read_state(folder), StorageError)
        if state is not None:
            json.dumps(state.to_dict(), allow_nan=False)
            assert state.seconds >= 0


@given(bent([json.dumps(State(identity="i", baseline={"macs": 1.0}).to_dict()).encode()]))
def test_a_torn_state_is_read_or_named(contents: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = StudyFolder(Path(place))
        folder.state.write_bytes(contents)
        accepted(lambda: read_state(folder), StorageError)


@pytest.mark.parametrize("torn", ["result", "journal", "state"])
def test_a_study_with_a_torn_file_says_so_and_goes_on_once_it_is_moved_away(
    tmp_path: Path, torn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "record_of", lambda *_: Nothing())
    home = Home(tmp_path / "home")
    data = study_of(4)
    Study.create(data, home).run(trial=quick_trial)
    folder = home.existing("kept")
    broken = {"result": folder.result(2), "journal": home.journal, "state": folder.state}[torn]
    held = broken.read_bytes()
    broken.write_bytes(
        held[: len(held) // 2] + (b"" if torn != "journal" else b"\x00garbage\n" + held[len(held) // 2 :])
    )
    said = accepted(lambda: Study.create(data, home).run(trial=quick_trial), StorageError, 300)
    assert said is None or torn == "journal"
    if said is None:
        broken.unlink()
    again = Study.create(study_of(6), home)
    found = again.run(trial=quick_trial)
    assert sum(again.books().counts()[state] for state in ("complete", "pruned", "failed")) == 6
    assert found.best is not None
