"""What this machine has to spare, and how fine numbers may be because of it: readings and a budget give caps.

`caps` is a pure function. The manager around it reads the machine before every batch, can only lower what a unit was
given, and writes down what it read and what it lowered, so that a run can be repeated from its log.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from types import ModuleType
from typing import Any

import psutil

from spaces import reading


@dataclass(frozen=True)
class Readings:
    """How much of each resource is in use, as shares in [0, 1]; None where there is no such thing to read.

    Args:
        cpu: Of all cores, since the last reading.
        memory: Of the machine's memory.
        gpu: Of the busiest accelerator's time.
        gpu_memory: Of the fullest accelerator's memory.
    """

    cpu: float | None = None
    memory: float | None = None
    gpu: float | None = None
    gpu_memory: float | None = None


@dataclass(frozen=True)
class ResourceBudget:
    """How much may be in use, as shares in (0, 1]; None for no limit.

    Args:
        cpu, memory, gpu, gpu_memory: As in `Readings`.
        bits: The most bits that any unit may have, whatever is in use.
    """

    cpu: float | None = None
    memory: float | None = None
    gpu: float | None = None
    gpu_memory: float | None = None
    bits: float | None = None

    def __post_init__(self) -> None:
        for name in _RESOURCES:
            limit = getattr(self, name)
            if limit is not None and not 0 < limit <= 1:
                raise ValueError(
                    f"a budget of {name} must lie in (0, 1], but is {limit}: say which share may be in use"
                )
        if self.bits is not None and self.bits < 1:
            raise ValueError(f"a budget of bits must be at least 1, but is {self.bits}: use 4 or more")

    @classmethod
    def from_dict(cls, data: object) -> ResourceBudget:
        """Read what ``dataclasses.asdict`` wrote.

        Raises:
            ValueError: If it is something else.
        """
        table = reading.table(data, "limits")
        if unknown := table.keys() - {each.name for each in fields(cls)}:
            raise ValueError(f"limits may not name {', '.join(sorted(unknown))}: leave that out")
        return cls(**{name: None if value is None else reading.number(value, name) for name, value in table.items()})


_RESOURCES = tuple(each.name for each in fields(Readings))


@dataclass(frozen=True)
class Override:
    """One unit that was held below what its controller asked for.

    Args:
        batch: Which batch, from 0.
        unit: Its name.
        wanted: Bits.
        given: Bits, fewer.
    """

    batch: int
    unit: str
    wanted: int
    given: int


@dataclass(frozen=True)
class Seen:
    """What the manager went by from a batch on."""

    batch: int
    readings: Readings
    budget: ResourceBudget


def pressure(readings: Readings, budget: ResourceBudget) -> float:
    """The use of the scarcest resource over what is allowed of it; 0 where nothing is limited."""
    pairs = ((getattr(readings, name), getattr(budget, name)) for name in _RESOURCES)
    return max((used / limit for used, limit in pairs if used is not None and limit is not None), default=0.0)


def caps(readings: Readings, budget: ResourceBudget, ladders: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The finest level that each unit may have.

    Within the budget everything is allowed. Beyond it bits are allowed in inverse proportion: where twice as much is in
    use as may be, half of the finest level's bits.

    Args:
        readings: What is in use.
        budget: What may be.
        ladders: Each unit's levels in bits, from fine to coarse.

    Returns:
        A level of its ladder per unit; the coarsest where even that is too fine.
    """
    excess = max(1.0, pressure(readings, budget))
    found = []
    for ladder in ladders:
        allowed = ladder[0] / excess if budget.bits is None else min(ladder[0] / excess, budget.bits)
        found.append(next((level for level in ladder if level <= allowed), ladder[-1]))
    return tuple(found)


