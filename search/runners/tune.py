"""Trials on Ray Tune: in workers that are kept from trial to trial, on this machine or on a cluster.

Tune starts, watches and retries; who comes next and who stops says the director.
"""

from __future__ import annotations

import gc
import logging
import os
from pathlib import Path

import ray
from ray import tune
from ray.tune.experiment import Trial

from objectives.task import SharesArrays, Task
from search.home import sweep
from search.runners.cluster import Share, Tell, join, start_here
from search.runners.depot import open_depot
from search.runners.desk import RETRIES, Desk, Halt, Judge, Proposer, Starts, last_line
from search.runners.parcel import PackedNetwork
from search.runners.runner import Director, Work
from search.runners.worker import Equipment, TrialActor
from spaces.errors import StudyError


class TuneRunner:
    """Runs trials in parallel.

    Args:
        task: The task, already built: its arrays go to the workers through the object store, once.
        folder: Where Ray and Tune keep their files while they run.
        concurrent: Trials at a time.
        share: What each of them gets.
        allowed: The share's memory as the study file says it.
        address: A cluster's address; None for one of our own on this machine.
        target: Where the task comes from: its module is sent to a cluster.
        tell: Called with a line that the user should see.
    """

    def __init__(
        self,
        task: Task,
        folder: Path,
        *,
        concurrent: int,
        share: Share | None = None,
        allowed: str = "",
        address: str | None = None,
        target: str = "",
        tell: Tell = lambda line: None,
    ) -> None:
        self._task, self._folder, self._concurrent = task, folder, concurrent
        self._share, self._allowed, self._address, self._target = share or Share(), allowed, address, target
        self._tell, self._ours = tell, False
        self._arrays = dict(task.arrays()) if isinstance(task, SharesArrays) else {}

    def __enter__(self) -> TuneRunner:
        """Start Ray, or use the one that runs in this process.

        Raises:
            StudyError: If Ray does not start.
            StorageError: If its folder cannot be written.
        """
        self._ours = not ray.is_initialized()
        if self._ours and self._address is None:
            arrays = sum(array.nbytes for array in self._arrays.values())
            start_here(self._folder, self._share, self._concurrent, arrays)
        elif self._ours and self._address is not None:
            join(self._address, self._folder, self._target, self._share, self._tell)
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
        desk = Desk(director)
        try:
            self._fit(self._equipment(work), desk)
        except (ray.exceptions.RayError, tune.TuneError, ConnectionError) as error:
            if desk.error is not None:
                raise desk.error from None
            raise StudyError(f"Ray ended before the study ({last_line(error)}): run it again to go on") from error

    def _equipment(self, work: Work) -> Equipment:
        """What the workers get; those of a cluster share neither a disk with this process nor what it has trained."""
        memory, network, depot = self._share.memory, None, None
        if self._address is not None:
            depot = open_depot(work.checkpoints)
            try:
                network = PackedNetwork.of(self._task.network())
            except StudyError as error:
                self._tell(f"{error}: every worker builds it from the task")
        return Equipment(work, self._arrays, network, depot, memory, self._allowed)

    def _fit(self, equipment: Equipment, desk: Desk) -> None:
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(self._concurrent)  # workers start together, not in turn
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        trainable = tune.with_resources(tune.with_parameters(TrialActor, equipment=equipment), self._share.resources())
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=Proposer(desk, self._concurrent),
                scheduler=Judge(desk),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=_trial_name,
                trial_name_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=f"tune_{os.getpid()}",
                storage_path=str(self._folder),
                stop=Halt(desk),
                callbacks=[Starts(desk)],
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()


def _trial_name(trial: Trial) -> str:
    return str(trial.trial_id)
