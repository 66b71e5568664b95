"""The storage ports: what the node writes and reads, whatever the disk is.

Two things are stored. The *journal* is an append-only log of records: first the
evidence that a node must never lose, then, by the same bytes, the ledger (a block
body is written once). The *state* is what the application and the client table
have become at the last stable height; it is only ever moved forward, atomically,
and can be rebuilt by replaying blocks above it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Protocol, TypeAlias

from msgspec import Meta, Struct

from tepbft.core.block import Block, Header
from tepbft.core.certificates import CheckpointCertificate, CommitCertificate, PrepareHead
from tepbft.types import MAX_FRAME_BYTES, U32, U64, Digest, Height

Blob = Annotated[bytes, Meta(max_length=MAX_FRAME_BYTES)]


class BodyRecord(Struct, array_like=True, frozen=True, tag=1):
    """A block, before any vote on it (write-ahead rule of A2). At most once per digest."""

    digest: Digest
    block: Block


class PrepareRecord(Struct, array_like=True, frozen=True, tag=2):
    """A PREPARE about to be voted for (or, with an empty UI, about to be signed by this primary)."""

    cfg: U32
    prepare: PrepareHead


class CommitRecord(Struct, array_like=True, frozen=True, tag=3):
    """A block is final at its height, and why. Its body was recorded before."""

    certificate: CommitCertificate


class StableRecord(Struct, array_like=True, frozen=True, tag=4):
    """A checkpoint is stable. `header` is None while this node has not executed that far."""

    certificate: CheckpointCertificate
    header: Header | None


class ViewRecord(Struct, array_like=True, frozen=True, tag=5):
    """A message of the view-change protocol that must survive: `slot` is one of
    `new_view_certificate`, `view_change`, `new_view`; the newest of each slot counts.
    `data` is the message in its wire encoding."""

    slot: Annotated[str, Meta(max_length=32)]
    cfg: U32
    view: U64
    data: Blob


class ConfigRecord(Struct, array_like=True, frozen=True, tag=6):
    """A new configuration began: encoded `Configuration` (wire encoding)."""

    data: Blob


class LinkedConfigRecord(ConfigRecord, frozen=True, tag=8):
    """The same, where a snapshot took this node across the CONFIG block, which its ledger lacks: with the
    encoded `ConfigLink` that proved the change, for whoever has to be taken across next."""

    link: Blob


class HeaderRecord(Struct, array_like=True, frozen=True, tag=7):
    """A block was executed; `receipts` are the encoded receipts of the block, in order."""

    header: Header
    receipts: Blob


Record: TypeAlias = (
    BodyRecord
    | PrepareRecord
    | CommitRecord
    | StableRecord
    | ViewRecord
    | ConfigRecord
    | LinkedConfigRecord
    | HeaderRecord
)


OUTCOMES = (CommitRecord, HeaderRecord)
"""What the execution of a block leaves. It follows from records that were forced before anybody voted, and
can be had again from those who did: it need not be forced before a reply (ADR 0022)."""


class StateWrites(Struct, frozen=True):
    """What a block changed: values by key, in a fixed order; value None deletes.

    Keys carry a one-byte prefix: `a` application, `c` client table, `s` system.
    """

    height: Height
    writes: Mapping[bytes, bytes | None]
    size: int = 0
    """A hint: about how many bytes an application's writes are."""


def newest_writes(blocks: Sequence[StateWrites]) -> dict[bytes, bytes | None]:
    """What blocks, in order, leave behind: each key once, with its last value."""
    newest: dict[bytes, bytes | None] = {}
    for block in blocks:
        newest.update(block.writes)
    return newest


class StoredBlock(Struct, frozen=True):
    """One height of the ledger as far as this node has it."""

    block: Block
    certificate: CommitCertificate
    header: Header | None
    receipts: bytes | None


class Recovered(Struct, frozen=True):
    """What a store holds when a node opens it."""

    installed: Height
    """Height of the state on disk."""
    records: Sequence[Record]
    """Every record about heights above the last stable one, and the newest of each singleton
    (stable certificate with header, configuration, view slots), in the order written."""
    base_header: Header | None
    """Header at `installed`; None in a store that never installed anything."""


class ChainStore(Protocol):
    """The port that the node's shell drives and the node reads. All calls are synchronous."""

    def append(self, records: Sequence[Record], *, forced: bool = True) -> None:
        """Write records in order, as one batch; with all before them on the disk when it returns. Not
        `forced`, a power failure may still take them, the last first. `StoreFull` if the disk is."""
        ...

    def force(self) -> None:
        """What was appended is on the disk when this returns; costs nothing if it is. TepbftError: the
        disk failed."""
        ...

    def install(self, writes: Sequence[StateWrites], stable: Height, header: Header) -> None:
        """Move the state forward to `stable` atomically, in order; `header` is the one at `stable`.

        Also moves the point from which `recover` reads: records about heights up to `stable`
        are the ledger from now on, no longer evidence. (Singletons stay recoverable.)
        """
        ...

    def replace_state(
        self, height: Height, header: Header, certificate: CheckpointCertificate, chunks: Sequence[bytes]
    ) -> None:
        """State transfer: put a verified snapshot in place of the state, atomically. The chunks are
        kept as the new base of this node's ledger."""
        ...

    def recover(self) -> Recovered:
        """Read everything a starting node needs."""
        ...

    def get(self, key: bytes) -> bytes | None:
        """A key of the installed state."""
        ...

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Installed keys in [start, end), in order."""
        ...

    def block(self, height: Height) -> StoredBlock | None:
        """A final block; None if this node does not have it."""
        ...

    def stable_at_or_above(self, height: Height) -> tuple[CheckpointCertificate, Header] | None:
        """The lowest stable checkpoint at or above `height` for which a header is known."""
        ...

    def save_snapshot(self, height: Height, chunks: Sequence[bytes]) -> None:
        """Keep a snapshot's chunks to serve them; older ones but the base may be dropped (keep 2)."""
        ...

    def snapshot_chunk(self, height: Height, index: int) -> bytes | None:
        """A chunk of a kept snapshot."""
        ...

    def snapshots(self) -> list[tuple[Height, int]]:
        """(height, number of chunks) of the kept snapshots, ascending."""
        ...

    def configurations(self) -> list[bytes]:
        """Encoded configurations in order, the genesis one excluded."""
        ...

    def link(self, number: int) -> bytes | None:
        """The `LinkedConfigRecord.link` of a configuration; None if none was recorded with it."""
        ...

    def close(self) -> None:
        """Flush and release; the store may be opened again."""
        ...
