"""Bounded, canonical bytes <-> messages. Hostile bytes stop here (I-25).

A message is msgpack, arrays only, with an integer tag; its types carry the bounds.
Canonical means: what decodes must encode to the very same bytes, so that a digest
over bytes and a digest over content are the same thing. On a socket each message
is a frame: u32 little-endian length, then the bytes.
"""

from __future__ import annotations

import struct
from typing import Annotated, Any, Generic, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct

from tepbft.core.block import Header, Receipt, Request
from tepbft.core.certificates import CheckpointCertificate
from tepbft.errors import PeerFault
from tepbft.types import (
    MAX_BLOCK_BYTES,
    MAX_BLOCK_REQUESTS,
    MAX_FRAME_BYTES,
    U32,
    U64,
    ClientId,
    Digest,
    NodeIndex,
)

LENGTH = struct.Struct("<I")
T = TypeVar("T")
_encode = msgspec.msgpack.Encoder().encode


def encode(message: Any) -> bytes:
    """Canonical bytes of a message."""
    return _encode(message)


class Codec(Generic[T]):
    """Decoder of one closed union of messages."""

    def __init__(self, union: Any) -> None:
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(union)

    def decode(self, data: bytes | memoryview) -> T:
        """The message in `data`; PeerFault if malformed, out of bounds, trailing or not canonical."""
        try:
            message = self._decoder.decode(data)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise PeerFault("malformed", str(error)[:200]) from None
        except (RecursionError, UnicodeDecodeError, ValueError) as error:
            raise PeerFault("malformed", type(error).__name__) from None
        if _encode(message) != data:
            raise PeerFault("malformed", "not the canonical encoding")
        return message


def frame(data: bytes) -> bytes:
    """`data` with its length in front."""
    return LENGTH.pack(len(data)) + data


def tag_of(data: bytes) -> int:
    """The tag of a message that has not been decoded; -1 if there is none where it should be. A hint: only
    `Codec.decode` says what the message is."""
    return data[1] if len(data) > 1 and 0x91 <= data[0] <= 0x9F and data[1] < 0x80 else -1


# --- the client port --------------------------------------------------------------------------


class Welcome(Struct, array_like=True, frozen=True, tag=1):
    """First message of a node on a client connection."""

    chain_id: Digest
    node: NodeIndex
    view: U64
    primary: NodeIndex
    """A hint, never relied upon."""


class Submit(Struct, array_like=True, frozen=True, tag=2):
    """Requests of a client, to be ordered; a retransmission looks the same."""

    chain_id: Digest
    requests: Annotated[list[Request], Meta(max_length=MAX_BLOCK_REQUESTS)]


class Outcome(Struct, array_like=True, frozen=True, tag=3):
    """What executing a block did to requests of this connection (REPLY). Identical bytes from all
    correct nodes but for `view`."""

    view: U64
    height: U64
    receipts: Annotated[list[Receipt], Meta(max_length=MAX_BLOCK_REQUESTS)]


class NotAdmitted(Struct, array_like=True, frozen=True, tag=4):
    """Requests that this node did not take up, with a code each (see `core.events.Busy`)."""

    requests: Annotated[
        list[tuple[ClientId, U64, U64, Annotated[str, Meta(max_length=32)]]],
        Meta(max_length=MAX_BLOCK_REQUESTS),
    ]


class WantProof(Struct, array_like=True, frozen=True, tag=5):
    """Ask for the proven receipt of a request."""

    client: ClientId
    session: U64
    seq: U64


class ConfigLink(Struct, array_like=True, frozen=True):
    """One step in the chain of configurations: an ordered CONFIG block and the proof that the
    configuration which it ends had made it stable."""

    cfg: U32
    height: U64
    ts: U64
    body: Annotated[bytes, Meta(max_length=MAX_BLOCK_BYTES)]
    header: Header
    certificate: CheckpointCertificate


class ProvenReceipt(Struct, array_like=True, frozen=True, tag=6):
    """A receipt that verifies offline from the genesis alone (REPLY-PROOF)."""

    chain_id: Digest
    receipt: Receipt
    index: U32
    count: U32
    neighbours: Annotated[list[Receipt], Meta(max_length=64)]
    """The other receipts of its group, as they stand in the tree (see `core.receipt_tree`)."""
    path: Annotated[list[Digest], Meta(max_length=32)]
    headers: Annotated[list[Header], Meta(min_length=1, max_length=4096)]
    """From the receipt's height to the certified one, consecutive."""
    certificate: CheckpointCertificate
    links: Annotated[list[ConfigLink], Meta(max_length=4096)]


class NoProof(Struct, array_like=True, frozen=True, tag=7):
    """This node cannot prove that request (now): unknown, not stable yet, or older than its ledger."""

    client: ClientId
    session: U64
    seq: U64
    reason: Annotated[str, Meta(max_length=256)]


ClientMessage: TypeAlias = Welcome | Submit | Outcome | NotAdmitted | WantProof | ProvenReceipt | NoProof
client_codec: Codec[ClientMessage] = Codec(ClientMessage)

__all__ = [
    "LENGTH",
    "MAX_FRAME_BYTES",
    "ClientMessage",
    "Codec",
    "ConfigLink",
    "NoProof",
    "NotAdmitted",
    "Outcome",
    "ProvenReceipt",
    "Submit",
    "WantProof",
    "Welcome",
    "client_codec",
    "encode",
    "frame",
]
