"""What this machine is: for the tags of a run and for `pleach doctor`."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
from pathlib import Path

import psutil


def cores() -> int:
    """The CPU cores that this process may use; a container or `taskset` may allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """The machine's memory."""
    return int(psutil.virtual_memory().total)


@functools.cache
def processor() -> str:
    """The processor's own name, e.g. ``Intel(R) Xeon(R) Processor @ 2.60GHz``."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@functools.cache
def accelerators() -> tuple[str, ...]:
    """The names of the GPUs that the driver lists; asked of `nvidia-smi`, so that torch need not be loaded."""
    if shutil.which("nvidia-smi") is None:
        return ()
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(line.strip() for line in said.stdout.splitlines() if line.strip()) if said.returncode == 0 else ()


def hardware() -> str:
    """One line for a run's tag: figures of different machines must not be compared unawares."""
    parts = [f"{cores()} x {processor()}", f"{memory_bytes() / 2**30:.0f} GiB", *accelerators()]
    return ", ".join(parts)


def git_commit(folder: Path) -> str:
    """The commit of the repository that `folder` lies in, with ``+changes`` where it is dirty; "" where there is none.

    The user's own repository is meant: the code of the task, from which `pleach` is started.
    """
    if shutil.which("git") is None:
        return ""
    try:
        said = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return said.stdout.strip() if said.returncode == 0 else ""
