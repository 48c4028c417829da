"""Searches of two objectives without trials: results follow from the profile, and a stranger reads the journal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from objectives.objective import Direction
from search.result import Budget, State, TrialRequest, TrialResult
from search.searcher import Proposal, Searcher
from spaces.pruning import PruningPolicy
from spaces.space import SearchSpace

SPACE = SearchSpace.from_settings({"pruning": {"exclude": "none"}, "reconnection": {"optional": True}})
TWO: dict[str, Direction] = {"accuracy": "maximize", "macs": "minimize"}
Open = Callable[..., Searcher]


def searcher_in(
    storage: Path | str | None, sampler: str = "tpe", space: SearchSpace = SPACE, seed: int = 0, name: str = "study"
) -> Searcher:
    """Opens a study of two objectives."""
    return Searcher(name, space, TWO, sampler=sampler, seed=seed, storage=storage)


def opening(tmp_path: Path) -> Open:
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
