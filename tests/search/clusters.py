"""A Ray cluster of several nodes on this machine, and what its tests let run there."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from search.result import Report, TrialResult
from search.runners.environment import settle
from search.runners.runner import RunTrial
from tests.search.quick import TinyTask, quick_trial

STORE = 100 * 1024**2


def settle_anew(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Ray's settings for a module of tests that import it."""
    settle(tmp_path_factory.mktemp("ray"))


@contextmanager
def nodes_on_this_machine(**head: Any) -> Iterator[Any]:
    """A cluster whose head takes no trials; add nodes as needed. All it leaves is removed."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    (folder / "ray").mkdir()
    before = {name: os.environ.get(name) for name in ("RAY_TMPDIR", "PATH")}
    os.environ["RAY_TMPDIR"] = str(folder)  # else the cluster would be everybody's on this machine
    # A head is started in its environment; the tests may run in one that no shell has entered.
    os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), before["PATH"] or ""))
    settle(folder)
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "temp_dir": str(folder),
            "include_dashboard": False,
            # Jobs go through it, and its usual port is that of any other cluster of this machine.
            "dashboard_agent_listen_port": free_port(),
            "object_store_memory": STORE,
            # Else a dead node is only missed after half a minute.
            "_system_config": {
                "health_check_initial_delay_ms": 1000,
                "health_check_period_ms": 1000,
                "health_check_timeout_ms": 5000,
                "health_check_failure_threshold": 2,
            },
            **head,
        },
    )
    # As `ray start` notes it: else a job takes the first cluster that it finds on this machine for its own.
    for place in (folder, folder / "ray"):
        (place / "ray_current_cluster").write_text(cluster.address, encoding="ascii")
    try:
        yield cluster
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        shutil.rmtree(folder, ignore_errors=True)


class Counted(TinyTask):
    """Notes every training step; its network is another one in every process, as one that each had trained would be.

    Args:
        trace: A file that every step adds its process to.
    """

    def __init__(self, trace: str) -> None:
        super().__init__()
        self._trace = Path(trace)

    def network(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(os.getpid())
            network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        network.register_buffer("made_by", torch.tensor(os.getpid()))
        return network

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        with self._trace.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return super().loss(outputs, targets)


def slow(pause: float, trace: Path) -> RunTrial:
    """A quick trial that takes its time and notes every iteration that it computes, wherever it runs."""
    return partial(_slow, pause, str(trace))


def _slow(pause: float, trace: str, *args: Any, **kwargs: Any) -> Iterator[Report | TrialResult]:
    os.environ["PLEACH_PAUSE"], os.environ["PLEACH_TRACE"] = str(pause), trace
    yield from quick_trial(*args, **kwargs)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def until(path: Path, lines: int, seconds: float = 60.0) -> None:
    """Wait until a file has so many lines."""
    limit = time.monotonic() + seconds
    while not path.exists() or len(path.read_text().splitlines()) < lines:
        assert time.monotonic() < limit, f"{path} did not get {lines} lines"
        time.sleep(0.05)


def pleach(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "search.cli", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
