"""The vocabulary of plain values: numbers and byte strings with a meaning and a bound.

Bounds are part of the types, so that a decoder refuses what is outside them
before any other code sees it (I-25). Integers stay below 2**63: every language
can hold them.
"""

from __future__ import annotations

from typing import Annotated, NewType, TypeAlias

from msgspec import Meta

NodeId: TypeAlias = int
"""Index of a node in the member table, 0-based."""
View: TypeAlias = int
Height: TypeAlias = int
Millis: TypeAlias = int
"""Milliseconds on a monotonic clock that the shell owns; only differences mean anything."""
ConnectionId = NewType("ConnectionId", int)
"""Names one client connection (or one HTTP waiter) of this process; chosen by the shell."""

MAX_NODES = 64
MAX_WINDOW = 256
"""Upper end of the permitted range of BL, blocks in flight (A11)."""
MAX_OPERATION_BYTES = 1 << 18
MAX_BLOCK_BYTES = 4 << 20
MAX_BLOCK_REQUESTS = 16384
MAX_AUTHENTICATOR_BYTES = 16 * MAX_NODES
MAX_CHUNK_BYTES = 1 << 20
MAX_FRAME_BYTES = 16 << 20
"""A frame on any socket is refused above this before its body is read."""

U8: TypeAlias = Annotated[int, Meta(ge=0, le=255)]
U32: TypeAlias = Annotated[int, Meta(ge=0, le=2**32 - 1)]
U64: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
NodeIndex: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_NODES - 1)]
Digest: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
"""A SHA-256."""
TcId: TypeAlias = Annotated[bytes, Meta(min_length=16, max_length=16)]
"""First 16 bytes of the SHA-256 of a trusted component's public key."""
ClientId: TypeAlias = Annotated[bytes, Meta(min_length=16, max_length=16)]
Signature: TypeAlias = Annotated[bytes, Meta(max_length=80)]
"""A trusted component's (P-256, DER) or a node's (Ed25519) signature."""
Authenticator: TypeAlias = Annotated[bytes, Meta(max_length=MAX_AUTHENTICATOR_BYTES)]
"""What a client attaches to a request: a signature, a MAC vector, or nothing."""
PublicKey: TypeAlias = Annotated[bytes, Meta(max_length=160)]

ZERO_DIGEST: bytes = bytes(32)
