"""A finished network's latency is the baseline's, as the study knows it, by the ratio of the two measured now."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import search.latency.stopwatch as module
from search.formats.written import INT8
from search.latency.clock import Timing
from search.latency.setting import Setting
from search.latency.stopwatch import Clocked

EAGER = Setting(batch=32, runtime="eager")


def network(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 64)).eval()


@pytest.fixture
def inputs() -> tuple[Tensor, ...]:
    return (torch.randn(2, 64),)


def test_the_figure_is_the_known_baseline_by_the_ratio(
    tmp_path: Path, inputs: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The machine is twice as slow as when the study began; the network is four times as fast as its baseline.
    monkeypatch.setattr(
        module, "paired", lambda calls, **_: [Timing(8.0, 9.0, 8.0, 20), Timing(2.0, 3.0, 2.0, 20, speedup=4.0)]
    )
    clocked = Clocked({"latency_ms": EAGER, "throughput": EAGER}, tmp_path)
    watch = clocked.stopwatch(network(256), inputs)
    found = watch.measure(network(64), {"latency_ms": 4.0, "throughput": 8000.0})
    assert found["latency_ms"] == 1.0
    assert found["throughput"] == 32_000.0
    assert found["latency/baseline_now_ms"] == 8.0
    assert found["latency/clock_p50_ms"] == 2.0
    watch.close()


def test_a_narrower_network_is_measured_and_estimated_as_faster(tmp_path: Path, inputs: tuple[Tensor, ...]) -> None:
    clocked = Clocked({"latency_ms": EAGER}, tmp_path)
    watch = clocked.stopwatch(network(2048), inputs)
    with watch.computing():
        watch.give_way()
    known = watch.measure_baseline()
    measured = watch.measure(network(128), known)
    assert measured["latency_ms"] < 0.6 * known["latency_ms"]
    assert watch.estimate(network(128), known)["latency_ms"] < 0.6 * known["latency_ms"]
    assert measured["latency/speedup"] > 1.6
    watch.close()


def test_the_baselines_onnx_form_is_made_once(
    tmp_path: Path, inputs: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    clocked = Clocked({"latency_ms": Setting(runtime="onnxruntime")}, None, tmp_path / "kept" / "baseline.onnx")
    first = clocked.stopwatch(network(16), inputs).measure_baseline()
    monkeypatch.setattr(module, "to_onnx", lambda *_: pytest.fail("made again"))
    second = clocked.stopwatch(network(16), inputs).measure_baseline()
    assert first["latency_ms"] > 0
    assert second["latency_ms"] > 0


def test_of_several_forms_the_fastest_counts(inputs: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    before, slow, fast = (Timing(8.0, 9.0, 8.0, 20, speedup=s) for s in (1.0, 0.5, 2.0))
    monkeypatch.setattr(module, "ready", lambda *_, **given: lambda: given)
    for order, int8 in (([before, slow, fast], 1.0), ([before, fast, slow], 0.0)):
        monkeypatch.setattr(module, "paired", lambda calls, order=order, **_: order[: len(calls)])
        watch = Clocked({"latency_ms": Setting(runtime="onnxruntime")}).stopwatch(network(16), inputs)
        assert watch.runs_onnx
        found = watch.measure(network(16), {"latency_ms": 6.0}, lambda: {"model.onnx": b"", INT8: b""})
        assert (found["latency_ms"], found["latency/int8"]) == (3.0, int8)
    eager = Clocked({"latency_ms": EAGER}).stopwatch(network(16), inputs)
    assert not eager.runs_onnx
    monkeypatch.setattr(module, "paired", lambda calls, **_: [before, fast])
    assert eager.measure(network(16), {}, lambda: pytest.fail("PyTorch reads no files"))["latency_ms"] == 4.0
