"""A system of buds on Ray Serve: replicas that answer alike, and buds spread over them where one cannot hold them all.

Serve starts the replicas, watches them, replaces the dead and picks who answers. Its own HTTP proxies stay off: they
listen on every interface and know no tokens. `search.buds.front` stands in their place, and asks another replica where
one died.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import ray
import ray.serve._private.replica as served_by
import torch
from ray import serve
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from torch import Tensor, nn

from search.buds.manager import BudManager
from search.buds.registry import Registry, Version
from search.buds.serve import Limits, application
from search.home import Home, storing, sweep
from search.service.asking import respond
from spaces.errors import StudyError

logger = logging.getLogger(__name__)

NAME = "pleach-buds"
#: What says that a replica is gone, not that the request is wrong: another one is asked.
GONE = (ray.exceptions.RayActorError, BackPressureError, DeploymentUnavailableError)
#: Seconds for which another replica is asked.
PATIENCE = 60.0
#: Answers that a replica works on at once: enough for a batch to find company.
AT_ONCE = 64


@dataclass(frozen=True)
class Spread:
    """How a system is spread.

    Args:
        replicas: How many answer.
        loaded: The most buds in the memory of one process; None: every replica holds all of them.
        cpu: Processors per replica.
        address: A cluster's address; None for one of our own on this machine.
    """

    replicas: int = 2
    loaded: int | None = None
    cpu: float = 1.0
    address: str | None = None


@dataclass(frozen=True)
class Reply:
    """What a replica says to a request.

    Args:
        status: As HTTP has it.
        kind: The body's media type.
        body: The body.
        replica: Who answered.
        label: What it serves.
        buds: Its buds, by sub-task.
        figures: What it has answered since it began.
    """

    status: int
    kind: str
    body: bytes
    replica: str
    label: str
    buds: Mapping[int, str]
    figures: Mapping[str, float]


class Replica:
    """One process that answers with a whole system, by the same application that answers without Ray."""

    def __init__(
        self, name: str, root: str, every: float, limits: Limits, threads: int, shelf: DeploymentHandle[Any] | None
    ) -> None:
        _keep_to_this_machine()
        torch.set_num_threads(threads)
        read = (lambda version: Elsewhere(shelf, version)) if shelf is not None else None
        self._manager = BudManager.load(name, Home(Path(root)), read=read)
        self._manager.watch(every)
        self._app = application(self._manager, limits)
        self._id = str(serve.get_replica_context().replica_id.unique_id)

    async def call(self, method: str, path: str, body: bytes) -> Reply:
        """Answer one request."""
        status, headers, said = await respond(self._app, method, path, body)
        now = self._manager.serving
        kind = headers.get("content-type", "application/json")
        return Reply(status, kind, said, self._id, now.label, dict(now.labels), self._manager.figures())


class Shelf:
    """One process that holds the buds asked for last; Serve sends a request to where its bud is loaded already."""

    def __init__(self, root: str, threads: int) -> None:
        _keep_to_this_machine()
        torch.set_num_threads(threads)
        self._registry = Registry.of(Home(Path(root)))
        self._versions: dict[str, Version] = {}

    async def answer(self, hidden: Tensor, version: Version) -> Tensor:
        """One bud's outputs for what the stem gave."""
        self._versions[identity(version)] = version
        bud = await self.bud(identity(version))
        return await asyncio.to_thread(_forward, bud, hidden)

    async def bud(self, key: str) -> nn.Module:
        """A bud's network; Serve keeps as many as `Spread` says, and forgets the one not asked for longest."""
        found = await asyncio.to_thread(self._registry.read_bud, self._versions[key])
        return cast(nn.Module, found[0]).eval()


class Elsewhere(nn.Module):
    """Stands for a bud that another process holds."""

    def __init__(self, shelf: DeploymentHandle[Any], version: Version) -> None:
        super().__init__()
        self._wanted = version
        self._shelf = shelf.options(method_name="answer", multiplexed_model_id=identity(version))

    def forward(self, hidden: Tensor) -> Tensor:
        """What the bud says; where its process dies meanwhile, another one's."""
        ends = time.monotonic() + PATIENCE
        while True:
            try:
                return cast(Tensor, self._shelf.remote(hidden, self._wanted).result(timeout_s=PATIENCE)).clone()
            except GONE:
                if time.monotonic() > ends:
                    raise
                time.sleep(0.05)


