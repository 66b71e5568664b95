"""What the pool knows of one request, and of one client."""

from __future__ import annotations

from typing import TypeAlias

from tepbft.core.block import Request
from tepbft.types import Millis

Key: TypeAlias = tuple[bytes, int, int]
"""(client, session, seq): names a request to the client table, whatever its content."""

REQUEST_OVERHEAD_BYTES = 48
"""Most that the encoding of a request adds to its operation and authenticator."""


class Entry:
    """A pending request. `alternative` is another operation that the client signed under the same
    number (A-42): one is remembered, so that a block with it need not be verified again."""

    __slots__ = (
        "admitted",
        "alive",
        "alternative",
        "digest",
        "first_seen_ms",
        "in_flight",
        "key",
        "request",
        "size",
    )

    def __init__(
        self,
        key: Key,
        request: Request,
        digest: bytes,
        size: int,
        first_seen_ms: Millis,
        in_flight: bool,
        admitted: bool,
    ) -> None:
        self.key = key
        self.request = request
        self.digest = digest
        self.size = size
        self.first_seen_ms = first_seen_ms
        self.in_flight = in_flight
        """In a block that was proposed and is not executed yet."""
        self.admitted = admitted
        """Counted against quota and limit; False if it is known from a Prepare only."""
        self.alive = True
        """False once it was executed: queues drop it when they come across it."""
        self.alternative: tuple[bytes, int] | None = None
        """Digest of the other operation, and what remembering it costs, in bytes."""


class Client:
    """The pending requests of one client."""

    __slots__ = ("admitted", "pending", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[Key, Entry] = {}
        """Those not in flight, in the order in which they will be taken."""
        self.admitted = 0
        self.pending = 0
