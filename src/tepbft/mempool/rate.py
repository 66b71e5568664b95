"""How fast this node executes, and so how much it may let wait (A3.6)."""

from __future__ import annotations

from tepbft.types import Millis

SAMPLE_MS = 100
"""Busy time after which a sample is taken."""
MEMORY_MS = 2000
"""Time over which old samples fade."""


class ExecutionRate:
    """Requests executed per second of busy time, smoothed exponentially.

    Time without pending requests does not count: idleness says nothing about capacity.
    """

    __slots__ = ("_busy_ms", "_busy_since_ms", "_executed", "per_second")

    def __init__(self) -> None:
        self.per_second = 0.0
        self._executed = 0
        self._busy_ms = 0
        self._busy_since_ms: Millis | None = None

    def work_begins(self, now_ms: Millis) -> None:
        """Something is pending from now on."""
        if self._busy_since_ms is None:
            self._busy_since_ms = now_ms

    def executed(self, count: int, now_ms: Millis, still_busy: bool) -> None:
        """`count` requests were executed; `still_busy` says whether any are left."""
        if self._busy_since_ms is not None:
            self._busy_ms += max(0, now_ms - self._busy_since_ms)
        self._busy_since_ms = now_ms if still_busy else None
        self._executed += count
        if self._busy_ms >= SAMPLE_MS:
            sample = self._executed * 1000 / self._busy_ms
            weight = min(1.0, self._busy_ms / MEMORY_MS) if self.per_second else 1.0
            self.per_second += (sample - self.per_second) * weight
            self._executed = self._busy_ms = 0
