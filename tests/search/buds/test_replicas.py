"""Buds on Ray Serve, started as a user does: no request fails while a process is killed or an alias moves."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import torch
from fastapi.responses import PlainTextResponse

from search.buds.manager import BudManager
from search.buds.registry import Registry
from search.buds.trial import FOLDER, run_bud_trial
from search.commands.buds import Terms, guarded
from search.home import Home
from search.service.asking import Message, Receive, Scope, Send
from search.service.server import Address
from search.service.tokens import Tokens
from spaces.errors import RequestError
from tests.search.buds.nets import Quarters, request
from tests.search.clusters import STORE, nodes_on_this_machine

pytestmark = pytest.mark.slow


@dataclass
class Served:
    """A running service."""

    address: str
    home: Home
    token: str
    process: psutil.Process

    def call(self, path: str, body: Any = None, token: str | None = None) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"}
        if body is None:
            return requests.get(f"{self.address}{path}", headers=headers, timeout=90)
        return requests.post(f"{self.address}{path}", json=body, headers=headers, timeout=90)

    def processes(self, kind: str) -> list[psutil.Process]:
        """Serve's processes of a kind: ``Replica`` or ``Buds``."""
        return [p for p in self.process.children(recursive=True) if f"ServeReplica:pleach-buds:{kind}" in _title(p)]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@contextmanager
def serving(home: Home, *options: str) -> Iterator[Served]:
    """`pleach bud serve quarters --ray --tokens`; nothing of it is left behind."""
    token = Tokens.of(home).add(f"test-{time.time_ns()}", ("read",))
    log = home.root.parent / f"serve-{time.time_ns()}.log"
    command = [sys.executable, "-m", "search.cli", "bud", "serve", "quarters", "--ray", "--tokens", "--port", "0"]
    with log.open("w") as file:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        started = subprocess.Popen(
            [*command, "--every", "0.3", "--home", str(home.root), *options],
            stdout=file,
            stderr=file,
            env=environment,
        )
    process = psutil.Process(started.pid)
    try:
        deadline = time.monotonic() + 240
        while not (found := re.search(r"serving quarters at (http://\S+)", log.read_text())):
            assert started.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield Served(found[1], home, token, process)
    finally:
        family = [process, *process.children(recursive=True)]
        started.send_signal(signal.SIGTERM)
        started.wait(timeout=90)
        _, left = psutil.wait_procs(family, timeout=30)
        for one in left:
            one.kill()
        assert not left, f"still running: {left}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a system of two versions, the second one serving."""
    root = tmp_path_factory.mktemp("replicas")
    home = Home(root / "home")
    for index, router in enumerate(("logistic", "centroid")):
        made = request(1.0, 1, router=router)
        list(run_bud_trial(made, Quarters(), ("accuracy",), {}, checkpoints=root / str(index)))
        Registry(home.mlflow_uri, home.artifacts).register("quarters", root / str(index) / FOLDER)
    return home


@pytest.fixture(scope="module")
def served(home: Home) -> Iterator[Served]:
    # One bud in the memory of each: both buds are needed, so they are loaded in different processes or in turn.
    with serving(home, "--replicas", "2", "--loaded", "1", "--cpu", "0.5") as found:
        yield found


class Asking:
    """Clients that ask without a pause, and what they were told."""

    def __init__(self, served: Served, clients: int = 3) -> None:
        self._served, self._done = served, threading.Event()
        self._body = {"inputs": Quarters().example_inputs()[0].tolist()}
        self._pool = ThreadPoolExecutor(clients)
        self._clients = clients
        self.told: list[tuple[int, str]] = []

    def _ask(self) -> None:
        while not self._done.is_set():
            said = self._served.call("/v1/answer", self._body)
            self.told.append((said.status_code, said.text))

    def __enter__(self) -> Asking:
        self._tasks = [self._pool.submit(self._ask) for _ in range(self._clients)]
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for task in self._tasks:
            task.result(timeout=120)
        self._pool.shutdown()

    def wait_for(self, more: int, seconds: float = 90.0) -> None:
        """Until so many further answers came."""
        wanted, deadline = len(self.told) + more, time.monotonic() + seconds
        while len(self.told) < wanted:
            assert time.monotonic() < deadline, f"{len(self.told)} of {wanted} answers"
            time.sleep(0.05)


