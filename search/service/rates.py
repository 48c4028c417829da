"""How often somebody may ask: a bucket of calls that fills again at a steady rate."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class _Bucket:
    left: float
    when: float


class Rate:
    """Calls per second of each caller; after a silence, `burst` of them at once.

    Args:
        rate: Calls a second.
        burst: Calls at once.
        callers: How many callers are remembered; who has been silent longest is forgotten, which costs nobody a call.
        clock: Seconds that only rise.
    """

    def __init__(
        self, rate: float, burst: float, *, callers: int = 4096, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._burst, self._callers, self._clock = rate, burst, callers, clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def wait(self, caller: str) -> float:
        """Seconds until the caller has a call; 0 where there is one now."""
        bucket = self._buckets.get(caller)
        if bucket is None:
            return 0.0
        left = self._filled(bucket)
        return 0.0 if left >= 1 else (1 - left) / self._rate

    def take(self, caller: str) -> float:
        """Use a call up; seconds to wait where there is none, and then none is used up."""
        wait = self.wait(caller)
        if wait:
            return wait
        bucket = self._buckets.get(caller) or _Bucket(self._burst, self._clock())
        self._buckets[caller] = _Bucket(self._filled(bucket) - 1, self._clock())
        self._buckets.move_to_end(caller)
        while len(self._buckets) > self._callers:
            self._buckets.popitem(last=False)
        return 0.0

    def _filled(self, bucket: _Bucket) -> float:
        return min(self._burst, bucket.left + (self._clock() - bucket.when) * self._rate)
