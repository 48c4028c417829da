"""The live pages behind the service's door, and Optuna's own beside them, on the same study."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Page, expect

from search.service.tokens import Tokens
from search.study import Study
from tests.browser.conftest import TRIALS, Lived
from tests.search.service.live import Live, served, tokens
from tests.search.serving import ended

PATIENCE = 60_000


@pytest.fixture(scope="module")
def service(lived: Lived) -> Iterator[Live]:
    """`pleach serve` on the home of the study, which is over."""
    lived.wait()
    with served(lived.home, tokens(lived.home), "--failures", "1000") as live:
        yield live


def logged_in(page: Page, service: Live, path: str) -> None:
    """Come in by the form, as a person does, and go on to a page."""
    page.set_default_timeout(PATIENCE)
    page.goto(f"{service.address}{path}")
    expect(page.get_by_label("Token")).to_be_focused(timeout=PATIENCE)
    page.keyboard.type(service.secrets["read"])
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name=re.compile("lived"))).to_be_visible(timeout=PATIENCE)


def test_who_has_a_token_sees_the_live_pages(page: Page, service: Live) -> None:
    logged_in(page, service, "/dashboard/lived")
    page.get_by_role("link", name=re.compile("lived")).click()
    expect(page.locator("#front .main-svg").first).to_be_visible(timeout=PATIENCE)
    best = Study.load("lived", service.home).best()
    assert best is not None
    expect(page.locator("#summary")).to_contain_text(f"Best: trial {best.number}", timeout=PATIENCE)
    expect(page.locator("#head")).to_contain_text(f"{TRIALS} of {TRIALS} trials")
    first = page.locator("#trial-card h3").first
    page.get_by_role("button", name="next").click()
    expect(first).to_have_text(f"Trial {(best.number + 1) % TRIALS}", timeout=PATIENCE)


def test_a_browser_looks_and_starts_nothing_and_a_token_that_is_revoked_is_shown_the_door(
    page: Page, service: Live
) -> None:
    logged_in(page, service, "/dashboard/")
    cookie = page.context.cookies()[0]
    assert cookie["httpOnly"] is True
    assert cookie["sameSite"] == "Strict"
    stopped = page.context.request.post(f"{service.address}/v1/studies/lived/stop")
    assert stopped.status == 403
    Tokens.of(service.home).revoke("read")
    page.goto(f"{service.address}/dashboard/")
    expect(page.get_by_label("Token")).to_be_visible(timeout=PATIENCE)


def test_optunas_dashboard_shows_the_same_study(lived: Lived, tmp_path: Path) -> None:
    """As the page on dashboards says: ``optuna-dashboard HOME/optuna.journal``."""
    lived.wait()
    log, port = tmp_path / "optuna.log", _free_port()
    command = [str(Path(sys.executable).parent / "optuna-dashboard"), str(lived.home / "optuna.journal")]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--port", str(port)], stdout=file, stderr=file, env=os.environ | {"COLUMNS": "200"}
        )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 90
        while True:
            try:
                found = requests.get(f"{address}/api/studies", timeout=30).json()
                break
            except requests.ConnectionError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        study = next(one for one in found["study_summaries"] if one["study_name"] == "lived")
        detail = requests.get(f"{address}/api/studies/{study['study_id']}?after=0", timeout=60).json()
        states = [trial["state"] for trial in detail["trials"]]
        assert len(states) == TRIALS
        books = Study.load("lived", lived.home).books().counts()
        assert states.count("Complete") == books["complete"]
        assert "Pleach" not in requests.get(f"{address}/dashboard", timeout=30).text  # it is Optuna's page
    finally:
        ended(process)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
