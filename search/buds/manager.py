"""The bud manager: who answers which request now, while buds come, go and change under it."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from torch import Tensor, nn

from objectives.task import Inputs
from search.buds.bundle import Bundle
from search.buds.registry import Registry, Version, subtask_of
from search.buds.system import Answer, System
from search.home import Home
from spaces.errors import PleachError, RequestError, StudyError, shown

logger = logging.getLogger(__name__)
#: Gives what answers in a bud's place.
ReadBud = Callable[[Version], nn.Module]
#: Seconds between two looks at the registry.
EVERY = 2.0


@dataclass(frozen=True, eq=False)
class Serving:
    """What answers at one moment; never changed, only replaced.

    Args:
        system: The parent with its buds.
        labels: Per bud what it is called, e.g. ``digits.0 3``.
        label: The same of the system.
        inputs: Shape (without the batch) and type of each input.
        versions: By model the version that serves, as the registry had it.
    """

    system: System
    labels: Mapping[int, str] = field(default_factory=dict)
    label: str = ""
    inputs: tuple[Mapping[str, Any], ...] = ()
    versions: Mapping[str, int] = field(default_factory=dict)


class BudManager:
    """Answers requests with a system of buds; buds may be added, removed and replaced while it does.

    A request is answered by what served when it came: a change in between does not touch it.

    Args:
        serving: What answers at first.
        registry: Where it comes from, for `refresh`; None where nothing is looked up.
        name: Of the system there.
        read: How a bud is had; None reads its network from the registry.
    """

    def __init__(
        self, serving: Serving, registry: Registry | None = None, name: str = "", read: ReadBud | None = None
    ) -> None:
        self._serving, self._registry, self._name, self._read = serving, registry, name, read
        self._changing, self._counting = threading.Lock(), threading.Lock()
        self._counts: Counter[str] = Counter()
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """A manager of a system that was read from a folder."""
        labels = {index: f"bud {index}" for index in bundle.buds}
        return cls(Serving(bundle.system, labels, bundle.identity[:12], tuple(bundle.about["inputs"])))

    @classmethod
    def load(
        cls, name: str, home: Home | None = None, *, registry: Registry | None = None, read: ReadBud | None = None
    ) -> Self:
        """A manager of the versions of a system that have the alias ``champion``.

        Raises:
            StudyError: If there is no such system, or none of its versions serves.
            ExportError: If its files are not what was registered.
        """
        registry = registry or Registry.of(home or Home.find())
        registry.versions(name)
        serving = _read(registry, name, None, read)
        return cls(serving, registry, name, read)

    # -- answering --------------------------------------------------------------------------------------------------

    @property
    def serving(self) -> Serving:
        """What answers now."""
        return self._serving

    def answer(self, inputs: Inputs) -> Answer:
        """Answer a batch of requests; every one has an answer.

        Raises:
            RequestError: If the inputs have not the shape that the network takes.
        """
        serving = self._serving
        self.check(inputs)
        answer = serving.system.answer(inputs)
        self._count(serving, answer)
        return answer

    def check(self, inputs: Inputs) -> None:
        """Refuse what the network cannot take.

        Raises:
            RequestError: If it is of another shape or type; values are not looked at.
        """
        wanted = self._serving.inputs
        given = (
            (inputs,) if isinstance(inputs, Tensor) else tuple(inputs.values() if isinstance(inputs, dict) else inputs)
        )
        if not wanted:
            return
        if len(given) != len(wanted):
            raise RequestError(f"a request must have {len(wanted)} inputs, but has {len(given)}: send all of them")
        for tensor, want in zip(given, wanted, strict=True):
            kind = str(tensor.dtype).removeprefix("torch.")
            if list(tensor.shape[1:]) != list(want["shape"]) or kind != want["dtype"] or tensor.ndim == 0:
                raise RequestError(
                    f"inputs must be (batch, {', '.join(map(str, want['shape']))}) of {want['dtype']}, but are "
                    f"{tuple(tensor.shape)} of {kind}: send them as the network was trained on"
                )

    def figures(self) -> dict[str, float]:
        """What was answered so far: ``requests``, ``parent``, ``blended``, ``bud/0`` ..."""
        with self._counting:
            return {name: float(count) for name, count in sorted(self._counts.items())}

    def _count(self, serving: Serving, answer: Answer) -> None:
        parts = answer.weights > 0
        counts = {
            "requests": len(parts),
            "parent": int(answer.asked.sum()),
            "blended": int((parts.sum(1) > 1).sum()),
            **{f"bud/{index}": int(parts[:, index].sum()) for index in serving.labels},
        }
        with self._counting:
            self._counts.update(counts)

    # -- changing ---------------------------------------------------------------------------------------------------

    def add(self, subtask: int, bud: nn.Module, label: str = "") -> None:
        """Let a bud answer for a sub-task, in place of the one that did.

        Raises:
            NetworkError: If the router does not know that sub-task.
        """
        with self._changing:
            now = self._serving
            system = now.system.having({**now.system.buds, subtask: bud.eval()})
            labels = {**now.labels, subtask: label or f"bud {subtask}"}
            self._serving = Serving(system, labels, now.label, now.inputs, now.versions)

    def remove(self, subtask: int) -> None:
        """Let the parent answer for a sub-task from now on."""
        with self._changing:
            now = self._serving
            system = now.system.having({i: bud for i, bud in now.system.buds.items() if i != subtask})
            labels = {i: label for i, label in now.labels.items() if i != subtask}
            self._serving = Serving(system, labels, now.label, now.inputs, now.versions)

    def refresh(self) -> bool:
        """Take up what the aliases in the registry point at now; True where that is something else.

        Raises:
            PleachError: If it cannot be read; what served goes on serving.
        """
        if self._registry is None:
            return False
        with self._changing:
            versions = {model: version.number for model, version in self._registry.serving(self._name).items()}
            if versions == self._serving.versions:
                return False
            self._serving = _read(self._registry, self._name, self._serving, self._read)
        logger.info("serving %s with %s", self._serving.label, ", ".join(self._serving.labels.values()) or "no bud")
        return True

    def watch(self, every: float = EVERY) -> None:
        """Refresh every so many seconds in the background, until `close`."""
        if self._watcher is None and self._registry is not None:
            self._watcher = threading.Thread(target=self._keep_watching, args=(every,), name="pleach-buds", daemon=True)
            self._watcher.start()

    def close(self) -> None:
        """End watching."""
        self._stop.set()
        if self._watcher is not None:
            self._watcher.join()

    def _keep_watching(self, every: float) -> None:
        while not self._stop.wait(every):
            try:
                self.refresh()
            except PleachError as error:  # a database that is away for a while must not end the service
                logger.warning("the registry cannot be read, so what served goes on: %s", error)


def _read(registry: Registry, name: str, before: Serving | None, read: ReadBud | None) -> Serving:
    """What the aliases point at; networks that serve already are not read again."""
    found = registry.serving(name)
    if name not in found:
        raise StudyError(f"no version of {shown(name)} serves: choose one with pleach bud promote {name} VERSION")
    kept = before.versions if before is not None else {}
    shared = found[name]
    if before is not None and kept.get(name) == shared.number:
        system, inputs = before.system, before.inputs
    else:
        bundle = registry.read_system(shared)
        system, inputs, before = bundle.system, tuple(bundle.about["inputs"]), None
    buds, labels = dict[int, nn.Module](), dict[int, str]()
    for model, version in found.items():
        subtask = subtask_of(model)
        # A bud of another parent is left out: the parent answers until its own system serves.
        if subtask is None or version.tags.get("parent") != shared.tags.get("parent"):
            continue
        same = before is not None and kept.get(model) == version.number and subtask in before.system.buds
        if same and before:
            buds[subtask] = before.system.buds[subtask]
        else:
            buds[subtask] = read(version) if read is not None else registry.read_bud(version)[0]
        labels[subtask] = f"{model} {version.number}"
    versions = {model: version.number for model, version in found.items()}
    return Serving(system.having(buds), labels, f"{name} {shared.number}", inputs, versions)
