"""Requests, blocks and executed headers, with the digests that name them.

A block's body is opaque bytes: hashed once, stored and sent as it came, decoded
only to check and to execute. The digest of a proposal contains no parent, no
view and no UI (A-27): a block keeps its name when a later view proposes it anew.
The chain is built over executed headers, which are what CHECKPOINTs sign.
"""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from tepbft.errors import PeerFault
from tepbft.types import (
    MAX_BLOCK_BYTES,
    MAX_BLOCK_REQUESTS,
    MAX_OPERATION_BYTES,
    U8,
    U32,
    U64,
    ZERO_DIGEST,
    Authenticator,
    ClientId,
    Digest,
    Height,
)

NORMAL, NULL, CONFIG = 0, 1, 2
"""Block kinds: client requests; a gap filled by a view change; one configuration change, alone."""

REQUEST_PREFIX = b"TEP1/REQ"
_REQUEST_HEAD = struct.Struct("<QQI")
REQUEST_START = struct.Struct("<40s16sQQI")
"""All of a request's preimage but the operation: prefix and chain, client, head."""
_BLOCK_HEAD = struct.Struct("<IQBQI")
_HEADER_HEAD = struct.Struct("<QQ")


class Request(Struct, array_like=True, frozen=True, gc=False):
    """What a client claims: "I, `client`, ask for `op` as number `seq` of my `session`"."""

    client: ClientId
    session: U64
    seq: U64
    op: Annotated[bytes, Meta(max_length=MAX_OPERATION_BYTES)]
    auth: Authenticator


def request_digest(chain_id: bytes, client: bytes, session: int, seq: int, op: bytes) -> bytes:
    """The 32 bytes that a client signs and by which replies name the request (A3.1)."""
    return sha256(
        REQUEST_PREFIX + chain_id + client + _REQUEST_HEAD.pack(session, seq, len(op)) + op
    ).digest()


def digest_of(chain_id: bytes, request: Request) -> bytes:
    """`request_digest` of a decoded request."""
    return request_digest(chain_id, request.client, request.session, request.seq, request.op)


_RequestList = Annotated[list[Request], Meta(max_length=MAX_BLOCK_REQUESTS)]
_decode_requests = msgspec.msgpack.Decoder(_RequestList)
_decode_request = msgspec.msgpack.Decoder(Request)
_encode = msgspec.msgpack.Encoder().encode


def encode_request(request: Request) -> bytes:
    """Canonical bytes of one request."""
    return _encode(request)


def encode_body(requests: list[Request]) -> bytes:
    """Canonical body of a NORMAL block."""
    return _encode(requests)


def decode_body(body: bytes) -> list[Request]:
    """Requests of a NORMAL block's body; PeerFault if malformed, too long or not canonical."""
    try:
        requests = _decode_requests.decode(body)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise PeerFault("malformed_block", str(error)) from None
    if _encode(requests) != body:
        raise PeerFault("malformed_block", "not the canonical encoding")
    return requests


class Block(Struct, array_like=True, frozen=True, gc=False):
    """One proposal: `count` requests in `body`, for `height` of configuration `cfg`."""

    cfg: U32
    height: U64
    kind: U8
    ts: U64
    """Proposer's wall clock, Unix milliseconds; clamped at execution."""
    count: U32
    body: Annotated[bytes, Meta(max_length=MAX_BLOCK_BYTES)]

    def digest(self, chain_id: bytes) -> bytes:
        """`bd`: names this proposal in every vote. Costs one pass over the body: compute once, keep."""
        return sha256(
            b"TEP1/BLK"
            + chain_id
            + _BLOCK_HEAD.pack(self.cfg, self.height, self.kind, self.ts, self.count)
            + sha256(self.body).digest()
        ).digest()


def null_block(cfg: int, height: Height) -> Block:
    """The block that fills a height for which a view change found no evidence (A-54)."""
    return Block(cfg, height, NULL, 0, 0, b"")


class Header(Struct, array_like=True, frozen=True, gc=False):
    """The executed header: what a height became. `state_root` and `clients_root` are chains
    over per-block change digests; `receipts_root` is that of `core.receipt_tree`;
    `snapshot_root` is a Merkle root over snapshot chunks at snapshot heights, else zero."""

    height: U64
    ts: U64
    """Execution time: max(ts of the parent, ts of the block), Unix milliseconds."""
    block_digest: Digest
    parent: Digest
    state_root: Digest
    receipts_root: Digest
    clients_root: Digest
    snapshot_root: Digest

    def digest(self) -> bytes:
        """`cp_hash`: what CHECKPOINT statements sign."""
        return sha256(
            b"TEP1/HDR"
            + _HEADER_HEAD.pack(self.height, self.ts)
            + self.block_digest
            + self.parent
            + self.state_root
            + self.receipts_root
            + self.clients_root
            + self.snapshot_root
        ).digest()


def genesis_header(chain_id: bytes, height: Height, snapshot_root: bytes = ZERO_DIGEST) -> Header:
    """The header below the first block; `height` is 0 unless the chain continues a recovered one."""
    return Header(height, 0, ZERO_DIGEST, chain_id, ZERO_DIGEST, ZERO_DIGEST, ZERO_DIGEST, snapshot_root)


# Outcomes of a request, as they stand in replies and receipts (A9).
OK, REFUSED, CONFLICT, STALE, OUT_OF_WINDOW, DUPLICATE = 0, 1, 2, 3, 4, 5
STATUS_NAMES = ("ok", "refused", "conflict", "stale", "out_of_window", "duplicate")

_RECEIPT_HEAD = struct.Struct("<QQBI")


class Receipt(Struct, array_like=True, frozen=True, gc=False):
    """The outcome of one request of a block: what a client is told, and what `receipts_root` commits to."""

    client: ClientId
    session: U64
    seq: U64
    request_digest: Digest
    status: U8
    result: Annotated[bytes, Meta(max_length=MAX_BLOCK_BYTES)]

    def digest(self) -> bytes:
        """Names this outcome: SHA-256 over everything in it."""
        return sha256(
            b"TEP1/RCT"
            + self.client
            + _RECEIPT_HEAD.pack(self.session, self.seq, self.status, len(self.result))
            + self.request_digest
            + self.result
        ).digest()
