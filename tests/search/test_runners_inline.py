"""Trials in this process, and what is settled before a worker starts: addresses, settings, memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.result import TrialRequest
from search.runners.environment import settle
from search.runners.inline import InlineRunner
from search.study_tables import size
from tests.search.desk import Desk, request, run, work
from tests.search.quick import TinyTask


def test_inline_runs_each_trial_to_its_end(tmp_path: Path) -> None:
    desk = run(InlineRunner(TinyTask()), work(tmp_path), Desk(request(0), request(1, seed=13)))
    assert desk.reports == [(f"0000{n}-k", i) for n in range(2) for i in range(1, 5)]
    assert [result.state for result in desk.results.values()] == ["complete", "failed"]
    assert desk.most == 1


def test_inline_stops_and_halts(tmp_path: Path) -> None:
    desk = run(InlineRunner(TinyTask()), work(tmp_path), Desk(request(0), request(1), stop_at=2))
    assert len(desk.reports) == 4
    desk = run(InlineRunner(TinyTask()), work(tmp_path / "halted"), Desk(request(0), request(1), halt_after=3))
    assert len(desk.reports) == 3
    assert desk.results == {}


@pytest.mark.slow
def test_an_address_that_is_none_is_one_line(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from search.runners.environment import settle; settle(None)\n"
        "from search.runners.tune import TuneRunner; from spaces.errors import StudyError\n"
        "from tests.search.quick import TinyTask\n"
        "try:\n"
        "    with TuneRunner(TinyTask(), Path(sys.argv[1]), concurrent=1, address='nonsense'): pass\n"
        "except StudyError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout == (
        "Ray does not start at nonsense (Invalid address format: nonsense): check resources.address\n"
    )


def test_settings_leave_what_the_user_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    settle(tmp_path / "ray")
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1"
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert token.parent == tmp_path / "ray"
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text()) == 32
    settle(tmp_path / "other")
    assert Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text() == token.read_text()


def test_a_request_and_its_result_survive_the_way_to_the_worker() -> None:
    sent = request(3, seed=7)
    assert TrialRequest.from_dict(json.loads(json.dumps(sent.to_dict()))) == sent


@pytest.mark.parametrize(("text", "expected"), [("2GiB", 2**31), ("800MB", 800_000_000), ("1.5KiB", 1536)])
def test_memory_is_a_number_and_a_unit(text: str, expected: int) -> None:
    assert size(text) == expected


@pytest.mark.parametrize("text", ["2", "GiB", "-1GB", "0MB", "2 gib", "2TB5"])
def test_memory_that_is_none_is_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"memory must be a number and a unit, but is .*: write \"2GiB\""):
        size(text)
