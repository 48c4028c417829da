"""The parts of the service, put together for one home."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dashboards.app import Source
from dashboards.frames import Frames
from search.commands.dashboard import Readings
from search.home import Home
from search.service.allowed import Allowed
from search.service.control import Control
from search.service.exports import Exports
from search.service.guard import Limits
from search.service.looks import Looks
from search.service.processes import Processes


@dataclass(frozen=True)
class Service:
    """What the calls are answered with.

    Args:
        home: Whose studies.
        allowed: What may be launched.
        limits: What a caller may ask for.
        looks: Who looks.
        control: Who launches, stops and resumes.
        exports: Who exports.
    """

    home: Home
    allowed: Allowed
    limits: Limits
    looks: Looks
    control: Control
    exports: Exports

    @classmethod
    def of(
        cls, home: Home, allowed: Allowed, limits: Limits | None = None, processes: Processes | None = None
    ) -> Service:
        processes = processes or Processes(home)
        looks = Looks(home, processes)
        return cls(home, allowed, limits or Limits(), looks, Control(home, allowed, processes, looks), Exports(home))

    def source(self) -> Source:
        """What the dashboard reads."""
        readings = Readings(self.home).source()

        def studies() -> list[dict[str, Any]]:
            return [
                {**line, "state": "running" if self._driven(line["study"], line["state"]) else line["state"]}
                for line in readings.studies()
            ]

        def load(name: str) -> Frames:
            frames = readings.load(name)
            return replace(frames, phase="running", reason="") if self._driven(name, frames.phase) else frames

        def export(name: str, number: int) -> Any:
            identity, trial = self.looks.exported(name, number, None)
            return self.exports.wanted(name, identity, trial).result()

        return Source(studies, load, export)

    def _driven(self, name: str, phase: str) -> bool:
        """Whether what seems interrupted is a job, whose driver the pages do not see."""
        return phase == "interrupted" and self.looks.look(name).summary["state"] == "running"
