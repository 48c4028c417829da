"""The one service that most tests here share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.search.service.live import STUDY, Live, events, served, tokens


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service with one finished study, which was launched over it."""
    home = tmp_path_factory.mktemp("service") / "home"
    with served(home, tokens(home), "--failures", "100000", "--rate", "10000") as service:
        service.launch(STUDY)
        answer = service.call("GET", "/v1/studies/digits-small/progress", stream=True)
        assert answer.headers["content-type"].startswith("text/event-stream")
        service.seen.extend(events(answer))
        yield service
