"""Clocks of hosts: an offset, a rate, and jumps (S-30).

`now_ms` is monotonic: it may run at a wrong rate and jump ahead (a machine that slept),
never back. `wall_ms` may be set to anything.
"""

from __future__ import annotations

from tepbft.types import Millis

WALL_MS = 1_700_000_000_000
"""Unix milliseconds at virtual time 0."""


class Clock:
    """One host's two clocks, as functions of the world's time."""

    __slots__ = ("_anchor", "_rate", "_shown", "_wall_skew")

    def __init__(self, offset_ms: Millis, rate: float, wall_skew_ms: Millis) -> None:
        self._anchor: Millis = 0
        self._shown: float = offset_ms
        self._rate = rate
        self._wall_skew = wall_skew_ms

    def now_ms(self, at: Millis) -> Millis:
        """The monotonic clock at virtual time `at`."""
        return int(self._shown + (at - self._anchor) * self._rate)

    def wall_ms(self, at: Millis) -> Millis:
        """The wall clock at virtual time `at`."""
        return WALL_MS + at + self._wall_skew

    def set_rate(self, at: Millis, rate: float) -> None:
        """Run at `rate` times the right speed from now on."""
        self._shown += (at - self._anchor) * self._rate
        self._anchor, self._rate = at, rate

    def jump(self, ahead_ms: Millis) -> None:
        """The monotonic clock leaps ahead."""
        self._shown += ahead_ms

    def set_wall(self, skew_ms: Millis) -> None:
        """Somebody set the wall clock: wrong by `skew_ms` from now on."""
        self._wall_skew = skew_ms
