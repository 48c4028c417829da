"""Named places at which tests make the process die, as a power cut would: between any two writes of a trial."""

from __future__ import annotations

import os
import signal

#: ``after-result:3`` kills the process right after the file of trial 3 is written.
VARIABLE = "PLEACH_FAULT"


def fault(point: str, number: int) -> None:
    """Die here, without any clean-up, if the environment names this point."""
    if os.environ.get(VARIABLE) == f"{point}:{number}":
        os.kill(os.getpid(), signal.SIGKILL)
