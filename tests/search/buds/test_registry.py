"""Buds in the registry, and a manager that follows it while it answers: no request fails."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
import safetensors.torch
import torch
import uvicorn
from torch import nn

from search.buds.bundle import read_bundle
from search.buds.manager import BudManager
from search.buds.registry import Registry
from search.buds.serve import Limits, application
from search.buds.trial import FOLDER, run_bud_trial
from search.home import Home
from spaces.errors import ExportError, RequestError, StudyError
from tests.search.buds.nets import Quarters, request


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a system of two versions, the second one serving."""
    root = tmp_path_factory.mktemp("buds")
    home = Home(root / "home")
    for index, router in enumerate(("logistic", "centroid")):
        list(
            run_bud_trial(request(1.0, 1, router=router), Quarters(), ("accuracy",), {}, checkpoints=root / str(index))
        )
        Registry(home.mlflow_uri, home.artifacts).register("quarters", root / str(index) / FOLDER)
    return home


@pytest.fixture
def registry(home: Home) -> Registry:
    found = Registry.of(home)
    found.promote("quarters", 2)
    return found


def aliases(registry: Registry) -> dict[tuple[str, int], tuple[str, ...]]:
    return {(v.model, v.number): v.aliases for v in registry.versions("quarters")}


def test_registered_is_read_back_equal(home: Home, registry: Registry) -> None:
    written = read_bundle(home.root.parent / "1" / FOLDER)
    manager, x = BudManager.load("quarters", home), Quarters().example_inputs()[0]
    assert torch.equal(manager.answer(x).outputs, written.system.answer(x).outputs)
    assert registry.systems() == ["quarters"]
    bud = next(v for v in registry.versions("quarters") if v.model == "quarters.1")
    assert {"parent", "subtask", "centre", "classes", "macs", "manifest"} <= set(bud.tags)


def test_aliases_say_what_serves_and_what_did_before(registry: Registry) -> None:
    assert aliases(registry)["quarters", 2] == ("champion",) or "champion" in aliases(registry)["quarters", 2]
    registry.promote("quarters", 1)
    now = aliases(registry)
    for model in ("quarters", "quarters.0", "quarters.1"):
        assert (now[model, 1], now[model, 2]) == (("champion",), ("previous",))
    registry.rollback("quarters")
    assert aliases(registry)["quarters.0", 2] == ("champion",)


def test_a_bud_of_another_parent_is_not_promoted(registry: Registry) -> None:
    with pytest.raises(StudyError, match="grown from the parent that serves"):
        registry.promote("quarters.0", 1)


def test_what_is_not_there_is_named(registry: Registry) -> None:
    with pytest.raises(StudyError, match="no version 9: known are 1, 2"):
        registry.promote("quarters", 9)
    with pytest.raises(StudyError, match="did you mean 'quarters'"):
        registry.versions("quarter")
    with pytest.raises(StudyError, match="serves now"):
        registry.delete("quarters", 2)


def test_a_file_that_was_changed_is_not_served(home: Home, registry: Registry) -> None:
    bud = registry.serving("quarters")["quarters.0"]
    (file,) = [p for p in home.artifacts.rglob("bud.json") if bud.run in str(p)]
    kept = file.read_text()
    try:
        file.write_text(kept.replace('"subtask": 0', '"subtask": 1'))
        with pytest.raises(ExportError, match="is not what was"):
            registry.read_bud(bud)
    finally:
        file.write_text(kept)


def test_deleted_versions_are_gone(home: Home, registry: Registry) -> None:
    registry.register("gone", home.root.parent / "0" / FOLDER)
    assert registry.delete("gone") == ["gone", "gone.0", "gone.1"]
    assert registry.systems() == ["quarters"]


