"""The schema is what the service does: generated calls are answered as it says, valid or not, and never with a 5xx."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_schema_conformance,
    status_code_conformance,
)

from tests.search.service.live import Live

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    ignored_auth,
]


#: The calls that are generated; a stream may go on for as long as its study does.
CALLS = [
    ("GET", "/health"),
    ("GET", "/v1/tasks"),
    ("GET", "/v1/studies"),
    ("POST", "/v1/studies"),
    ("GET", "/v1/studies/{name}"),
    ("POST", "/v1/studies/{name}/resume"),
    ("POST", "/v1/studies/{name}/stop"),
    ("GET", "/v1/studies/{name}/front"),
    ("GET", "/v1/studies/{name}/best"),
    ("GET", "/v1/studies/{name}/export"),
]


@pytest.fixture(scope="module")
def schema(live: Live) -> schemathesis.BaseSchema:
    """The schema of the running service."""
    return schemathesis.openapi.from_dict(live.get("/openapi.json"))


@pytest.mark.parametrize(("verb", "path"), CALLS)
def test_generated_calls_are_answered_as_the_schema_says(
    schema: schemathesis.BaseSchema, live: Live, verb: str, path: str
) -> None:
    operation = schema[path][verb]
    headers = {"Authorization": f"Bearer {live.secrets['all']}"}
    cases = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode))

    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=cases, real=st.booleans())
    def holds(case: schemathesis.Case[Any], real: bool) -> None:
        if real and "name" in case.path_parameters:  # else most calls end at a study that is not there
            case.path_parameters["name"] = "digits-small"
        if path.endswith("resume") and case.path_parameters.get("name") == "digits-small":
            case.path_parameters["name"] = "absent"  # other tests look at what it has come to
        case.call_and_validate(base_url=live.address, headers=headers, checks=CHECKS, timeout=60)

    holds()


def test_every_call_is_in_the_schema_and_wants_a_token(live: Live) -> None:
    found = live.get("/openapi.json")
    assert found["security"] == [{"token": []}]
    open_to_all = [
        path for path, calls in found["paths"].items() for call in calls.values() if call.get("security") == []
    ]
    assert open_to_all == ["/health"]
    there = {(verb.upper(), path) for path, calls in found["paths"].items() for verb in calls}
    assert there == {*CALLS, ("GET", "/v1/studies/{name}/progress")}
