"""Bodies of requests: each has its answer, 200 or one line that says what is wrong with it; none ends the service."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest
import safetensors.torch
import torch
from fastapi import FastAPI
from hypothesis import example, given
from hypothesis import strategies as st

from search.buds.manager import BudManager, Serving
from search.buds.serve import Limits, application
from search.service.allowed import Allowed
from search.service.asking import from_json, respond
from spaces.errors import PleachError, RequestError
from tests.fuzz.bent import ODD, as_json, bent, changed, deep
from tests.fuzz.oracle import accepted, bounded
from tests.fuzz.test_exports import changed_header, header
from tests.search.buds.nets import Quarters, system
from tests.search.service.live import STUDY

#: The batcher belongs to the loop that it was begun in.
LOOP = asyncio.new_event_loop()
X = Quarters(8).example_inputs()[0]
RAW = safetensors.torch.save({"inputs": X})
BODY = {"inputs": X.tolist()}


@pytest.fixture(scope="module")
def buds() -> FastAPI:
    inputs = ({"shape": [2, 4, 4], "dtype": "float32"},)
    return application(
        BudManager(Serving(system(), {0: "a", 1: "b"}, "system", inputs)), Limits(bytes=65536, samples=64)
    )


def asked(app: FastAPI, path: str, body: bytes) -> int:
    """The status; what is said must be one line, or an answer."""

    with bounded():
        status, _, said = LOOP.run_until_complete(respond(app, "POST", path, body))
    assert status in (200, 413, 422), (status, said[:200])
    if status != 200:
        detail = json.loads(said)["detail"]
        assert detail.strip(), said
        assert "\n" not in detail, said
        assert len(detail) < 500, said
    elif path == "/v1/answer":
        json.loads(said, parse_constant=_no_constant)
    return status


def _no_constant(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


@given(changed([BODY]))
@example({"inputs": deep(60)})
@example({"inputs": torch.zeros(65, 2, 4, 4).tolist()})
@example({"inputs": [[[[math.nan] * 4] * 4] * 2]})
@example({"inputs": [[[[10**400] * 4] * 4] * 2]})
@example({"inputs": [[[["1"] * 4] * 4] * 2]})
@example({"inputs": []})
def test_buds_answer_any_json_with_an_answer_or_one_line(buds: FastAPI, tree: Any) -> None:
    asked(buds, "/v1/answer", as_json(tree))


@given(bent([as_json(BODY)]))
@example(b"[" * 60_000)
@example(b'{"inputs": ' + b"[" * 60_000)
@example(b'{"inputs": ' + b"1" * 60_000 + b"}")
@example(b"\xff\xfe")
@example(b"")
def test_buds_answer_any_text_with_an_answer_or_one_line(buds: FastAPI, body: bytes) -> None:
    asked(buds, "/v1/answer", body)


@given(bent([RAW]) | changed([header(RAW)]).map(lambda tree: changed_header(RAW, tree)))
@example(b"")
@example((2**63).to_bytes(8, "little") + b"{}")
@example(safetensors.torch.save({"inputs": torch.zeros(2, 2, 4, 4, dtype=torch.complex64)}))
@example(safetensors.torch.save({"inputs": torch.zeros(())}))
@example(safetensors.torch.save({"inputs": torch.zeros(0, 2, 4, 4)}))
@example(safetensors.torch.save({"inputs": X, "more": X.clone()}))
def test_buds_answer_any_tensors_with_an_answer_or_one_line(buds: FastAPI, body: bytes) -> None:
    asked(buds, "/v1/answer/raw", body)


@given(changed([STUDY], json_only=True))
@example({**STUDY, "task": {"target": "os:system"}})
@example({**STUDY, "storage": {"mlflow": "http://127.0.0.1:1"}})
@example({**STUDY, "resources": {"address": "ray://other:10001"}})
def test_the_service_admits_only_what_is_listed(tree: Any) -> None:
    allowed = Allowed.of(["digits"])
    read = accepted(lambda: from_json(as_json(tree)), RequestError)
    if read is None:
        return
    file = accepted(lambda: allowed.admitted(read), PleachError)
    if file is not None:
        assert file.task_reference.target == "digits"
        assert file.resources.address is None
        assert file.storage == type(file.storage)()


@given(bent([as_json(STUDY)]) | st.sampled_from(ODD).map(as_json))
@example(b"[" * 1_000_000)
@example(b'{"a":' * 100_000)
@example(b"1" * 100_000)
def test_any_body_is_json_or_refused(body: bytes) -> None:
    value = accepted(lambda: from_json(body), RequestError)
    if value is not None:
        json.dumps(value, allow_nan=False).encode("ascii")
