"""How a driver joins a study that others may drive already: it must be the same one, and goes by what was agreed."""

from __future__ import annotations

import socket
import tomllib
import uuid
from typing import TYPE_CHECKING

from objectives.loading import task_hash
from search.database import is_shared
from search.register import Agreement, Register
from search.share import entries_in
from search.state import State
from search.study_file import StudyFile
from search.study_tables import seconds
from search.toml import to_toml
from spaces.errors import StorageError, StudyError

if TYPE_CHECKING:
    from search.study import Study

#: What is a home's own, and may say where its passwords are.
OWN_TABLES = ("storage", "resources")


def joined(study: Study, state: State, url: str) -> tuple[Register, Agreement]:
    """Become one of the drivers of a study in a shared database.

    Args:
        study: The study, in this home.
        state: Of it.
        url: The database.

    Raises:
        StorageError: If the database cannot be used.
        StudyFileError: If the file is not what the first driver began with.
        StudyError: If the database has another study of that name, or the task is another one.
    """
    driver = state.driver or uuid.uuid4().hex
    register = Register(url, study.name, driver, place_of(study), seconds(study.file.storage.takeover))
    try:
        own = Agreement(
            state.identity, shared_text(study.file), _made_of(study.file), judged=dict(study.file.constraints)
        )
        agreed = register.join(own, entries_in(study.folder))
        _check(study, state, own, agreed)
    except BaseException:
        register.close()
        raise
    return register, agreed


def place_of(study: Study) -> str:
    """Where this driver is, for people: ``host:/home``."""
    return f"{socket.gethostname()}:{study.home.root}"


def home_of(study: Study, number: int) -> str | None:
    """Where another driver is that decided a trial of a shared study, ``host:/home``; None where it is not known."""
    url = study.file.storage.optuna
    if url is None or not is_shared(url):
        return None
    register = Register(url, study.name, "", "")
    try:
        place = register.place_of(str(number))
        return None if place == place_of(study) else place
    except StorageError:
        return None
    finally:
        register.close()


def shared_text(file: StudyFile) -> str:
    """The study file as TOML, without what is a driver's own."""
    data = tomllib.loads(file.text)
    return to_toml({table: keys for table, keys in data.items() if table not in OWN_TABLES})


def _made_of(file: StudyFile) -> str:
    """What the task is, wherever its files lie: homes on different machines may keep its data in different places."""
    reference = file.task_reference
    return task_hash(reference.target, file.task.args, reference.source)


def _check(study: Study, state: State, own: Agreement, agreed: Agreement) -> None:
    study.file.check_continues(StudyFile.of(tomllib.loads(agreed.file), study.file.folder))
    if agreed.identity != state.identity and study.folder.results():
        raise StudyError(
            f"the trials in this home must be the shared study's, but the database has another study {study.name!r}: "
            "use another name with --name, or another home"
        )
    if agreed.task_hash != own.task_hash:
        raise StudyError(
            f"the task of {study.name!r} must be what it is for its other drivers, but {study.file.task.target} "
            "is made of something else here: copy it from where the study began"
        )
