"""The service as clients meet it: one real server, real studies in processes of their own."""

from __future__ import annotations

import io
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from search.export import load
from search.home import Home, driver
from search.service.tokens import Tokens
from search.study import Study
from tests.search.service.live import STUDY, Live, events, served, study, tokens

CALLS = [
    ("GET", "/v1/tasks"),
    ("GET", "/v1/studies"),
    ("POST", "/v1/studies"),
    ("GET", "/v1/studies/digits-small"),
    ("GET", "/v1/studies/digits-small/progress"),
    ("POST", "/v1/studies/digits-small/stop"),
    ("POST", "/v1/studies/digits-small/resume"),
    ("GET", "/v1/studies/digits-small/front"),
    ("GET", "/v1/studies/digits-small/best"),
    ("GET", "/v1/studies/digits-small/export"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/dashboard/"),
    ("POST", "/dashboard/_dash-update-component"),
    ("GET", "/nothing"),
]


# -- a study from its launch to its network -------------------------------------------------------------------------


def test_the_stream_tells_of_every_change_until_the_study_is_at_rest(live: Live) -> None:
    seen = live.seen
    assert [name for name, _, _ in seen] == ["study"] * (len(seen) - 1) + ["end"]
    states = [data["state"] for name, _, data in seen if name == "study"]
    assert states[0] in ("starting", "running")
    assert states[-1] == "complete"
    decided = [sum(data["trials"].get(s, 0) for s in ("complete", "failed")) for n, _, data in seen if n == "study"]
    assert decided == sorted(decided)
    assert decided[-1] == 3


def test_a_stream_that_is_taken_up_again_does_not_repeat_itself(live: Live) -> None:
    last = [identity for name, identity, _ in live.seen if name == "study"][-1]
    again = live.call("GET", "/v1/studies/digits-small/progress", stream=True, headers={"Last-Event-ID": last})
    assert [name for name, _, _ in events(again)] == ["end"]


def test_what_is_answered_is_what_the_home_holds(live: Live) -> None:
    summary = Study.load("digits-small", live.home).summary()
    found = live.get("/v1/studies/digits-small")
    assert set(summary) - set(found) == {"home", "mlflow_uri"}  # these are the operator's
    assert found == {key: summary[key] for key in found}
    assert live.get("/v1/studies/digits-small/front")["front"] == summary["front"]
    assert live.get("/v1/studies/digits-small/best")["best"] == summary["best"]
    assert found in live.get("/v1/studies")


def test_a_condition_narrows_the_best(live: Live) -> None:
    sizes = sorted(member["scores"]["parameters"] for member in live.get("/v1/studies/digits-small/front")["front"])
    best = live.get("/v1/studies/digits-small/best", params={"where": f"parameters <= {sizes[0]}"})["best"]
    assert best["scores"]["parameters"] == sizes[0]
    never = live.get("/v1/studies/digits-small/best", params={"where": "parameters <= 1"})["best"]
    assert never["feasible"] is False


def test_nothing_is_sent_again_that_did_not_change(live: Live) -> None:
    first = live.call("GET", "/v1/studies/digits-small")
    again = live.call("GET", "/v1/studies/digits-small", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_export_is_a_folder_that_stands_alone(live: Live, tmp_path: Path) -> None:
    answer = live.call("GET", "/v1/studies/digits-small/export", token="read")
    assert answer.status_code == 200, answer.text
    best = live.get("/v1/studies/digits-small/best")["best"]["trial"]
    zipfile.ZipFile(io.BytesIO(answer.content)).extractall(tmp_path)
    network = load(tmp_path / f"digits-small-{best}")
    assert sum(p.count_nonzero().item() for p in network.parameters()) > 0
    began = time.monotonic()
    assert live.call("GET", "/v1/studies/digits-small/export", params={"trial": best}).content == answer.content
    assert time.monotonic() - began < 5  # made once


# -- who may what ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("verb", "path"), CALLS)
def test_nothing_but_health_is_answered_without_a_token(live: Live, verb: str, path: str) -> None:
    for token in (None, "pleach_wrong", ""):
        answer = live.call(verb, path, token=token)
        assert answer.status_code == 401
        assert set(answer.json()) == {"error"}


def test_health_is_answered_to_everybody(live: Live) -> None:
    assert live.call("GET", "/health", token=None).json() == {"status": "ok"}


def test_a_right_opens_its_own_calls_alone(live: Live) -> None:
    for verb, path in CALLS:
        needed = "launch" if verb == "POST" and path.startswith("/v1") else "read"
        other = "read" if needed == "launch" else "launch"
        answer = live.call(verb, path, token=other)
        assert answer.status_code == 403, (verb, path)
        assert f"needs the right {needed}" in answer.json()["error"]


def test_a_token_that_is_revoked_opens_nothing_from_then_on(live: Live) -> None:
    known = Tokens.of(live.home)
    secret = known.add("guest", ("read",))
    assert live.call("GET", "/v1/tasks", token=secret).status_code == 200
    known.revoke("guest")
    assert live.call("GET", "/v1/tasks", token=secret).status_code == 401


def test_a_browser_trades_a_token_for_a_cookie_that_only_looks(live: Live) -> None:
    browser = type(live.session)()
    where = live.address
    shown = browser.get(f"{where}/dashboard/", headers={"Accept": "text/html"})
    assert shown.url == f"{where}/login"
    assert browser.post(f"{where}/login", data={"token": "pleach_wrong"}).status_code == 401
    inside = browser.post(f"{where}/login", data={"token": live.secrets["all"]})
    assert inside.url == f"{where}/dashboard/"
    cookie = next(iter(browser.cookies))
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert cookie.value not in live.secrets.values()
    assert browser.get(f"{where}/v1/studies").status_code == 200
    assert browser.post(f"{where}/v1/studies/digits-small/stop").status_code == 403
    asked: dict[str, Any] = {
        "output": "page.children",
        "outputs": {"id": "page", "property": "children"},
        "inputs": [{"id": "where", "property": "pathname", "value": "/dashboard/"}],
        "changedPropIds": ["where.pathname"],
    }
    drawn = browser.post(f"{where}/dashboard/_dash-update-component", json=asked)
    assert "digits-small" in drawn.text
    elsewhere = {"Origin": "https://elsewhere.example"}
    assert browser.post(f"{where}/dashboard/_dash-update-component", json=asked, headers=elsewhere).status_code == 403


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"task": {"target": "tests.search.quick:TinyTask"}}, "task.target must be on the operator's list"),
        ({"task": {"target": "/etc/passwd.py:Task"}}, "task.target must be on the operator's list"),
        ({"task": {"target": "tiny", "args": {"data_dir": "/etc"}}}, "task.args.data_dir is not an argument"),
        ({"task": {"target": "tiny", "args": {"samples": 65}}}, "task.args.samples must be one of"),
        ({"storage": {"optuna": "sqlite:////tmp/x.db"}}, "the databases of a study are the operator's"),
        ({"resources": {"address": "ray://10.0.0.1"}}, "the cluster of a study is the operator's"),
        ({"study": {"name": "../up"}}, "study.name"),
        ({"study": {"name": "x", "trials": 401}}, "study.trials may be at most 400 here, but is 401"),
        ({"spaces": {"pruning": {"sparsity": 2}}}, "sparsity"),
        ({"sparces": {}}, "there is no key 'sparces'"),
    ],
)
def test_what_a_client_may_not_choose_is_refused_with_one_line(
    live: Live, change: dict[str, object], says: str
) -> None:
    answer = live.call("POST", "/v1/studies", json={**study("refused"), **change})
    assert answer.status_code == 422
    (error,) = answer.json().values()
    assert says in error
    assert "\n" not in error
    assert "refused" not in {found["study"] for found in live.get("/v1/studies")}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"a": NaN}', b'{"a": "\\ud800"}', b"[" * 100_000, b"\xff"])
