"""One study in MLflow: experiment = task, parent run = study, children = the baseline and the trials.

The driver is the only caller. Writing is idempotent: what was written before a crash is found again by its tags and
completed, never doubled. Nothing here needs an active run, so two studies in one process do not meet.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from search.machine import git_commit, hardware
from search.record.entries import files_of, metric_name, params_of, points_of, tags_of
from search.record.front import MODELS_KEPT, FrontMember
from search.result import TrialResult
from spaces import POLICIES
from spaces.errors import ExportError, StorageError, UnreachableError

if TYPE_CHECKING:
    from torch import nn

    from search.record.store import Store


class Record:
    """The only writer to MLflow.

    Opening takes seconds the first time (an import, and sixty tables to create), so it begins in the background at
    once; the first call that needs the database waits for it and raises what went wrong.

    Args:
        uri: ``sqlite:////home/mlflow.db``, ``postgresql+psycopg://...`` or ``http://server:5000``.
        task: The task's name: the experiment.
        study: The study's name: the parent run.
        artifacts: Folder of the artefacts where no server keeps them; also tells homes apart on a shared server.
        knobs: Searched names beside the policies' own, e.g. ``pruning.sparsity@layer3.*``, so that every trial logs
            them.
        location: Where a new experiment's artefacts go, as a URI; left out, `artifacts` or where the server keeps them.
        origin: Whose study it is on a shared server; left out, this home's.
        turn: Held while runs are looked for and made, where several drivers record one study.
    """

    def __init__(
        self,
        uri: str,
        *,
        task: str,
        study: str,
        artifacts: Path,
        knobs: Iterable[str] = (),
        location: str | None = None,
        origin: str | None = None,
        turn: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.uri, self.task, self.study, self.artifacts = uri, task, study, artifacts
        self._location, self._origin, self._turn = location, origin, turn
        self._opened: Future[Store] = Future()
        self._begin_opening()
        self._tags = {"study": study}
        self._neutral = {f"{p.name}.{k.name}": k.neutral for p in POLICIES.values() for k in p.knobs().values()}
        for name in knobs:
            policy, _, knob = name.partition("@")[0].partition(".")
            if knob in POLICIES[policy].knobs():
                self._neutral.setdefault(name, POLICIES[policy].knob(knob).neutral)
        self._parent: str | None = None
        self._runs: dict[int, str] = {}
        self._written: set[int] = set()
        self._front: set[int] = set()
        self._steps: set[int] = set()

    @property
    def store(self) -> Store:
        """The open database.

        Raises:
            StorageError: If it cannot be used; a server that was not there may be by the next call.
        """
        try:
            return self._opened.result()
        except UnreachableError:
            self._opened = Future()
            self._begin_opening()
            raise

    @property
    def parent(self) -> str:
        """The parent run's id, found or created."""
        if self._parent is None:
            self._parent = self._attach()
        return self._parent

    def start(self, baseline: Mapping[str, float], tags: Mapping[str, str], study_file_text: str) -> None:
        """Open or continue the study: parent run, study file, baseline.

        Args:
            baseline: Objectives of the network before compression, by name.
            tags: Written to every run of the study, e.g. ``data.hash``.
            study_file_text: The study file as the user wrote it.

        Raises:
            StorageError: If the database cannot be used.
        """
        self._tags |= {"hardware": hardware(), "git.commit": git_commit(Path.cwd())} | dict(tags)
        with self._turn():
            self.store.reopen(self.parent)
            self.store.log(self.parent, tags=self._tags | {"pleach.role": "study", "study.state": "running"})
            self.store.text(self.parent, study_file_text, "study.toml")
            children = self.store.children(self.parent)
            known = [run for run in children if run.data.tags.get("trial.state") == "baseline"]
            if not any(run.info.status == "FINISHED" for run in known):
                self._write_baseline(baseline, known[0].info.run_id if known else None)

    def write(self, result: TrialResult, tags: Mapping[str, str] | None = None) -> None:
        """Write one decided trial: knobs, curves, tags, files. Writing it again only refreshes its tags.

        Raises:
            StorageError: If the database cannot be used.
        """
        number, parent = result.number, self.parent
        pareto = {"pareto": str(number in self._front).lower()}
        labels = self._tags | tags_of(result) | pareto | dict(tags or {})
        if number in self._written:
            self.store.log(self._runs[number], tags=labels)
            return
        now = _now()
        if number not in self._runs:
            start = now - round(1000 * result.seconds)
            self._runs[number] = self.store.create(f"trial {number}", labels, parent=parent, start=start)
        run = self._runs[number]
        # Points carry the run's own start, so that writing a torn run again repeats the same points.
        start = self.store.started(run)
        self.store.log(
            run,
            points=points_of(result, start),
            params=params_of(self._neutral | result.request.profile.parameters()),
            tags=labels,
        )
        for name, text in files_of(result).items():
            self.store.text(run, text, name)
        self.store.end(run, "FAILED" if result.state == "failed" else "FINISHED", max(start, now))
        self._written.add(number)

    def progress(self, done: int, figures: Mapping[str, float], front: Iterable[int] | None = None) -> None:
        """Figures of the study as a whole after `done` trials, and which of them are on the front now.

        Args:
            done: Decided trials; the step of the curve. A step that is written already is left as it is.
            figures: By name, ``study/`` is put before those without a group, e.g. ``study/hypervolume``.
            front: Numbers of the trials on the front; None leaves the tags as they are.
        """
        parent, now = self.parent, _now()
        if done not in self._steps:
            named = {name if "/" in name else f"study/{name}": value for name, value in figures.items()}
            self.store.log(parent, points=[(name, done, value, now) for name, value in named.items()])
            self._steps.add(done)
        if front is not None:
            self._mark_front(set(front))

    def recorded(self) -> set[int]:
        """The trials whose runs are complete; every other one is to be written."""
        return set(self._written) if self.parent else set()

    def reconcile(self, among: Collection[int] | None = None) -> set[int]:
        """End the runs that a dead driver left running; returns their trials.

        A later `write` of such a trial completes the same run.

        Args:
            among: Trials that no living driver may be writing now; None for all.
        """
        children = self.store.children(self.parent)
        torn = {int(found): run for run in children if (found := _torn(run)) is not None}
        torn = {number: run for number, run in torn.items() if among is None or number in among}
        for number, run in torn.items():
            self.store.log(run.info.run_id, tags={"trial.state": "interrupted"})
            self.store.end(run.info.run_id, "FAILED")
            self._written.discard(number)
        return set(torn)

    def refresh(self) -> None:
        """Forget what is known of the runs, and look again: others wrote meanwhile, or an answer was lost."""
        self._parent = None
        for known in (self._runs, self._written, self._front, self._steps):
            known.clear()

    def finish(
        self, state: str, files: Mapping[str, str], front: Sequence[FrontMember] = (), *, last: bool = True
    ) -> None:
        """End the study's run, with its files and the networks of its front.

        Args:
            state: How the study ended, e.g. ``complete``, ``interrupted``; ``failed`` ends the run as failed.
            files: Texts by name, e.g. ``trials.csv``, ``front.html``.
            front: The front, best first; at most three networks and the champion are kept, the champion registered
                as ``<task>-<study>`` with the alias ``champion``.
            last: Whether no other driver works on the study; otherwise its run goes on.
        """
        parent = self.parent
        front = [member for member in front if member.number in self._runs]  # the others' drivers are about to write
        self._mark_front({member.number for member in front})
        if last:
            for name, text in files.items():
                self.store.text(parent, text, name)
        for member in front:
            for name, text in member.files.items():
                self.store.text(self._runs[member.number], text, name)
        kept = [(member, member.network) for member in front if member.network is not None]
        kept.sort(key=lambda pair: not pair[0].champion)
        for member, network in kept[: MODELS_KEPT + 1]:
            self._keep_model(member, network)
        if last:
            self.store.log(parent, tags={"study.state": state})
            self.store.end(parent, "FAILED" if state == "failed" else "FINISHED")

    def ablation(self, trial: int, rows: Sequence[Mapping[str, Any]], files: Mapping[str, str]) -> None:
        """Write what each policy of a trial's profile is worth: a run per variant, the table with the study's run.

        Args:
            trial: Whose profile it is.
            rows: As :func:`search.ablation.compared` gives them.
            files: Texts by name.

        Raises:
            StorageError: If the database cannot be used.
        """
        now = _now()
        for row in rows:
            mark = {"ablation": row["label"], "ablation.trial": str(trial)}
            known = [run for run in self.store.children(self.parent) if mark.items() <= run.data.tags.items()]
            tags = {"study": self.study, "trial.state": "ablation"} | mark
            name = f"ablation {trial}: {row['label']}"
            run = known[0].info.run_id if known else self.store.create(name, tags, parent=self.parent, start=now)
            points = [
                (f"{group}{metric_name(measure)}", 0, float(value), now)
                for group, key, figure in (
                    ("", "scores", "mean"),
                    ("deviation/", "scores", "deviation"),
                    ("difference/", "difference", "mean"),
                )
                for measure, found in row[key].items()
                if found is not None and (value := found[figure]) is not None
            ]
            points += [(f"{policy}/decisions", 0, count, now) for policy, count in row["decisions"].items()]
            self.store.log(run, points=points, tags=tags)
            self.store.end(run, "FINISHED" if row["seeds"] else "FAILED")
        for name, text in files.items():
            self.store.text(self.parent, text, f"ablations/{trial}/{name}")

    def _begin_opening(self) -> None:
        Thread(target=self._open, args=(self._opened,), name="pleach-record", daemon=True).start()

    def _open(self, opened: Future[Store]) -> None:
        try:
            from search.record.store import Store  # takes a second to import: here it does so in the background

            opened.set_result(Store(self.uri, self.task, self.artifacts, self._location))
        except BaseException as error:
            # Whoever needs the database first raises it.
            opened.set_exception(error)

    def _attach(self) -> str:
        """Find this study's parent run and what is written under it, or create it."""
        origin = {} if self.uri.startswith("sqlite") else {"study.home": self._origin or _home_id(self.artifacts)}
        tags = {"pleach.role": "study", "study": self.study} | origin
        found = self.store.find(tags)
        if not found:
            return self.store.create(self.study, tags, start=_now())
        parent: str = found[0].info.run_id
        self._steps = self.store.steps(parent, "study/hypervolume")
        for run in self.store.children(parent):
            number = run.data.tags.get("trial.number")
            if number is None:
                continue
            self._runs[int(number)] = run.info.run_id
            if run.info.status != "RUNNING" and run.data.tags.get("trial.state") != "interrupted":
                self._written.add(int(number))
            if run.data.tags.get("pareto") == "true":
                self._front.add(int(number))
        return parent

    def _write_baseline(self, baseline: Mapping[str, float], run: str | None) -> None:
        tags = self._tags | {"trial.state": "baseline", "pareto": "false"}
        run = run or self.store.create("baseline", tags, parent=self.parent, start=_now())
        now = self.store.started(run)
        points = [(metric_name(name), 0, value, now) for name, value in baseline.items()]
        points += [(f"final/{name}", 0, value, now) for name, value in baseline.items()]
        self.store.log(run, points=points, params=params_of(self._neutral))
        self.store.end(run, "FINISHED")

    def _mark_front(self, front: set[int]) -> None:
        for number in sorted(front ^ self._front):
            if number in self._runs:
                self.store.log(self._runs[number], tags={"pareto": str(number in front).lower()})
        self._front = front

    def _keep_model(self, member: FrontMember, network: nn.Module) -> None:
        from search.record import models

        run = self._runs[member.number]
        known = models.logged_models(self.store, run)
        try:
            model = known[-1] if known else models.log_model(self.store, run, network, member.inputs, step=0)
        except ExportError as error:
            self.store.log(run, tags={"model": str(error)})
            return
        if member.champion:
            models.register(self.store, run, model, f"{self.task}-{self.study}")


def _torn(run: Any) -> str | None:
    number: str | None = run.data.tags.get("trial.number")
    return number if run.info.status == "RUNNING" else None


def _home_id(artifacts: Path) -> str:
    """What tells this home's studies from another home's of the same name on a shared server."""
    path = artifacts / "home-id"
    try:
        if not path.exists():
            artifacts.mkdir(parents=True, exist_ok=True)
            path.write_text(uuid.uuid4().hex, encoding="ascii")
        return path.read_text(encoding="ascii")
    except OSError as error:
        raise StorageError(
            f"the folder {artifacts} must be writable, but is not ({error.strerror}): choose another --home"
        ) from None


def _now() -> int:
    return round(1000 * time.time())
