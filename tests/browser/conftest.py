"""One real study, one browser, one dashboard and one MLflow server for all tests of pages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from tests.required import lacking
from tests.search import drive
from tests.search.serving import ended

NAMES = ("chromium", "chromium-browser", "google-chrome")
TRIALS = 12


@dataclass(frozen=True)
class Lived:
    """A study that runs while the tests look at it."""

    home: Path
    process: subprocess.Popen[str]

    def wait(self) -> None:
        """Until the study is over."""
        if self.process.poll() is None:
            _, error = self.process.communicate(timeout=240)
            assert self.process.returncode == 0, error


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where it is."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        lacking("browser", "apt-get install chromium")
    return path


@pytest.fixture(scope="module")  # Playwright keeps an event loop running, beside which other tests can start none
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def dashboard(chromium: str, mlflow_home: Path) -> Iterator[str]:
    """The dashboard as a user starts it, on the home of the study; gives its address."""
    log = mlflow_home.parent / "dashboard.log"
    command = [sys.executable, "-m", "search.cli", "dashboard", "--home", str(mlflow_home), "--port", "0", "--no-open"]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--mlflow", "http://127.0.0.1:9"], stdout=file, stderr=file, env=os.environ | {"COLUMNS": "200"}
        )
    try:
        yield _address(log, process)
    finally:
        ended(process)


@pytest.fixture(scope="session")
def lived(dashboard: str, mlflow_home: Path) -> Iterator[Lived]:
    """A study of real trials, begun once there is a dashboard to see it."""
    process = drive.start(mlflow_home, STUDY, PLEACH_TRIAL="real")
    yield Lived(mlflow_home, process)
    if process.poll() is None:
        process.kill()
    process.communicate()


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page that may ask this machine only and say nothing on its console; 1280 pixels wide, or what is asked for."""
    wide = getattr(request, "param", 1280)
    context = browser.new_context(viewport={"width": wide, "height": 812}, accept_downloads=True)
    tab = context.new_page()
    faults: list[str] = []
    tab.on("console", lambda message: faults.extend(_worth_telling(message)))
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("request", lambda asked: faults.extend(_elsewhere(asked)))
    yield tab
    context.close()
    assert faults == []


def _worth_telling(message: ConsoleMessage) -> list[str]:
    return [f"{message.type}: {message.text}"] if message.type in ("error", "warning") else []


def _elsewhere(asked: Request) -> list[str]:
    near = re.match(r"(http://127\.0\.0\.1:|data:|blob:|file:///)", asked.url)
    return [] if near else [f"asks {asked.url}"]


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"http://127\.0\.0\.1:\d+/", log.read_text(encoding="utf-8"))
        if found:
            return found[0].rstrip("/")
        time.sleep(0.1)
    raise AssertionError(f"the dashboard did not start: {log.read_text(encoding='utf-8')}")


STUDY: Mapping[str, Any] = drive.study_of(
    TRIALS,
    name="lived",
    task={"target": "tests.search.quick:TinyTask", "args": {"samples": 256}},
    objectives={"accuracy": "maximize", "plasticity": "maximize", "macs": "minimize"},
    constraints={"accuracy": ">= baseline - 0.05"},
    budget={"epochs": 20.0, "iterations": 4},
    spaces={
        "pruning": {"granularity": "channel", "sparsity": {"low": 0.1, "high": 0.8}},
        "reconnection": {"mode": "gmp_regrow", "radius": 0},
    },
)