class MachineReader:
    """Reads this machine: processors and memory by psutil, NVIDIA's accelerators by NVML where it is installed."""

    def __init__(self) -> None:
        self._nvml = _nvml()
        psutil.cpu_percent(None)

    def __call__(self) -> Readings:
        cpu, memory = psutil.cpu_percent(None) / 100, psutil.virtual_memory().percent / 100
        if self._nvml is None:
            return Readings(cpu, memory)
        busy, full = [0.0], [0.0]
        for index in range(self._nvml.nvmlDeviceGetCount()):
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            held = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            busy.append(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
            full.append(held.used / held.total)
        return Readings(cpu, memory, max(busy), max(full))


@dataclass
class ResourceManager:
    """Holds a budget and lowers levels that do not fit it.

    Args:
        budget: May be changed at any time; the next batch goes by it.
        read: What is in use now.
        seen: What it went by, an entry where that changed the caps.
        overrides: Every unit that was held lower, an entry where that began or changed.
    """

    budget: ResourceBudget
    read: Callable[[], Readings] = field(default_factory=MachineReader)
    seen: list[Seen] = field(default_factory=list)
    overrides: list[Override] = field(default_factory=list)
    batch: int = 0
    _caps: tuple[int, ...] = ()
    _held: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def allowed(self) -> tuple[int, ...]:
        """The finest level of each unit in the batch that was asked for last."""
        return self._caps

    def given(self, wanted: Mapping[str, int], ladders: Sequence[Sequence[int]]) -> tuple[int, ...]:
        """The levels for the next batch: never finer than what is wanted.

        Args:
            wanted: Each unit's level by its name, in order.
            ladders: Each unit's levels.
        """
        readings = self.read()
        allowed = caps(readings, self.budget, ladders)
        if allowed != self._caps:
            self.seen.append(Seen(self.batch, readings, self.budget))
            self._caps = allowed
        found = []
        for (unit, level), cap in zip(wanted.items(), allowed, strict=True):
            given = min(level, cap)
            if given == level:
                self._held.pop(unit, None)
            elif self._held.get(unit) != (level, given):
                self.overrides.append(Override(self.batch, unit, level, given))
                self._held[unit] = (level, given)
            found.append(given)
        self.batch += 1
        return tuple(found)

    def log(self) -> dict[str, Any]:
        """Everything that a replay needs, JSON-able."""
        return {
            "batches": self.batch,
            "seen": [{"batch": s.batch, "readings": asdict(s.readings), "budget": asdict(s.budget)} for s in self.seen],
            "overrides": [asdict(override) for override in self.overrides],
        }

    def go_on(self, log: Mapping[str, Any]) -> None:
        """Take up the log of the run that was cut off; what holds now is logged anew."""
        self.batch, self.seen, self.overrides = log["batches"], _seen(log), [Override(**o) for o in log["overrides"]]


def replaying(log: Mapping[str, Any]) -> ResourceManager:
    """A manager that goes by what another one went by, batch for batch."""
    return _Replay(ResourceBudget(), Readings, _entries=_seen(log))


def _seen(log: Mapping[str, Any]) -> list[Seen]:
    return [
        Seen(entry["batch"], Readings(**entry["readings"]), ResourceBudget(**entry["budget"])) for entry in log["seen"]
    ]


@dataclass
class _Replay(ResourceManager):
    _entries: list[Seen] = field(default_factory=list)

    def given(self, wanted: Mapping[str, int], ladders: Sequence[Sequence[int]]) -> tuple[int, ...]:
        past = [entry for entry in self._entries if entry.batch <= self.batch]
        if past:
            self.budget, readings = past[-1].budget, past[-1].readings
            self.read = lambda: readings
        return super().given(wanted, ladders)


def recorded(readings: Iterable[Readings]) -> Callable[[], Readings]:
    """A reader of readings that were taken before; the last one stands from its batch on."""
    waiting = list(readings)
    if not waiting:
        raise ValueError("recorded readings must be at least one, but there are none: record some")
    return lambda: waiting.pop(0) if len(waiting) > 1 else waiting[0]


def _nvml() -> ModuleType | None:
    """NVML, initialised; None where it is not installed or there is no accelerator."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml
