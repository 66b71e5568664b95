"""One client of the load: its requests, which of them are under way, and how many more may be."""

from __future__ import annotations

from typing import TypeAlias

from tepbft.lab.supply import Supply

RETRY_US = 400_000
"""The least time after which a request is repeated, to all nodes; it waits twice as long each time."""
MOST_WAITS = 20

Sent: TypeAlias = tuple[bytes, int, int]
"""(encoded request, when it was due, when it was sent last), microseconds."""


class LoadClient:
    """Numbers, the window, and repetitions of one client."""

    __slots__ = ("attempts", "free", "index", "outstanding", "supply", "window")

    def __init__(self, index: int, supply: Supply, window: int) -> None:
        self.index = index
        self.supply = supply
        self.window = window
        self.outstanding: dict[int, Sent] = {}
        """By number, ascending."""
        self.free: dict[int, bytes] = {}
        """Requests that were declined and may be sent again for a later arrival, by number."""
        self.attempts: dict[int, int] = {}
        """How often a request was repeated, for those that were."""

    def room(self) -> int:
        """How many more requests may be under way: the window counts from the oldest open number."""
        outstanding = self.outstanding
        if not outstanding:
            return self.window - 1
        free = self.window - len(outstanding)
        if self.free:
            return min(free, len(self.free))
        return min(free, self.window - 1 - (self.supply.taken - next(iter(outstanding))))

    def issue(self, count: int, due_us: int, now_us: int) -> list[bytes]:
        """The next `count` requests, at most `room()`, as encoded; they are under way now."""
        if self.free:
            return [self._issue_again(due_us, now_us) for _ in range(min(count, len(self.free)))]
        outstanding, take = self.outstanding, self.supply.take
        raws = []
        for _ in range(count):
            seq, raw = take()
            outstanding[seq] = (raw, due_us, now_us)
            raws.append(raw)
        return raws

    def _issue_again(self, due_us: int, now_us: int) -> bytes:
        """The lowest of the declined numbers, put at its place: the first one tells where the window is."""
        seq = min(self.free)
        raw = self.free.pop(seq)
        outstanding = self.outstanding
        newer = {number: outstanding.pop(number) for number in list(outstanding) if number > seq}
        outstanding[seq] = (raw, due_us, now_us)
        outstanding.update(newer)
        return raw

    def decline(self, seq: int) -> None:
        """A node did not take it up: its number is free for a later arrival."""
        self.free[seq] = self.outstanding.pop(seq)[0]

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
