"""Who may ask how often: token buckets, so that a flood costs the host a bounded share of a core.

A source beyond its rate loses most of its datagrams before they are read; all sources together
beyond the server's rate are left in the kernel's buffer, which is small.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Questions per second (sustained, and at once), and what is held open or in mind at most."""

    source_rate: float = 500.0
    source_burst: float = 1000.0
    total_rate: float = 4000.0
    total_burst: float = 1000.0
    sources: int = 1024
    connections: int = 64
    idle: float = 10.0
    """Seconds a TCP client may take for its next question, or to read an answer."""


class Bucket:
    """`burst` tokens that come back at `rate` per second."""

    __slots__ = ("_at", "_burst", "_clock", "_rate", "_tokens")

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._tokens = burst
        self._at = clock()

    def take(self) -> bool:
        """Take a token, if there is one."""
        self._refill()
        if self._tokens < 1.0:
            return False

        self._tokens -= 1.0
        return True

    def reserve(self, tokens: float = 1.0) -> float:
        """Take what may still have to come; return in how many seconds it will be there."""
        self._refill()
        self._tokens -= tokens
        return max(0.0, -self._tokens / self._rate)

    def _refill(self) -> None:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now


class SourceBuckets:
    """A bucket for each of the last `limits.sources` addresses that asked."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._buckets: dict[str, Bucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def of(self, source: str) -> Bucket:
        """The bucket of `source`; a full one if it has not been seen for long."""
        bucket = self._buckets.pop(source, None)
        if bucket is None:
            bucket = Bucket(self._limits.source_rate, self._limits.source_burst, self._clock)
            if len(self._buckets) >= self._limits.sources:
                del self._buckets[next(iter(self._buckets))]

        # Insertion order is then order of last use.
        self._buckets[source] = bucket
        return bucket
