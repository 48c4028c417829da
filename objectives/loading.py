"""From what a study file says about a task to the task: a short name, a module or a file whose source travels along.

A class and a function are alike here: either is called with the arguments and gives an object with the five methods.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import json
import linecache
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from objectives.task import Task
from objectives.tasks import TASKS
from spaces.errors import PleachError, TaskError
from spaces.policy import nearest

METHODS = ("network", "example_inputs", "batches", "loss", "score")


def load_task(target: str, args: Mapping[str, Any] | None = None, source: str | None = None) -> Task:
    """Build a task.

    Args:
        target: A short name (``digits``), ``pkg.module:Name`` or ``path/file.py:Name``.
        args: Keyword arguments of the class or function.
        source: The text of the file; where it is given the file itself is not read and need not exist.

    Raises:
        TaskError: If anything about it cannot be found, built or used as a task; one line that says what and why.
    """
    place, name = _parts(target)
    module = _from_source(place, source) if _is_file(place) else _from_import(place)
    factory = getattr(module, name, None)
    if not callable(factory):
        known = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        # What the module itself defines is likelier to be meant than what it imports.
        own = [n for n in known if getattr(getattr(module, n), "__module__", None) == module.__name__]
        raise TaskError(
            f"{place} must define the class or function {name}, but does not: {_remedy(name, own or known)}"
        )
    task = _built(target, factory, dict(args or {}))
    missing = [method for method in METHODS if not callable(getattr(task, method, None))]
    if missing:
        raise TaskError(
            f"a task must have the methods {', '.join(METHODS)}, but {target} gives {_described(task)} "
            f"without {', '.join(missing)}: add what is missing"
        )
    return cast(Task, task)


def task_source(target: str) -> str | None:
    """The text of the file that a target names, to be shipped to workers; None where it names no file.

    Raises:
        TaskError: If the file cannot be read.
    """
    place, _ = _parts(target)
    if not _is_file(place):
        return None
    try:
        return Path(place).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise TaskError(f"the task's file {place} must be readable, but is not ({error.strerror}): check it") from None
    except UnicodeDecodeError:
        raise TaskError(f"the task's file {place} must be text in UTF-8, but is not: save it as such") from None


def task_hash(target: str, args: Mapping[str, Any] | None = None, source: str | None = None) -> str:
    """sha256 of what decides which task it is: equal for equal tasks, wherever a file lies.

    Args:
        target: As in `load_task`.
        args: JSON-able; their order does not matter.
        source: The text of the file where the target names one; read from the file where left out.

    Raises:
        TaskError: If the target is none, the file cannot be read, or an argument is not JSON.
    """
    place, name = _parts(target)
    if _is_file(place):
        text = task_source(target) if source is None else source
        place = hashlib.sha256((text or "").encode()).hexdigest()
    try:
        identity = json.dumps([place, name, dict(args or {})], sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TaskError(f"the arguments of {target} must be JSON, but are not ({error}): use plain values") from None
    return hashlib.sha256(identity.encode()).hexdigest()


def _parts(target: str) -> tuple[str, str]:
    """Module or file, and the name in it."""
    place, colon, name = TASKS.get(target, target).rpartition(":")
    if not colon or not place or not name.isidentifier():
        if _is_file(target):
            raise TaskError(f"a task in a file must name its class, as in file.py:Name, but is {target!r}: add :Name")
        raise TaskError(
            f"a task must be a short name, pkg.module:Name or file.py:Name, but is {target!r}: {nearest(target, TASKS)}"
        )
    return place, name


def _is_file(place: str) -> bool:
    return place.endswith(".py")


def _from_import(name: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise TaskError(
                f"the task's module {name} must be importable, but there is no module {error.name}: "
                "install it, put its folder on PYTHONPATH, or use file.py:Name"
            ) from None
        raise _failed(f"the task's module {name} cannot be imported", error) from error
    except (Exception, SystemExit) as error:  # the user's module may raise anything while it is imported
        raise _failed(f"the task's module {name} cannot be imported", error) from error


def _from_source(path: str, source: str | None) -> types.ModuleType:
    text = task_source(f"{path}:Task") if source is None else source
    digest = hashlib.sha256((text or "").encode()).hexdigest()[:16]
    # Named by its content: the same text is one module however often it is loaded, so its classes stay the same.
    name = f"pleach_task_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    module = types.ModuleType(name)
    module.__file__ = path
    # Tracebacks show the lines, and inspect.getsource works, where the file is not there.
    lines = (text or "").splitlines(keepends=True)
    linecache.cache[path] = (len(text or ""), None, lines, path)
    # Registered first, as an import would: dataclasses look their module up while they are made.
    sys.modules[name] = module
    try:
        exec(compile(text or "", path, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:  # the user's file may raise anything while it runs
        del sys.modules[name]
        remedy = (
            "; a task's file travels alone: import only what is installed" if isinstance(error, ImportError) else ""
        )
        raise _failed(f"the task's file {path} cannot be run", error, remedy) from error
    return module


def _built(target: str, factory: Callable[..., object], args: dict[str, Any]) -> object:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # built-in callables may have none; the call itself then says what is wrong
        signature = None
    if signature is not None:
        parameters = signature.parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        unknown = [name for name in args if name not in parameters and not takes_any]
        if unknown:
            raise TaskError(f"{target} takes no argument {unknown[0]!r}: {_remedy(unknown[0], list(parameters))}")
        try:
            signature.bind(**args)
        except TypeError as error:
            raise TaskError(f"{target} needs other arguments ({error}): it takes {signature}") from None
    try:
        return factory(**args)
    except PleachError:
        raise
    except (Exception, SystemExit) as error:  # the user's constructor may raise anything
        raise _failed(f"the task {target} cannot be built", error) from error


def _failed(what: str, error: BaseException, remedy: str = "") -> TaskError:
    return TaskError(" ".join(f"{what} ({type(error).__name__}: {error}){remedy or ': mend it and try again'}".split()))


def _remedy(name: str, known: list[str]) -> str:
    return nearest(name, known) if known else "it has none"


def _described(task: object) -> str:
    return task.__name__ if inspect.isclass(task) else f"a {type(task).__name__}"