@torch.no_grad()
def _forward(bud: nn.Module, hidden: Tensor) -> Tensor:
    return cast(Tensor, bud(hidden))


def _keep_to_this_machine() -> None:
    """Every process of Serve opens a port for calls over gRPC, on every interface; nobody here makes such calls."""
    module: Any = served_by
    bind = module.add_port_to_grpc_server

    def on_loopback(server: object, address: str) -> int:
        return cast(int, bind(server, f"127.0.0.1:{address.rpartition(':')[2]}"))

    module.add_port_to_grpc_server = on_loopback


def identity(version: Version) -> str:
    """What a bud's version is called among those that are loaded."""
    return f"{version.model}:{version.number}"


class Replicas:
    """The replicas of a system, from entry to exit.

    Args:
        name: Of the system.
        home: Where it is registered; on a cluster a folder that every node sees.
        folder: Where Ray keeps its files on this machine.
        spread: How many, and what each holds.
        every: Seconds between two looks at the registry.
        limits: What a request may ask for.

    Raises:
        StudyError: On entry, if Ray does not start or no replica comes up.
    """

    def __init__(self, name: str, home: Home, folder: Path, spread: Spread, *, every: float, limits: Limits) -> None:
        self._name, self._home, self._folder, self._spread = name, home, folder, spread
        self._every, self._limits = every, limits
        self._handle: DeploymentHandle[Any] | None = None

    def __enter__(self) -> Replicas:
        try:
            self._start()
            serve.start(proxy_location="Disabled")
            self._handle = serve.run(self._application(), name=NAME, route_prefix=None)
        except (ray.exceptions.RayError, RuntimeError, ConnectionError, ValueError, TimeoutError) as error:
            self.__exit__()
            said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise StudyError(f"the replicas must start, but do not ({said[:200]}): see {self._folder}") from error
        return self

    def __exit__(self, *_: object) -> None:
        if not ray.is_initialized():
            return
        if self._spread.address is not None:
            serve.delete(NAME)  # others may serve there as well
            ray.shutdown()
            return
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()
        sweep(self._folder)

    async def call(self, method: str, path: str, body: bytes) -> Reply | None:
        """A replica's answer; another one's where it dies meanwhile; None where there is none for a minute.

        An answer changes nothing, so asking twice is asking once.
        """
        assert self._handle is not None
        ends = time.monotonic() + PATIENCE
        while True:
            try:
                return cast(Reply, await self._handle.call.remote(method, path, body))
            except GONE as error:
                logger.warning("a replica is gone (%s), so another one is asked", type(error).__name__)
                if time.monotonic() > ends:
                    return None
                await asyncio.sleep(0.05)

    def _start(self) -> None:
        with storing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        spread = self._spread
        processes = spread.replicas * (1 if spread.loaded is None else 2)
        local: Mapping[str, Any] = {
            "address": "local",
            "num_cpus": math.ceil(processes * spread.cpu),
            "include_dashboard": False,
            "object_store_memory": 256 * 1024**2,
            "_temp_dir": str(self._folder),
        }
        where = local if spread.address is None else {"address": spread.address}
        ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
        for name in ("ray.serve", "ray"):
            logging.getLogger(name).setLevel(logging.ERROR)

    def _application(self) -> serve.Application:
        spread, root = self._spread, str(self._home.root)
        threads = max(1, int(spread.cpu))
        options: dict[str, Any] = {
            "num_replicas": spread.replicas,
            "max_ongoing_requests": AT_ONCE,
            "ray_actor_options": {"num_cpus": spread.cpu},
            "health_check_period_s": 2.0,
            "health_check_timeout_s": 30.0,
            "graceful_shutdown_timeout_s": 5.0,
        }
        shelf = None
        if spread.loaded is not None:
            shelf = serve.deployment(**options)(_shelf_of(spread.loaded)).bind(root, threads)
        replica: Any = serve.deployment(**options)(Replica)
        return cast(serve.Application, replica.bind(self._name, root, self._every, self._limits, threads, shelf))


def _shelf_of(loaded: int) -> type[Shelf]:
    """A shelf for so many buds."""
    return type("Buds", (Shelf,), {"bud": serve.multiplexed(max_num_models_per_replica=loaded)(Shelf.bud)})
