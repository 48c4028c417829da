"""Between Tune, which knows trials by its own ids, and the director, who knows requests."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from search.result import Report, TrialRequest, TrialResult
from search.runners.runner import Director

#: A trial whose worker dies is taken up again so often without having come further, from its last checkpoint.
RETRIES = 2
#: Seconds for which a worker that does not even come up is tried again.
PATIENCE = 60.0


class Desk:
    """Between Tune, which knows trials by its own ids, and the director, who knows requests.

    What the director raises is kept here: Tune makes an error of its own of it, with a traceback for a message.
    """

    def __init__(self, director: Director) -> None:
        self.director = director
        self.error: Exception | None = None
        self.open: dict[str, TrialRequest] = {}
        self.trials: dict[str, Trial] = {}
        self.reasons: dict[str, str] = {}
        self.at_work: set[str] = set()
        self.furthest: dict[str, int] = {}
        self.waiting: dict[str, float] = {}
        self.untried: set[str] = set()
        self.again: list[TrialRequest] = []
        self.tries: dict[str, int] = {}

    def close(self, trial_id: str) -> TrialRequest | None:
        self.reasons.pop(trial_id, None)
        self.trials.pop(trial_id, None)
        self.furthest.pop(trial_id, None)
        self.waiting.pop(trial_id, None)
        self.at_work.discard(trial_id)
        self.untried.discard(trial_id)
        return self.open.pop(trial_id, None)

    @contextlib.contextmanager
    def minding(self) -> Iterator[Director]:
        try:
            yield self.director
        except Exception as error:
            self.error = self.error or error
            raise

    def came_on(self, trial: Trial, iteration: int) -> None:
        """A trial that came further may lose its worker as often again: that its machine is taken is not its fault."""
        if iteration > self.furthest.get(trial.trial_id, 0):
            self.furthest[trial.trial_id] = iteration
            trial.max_failures = trial.num_failures + RETRIES

    def lost_worker(self, trial: Trial) -> None:
        """Note why; a worker that never came up, on a node that is about to be found dead, was no try."""
        name, now = trial.trial_id, time.monotonic()
        self.reasons[name] = _why(trial)
        if name not in self.at_work:
            self.untried.add(name)
            if now - self.waiting.setdefault(name, now) < PATIENCE:
                trial.max_failures = max(trial.max_failures, trial.num_failures + 1)
        self.at_work.discard(name)

    def begun(self, trial_id: str) -> None:
        """A worker is up."""
        self.at_work.add(trial_id)
        self.untried.discard(trial_id)
        self.waiting.pop(trial_id, None)

    def tries_again(self, request: TrialRequest) -> bool:
        """Take up a trial that Tune gives up though it never began: a worker died on the way from another trial."""
        self.tries[request.key] = self.tries.get(request.key, 0) + 1
        if self.tries[request.key] > RETRIES:
            return False
        self.again.append(request)
        return True

    def waits_in_vain(self) -> bool:
        """Whether nothing runs of what is open, because no node has room for it."""
        return not self.at_work & self.open.keys()

    def kill(self, trial_id: str) -> None:
        """End a trial whose worker may hang in the middle of a step."""
        trial = self.trials.get(trial_id)
        if trial is None:
            return
        trial.max_failures = 0
        actor = trial.temporary_state.ray_actor
        if actor is not None:
            ray.kill(actor)


class Proposer(Searcher):
    """Tune's searcher: asks the director."""

    def __init__(self, desk: Desk, concurrent: int) -> None:
        super().__init__(metric="report", mode="max")
        self._desk, self._concurrent = desk, concurrent

    def suggest(self, trial_id: str) -> dict[str, str] | None:
        desk = self._desk
        if len(desk.open) >= self._concurrent:
            return None
        with desk.minding() as director:
            request = desk.again.pop(0) if desk.again else director.propose()
            if request is None:
                # Declared to give a dict, and documented to give this word.
                return cast(dict[str, str], Searcher.FINISHED) if director.done else None
        desk.open[trial_id] = request
        return {"request": json.dumps(request.to_dict())}

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        desk = self._desk
        reason, untried = desk.reasons.get(trial_id, "its worker died"), trial_id in desk.untried
        request = desk.close(trial_id)
        if request is None or (error and untried and desk.tries_again(request)):
            return
        with desk.minding() as director:
            if error:
                director.lost(request, f"{reason}, and was not taken up again more than {RETRIES} times in a row")
            elif result is not None and "result" in result:
                told = json.loads(result["result"])
                if told is None:
                    director.lost(request, "the trial ended without a result")
                else:
                    director.decided(TrialResult.from_dict(told))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: Optuna's storage knows the trials."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Judge(FIFOScheduler):
    """Tune's scheduler: hands reports to the director, and stops where it says so."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._desk = desk

    def on_trial_add(self, tune_controller: object, trial: Trial) -> None:
        self._desk.trials[trial.trial_id] = trial

    def on_trial_result(self, tune_controller: object, trial: Trial, result: Mapping[str, Any]) -> str:
        request = self._desk.open.get(trial.trial_id)
        if request is None:
            return str(TrialScheduler.STOP)
        with self._desk.minding() as director:
            report = Report.from_dict(json.loads(result["report"]))
            self._desk.came_on(trial, report.iteration)
            goes_on = director.reported(request, report)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: object, trial: Trial) -> None:
        self._desk.lost_worker(trial)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Starts(tune.Callback):
    """Tells the director when a worker is up: its start is not the trial's time."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        request = self._desk.open.get(trial.trial_id)
        if request is not None:
            self._desk.begun(trial.trial_id)
            with self._desk.minding() as director:
                director.begun(request)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Halt(Stopper):
    """Asked several times a second: ends trials that are overdue, and everything where the director halts."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self._asked = desk, 0.0

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        desk = self._desk
        now = time.monotonic()
        if now - self._asked < 0.1:
            return False
        self._asked = now
        with desk.minding() as director:
            overdue = {request.key for request in director.overdue()}
        for trial_id, request in list(desk.open.items()):
            if request.key in overdue:
                desk.open.pop(trial_id)
                desk.kill(trial_id)
        if director.halted or (director.stopped and desk.waits_in_vain()):
            for trial_id in list(desk.open):
                desk.open.pop(trial_id)
                desk.kill(trial_id)
            return True
        return False

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _why(trial: Trial) -> str:
    """What Ray says of a worker's death, in short."""
    try:
        text = Path(trial.error_file or "").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "its worker died"
    lines = [line.strip() for line in text.rpartition("Failure #")[2].splitlines()[1:] if line.strip()]
    if not lines:
        return "its worker died"
    # An error from within a worker is a traceback, of which the last line says what it was; a death says so at once.
    return f"its worker died ({lines[-1] if 'ray::' in lines[0] else lines[0]})"


def last_line(error: BaseException) -> str:
    """Of a traceback, which Tune's own errors are, the line that says what it was."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
