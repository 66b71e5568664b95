"""Requests of clients on their way to the node, one part at a time.

Their signatures take long, and what peers say must not wait for all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from tepbft.core.block import Request
from tepbft.core.events import ClientRequests
from tepbft.core.requests import join
from tepbft.types import ConnectionId


class RequestQueue:
    """What connections have said, in order, in parts of at most `part_requests`: many short frames of one
    connection cost one step, and a long one several."""

    def __init__(self, part_requests: int) -> None:
        self._most = part_requests
        self._parts: deque[tuple[ConnectionId, list[Sequence[Request]]]] = deque()
        self._room = 0
        """What the last part may still take up."""

    def __bool__(self) -> bool:
        return bool(self._parts)

    def put(self, connection: ConnectionId, requests: Sequence[Request]) -> None:
        """Requests join those that wait already."""
        count = len(requests)
        if self._parts and self._parts[-1][0] == connection and count <= self._room:
            self._parts[-1][1].append(requests)
            self._room -= count
            return
        for at in range(0, count, self._most):
            part = requests[at : at + self._most] if count > self._most else requests
            self._parts.append((connection, [part]))
            self._room = self._most - len(part)

    def take(self, more: bool, pressed: bool) -> ClientRequests:
        """The oldest part, as an event; `more` says whether others are on their way beside those here."""
        connection, parts = self._parts.popleft()
        requests = parts[0] if len(parts) == 1 else join(parts)
        return ClientRequests(connection, requests, more or bool(self._parts), pressed)

    def clear(self) -> None:
        """Forget them."""
        self._parts.clear()
