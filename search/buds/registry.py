"""Buds in MLflow's model registry: versions with aliases and tags in the database, networks among its artefacts.

A system ``NAME`` has one model for what its buds share (stem, router, parent) and one per bud, ``NAME.0``,
``NAME.1`` ... The alias ``champion`` says which version serves, ``previous`` which one did before.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dashboards.buds import map_figure, map_frame
from dashboards.standalone import document
from search.buds.bundle import Bud, Bundle, manifest_hash, read_bud, read_bundle
from search.home import Home
from search.record.store import Store
from search.study import Study
from spaces.errors import ExportError, StudyError, shown
from spaces.policy import nearest

CHAMPION, PREVIOUS = "champion", "previous"
#: Marks our models among others of the same database.
ROLE = "pleach.role"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}(\.\d{1,3})?")
#: The folder of a run's artefacts that holds the network.
_PLACE = "bud"


@dataclass(frozen=True)
class Version:
    """One version of one model.

    Args:
        model: ``NAME`` or ``NAME.<sub-task>``.
        number: From 1.
        aliases: Which point at it.
        tags: ``parent``, ``subtask``, ``centre``, ``classes``, ``macs``, ``manifest`` ...
        run: The MLflow run that holds its files.
    """

    model: str
    number: int
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    run: str

    @property
    def subtask(self) -> int | None:
        """Of a bud; None for what the buds share."""
        return subtask_of(self.model)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form."""
        return {
            "model": self.model,
            "version": self.number,
            "aliases": list(self.aliases),
            "tags": dict(self.tags),
            "run": self.run,
        }