def test_it_answers_as_without_ray_and_only_who_has_a_token(served: Served) -> None:
    x = torch.cat([x for x, _ in Quarters().batches("test", shuffle_seed=None) if isinstance(x, torch.Tensor)])[:16]
    expected = BudManager.load("quarters", served.home).answer(x)
    said = served.call("/v1/answer", {"inputs": x.tolist()}).json()
    torch.testing.assert_close(torch.tensor(said["outputs"]), expected.outputs)
    assert {name for row in said["answered"] for name in row} == {"0", "1"}  # both buds, from where they are loaded
    assert requests.post(f"{served.address}/v1/answer", json={}, timeout=30).status_code == 401
    assert served.call("/v1/buds", token="pleach_wrong").status_code == 401
    assert served.call("/v1/answer", {"inputs": [[1.0]]}).status_code == 422
    assert "pleach_bud_answers_total" in served.call("/metrics").text


def test_nothing_listens_where_others_could_reach_it(served: Served) -> None:
    listening = {
        (process.name(), connection.laddr.ip)
        for process in [served.process, *served.process.children(recursive=True)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert len(listening) > 3
    assert {address for _, address in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, listening


def test_a_killed_process_fails_no_request(served: Served) -> None:
    with Asking(served) as asking:
        asking.wait_for(20)
        for kind in ("Replica", "Buds"):
            before = served.processes(kind)
            assert len(before) == 2, [_title(p) for p in served.process.children(recursive=True)]
            before[0].send_signal(signal.SIGKILL)
            asking.wait_for(60)
    assert {status for status, _ in asking.told} == {200}, [said for status, said in asking.told if status != 200][:3]


def test_an_alias_that_moves_reaches_every_replica_and_fails_no_request(served: Served) -> None:
    registry = Registry.of(served.home)
    with Asking(served, clients=4) as asking:
        for number in (1, 2):
            registry.promote("quarters", number)
            _until_all_serve(served, f"quarters {number}")
    assert {status for status, _ in asking.told} == {200}, [said for status, said in asking.told if status != 200][:3]
    assert {json.loads(said)["system"] for _, said in asking.told} >= {"quarters 1", "quarters 2"}


def _until_all_serve(served: Served, label: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        lately = [one for one in served.call("/v1/replicas").json()["replicas"] if one["seconds_ago"] < 3]
        if len(lately) == 2 and {one["system"] for one in lately} == {label}:
            return
        assert time.monotonic() < deadline, lately
        time.sleep(0.1)


def test_a_cluster_that_is_there_already_serves_it_and_is_left_as_it_was(home: Home) -> None:
    with nodes_on_this_machine() as cluster:
        cluster.add_node(num_cpus=2, object_store_memory=STORE)
        options = ("--replicas", "1", "--loaded", "2", "--cpu", "0.5", "--address", str(cluster.address))
        with serving(home, *options) as found:
            x = Quarters().example_inputs()[0]
            expected = BudManager.load("quarters", home).answer(x)
            said = found.call("/v1/answer", {"inputs": x.tolist()})
            torch.testing.assert_close(torch.tensor(said.json()["outputs"]), expected.outputs)
            assert found.processes("Replica") == []  # they are the cluster's, not this command's
        import ray  # reads its settings when it is imported

        ray.init(address=str(cluster.address), log_to_driver=False)
        try:
            free: Any = ray.available_resources
            deadline = time.monotonic() + 30
            while free().get("CPU") != 2.0:  # nothing of it is to be left there
                assert time.monotonic() < deadline, free()
                time.sleep(0.2)
        finally:
            ray.shutdown()


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        (Terms(Address("0.0.0.0")), "give --certificate"),
        (Terms(Address("0.0.0.0", insecure=True)), "would answer everybody: add --tokens"),
        (Terms(Address(), tokens=True), "there is none: make one with pleach token add"),
    ],
)
def test_what_would_be_open_to_others_is_refused(tmp_path: Path, terms: Terms, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        guarded(Home(tmp_path), terms)


async def _hello(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("hello")(scope, receive, send)


@pytest.mark.parametrize(("name", "status"), [("localhost:8300", 200), ("127.0.0.1", 200), ("evil.example", 400)])
def test_without_tokens_a_page_elsewhere_cannot_read_along(tmp_path: Path, name: str, status: int) -> None:
    scope = {"type": "http", "method": "GET", "path": "/v1/buds", "headers": [(b"host", name.encode())]}
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    async def call() -> None:
        await guarded(Home(tmp_path), Terms(Address()))(_hello)(scope, receive, send)

    asyncio.run(call())
    assert sent[0]["status"] == status
