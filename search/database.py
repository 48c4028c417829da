"""Shared databases by their URL: what is said where one cannot be used, and how long one that is gone is waited for."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError

from spaces.errors import StorageError, UnreachableError

logger = logging.getLogger(__name__)

#: A server that is gone is asked again after so many seconds, then twice as many, up to `LONGEST_PAUSE`.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
#: So many seconds a running study waits for its database.
PATIENCE = 600.0
#: libpq's: a server that does not answer is given up after seconds, not after the two hours that TCP would take.
CONNECTING = {"connect_timeout": 10, "keepalives_idle": 20, "keepalives_interval": 10, "keepalives_count": 3}
#: How PostgreSQL says what waiting does not mend, and what does; `{0}` is what the pattern found.
REFUSALS = (
    (r'password authentication failed for user "([^"]*)"', "the password of {0} is refused: correct it in ~/.pgpass"),
    (r"no password supplied", "it wants a password: put it into ~/.pgpass"),
    (r'database "([^"]*)" does not exist', "it has no database {0!r}: create it with createdb {0}"),
    (r'role "([^"]*)" does not exist', "it has no user {0!r}: create it with createuser {0}"),
    (r"no pg_hba.conf entry for ([^\n]*)", "it lets nobody in from here ({0}): see pg_hba.conf"),
    (r'permission denied for ([^\n"]*)', "its user may not write ({0}): grant it"),
)

T = TypeVar("T")


def is_shared(url: object) -> bool:
    """Whether several drivers may work on one study there: PostgreSQL, and nothing else."""
    return isinstance(url, str) and url.startswith("postgresql")


def without_password(url: str) -> str:
    """The URL as it may be shown: ``postgresql://user:***@host/db``."""
    scheme, slashes, rest = url.partition("://")
    login, at, host = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    host = re.sub(r"(password=)[^&]*", r"\1***", host)
    return f"{scheme}{slashes}{user}{':***' if colon else ''}{at}{host}"


def censored(content: str) -> str:
    """A text without the passwords of the URLs in it."""
    return re.sub(r"[a-z][a-z0-9+.-]*://[^\s\"']+", lambda found: without_password(found[0]), content)


def engine_options(url: str) -> dict[str, Any]:
    """How an engine is opened, whoever opens it."""
    driver = url.partition("://")[0]
    return {"connect_args": dict(CONNECTING)} if driver in ("postgresql", "postgresql+psycopg") else {}


def opened(url: str) -> Engine:
    """An engine for a shared database; it does not connect yet.

    Raises:
        StorageError: If there is no driver for it, or it is no URL.
    """
    with translated(url):
        return create_engine(url, pool_size=3, **engine_options(url))


def turn_key(name: str) -> int:
    """PostgreSQL's advisory locks are numbers: 64 bits with a sign."""
    return int.from_bytes(hashlib.sha256(f"pleach/{name}".encode()).digest()[:8], signed=True)


@contextmanager
def turn(engine: Engine, name: str) -> Iterator[Connection]:
    """One process at a time, over all machines; what is done on the connection is kept at the end, whole or not at all.

    Whoever dies or loses the connection gives the turn up at once, and keeps nothing.
    """
    with engine.begin() as connection:
        # Somebody who hangs in the middle must not hang the others: they are told, and ask again.
        connection.execute(text("set local lock_timeout = '60s'"))
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": turn_key(name)})
        yield connection


# -- errors ---------------------------------------------------------------------------------------------------------