class Registry:
    """The systems of one database.

    Args:
        uri: MLflow's.
        artifacts: Where the files of a database without a server go.
        experiment: Where the runs of the buds go.

    Raises:
        StorageError: If the database cannot be used.
    """

    def __init__(self, uri: str, artifacts: Path, experiment: str = "buds") -> None:
        self._store = Store(uri, experiment, artifacts)
        self._client = self._store.client

    @classmethod
    def of(cls, home: Home, study: Study | None = None) -> Registry:
        """The registry of a home, or of the database that a study names."""
        if study is None:
            return cls(home.mlflow_uri, home.artifacts)
        uri = study.mlflow_uri
        return cls(uri, home.artifacts, study.task_name)

    # -- what there is ----------------------------------------------------------------------------------------------

    def systems(self) -> list[str]:
        """The names of all systems, sorted."""
        with self._store.translated():
            found = self._client.search_registered_models(f"tags.`{ROLE}` = 'system'")
            return sorted(model.name for model in found)

    def versions(self, name: str) -> list[Version]:
        """All versions of a system and of its buds, or of one bud, by model and number.

        Raises:
            StudyError: If there is no such model; the message names the nearest.
        """
        found = [v for model in self._models(name) for v in self._versions(model)]
        if not found:
            known = self.systems()
            remedy = nearest(name, known) if known else "make one with pleach bud run"
            raise StudyError(f"there is no system of buds {shown(name)}: {remedy}")
        return found

    def serving(self, name: str) -> dict[str, Version]:
        """The versions that serve now, by model; a bud without the alias is missing."""
        with self._store.translated():
            found = {}
            for model in self._models(name):
                number = dict(self._client.get_registered_model(model).aliases).get(CHAMPION)
                if number is not None:
                    found[model] = _version(self._client.get_model_version(model, str(number)), (CHAMPION,))
            return found

    # -- what changes -----------------------------------------------------------------------------------------------

    def register(
        self, name: str, folder: Path, *, study: str = "", tags: Mapping[str, str] | None = None
    ) -> list[Version]:
        """Register a system that lies in a folder, and let it serve.

        Args:
            name: Of the system.
            folder: What `search.buds.bundle.write_bundle` wrote.
            study: The study that it comes from: its runs are filed under the study's.
            tags: Written to every version.

        Returns:
            The new versions, the system's first.

        Raises:
            ExportError: If the folder is no whole system.
            StudyError: If the name cannot be a model's.
        """
        if not _NAME.fullmatch(name) or "." in name:
            raise StudyError(f"a system's name must be letters, digits, '_' and '-', but is {shown(name)}: rename it")
        bundle = read_bundle(folder)
        about = {"parent": bundle.identity, "study": study, **(tags or {})}
        figures = {
            key: float(bundle.about[key]) for key in ("accuracy", "parent_accuracy", "macs") if key in bundle.about
        }
        shared = {"subtasks": str(bundle.system.subtasks)} | {key: f"{value:.6g}" for key, value in figures.items()}
        made = []
        # Buds first: a system that serves finds its buds.
        for index, bud in sorted(bundle.buds.items()):
            place = folder / "buds" / str(index)
            made.append(self._add(f"{name}.{index}", place, "bud", about | _tags_of(bud), dict(bud.scores), study))
        with _apart(folder) as parts:
            made.insert(0, self._add(name, parts, "system", about | shared, figures, study))
        portrait = bundle.about.get("portrait", {})
        drawn = map_figure(map_frame(portrait), agreement=portrait.get("agreement"))
        self._store.text(made[0].run, document(f"{name}: sub-tasks", drawn), "map.html")
        for version in reversed(made):
            self._point(version.model, version.number)
        return [version for model in [v.model for v in made] for version in self._versions(model)[-1:]]

    def promote(self, name: str, number: int) -> list[Version]:
        """Let a version serve; of a system, with the buds of that parent that came with it.

        Raises:
            StudyError: If there is no such version, or a bud does not fit the system that serves.
        """
        chosen = self._one(name, number)
        if chosen.subtask is not None:
            self._check_fits(chosen)
            self._point(name, number)
            return self.versions(name)
        for model in self._models(name)[1:]:
            fitting = [v for v in self._versions(model) if v.tags.get("parent") == chosen.tags.get("parent")]
            if fitting:
                self._point(model, fitting[-1].number)
        self._point(name, number)
        return self.versions(name)

    def rollback(self, name: str) -> list[Version]:
        """Let the version serve that did before; champion and previous change places.

        Raises:
            StudyError: If there is none.
        """
        with self._store.translated():
            before = dict(self._client.get_registered_model(self._known(name)).aliases).get(PREVIOUS)
        if before is None:
            raise StudyError(f"{name} has no previous version to go back to: promote one with pleach bud promote")
        return self.promote(name, int(before))

    def delete(self, name: str, number: int | None = None) -> list[str]:
        """Delete one version, or a model with all its versions, of a system with its buds; files stay in their runs.

        Returns:
            What was deleted.

        Raises:
            StudyError: If there is none, or it is the system's that serves.
        """
        if number is not None:
            chosen = self._one(name, number)
            if CHAMPION in chosen.aliases and chosen.subtask is None:
                raise StudyError(f"version {number} of {name} serves now: promote another one first")
            with self._store.translated():
                for alias in chosen.aliases:
                    self._client.delete_registered_model_alias(name, alias)
                self._client.delete_model_version(name, str(number))
            return [f"{name} {number}"]
        models = self._models(self._known(name))
        with self._store.translated():
            for model in models:
                self._client.delete_registered_model(model)
        return models

    # -- what is read -----------------------------------------------------------------------------------------------

    def read_system(self, version: Version) -> Bundle:
        """A system without its buds.

        Raises:
            ExportError: If its files are not what was registered.
        """
        with self._fetched(version) as folder:
            return read_bundle(folder)

    def read_bud(self, version: Version) -> tuple[Any, Bud]:
        """A bud's network and what is known of it.

        Raises:
            ExportError: If its files are not what was registered.
        """
        with self._fetched(version) as folder:
            if manifest_hash(folder) != version.tags.get("manifest"):
                raise ExportError(f"{version.model} {version.number} is not what was registered: register it again")
            return read_bud(folder)

    @contextmanager
    def _fetched(self, version: Version) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="pleach-bud-") as place:
            with self._store.translated():
                folder = self._client.download_artifacts(version.run, _PLACE, place)
            yield Path(folder)

    # -- details ----------------------------------------------------------------------------------------------------

    def _models(self, name: str) -> list[str]:
        """The model of that name and, of a system, those of its buds in their order."""
        with self._store.translated():
            found = [model.name for model in self._client.search_registered_models(f"name LIKE '{name}%'")]
        if subtask_of(name) is not None:
            return [name] if name in found else []
        buds = [m for m in found if subtask_of(m) is not None and m.rpartition(".")[0] == name]
        return ([name] if name in found else []) + sorted(buds, key=lambda m: subtask_of(m) or 0)

    def _known(self, name: str) -> str:
        self.versions(name)
        return name

    def _versions(self, model: str) -> list[Version]:
        with self._store.translated():
            aliases: dict[str, list[str]] = {}
            for alias, number in dict(self._client.get_registered_model(model).aliases).items():
                aliases.setdefault(str(number), []).append(alias)
            found = self._client.search_model_versions(f"name = '{model}'")
        versions = [_version(each, tuple(sorted(aliases.get(str(each.version), [])))) for each in found]
        return sorted(versions, key=lambda version: version.number)

    def _one(self, name: str, number: int) -> Version:
        self.versions(name)
        found = {version.number: version for version in self._versions(name)}
        if number not in found:
            raise StudyError(f"{name} has no version {number}: known are {', '.join(map(str, found))}")
        return found[number]

    def _check_fits(self, bud: Version) -> None:
        system = bud.model.rpartition(".")[0]
        serving = self.serving(system).get(system)
        if serving is not None and serving.tags.get("parent") != bud.tags.get("parent"):
            raise StudyError(
                f"a bud must have grown from the parent that serves, but version {bud.number} of {bud.model} did not: "
                f"promote the system {system} it belongs to"
            )

    def _point(self, model: str, number: int) -> None:
        """Let `champion` point there, and `previous` where it pointed."""
        with self._store.translated():
            before = dict(self._client.get_registered_model(model).aliases).get(CHAMPION)
            if before is not None and int(before) != number:
                self._client.set_registered_model_alias(model, PREVIOUS, str(before))
            self._client.set_registered_model_alias(model, CHAMPION, str(number))

    def _add(
        self, model: str, folder: Path, role: str, tags: Mapping[str, str], figures: Mapping[str, float], study: str
    ) -> Version:
        store, now = self._store, round(1000 * time.time())
        found = store.find({ROLE: "study", "study": study}) if study else []
        parent = found[0].info.run_id if found else None
        run = store.create(model, {ROLE: role, "study": study, **tags}, parent=parent, start=now)
        store.log(run, points=[(f"bud/{name}", 0, value, now) for name, value in figures.items()])
        with store.translated():
            store.client.log_artifacts(run, str(folder), _PLACE)
            if not store.client.search_registered_models(f"name = '{model}'"):
                store.client.create_registered_model(model, tags={ROLE: role})
            source = f"{store.client.get_run(run).info.artifact_uri}/{_PLACE}"
            hashed = {"manifest": manifest_hash(folder)} if role == "bud" else {}
            made = store.client.create_model_version(model, source, run_id=run, tags={ROLE: role, **tags, **hashed})
        store.end(run, "FINISHED")
        return _version(made, ())


def subtask_of(model: str) -> int | None:
    """Of a bud's model; None for a system's."""
    _, dot, number = model.rpartition(".")
    return int(number) if dot and number.isdigit() else None


def _tags_of(bud: Bud) -> dict[str, str]:
    return {
        "subtask": str(bud.subtask),
        "centre": json.dumps(list(bud.centre)),
        "classes": json.dumps(list(bud.classes)),
        "macs": f"{bud.macs:.6g}",
        "parameters": f"{bud.parameters:.6g}",
    } | {name: f"{value:.6g}" for name, value in bud.scores.items()}


def _version(found: Any, aliases: tuple[str, ...]) -> Version:
    return Version(found.name, int(found.version), aliases, dict(found.tags), str(found.run_id))


@contextmanager
def _apart(folder: Path) -> Iterator[Path]:
    """The system's own parts, without its buds."""
    with tempfile.TemporaryDirectory(prefix="pleach-system-") as place:
        for part in ("router", "stem", "parent"):
            shutil.copytree(folder / part, Path(place) / part)
        yield Path(place)
