"""The round of clients with entries that wait: who is next to put a request into a block."""

from __future__ import annotations

from collections import deque

from tepbft.mempool.clients import Client
from tepbft.mempool.entry import Entry

_SLACK = 1024


class Round:
    """Clients stand here once each; one with nothing left is dropped when its turn comes."""

    __slots__ = ("_ring",)

    def __init__(self) -> None:
        self._ring: deque[Client] = deque()

    def __len__(self) -> int:
        return len(self._ring)

    def wait(self, client: Client, entry: Entry) -> None:
        """An entry of this client waits, behind its others."""
        client.waiting += 1
        client.queued_entries.append(entry)
        if not client.queued:
            client.queued = True
            self._ring.append(client)

    def clear(self) -> None:
        """Nobody waits any more."""
        self._ring.clear()

    def trim(self, pending: int) -> None:
        """Stay in proportion to what is pending (I-17)."""
        if len(self._ring) > 2 * pending + _SLACK:
            self._ring = deque(client for client in self._ring if client.waiting)

    def take_all(self) -> list[Entry]:
        """All that wait, one client after the other; they are in flight now."""
        taken: list[Entry] = []
        for client in self._ring:
            for entry in client.queued_entries:
                if not entry.in_flight and entry.alive:
                    entry.in_flight = True
                    taken.append(entry)
            client.queued_entries.clear()
            client.waiting, client.queued = 0, False
        self._ring.clear()
        return taken

    def take(self, max_requests: int, max_bytes: int) -> tuple[list[Entry], list[Entry]]:
        """One of each client in turn, until so many requests or bytes are reached; they are in flight now.
        A client whose request does not fit any more is the first one next time. Behind them those that fit
        into no block: they are in flight, too, lest they bar the way of others."""
        taken: list[Entry] = []
        unfit: list[Entry] = []
        ring = self._ring
        while ring and len(taken) < max_requests:
            client = ring.popleft()
            queue = client.queued_entries
            while queue and (queue[0].in_flight or not queue[0].alive):
                queue.popleft()
            if not queue:
                client.queued = False
                continue
            entry = queue[0]
            fits = entry.size <= max_bytes
            if not fits and taken:
                ring.appendleft(client)
                break
            queue.popleft()
            entry.in_flight = True
            client.waiting -= 1
            if not fits:
                ring.appendleft(client)
                unfit.append(entry)
                continue
            max_bytes -= entry.size
            taken.append(entry)
            if client.waiting:
                ring.append(client)
            else:
                queue.clear()
                client.queued = False
        return taken, unfit
