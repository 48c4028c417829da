"""An export is timed against its baseline wherever it lies, and says layer by layer what runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import RenderableType
from torch import Tensor, nn

from objectives.task import Task
from search.artifact.baseline import read_baseline
from search.artifact.execution import execution_rows, pattern_of
from search.commands.bench import bench_export
from search.commands.device_answers import bench_answer, sensitivity_answer
from search.console import out
from search.export import load
from search.latency.sensitivity import by_layer, sensitivities, to_rows
from spaces.errors import ExportError, StudyFileError
from tests.search.exports import exported, signed
from tests.search.quick import TinyTask


def layers(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 8)).eval()


INPUTS: tuple[Tensor, ...] = (torch.randn(2, 64, generator=torch.Generator().manual_seed(0)),)


def printed(what: RenderableType) -> str:
    """As a terminal shows it."""
    console = out()
    with console.capture() as shown:
        console.print(what)
    return shown.get()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a network with a quarter of the channels, without timings."""
    return exported(tmp_path_factory.mktemp("bench") / "out", layers(512), INPUTS, original=layers(2048))


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "copy")


def test_a_quarter_of_the_channels_is_measured_as_faster(whole: Path) -> None:
    found = bench_export(whole, batches=(64,), runtimes=("eager",), seconds=0.3)
    (row,) = found["rows"]
    assert row["speedup"] > 1.5
    # 64 and 8 numbers either side of the channels: exactly a quarter of the products.
    assert found["macs"] == {"baseline": 72 * 2048, "compressed": 72 * 512}
    assert row["efficiency"] == pytest.approx(row["speedup"] / 4)
    assert {layer["layer"]: layer["runs"] for layer in found["layers"]} == {
        "0": ["channels removed"],
        "2": ["channels removed"],
    }
    assert all(layer["gain"]["64"]["speedup"] > 1.2 for layer in found["layers"])
    assert f"{row['speedup']:.2f} x" in printed(bench_answer(found))


def test_the_baseline_travels_as_a_graph_without_weights(whole: Path) -> None:
    data = (whole / "baseline.json").read_bytes()
    network, inputs = read_baseline(data)
    assert [tuple(p.shape) for p in network.parameters()] == [(2048, 64), (2048,), (8, 2048), (8,)]
    assert [tuple(x.shape) for x in inputs] == [(2, 64)]
    assert network(*inputs).shape == (2, 8)
    assert len(data) < 5_000


def test_an_export_without_a_baseline_asks_for_its_study(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    del manifest["files"]["baseline.json"]
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ExportError, match="--study"):
        bench_export(copied, batches=(1,), runtimes=("eager",))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.pop("inputs"), "must hold inputs and architecture"),
        (lambda d: d["inputs"][0].update(shape=[2, -1]), "a shape and a range"),
        (lambda d: d["inputs"][0].update(shape=[2**24, 2**24]), "a shape and a range"),
        (lambda d: d["inputs"][0].update(dtype="object"), "object"),
        (lambda d: d["architecture"]["nodes"][1].update(op="call_function", target="os.system"), "os.system"),
    ],
)
def test_a_baseline_that_was_tampered_with_is_refused(copied: Path, change: object, said: str) -> None:
    data = json.loads((copied / "baseline.json").read_text())
    change(data)  # type: ignore[operator]
    (copied / "baseline.json").write_text(json.dumps(data))
    signed(copied)
    load(copied)  # which has no use for it
    with pytest.raises(ExportError) as caught:
        bench_export(copied, batches=(1,), runtimes=("eager",))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["baseline.json", "execution.json"])
def test_a_truncated_file_is_refused(copied: Path, name: str) -> None:
    (copied / name).write_bytes((copied / name).read_bytes()[:-1])
    with pytest.raises(ExportError, match=name):
        load(copied)


def test_an_unknown_runtime_is_named(whole: Path) -> None:
    with pytest.raises(StudyFileError, match="there is no runtime 'tensorrt'"):
        bench_export(whole, runtimes=("tensorrt",))


# -- what really runs ------------------------------------------------------------------------------------------------


def test_zeros_are_called_simulated_and_removed_channels_are_not() -> None:
    before, after = layers(16), layers(16)
    with torch.no_grad():
        linear = after.get_submodule("0")
        linear.weight[::2] = 0  # type: ignore[operator]
        last = after.get_submodule("2")
        last.weight.view(-1, 4)[:, :2] = 0  # type: ignore[operator]
    first, second = execution_rows(after, before, {})
    assert first["runs"] == second["runs"] == ["dense"]
    assert first["zeros"] == second["zeros"] == 0.5
    assert first["simulated"] == ["scattered zeros, 50%"]
    assert second["simulated"] == ["2:4 zeros, 50%"]
    gone = execution_rows(nn.Sequential(nn.Identity(), nn.Identity(), nn.Linear(4, 8)), before, {})
    assert [row["runs"] for row in gone] == [["channels removed"], ["removed"]]


@pytest.mark.parametrize(
    ("weight", "pattern"),
    [
        ([[1, 0, 2, 0, 0, 0, 3, 4]], (2, 4)),
        ([[1, 0, 0, 0, 0, 0, 0, 4]], (1, 4)),
        ([[1, 2, 3, 0, 0, 0, 0, 4]], (4, 8)),
        ([[1, 2, 3, 0, 5, 0, 0, 4]], None),
        ([[1, 2, 0]], None),
    ],
)
def test_a_pattern_is_the_strictest_that_holds(weight: list[list[float]], pattern: tuple[int, int] | None) -> None:
    assert pattern_of(torch.tensor(weight)) == pattern


# -- sensitivity -----------------------------------------------------------------------------------------------------


def test_every_layer_is_cut_alone_and_the_answer_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task: Task = TinyTask()
    told: list[tuple[int, int]] = []
    baseline, rows = sensitivities(task, levels=(0.5,), cache=tmp_path, told=lambda done, of: told.append((done, of)))
    found = by_layer(rows)
    assert set(found["pruning.weight"]) == {"0", "2"}
    assert told[-1] == (4, 4)
    for row in rows:
        assert row.drop == pytest.approx(baseline - row.score)
    # Of 16 channels between 8 and 4 numbers, half: 8 x 8 + 8 x 4. Single weights save nothing.
    assert found["pruning.channel"]["0"][0.5].macs == 96
    assert found["pruning.weight"]["0"][0.5].macs == 8 * 16 + 16 * 4
    monkeypatch.setattr("search.latency.sensitivity._looked_at", lambda *_: pytest.fail("looked at again"))
    assert sensitivities(task, levels=(0.5,), cache=tmp_path) == (baseline, rows)
    with pytest.raises(BaseException, match="looked at again"):
        sensitivities(task, levels=(0.25,), cache=tmp_path)
    answer = {"task": "tiny", "baseline": baseline, "levels": ["0.5"], "layers": to_rows(found)}
    shown = printed(sensitivity_answer(answer))
    assert all(f"{round(-100 * row.drop, 1) + 0.0:+.1f} pt" in shown for row in rows)
