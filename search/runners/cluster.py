"""Ray itself: started on this machine, or joined by its address with the code that workers there need."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from search.home import storing
from search.runners.environment import IN_JOB
from search.runners.parcel import stage
from spaces.errors import StudyError

#: A study needs room for its task's arrays only; Ray would take a third of the memory.
LEAST_STORE = 128 * 1024**2

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Share:
    """What each trial gets.

    Args:
        cpu: Processors.
        gpu: Graphics processors; a share where several trials use one.
        memory: Bytes that its worker may take; None for as much as there is.
    """

    cpu: float = 1.0
    gpu: float = 0.0
    memory: int | None = None

    def resources(self) -> dict[str, float]:
        """As Ray counts it."""
        asked = {"CPU": self.cpu, "GPU": self.gpu, "memory": float(self.memory or 0)}
        return {name: amount for name, amount in asked.items() if amount or name == "CPU"}


def start_here(folder: Path, share: Share, concurrent: int, arrays: int) -> None:
    """Start Ray on this machine, for this process alone.

    Args:
        folder: Where it keeps its files.
        share: Of each trial.
        concurrent: Trials at a time.
        arrays: Bytes of what the workers share.

    Raises:
        StudyError: If it does not start.
        StorageError: If the folder cannot be written.
    """
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    most = {} if share.memory is None else {"_memory": concurrent * share.memory}
    _init(
        "on this machine",
        address="local",
        num_cpus=math.ceil(concurrent * share.cpu),
        include_dashboard=False,
        object_store_memory=LEAST_STORE + arrays,
        _temp_dir=str(folder),
        **most,
    )


def join(address: str, folder: Path, target: str, share: Share, tell: Tell) -> None:
    """Join a cluster; the code that its workers need is sent along.

    Args:
        address: ``auto`` or ``host:port``.
        folder: Of this process, for the copy of the code on its way.
        target: The task's: its own module is sent too.
        share: Of each trial.
        tell: Called with a line that the user should see.

    Raises:
        StudyError: If the cluster cannot be joined.
        StorageError: If the folder cannot be written.
    """
    if address.startswith("ray://"):
        raise StudyError(
            f"a study is driven from a machine of the cluster, but {address} is a client's address: "
            'submit it with pleach run --submit http://HEAD:8265, or run it there with resources.address = "auto"'
        )
    code = folder / f"code_{os.getpid()}"
    try:
        with storing(folder):
            shutil.rmtree(code, ignore_errors=True)
            sent = {} if IN_JOB in os.environ else {"runtime_env": {"working_dir": str(stage(code, target))}}
        _init(f"at {address}", address=address, **sent)
    finally:
        shutil.rmtree(code, ignore_errors=True)  # the cluster has it
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    if not any(fits(share, node["Resources"]) for node in nodes if node["Alive"]):
        asked = ", ".join(f"{amount:g} {name}" for name, amount in share.resources().items())
        tell(f"no node of the cluster has what a trial asks for ({asked}): trials wait until one joins")


def fits(share: Share, node: Mapping[str, float]) -> bool:
    """Whether a trial fits on an idle node."""
    return all(node.get(name, 0.0) >= amount for name, amount in share.resources().items())


def _init(where: str, **options: Any) -> None:
    # What a dying node says fills a screen of standard output, where only results belong; the study's log has it short.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, ray.exceptions.RayError) as error:
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise StudyError(f"Ray does not start {where} ({line}): check resources.address") from error
