"""How much of its time a node has had something to do, lately.

Measured by the clock on the wall: a node that waits for a core which others have counts as busy, and so
does one that waits for its disk. What it would save by doing less is worth as much to it then.
"""

from __future__ import annotations

from tepbft.types import Millis

HIGH = 0.7
"""From this share on a node has next to nothing to spare. A single client leaves it at half."""
MEMORY_MS = 250
"""Time over which the past loses half of its weight."""


class Utilisation:
    """Told when the node begins to wait, and when it goes on."""

    __slots__ = ("_since_ms", "_waited_ms", "_worked_ms")

    def __init__(self, now_ms: Millis) -> None:
        self._since_ms = now_ms
        self._worked_ms = 0.0
        self._waited_ms = 0.0

    def waits(self, now_ms: Millis) -> None:
        """There is nothing to do from now on."""
        self._worked_ms += now_ms - self._since_ms
        self._since_ms = now_ms

    def works(self, now_ms: Millis) -> None:
        """There is something to do from now on."""
        self._waited_ms += now_ms - self._since_ms
        self._since_ms = now_ms
        total = self._worked_ms + self._waited_ms
        if total > 2 * MEMORY_MS:
            self._worked_ms *= MEMORY_MS / total
            self._waited_ms *= MEMORY_MS / total

    def share(self, now_ms: Millis) -> float:
        """The share, 0 to 1, of a node that is at work now."""
        worked = self._worked_ms + now_ms - self._since_ms
        return worked / total if (total := worked + self._waited_ms) else 0.0

    def high(self, now_ms: Millis) -> bool:
        """Whether it is at `HIGH` or above."""
        return self.share(now_ms) >= HIGH
