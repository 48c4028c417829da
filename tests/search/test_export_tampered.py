"""Nothing that was tampered with loads: each refusal is one line, and nothing of the file runs."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from search.export import load
from tests.search.exports import letters, refusal, signed


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One export, for tests that copy it before they change it."""
    return letters(tmp_path_factory.mktemp("exports"))


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "copy")


FILES = ("README.md", "architecture.json", "ledger.json", "metrics.json", "model.safetensors", "parity.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(copied: Path, name: str, share: float) -> None:
    data = (copied / name).read_bytes()
    (copied / name).write_bytes(data[: int(len(data) * share)])
    assert f"{name} must have {len(data)} bytes" in refusal(copied)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_a_flipped_bit_is_noticed(copied: Path, name: str, share: float) -> None:
    data = bytearray((copied / name).read_bytes())
    data[int(len(data) * share)] ^= 1
    (copied / name).write_bytes(data)
    assert f"{name} is not what was exported" in refusal(copied)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_file_is_named(copied: Path, name: str) -> None:
    (copied / name).unlink()
    assert f"must hold {name}" in refusal(copied)


@pytest.mark.parametrize("name", ["architecture.json", "model.safetensors", "manifest.json"])
@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_no_plain_file_is_refused(copied: Path, name: str, kind: str) -> None:
    moved = (copied / name).rename(copied.parent / "elsewhere")
    if kind == "link":
        (copied / name).symlink_to(moved)
    elif kind == "folder":
        (copied / name).mkdir()
    else:
        os.mkfifo(copied / name)
    assert f"{name} must be a plain file" in refusal(copied)


def test_a_file_that_the_manifest_does_not_know_is_never_looked_at(copied: Path) -> None:
    (copied / ".DS_Store").write_bytes(b"\0")
    load(copied)


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    assert "name a folder that `pleach export` wrote" in refusal(tmp_path / "nowhere")


ENTRY = {"size": 0, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["files"].update({"../secret": ENTRY}), "'../secret'"),
        (lambda m: m["files"].update({"/etc/passwd": ENTRY}), "'/etc/passwd'"),
        (lambda m: m["files"].update({"..": ENTRY}), "'..'"),
        (lambda m: m["files"].update({"a\\b": ENTRY}), "lie in its folder"),
        (lambda m: m["files"].update({"manifest.json": ENTRY}), "'manifest.json'"),
        (lambda m: m["files"].update({"x" * 5000: ENTRY}), "lie in its folder"),
        (lambda m: m["files"].pop("architecture.json"), "must hold architecture.json"),
        (lambda m: m["files"]["README.md"].update(size=-1), "size and sha256 of README.md"),
        (lambda m: m["files"]["README.md"].update(size=True), "size and sha256 of README.md"),
        (lambda m: m["files"]["README.md"].update(size="many"), "size and sha256 of README.md"),
        (lambda m: m["files"]["README.md"].update(sha256="0" * 63), "size and sha256 of README.md"),
        (lambda m: m["files"]["README.md"].update(sha256=["0"]), "size and sha256 of README.md"),
        (lambda m: m["files"]["README.md"].update(sha256="0" * 64), "its sha256 differs"),
        (lambda m: m["files"]["README.md"].update(link="x"), "size and sha256 of README.md"),
        (lambda m: m["files"].update({"README.md": None}), "size and sha256 of README.md"),
        (lambda m: m.update(files=[]), "must hold schema"),
        (lambda m: m.update(rebuild="os"), "must hold schema"),
        (lambda m: m.update(schema=2), "schema must be 1"),
        (lambda m: m.pop("versions"), "must hold schema"),
        (lambda m: m.update(more=1), "must hold schema"),
    ],
)
def test_a_manifest_that_breaks_a_rule_is_refused(
    copied: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    change(manifest)
    (copied / "manifest.json").write_text(json.dumps(manifest))
    assert said in refusal(copied)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "\u00e9".encode("latin-1"), "[" * 100_000, b"\xff\xfe", " " * (1 << 21)]
)
def test_a_manifest_that_is_no_object_is_refused(copied: Path, text: str | bytes) -> None:
    (copied / "manifest.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert "manifest.json" in refusal(copied)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_truncated_architecture_is_refused_even_when_the_manifest_says_it_is_right(
    copied: Path, share: float
) -> None:
    text = (copied / "architecture.json").read_text()
    (copied / "architecture.json").write_text(text[: int(len(text) * share)])
    signed(copied)
    assert "architecture.json must be JSON" in refusal(copied)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.5, 0.999])
def test_truncated_weights_are_refused_even_when_the_manifest_says_they_are_right(copied: Path, share: float) -> None:
    data = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(data[: int(len(data) * share)])
    signed(copied)
    assert "must be safetensors" in refusal(copied)


def test_a_graph_that_calls_the_system_is_refused_even_when_the_manifest_says_it_is_right(copied: Path) -> None:
    data = json.loads((copied / "architecture.json").read_text())
    data["nodes"][1].update(op="call_function", target="os.system", args={"tuple": ["true"]})
    (copied / "architecture.json").write_text(json.dumps(data))
    signed(copied)
    assert "'os.system'" in refusal(copied)


class Trap:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("sprung",)


@pytest.mark.parametrize("name", ["model.safetensors", "architecture.json"])
def test_a_pickle_is_never_opened(copied: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (copied / name).write_bytes(pickle.dumps(Trap()))
    signed(copied)
    refusal(copied)
    torch.save({"embedding.weight": Trap()}, copied / name)
    signed(copied)
    refusal(copied)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop("constants.positions"), "constants.positions is missing"),
        (lambda w: w.update(extra=torch.zeros(1)), "extra belongs to no layer"),
        (lambda w: w.update({"embedding.weight": torch.zeros(11, 15)}), "embedding.weight is (11, 15) of float32"),
        (lambda w: w.update({"embedding.weight": torch.zeros(11, 16).double()}), "(11, 16) of float64"),
        (lambda w: w.update({"head.weight": torch.zeros(11, 16)}), "head.weight belongs to no layer"),
    ],
)
def test_weights_of_another_network_are_refused(
    copied: Path, change: Callable[[dict[str, Tensor]], object], said: str
) -> None:
    weights = load_file(copied / "model.safetensors")
    change(weights)
    save_file(weights, copied / "model.safetensors")
    signed(copied)
    assert said in refusal(copied)
