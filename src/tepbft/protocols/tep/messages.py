"""The messages of TEP-BFT (A3.2). A docstring says what the sender claims.

Every message travels on a mutually authenticated link, but what counts is what it
carries: statements of trusted components and node signatures, which any peer may
relay. STATUS and the FETCH family are hints and self-certifying payloads; they rest
on the link alone.
"""

from __future__ import annotations

import struct
from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from tepbft.core.block import Block, Header, Request
from tepbft.core.certificates import CheckpointCertificate, CommitCertificate, PrepareHead, Vote
from tepbft.core.configuration import Configuration, ReplaceTc
from tepbft.crypto.hash import digest
from tepbft.trusted.port import DepartureUi
from tepbft.types import (
    MAX_BLOCK_REQUESTS,
    MAX_CHUNK_BYTES,
    MAX_NODES,
    MAX_WINDOW,
    U32,
    U64,
    Digest,
    NodeIndex,
    Signature,
)
from tepbft.wire import Codec, ConfigLink, encode

MAX_SNAPSHOT_CHUNKS = 65536


class Prepare(Struct, array_like=True, frozen=True, tag=1):
    """primary(view): "I order this block at this height". Without `block`: the receiver has it or asks."""

    cfg: U32
    head: PrepareHead
    block: Block | None


class Commit(Struct, array_like=True, frozen=True, tag=2):
    """A backup: "I hold the block, found it valid, and vote for it"; the PREPARE comes along (A-20)."""

    cfg: U32
    sender: NodeIndex
    head: PrepareHead
    seq: U64
    signature: Signature
    block: Block | None
    """Only with `commit_carries_block` (A-04)."""


class Checkpoint(Struct, array_like=True, frozen=True, tag=3):
    """ "I executed up to `height` and the header there has this digest"."""

    cfg: U32
    sender: NodeIndex
    height: U64
    digest: Digest
    seq: U64
    signature: Signature


class ReqVc(Struct, array_like=True, frozen=True, tag=4):
    """ "I want view `target`" (node signature, soft state)."""

    cfg: U32
    sender: NodeIndex
    target: U64
    signature: Signature


class NewViewCertificate(Struct, array_like=True, frozen=True, tag=5):
    """f+1 acknowledgements of one summary: view `view` starts above `base` with the blocks `nvc`."""

    cfg: U32
    view: U64
    base: U64
    checkpoint: CheckpointCertificate
    nvc: Annotated[tuple[Digest, ...], Meta(max_length=MAX_WINDOW)]
    """Digests for heights base+1, base+2, …"""
    acks: Annotated[tuple[Vote, ...], Meta(max_length=MAX_NODES)]
    """Node signatures; `seq` is 0."""

    def digest_at(self, height: int) -> bytes | None:
        """The block that this view must propose at `height`; None if free."""
        index = height - self.base - 1
        return self.nvc[index] if 0 <= index < len(self.nvc) else None

    @property
    def top(self) -> int:
        """Highest height that this view re-proposes."""
        return self.base + len(self.nvc)


class Departure(Struct, array_like=True, frozen=True):
    """The content of a VIEW-CHANGE: evidence by height, never by message history (A-07)."""

    checkpoint: CheckpointCertificate
    certified: NewViewCertificate | None
    """Certificate of the highest certified view this replica entered; None for view 0."""
    prepares: Annotated[tuple[PrepareHead, ...], Meta(max_length=MAX_WINDOW)]
    trigger: Annotated[tuple[ReqVc, ...], Meta(max_length=MAX_NODES)]


class ViewChange(Struct, array_like=True, frozen=True, tag=6):
    """ "I left for view `to`; this is all that I signed and know above my stable checkpoint"."""

    cfg: U32
    sender: NodeIndex
    to: U64
    content: Departure
    ui: DepartureUi


class NewView(Struct, array_like=True, frozen=True, tag=7):
    """primary(view): "these VIEW-CHANGEs merge to this start of view `view`"."""

    cfg: U32
    view: U64
    view_changes: Annotated[tuple[ViewChange, ...], Meta(max_length=MAX_NODES)]
    base: U64
    nvc: Annotated[tuple[Digest, ...], Meta(max_length=MAX_WINDOW)]
    seq: U64
    signature: Signature
    ack: Signature
    """The new primary's own acknowledgement (its NEW-VIEW counts as one)."""


class NvAck(Struct, array_like=True, frozen=True, tag=8):
    """ "I recomputed this summary, hold all its blocks, and entered the view"."""

    cfg: U32
    sender: NodeIndex
    view: U64
    digest: Digest
    signature: Signature


