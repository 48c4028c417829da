"""One run of a study, from taking the lock to giving it back: recover, go on, finish."""

from __future__ import annotations

import contextlib
import functools
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from dashboards.frames import Frames
from objectives.task import Task
from search.artifact.network import read_network
from search.books import Books
from search.database import PATIENCE, censored, is_shared, without_password
from search.driver import Driver
from search.home import driver_lock, repair_journal, sweep, write_text
from search.joining import joined
from search.progress import Progress
from search.record import FrontMember, Record, member_files, study_files
from search.record.front import MODELS_KEPT
from search.register import Agreement, Register
from search.result import TrialResult
from search.runners.choice import runner_for
from search.runners.runner import Runner, RunTrial, Work
from search.scheduler import Scheduler
from search.scoring import measure_baseline
from search.searcher import Searcher
from search.share import Alone, Mirror, Share
from search.shared_searcher import SharedSearcher
from search.state import State, read_state, write_state
from search.surroundings import home_for_tasks, listening, logged, recording
from search.trial import run_trial
from search.working import record_of, same_task, work_for
from search.writer import Writer
from spaces.errors import PleachError

if TYPE_CHECKING:
    from search.study import Study

logger = logging.getLogger(__name__)


def launch(
    study: Study, progress: Progress, trial: RunTrial = run_trial, baseline: Mapping[str, float] | None = None
) -> None:
    """Run a study until its criteria are met or somebody stops it.

    Args:
        study: What to run.
        progress: Who watches.
        trial: The trial itself.
        baseline: Its measures, where they have just been taken.

    Raises:
        StudyError: If another process drives it, or it cannot go on as it was begun.
        StorageError: If a folder, a file or a database cannot be written.
        TaskError: If the task cannot be loaded or used.
    """
    folder = study.folder
    with driver_lock(folder), logged(folder), home_for_tasks(study.home):
        state = _prepared(study)
        run = _Run(study, state, progress, trial, baseline)
        try:
            run.go_on()
        except BaseException as error:
            run.break_off()
            reason = str(error) if isinstance(error, PleachError) else f"{type(error).__name__}: {error}"
            reason = "interrupted" if isinstance(error, KeyboardInterrupt) else reason
            with contextlib.suppress(PleachError):
                run.keep(phase="interrupted", reason=" ".join(reason.split()))
            raise
        finally:
            run.close()


def _prepared(study: Study) -> State:
    """Clear away what a killed driver left, and keep the file that is run."""
    folder, file = study.folder, study.file
    state = read_state(folder)
    if state.ray is not None:
        sweep(Path(state.ray))
    folder.stop.unlink(missing_ok=True)
    if not folder.file.exists():
        write_text(folder.file, file.text, private=file.text != censored(file.text))
    if file.storage.optuna is None:
        copy = repair_journal(study.home.journal)
        if copy is not None:
            logger.warning("the journal ended in a torn line: it was cut off, and the journal as it was is %s", copy)
    state = replace(
        state,
        identity=state.identity or uuid.uuid4().hex,
        phase="running",
        reason="",
        folder=str(file.folder),
        file=file.text,
        origin=study.origin or state.origin,
        mlflow_uri=without_password(study.mlflow_uri),
        ray=None,
    )
    write_state(folder, state)
    return state


