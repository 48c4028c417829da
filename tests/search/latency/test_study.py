"""A study whose objective is the clock: measured, constrained by, asked again without a new search."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from search.commands.bench import task_of
from search.latency.wanted import clocked_for
from search.study import Study
from search.study_file import StudyFile
from spaces.errors import StudyFileError

FILE = {
    "study": {"name": "clocked", "trials": 3, "sampler": "random"},
    "task": {"target": "tests.search.quick:TinyTask"},
    "objectives": {
        "accuracy": "maximize",
        "latency_ms": {"direction": "minimize", "batch": 16, "threads": 1, "runtime": "eager"},
    },
    "constraints": {"throughput": ">= 1", "peak_memory_bytes": "<= 2 * baseline"},
    "budget": {"epochs": 2.0, "iterations": 2},
    "resources": {"runner": "inline"},
    "spaces": {
        "pruning": {
            "granularity": "channel",
            "schedule": "oneshot",
            "exclude": "none",
            "sparsity": {"low": 0.2, "high": 0.8},
        }
    },
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    made = Study.create(FILE, home=tmp_path_factory.mktemp("home"))
    made.run()
    return made


def test_every_trial_is_measured_beside_the_baseline(study: Study) -> None:
    results = list(study.books().results.values())
    assert [result.state for result in results] == ["complete"] * 3
    for result in results:
        assert result.scores["latency_ms"] > 0
        metrics = result.metrics
        assert metrics["latency/p50_ms"] == result.scores["latency_ms"]
        assert result.scores["latency_ms"] == pytest.approx(
            study.books().baseline["latency_ms"] / metrics["latency/speedup"]
        )
        assert math.isfinite(metrics["latency/estimated_latency_ms"])
        assert all(report.scores["latency_ms"] > 0 for report in result.reports)


def test_a_new_constraint_is_answered_from_what_was_measured(study: Study) -> None:
    measured = sorted(result.scores["latency_ms"] for result in study.books().results.values())
    best = study.best(f"latency_ms <= {measured[0]}")
    assert best is not None
    assert best.scores["latency_ms"] == measured[0]
    relative = study.summary("latency_ms <= 1000 * baseline")["best"]
    assert relative["feasible"]
    none = study.summary("latency_ms <= 0.000001 * baseline")["best"]
    assert not none["feasible"]


def test_what_is_left_open_has_defaults_and_only_timed_measures_are_timed(tmp_path: Path) -> None:
    clocked = clocked_for(StudyFile.of(FILE))
    assert clocked is not None
    assert str(clocked.settings["latency_ms"]) == "eager, batch 16, 1 thread"
    assert clocked.settings["throughput"].batch == 1
    plain = {**FILE, "objectives": {"accuracy": "maximize"}, "constraints": {}}
    assert clocked_for(StudyFile.of(plain)) is None


def test_a_runtime_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.latency.wanted.unavailable", lambda runtime, device: "it must be installed, but is not")
    with pytest.raises(StudyFileError, match=r"objectives\.latency_ms is to be timed on eager, but it must"):
        clocked_for(StudyFile.of(FILE))


def test_the_task_of_a_study_gives_the_baseline(study: Study) -> None:
    assert task_of(study).network() is not None


def test_a_network_of_few_bits_is_timed_in_integers_too(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    file = {
        **FILE,
        "study": {"name": "integers", "trials": 1},
        "objectives": {
            "accuracy": "maximize",
            "latency_ms": {"direction": "minimize", "batch": 16, "threads": 1, "runtime": "onnxruntime"},
        },
        "constraints": {},
        "budget": {"epochs": 10.0, "iterations": 2},
        "spaces": {"granularity": {"levels": "8-4", "bits": 8.0, "controller": "sqnr"}},
    }
    made = Study.create(file, home=tmp_path)
    made.run()
    (result,) = made.books().results.values()
    assert result.state == "complete"
    assert result.metrics["latency/int8"] in (0.0, 1.0)
    assert result.scores["latency_ms"] == pytest.approx(
        made.books().baseline["latency_ms"] / result.metrics["latency/speedup"]
    )
    assert all(report.scores["latency_ms"] > 0 for report in result.reports)
