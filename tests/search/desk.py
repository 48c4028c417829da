"""A director of runners with a list of requests, and the work that they are to do."""

from __future__ import annotations

from pathlib import Path

from search.result import Budget, Report, TaskReference, TrialRequest, TrialResult
from search.runners.runner import Runner, RunTrial, Work
from spaces.profile import CompressionProfile
from spaces.pruning import PruningPolicy
from tests.search.quick import quick_trial

BASELINE = {"accuracy": 1.0, "macs": 100.0, "plasticity": 0.0}


class Desk:
    """A director with a list of requests; stops trials at a given iteration, halts after a given number of reports."""

    def __init__(self, *requests: TrialRequest, stop_at: int = 0, halt_after: int = 0) -> None:
        self.waiting, self.stop_at, self.halt_after = list(requests), stop_at, halt_after
        self.live: dict[str, TrialRequest] = {}
        self.most = 0
        self.beginnings: list[str] = []
        self.reports: list[tuple[str, int]] = []
        self.results: dict[str, TrialResult] = {}
        self.losses: dict[str, str] = {}
        self.late: set[str] = set()
        self.at_report: list[object] = []

    def propose(self) -> TrialRequest | None:
        if not self.waiting:
            return None
        request = self.waiting.pop(0)
        self.live[request.key] = request
        self.most = max(self.most, len(self.live))
        return request

    @property
    def done(self) -> bool:
        return not self.waiting

    stopped = False

    @property
    def halted(self) -> bool:
        return 0 < self.halt_after <= len(self.reports)

    def begun(self, request: TrialRequest) -> None:
        self.beginnings.append(request.key)

    def reported(self, request: TrialRequest, report: Report) -> bool:
        self.reports.append((request.key, report.iteration))
        for action in self.at_report:
            assert callable(action)
            action(request, report)
        if report.iteration == self.stop_at:
            self.live.pop(request.key)
            return False
        return True

    def decided(self, result: TrialResult) -> None:
        self.live.pop(result.request.key)
        self.results[result.request.key] = result

    def lost(self, request: TrialRequest, reason: str) -> None:
        self.live.pop(request.key)
        self.losses[request.key] = reason

    def overdue(self) -> list[TrialRequest]:
        late = [self.live.pop(key) for key in sorted(self.late & set(self.live))]
        self.late -= {request.key for request in late}
        return late


def request(number: int, seed: int = 0, iterations: int = 4) -> TrialRequest:
    profile = CompressionProfile.of(PruningPolicy(sparsity=0.3 + number / 10))
    return TrialRequest(number, f"{number:05d}-k", profile, seed, Budget(1.0, iterations))


def work(tmp_path: Path, trial: RunTrial = quick_trial, target: str = "tests.search.quick:TinyTask") -> Work:
    return Work(TaskReference(target), ("accuracy", "macs"), BASELINE, tmp_path / "checkpoints", run_trial=trial)


def run(runner: Runner, work_: Work, desk: Desk) -> Desk:
    with runner:
        runner.run(work_, desk)
    return desk
