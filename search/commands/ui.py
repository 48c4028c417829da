"""`pleach ui`: the MLflow UI on the home's database, for this machine only."""

from __future__ import annotations

import signal
import subprocess
import time
import webbrowser

from search.console import err
from search.home import Home
from search.record.ports import answers, free_port
from search.record.server import server_command, server_environment, study_page
from search.record.store import Store
from search.study import Study
from spaces.errors import StorageError

#: Seconds in which a server must answer.
PATIENCE = 90.0


def serve_ui(home: Home, name: str | None, *, port: int, browser: bool) -> None:
    """Serve until the server ends or Ctrl-C.

    Args:
        home: Whose database.
        name: Open at this study; the list of experiments if left out.
        port: 0 takes a free one.
        browser: Whether to open the browser.

    Raises:
        StudyError: If there is no study of that name.
        StorageError: If the port is taken, or the server does not start.
    """
    console = err()
    study = Study.load(name, home) if name else None
    uri = (study.file.storage.mlflow if study else None) or home.mlflow_uri
    if uri.startswith(("http://", "https://")):
        console.print(f"this study is recorded on a server: {uri}", markup=False)
        return
    port = free_port(port)
    page = f"http://127.0.0.1:{port}/"
    if study is not None:
        directions = study.file.directions
        rising = next(iter(directions.values())) == "minimize"
        store = Store(uri, study.task_name, home.artifacts)
        page += study_page(
            store, study.name, list(directions), rising=rising, knobs=list(study.file.space.distributions())
        )
    signal.signal(signal.SIGTERM, _interrupt)  # so that the server does not outlive us
    server = subprocess.Popen(server_command(port), env=server_environment(uri), cwd=home.root)
    try:
        with console.status("starting the MLflow server"):
            _await(server, port)
        console.print(f"{page}\nCtrl-C ends it.", markup=False)
        if browser:
            webbrowser.open(page)
        server.wait()
    except KeyboardInterrupt:
        console.print("ended", markup=False)
    finally:
        _end(server)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _await(server: subprocess.Popen[bytes], port: int) -> None:
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE:
        if server.poll() is not None:
            raise StorageError(f"the MLflow server must keep running, but ended with {server.returncode}: see above")
        if answers(f"http://127.0.0.1:{port}"):
            return
        time.sleep(0.3)
    raise StorageError(f"the MLflow server must answer within {PATIENCE:.0f} s, but does not: see above")


def _end(server: subprocess.Popen[bytes]) -> None:
    """Ask it to end, and make it."""
    server.terminate()
    try:
        server.wait(timeout=10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
