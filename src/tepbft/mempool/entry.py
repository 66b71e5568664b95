"""What the pool knows of one request, and of one accepted block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from msgspec import Struct

from tepbft.core.block import Request
from tepbft.types import Millis

Key: TypeAlias = tuple[bytes, int, int]
"""(client, session, seq): names a request to the client table, whatever its content."""

REQUEST_OVERHEAD_BYTES = 48
"""Most that the encoding of a request adds to its operation and authenticator."""


class Entry(Struct, gc=False, eq=False):
    """A pending request. It changes as it goes its way; queues hold it and look at what it says."""

    key: Key
    request: Request
    digest: bytes
    size: int
    first_seen_ms: Millis
    in_flight: bool
    """In a block that was proposed and is not executed yet."""
    admitted: bool
    """Counted against quota and limit; False if it is known from a Prepare only."""
    alive: bool = True
    """False once it was executed: queues drop it when they come across it."""


class Prepared(Struct, frozen=True, gc=False):
    """The requests of an accepted block: pending together until it is executed (A3.3). They become
    entries of their own only if the block comes to nothing."""

    requests: Sequence[Request]
    digests: Sequence[bytes]
    size: int
    first_seen_ms: Millis


def key_of(request: Request) -> Key:
    """What the client table calls a request."""
    return request.client, request.session, request.seq


def size_of(request: Request) -> int:
    """About what a request takes of a block's body, bytes; never less."""
    return len(request.op) + len(request.auth) + REQUEST_OVERHEAD_BYTES
