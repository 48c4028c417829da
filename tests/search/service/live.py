"""A service as a user starts it, and the shortest way to call it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from search.home import Home
from search.service.processes import Processes
from search.service.tokens import RIGHTS, Tokens
from tests.search.pristine import with_tables

OPERATOR = """
[limits]
running = {running}
trials = {trials}
[tasks.tiny]
target = "tests.search.quick:TinyTask"
choices = {{samples = [64, 128]}}
[tasks.broken]
target = "tests.search.quick:NoSuchTask"
"""
#: A study that takes seconds; its name is the one that the schema gives as an example.
STUDY: dict[str, Any] = {
    "study": {"name": "digits-small", "trials": 3},
    "task": {"target": "tiny"},
    "objectives": {"accuracy": "maximize", "parameters": "minimize"},
    "budget": {"epochs": 4, "iterations": 2},
    "resources": {"runner": "inline"},
    "spaces": {
        "pruning": {
            "granularity": "weight",
            "criterion": "magnitude",
            "schedule": "oneshot",
            "sparsity": {"low": 0.2, "high": 0.6},
        }
    },
}


def study(name: str, **tables: Mapping[str, Any]) -> dict[str, Any]:
    """`STUDY` under another name, with some keys of its tables replaced."""
    made = {table: {**keys, **tables.get(table, {})} for table, keys in STUDY.items()}
    return {**made, "study": {**made["study"], "name": name}}


@dataclass
class Live:
    """A running service.

    Args:
        address: Where it is.
        home: Whose studies.
        process: It.
        secrets: A token per name: ``all``, ``read``, ``launch``.
        session: Keeps connections open.
        seen: The events of the study that was launched first.
    """

    address: str
    home: Home
    process: subprocess.Popen[bytes]
    secrets: Mapping[str, str]
    session: requests.Session = field(default_factory=requests.Session)
    seen: list[tuple[str, str, Any]] = field(default_factory=list)

    def call(self, verb: str, path: str, token: str | None = "all", **more: Any) -> requests.Response:
        """A call with one of the tokens, or with none."""
        headers = {"Authorization": f"Bearer {self.secrets.get(token, token)}"} if token is not None else {}
        headers |= more.pop("headers", {})
        return self.session.request(verb, self.address + path, headers=headers, timeout=120, **more)

    def get(self, path: str, **more: Any) -> Any:
        """The JSON of a call that goes well."""
        answer = self.call("GET", path, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def launch(self, data: Mapping[str, Any]) -> None:
        answer = self.call("POST", "/v1/studies", json=data)
        assert answer.status_code == 202, answer.text

    def until(self, name: str, *states: str, seconds: float = 120.0) -> dict[str, Any]:
        """Wait until a study is in one of some states."""
        limit = time.monotonic() + seconds
        while True:
            found: dict[str, Any] = self.get(f"/v1/studies/{name}")
            if found["state"] in states:
                return found
            assert time.monotonic() < limit, found
            time.sleep(0.1)

    def kill(self) -> None:
        """End it as a power cut does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=60)


def tokens(home: Path) -> dict[str, str]:
    """A token with both rights, and one with each."""
    known = Tokens.of(Home(home))
    return {
        "all": known.add("all", RIGHTS),
        "read": known.add("read", ("read",)),
        "launch": known.add("launch", ("launch",)),
    }


@contextmanager
def served(
    home: Path, secrets: Mapping[str, str], *options: str, running: int = 4, trials: int = 400
) -> Iterator[Live]:
    """`pleach serve` on a home; ended as with Ctrl-C, and its studies go on."""
    with_tables(home)
    operator = home.parent / f"{home.name}-operator.toml"
    operator.write_text(OPERATOR.format(running=running, trials=trials), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "search.cli",
        "serve",
        "--home",
        str(home),
        "--tasks",
        str(operator),
        "--port",
        "0",
    ]
    log = home.parent / f"{home.name}-serve.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, *options], stdout=file, stderr=file, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
    try:
        yield Live(_address(log, process), Home(home), process, secrets)
    finally:
        for name in Home(home).studies() if process.poll() is None else ():
            Processes(Home(home)).settle(name)  # what is over still writes its records
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def events(answer: requests.Response) -> Iterator[tuple[str, str, Any]]:
    """The events of a stream: name, id and data."""
    name = identity = ""
    for line in answer.iter_lines():
        key, _, value = line.decode("utf-8").partition(": ")
        if key == "event":
            name = value
        elif key == "id":
            identity = value
        elif key == "data":
            yield name, identity, json.loads(value)
            if name == "end":
                return


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    limit = time.monotonic() + 120
    while time.monotonic() < limit and process.poll() is None:
        found = re.search(r"serving at (https?://\S+)", log.read_text(encoding="utf-8"))
        if found:
            return found[1]
        time.sleep(0.1)
    raise AssertionError(f"the service did not start: {log.read_text(encoding='utf-8')}")