def explained(url: str, error: BaseException, key: str = "storage.optuna") -> StorageError:
    """What a database or its driver raised, as one line with the remedy.

    Args:
        url: The database; its password is not shown.
        error: What was raised.
        key: The study file's key that names it.

    Returns:
        An `UnreachableError` where waiting may help.
    """
    where = f"the database {without_password(url)} ({key})"
    cause = _root(error)
    if isinstance(cause, ImportError):
        package = cause.name or "its driver"
        remedy = "pip install 'pleach[postgres]'" if package == "psycopg" else f"pip install {package}"
        return StorageError(f"{where} needs the package {package}, which is not installed: {remedy}")
    if isinstance(cause, NoSuchModuleError | ArgumentError):
        line = _one_line(cause)
        return StorageError(f"{where} is no URL that can be used ({line}): write postgresql+psycopg://user@host/name")
    said = censored(str(getattr(cause, "orig", None) or cause))
    for pattern, remedy in REFUSALS:
        found = re.search(pattern, said)
        if found:
            return StorageError(f"{where} cannot be used: " + remedy.format(*found.groups()))
    line = _one_line(said)
    gone = isinstance(cause, OperationalError | InterfaceError) or (
        isinstance(cause, DBAPIError) and cause.connection_invalidated
    )
    if gone and is_shared(url):
        return UnreachableError(f"{where} does not answer ({line}): start it, or correct {key}")
    return StorageError(f"{where} cannot be used ({line}): check {key}")


def _root(error: BaseException) -> BaseException:
    """What Optuna's own errors stand for."""
    while not isinstance(error, DBAPIError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _one_line(said: object) -> str:
    lines = [line.strip() for line in str(said).splitlines() if line.strip()]
    return " ".join(lines)[:300] or type(said).__name__


@contextmanager
def translated(url: str, key: str = "storage.optuna") -> Iterator[None]:
    """What a database raises inside becomes a StorageError of one line."""
    try:
        yield
    except StorageError:
        raise
    except (DBAPIError, NoSuchModuleError, ArgumentError, ImportError) as error:
        raise explained(url, error, key) from error


def checked(url: str) -> str:
    """A database's URL that can be one.

    Raises:
        ValueError: If it cannot.
    """
    try:
        make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError(
            f"must be a database's URL, but is {without_password(url)!r}: write postgresql+psycopg://user@host/name"
        ) from None
    scheme = url.partition(":")[0].partition("+")[0]
    if scheme not in ("postgresql", "mysql", "mariadb", "sqlite"):
        raise ValueError(
            f"must be a database's URL, but begins with {scheme}: write postgresql+psycopg://user@host/name"
        )
    return url


def same_database(one: str, other: str) -> bool:
    """Whether two URLs name one database; Optuna's tables and MLflow's cannot stand in one."""
    if one.startswith("http") or other.startswith("http"):
        return False
    first, second = make_url(one), make_url(other)
    return (first.host, first.port or 5432, first.database) == (second.host, second.port or 5432, second.database) and (
        first.get_backend_name() == second.get_backend_name()
    )


# -- waiting --------------------------------------------------------------------------------------------------------


class Patience:
    """Does things again while a server does not answer, and says so.

    What is done must be such that doing it again is harmless.

    Args:
        seconds: So long is waited in all before it is given up; 0 gives up at once.
        sleep: Lets seconds pass.
        clock: Seconds that only rise.
    """

    def __init__(
        self,
        seconds: float = 0.0,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds, self._sleep, self._clock = seconds, sleep, clock

    def __call__(self, work: Callable[[], T]) -> T:
        """Do it until it is done.

        Raises:
            UnreachableError: If the server did not come back in time.
        """
        began, pause, said = self._clock(), 0.0, False
        while True:
            try:
                done = work()
            except UnreachableError as error:
                gone = self._clock() - began
                if gone >= self.seconds:
                    raise
                # The first time is often only a connection that was cut: not worth a word.
                if pause and not said:
                    logger.warning("%s; it is asked again for %d minutes", error, max(1, round(self.seconds / 60)))
                    said = True
                self._sleep(pause or FIRST_PAUSE / 10)
                pause = min(2 * pause, LONGEST_PAUSE) if pause else FIRST_PAUSE
            else:
                if said:
                    logger.warning("the database is back after %d s, and the study goes on", self._clock() - began)
                return done
