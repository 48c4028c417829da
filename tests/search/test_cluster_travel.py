"""What travels between the machines of a cluster, tried without one: networks, code and the folders of trials."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from objectives.task import Task
from search.installation import ROOT
from spaces.errors import StudyError
from tests.search.clusters import settle_anew
from tests.search.quick import TinyTask

# What imports Ray is imported within the tests: Ray reads its settings when it is imported.
if TYPE_CHECKING:
    from search.runners.depot import Depot

settled = pytest.fixture(scope="module", autouse=True)(settle_anew)


class Odd(nn.Module):
    """Tied weights, a buffer that is not saved, numbers that numpy does not know, and a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("hidden", torch.arange(3.0), persistent=False)
        self.thin = nn.Parameter(torch.randn(2, 3).to(torch.bfloat16), requires_grad=False)
        self.loose = torch.eye(4)
        self.empty = torch.empty(0, 5)
        self.scale: Callable[[torch.Tensor], torch.Tensor] = lambda x: x * 2.0  # a function without a name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.scale(self.second(self.first(x) @ self.loose))
        return y


def test_a_network_comes_out_as_it_went_in() -> None:
    from search.runners.parcel import PackedNetwork

    network = Odd().eval()
    packed = PackedNetwork.of(network)
    again, other = packed.network(), packed.network()
    assert isinstance(again, Odd)
    x = torch.randn(2, 4)
    assert torch.equal(network(x), again(x))
    assert again.second.weight is again.first.weight
    assert torch.equal(dict(again.named_buffers())["hidden"], torch.arange(3.0))
    assert again.thin.dtype == torch.bfloat16
    assert torch.equal(again.thin, network.thin)
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in network.parameters()]
    assert again.empty.shape == (0, 5)
    assert not again.training
    with torch.no_grad():
        again.first.weight.zero_()
    assert torch.equal(other(x), network(x))


def test_the_structure_of_a_network_holds_none_of_its_numbers() -> None:
    from search.runners.parcel import PackedNetwork

    packed = PackedNetwork.of(nn.Sequential(nn.Linear(400, 400), nn.Linear(400, 400)))
    assert len(packed.structure) < 20_000
    assert sum(tensor.data.nbytes for tensor in packed.tensors) == 4 * 2 * (400 * 400 + 400)


def test_a_network_that_cannot_travel_is_one_line() -> None:
    from search.runners.parcel import PackedNetwork

    network = nn.Sequential(nn.Linear(2, 2))
    network.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(StudyError, match=r"^a network must be picklable to travel to a cluster, but is not \(.*\)$"):
        PackedNetwork.of(network)


def test_a_task_gives_the_network_that_came_with_it() -> None:
    from search.runners.parcel import PackedNetwork, give

    task: Task = TinyTask()
    network = nn.Sequential(nn.Linear(8, 4))
    give(task, PackedNetwork.of(network))
    assert torch.equal(
        dict(task.network().named_parameters())["0.weight"], dict(network.named_parameters())["0.weight"]
    )
    assert task.network() is not task.network()


def test_the_code_that_is_sent_runs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from search.runners.parcel import stage

    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "ours_to_send.py").write_text("class T: ...")
    monkeypatch.syspath_prepend(str(tmp_path / "theirs"))
    folder = stage(tmp_path / "code", "ours_to_send:T")
    assert {path.name for path in folder.iterdir()} == {
        "spaces", "objectives", "dashboards", "search", "ours_to_send.py",
    }  # fmt: skip
    sent = {path.relative_to(folder) for path in folder.rglob("*.py")} - {Path("ours_to_send.py")}
    packages = ("spaces", "objectives", "dashboards", "search")
    assert sent == {path.relative_to(ROOT) for name in packages for path in (ROOT / name).rglob("*.py")}
    assert not list(folder.rglob("__pycache__"))


@pytest.mark.parametrize("target", ["digits", "numpy:array", "file.py:Task", "objectives.tasks.digits:Digits"])
def test_what_is_installed_is_not_sent(tmp_path: Path, target: str) -> None:
    from search.runners.parcel import stage

    assert len(list(stage(tmp_path / "code", target).iterdir())) == 4


class _Remote:
    """A depot that is called as an actor's is."""

    def __init__(self, depot: Depot) -> None:
        for name in ("fetch", "keep"):
            method = getattr(depot, name)
            setattr(self, name, type("Method", (), {"remote": staticmethod(method)}))


def test_a_trials_folder_goes_to_the_depot_and_comes_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from search.runners.depot import Carrier, Depot

    monkeypatch.setattr(ray, "get", lambda found: found)
    depot = Depot(tmp_path / "home")
    carrier = Carrier(_Remote(depot), tmp_path / "node")
    carrier.take_up("k")
    mine = carrier.root / "k"
    (mine / "iteration-1.safetensors").write_bytes(b"one")
    (mine / "reports.json").write_text("[1]")
    (mine / "iteration-2.safetensors.part").write_bytes(b"tor")
    carrier.send()
    kept = tmp_path / "home" / "k"
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == {
        "iteration-1.safetensors": b"one",
        "reports.json": b"[1]",
    }
    before = (kept / "reports.json").stat().st_mtime_ns
    (mine / "iteration-1.safetensors").unlink()
    (mine / "iteration-2.safetensors").write_bytes(b"two")
    carrier.send()
    assert {path.name for path in kept.iterdir()} == {"iteration-2.safetensors", "reports.json"}
    assert (kept / "reports.json").stat().st_mtime_ns == before  # what did not change was not sent

    other = Carrier(_Remote(depot), tmp_path / "other-node")
    other.take_up("k")
    assert {path.name: path.read_bytes() for path in (other.root / "k").iterdir()} == {
        "iteration-2.safetensors": b"two",
        "reports.json": b"[1]",
    }
    other.clear()
    assert not other.root.exists()
    assert list(depot.fetch("another")) == []


def test_files_are_kept_in_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    from search.runners.depot import Depot

    depot = Depot(tmp_path)
    # A kill after any file leaves the last whole checkpoint: the reports name the tensors, and come after them.
    broken: Mapping[str, Any] = {"iteration-1.safetensors": np.frombuffer(b"one", np.uint8), "reports.json": None}
    with pytest.raises(OSError, match="cannot write"):
        depot.keep("k", broken, list(broken))
    assert (tmp_path / "k" / "iteration-1.safetensors").read_bytes() == b"one"
    assert not (tmp_path / "k" / "reports.json").exists()


def test_a_dead_workers_scratch_is_removed_by_the_next_one(tmp_path: Path) -> None:
    from search.runners.depot import Carrier

    (tmp_path / "scratch_999999999" / "k").mkdir(parents=True)
    (tmp_path / f"scratch_{os.getppid()}").mkdir()
    Carrier(None, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"scratch_{os.getppid()}"]
