"""Operations by hand: each does what it says, and undo restores everything bit by bit."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search.installation import ROOT
from search.surgery.surgeon import Surgeon
from spaces.errors import NetworkError, StorageError
from tests.nets import Blobs, tiny_cnn
from tests.test_readme_docs import fences, section

TASK = Blobs()
X = TASK.example_inputs()
OPERATIONS = ("disconnect", "connect", "shift", "mask", "revive", "edge", "remove")


def new_surgeon() -> Any:
    network = tiny_cnn()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    surgeon = Surgeon(network, X, optimizer)
    return surgeon, optimizer


def train(surgeon: Any, optimizer: Any, steps: Any = 2) -> None:
    surgeon.network.train()
    for _, (x, y) in zip(range(steps), TASK.batches("train", shuffle_seed=1), strict=False):
        optimizer.zero_grad()
        TASK.loss(surgeon.network(x), y).backward()  # type: ignore[no-untyped-call]
        surgeon.mask_gradients()
        optimizer.step()
    surgeon.network.eval()


def operate(surgeon: Any, operation: Any, seed: Any) -> Any:
    """One random operation; False where there was nothing to operate on."""
    generator = torch.Generator().manual_seed(seed)
    names = list(surgeon.site.connectivity.weights)
    name = names[seed % len(names)]
    where = torch.rand(surgeon.site.connectivity.weights[name].shape, generator=generator) < 0.5
    if operation == "disconnect":
        surgeon.disconnect(name, where)
    elif operation == "connect":
        surgeon.connect(name, where)
    elif operation == "shift":
        surgeon.shift(name, names[(seed + 1) % len(names)], 7)
    elif operation == "mask":
        surgeon.mask_channels("3.conv1.weight", [seed % 8, (seed + 3) % 8])
    elif operation == "revive":
        surgeon.revive_channels("3.conv1.weight", [seed % 8])
    elif operation == "edge":
        pairs = [("0", "3.conv1"), ("0", "3.conv2"), ("3.conv1", "6")]
        ends = pairs[seed % 3]
        if ends in [(edge.source, edge.target) for edge in surgeon.edges]:
            return False
        surgeon.add_edge(*ends)
    elif surgeon.edges:
        surgeon.remove_edge(surgeon.edges[seed % len(surgeon.edges)])
    else:
        return False
    return True


def everything(surgeon: Any) -> Any:
    optimizer = surgeon.site.optimizer
    tensors = dict(surgeon.network.state_dict()) | surgeon.site.connectivity.state()
    tensors |= {f"optimizer/{name}": value for name, value in optimizer.state().items()}
    return {name: value.clone() for name, value in tensors.items()}, surgeon.network(*X).clone(), surgeon.ledger


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 1000)), min_size=1, max_size=5))
def test_undo_restores_bit_by_bit(sequence: Any) -> None:
    surgeon, optimizer = new_surgeon()
    train(surgeon, optimizer)
    for operation, seed in sequence[:-1]:
        operate(surgeon, operation, seed)
        train(surgeon, optimizer, 1)
    before, outputs, ledger = everything(surgeon)
    if operate(surgeon, *sequence[-1]):
        surgeon.undo()
    after, again, books = everything(surgeon)
    assert torch.equal(outputs, again)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert books == ledger
    train(surgeon, optimizer, 1)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 1000)), min_size=1, max_size=6))
def test_finalized_computes_what_the_network_under_surgery_does(sequence: Any) -> None:
    surgeon, optimizer = new_surgeon()
    for operation, seed in sequence:
        operate(surgeon, operation, seed)
        train(surgeon, optimizer, 1)
    with torch.no_grad():
        expected = surgeon.network(*X)
        torch.testing.assert_close(surgeon.finalize()(*X), expected, rtol=1e-4, atol=1e-5)
    active = surgeon.site.connectivity.recount()
    assert {n: a for n, a in surgeon.ledger.active().items() if a} == {n: a for n, a in active.items() if a}


def test_shift_keeps_the_number_of_connections() -> None:
    surgeon, _ = new_surgeon()
    connectivity = surgeon.site.connectivity
    surgeon.disconnect("6.weight", torch.ones(4, 8, dtype=torch.bool))
    total = sum(connectivity.active.values())
    assert surgeon.shift("3.conv1.weight", "6.weight", 10) == 10
    assert sum(connectivity.active.values()) == total
    assert connectivity.active["6.weight"] == 10
    assert surgeon.shift("3.conv1.weight", "6.weight", 1000) == 22, "no more than there is room for"


def test_every_operation_that_cannot_be_done_says_what_can() -> None:
    surgeon, _ = new_surgeon()
    where = torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(NetworkError, match=r"did you mean '3\.conv1\.weight'"):
        surgeon.disconnect("3.conv1", where)
    with pytest.raises(NetworkError, match="make it like the weight"):
        surgeon.connect("3.conv1.weight", where)
    with pytest.raises(NetworkError, match="from 6 one can reach nothing"):
        surgeon.add_edge("6", "0")
    with pytest.raises(NetworkError, match="channels 0 to 7"):
        surgeon.mask_channels("3.conv1.weight", [9])
    with pytest.raises(NetworkError, match="no operation to undo"):
        surgeon.undo()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 1000)), min_size=1, max_size=5))
def test_what_is_saved_goes_on_elsewhere_bit_by_bit(sequence: Any) -> None:
    surgeon, optimizer = new_surgeon()
    train(surgeon, optimizer)
    for operation, seed in sequence:
        operate(surgeon, operation, seed)
        train(surgeon, optimizer, 1)
    other, others_optimizer = new_surgeon()
    other.add_edge("0", "3.conv2")  # what the other one had is gone
    with tempfile.TemporaryDirectory() as folder:
        surgeon.save(Path(folder) / "now.safetensors")
        other.load(Path(folder) / "now.safetensors")
    for each, its in ((surgeon, optimizer), (other, others_optimizer)):
        train(each, its)
    (tensors, outputs, ledger), (others, other_outputs, other_ledger) = everything(surgeon), everything(other)
    assert tensors.keys() == others.keys()
    for name, value in tensors.items():
        assert torch.equal(value, others[name]), name
    assert torch.equal(outputs, other_outputs)
    assert ledger == other_ledger


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    surgeon, _ = new_surgeon()
    surgeon.save(tmp_path / "now.safetensors")
    other = Surgeon(torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2)), (torch.randn(2, 3),))
    with pytest.raises(NetworkError, match="must be of this network"):
        other.load(tmp_path / "now.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"no tensors")
    for name in ("torn.safetensors", "missing.safetensors"):
        with pytest.raises(StorageError, match="must be what a surgeon saved"):
            surgeon.load(tmp_path / name)


def test_the_example_of_the_page_runs_as_it_stands(tmp_path: Path) -> None:
    (script,) = fences((ROOT / "docs" / "surgery.md").read_text(encoding="utf-8"), "python")
    (tmp_path / "example.py").write_text(script, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    created, pruned = map(int, re.findall(r"(\d+) (?:created|pruned)", done.stdout))
    assert created > 0
    assert pruned > created
    assert "Conv2d(8, 7, " in done.stdout


def test_every_operation_is_on_the_page() -> None:
    table = section((ROOT / "docs" / "surgery.md").read_text(encoding="utf-8"), "## Operations")
    cells = " ".join(re.findall(r"^\| ([^|]*) \|", table, flags=re.MULTILINE))
    operations = {name for name, value in vars(Surgeon).items() if not name.startswith("_") and callable(value)}
    assert set(re.findall(r"`(\w+)\(", cells)) == operations
