"""A trial on disk: after each iteration all that it needs to go on as if nothing had happened. No pickle.

One file holds every tensor, one the reports; both are written beside their names and renamed, the tensors first, so
that a kill at any moment leaves the last whole checkpoint.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from search.finetune import Finetuning
from search.result import Report
from search.surgery.mechanism import Mechanism
from search.surgery.site import Site


class Checkpoints:
    """The checkpoint of one trial, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, site: Site, mechanisms: Sequence[Mechanism], loop: Finetuning, reports: Sequence[Report]) -> None:
        """Write everything that changes while a trial runs."""
        state: dict[str, Tensor] = {}
        state |= _over("network", site.network.state_dict())
        state |= _over("connectivity", site.connectivity.state())
        state |= _over("optimizer", site.optimizer.state() if site.optimizer else {})
        state |= _over("loop", loop.state())
        state |= {"generator": site.generator.get_state()}
        for mechanism in mechanisms:
            state |= _over(f"mechanism/{mechanism.name}", mechanism.state())
        closed = [[root, index] for root, index in site.connectivity.closed]
        iteration = len(reports)
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
        temporary = self.folder / f"iteration-{iteration}.safetensors.part"
        save_file(tensors, str(temporary))
        temporary.replace(self.folder / f"iteration-{iteration}.safetensors")
        structure = {mechanism.name: mechanism.structure() for mechanism in mechanisms}
        text = json.dumps(
            {
                "reports": [report.to_dict() for report in reports],
                "closed": closed,
                "structure": structure,
                "resources": site.resources.log() if site.resources is not None else None,
            }
        )
        part = self.folder / "reports.json.part"
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.folder / "reports.json")
        for old in self.folder.glob("iteration-*.safetensors*"):
            if old.name != f"iteration-{iteration}.safetensors":
                old.unlink(missing_ok=True)

    def load(self, site: Site, mechanisms: Sequence[Mechanism], loop: Finetuning) -> list[Report]:
        """Take up the checkpoint, if there is one, and return the reports that led to it."""
        path = self.folder / "reports.json"
        if not path.exists():
            return []
        written = json.loads(path.read_text(encoding="utf-8"))
        reports = [Report.from_dict(report) for report in written["reports"]]
        state = load_file(str(self.folder / f"iteration-{len(reports)}.safetensors"))
        for mechanism in mechanisms:
            mechanism.rebuild(written["structure"].get(mechanism.name))
        site.network.load_state_dict(_under("network", state))
        known = {c.key: c for group in site.channel_groups() for c in group.channels} if written["closed"] else {}
        closed = {(root, index): known[(root, index)] for root, index in written["closed"]}
        site.connectivity.load_state(_under("connectivity", state), closed)
        if site.optimizer is not None:
            site.optimizer.load_state(_under("optimizer", state))
        loop.load_state(_under("loop", state))
        site.generator.set_state(state["generator"])
        if site.resources is not None:
            site.resources.go_on(written["resources"])
        for mechanism in mechanisms:
            mechanism.load_state(_under(f"mechanism/{mechanism.name}", state))
        return reports


def clear(folder: Path) -> None:
    """Remove a trial's checkpoint, once its result is written; the finished network beside it stays."""
    (folder / "reports.json").unlink(missing_ok=True)
    for old in folder.glob("iteration-*.safetensors*"):
        old.unlink(missing_ok=True)


def _over(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": value for name, value in state.items()}


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(f"{prefix}/"): value for n, value in state.items() if n.startswith(f"{prefix}/")}