def test_a_body_that_is_no_study_is_refused_with_one_line(live: Live, body: bytes) -> None:
    answer = live.call("POST", "/v1/studies", data=body)
    assert answer.status_code == 422
    assert "\n" not in answer.json()["error"]


def test_a_body_that_is_too_long_is_refused(live: Live) -> None:
    assert live.call("POST", "/v1/studies", data=b" " * (2**20 + 1)).status_code == 413
    chunks = (b" " * 2**16 for _ in range(20))  # says nothing of its length
    assert live.call("POST", "/v1/studies", data=chunks).status_code == 413


def test_a_study_that_cannot_run_says_why(live: Live) -> None:
    live.launch(study("broken", task={"target": "broken"}) | {"constraints": {"accuracy": ">= 0.2 * baseline"}})
    found = live.until("broken", "refused")
    assert "NoSuchTask" in found["reason"]
    assert live.call("GET", "/v1/studies/broken/export").status_code == 409


def test_what_is_not_there_is_said_without_folders(live: Live) -> None:
    answer = live.call("GET", "/v1/studies/digits-smal")
    assert answer.status_code == 404
    assert answer.json() == {"error": "there is no study 'digits-smal': did you mean 'digits-small'?"}


def test_a_study_is_launched_once_and_a_resting_one_is_not_stopped(live: Live) -> None:
    assert live.call("POST", "/v1/studies", json=STUDY).status_code == 409
    assert live.call("POST", "/v1/studies/digits-small/stop").status_code == 409


