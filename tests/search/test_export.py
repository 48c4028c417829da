"""An export stands alone: it loads bitwise where the task's code is not, and nothing that was tampered with loads."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import search.export
from search.artifact.parity import compared
from search.export import export, load, read_network, save_network
from search.result import TaskReference
from search.surgery.graph import trace
from spaces.errors import ExportError, StorageError
from spaces.ledger import Event, Ledger
from spaces.profile import CompressionProfile
from spaces.pruning import PruningPolicy
from spaces.search_policy import SearchPolicy
from tests.search.zoo import ZOO, bred

ROOT = Path(__file__).parents[2]
PROFILE = CompressionProfile.of(PruningPolicy(sparsity=0.75))
LEDGER = Ledger((Event(0, "conv.weight", "pruning", "magnitude", 3, 10),), {"conv.weight": 100})


def exported(out: Path, network: nn.Module, inputs: tuple[Tensor, ...], **more: Any) -> Path:
    figures = {"accuracy": 0.875, "macs": 30_000.0, "latency_ms": float("nan")}
    more = {"profile": PROFILE, "metrics": figures, "baseline": {"accuracy": 0.9, "macs": 60_000.0}, **more}
    return export(out, network=network, example_inputs=inputs, **more)


def outputs(network: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        result: Tensor = network(*inputs)
    return result


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One export, for tests that copy it before they change it."""
    network, inputs = bred("tied_weights")
    more = {
        "ledger": LEDGER,
        "search_policy": SearchPolicy("space"),
        "task": TaskReference("digits"),
        "title": "Letters",
    }
    return exported(tmp_path_factory.mktemp("exports") / "letters", network, inputs, **more)


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "copy")


def signed(folder: Path) -> None:
    """Make the manifest right for whatever the folder holds: what an attacker would do as well."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        data = (folder / name).read_bytes()
        manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def refusal(folder: Path, network: nn.Module | None = None) -> str:
    """The one line in which a folder is refused."""
    with pytest.raises(ExportError) as caught:
        load(folder, network)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
    assert {path.name for path in whole.iterdir()} == expected | {"parity.json", "profile.json", "search_policy.json"}
    manifest = json.loads((whole / "manifest.json").read_text())
    assert set(manifest) == {"schema", "versions", "files", "rebuild"}
    assert manifest["rebuild"] is None
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
        "from tests.search.test_export import exported\nfrom tests.search.zoo import bred\n"
        "search.export.outputs_in_fresh_process = lambda folder, inputs: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"exported(Path({str(tmp_path / 'out')!r}), *bred('mlp'))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "out").exists()
    assert all(path.name.startswith(".out.") for path in tmp_path.iterdir())


# -- what was tampered with ------------------------------------------------------------------------------------------

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


# -- networks that cannot be traced ----------------------------------------------------------------------------------


class Wild(nn.Module):
    """Decides by its data; no graph can say that."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width)
        self.linear = nn.Linear(width, 2)
        self.bias = nn.Parameter(torch.randn(2))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn(self.conv(x))).mean((2, 3))
        if y.sum() < 0:
            y = -y
        logits: Tensor = self.linear(y) + self.bias
        return logits


