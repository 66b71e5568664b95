"""One client of the load: its requests, which of them are under way, and how many more may be."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TypeAlias

from tepbft.lab.supply import Supply

RETRY_US = 400_000
"""The least time after which a request is repeated, to all nodes; it waits twice as long each time."""
MOST_WAITS = 20

Sent: TypeAlias = tuple[bytes, int, int]
"""(encoded request, when it was due, when it was sent last), microseconds."""


class LoadClient:
    """Numbers, the window, and repetitions of one client."""

    __slots__ = ("_declined", "_low", "attempts", "free", "index", "outstanding", "supply", "window")

    def __init__(self, index: int, supply: Supply, window: int) -> None:
        self.index = index
        self.supply = supply
        self.window = window
        self.outstanding: dict[int, Sent] = {}
        """Requests under way, by number."""
        self.free: dict[int, bytes] = {}
        """Requests that were declined and may be sent again for a later arrival, by number."""
        self.attempts: dict[int, int] = {}
        """How often a request was repeated, for those that were."""
        self._declined: list[int] = []  # a heap of the numbers in `free`
        self._low = 1  # every number below it was answered

    def room(self) -> int:
        """How many more requests may be under way: the window counts from the lowest open number."""
        outstanding, free, taken = self.outstanding, self.free, self.supply.taken
        low = self._low
        while low <= taken and low not in outstanding and low not in free:
            low += 1
        self._low = low
        here = self.window - len(outstanding)
        return min(here, len(free)) if free else min(here, self.window - 1 - (taken - low))

    def issue(self, count: int, due_us: int, now_us: int) -> list[bytes]:
        """The next `count` requests, at most `room()`, as encoded; they are under way now. Of declined
        ones the lowest number goes first: it is what the window waits for."""
        outstanding, take, raws = self.outstanding, self.supply.take, []
        for _ in range(count):
            if self.free:
                seq = heappop(self._declined)
                raw = self.free.pop(seq)
            else:
                seq, raw = take()
            outstanding[seq] = (raw, due_us, now_us)
            raws.append(raw)
        return raws

    def decline(self, seq: int) -> None:
        """A node did not take it up: its number is free for a later arrival."""
        self.free[seq] = self.outstanding.pop(seq)[0]
        heappush(self._declined, seq)

    def again(self, seq: int, now_us: int) -> bytes | None:
        """The request, to be sent once more; None if it was answered meanwhile."""
        found = self.outstanding.get(seq)
        if found is None:
            return None
        self.outstanding[seq] = (found[0], found[1], now_us)
        return found[0]

    def overdue(self, now_us: int, patience_us: int) -> list[bytes]:
        """Requests that nobody answered for `patience_us`; each waits longer the next time."""
        due = []
        for seq, (_, _, sent_us) in self.outstanding.items():
            waits = min(MOST_WAITS, 2 ** self.attempts.get(seq, 0))
            if now_us - sent_us >= patience_us * waits:
                due.append(seq)
        raws = []
        for seq in due:
            self.attempts[seq] = self.attempts.get(seq, 0) + 1
            raw = self.again(seq, now_us)
            if raw is not None:
                raws.append(raw)
        if len(self.attempts) > 4 * self.window:
            self.attempts = {seq: n for seq, n in self.attempts.items() if seq in self.outstanding}
        return raws
