"""One PostgreSQL server for all tests of this folder, and a database of its own for each of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from search import launch
from tests.search.drive import Nothing
from tests.search.storage.server import Postgres, running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running server."""
    with running() as server:
        yield server


@pytest.fixture
def database(postgres: Postgres) -> str:
    """The URL of an empty database."""
    return postgres.database(uuid.uuid4().hex)


@pytest.fixture
def unrecorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies in this process write nothing to MLflow and draw no figures, which takes longer than all the rest."""
    monkeypatch.setattr(launch, "record_of", lambda *_: Nothing())
    monkeypatch.setattr(launch, "study_files", lambda *_: {})
    monkeypatch.setattr(launch, "member_files", lambda *_: {})
