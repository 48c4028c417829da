"""On a cluster: what travels, what becomes of trials whose node goes, and where trials are placed."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import torch
import yaml
from torch import nn

from objectives.task import Task
from search.installation import ROOT
from search.progress import Silent
from search.result import Report, TaskReference, TrialRequest, TrialResult
from search.runners.environment import settle
from search.runners.runner import Work
from search.study import Study
from search.study_file import StudyFile
from search.toml import to_toml
from spaces.errors import StudyError, StudyFileError
from tests.search.balance import balanced
from tests.search.clusters import free_port, nodes_on_this_machine, pleach, slow
from tests.search.drive import study_of
from tests.search.quick import TinyTask
from tests.search.test_runners import BASELINE, Desk, request

# What imports Ray is imported within the tests: Ray reads its settings when it is imported.
if TYPE_CHECKING:
    from search.runners.depot import Depot


@pytest.fixture(scope="module", autouse=True)
def settled(tmp_path_factory: pytest.TempPathFactory) -> None:
    settle(tmp_path_factory.mktemp("ray"))


# -- what travels, without a cluster --------------------------------------------------------------------------------


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


# -- on a cluster ---------------------------------------------------------------------------------------------------


class Nodes:
    """The one cluster of these tests: its nodes are called by name, so that each test says which it needs."""

    def __init__(self, cluster: Any) -> None:
        self.cluster, self._nodes = cluster, dict[str, Any]()

    def want(self, *names: str) -> str:
        """Have these nodes, and no others; returns the address."""
        for name in [name for name in self._nodes if name not in names]:
            self.take(name)
        for name in names:
            if name not in self._nodes:
                self.add(name)
        return str(self.cluster.address)

    def add(self, name: str) -> None:
        gpu = 1 if name == "gpu" else 0
        # A folder of its own, as on a machine of its own: a node that goes takes what was unpacked there with it.
        folder = Path(tempfile.mkdtemp(prefix=name[0], dir=os.environ["RAY_TMPDIR"]))
        self._nodes[name] = self.cluster.add_node(
            num_cpus=2 if gpu else 1,
            num_gpus=gpu,
            object_store_memory=100 * 1024**2,
            resources={name: 1},
            temp_dir=str(folder),
        )

    def take(self, name: str) -> None:
        """Kill a node with everything on it."""
        self.cluster.remove_node(self._nodes.pop(name), allow_graceful=False)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with nodes_on_this_machine(include_dashboard=True, dashboard_port=free_port()) as cluster:
        yield Nodes(cluster)


class Watch(Silent):
    """Does something at a report or a decision."""

    def __init__(self, act: Callable[[TrialRequest, Report], None]) -> None:
        self.act, self.notices = act, list[str]()

    def reported(self, request: TrialRequest, report: Report) -> None:
        self.act(request, report)

    def noticed(self, line: str) -> None:
        self.notices.append(line)


def on(address: str, trials: int, concurrent: int = 2, **tables: Any) -> dict[str, Any]:
    resources = {"address": address, **tables.pop("resources", {})}
    return study_of(trials, runner="tune", concurrent=concurrent, resources=resources, **tables)


@pytest.mark.slow
def test_a_node_that_is_killed_costs_no_more_than_what_it_was_computing(tmp_path: Path, nodes: Nodes) -> None:
    home, trace = tmp_path / "home", tmp_path / "trace"
    address = nodes.want("one", "two")
    seen: dict[int, int] = {}

    def act(request: TrialRequest, report: Report) -> None:
        seen[request.number] = report.iteration
        if request.number == 3 and report.iteration == 2:
            nodes.take("two")
        if len(seen) == 5 and "two" not in nodes._nodes:
            nodes.add("two")  # it comes back, and is used

    watch = Watch(act)
    summary = Study.create(on(address, 8), home).run(watch, trial=slow(0.25, trace)).summary
    assert summary["trials"]["complete"] == 8
    balanced(home, 8)
    computed = [tuple(line.split()[:2]) for line in trace.read_text().splitlines()]
    assert len(set(computed)) == 8 * 4
    # Two trials ran at most when the node was killed: each may compute one iteration again, and no more.
    assert len(computed) - len(set(computed)) <= 2
    assert watch.notices == []
    # Workers write nothing of their own into the home: what the trials left came through the depot.
    assert len(list((home / "studies" / "kept" / "checkpoints").iterdir())) == 8
    assert not list((home / "studies" / "kept" / "checkpoints").rglob("reports.json"))


@pytest.mark.slow
def test_training_goes_on_at_the_last_checkpoint_with_the_drivers_network(tmp_path: Path, nodes: Nodes) -> None:
    home, trace = tmp_path / "home", tmp_path / "trace"
    address = nodes.want("one", "two")
    killed: list[int] = []

    def act(request: TrialRequest, report: Report) -> None:
        if report.iteration == 3 and not killed:
            killed.append(int(trace.read_text().splitlines()[-1]))
            psutil.Process(killed[0]).kill()

    data = on(address, 1, concurrent=1, budget={"iterations": 6, "epochs": 12.0}, constraints={"accuracy": ">= 0"})
    data["task"] = {"target": "tests.search.clusters:Counted", "args": {"trace": str(trace)}}
    data["spaces"]["pruning"] |= {"exclude": "none", "granularity": "channel"}
    study = Study.create(data, home)
    summary = study.run(Watch(act)).summary
    assert summary["trials"]["complete"] == 1
    balanced(home, 1)
    steps = [int(line) for line in trace.read_text().splitlines()]
    at_work = set(steps) - {os.getpid()}
    assert len(at_work) == 2
    # 12 passes of two batches in six iterations: four steps each, and some of the fourth were done at the kill.
    again = sum(process != os.getpid() for process in steps) - 24
    assert 0 <= again <= 4
    network = study.folder.checkpoints(study.books().results[0].request.key)
    assert {"architecture.json", "final.safetensors"} <= {path.name for path in network.iterdir()}
    # Its own network would be another one in every process; the one that was compressed is the one that was measured.
    from search.artifact.network import read_network

    made_by = dict(read_network(network).named_buffers())
    assert [int(buffer) for name, buffer in made_by.items() if "made_by" in name] in ([], [os.getpid()])


def says_where(
    request: TrialRequest, task: Task, *args: Any, checkpoints: Path, **kwargs: Any
) -> Iterator[TrialResult]:
    """Who ran it, where, on what share, with which code and which network."""
    import ray

    import search.trial

    assert checkpoints.parent.name == f"scratch_{os.getpid()}"
    context: Any = ray.get_runtime_context()
    metrics = {
        "began": time.time(),
        "gpu": float(context.get_assigned_resources().get("GPU", 0.0)),
        "sent": float("working_dir_files" in Path(search.trial.__file__).parts),
        "home": float(Path(os.environ["PLEACH_HOME"]).is_dir()),
    }
    time.sleep(1.0)
    node = str(context.get_node_id())
    yield TrialResult(
        request, "complete", {"accuracy": 1.0, "macs": 1.0}, {**metrics, "ended": time.time()}, reason=node
    )


def runner(folder: Path, address: str, **options: Any) -> Any:
    from search.runners.cluster import Share
    from search.runners.tune import TuneRunner

    share = Share(**options.pop("share", {}))
    return TuneRunner(
        TinyTask(), folder, concurrent=2, share=share, address=address, target="tests.search.quick:TinyTask", **options
    )


@pytest.mark.slow
def test_two_trials_share_a_gpu_and_find_code_and_network_there(tmp_path: Path, nodes: Nodes) -> None:
    address = nodes.want("gpu", "one")
    desk = Desk(request(0), request(1))
    work = Work(
        TaskReference("tests.search.quick:TinyTask"), ("accuracy",), BASELINE, tmp_path / "checkpoints",
        run_trial=says_where,
    )  # fmt: skip
    with runner(tmp_path / "r", address, share={"gpu": 0.5}) as entered:
        entered.run(work, desk)
    rows = [result.metrics for result in desk.results.values()]
    assert [row["gpu"] for row in rows] == [0.5, 0.5]
    assert len({result.reason for result in desk.results.values()}) == 1
    assert max(row["began"] for row in rows) < min(row["ended"] for row in rows)
    assert [row["sent"] for row in rows] == [1.0, 1.0]  # the code that was sent, not the one that lies here


@pytest.mark.slow
def test_a_trial_that_no_node_has_room_for_waits_and_can_be_let_go(tmp_path: Path, nodes: Nodes) -> None:
    address = nodes.want("one")
    desk, told = Desk(request(0)), list[str]()
    began = time.monotonic()

    def tell(line: str) -> None:
        told.append(line)

    class Ends(Desk):
        @property
        def stopped(self) -> bool:  # type: ignore[override]
            return time.monotonic() - began > 6

    desk = Ends(request(0))
    work = Work(TaskReference("tests.search.quick:TinyTask"), ("accuracy",), BASELINE, tmp_path / "checkpoints")
    with runner(tmp_path / "r", address, share={"gpu": 3}, tell=tell) as entered:
        entered.run(work, desk)
    assert told == ["no node of the cluster has what a trial asks for (1 CPU, 3 GPU): trials wait until one joins"]
    assert (desk.results, desk.losses, desk.beginnings) == ({}, {}, [])
    assert time.monotonic() - began < 60


@pytest.mark.slow
def test_a_clients_address_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with (
        pytest.raises(StudyError, match=r"^a study is driven from a machine of the cluster, but ray://head:10001 is"),
        runner(tmp_path / "r", "ray://head:10001"),
    ):
        pass
    assert not list((tmp_path / "r").glob("*"))


@pytest.mark.slow
def test_a_study_is_submitted_from_outside_followed_and_gone_on_with(tmp_path: Path, nodes: Nodes) -> None:
    nodes.want("one")
    outside, home = tmp_path / "outside", tmp_path / "on-the-head"
    outside.mkdir()
    (outside / "task.py").write_text("from tests.search.quick import TinyTask as Theirs\n")
    data = study_of(3, name="sent", runner="tune", budget={"iterations": 1})
    data["task"] = {"target": "task.py:Theirs"}
    (outside / "study.toml").write_text(to_toml(data))
    url = f"http://{nodes.cluster.head_node.webui_url}"
    sent = pleach("run", str(outside / "study.toml"), "--submit", url, "--home", str(home), "--no-check", "--json")
    assert sent.returncode == 0, sent.stderr
    job = json.loads(sent.stdout)
    assert (job["study"], job["address"], job["home"]) == ("sent", url, str(home))
    assert job["commands"]["follow"] == f"ray job logs {job['job']} --address {url} --follow"

    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(url)
    limit = time.monotonic() + 200
    while not (status := client.get_job_status(job["job"])).is_terminal():
        assert time.monotonic() < limit, client.get_job_logs(job["job"])
        time.sleep(0.5)
    logs = client.get_job_logs(job["job"])
    assert status == "SUCCEEDED", logs
    assert "[3/3]" in logs
    balanced(home, 3, "sent")
    assert Study.load("sent", home).file.resources.address == "auto"


def test_what_a_cluster_cannot_have_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    from search.runners.jobs import submit

    data = study_of(3, runner="tune")
    data["task"] = {"target": "cifar10", "args": {"data_dir": "data"}}
    with pytest.raises(StudyFileError, match=r"task\.args\.data_dir is 'data': write it in full"):
        submit(StudyFile.of(data, tmp_path), "http://127.0.0.1:1")
    with pytest.raises(StudyFileError, match=r'must be "tune", but is "inline"'):
        submit(StudyFile.of(study_of(3)), "http://127.0.0.1:1")
    with pytest.raises(StudyError, match=r"^the cluster at http://127.0.0.1:1 does not take the study \("):
        submit(StudyFile.of(study_of(3, runner="tune")), "http://127.0.0.1:1")


def test_the_example_of_a_growing_cluster_is_one_that_ray_takes() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    example = yaml.safe_load((ROOT / "docs" / "autoscaler.yaml").read_text())
    validate_config(prepare_config(example))
