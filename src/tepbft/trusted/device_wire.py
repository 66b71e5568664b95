"""What a host and its trusted component's process say to each other over their Unix socket.

Frames as everywhere (`wire`): u32 little-endian length, then canonical msgpack. One
reply per request, in order. A batch of calls is one request, so one round trip.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from tepbft.trusted.port import Identity, TcAnswer, TcRequest
from tepbft.trusted.sealing import MAX_BLOB_BYTES
from tepbft.types import U32, U64, Digest
from tepbft.wire import Codec

MAX_BATCH = 1024
"""Calls in one request."""
MAX_REQUEST_BYTES = 1 << 18
SOCKET_FILE = "tc.sock"
PID_FILE = "tc.pid"
LOG_FILE = "tc.log"
SEALED_FILE = "sealed.bin"


class AskIdentity(Struct, array_like=True, frozen=True, tag=1):
    """Who are you? Reply: `Identified`."""


class AskProvision(Struct, array_like=True, frozen=True, tag=2):
    """`TrustedComponent.provision`. Reply: `Provisioned` or `Failed`."""

    chain_id: Digest
    node: U32
    cfg: U32
    cfg_digest: Digest
    floor: U64
    window: U32


class AskCalls(Struct, array_like=True, frozen=True, tag=3):
    """Requests to carry out in order. Reply: `Answers`, as many."""

    requests: Annotated[list[TcRequest], Meta(max_length=MAX_BATCH)]


class AskSeal(Struct, array_like=True, frozen=True, tag=4):
    """Seal and exit. Reply, once the state is on disk: `Sealed`; or `Failed`."""


DeviceRequest: TypeAlias = AskIdentity | AskProvision | AskCalls | AskSeal


class Identified(Struct, array_like=True, frozen=True, tag=1):
    """Reply to `AskIdentity`."""

    identity: Identity


class Provisioned(Struct, array_like=True, frozen=True, tag=2):
    """Reply to `AskProvision`."""


class Answers(Struct, array_like=True, frozen=True, tag=3):
    """Reply to `AskCalls`."""

    answers: Annotated[list[TcAnswer], Meta(max_length=MAX_BATCH)]


class Sealed(Struct, array_like=True, frozen=True, tag=4):
    """Reply to `AskSeal`: the blob, which is also in the component's folder."""

    blob: Annotated[bytes, Meta(max_length=MAX_BLOB_BYTES)]


class Failed(Struct, array_like=True, frozen=True, tag=5):
    """The request as a whole was refused; `code` as in `TrustedRefusal`."""

    code: Annotated[str, Meta(max_length=32)]
    reason: Annotated[str, Meta(max_length=512)]


DeviceReply: TypeAlias = Identified | Provisioned | Answers | Sealed | Failed

request_codec: Codec[DeviceRequest] = Codec(DeviceRequest)
reply_codec: Codec[DeviceReply] = Codec(DeviceReply)