@dataclass
class _Run:
    """The parts of one run and how they are put together."""

    study: Study
    state: State
    progress: Progress
    trial: RunTrial
    baseline: Mapping[str, float] | None
    register: Register | None = None
    agreed: Agreement | None = None
    share: Share = field(default_factory=Alone)
    searcher: Searcher | None = None

    def go_on(self) -> None:
        study, file, folder = self.study, self.study.file, self.study.folder
        work = self._work()
        task = work.load_task()
        self._name(task)
        self._join()
        recorder = record_of(study, self.state, self._turn)
        work = self._with_baseline(work, task)
        books = Books(file.directions, file.criteria, self.state.baseline)
        books.read(folder)
        searcher = self._searcher(books)
        writer = self._writer(recorder)
        tags = {"data.hash": self.state.task_hash[:16]}
        writer.open(self.state.baseline, tags, censored(file.text), books.results.values())
        driver = Driver(
            file,
            folder,
            searcher,
            books,
            self._scheduler(),
            writer,
            progress=self.progress,
            keep=lambda seconds: self.keep(seconds=seconds, interrupted=searcher.interrupted),
            share=self.share,
            spent=self.state.seconds,
        )
        self.progress.started(study.summary())
        try:
            if not driver.done:
                # Again once the runner is up, because Ray sets a handler of its own.
                heard = functools.partial(listening, driver, self.progress.noticed)
                with heard(), self._runner(task) as runner, heard():
                    runner.run(work, driver)
            searcher.let_go()
            self.keep(
                phase="stopped" if driver.stopped else "complete",
                reason=driver.reason(),
                seconds=driver.seconds,
                interrupted=searcher.interrupted,
            )
            with recording(self.progress.noticed):
                self._finish(books, searcher, task, writer)
        except BaseException:
            writer.abandon()
            raise

    def _join(self) -> None:
        """Where the study is in a shared database: be one of its drivers, and have here what is decided there."""
        url = self.study.file.storage.optuna
        if url is None or not is_shared(url):
            return
        self.register, self.agreed = joined(self.study, self.state, url)
        mirror = Mirror(self.register, self.study.folder)
        mirror.start()
        self.share = mirror
        self.keep(
            identity=self.agreed.identity,
            driver=self.register.driver,
            baseline={**self.state.baseline, **self.agreed.baseline},
        )

    def _turn(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if self.register is None else self.register.turn("record")

    def _writer(self, recorder: Record) -> Writer:
        """What others decided is theirs to record, unless everybody records in a home of their own."""
        shared = self.register is not None and self.study.file.storage.mlflow is not None
        return Writer(recorder, self.register.mine if self.register is not None and shared else None)

    def break_off(self) -> None:
        """Let the other drivers have what this one cannot end; where that fails, they find out by themselves."""
        if self.register is not None:
            self.register.patience.seconds = 0.0
            with contextlib.suppress(PleachError):
                self.register.leave()

    def close(self) -> None:
        """Give back connections."""
        if self.searcher is not None:
            self.searcher.close()
        if self.register is not None:
            self.register.close()

    def _finish(self, books: Books, searcher: Searcher, task: Task, writer: Writer) -> None:
        """Record what the study came to, and say so."""
        study = self.study
        searcher.recover(books.results)
        summary, frames, learnt = study.summary(), study.frames(), study.policy()
        importances = {name: report.importance for name, report in learnt.knobs.items()}
        writer.close(
            str(summary["state"]),
            study_files(frames, importances) | {"search_policy.json": learnt.to_json()},
            self._members(books, task, frames),
            leave=lambda: self.register is None or self.register.leave(),
            rest=lambda: self._all(books),
        )
        if self.register is not None:
            self.register.leave()
        self.progress.finished(summary)

    def _all(self, books: Books) -> list[TrialResult]:
        """Every trial that is decided by now, whoever did it."""
        for result in self.share.news():
            books.add(result)
        return list(books.results.values())

    def _members(self, books: Books, task: Task, frames: Frames) -> list[FrontMember]:
        """The front, the champion first, with the figures and networks of the first few."""
        best = books.best()
        members = sorted(books.front(), key=lambda member: (member is not best, member.number))
        inputs = task.example_inputs()
        return [
            FrontMember(
                member.number,
                champion=member is best,
                files=member_files(frames, member.number) if index <= MODELS_KEPT else {},
                network=self._network(member) if index <= MODELS_KEPT else None,
                inputs=inputs,
            )
            for index, member in enumerate(members)
        ]

    def _network(self, member: TrialResult) -> nn.Module | None:
        """A trial's finished network; None where it needs its own class, or was not kept."""
        try:
            return read_network(self.study.folder.checkpoints(member.request.key))
        except PleachError:
            return None

    def keep(self, **changes: object) -> None:
        """Write what changed in the study's state."""
        self.state = replace(self.state, **changes)  # type: ignore[arg-type]
        write_state(self.study.folder, self.state)

    def _work(self) -> Work:
        """What the trials share, but for the baseline."""
        self.keep(task_hash=same_task(self.study, self.state))
        return work_for(self.study, self.trial)

    def _name(self, task: Task) -> None:
        """Keep what the task is called: its experiment's name."""
        name = getattr(task, "name", None)
        if isinstance(name, str) and name:
            self.keep(task=name)

    def _with_baseline(self, work: Work, task: Task) -> Work:
        """Measured once, and kept; by one of several drivers."""
        if any(name not in self.state.baseline for name in work.measures):
            measured = dict(self.baseline or measure_baseline(task, work.measures, clocked=work.clocked))
            self.keep(baseline=measured if self.register is None else dict(self.register.agree(measured).baseline))
        return replace(work, baseline=self.state.baseline)

    def _searcher(self, books: Books) -> Searcher:
        file = self.study.file
        judged = dict(self.state.judged)
        if self.register is None or self.agreed is None:
            searcher = Searcher(
                file.name,
                file.space,
                file.directions,
                sampler=file.study.sampler,
                seed=file.study.seed,
                storage=file.storage.optuna or self.study.home.journal,
                identity=self.state.identity,
            )
        else:
            judged = dict(self.agreed.judged)
            searcher = SharedSearcher(
                file.name,
                file.space,
                file.directions,
                sampler=file.study.sampler,
                seed=file.study.seed,
                register=self.register,
                trials=file.study.trials,
                identity=self.state.identity,
            )
        self.searcher = searcher
        if (books.results or self.register is not None) and judged != file.constraints:
            searcher.judge_again(books.results)
        else:
            searcher.recover(books.results)
        if not books.results and self.state.origin is not None:
            searcher.enqueue(self.study.of_same_home(self.state.origin).policy().best)
        self.keep(judged=dict(file.constraints), interrupted=searcher.interrupted)
        if self.register is not None:
            self.register.agree({}, judged=file.constraints)
            self.register.patience.seconds = PATIENCE
        return searcher

    def _scheduler(self) -> Scheduler:
        file, budget = self.study.file, self.study.file.budget
        eta = 0 if budget.scheduler == "none" else budget.eta
        return Scheduler(file.directions, file.criteria, self.state.baseline, eta=eta, grace=budget.grace)

    def _runner(self, task: Task) -> Runner:
        return runner_for(
            self.study.file.resources,
            self.study.home,
            task,
            lambda ray: self.keep(ray=ray),
            target=self.study.file.task.target,
            tell=self._tell,
        )

    def _tell(self, line: str) -> None:
        logger.warning(line)
        self.progress.noticed(line)
