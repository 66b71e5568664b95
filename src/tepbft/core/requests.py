"""Requests of a block on their way through a node: opened, checked, executed, many at a time.

A node holds thousands of requests between their arrival and their execution, and touches each of them
several times, with everything else that the processor does in between. As objects they are a kilobyte
each that comes from far away every time. So where the extension is at hand (`tepbft.native`, ADR 0018) a
body stays bytes, with one table beside it, and objects live as long as they are looked at. Otherwise it
is a list of `Request`. Both are sequences; what goes through all of them uses the functions here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import TypeAlias

from tepbft.core.block import REQUEST_PREFIX, REQUEST_START, Request, decode_body, encode_body
from tepbft.errors import PeerFault
from tepbft.native import AVAILABLE, native
from tepbft.types import MAX_AUTHENTICATOR_BYTES, MAX_BLOCK_REQUESTS, MAX_OPERATION_BYTES

Signed: TypeAlias = tuple[bytes, bytes, bytes]
"""(client, request digest, authenticator)."""
Hashed: TypeAlias = tuple[Sequence[Request], Sequence[bytes]]
"""Requests and their digests, in the same order."""
Run: TypeAlias = tuple[bytes, int, int, int]
"""(client, session, first number, count): requests of a client that are numbered one by one."""


class Plain:
    """Requests as objects, in lists."""

    @staticmethod
    def open_body(chain_id: bytes, body: bytes) -> Hashed:
        """Every request decoded, then hashed."""
        requests = decode_body(body)
        return requests, Plain.request_digests(chain_id, requests)

    @staticmethod
    def request_digests(chain_id: bytes, requests: Sequence[Request]) -> Sequence[bytes]:
        """A `sha256` object for each."""
        prefix, pack = REQUEST_PREFIX + chain_id, REQUEST_START.pack
        return [sha256(pack(prefix, r.client, r.session, r.seq, len(r.op)) + r.op).digest() for r in requests]

    @staticmethod
    def signed(requests: Sequence[Request], digests: Sequence[bytes]) -> Iterable[Signed]:
        """A tuple for each."""
        return [(r.client, digest, r.auth) for r, digest in zip(requests, digests, strict=True)]

    @staticmethod
    def content_bytes(requests: Sequence[Request]) -> int:
        """The sum over all."""
        return sum([len(r.op) + len(r.auth) for r in requests])

    @staticmethod
    def runs(requests: Sequence[Request]) -> list[Run]:
        """One look at each."""
        found: list[Run] = []
        client, session, first, count = b"", 0, 0, 0
        for request in requests:
            if request.seq == first + count and request.client == client and request.session == session:
                count += 1
                continue
            if count:
                found.append((client, session, first, count))
            client, session, first, count = request.client, request.session, request.seq, 1
        return [*found, (client, session, first, count)] if count else found

    @staticmethod
    def join(parts: Sequence[Sequence[Request]]) -> Sequence[Request]:
        """One list."""
        return [request for part in parts for request in part]

    @staticmethod
    def join_hashed(parts: Sequence[Hashed]) -> Hashed:
        """Two lists."""
        joined = Plain.join([requests for requests, _ in parts])
        return joined, [digest for _, digests in parts for digest in digests]

    @staticmethod
    def body_of(requests: Sequence[Request]) -> bytes:
        """Encoded one by one."""
        return encode_body(list(requests))


def _joined_tables(parts: Sequence[Sequence[Request]]) -> native.Batch | None:
    tables = [part for part in parts if isinstance(part, native.Batch)]
    return native.join(tables) if tables and len(tables) == len(parts) else None


class Native:
    """Requests in the table that the extension makes of a body."""

    @staticmethod
    def open_body(chain_id: bytes, body: bytes) -> Hashed:
        """One pass over the body; refuses what `decode_body` refuses."""
        limits = MAX_BLOCK_REQUESTS, MAX_OPERATION_BYTES, MAX_AUTHENTICATOR_BYTES
        try:
            batch = native.open_body(REQUEST_PREFIX + chain_id, body, Request, *limits)
        except ValueError as error:
            raise PeerFault("malformed_block", str(error)) from None
        return batch, batch.digests

    @staticmethod
    def request_digests(chain_id: bytes, requests: Sequence[Request]) -> Sequence[bytes]:
        """In one call; those of a table stand in it."""
        return native.request_digests(REQUEST_PREFIX + chain_id, requests)

    @staticmethod
    def signed(requests: Sequence[Request], digests: Sequence[bytes]) -> Iterable[Signed]:
        """Each tuple is made when it is reached; requests are objects or a table."""
        return native.with_authenticators(requests, digests)

    @staticmethod
    def content_bytes(requests: Sequence[Request]) -> int:
        """Read off the table."""
        if isinstance(requests, native.Batch):
            return requests.content_bytes
        return Plain.content_bytes(requests)

    @staticmethod
    def runs(requests: Sequence[Request]) -> list[Run]:
        """Read off the table."""
        return native.runs(requests) if isinstance(requests, native.Batch) else Plain.runs(requests)

    @staticmethod
    def join(parts: Sequence[Sequence[Request]]) -> Sequence[Request]:
        """Tables make a table; a list among them makes objects of all."""
        table = _joined_tables(parts)
        return Plain.join(parts) if table is None else table

    @staticmethod
    def join_hashed(parts: Sequence[Hashed]) -> Hashed:
        """Digests stand in the tables."""
        table = _joined_tables([requests for requests, _ in parts])
        return Plain.join_hashed(parts) if table is None else (table, table.digests)

    @staticmethod
    def body_of(requests: Sequence[Request]) -> bytes:
        """A table stands beside its body."""
        return requests.body if isinstance(requests, native.Batch) else Plain.body_of(requests)


WAYS: tuple[type[Plain] | type[Native], ...] = (Plain, Native) if AVAILABLE else (Plain,)
"""What there is here; the last is taken."""
_way = WAYS[-1]
EXTENSION = AVAILABLE
"""Whether that is the extension."""


def open_body(chain_id: bytes, body: bytes) -> Hashed:
    """The requests in a NORMAL block's body, and their digests, in order; PeerFault if it is malformed,
    too long or not canonical. Pass the two on together: they may be views of one table."""
    return _way.open_body(chain_id, body)


def request_digests(chain_id: bytes, requests: Sequence[Request]) -> Sequence[bytes]:
    """`block.digest_of` each, in order. Pass them on with the requests: they may be views of one table."""
    return _way.request_digests(chain_id, requests)


def signed(requests: Sequence[Request], digests: Sequence[bytes]) -> Iterable[Signed]:
    """What a verifier needs of each request, in order; ValueError if they are not as many as digests."""
    return _way.signed(requests, digests)


def content_bytes(requests: Sequence[Request]) -> int:
    """Bytes of operations and authenticators together."""
    return _way.content_bytes(requests)


def runs(requests: Sequence[Request]) -> list[Run]:
    """All requests, in order, as runs of one or more."""
    return _way.runs(requests)


def join(parts: Sequence[Sequence[Request]]) -> Sequence[Request]:
    """All requests of the parts, in order; they were opened for the same chain."""
    return _way.join(parts)


def join_hashed(parts: Sequence[Hashed]) -> Hashed:
    """The same of requests with their digests."""
    return _way.join_hashed(parts)


def body_of(requests: Sequence[Request]) -> bytes:
    """Canonical body of a NORMAL block that holds just these."""
    return _way.body_of(requests)