class Status(Struct, array_like=True, frozen=True, tag=9):
    """Where the sender stands; a hint that only ever costs messages (S-23)."""

    cfg: U32
    view: U64
    active: bool
    stable: U64
    executed: U64
    final_above: U64
    """Bitmap of final heights above `executed`: bit i stands for executed+1+i."""
    want: Annotated[tuple[tuple[U64, Digest], ...], Meta(max_length=MAX_WINDOW)]
    """(height, digest) of block bodies that the sender lacks."""


class FetchBody(Struct, array_like=True, frozen=True, tag=10):
    """ "Send me the block with this digest, if you hold it"."""

    height: U64
    digest: Digest


class Body(Struct, array_like=True, frozen=True, tag=11):
    """A block, whoever proposed it; its digest says whether it was wanted."""

    block: Block


class FetchFinal(Struct, array_like=True, frozen=True, tag=12):
    """ "Send me final blocks from this height on"."""

    height: U64


class Final(Struct, array_like=True, frozen=True, tag=13):
    """A block with the certificate that makes it final at its height. Self-certifying."""

    block: Block
    certificate: CommitCertificate


class Stable(Struct, array_like=True, frozen=True, tag=14):
    """A stable checkpoint. Self-certifying."""

    certificate: CheckpointCertificate


class Offer(Struct, array_like=True, frozen=True, tag=15):
    """ "I can serve the state at this certified height"; `links` lead from the receiver's
    configuration to the one that certified it."""

    header: Header
    certificate: CheckpointCertificate
    leaves: Annotated[tuple[Digest, ...], Meta(min_length=1, max_length=MAX_SNAPSHOT_CHUNKS)]
    """Leaf hashes of the snapshot's chunks; their root stands in the header."""
    links: Annotated[tuple[ConfigLink, ...], Meta(max_length=1024)]


class FetchChunk(Struct, array_like=True, frozen=True, tag=16):
    """ "Send me chunk `index` of the snapshot at `height`"."""

    height: U64
    index: U32


class Chunk(Struct, array_like=True, frozen=True, tag=17):
    """One chunk of a snapshot; its hash says whether it is right."""

    height: U64
    index: U32
    data: Annotated[bytes, Meta(max_length=4 * MAX_CHUNK_BYTES)]


class Admission(Struct, array_like=True, frozen=True, tag=18):
    """ "Please order this replacement of a trusted component"."""

    change: ReplaceTc


class Forward(Struct, array_like=True, frozen=True, tag=19):
    """Client requests that have waited too long at a backup (A-44)."""

    requests: Annotated[tuple[Request, ...], Meta(max_length=MAX_BLOCK_REQUESTS)]


class FetchOffer(Struct, array_like=True, frozen=True, tag=20):
    """ "Offer me a snapshot above this height, not blocks" (a replica that diverged for good)."""

    above: U64


Message: TypeAlias = (
    Prepare
    | Commit
    | Checkpoint
    | ReqVc
    | NewViewCertificate
    | ViewChange
    | NewView
    | NvAck
    | Status
    | FetchBody
    | Body
    | FetchFinal
    | Final
    | Stable
    | Offer
    | FetchChunk
    | Chunk
    | Admission
    | Forward
    | FetchOffer
)
codec: Codec[Message] = Codec(Message)
VOTES = (2,)
"""Tags of messages that say nothing to a replica for which everything is decided."""

# --- signed bytes -----------------------------------------------------------------------------


def req_vc_preimage(chain_id: bytes, cfg: Configuration, sender: int, target: int) -> bytes:
    """What a node signs to ask for a view."""
    return b"TEP1/RVC" + chain_id + cfg.digest() + struct.pack("<IIQ", cfg.number, sender, target)


def ack_preimage(chain_id: bytes, cfg: Configuration, sender: int, view: int, summary: bytes) -> bytes:
    """What a node signs to acknowledge a new view."""
    return b"TEP1/ACK" + chain_id + cfg.digest() + struct.pack("<IIQ", cfg.number, sender, view) + summary


def summary_digest(cfg: int, view: int, checkpoint: CheckpointCertificate, nvc: tuple[bytes, ...]) -> bytes:
    """`nvs`: the summary of a new view; its base is the height of `checkpoint`."""
    head = struct.pack("<IQQI", cfg, view, checkpoint.height, len(nvc))
    return digest(b"TEP1/NVS", head, checkpoint.digest, *nvc)


def departure_digest(content: Departure) -> bytes:
    """What the trusted component signs for on leaving: the canonical content, whole."""
    return digest(b"TEP1/VCC", encode(content))
