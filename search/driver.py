"""The one process of a study that decides and writes: whom to start, whom to stop, what is over, in which order.

A decided trial is written three times, each time so that a kill before the next is made good at the next start: its
file in ``results``, then Optuna, then MLflow.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from search.books import Books, write_result
from search.checkpoint import clear
from search.confirm import Confirmation
from search.faults import fault
from search.home import StudyFolder
from search.progress import Progress
from search.result import Report, State, TrialRequest, TrialResult
from search.scheduler import Scheduler
from search.searcher import Searcher
from search.share import Alone, Share
from search.study_file import StudyFile
from search.surroundings import LOG
from search.writer import Writer

logger = logging.getLogger(LOG)


@dataclass
class _Live:
    """A trial at work."""

    request: TrialRequest
    began: float
    reports: list[Report] = field(default_factory=list)


class Driver:
    """Answers a runner's questions; see :class:`search.runners.runner.Director`.

    Args:
        file: The study.
        folder: Where it is kept.
        searcher: Who proposes; recovered.
        books: What is decided so far.
        scheduler: Who stops early.
        writer: Who records.
        progress: Who watches.
        keep: Called with the seconds spent whenever a trial is decided.
        share: What is heard of other drivers of the study, and told them.
        spent: Seconds that earlier runs took.
        clock: Seconds that only rise.
    """

    def __init__(
        self,
        file: StudyFile,
        folder: StudyFolder,
        searcher: Searcher,
        books: Books,
        scheduler: Scheduler,
        writer: Writer,
        *,
        progress: Progress,
        keep: Callable[[float], None],
        share: Share | None = None,
        spent: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file, self._folder, self._searcher, self._books = file, folder, searcher, books
        self._scheduler, self._writer, self._progress, self._keep = scheduler, writer, progress, keep
        self._share: Share = share or Alone()
        self._spent, self._clock, self._began = spent, clock, clock()
        self._criteria = file.search_criteria
        self._live: dict[str, _Live] = {}
        self._twins: list[TrialRequest] = []
        self._confirmation = Confirmation(file, folder, books, self._share.take)
        self._exhausted = False
        self._asked_to_stop = ""
        self.halted = False
        self._target_met = any(map(self._meets_target, books.complete()))
        for result in books.results.values():
            scheduler.note(result.number, result.reports)

    # -- when it ends -----------------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Wall time of all runs so far."""
        return self._spent + self._clock() - self._began

    @property
    def stopped(self) -> bool:
        """Whether somebody asked for the end before the study's own criteria."""
        return bool(self._asked_to_stop)

    def stop(self, reason: str, *, now: bool = False) -> None:
        """Start no more trials; with `now` drop those that run, to be taken up again in the next run."""
        self._asked_to_stop = self._asked_to_stop or reason
        self.halted = self.halted or now

    def reason(self) -> str:
        """Why no more trials are proposed, one line; "" where more are."""
        if self.stopped:
            return self._asked_to_stop
        if self._exhausted:
            return "every point of the grid is tried"
        return self._criteria.met(len(self._books), self.seconds, self._target_met)

    def _meets_target(self, result: TrialResult) -> bool:
        target = self._criteria.target
        return bool(target) and self._books.holds(result, target)

    def _look_for_stop_file(self) -> None:
        """Another process may ask for the end; see :meth:`search.study.Study.stop`."""
        try:
            asked = self._folder.stop.read_text(encoding="utf-8")
        except OSError:
            return
        self._folder.stop.unlink(missing_ok=True)
        self.stop("asked to stop", now=asked == "now")

    # -- the runner's questions -------------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether there will never be another trial in this run."""
        if self.stopped:
            return True
        if self._room() or self._twins:
            return False
        if self._under_way():
            return not self._confirms()
        return not self._confirms() or self._confirmation.over

    def _room(self) -> bool:
        """Whether another trial may be proposed."""
        return self.reason() == "" and len(self._books) + self._under_way() < self._criteria.trials

    def _under_way(self) -> int:
        """How many trials of the study run or wait for their twin; its confirmation is not counted."""
        return len(self._twins) + sum(not self._confirmation.owns(live.request) for live in self._live.values())

    def _confirms(self) -> bool:
        return self._confirmation.wanted and not self._criteria.late(self.seconds)

    def propose(self) -> TrialRequest | None:
        """The next trial to start; None where there is none, or none now.

        A profile that was evaluated before is answered from the books; one that runs at this moment waits for it.
        """
        self._look_for_stop_file()
        self._hear()
        while not self.stopped and (request := self._next()) is not None:
            confirms = self._confirmation.owns(request)
            earlier = None if confirms else self._books.same(request.profile)
            if earlier is not None:
                self._conclude(replace(earlier, request=request, seconds=0.0, cached=earlier.number))
            elif not confirms and self._runs(request):
                self._twins.append(request)
                return None
            else:
                self._live[request.key] = _Live(request, self._clock())
                self._progress.launched(request)
                return request
        return None

    def _next(self) -> TrialRequest | None:
        """A twin whose double has come to its end, else a new proposal, else a finalist to confirm."""
        for twin in self._twins:
            if not self._runs(twin):
                self._twins.remove(twin)
                return twin
        # A second twin would be proposed without anything having been learnt since the first.
        if self._room() and not self._twins:
            proposal = self._searcher.propose()
            if proposal is not None:
                study, budget = self._file.study, self._file.trial_budget
                return TrialRequest(proposal.number, proposal.key, proposal.profile, study.seed, budget)
            self._exhausted = self._searcher.exhausted
        if not self._room() and not self._under_way() and self._confirms():
            return self._confirmation.next()
        return None

    def _hear(self) -> None:
        """Enter what other drivers of the study have decided."""
        for result in self._share.news():
            for key, live in list(self._live.items()):
                if live.request.number == result.number and not self._confirmation.owns(live.request):
                    del self._live[key]  # it was thought to be cut off, and another driver was quicker
            result = self._books.add(result)
            self._scheduler.note(result.number, result.reports)
            self._target_met = self._target_met or self._meets_target(result)
            self._writer.heard(result)
            self._progress.decided(result, self._books)

    def _runs(self, request: TrialRequest) -> bool:
        """Whether the same profile is at work now."""
        return any(live.request.profile == request.profile for live in self._live.values())

    def begun(self, request: TrialRequest) -> None:
        """Count a trial's time from now on: until now it waited for its worker."""
        live = self._live.get(request.key)
        if live is not None:
            live.began = self._clock()

    def reported(self, request: TrialRequest, report: Report) -> bool:
        """Take a report; False where the trial is over. A repeated one, after a retry, is passed over."""
        self._look_for_stop_file()
        live = self._live.get(request.key)
        if live is None:
            return False
        if live.reports and report.iteration <= live.reports[-1].iteration:
            return True
        live.reports.append(report)
        self._progress.reported(request, report)
        if self._confirmation.owns(request) or not self._scheduler.stops(request.number, report):
            return True
        self.decided(self._ended(live, "pruned", f"stopped after iteration {report.iteration} of {report.of}"))
        return False

    def decided(self, result: TrialResult) -> None:
        """Take the result of a trial that is over, unless it is decided already."""
        if self._live.pop(result.request.key, None) is not None:
            self._conclude(result)

    def lost(self, request: TrialRequest, reason: str) -> None:
        """A trial whose worker died too often is a failed one."""
        live = self._live.get(request.key)
        if live is not None:
            self.decided(self._ended(live, "failed", reason))

    def overdue(self) -> list[TrialRequest]:
        """Trials past their timeout; they count as failed from now on."""
        limit = self._file.timeout
        if limit is None:
            return []
        late = [live for live in self._live.values() if self._clock() - live.began > limit]
        for live in late:
            self.decided(self._ended(live, "failed", f"it ran longer than {self._file.budget.timeout}"))
        return [live.request for live in late]

    def _ended(self, live: _Live, state: State, reason: str) -> TrialResult:
        """The result of a trial that did not come to its own end, from what it reported."""
        last = live.reports[-1] if live.reports else None
        return TrialResult(
            live.request,
            state,
            scores=last.scores if last is not None and state == "pruned" else {},
            metrics=last.metrics if last is not None else {},
            reports=tuple(live.reports),
            seconds=self._clock() - live.began,
            reason=" ".join(reason.split()),
        )

    # -- the three writes -------------------------------------------------------------------------------------------

    def _conclude(self, result: TrialResult) -> None:
        if self._confirmation.owns(result.request):
            result = self._books.judge(result)
            self._confirmation.keep(result)
            self._share.give(result)
        else:
            result = self._books.add(result)
            if not self._write(result):
                self._withdraw(result)
                return
            logger.info("trial %d is %s %s", result.number, result.state, result.reason or dict(result.scores))
            self._target_met = self._target_met or self._meets_target(result)
            self._progress.decided(result, self._books)
        self._tidy(result)
        self._keep(self.seconds)

    def _write(self, result: TrialResult) -> bool:
        """Returns whether the result counts: it does not where the trial was taken for cut off, and taken up."""
        number = result.number
        fault("before-result", number)
        write_result(self._folder.result(number), result)
        fault("after-result", number)
        place = self._searcher.update(result)
        if place is None:
            return False
        fault("after-tell", number)
        self._writer.write(result)
        self._hear()
        decided = len(self._books)
        self._writer.progress(place, lambda: self._reached(decided))
        return True

    def _reached(self, decided: int) -> tuple[dict[str, float], list[int]]:
        """The study's figures and its front when so many trials were decided."""
        books = self._books.first(decided)
        return books.figures(), [member.number for member in books.front()]

    def _withdraw(self, result: TrialResult) -> None:
        """Another driver's result of this trial counts, and is heard, now or later."""
        self._books.withdraw(result)
        self._folder.result(result.number).unlink(missing_ok=True)
        self._tidy(replace(result, state="failed"))
        logger.info("trial %d was taken up by another driver: its result counts", result.number)

    def _tidy(self, result: TrialResult) -> None:
        """A decided trial needs no checkpoint any more; the network of a complete one stays."""
        folder = self._folder.checkpoints(result.request.key)
        if result.state == "complete":
            clear(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