def test_no_request_fails_while_aliases_move_and_buds_come_and_go(home: Home, registry: Registry) -> None:
    manager, x = BudManager.load("quarters", home), Quarters().example_inputs()[0]
    answers = {}
    for number in (1, 2):
        registry.promote("quarters", number)
        assert manager.refresh() or number == 2
        answers[number] = manager.answer(x).outputs
    done, wrong = threading.Event(), []

    def ask() -> None:
        while not done.is_set():
            said = manager.answer(x).outputs
            if said.shape != (2, 4) or not bool(said.isfinite().all()):
                wrong.append(said)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in (1, 2):
        registry.promote("quarters", number)
        assert manager.refresh()
        bud: nn.Module = manager.serving.system.buds[0]
        manager.remove(0)
        manager.add(0, bud)
        assert torch.equal(manager.answer(x).outputs, answers[number])
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert manager.figures()["requests"] > 8
    assert not manager.refresh()


def test_what_does_not_fit_is_refused(home: Home) -> None:
    manager = BudManager.load("quarters", home)
    for x in (torch.zeros(2, 3, 4, 4), torch.zeros(2, 2, 4, 4, dtype=torch.float64), torch.zeros(4)):
        with pytest.raises(RequestError, match="inputs must be"):
            manager.answer(x)


@pytest.fixture(scope="module")
def address(home: Home) -> Iterator[str]:
    """The service, in a thread of this process."""
    app = application(BudManager.load("quarters", home), Limits(bytes=4096, samples=8))
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error")
    socket = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([socket],))
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    socket.close()


def ask(url: str, body: bytes | None = None) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=30) as found:
            return found.status, found.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_json_and_tensors_get_the_same_answers(address: str, home: Home) -> None:
    x = Quarters().example_inputs()[0]
    expected = BudManager.load("quarters", home).answer(x)
    status, said = ask(f"{address}/v1/answer", json.dumps({"inputs": x.tolist()}).encode())
    assert status == 200
    torch.testing.assert_close(torch.tensor(json.loads(said)["outputs"]), expected.outputs)
    _, raw = ask(f"{address}/v1/answer/raw", safetensors.torch.save({"inputs": x}))
    found = safetensors.torch.load(raw)
    torch.testing.assert_close(found["outputs"], expected.outputs)
    torch.testing.assert_close(found["weights"], expected.weights)


def test_requests_that_come_together_get_their_own_answers(address: str, home: Home) -> None:
    whole = next(iter(Quarters().batches("test", shuffle_seed=None)))[0]
    assert isinstance(whole, torch.Tensor)
    samples = whole[:24]
    expected, said = BudManager.load("quarters", home).answer(samples).outputs, dict[int, torch.Tensor]()

    def one(index: int) -> None:
        body = safetensors.torch.save({"inputs": samples[index : index + 1].clone()})
        said[index] = safetensors.torch.load(ask(f"{address}/v1/answer/raw", body)[1])["outputs"]

    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(samples))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.testing.assert_close(torch.cat([said[i] for i in range(24)]), expected, rtol=1e-5, atol=1e-5)
    figures = ask(f"{address}/metrics")[1].decode()
    assert "pleach_latency_seconds_count" in figures
    assert "pleach_bud_answers_total" in figures


def test_bad_requests_are_told_so_and_the_service_goes_on(address: str) -> None:
    x = Quarters().example_inputs()[0]
    many = safetensors.torch.save({"inputs": torch.zeros(9, 2, 4, 4)})
    for path, body, status in (
        ("/v1/answer", b"{", 422),
        ("/v1/answer", b'{"inputs": [[1, 2]]}', 422),
        ("/v1/answer", b'{"inputs": [[1], [2, 3]]}', 422),
        ("/v1/answer/raw", b"no tensors", 422),
        ("/v1/answer/raw", many, 413),
        ("/v1/answer/raw", b"x" * 5000, 413),
    ):
        assert ask(f"{address}{path}", body)[0] == status, body[:20]
    strange = x.clone()
    strange[0, 0, 0, 0] = float("nan")
    status, said = ask(f"{address}/v1/answer", json.dumps({"inputs": strange.tolist()}).encode())
    assert status == 200
    assert json.loads(said)["answered"][0] == {}
    assert json.loads(ask(f"{address}/health")[1])["status"] == "ok"
    assert json.loads(ask(f"{address}/v1/buds")[1])["subtasks"] == 2
