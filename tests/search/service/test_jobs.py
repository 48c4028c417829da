"""The service with a cluster: its studies are jobs there, and all else is as with processes of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from search.home import Home, driver
from search.runners.choice import runner_for
from search.runners.environment import IN_JOB, settle
from search.service.launches import Launch, Launches
from search.service.looks import Looks
from search.service.processes import SILENT, Processes, Standing
from search.service.tokens import Tokens
from search.state import State, write_state
from search.study import Study
from search.study_file import StudyFile
from search.study_tables import ResourcesTable
from spaces.errors import StudyFileError, UnreachableError
from tests.search.balance import balanced
from tests.search.clusters import free_port, nodes_on_this_machine, pleach
from tests.search.quick import TinyTask
from tests.search.service.live import STUDY, Live, events, served, study, tokens

# What imports Ray is imported within the tests: Ray reads its settings when it is imported.
if TYPE_CHECKING:
    from search.runners.head import Head

NOBODY = "http://127.0.0.1:1"
THERE: dict[str, Any] = {"runner": "tune", "concurrent": 1}
LONG = {
    **study("long", study={"trials": 400}, resources=THERE),
    "objectives": {"accuracy": "maximize", "macs": "minimize"},
}
DECIDED = ("complete", "pruned", "failed")


@pytest.fixture(scope="module", autouse=True)
def settled(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Ray keeps what it reads when it is first imported: the way in of the cluster below, too."""
    settle(tmp_path_factory.mktemp("ray"))


# -- a cluster that does not answer ---------------------------------------------------------------------------------


def test_a_service_whose_cluster_does_not_answer_does_not_start(tmp_path: Path) -> None:
    Tokens.of(Home(tmp_path)).add("ada", ("read", "launch"))
    said = pleach("serve", "--task", "digits", "--home", str(tmp_path), "--port", "0", "--submit", NOBODY)
    assert said.returncode == 2
    lines = said.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"pleach: the cluster at {NOBODY} does not answer (")
    assert "pleach[cluster]" in lines[0]


def test_what_a_cluster_does_not_take_leaves_no_trace_and_its_address_is_the_operators(tmp_path: Path) -> None:
    processes = Processes(Home(tmp_path), NOBODY)
    file = StudyFile.of(study("sent", task={"target": "tests.search.quick:TinyTask"}, resources=THERE))
    with pytest.raises(UnreachableError, match=f"^the cluster at {NOBODY} does not take the study"):
        processes.start(file, "ada")
    assert processes.names() == []
    inline = StudyFile.of(study("inline", task={"target": "tests.search.quick:TinyTask"}))
    with pytest.raises(StudyFileError, match=r'^resources\.runner of a submitted study must be "tune"'):
        processes.start(inline, "ada")
    assert processes.names() == []


def test_while_the_cluster_is_silent_its_studies_are_taken_to_run(tmp_path: Path) -> None:
    home = Home(tmp_path)
    launches, processes = Launches(home), Processes(home)
    launches.keep(Launch("lost", "ada", time.time(), job="pleach-lost-1", cluster=NOBODY))
    assert processes.standing("lost") == Standing("starting", SILENT)
    file = StudyFile.of(study("lost", task={"target": "tests.search.quick:TinyTask"}, resources=THERE))
    folder = home.study("lost")
    folder.root.mkdir(parents=True)
    folder.file.write_text(file.text, encoding="utf-8")
    write_state(folder, State(identity="1", phase="running", file=file.text))
    assert Study.load("lost", home).state.phase == "interrupted"  # as far as this machine sees
    look = Looks(home, processes).look("lost")
    assert (look.summary["state"], look.summary["reason"]) == ("running", SILENT)
    assert processes.at_work("lost")  # so that it is not driven twice
    write_state(folder, State(identity="1", phase="complete", file=file.text))
    assert Looks(home, processes).look("lost").summary["state"] == "complete"  # the home has the last word


