"""A short soak: a worker and the driver are killed, and every book balances."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.soak import soak


@pytest.mark.slow
def test_sixty_trials_survive_the_deaths_of_a_worker_and_of_the_driver(tmp_path: Path) -> None:
    found = soak(tmp_path / "home", 60, seed=1, driver_kills=1)
    trials = found["trials"]
    assert trials["complete"] + trials["pruned"] + trials["failed"] == 60
    assert trials["failed"] == 0  # a kill from outside is not a trial's fault
    assert found["workers_killed"] >= 1
    assert found["drivers_killed"] == 1
    assert found["memory_kib_per_trial"] < 512
