"""The schema is what the service does: generated calls, valid and not, are answered as it says, and never with a 5xx."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
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


@pytest.fixture(scope="session")
def described(live: Live) -> schemathesis.BaseSchema:
    """The schema of the running service."""
    return schemathesis.openapi.from_dict(live.get("/openapi.json")).exclude(path_regex="progress$")


schema = schemathesis.pytest.from_fixture("described")


@schema.parametrize()
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_generated_calls_are_answered_as_the_schema_says(case: schemathesis.Case, live: Live) -> None:
    headers = {"Authorization": f"Bearer {live.secrets['all']}"}
    case.call_and_validate(base_url=live.address, headers=headers, checks=CHECKS, timeout=60)


def test_every_call_is_in_the_schema_and_wants_a_token(live: Live) -> None:
    found = live.get("/openapi.json")
    assert found["security"] == [{"token": []}]
    open_to_all = [
        path for path, calls in found["paths"].items() for call in calls.values() if call.get("security") == []
    ]
    assert open_to_all == ["/health"]
    assert {path for path in found["paths"] if path.startswith("/v1")} >= {"/v1/studies", "/v1/studies/{name}/export"}