def test_a_job_that_names_no_cluster_runs_its_trials_on_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def address(**resources: Any) -> Any:
        table = ResourcesTable(**resources)
        return vars(runner_for(table, Home(tmp_path), TinyTask(), lambda _: None))["_address"]

    monkeypatch.delenv(IN_JOB, raising=False)
    assert address() is None
    monkeypatch.setenv(IN_JOB, "{}")
    assert address() == "auto"
    assert address(address="head:6379") == "head:6379"


# -- a cluster ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a head's dashboard."""
    with nodes_on_this_machine(include_dashboard=True, dashboard_port=free_port(), num_cpus=1) as found:
        yield f"http://{found.head_node.webui_url}"


def job_of(live: Live, name: str) -> str:
    launch = Launches(live.home).latest(name)
    assert launch is not None
    assert launch.pid == 0
    return launch.job


def ended(head: Head, job: str) -> None:
    limit = time.monotonic() + 120
    while head.life(job) != "ended":
        assert time.monotonic() < limit, head.log(job)
        time.sleep(0.1)


def decided(found: dict[str, Any]) -> int:
    return sum(found["trials"].get(state, 0) for state in DECIDED)


@pytest.mark.slow
def test_a_head_that_does_not_see_the_home_says_so(cluster: str, tmp_path: Path) -> None:
    from search.runners.head import Head
    from search.runners.jobs import send_words

    head = Head(cluster)
    file = StudyFile.of(study("blind", task={"target": "tests.search.quick:TinyTask"}, resources=THERE))
    send_words(head, "pleach-blind-1", file, ["run", "x"], needs=tmp_path / "isn't", by="ada")
    ended(head, "pleach-blind-1")
    assert "\npleach: the cluster's head must see the service's home" in head.log("pleach-blind-1")
    assert head.life("pleach-nobody-1") == "ended"


@pytest.mark.slow
def test_a_job_outlives_the_service_and_is_found_again_stopped_resumed_and_followed(
    cluster: str, tmp_path: Path
) -> None:
    from search.runners.head import Head

    place = tmp_path / "home"
    secrets = tokens(place)
    with served(place, secrets, "--submit", cluster) as first:
        assert first.call("POST", "/v1/studies", token="read", json=LONG).status_code == 403
        assert "must be" in first.call("POST", "/v1/studies", json=STUDY).json()["error"]  # its runner is inline
        first.launch(LONG)
        first.launch(study("soon", resources=THERE))
        assert first.call("POST", "/v1/studies/soon/stop").json()["stopping"] == "now"
        assert first.until("soon", "refused")["reason"] == "it was stopped before its first trial"
        first.until("long", "running")
        job = job_of(first, "long")
        first.kill()
    folder = Home(place).study("long")
    assert driver(folder) is not None
    folder.lock.write_text("")  # from now on its driver could as well be on another machine
    assert Study.load("long", place).state.phase == "interrupted"
    with served(place, secrets, "--submit", cluster) as second:
        assert job_of(second, "long") == job
        assert second.get("/v1/studies/long")["state"] == "running"
        assert second.call("POST", "/v1/studies/long/resume").status_code == 409
        assert second.call("POST", "/v1/studies/long/stop", params={"now": "true"}).status_code == 202
        done = decided(second.until("long", "stopped"))
        assert done < 400
        more = {"trials": done + 1}
        assert second.call("POST", "/v1/studies/long/resume", json=more).status_code == 202
        assert job_of(second, "long") != job
        seen = list(events(second.call("GET", "/v1/studies/long/progress", stream=True)))
        states = [data["state"] for name, _, data in seen if name == "study"]
        assert (states[0], states[-1]) == ("starting", "complete"), seen
        assert "interrupted" not in states
        assert decided(second.get("/v1/studies/long")) == done + 1
        assert second.get("/v1/studies/long/front")["front"]
        assert second.get("/v1/studies/long/best")["best"]["profile"]
        ended(Head(cluster), job_of(second, "long"))
    balanced(place, done + 1, "long")
