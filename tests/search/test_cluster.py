"""On a cluster: what becomes of trials whose node goes, where trials are placed, and what is sent to it as a job."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from objectives.task import Task
from search.installation import ROOT
from search.progress import Silent
from search.result import Report, TaskReference, TrialRequest, TrialResult
from search.runners.runner import Work
from search.study import Study
from search.study_file import StudyFile
from search.toml import to_toml
from spaces.errors import StudyError, StudyFileError
from tests.search.balance import balanced
from tests.search.clusters import free_port, nodes_on_this_machine, pleach, settle_anew, slow
from tests.search.desk import BASELINE, Desk, request
from tests.search.drive import study_of
from tests.search.quick import TinyTask

# What imports Ray is imported within the tests: Ray reads its settings when it is imported.
settled = pytest.fixture(scope="module", autouse=True)(settle_anew)


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


def in_company(folder: Path, request: TrialRequest, *args: Any, **kwargs: Any) -> Iterator[TrialResult]:
    """A trial that ends when another one runs at the same time; says on which node it was."""
    import ray

    (folder / request.key).touch()
    limit = time.monotonic() + 90
    while len(list(folder.iterdir())) < 2 and time.monotonic() < limit:
        time.sleep(0.1)
    metrics = {"together": float(time.monotonic() < limit)}
    node = str(ray.get_runtime_context().get_node_id())
    yield TrialResult(request, "complete", {"accuracy": 1.0, "macs": 1.0}, metrics, reason=node)


@pytest.mark.slow
def test_a_node_that_joins_is_used(tmp_path: Path, nodes: Nodes) -> None:
    address, running = nodes.want("one"), tmp_path / "running"
    running.mkdir()

    class Growing(Desk):
        def begun(self, request: TrialRequest) -> None:
            super().begun(request)
            if len(self.beginnings) == 1:
                nodes.add("two")

    desk = Growing(request(0), request(1))
    work = Work(
        TaskReference("tests.search.quick:TinyTask"), ("accuracy",), BASELINE, tmp_path / "checkpoints",
        run_trial=partial(in_company, running),
    )  # fmt: skip
    with runner(tmp_path / "r", address) as entered:
        entered.run(work, desk)
    assert [result.metrics["together"] for result in desk.results.values()] == [1.0, 1.0]
    assert len({result.reason for result in desk.results.values()}) == 2


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
