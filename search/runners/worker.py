"""One worker: the task is built once, then one trial after another runs on it. It runs as an actor of Ray Tune.

A class trainable, not a function: each report waits for its answer, and changing trials costs half as much.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import torch._dynamo  # the first optimizer imports it: better while a worker starts than on the first trial's clock
from ray import tune

from objectives.task import SharesArrays
from search.result import Report, TrialRequest, TrialResult
from search.runners.depot import Carrier
from search.runners.memory import limit_memory, named
from search.runners.parcel import PackedNetwork, give
from search.runners.runner import Work
from spaces.errors import PleachError


@dataclass(frozen=True)
class Equipment:
    """What every worker of a study gets, through the object store: once per node.

    Args:
        work: What all trials share.
        arrays: The task's own, read-only.
        network: The base network, where workers may be unable to read or train it; None: the task gives it.
        depot: The actor that keeps the trials' folders; None: workers write into the home.
        memory: Bytes that a worker may take; None for as much as there is.
        allowed: The same as the study file says it.
    """

    work: Work
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    network: PackedNetwork | None = None
    depot: Any = None
    memory: int | None = None
    allowed: str = ""


class TrialActor(tune.Trainable):
    """Runs the trials that Tune gives it; says everything as text, which Tune carries without looking into it."""

    def setup(  # type: ignore[override]  # `with_parameters` adds what is shared
        self, config: Mapping[str, str], *, equipment: Equipment
    ) -> None:
        torch.set_num_threads(equipment.work.threads)
        _stay_within_share()
        self._equipment, self._work, self._task, self._broken = equipment, equipment.work, None, ""
        self._carrier: Carrier | None = None
        self._events: Iterator[Report | TrialResult] = iter(())
        if equipment.depot is not None:
            self._settle(Path(self.logdir).parent)
        try:
            task = self._work.load_task()
            if equipment.arrays and isinstance(task, SharesArrays):
                task.use(equipment.arrays)
            if equipment.network is not None:
                give(task, equipment.network)
            self._task = task
        except PleachError as error:
            self._broken = str(error)
        if equipment.memory is not None:
            limit_memory(equipment.memory)
        self._begin(config)

    def _settle(self, node: Path) -> None:
        """Write to this node's own disk, in a folder of the cluster's session: the home may not be here."""
        self._carrier = Carrier(self._equipment.depot, node)
        home = node / "home"
        home.mkdir(parents=True, exist_ok=True)
        clocked = self._work.clocked
        if clocked is not None:
            clocked = replace(clocked, folder=home / "cache" / "latency", onnx=home / "cache" / "baseline.onnx")
        self._work = replace(self._work, checkpoints=self._carrier.root, home=home, clocked=clocked)

    def _begin(self, config: Mapping[str, str]) -> None:
        self._request = TrialRequest.from_dict(json.loads(config["request"]))
        if self._task is None:
            self._events = iter([TrialResult(self._request, "failed", reason=self._broken)])
            return
        if self._carrier is not None:
            self._carrier.take_up(self._request.key)
        self._events = self._work.events(self._request, self._task)

    def reset_config(self, new_config: Mapping[str, str]) -> bool:
        self.cleanup()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """The trial's next event; what it left on disk is kept before anybody hears of it."""
        event = next(self._events, None)
        if self._carrier is not None and self._task is not None:
            try:
                self._carrier.send()
            except ray.exceptions.RayTaskError as error:
                reason = f"its checkpoint cannot be kept ({type(error.cause).__name__}: {error.cause})"
                event = TrialResult(self._request, "failed", reason=" ".join(reason.split()))
        if isinstance(event, Report):
            return {"report": json.dumps(event.to_dict())}
        if event is not None and event.state == "failed" and self._equipment.memory is not None:
            event = replace(event, reason=named(event.reason, self._equipment.allowed))
        return {"result": json.dumps(event.to_dict() if event else None), "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """The trial keeps its own checkpoints under its key, which a retry takes up."""

    def load_checkpoint(self, checkpoint: object) -> None:
        """See `save_checkpoint`."""

    def cleanup(self) -> None:
        if isinstance(self._events, Generator):
            self._events.close()
        if self._carrier is not None:
            self._carrier.clear()


def _stay_within_share() -> None:
    """A trial that has a part of a GPU may take that part of its memory, so that it fails alone where it needs more."""
    context: Any = ray.get_runtime_context()
    share = float(context.get_assigned_resources().get("GPU", 0.0))
    if 0 < share < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)
