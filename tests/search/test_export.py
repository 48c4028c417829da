"""An export stands alone: it loads bitwise where the task's code is not, and nothing that was tampered with loads."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import search.export
from search.export import load
from spaces.errors import ExportError, StorageError
from spaces.ledger import Ledger
from spaces.profile import CompressionProfile
from spaces.search_policy import SearchPolicy
from tests.search.exports import LEDGER, PROFILE, exported, letters, outputs
from tests.search.zoo import bred

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One export, for tests that copy it before they change it."""
    return letters(tmp_path_factory.mktemp("exports"))


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "copy")


# -- what is written -------------------------------------------------------------------------------------------------


def test_an_export_loads_bitwise_in_evaluation_mode(whole: Path) -> None:
    network, inputs = bred("tied_weights")
    again = load(whole)
    assert not again.training
    assert torch.equal(outputs(again, inputs), outputs(network, inputs))
    assert {name: tensor.shape for name, tensor in again.state_dict().items()} == {
        name: tensor.shape for name, tensor in network.state_dict().items()
    }


def test_an_export_holds_what_it_promises(whole: Path) -> None:
    expected = {"README.md", "architecture.json", "ledger.json", "manifest.json", "metrics.json", "model.safetensors"}
    assert {path.name for path in whole.iterdir()} == expected | {
        "execution.json",
        "parity.json",
        "profile.json",
        "search_policy.json",
    }
    manifest = json.loads((whole / "manifest.json").read_text())
    assert set(manifest) == {"schema", "versions", "files", "rebuild", "unread"}
    assert manifest["rebuild"] is None
    assert manifest["unread"] == {}
    for name, entry in manifest["files"].items():
        data = (whole / name).read_bytes()
        assert entry == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert set(manifest["files"]) == {path.name for path in whole.iterdir()} - {"manifest.json"}


def test_figures_profile_policy_and_ledger_come_back(whole: Path) -> None:
    assert CompressionProfile.load(whole / "profile.json") == PROFILE
    assert SearchPolicy.load(whole / "search_policy.json") == SearchPolicy("space")
    assert Ledger.from_dict(json.loads((whole / "ledger.json").read_text())) == LEDGER
    figures = json.loads((whole / "metrics.json").read_text())
    assert figures["baseline"] == {"accuracy": 0.9, "macs": 60_000.0}
    assert figures["compressed"] == {"accuracy": 0.875, "macs": 30_000.0}
    assert figures["hardware"]


def test_parity_is_measured_in_a_fresh_process(whole: Path) -> None:
    parity = json.loads((whole / "parity.json").read_text())
    assert parity["process"] == "a fresh process"
    assert parity["max_abs_difference"] == 0.0
    assert parity["max_abs_output"] > 0.0


def test_the_card_shows_baseline_beside_compressed(whole: Path) -> None:
    card = (whole / "README.md").read_text()
    assert card.startswith("# Letters\n")
    assert "| macs | 60,000 | 30,000 | 0.5 x |" in card
    assert "| `pruning.sparsity` | 0.75 |" in card
    assert "100 before, 93 after: 10 pruned, 3 created" in card


def test_tied_weights_are_stored_once(whole: Path) -> None:
    stored = load_file(whole / "model.safetensors")
    assert "embedding.weight" in stored
    assert "head.weight" not in stored
    again = load(whole)
    assert again.get_parameter("head.weight") is again.get_parameter("embedding.weight")


def test_an_export_loads_where_the_task_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "orchard_task.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Orchard(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)\n\n"
        "    def forward(self, x):\n        return self.b(torch.relu(self.a(x)) * 0.5)\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "code")
    network = __import__("orchard_task").Orchard().eval()
    inputs = (torch.randn(3, 4),)
    out = exported(tmp_path / "out", network, inputs)
    save_file({"x": inputs[0], "y": outputs(network, inputs)}, tmp_path / "expected.safetensors")
    program = (
        "import sys, torch\nfrom safetensors.torch import load_file\nfrom search.export import load\n"
        "try:\n    import orchard_task\nexcept ImportError:\n    pass\nelse:\n    sys.exit('the task is here')\n"
        f"held = load_file({str(tmp_path / 'expected.safetensors')!r})\n"
        f"with torch.no_grad():\n    assert torch.equal(load({str(out)!r})(held['x']), held['y'])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-P", "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- where it is written ---------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    network, inputs = bred("mlp")
    for overwrite in (False, True):
        with pytest.raises(ExportError, match="out"):
            exported(tmp_path / "out", network, inputs, overwrite=overwrite)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "thesis.txt"]


def test_an_earlier_export_gives_way_only_when_asked(copied: Path) -> None:
    network, inputs = bred("mlp")
    with pytest.raises(ExportError, match="ask for overwrite"):
        exported(copied, network, inputs)
    exported(copied, network, inputs, overwrite=True)
    assert torch.equal(outputs(load(copied), inputs), outputs(network, inputs))
    assert [path.name for path in copied.parent.iterdir()] == ["copy"]


def test_an_earlier_export_with_something_else_in_it_is_left_alone(copied: Path) -> None:
    (copied / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"notes\.txt"):
        exported(copied, *bred("mlp"), overwrite=True)
    assert (copied / "notes.txt").exists()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_folder_is_left_alone(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    out.write_text("mine") if kind == "file" else out.symlink_to(tmp_path)
    with pytest.raises(ExportError, match="something else"):
        exported(out, *bred("mlp"), overwrite=True)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        exported(tmp_path / "file" / "out", *bred("mlp"))


def test_an_export_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(folder: Path, inputs: object) -> list[Tensor]:
        return [torch.zeros(3, 2)]

    monkeypatch.setattr(search.export, "outputs_in_fresh_process", wrong)
    with pytest.raises(ExportError, match="differ by"):
        exported(tmp_path / "out", *bred("mlp"))
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_is_killed_never_stands_under_its_name(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nimport search.export\n"
        "from tests.search.exports import exported\nfrom tests.search.zoo import bred\n"
        "search.export.outputs_in_fresh_process = lambda folder, inputs: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"exported(Path({str(tmp_path / 'out')!r}), *bred('mlp'))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "out").exists()
    assert all(path.name.startswith(".out.") for path in tmp_path.iterdir())
