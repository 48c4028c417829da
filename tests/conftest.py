"""What every test shares: one thread per process, the same examples in every run, and no state outside its folder."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.search.pristine import copied
from tests.search.serving import served

# The same examples in every run and no time limit per example: a busy machine must not fail a law.
# PLEACH_EXAMPLES=1000 looks further, at random.
settings.register_profile("suite", deadline=None, derandomize=True, max_examples=30)
settings.register_profile("explore", deadline=None, max_examples=int(os.environ.get("PLEACH_EXAMPLES", "100")))
settings.load_profile("explore" if "PLEACH_EXAMPLES" in os.environ else "suite")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Tests share the machine's cores with the workers they start; what one of them sets does not reach the next."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def tables_made_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """New databases of MLflow are copies of the first one, but where the making itself is tested."""
    store = sys.modules.get("search.record.store")  # which takes seconds to import: not for tests without a record
    if store is not None and request.node.get_closest_marker("makes_tables") is None:
        create = store._create_whole

        @functools.wraps(create)
        def copy(uri: str) -> None:
            copied(uri, create)

        monkeypatch.setattr(store, "_create_whole", copy)


@pytest.fixture(scope="session")
def mlflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home whose database the one MLflow server of a test run is on."""
    home = tmp_path_factory.mktemp("mlflow") / "home"
    home.mkdir()
    return home


@pytest.fixture(scope="session")
def mlflow_server(mlflow_home: Path) -> Iterator[str]:
    """The one MLflow server of a test run, started as a user does; gives its address."""
    with served(mlflow_home) as address:
        yield address
