"""REPLY: outcomes go to the connections that asked, grouped per connection and block.

Which connection asked is this node's own affair: it is forgotten with the
connection, and bounded. A client that changed its connection repeats its request
and is answered from the client table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tepbft.core.block import Receipt
from tepbft.core.events import Reply
from tepbft.execution.outcomes import Chosen, Outcomes
from tepbft.types import ConnectionId, Height

CONNECTIONS_PER_CLIENT = 256
"""A client may be heard on so many connections at once; the least recent makes room."""


class Replies:
    """Who waits where, and what may be sent when."""

    def __init__(self, after_stable: bool) -> None:
        self._after_stable = after_stable
        self._routes: dict[bytes, dict[ConnectionId, None]] = {}
        self._clients: dict[ConnectionId, dict[bytes, None]] = {}
        self._held: list[Reply] = []

    def heard(self, connection: ConnectionId, clients: Iterable[bytes]) -> None:
        """Requests of these clients (already authenticated) came by this connection."""
        seen = self._clients.setdefault(connection, {})
        for client in clients:
            if client in seen:
                continue
            seen[client] = None
            routes = self._routes.setdefault(client, {})
            routes[connection] = None
            if len(routes) > CONNECTIONS_PER_CLIENT:
                oldest = next(iter(routes))
                self._forget(oldest, client)

    def knows(self, connection: ConnectionId, client: bytes) -> bool:
        """True if what concerns the client is sent by this connection."""
        return client in self._clients.get(connection, ())

    def _forget(self, connection: ConnectionId, client: bytes) -> None:
        routes = self._routes.get(client)
        if routes is not None:
            routes.pop(connection, None)
            if not routes:
                del self._routes[client]
        seen = self._clients.get(connection)
        if seen is not None:
            seen.pop(client, None)

    def closed(self, connection: ConnectionId) -> None:
        """A connection is gone."""
        for client in list(self._clients.get(connection, ())):
            self._forget(connection, client)
        self._clients.pop(connection, None)
        self._held = [reply for reply in self._held if reply.connection != connection]

    def executed(
        self,
        height: Height,
        outcomes: Outcomes,
        kept: Mapping[int, tuple[Height, Receipt]],
    ) -> list[Reply]:
        """Replies for the block at `height`, with `kept` in place of the receipts that it names (see
        `Executed`); held back if they have to wait for stability."""
        routes, replies = self._routes, []
        for connection, indices in outcomes.grouped(routes).items():
            if kept:
                indices = [index for index in indices if index not in kept]
            if indices:
                replies.append(Reply(connection, height, Chosen(outcomes, indices)))
        for since, receipt in kept.values():
            replies += [Reply(connection, since, [receipt]) for connection in routes.get(receipt.client, ())]
        if not self._after_stable:
            return replies
        self._held += replies
        return []

    def stable(self, height: Height) -> list[Reply]:
        """Replies that waited for stability up to `height`."""
        if not self._held:
            return []
        due = [reply for reply in self._held if reply.height <= height]
        self._held = [reply for reply in self._held if reply.height > height]
        return due
