"""One MLflow server for all tests that need one, started as a user does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


@contextmanager
def served(home: Path) -> Iterator[str]:
    """`pleach ui` on a home; gives the address, and sees to it that nothing is left running."""
    log = home.parent / f"{home.name}-ui.log"
    command = [sys.executable, "-m", "search.cli", "ui", "--home", str(home), "--port", "0", "--no-open"]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | {"COLUMNS": "200"})
    try:
        yield _address(log, process)
    finally:
        ended(process)


def ended(process: subprocess.Popen[bytes]) -> None:
    """End a server as a user does, and see to it that nothing of it is left running."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    _, alive = psutil.wait_procs(family, timeout=20)
    for left in alive:
        left.kill()
    assert not alive, f"still running: {alive}"


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"http://127\.0\.0\.1:\d+/", log.read_text(encoding="utf-8"))
        if found:
            return found[0].rstrip("/")
        time.sleep(0.1)
    raise AssertionError(f"the server did not start: {log.read_text(encoding='utf-8')}")
