"""MLflow as this project uses it: explicit run ids, batches, no active run, errors as one line.

Only this folder knows MLflow. It is slow to import, so `search.record.runs` loads this module in a thread.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TypeVar

# Read when mlflow is imported: no telemetry, no job queue (ten processes), no word about git or URLs.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # who is gone is asked again by the writer, which says so
    "GIT_PYTHON_REFRESH": "quiet",
}.items():
    os.environ.setdefault(_name, _value)

from mlflow.entities import Metric, Param, Run, RunTag, ViewType  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

from search.database import explained, is_shared, opened, translated, turn, without_password  # noqa: E402
from search.record.entries import Point  # noqa: E402
from search.record.moved import follow  # noqa: E402
from spaces.errors import PleachError, StorageError, UnreachableError  # noqa: E402

# Set here and not by the caller: MLflow's own set-up runs at import and resets its loggers.
for _name in ("mlflow", "alembic"):
    logging.getLogger(_name).setLevel(logging.WARNING)

# What a database says is said once, by us, without a page of tracebacks.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

#: MLflow's limits on one call.
METRICS_A_BATCH, PARAMS_A_BATCH, TAGS_A_BATCH = 1000, 100, 100
MAX_PARAM, MAX_TAG = 6000, 8000

T = TypeVar("T")


class Store:
    """One MLflow database or server, and one experiment in it.

    Args:
        uri: ``sqlite:////path/mlflow.db``, ``postgresql+psycopg://...`` or ``http://server:5000``.
        experiment: Name of the experiment; created where it does not exist.
        artifacts: Where the files of a database without a server go; a server keeps its own.
        location: Where a new experiment's files go instead, as a URI.

    Raises:
        StorageError: If the database or the server cannot be used.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path, location: str | None = None) -> None:
        self.uri = uri
        self.served = uri.startswith(("http://", "https://"))
        with self._opening(artifacts), self.translated():
            _create_whole(uri)
            follow(uri, artifacts.resolve())
            self.client = MlflowClient(uri)
            found = self.client.get_experiment_by_name(experiment)
            if found is None:
                place = location or (None if self.served else artifacts.resolve().as_uri())
                self.experiment: str = self.client.create_experiment(experiment, artifact_location=place)
            else:
                if found.lifecycle_stage != "active":
                    self.client.restore_experiment(found.experiment_id)
                self.experiment = found.experiment_id

    def create(self, name: str, tags: Mapping[str, str], *, parent: str | None = None, start: int) -> str:
        """A new run; returns its id. `start` is its start in milliseconds since 1970."""
        own = {key: value[:MAX_TAG] for key, value in tags.items()} | ({MLFLOW_PARENT_RUN_ID: parent} if parent else {})
        run = self._call(lambda: self.client.create_run(self.experiment, start_time=start, tags=own, run_name=name))
        return str(run.info.run_id)

    def log(
        self,
        run: str,
        *,
        points: Iterable[Point] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Write curves, parameters and tags in as few calls as the limits allow; writing the same again is harmless."""
        metrics = [Metric(name, value, when, step) for name, step, value, when in points]
        texts = [Param(name, value[:MAX_PARAM]) for name, value in (params or {}).items()]
        labels = [RunTag(name, value[:MAX_TAG]) for name, value in (tags or {}).items()]
        while metrics or texts or labels:
            batch = metrics[:METRICS_A_BATCH], texts[:PARAMS_A_BATCH], labels[:TAGS_A_BATCH]
            self._call(lambda batch=batch: self.client.log_batch(run, *batch))  # type: ignore[misc]
            metrics, texts, labels = metrics[METRICS_A_BATCH:], texts[PARAMS_A_BATCH:], labels[TAGS_A_BATCH:]

    def text(self, run: str, text: str, name: str) -> None:
        """Write one artefact."""
        self._call(lambda: self.client.log_text(run, text, name))

    def end(self, run: str, status: str, when: int | None = None) -> None:
        """End a run as FINISHED or FAILED."""
        self._call(lambda: self.client.set_terminated(run, status, end_time=when))

    def reopen(self, run: str) -> None:
        """Mark an ended run as running again."""
        self._call(lambda: self.client.update_run(run, status="RUNNING"))

    def started(self, run: str) -> int:
        """When a run started, in milliseconds since 1970."""
        return int(self._call(lambda: self.client.get_run(run)).info.start_time)

    def find(self, tags: Mapping[str, str]) -> list[Run]:
        """All runs of the experiment that carry these tags, oldest first."""
        query = " and ".join(f"tags.`{name}` = '{_quoted(value)}'" for name, value in tags.items())
        found: list[Run] = []
        token: str | None = None
        while True:
            page = self._call(
                lambda token=token: self.client.search_runs(  # type: ignore[misc]
                    [self.experiment], query, ViewType.ACTIVE_ONLY, 1000, ["attributes.start_time ASC"], token
                )
            )
            found += page
            token = page.token
            if not token:
                return found

    def children(self, parent: str) -> list[Run]:
        """All runs under a parent, oldest first."""
        return self.find({MLFLOW_PARENT_RUN_ID: parent})

    def steps(self, run: str, metric: str) -> set[int]:
        """The steps at which a metric has been written."""
        return {point.step for point in self._call(lambda: self.client.get_metric_history(run, metric))}

    def share_view(self, key: str, view: str) -> None:
        """Keep what a list of runs shows, as JSON, under a name that an address in MLflow's pages can give."""
        self._call(lambda: self.client.set_experiment_tag(self.experiment, f"mlflow.sharedViewState.{key}", view))

    def translated(self) -> AbstractContextManager[None]:
        """What MLflow raises inside becomes a StorageError of one line."""
        return _Translated(self.uri)

    def _call(self, work: Callable[[], T]) -> T:
        with self.translated():
            return work()

    def _opening(self, artifacts: Path) -> AbstractContextManager[object]:
        """One process at a time creates the tables; a second would find them half migrated."""
        try:
            artifacts.mkdir(parents=True, exist_ok=True)
            if is_shared(self.uri):
                return _opening_together(self.uri)
            return nullcontext() if self.served else _Locked(artifacts / ".opening")
        except OSError as error:
            raise StorageError(
                f"the folder {artifacts} must be writable, but is not ({error.strerror}): choose another --home"
            ) from None


def _create_whole(uri: str) -> None:
    """Make a SQLite database beside its name and rename it: MLflow cannot go on with one whose making was cut off."""
    database = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not database.exists():
        fresh = database.with_name(f".{database.name}.new")
        fresh.unlink(missing_ok=True)
        MlflowClient(f"sqlite:///{fresh}").get_experiment("0")
        fresh.replace(database)


@contextmanager
def _opening_together(uri: str) -> Iterator[None]:
    """The same over all machines; and a server that is gone is told at once, where MLflow tries for two minutes."""
    with translated(uri, "storage.mlflow"):
        engine = opened(uri)
        try:
            with turn(engine, "mlflow"):
                yield
        finally:
            engine.dispose()


class _Translated:
    """Turns what MLflow and its database raise into one line that says what to do."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, MlflowException | SQLAlchemyError | sqlite3.Error | OSError) and not isinstance(
            error, PleachError
        ):
            if is_shared(self.uri) and isinstance(error.__cause__ or error, SQLAlchemyError):
                raise explained(self.uri, error, "storage.mlflow") from error
            lines = str(error).strip().splitlines() or [type(error).__name__]
            kind_ = UnreachableError if self.uri.startswith("http") and _may_pass(error) else StorageError
            raise kind_(
                f"MLflow at {without_password(self.uri)} must be usable, but is not ({lines[0][:300]}): "
                "check storage.mlflow and that the folder or server can be written to"
            ) from error


def _may_pass(error: BaseException) -> bool:
    """Whether a server may take the same later: it did not answer, or had a fault of its own."""
    return not isinstance(error, MlflowException) or int(error.get_http_status_code()) >= 500  # type: ignore[no-untyped-call]


class _Locked:
    """An exclusive lock on a file, released when the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w")

    def __enter__(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _quoted(value: str) -> str:
    return value.replace("'", "\\'")
