"""Trials on Ray Tune: in workers that are kept from trial to trial, on this machine or on a cluster.

Tune starts, watches and retries; who comes next and who stops says the director. A class trainable, not a function:
each report waits for its answer, and changing trials costs half as much.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import math
import os
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import ray
import torch
import torch._dynamo  # the first optimizer imports it: better while a worker starts than on the first trial's clock
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from objectives.task import SharesArrays, Task
from search.home import storing, sweep
from search.result import Report, TrialRequest, TrialResult
from search.runners.runner import Director, Work
from spaces.errors import PleachError, StudyError

#: A trial whose worker dies is taken up again so often, from its last checkpoint.
RETRIES = 2
#: A study needs room for its task's arrays only; Ray would take a third of the memory.
LEAST_STORE = 128 * 1024**2


class TuneRunner:
    """Runs trials in parallel.

    Args:
        task: The task, already built: its arrays go to the workers through the object store, once.
        folder: Where Ray and Tune keep their files while they run.
        concurrent: Trials at a time.
        cpu: Processors per trial.
        gpu: Graphics processors per trial; a share where several trials use one.
        address: A cluster's address; None for one of our own on this machine.
    """

    def __init__(
        self, task: Task, folder: Path, *, concurrent: int, cpu: float, gpu: float = 0.0, address: str | None = None
    ) -> None:
        self._arrays = dict(task.arrays()) if isinstance(task, SharesArrays) else {}
        self._folder, self._concurrent, self._cpu, self._gpu = folder, concurrent, cpu, gpu
        self._address, self._ours = address, False

    def __enter__(self) -> TuneRunner:
        """Start Ray, or use the one that runs in this process.

        Raises:
            StudyError: If Ray does not start.
            StorageError: If its folder cannot be written.
        """
        self._ours = not ray.is_initialized()
        if self._ours:
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            # Tune leaves handles of actors in cycles; collected by another thread after the shutdown, one of them makes
            # Ray end the whole process.
            gc.collect()
            ray.shutdown()
            sweep(self._folder)

    def run(self, work: Work, director: Director) -> None:
        """Run trials until none is left or the director halts.

        Raises:
            StudyError: If Ray ends before.
        """
        desk = _Desk(director)
        try:
            self._fit(work, desk)
        except (ray.exceptions.RayError, tune.TuneError, ConnectionError) as error:
            if desk.error is not None:
                raise desk.error from None
            raise StudyError(f"Ray ended before the study ({_last_line(error)}): run it again to go on") from error

    def _start(self) -> None:
        size = LEAST_STORE + sum(array.nbytes for array in self._arrays.values())
        local: dict[str, Any] = {
            "address": "local",
            "num_cpus": math.ceil(self._concurrent * self._cpu),
            "include_dashboard": False,
            "object_store_memory": size,
            "_temp_dir": str(self._folder),
        }
        try:
            with storing(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
            ray.init(
                **(local if self._address is None else {"address": self._address}),
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            where = f"at {self._address}" if self._address else "on this machine"
            raise StudyError(f"Ray does not start {where} ({_first_line(error)}): check resources.address") from error

    def _fit(self, work: Work, desk: _Desk) -> None:
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(self._concurrent)  # workers start together, not in turn
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        trainable = tune.with_resources(
            tune.with_parameters(TrialActor, work=work, arrays=self._arrays),
            {"CPU": self._cpu, **({"GPU": self._gpu} if self._gpu else {})},
        )
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_Proposer(desk, self._concurrent),
                scheduler=_Judge(desk),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=_trial_name,
                trial_name_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=f"tune_{os.getpid()}",
                storage_path=str(self._folder),
                stop=_Halt(desk),
                callbacks=[_Starts(desk)],
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()


def _trial_name(trial: Trial) -> str:
    return str(trial.trial_id)


# -- in the worker --------------------------------------------------------------------------------------------------


class TrialActor(tune.Trainable):
    """One worker: the task is built once, then one trial after another runs on it."""

    def setup(  # type: ignore[override]  # `with_parameters` adds what is shared
        self, config: Mapping[str, str], *, work: Work, arrays: Mapping[str, np.ndarray]
    ) -> None:
        torch.set_num_threads(work.threads)
        _stay_within_share()
        self._work, self._task, self._broken = work, None, ""
        try:
            task = work.load_task()
            if arrays and isinstance(task, SharesArrays):
                task.use(arrays)
            self._task = task
        except PleachError as error:
            self._broken = str(error)
        self._begin(config)

    def _begin(self, config: Mapping[str, str]) -> None:
        self._request = TrialRequest.from_dict(json.loads(config["request"]))
        self._events: Iterator[Report | TrialResult] = (
            iter([TrialResult(self._request, "failed", reason=self._broken)])
            if self._task is None
            else self._work.events(self._request, self._task)
        )

    def reset_config(self, new_config: Mapping[str, str]) -> bool:
        self.cleanup()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """The trial's next event as text, which Tune carries without looking into it."""
        event = next(self._events, None)
        if isinstance(event, Report):
            return {"report": json.dumps(event.to_dict())}
        return {"result": json.dumps(event.to_dict() if event else None), "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """The trial keeps its own checkpoints under its key, which a retry takes up."""

    def load_checkpoint(self, checkpoint: object) -> None:
        """See `save_checkpoint`."""

    def cleanup(self) -> None:
        if isinstance(self._events, Generator):
            self._events.close()


def _stay_within_share() -> None:
    """A trial that has a part of a GPU may take that part of its memory, so that it fails alone where it needs more."""
    context: Any = ray.get_runtime_context()
    share = float(context.get_assigned_resources().get("GPU", 0.0))
    if 0 < share < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)


# -- in the driver --------------------------------------------------------------------------------------------------


class _Desk:
    """Between Tune, which knows trials by its own ids, and the director, who knows requests.

    What the director raises is kept here: Tune makes an error of its own of it, with a traceback for a message.
    """

    def __init__(self, director: Director) -> None:
        self.director = director
        self.error: Exception | None = None
        self.open: dict[str, TrialRequest] = {}
        self.trials: dict[str, Trial] = {}
        self.reasons: dict[str, str] = {}

    def close(self, trial_id: str) -> TrialRequest | None:
        self.reasons.pop(trial_id, None)
        self.trials.pop(trial_id, None)
        return self.open.pop(trial_id, None)

    @contextlib.contextmanager
    def minding(self) -> Iterator[Director]:
        try:
            yield self.director
        except Exception as error:
            self.error = self.error or error
            raise

    def kill(self, trial_id: str) -> None:
        """End a trial whose worker may hang in the middle of a step."""
        trial = self.trials.get(trial_id)
        if trial is None:
            return
        trial.max_failures = 0
        actor = trial.temporary_state.ray_actor
        if actor is not None:
            ray.kill(actor)


class _Proposer(Searcher):
    """Tune's searcher: asks the director."""

    def __init__(self, desk: _Desk, concurrent: int) -> None:
        super().__init__(metric="report", mode="max")
        self._desk, self._concurrent = desk, concurrent

    def suggest(self, trial_id: str) -> dict[str, str] | None:
        desk = self._desk
        if len(desk.open) >= self._concurrent:
            return None
        with desk.minding() as director:
            request = director.propose()
            if request is None:
                # Declared to give a dict, and documented to give this word.
                return cast(dict[str, str], Searcher.FINISHED) if director.done else None
        desk.open[trial_id] = request
        return {"request": json.dumps(request.to_dict())}

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        desk = self._desk
        reason = desk.reasons.get(trial_id, "its worker died")
        request = desk.close(trial_id)
        if request is None:
            return
        with desk.minding() as director:
            if error:
                director.lost(request, f"{reason}, and was not taken up again more than {RETRIES} times")
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


class _Judge(FIFOScheduler):
    """Tune's scheduler: hands reports to the director, and stops where it says so."""

    def __init__(self, desk: _Desk) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._desk = desk

    def on_trial_add(self, tune_controller: object, trial: Trial) -> None:
        self._desk.trials[trial.trial_id] = trial

    def on_trial_result(self, tune_controller: object, trial: Trial, result: Mapping[str, Any]) -> str:
        request = self._desk.open.get(trial.trial_id)
        if request is None:
            return str(TrialScheduler.STOP)
        with self._desk.minding() as director:
            goes_on = director.reported(request, Report.from_dict(json.loads(result["report"])))
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: object, trial: Trial) -> None:
        error = trial.get_error()
        self._desk.reasons[trial.trial_id] = f"its worker died ({_first_line(error)})" if error else "its worker died"

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Starts(tune.Callback):
    """Tells the director when a worker is up: its start is not the trial's time."""

    def __init__(self, desk: _Desk) -> None:
        self._desk = desk

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        request = self._desk.open.get(trial.trial_id)
        if request is not None:
            with self._desk.minding() as director:
                director.begun(request)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Halt(Stopper):
    """Asked several times a second: ends trials that are overdue, and everything where the director halts."""

    def __init__(self, desk: _Desk) -> None:
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
        if director.halted:
            for trial_id in list(desk.open):
                desk.open.pop(trial_id)
                desk.kill(trial_id)
            return True
        return False

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _last_line(error: BaseException) -> str:
    """Of a traceback, which Tune's own errors are, the line that says what it was."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
