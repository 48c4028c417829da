"""How much memory a trial may take: the kernel refuses a worker what is beyond, so that this trial alone fails."""

from __future__ import annotations

import re
import resource
import sys

import psutil

#: What an allocation that was refused is called by Python, by PyTorch and by C++.
REFUSED = re.compile(r"MemoryError|can't allocate memory|not enough memory|bad_alloc|Cannot allocate memory")


def limit_memory(most: int) -> bool:
    """Refuse this process more private memory than `most` bytes over all; returns whether the system can.

    What it has now counts as what is resident: address space that a library has only reserved is no memory.
    """
    if sys.platform != "linux":
        return False
    now = psutil.Process().memory_info()
    # The kernel counts what is private and may be written, resident or not.
    resource.setrlimit(resource.RLIMIT_DATA, (now.data + max(0, most - now.rss), resource.RLIM_INFINITY))
    return True


def named(reason: str, limit: str) -> str:
    """The reason of a failed trial; where memory was refused it names the limit."""
    if not REFUSED.search(reason):
        return reason
    return f"it needed more memory than resources.memory, {limit}, allows: give more, or smaller batches ({reason})"
