"""Files for other loaders, for timing and for reading: what was tampered with is refused in one line and never runs."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from search.commands.bench import bench_export
from search.commands.device_answers import bench_answer
from search.console import out
from search.export import load
from spaces.errors import ExportError
from tests.search.exports import exported, refusal, signed
from tests.search.test_export_tampered import Trap

FILES = ("model.onnx", "model.pt2", "execution.json", "baseline.json")
INPUTS: tuple[Tensor, ...] = (torch.randn(2, 8, generator=torch.Generator().manual_seed(0)),)


def layers(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 4)).eval()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("formats") / "out"
    return exported(out, layers(6), INPUTS, original=layers(12), formats=("onnx", "pt2"))


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "copy")


def benched(folder: Path, runtime: str = "onnxruntime") -> dict[str, Any]:
    return bench_export(folder, batches=(1,), runtimes=(runtime,), seconds=0.01, layers=False)


def bench_refusal(folder: Path) -> str:
    """The one line in which timing a folder is refused."""
    with pytest.raises(ExportError) as caught:
        benched(folder, "eager")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_what_was_truncated_flipped_or_taken_away_is_refused(copied: Path, name: str) -> None:
    data = (copied / name).read_bytes()
    for share in (0.0, 0.5, 0.99):
        (copied / name).write_bytes(data[: int(len(data) * share)])
        assert f"{name} must have {len(data)} bytes" in refusal(copied)
        assert f"{name} must have {len(data)} bytes" in bench_refusal(copied)
        flipped = bytearray(data)
        flipped[int(len(data) * share)] ^= 1
        (copied / name).write_bytes(flipped)
        assert f"{name} is not what was exported" in refusal(copied)
        assert f"{name} is not what was exported" in bench_refusal(copied)
    (copied / name).unlink()
    assert f"must hold {name}" in refusal(copied)
    assert f"must hold {name}" in bench_refusal(copied)


@pytest.mark.parametrize("what", ["nothing", "half", "noise", "pickle", "text"])
def test_a_signed_model_that_is_no_onnx_is_not_timed_and_says_why(copied: Path, what: str) -> None:
    data = (copied / "model.onnx").read_bytes()
    noise = bytes(torch.randint(0, 256, (500,), generator=torch.Generator().manual_seed(0)).tolist())
    forged = {
        "nothing": b"",
        "half": data[: len(data) // 2],
        "noise": noise,
        "pickle": pickle.dumps(Trap()),
        "text": b"{}",
    }
    (copied / "model.onnx").write_bytes(forged[what])
    signed(copied)
    load(copied)  # which does not look into it
    found = benched(copied)
    assert found["rows"] == []
    assert "cannot be run" in found["skipped"]["onnxruntime"]
    assert "\n" not in found["skipped"]["onnxruntime"]


def test_a_signed_model_of_another_shape_is_not_timed(copied: Path, whole: Path, tmp_path: Path) -> None:
    wider = nn.Sequential(nn.Linear(9, 4)).eval()
    other = exported(tmp_path / "other", wider, (torch.randn(2, 9),), formats=("onnx",))
    shutil.copy(other / "model.onnx", copied / "model.onnx")
    signed(copied)
    found = benched(copied)
    assert found["rows"] == []
    (reason,) = found["skipped"].values()
    assert "\n" not in reason


def test_weights_outside_of_the_file_are_not_fetched(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(bytes(range(256)) * 8)
    model = onnx.load(copied / "model.onnx")
    tensor = next(each for each in model.graph.initializer if len(each.dims) == 2)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret")
    (copied / "model.onnx").write_bytes(model.SerializeToString())
    signed(copied)
    found = benched(copied)
    assert found["rows"] == []
    assert "weights in other files" in found["skipped"]["onnxruntime"]


def test_an_archive_is_never_opened(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (copied / "model.pt2").write_bytes(pickle.dumps(Trap()))
    signed(copied)
    load(copied)
    assert benched(copied, "eager")["rows"]
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        '{"layers": {}}',
        '{"layers": [1]}',
        '{"layers": [{"layer": "0"}]}',
        '{"layers": [{"layer": 0, "runs": [], "simulated": []}]}',
        '{"layers": [{"layer": "0", "runs": "dense", "simulated": []}]}',
        '{"layers": [{"layer": "\\u001b[2J", "runs": ["dense"], "simulated": []}]}',
    ],
)
def test_a_signed_execution_that_breaks_a_rule_is_refused(copied: Path, text: str) -> None:
    (copied / "execution.json").write_text(text)
    signed(copied)
    load(copied)  # which has no use for it
    assert "execution.json must" in bench_refusal(copied)


def test_what_an_execution_says_is_printed_and_not_interpreted(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"layer": "[/red]", "runs": ["[link=x]"], "simulated": ["[bold]"]}
    (copied / "execution.json").write_text(json.dumps({"layers": [row]}))
    signed(copied)
    found = benched(copied, "eager")
    out().print(bench_answer(found))
    printed = capsys.readouterr().out
    assert all(told in printed for told in ("[/red]", "[link=x]", "[bold]"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("range", [float("nan"), 1.0]),
        ("range", [0.0, float("inf")]),
        ("range", [0, 10**400]),
        ("range", [0]),
        ("shape", [2, True]),
        ("shape", [2] * 9),
        ("shape", "28"),
        ("dtype", "torch.float32; import os"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_a_signed_baseline_with_odd_inputs_is_refused(copied: Path, key: str, value: object, dtype: str) -> None:
    data = json.loads((copied / "baseline.json").read_text())
    data["inputs"][0].update({"dtype": dtype} | {key: value})
    (copied / "baseline.json").write_text(json.dumps(data))
    signed(copied)
    bench_refusal(copied)
