"""A PostgreSQL server of the tests' own: started as an unprivileged user, restarted, killed, and gone at the end."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import create_engine, text

from tests.required import lacking

#: Where Debian keeps what is not on the path.
PLACES = ("/usr/lib/postgresql/*/bin", "/usr/local/pgsql/bin")
SECRET = "hush-and-hush"


class Postgres:
    """A server in a folder.

    Args:
        programs: Folder of ``initdb`` and ``postgres``.
        folder: New and empty; the server's user must be able to write there.
        user: Runs it, where we are root; the server refuses to be.
    """

    def __init__(self, programs: Path, folder: Path, user: str | None) -> None:
        self._programs, self._folder, self._user = programs, folder, user
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        options = ("-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync")
        made: list[str | Path] = [programs / "initdb", "-D", folder / "data", *options]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL, user=user, cwd=folder)
        doors = folder / "data" / "pg_hba.conf"
        doors.write_text("host all guarded 127.0.0.1/32 scram-sha-256\n" + doors.read_text())
        self.start()
        self._run(f"create role guarded login superuser password '{SECRET}'")

    def start(self) -> None:
        """Start it, and wait until it lets somebody in."""
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": self._folder, "fsync": "off"}
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._folder / "data", "-p", str(self.port), *settings],
                stdout=log, stderr=log, user=self._user, cwd=self._folder,
            )  # fmt: skip
        limit = time.monotonic() + 60
        while True:
            try:
                self._run("select 1")
                return
            except Exception:
                assert self._process.poll() is None, (self._folder / "log").read_text()
                assert time.monotonic() < limit, "the server does not come up"
                time.sleep(0.1)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT cuts every connection and ends in order, SIGQUIT just ends."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None

    def url(self, database: str = "postgres", login: str = "postgres") -> str:
        return f"postgresql+psycopg://{login}@127.0.0.1:{self.port}/{database}"

    def database(self, name: str) -> str:
        """A new, empty database; returns its URL."""
        self._run(f'create database "{name}"')
        return self.url(name)

    def _run(self, statement: str) -> None:
        engine = create_engine(self.url(), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.execute(text(statement))
        finally:
            engine.dispose()


@contextlib.contextmanager
def running() -> Iterator[Postgres]:
    """A server for a while."""
    programs = _programs()
    user = _user() if os.geteuid() == 0 else None
    # Not below pytest's folder, which nobody but us may enter.
    folder = Path(tempfile.mkdtemp(prefix="pleach-postgres-"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        server = Postgres(programs, folder, user)
        try:
            yield server
        finally:
            server.stop(signal.SIGQUIT)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else []
    places += sorted(path for pattern in PLACES for path in Path("/").glob(pattern.lstrip("/")))
    for place in places:
        if (place / "postgres").exists():
            return place
    return lacking("postgres", "apt-get install postgresql")


def _user() -> str:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return lacking("postgres", "adduser postgres")
