"""What the page on security says is shown by tests that are there; and what listens, listens on this machine alone."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import psutil
import pytest

from search.installation import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)))


def test_the_page_names_many_tests() -> None:
    assert len(NAMED) > 20


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_every_test_that_the_page_names_is_there(file: str, test: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert re.search(rf"^def {test or 'test_'}", text, re.MULTILINE), f"{file} has no {test}"


def test_mlflow_listens_on_this_machine_alone(mlflow_server: str) -> None:
    port = urlsplit(mlflow_server).port
    places = [c.laddr for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    listening = {place.ip for place in places if place and place.port == port}
    assert listening == {"127.0.0.1"}
