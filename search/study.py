"""A study, as Python and the command line see it: run it, stop it, read it, at any time and from any process."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd

from dashboards.frames import Frames
from objectives.criterion import parse
from search.ablation import Watch, ablate
from search.books import Books
from search.confirm import confirmed
from search.database import without_password
from search.export_trial import chosen, export_trial
from search.home import Home, StudyFolder, driver, write_text
from search.launch import launch
from search.progress import Progress, Silent
from search.record import tabulate
from search.result import TrialResult
from search.runners.runner import RunTrial
from search.searcher import Searcher
from search.state import State, read_state
from search.study_file import StudyFile
from search.trial import run_trial
from spaces.errors import StudyError
from spaces.profile import CompressionProfile
from spaces.search_policy import SearchPolicy


@dataclass(frozen=True)
class Findings:
    """What a run comes back with.

    Args:
        best: The best trial, or None where none is complete.
        policy: What was learnt: where to search next time.
        summary: As :meth:`Study.summary` gives it.
    """

    best: TrialResult | None
    policy: SearchPolicy
    summary: Mapping[str, Any]

    @property
    def profile(self) -> CompressionProfile | None:
        """The best profile."""
        return self.best.request.profile if self.best else None


class Study:
    """One study in one home. Reading needs no lock, and what is read is what is decided at that moment.

    Args:
        file: What is searched.
        home: Where it is kept.
        origin: Another study of the same home whose best profiles are tried first.
    """

    def __init__(self, file: StudyFile, home: Home, origin: str | None = None) -> None:
        self.file, self.home, self.origin = file, home, origin

    @classmethod
    def create(
        cls,
        source: StudyFile | Mapping[str, Any] | str | Path,
        home: Home | str | Path | None = None,
        *,
        name: str | None = None,
        origin: str | None = None,
    ) -> Self:
        """A new study, or the one of that name with a file that is allowed to differ; nothing is written yet.

        Args:
            source: A study file, its path, or a mapping of its shape.
            home: Where it is kept; left out, ``$PLEACH_HOME`` or ``./.pleach``.
            name: Another name than the file's.
            origin: The study to learn from, in the same home.

        Raises:
            StudyFileError: If the file breaks a rule, or does not continue the study as it was begun.
            StudyError: If there is no study `origin`.
        """
        if isinstance(source, StudyFile):
            file = source
        else:
            file = StudyFile.of(source) if isinstance(source, Mapping) else StudyFile.load(source)
        file = file.renamed(name) if name is not None else file
        place = home if isinstance(home, Home) else Home.find(home)
        folder = place.study(file.name)
        if folder.file.exists():
            file.check_continues(_kept(folder, folder.file.read_text(encoding="utf-8")))
        if origin is not None:
            place.existing(origin)
        return cls(file, place, origin)

    @classmethod
    def load(cls, name: str, home: Home | str | Path | None = None) -> Self:
        """A study that has run, with the file of its latest run.

        Raises:
            StudyError: If there is none; the message names the nearest.
        """
        place = home if isinstance(home, Home) else Home.find(home)
        folder = place.existing(name)
        text = read_state(folder).file or folder.file.read_text(encoding="utf-8")
        return cls(_kept(folder, text), place)

    def of_same_home(self, name: str) -> Study:
        """Another study of this one's home.

        Raises:
            StudyError: If there is none.
        """
        return Study.load(name, self.home)

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def folder(self) -> StudyFolder:
        return self.home.study(self.name)

    @property
    def state(self) -> State:
        """Where it is; ``running`` only while a driver lives."""
        return read_state(self.folder)

    @property
    def task_name(self) -> str:
        """What the study's experiment is called in MLflow: the task's own name where it has one."""
        return self.state.task or self.file.task.target.rpartition(":")[2]

    @property
    def mlflow_uri(self) -> str:
        """Where the runs are recorded, with the password where it has one."""
        return self.file.storage.mlflow or self.home.mlflow_uri

    # -- doing ------------------------------------------------------------------------------------------------------

    def run(
        self,
        progress: Progress | None = None,
        *,
        trial: RunTrial = run_trial,
        baseline: Mapping[str, float] | None = None,
    ) -> Findings:
        """Run it, or go on, until its criteria are met or it is stopped.

        Args:
            progress: Who watches.
            trial: The trial itself, a function of a module.
            baseline: Its measures, where they have just been taken; left out, a new study takes them.

        Raises:
            StudyError: If another process drives it, or it cannot go on as it was begun.
            StorageError: If a folder, a file or a database cannot be written.
            TaskError: If the task cannot be loaded or used.
        """
        launch(self, progress or Silent(), trial, baseline)
        return Findings(self.best(), self.policy(), self.summary())

    def stop(self, *, now: bool = False) -> None:
        """Ask the process that runs it to stop: after the running trials or, with `now`, at once; nothing is lost.

        Raises:
            StudyError: If no process runs it.
        """
        if driver(self.folder) is None:
            raise StudyError(f"only a running study can be stopped, but {self.name!r} is not: there is nothing to do")
        write_text(self.folder.stop, "now" if now else "finish")

    def export(
        self, out: str | Path, *, trial: int | None = None, where: str | None = None, overwrite: bool = False
    ) -> Path:
        """Write the best trial, or the one that is named, as a folder that stands alone.

        Args:
            out: The folder to write.
            trial: A complete trial's number; left out, the best.
            where: A further condition on the best.
            overwrite: Replace an earlier export.

        Raises:
            StudyError: If there is no such trial, or its network is gone.
            CriterionError: If the condition does not parse.
            ExportError: If the network cannot be stored, or `out` is taken.
        """
        folder, _ = export_trial(self, out, trial=trial, where=where, overwrite=overwrite)
        return folder

    def ablate(
        self, *, trial: int | None = None, where: str | None = None, seeds: int = 3, watch: Watch = lambda *_: None
    ) -> dict[str, Any]:
        """What each policy of the best profile, or of a trial's, is worth; see :func:`search.ablation.ablate`.

        Args:
            trial: A complete trial's number; left out, the best.
            where: A further condition on the best.
            seeds: Runs per variant.
            watch: Who watches.

        Raises:
            StudyError: If there is no such trial, or another process runs the study.
            CriterionError: If the condition does not parse.
        """
        found = chosen(self.name, self.books(), trial, where)
        return ablate(self, found, seeds=seeds, watch=watch)

    # -- reading ----------------------------------------------------------------------------------------------------

    def books(self) -> Books:
        """Every decided trial, judged by the constraints of today."""
        books = Books(self.file.directions, self.file.criteria, self.state.baseline)
        books.read(self.folder)
        return books

    def best(self, where: str | None = None) -> TrialResult | None:
        """The feasible member of the front nearest to the ideal point; where nothing is feasible, what misses least.

        Args:
            where: A further condition, e.g. ``latency_ms <= 5``.

        Raises:
            CriterionError: If the condition does not parse.
        """
        return self.books().best(parse(where) if where else ())

    def front(self) -> list[TrialResult]:
        """The feasible complete trials that no other dominates."""
        return self.books().front()

    def trials(self) -> pd.DataFrame:
        """One row per decided trial; the columns are those of :class:`dashboards.frames.Frames`."""
        return self.frames().trials

    def frames(self, books: Books | None = None) -> Frames:
        """The study as tables, for figures and pages; `books`, where they have been read already."""
        books, state = books or self.books(), self.state
        known = [criterion for criterion in self.file.criteria if criterion.name in books.baseline]
        best = books.best()
        return tabulate(
            books.results.values(),
            study=self.name,
            directions=self.file.directions,
            front=[member.number for member in books.front()],
            baseline=self._baseline(),
            constraints=self.file.constraints,
            bounds={criterion.name: criterion.bound(books.baseline) for criterion in known},
            task=self.task_name,
            phase=state.phase,
            reason=state.reason,
            wanted=self.file.study.trials,
            seconds=state.seconds,
            best=best.number if best is not None else None,
        )

    def policy(self) -> SearchPolicy:
        """What the decided trials teach: where the best quarter lies, which knobs matter, the ten best profiles."""
        books, space = self.books(), self.file.space
        searcher = Searcher(self.name, space, self.file.directions, sampler="random", seed=0, storage=None)
        searcher.recover(books.results)
        places = books.places()
        evaluated = [
            (space.parameters(books.results[number].request.profile), place)
            for number, place in places.items()
            if books.results[number].cached is None
        ]
        return SearchPolicy.learn(space, evaluated, searcher.importances(places))

    def summary(self, where: str | None = None, books: Books | None = None) -> dict[str, Any]:
        """What scripts rely on: state, counts, baseline, best and front, JSON-able.

        Args:
            where: A further condition on the best trial.
            books: Where they have been read already.

        Raises:
            CriterionError: If the condition does not parse.
        """
        books, state = self.books() if books is None else books, self.state
        conditions = parse(where) if where else ()
        best = books.best(conditions)
        return {
            "study": self.name,
            "state": state.phase,
            "reason": state.reason,
            "trials": books.counts() | {"interrupted": state.interrupted, "wanted": self.file.study.trials},
            "baseline": self._baseline(),
            "best": best
            and {
                "trial": best.number,
                "feasible": books.holds(best, conditions),
                "scores": dict(best.scores),
                "profile": best.request.profile.to_dict(),
            },
            "front": [{"trial": member.number, "scores": dict(member.scores)} for member in books.front()],
            "hypervolume": books.hypervolume() if books.results else 0.0,
            "confirmed": confirmed(self.folder),
            "home": str(self.home.root),
            "mlflow_uri": without_password(self.mlflow_uri),
            "seconds": state.seconds,
        }

    def _baseline(self) -> dict[str, float]:
        """The objectives before compression; the number of connections is no objective."""
        return {name: value for name, value in self.state.baseline.items() if name != "weights"}


def _kept(folder: StudyFolder, text: str) -> StudyFile:
    state = read_state(folder)
    return StudyFile.of(tomllib.loads(text), Path(state.folder) if state.folder else None, name=str(folder.file))