class Doubled(nn.Module):
    """Kept whole by a test, and nothing that a file may name."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_a_network_that_cannot_be_traced_loads_only_into_its_class(tmp_path: Path) -> None:
    network, inputs = Wild().eval(), (torch.randn(2, 3, 5, 5),)
    out = exported(tmp_path / "out", network, inputs)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["rebuild"]["class"] == "tests.search.test_export:Wild"
    assert "values of the data" in manifest["rebuild"]["reason"]
    assert "pass network=, a tests.search.test_export:Wild" in refusal(out)
    again = load(out, Wild())
    assert not again.training
    assert torch.equal(outputs(again, inputs), outputs(network, inputs))
    assert json.loads((out / "parity.json").read_text())["process"] == "the same process"
    assert "network=..." in (out / "README.md").read_text()


def test_layers_that_shrank_shrink_in_the_class_as_well(tmp_path: Path) -> None:
    network, inputs = Wild(width=4).eval(), (torch.randn(2, 3, 5, 5),)
    save_network(tmp_path, network, inputs)
    again = read_network(tmp_path, Wild(width=6))
    assert torch.equal(outputs(again, inputs), outputs(network, inputs))
    assert again.get_submodule("conv").out_channels == 4


def test_a_traced_network_that_no_file_can_hold_is_stored_for_its_class(tmp_path: Path) -> None:
    network, inputs = nn.Sequential(nn.Linear(3, 3), Doubled()).eval(), (torch.randn(2, 3),)
    traced = trace(network, inputs, leaves=(Doubled,))
    data = save_network(tmp_path, traced, inputs)
    assert data["rebuild"]["class"] == "torch.nn.modules.container:Sequential"
    assert "Doubled" in data["rebuild"]["reason"]
    again = read_network(tmp_path, nn.Sequential(nn.Linear(3, 3), Doubled()))
    assert torch.equal(outputs(again, inputs), outputs(network, inputs))


def test_another_class_is_refused(tmp_path: Path) -> None:
    save_network(tmp_path, Wild().eval(), (torch.randn(2, 3, 5, 5),))
    with pytest.raises(ExportError, match="must have a module conv, but has none"):
        read_network(tmp_path, nn.Sequential(nn.Linear(2, 2)))


def test_a_network_with_its_graph_takes_no_class(whole: Path) -> None:
    assert "leave network= out" in refusal(whole, Wild())


# -- a trial's pair of files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_a_trial_s_network_comes_back_bitwise(name: str, tmp_path: Path) -> None:
    network, inputs = bred(name)
    save_network(tmp_path, trace(network, inputs), inputs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["architecture.json", "final.safetensors"]
    assert torch.equal(outputs(read_network(tmp_path), inputs), outputs(network, inputs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_numbers_come_back_bitwise(dtype: torch.dtype, tmp_path: Path) -> None:
    network, (x,) = bred("plain")
    network.to(dtype)
    save_network(tmp_path, network, (x.to(dtype),))
    assert torch.equal(outputs(read_network(tmp_path), (x.to(dtype),)), outputs(network, (x.to(dtype),)))


def test_weights_that_share_memory_are_stored_each_by_itself(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)).eval()
    memory = torch.randn(8, 4)
    network[0].weight.data, network[1].weight.data = memory[:4], memory[2:6]
    inputs = (torch.randn(2, 4),)
    save_network(tmp_path, network, inputs)
    assert torch.equal(outputs(read_network(tmp_path), inputs), outputs(network, inputs))


def test_saving_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    network, inputs = bred("convnext")
    network.train()
    state = copy.deepcopy(network.state_dict())
    save_network(tmp_path, network, inputs)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())


def test_a_trial_that_is_not_finished_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="let the trial finish"):
        read_network(tmp_path)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([torch.tensor([1.0, 2.5])], "differ by 0.5"),
        ([torch.tensor([1.0])], "has others"),
        ([torch.tensor([1.0, 2.0]).double()], "has others"),
        ([], "has others"),
        ([torch.tensor([1.0, float("nan")])], "differ by inf"),
    ],
)
def test_outputs_that_differ_are_no_parity(found: list[Tensor], said: str) -> None:
    with pytest.raises(ExportError, match=said):
        compared([torch.tensor([1.0, 2.0])], found)


def test_rounding_is_reported_and_infinities_are_equal() -> None:
    ours = torch.tensor([1.0, float("inf"), float("nan"), -4.0])
    parity = compared([ours], [ours + torch.tensor([1e-6, 0.0, 0.0, 0.0])])
    assert parity["max_abs_difference"] == pytest.approx(1e-6, rel=0.1)
    assert parity["max_abs_output"] == 4.0
