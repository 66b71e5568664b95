"""Entries of the pool by first sight: which is the oldest that is pending, waiting, or not forwarded yet."""

from __future__ import annotations

from collections import deque

from tepbft.core.block import Request
from tepbft.mempool.entry import Entry
from tepbft.types import Millis

_SLACK = 1024


class Queues:
    """Entries stand here in the groups in which they came; a group goes when nothing in it is pending,
    waiting, or to be forwarded, respectively. What became of an entry, it says itself."""

    __slots__ = ("_pending", "_unforwarded", "_waiting")

    def __init__(self) -> None:
        self._pending: deque[list[Entry]] = deque()
        self._waiting: deque[list[Entry]] = deque()
        self._unforwarded: deque[list[Entry]] = deque()

    def came(self, group: list[Entry]) -> None:
        """These entries are new; the group is not empty."""
        for groups in (self._pending, self._waiting, self._unforwarded):
            groups.append(group)

    def pending_anew(self, entries: list[Entry]) -> None:
        """Just these are pending, oldest first."""
        self._pending = deque([entries])

    def waiting_anew(self, entries: list[Entry]) -> None:
        """Just these wait, oldest first, and will be forwarded anew."""
        self._waiting = deque([entries] if entries else [])
        self._unforwarded = deque([entries] if entries else [])

    def trim(self, pending: int) -> None:
        """Drop what is over from the front: queues stay in proportion to what is pending, because
        everything is executed, roughly in the order of its coming (I-17)."""
        unforwarded = self._unforwarded
        self._front()
        while unforwarded and not any(entry.alive and not entry.in_flight for entry in unforwarded[0]):
            unforwarded.popleft()
        bound = 2 * pending + _SLACK
        if len(self._pending) > bound:
            self._pending = _with_something_alive(self._pending)
        if len(unforwarded) > bound:
            self._unforwarded = _with_something_alive(unforwarded)
        if len(self._waiting) > bound:
            self._waiting = _with_something_alive(self._waiting)

    def _front(self) -> list[Entry]:
        """The oldest group in which something is pending; empty if there is none."""
        groups = self._pending
        while groups and not any(entry.alive for entry in groups[0]):
            groups.popleft()
        return groups[0] if groups else []

    def oldest_pending_ms(self) -> Millis | None:
        """When the oldest pending entry was first seen; None if none is pending."""
        return min([entry.first_seen_ms for entry in self._front() if entry.alive], default=None)

    def oldest_waiting_ms(self) -> Millis | None:
        """When the oldest entry that is not in flight was first seen."""
        groups = self._waiting
        while groups:
            for entry in groups[0]:
                if entry.alive and not entry.in_flight:
                    return entry.first_seen_ms
            groups.popleft()
        return None

    def due_for_forwarding(
        self, now_ms: Millis, after_ms: Millis, limit: int, max_bytes: int
    ) -> list[Request]:
        """See `Mempool.due_for_forwarding`."""
        due: list[Request] = []
        groups = self._unforwarded
        while groups and now_ms - groups[0][0].first_seen_ms >= after_ms:
            group = [entry for entry in groups.popleft() if entry.alive and not entry.in_flight]
            for place, entry in enumerate(group):
                if (
                    len(due) >= limit
                    or (due and entry.size > max_bytes)
                    or (now_ms - entry.first_seen_ms < after_ms)
                ):
                    groups.appendleft(group[place:])
                    return due
                max_bytes -= entry.size
                due.append(entry.request)
        return due


def _with_something_alive(groups: deque[list[Entry]]) -> deque[list[Entry]]:
    return deque(group for group in groups if any(entry.alive for entry in group))
