"""`pleach dashboard` and `pleach report`: a home's studies as live pages, for this machine only, or as one file."""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
import time
import webbrowser
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.console import Console
from werkzeug.serving import WSGIRequestHandler, make_server

from dashboards.app import Source, application
from dashboards.frames import Frames
from dashboards.report import report
from search.books import Books
from search.export_trial import export_trial
from search.home import Home, storing
from search.record.ports import answers, free_port
from search.study import Study
from spaces.errors import PleachError, StorageError

#: Seconds for which what was read is not read again.
FRESH = 0.5
#: Importances are learnt anew when there are so many times the complete trials of the last time, and at the end.
LEARN_AT = 1.2


@dataclass
class Reading:
    """One study as it is read again and again: what is decided stays decided, so only what is new is read.

    Args:
        name: The study.
        home: Its home.
    """

    name: str
    home: Home
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _books: Books | None = None
    _read: str = ""
    _frames: Frames | None = None
    _when: float = 0.0
    _learnt: tuple[int, str] = (0, "")
    _importances: Mapping[str, float] = field(default_factory=dict)

    def frames(self) -> Frames:
        """The study as it is now, give or take half a second.

        Raises:
            PleachError: If there is no such study, or it cannot be read.
        """
        with self._lock:
            if self._frames is None or time.monotonic() - self._when > FRESH:
                self._frames = self._look()
                self._when = time.monotonic()
            return self._frames

    def _look(self) -> Frames:
        study = Study.load(self.name, self.home)
        of = f"{study.state.identity} {study.file.text} {study.state.baseline}"
        if self._books is None or of != self._read:  # begun anew, or judged by other constraints
            self._books, self._read = study.books(), of
        self._books.read(study.folder)
        frames = study.frames(self._books)
        known = (len(frames.complete()), frames.phase)
        if known != self._learnt and (known[0] > LEARN_AT * self._learnt[0] or frames.phase != "running"):
            self._importances = {name: knob.importance for name, knob in study.policy().knobs.items()}
            self._learnt = known
        return replace(frames, importances=self._importances)


@dataclass
class Readings:
    """All studies of a home, for pages.

    Args:
        home: The home.
        server: The address of MLflow's pages; None gives no links.
        exports: An empty folder for what is downloaded; None hands nothing out.
    """

    home: Home
    server: str | None = None
    exports: Path | None = None
    _known: dict[str, Reading] = field(default_factory=dict)
    _exporting: threading.Lock = field(default_factory=threading.Lock)

    def source(self) -> Source:
        """As the pages want it."""
        export = self.export if self.exports is not None else None
        return Source(self.studies, self.load, export, self.link if self.server is not None else None)

    def studies(self) -> list[dict[str, Any]]:
        """Every study with where it is and a line about it."""
        return [self._line(name) for name in self.home.studies()]

    def load(self, name: str) -> Frames:
        """One study as tables.

        Raises:
            PleachError: If there is no such study, or it cannot be read.
        """
        if name not in self._known:
            self.home.existing(name)
            self._known.setdefault(name, Reading(name, self.home))
        return self._known[name].frames()

    def export(self, name: str, number: int) -> Path:
        """A trial's network as a zipped folder; made once.

        Raises:
            PleachError: If there is no such complete trial, or its network is gone.
        """
        assert self.exports is not None
        study = Study.load(name, self.home)
        base = self.exports / study.state.identity / f"{name}-{number}"
        with self._exporting, storing(base):
            file = base.with_name(f"{base.name}.zip")
            if not file.exists():
                export_trial(study, base, trial=number, overwrite=True)
                made = Path(shutil.make_archive(f"{base}-part", "zip", root_dir=base.parent, base_dir=base.name))
                shutil.rmtree(base)
                made.replace(file)
            return file

    def link(self, name: str, number: int | None) -> str:
        """Where a trial's run, or the list of the study's runs, is in MLflow's pages.

        Raises:
            StudyError: If there is no such study or trial.
            StorageError: If MLflow's pages are not served, or its database cannot be used.
        """
        study = Study.load(name, self.home)
        uri = study.mlflow_uri
        server = uri if uri.startswith(("http://", "https://")) else str(self.server)
        if not answers(server):
            raise StorageError(
                f"MLflow's pages must be served at {server}, but are not: start them with pleach ui {name}"
            )
        from search.record.links import run_link

        directions = study.file.directions
        return run_link(
            uri,
            self.home.artifacts,
            server,
            task=study.task_name,
            study=study.name,
            objectives=list(directions),
            rising=next(iter(directions.values())) == "minimize",
            knobs=list(study.file.space.distributions()),
            number=number,
        )

    def _line(self, name: str) -> dict[str, Any]:
        try:
            frames = self.load(name)
        except PleachError as error:  # the others can be shown all the same
            return {"study": name, "state": "failed", "said": str(error)}
        best = frames.trial(frames.best)
        said = f"{len(frames.trials)} of {max(len(frames.trials), frames.wanted)} trials"
        if best is not None:
            scores = ", ".join(f"{objective} {best[objective]:.4g}" for objective in frames.directions)
            said += f"; best is trial {frames.best}: {scores}"
        return {"study": name, "state": frames.phase, "said": said}


def serve_dashboard(
    home: Home, name: str | None, *, port: int, browser: bool, mlflow: str | None, console: Console
) -> None:
    """Serve the pages until Ctrl-C.

    Args:
        home: Whose studies.
        name: Open at this study; the list of studies if left out.
        port: 0 takes a free one.
        browser: Whether to open the browser.
        mlflow: The address of MLflow's pages; None gives no links.
        console: Where to say the address.

    Raises:
        StudyError: If there is no study of that name.
        StorageError: If the port is taken.
    """
    if name is not None:
        home.existing(name)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pleach-dashboard-")))
        readings = Readings(home, mlflow, folder)
        port = free_port(port)
        server = make_server("127.0.0.1", port, application(readings.source()), threaded=True, request_handler=_Quiet)
        page = f"http://127.0.0.1:{port}/{quote(name or '')}"
        console.print(f"{page}\nCtrl-C ends it.", markup=False)
        if browser:
            webbrowser.open(page)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            console.print("ended", markup=False)
        finally:
            server.server_close()


def write_report(study: Study, out: Path) -> dict[str, Any]:
    """Write a study as one file that stands alone.

    Raises:
        StorageError: If it cannot be written.
    """
    importances = {name: knob.importance for name, knob in study.policy().knobs.items()}
    text = report(replace(study.frames(), importances=importances))
    with storing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    return {"study": study.name, "out": str(out), "bytes": len(text.encode())}


class _Quiet(WSGIRequestHandler):
    """Says nothing of requests that went well; keeps connections open, for a page asks twice a second."""

    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        if str(code).startswith("5"):
            super().log_request(code, size)
