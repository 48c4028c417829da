"""Confirmation: the finalists run again with fresh seeds, and count for nothing else."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search.confirm import confirmed
from search.result import TrialRequest, TrialResult
from tests.search.driving import Bench, Trial, finished
from tests.search.quick import quick_trial


def seeded(request: TrialRequest, *args: Any, **kwargs: Any) -> Trial:
    """A trial whose accuracy depends on its seed as well."""
    for event in quick_trial(request, *args, **kwargs):
        if isinstance(event, TrialResult):
            event = replace(event, scores={**event.scores, "accuracy": event.scores["accuracy"] - request.seed / 100})
        yield event


def test_finalists_run_again_with_fresh_seeds_and_count_for_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 5, budget={"confirm": {"top": 2, "seeds": 3}, "scheduler": "mo-asha"})
    counts = bench.run(seeded)
    assert sum(counts[state] for state in ("complete", "pruned", "failed")) == 5
    places = bench.books.places()
    finalists = sorted(sorted(places, key=lambda number: places[number])[:2])
    found = confirmed(bench.folder)
    assert [row["trial"] for row in found] == finalists
    for row in found:
        first = bench.books.results[row["trial"]].scores
        assert row["seeds"] == [1, 2, 3]
        assert row["scores"]["accuracy"]["mean"] == pytest.approx(first["accuracy"] - 0.02)
        assert row["scores"]["accuracy"]["deviation"] == pytest.approx(0.01 * math.sqrt(2 / 3))
        assert row["scores"]["macs"] == {"mean": first["macs"], "deviation": 0.0}
    assert bench.notes.written == list(range(5))
    assert Bench(tmp_path, 5, budget={"confirm": {"top": 2, "seeds": 3}, "scheduler": "mo-asha"}).driver.done


def test_a_confirmation_that_was_cut_short_goes_on(tmp_path: Path) -> None:
    plan = {"confirm": {"top": 1, "seeds": 3}}
    bench = Bench(tmp_path, 2, budget=plan)

    def trial(request: TrialRequest, *args: Any, **kwargs: Any) -> Trial:
        if request.seed == 2:
            bench.driver.stop("asked to stop", now=True)
        yield from seeded(request, *args, **kwargs)

    bench.run(trial)
    assert [row["seeds"] for row in confirmed(bench.folder)] == [[1]]
    again = Bench(tmp_path, 2, budget=plan)
    assert not again.driver.done
    again.run(seeded)
    assert [row["seeds"] for row in confirmed(bench.folder)] == [[1, 2, 3]]


def test_finalists_wait_for_the_last_trial(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 2, budget={"confirm": {"top": 1, "seeds": 1}})
    first, second = bench.driver.propose(), bench.driver.propose()
    assert first is not None
    assert second is not None
    bench.driver.decided(finished(first, accuracy=0.5))
    assert (bench.driver.propose(), bench.driver.done) == (None, False)
    bench.driver.decided(finished(second, accuracy=0.9))
    again = bench.driver.propose()
    assert again is not None
    assert (again.number, again.seed, again.profile) == (second.number, 1, second.profile)
    assert (bench.driver.propose(), bench.driver.done) == (None, True)


def test_nothing_is_confirmed_after_the_time_limit(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 2, study={"time_limit": "1s"}, budget={"confirm": {}}, spent=5)
    assert bench.driver.propose() is None
    assert bench.driver.done