# -- stop, resume, and the service's own end ------------------------------------------------------------------------


def test_a_study_is_stopped_and_goes_on(live: Live) -> None:
    live.launch(study("long", study={"trials": 400}))
    found = live.until("long", "running")
    assert driver(live.home.study("long")) is not None
    assert live.call("POST", "/v1/studies/long/resume").status_code == 409  # it runs
    assert live.call("POST", "/v1/studies/long/stop", params={"now": "true"}).status_code == 202
    found = live.until("long", "stopped")
    done = sum(found["trials"][state] for state in ("complete", "pruned", "failed"))
    assert done < 400
    more = {"trials": done + 1}
    assert live.call("POST", "/v1/studies/long/resume", json=more).status_code == 202
    found = live.until("long", "complete")
    assert sum(found["trials"][state] for state in ("complete", "pruned", "failed")) == done + 1


def test_a_study_whose_task_is_not_listed_is_not_resumed(live: Live, tmp_path: Path) -> None:
    made = Study.create(study("own", task={"target": "tests.nets:Blobs", "args": {"kind": "mlp"}}), live.home)
    made.folder.root.mkdir(parents=True)
    made.folder.file.write_text(made.file.text, encoding="utf-8")
    answer = live.call("POST", "/v1/studies/own/resume")
    assert answer.status_code == 422
    assert "operator's list" in answer.json()["error"]


def test_studies_survive_the_services_end_and_are_found_again(tmp_path: Path) -> None:
    home = tmp_path / "home"
    secrets = tokens(home)
    with served(home, secrets, running=1) as first:
        first.launch(study("survivor", study={"trials": 20}))
        first.until("survivor", "running")
        owner = driver(Home(home).study("survivor"))
        assert first.call("POST", "/v1/studies", json=study("second")).status_code == 409  # one at a time
        first.kill()
    assert owner is not None
    assert driver(Home(home).study("survivor")) == owner
    with served(home, secrets, running=1) as second:
        found = second.get("/v1/studies/survivor")
        assert found["state"] in ("running", "complete")
        found = second.until("survivor", "complete")
        assert sum(found["trials"][state] for state in ("complete", "pruned", "failed")) == 20
