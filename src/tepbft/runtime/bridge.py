"""From an HTTP request to the node and back, inside one process.

Each waiting HTTP request is a client connection of its own to the node, named by a
`ConnectionId`. How many may wait is bounded; one more is told to come again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from tepbft.core.block import Receipt, Request
from tepbft.core.events import Busy, ClientRequests, ConnectionClosed, Reply
from tepbft.runtime.inbox import Inbox
from tepbft.types import ConnectionId, Height


@dataclass(frozen=True)
class Executed:
    """The request took effect (or was declined) in the block at `height`."""

    height: Height
    receipt: Receipt


@dataclass(frozen=True)
class Declined:
    """This node did not take the request up; `code` as in `core.events.Busy`."""

    code: str


Answer: TypeAlias = Executed | Declined


@dataclass(frozen=True)
class _Waiter:
    key: tuple[bytes, int, int]
    future: asyncio.Future[Answer]


class Bridge:
    """Waiters for outcomes and for stable heights. All calls belong on the node's loop."""

    def __init__(self, inbox: Inbox, next_number: Callable[[], ConnectionId], limit: int) -> None:
        self._source = inbox.source("local", 0)
        self._next_number = next_number
        self._limit = limit
        self._waiters: dict[ConnectionId, _Waiter] = {}
        self._stable: dict[asyncio.Future[None], Height] = {}
        self.stable_height: Height = 0

    @property
    def waiting(self) -> int:
        """HTTP requests that wait for something."""
        return len(self._waiters) + len(self._stable)

    async def submit(self, request: Request, timeout_s: float) -> Answer | None:
        """Hand a request to the node and wait for its outcome there; None if it takes longer."""
        if self.waiting >= self._limit:
            return Declined("busy")
        number = self._next_number()
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        key = (request.client, request.session, request.seq)
        self._waiters[number] = _Waiter(key, future)
        self._source.put([ClientRequests(number, [request])], len(request.op))
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            return None
        finally:
            del self._waiters[number]
            self._source.put([ConnectionClosed(number)], 0)

    async def wait_stable(self, height: Height, timeout_s: float) -> bool:
        """True once `height` is below a stable checkpoint; False if that takes longer."""
        if height <= self.stable_height:
            return True
        if self.waiting >= self._limit:
            return False
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stable[future] = height
        try:
            async with asyncio.timeout(timeout_s):
                await future
            return True
        except TimeoutError:
            return False
        finally:
            del self._stable[future]

    def reply(self, reply: Reply) -> bool:
        """Resolve a waiter; False if the connection is not one of ours."""
        waiter = self._waiters.get(reply.connection)
        if waiter is None:
            return False
        for receipt in reply.receipts:
            if (receipt.client, receipt.session, receipt.seq) == waiter.key and not waiter.future.done():
                waiter.future.set_result(Executed(reply.height, receipt))
        return True

    def busy(self, busy: Busy) -> bool:
        """Resolve a waiter; False if the connection is not one of ours."""
        waiter = self._waiters.get(busy.connection)
        if waiter is None:
            return False
        for client, session, seq, code in busy.requests:
            if (client, session, seq) == waiter.key and not waiter.future.done():
                waiter.future.set_result(Declined(code))
        return True

    def stable(self, height: Height) -> None:
        """The stable checkpoint moved to `height`."""
        self.stable_height = max(self.stable_height, height)
        for future, wanted in self._stable.items():
            if wanted <= height and not future.done():
                future.set_result(None)

    def closed(self, number: ConnectionId) -> None:
        """A client connection of the client port has ended: the node forgets it."""
        self._source.put([ConnectionClosed(number)], 0)
