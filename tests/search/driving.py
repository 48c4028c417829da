"""A driver with everything around it but MLflow and the workers, for tests that look at what it decides."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.books import Books
from search.driver import Driver
from search.home import Home, StudyFolder
from search.progress import Silent
from search.record import FrontMember
from search.result import Report, TaskReference, TrialRequest, TrialResult
from search.runners.inline import InlineRunner
from search.runners.runner import RunTrial, Work
from search.scheduler import Scheduler
from search.searcher import Searcher
from search.study_file import StudyFile
from search.writer import Writer
from spaces.errors import StorageError
from tests.search.drive import study_of
from tests.search.quick import TinyTask, quick_trial

BASELINE = {"accuracy": 1.0, "macs": 100.0, "plasticity": 0.0}
Trial = Iterator[Report | TrialResult]
FIXED = {
    "pruning": {
        "criterion": "magnitude",
        "granularity": "channel",
        "allocation": "global",
        "schedule": "oneshot",
        "sparsity": 0.5,
        "exclude": "none",
        "align": 1,
        "merge": False,
    }
}


@dataclass
class Notes:
    """A recorder that remembers what it was told, and when."""

    folder: StudyFolder
    written: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    on_disk_first: bool = True
    broken: bool = False

    def start(self, baseline: Mapping[str, float], tags: Mapping[str, str], study_file_text: str) -> None: ...

    def write(self, result: TrialResult, tags: Mapping[str, str] | None = None) -> None:
        if self.broken:
            raise StorageError("the database is gone: bring it back")
        self.on_disk_first &= self.folder.result(result.number).exists()
        self.written.append(result.number)

    def progress(self, done: int, figures: Mapping[str, float], front: Iterable[int] | None = None) -> None:
        self.steps.append(done)

    def recorded(self) -> set[int]:
        return set(self.written)

    def reconcile(self, among: Collection[int] | None = None) -> set[int]:
        return set()

    def refresh(self) -> None: ...

    def finish(
        self, state: str, files: Mapping[str, str], front: Sequence[FrontMember] = (), *, last: bool = True
    ) -> None: ...


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A driver with everything around it, but for MLflow; made anew it goes on like a new process."""

    def __init__(self, home: Path, trials: int = 6, *, broken: bool = False, spent: float = 0.0, **tables: Any) -> None:
        data = study_of(trials, **{k: v for k, v in tables.items() if k != "spaces"})
        data |= {"spaces": tables["spaces"]} if "spaces" in tables else {}
        self.file = StudyFile.of(data)
        self.folder = Home(home).study(self.file.name)
        self.books = Books(self.file.directions, self.file.criteria, BASELINE)
        self.books.read(self.folder)
        self.searcher = Searcher(
            self.file.name,
            self.file.space,
            self.file.directions,
            sampler=self.file.study.sampler,
            seed=self.file.study.seed,
            storage=home / "optuna.journal",
        )
        self.searcher.recover(self.books.results)
        self.notes, self.clock = Notes(self.folder, broken=broken), Clock()
        self.writer = Writer(self.notes)
        budget = self.file.budget
        self.driver = Driver(
            self.file,
            self.folder,
            self.searcher,
            self.books,
            Scheduler(
                self.file.directions,
                self.file.criteria,
                BASELINE,
                eta=0 if budget.scheduler == "none" else budget.eta,
                grace=budget.grace,
            ),
            self.writer,
            progress=Silent(),
            keep=lambda seconds: None,
            spent=spent,
            clock=self.clock,
        )

    def run(self, trial: RunTrial = quick_trial) -> dict[str, int]:
        """Run it in this process; returns the counts."""
        checkpoints = self.folder.root / "checkpoints"
        work = Work(TaskReference("tiny"), self.file.measures, BASELINE, checkpoints, run_trial=trial)
        InlineRunner(TinyTask()).run(work, self.driver)
        self.writer.close("complete", {})
        return self.books.counts()


def finished(request: TrialRequest, accuracy: float = 0.9, macs: float = 50.0) -> TrialResult:
    return TrialResult(request, "complete", scores={"accuracy": accuracy, "macs": macs})
