"""The trials' folders where workers do not share the home's disk: kept by an actor on the driver's machine.

A worker writes a trial's folder on its own disk as everywhere. After each of the trial's events, and before the driver
hears of it, what changed goes to the depot, which writes it into the home; whoever takes the trial up again, on
whichever node, begins with what the depot has.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
from numpy.typing import NDArray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

#: The files of a trial's folder by name, in the order in which they were written.
Files = Mapping[str, NDArray[np.uint8]]
#: Scratch folders of workers end in their process.
SCRATCH = "scratch_"


class Depot:
    """Reads and writes the folders of trials.

    Args:
        root: The folder of the trials' folders.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def fetch(self, key: str) -> dict[str, NDArray[np.uint8]]:
        """What is kept of a trial; {} where nothing is."""
        folder = self._root / Path(key).name
        return {path.name: np.fromfile(path, np.uint8) for path in written(folder)}

    def keep(self, key: str, changed: Files, names: list[str]) -> None:
        """Write what changed, each file whole and in order, then remove what is not among the names."""
        folder = self._root / Path(key).name
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in changed.items():
            part = folder / f".{Path(name).name}.part"
            with part.open("wb") as file:
                np.ascontiguousarray(data).tofile(file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(folder / Path(name).name)
        for path in folder.iterdir():
            if path.name not in names and path.is_file():
                path.unlink(missing_ok=True)


def open_depot(root: Path) -> Any:
    """A depot on this machine; it holds no processor, and is started anew where it dies."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(Depot).options(
        num_cpus=0, max_restarts=-1, max_task_retries=-1, max_concurrency=4, scheduling_strategy=here
    )
    return actor.remote(root)


class Carrier:
    """A worker's side: one trial's folder at a time, on the worker's own disk.

    Args:
        depot: The actor.
        parent: Where this worker may write; what dead workers left there is removed.
    """

    def __init__(self, depot: Any, parent: Path) -> None:
        self._depot = depot
        for old in parent.glob(f"{SCRATCH}*"):
            owner = old.name.removeprefix(SCRATCH)
            if owner.isdigit() and not psutil.pid_exists(int(owner)):
                shutil.rmtree(old, ignore_errors=True)
        self.root = parent / f"{SCRATCH}{os.getpid()}"
        self._key = ""
        self._sent: dict[str, tuple[int, int, int]] = {}

    def take_up(self, key: str) -> None:
        """Begin with what is kept of a trial.

        Raises:
            ray.exceptions.RayError: If the depot cannot be asked.
        """
        self.clear()
        folder = self.root / Path(key).name
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in ray.get(self._depot.fetch.remote(key)).items():
            data.tofile(folder / name)
        self._key, self._sent = key, _stamps(folder)

    def send(self) -> None:
        """Send what changed since the last time.

        Raises:
            ray.exceptions.RayError: If it cannot be kept.
        """
        folder = self.root / self._key
        stamps = _stamps(folder)
        if stamps == self._sent:
            return
        changed = {n: np.fromfile(folder / n, np.uint8) for n in stamps if stamps[n] != self._sent.get(n)}
        ray.get(self._depot.keep.remote(self._key, changed, list(stamps)))
        self._sent = stamps

    def clear(self) -> None:
        """Remove the trial's folder here; the depot has it."""
        shutil.rmtree(self.root, ignore_errors=True)


def written(folder: Path) -> list[Path]:
    """The whole files of a folder, the earliest first; a file that is being written has a suffix or a dot."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.is_file() and path.name[0] != "." and path.suffix != ".part"]
    return sorted(found, key=lambda path: path.stat().st_mtime_ns)


def _stamps(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Per file what tells that it was written anew."""
    return {
        path.name: (status.st_ino, status.st_mtime_ns, status.st_size)
        for path in written(folder)
        if (status := path.stat())
    }
