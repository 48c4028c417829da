"""What may come of bad input: it is taken, or refused by one clear line; soon, and in little memory."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TypeVar

from spaces.errors import PleachError

T = TypeVar("T")

#: Seconds and bytes that an input may take.
SECONDS, BYTES = 20.0, 4 * 2**30
#: The longest message.
LONGEST = 1500


def accepted(work: Callable[[], T], refusal: type[PleachError] = PleachError, seconds: float = SECONDS) -> T | None:
    """What `work` gives, or None where it refuses as the law says; anything else that it raises is a finding."""
    try:
        with bounded(seconds):
            return work()
    except refusal as error:
        said = str(error)
        assert said.strip(), "a refusal without a word"
        assert "\n" not in said, f"a refusal of several lines: {said!r}"
        assert len(said) <= LONGEST, f"a refusal of {len(said)} characters: {said[:200]}"
        return None


@contextmanager
def bounded(seconds: float = SECONDS, more: int = BYTES) -> Iterator[None]:
    """Not for longer, and not with more memory."""

    def late(_: int, frame: FrameType | None) -> None:
        raise AssertionError(f"still at work after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, hard))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
