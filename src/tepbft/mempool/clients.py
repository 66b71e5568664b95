"""What the pool knows of its clients: how much of each is pending, and what comes next."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from tepbft.core.requests import Run
from tepbft.mempool.entry import Entry
from tepbft.types import ClientId

_NOTHING_YET = (-1, -1)


class Client:
    """The pending requests of one client."""

    __slots__ = ("admitted", "newest", "pending", "queued", "queued_entries", "waiting")

    def __init__(self) -> None:
        self.queued_entries: deque[Entry] = deque()
        """Those not in flight, in the order in which they will be taken; others are dropped lazily."""
        self.waiting = 0
        """How many of them really wait; what is pending together with others does not count here."""
        self.queued = False
        """Whether the client stands in the round of those that have something to give."""
        self.admitted = 0
        self.pending = 0
        self.newest = _NOTHING_YET
        """Nothing is pending above this session and number."""


class Clients(dict[ClientId, Client]):
    """Those with something pending."""

    def one_more(self, client_id: ClientId, session: int, seq: int) -> Client:
        """The client, with that number pending, too."""
        client = self.get(client_id)
        if client is None:
            client = self[client_id] = Client()
        client.pending += 1
        client.newest = max(client.newest, (session, seq))
        return client

    def all_new(self, runs: Sequence[Run]) -> bool:
        """True if it takes no more than a look at the newest number of each client to see that none of them
        is pending, and that no two have one number."""
        newest: dict[ClientId, tuple[int, int]] = {}
        for client_id, session, first, count in runs:
            last = newest.get(client_id)
            if last is None:
                client = self.get(client_id)
                last = client.newest if client is not None else _NOTHING_YET
            if (session, first) <= last:
                return False
            newest[client_id] = session, first + count - 1
        return True

    def within(self, quota: int, runs: Sequence[Run]) -> bool:
        """True if every client may have these admitted, too."""
        shares: dict[ClientId, int] = {}
        for client_id, _, _, count in runs:
            shares[client_id] = shares.get(client_id, 0) + count
        for client_id, share in shares.items():
            client = self.get(client_id)
            if share + (client.admitted if client is not None else 0) > quota:
                return False
        return True

    def admitted(self, runs: Sequence[Run]) -> None:
        """These are pending; they are `all_new`."""
        for client_id, session, first, count in runs:
            client = self.get(client_id)
            if client is None:
                client = self[client_id] = Client()
            client.admitted += count
            client.pending += count
            client.newest = session, first + count - 1

    def over(self, runs: Sequence[Run]) -> None:
        """These, which were admitted, are not pending any more."""
        for client_id, _, _, count in runs:
            client = self[client_id]
            client.admitted -= count
            client.pending -= count
            if not client.pending:
                self.forget(client_id)

    def forget(self, client_id: ClientId) -> None:
        """Nothing of this client is pending."""
        self.pop(client_id).queued_entries.clear()
