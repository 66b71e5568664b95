"""A host's disk: the memory store behind crash points, fullness, and a note of all evidence.

The world asks the note what was durable at the moment at which a trusted component
was called (I-9, I-10, I-16); the node never sees it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from tepbft.core.block import Header
from tepbft.core.certificates import CheckpointCertificate
from tepbft.storage.memory import MemoryStore
from tepbft.storage.port import (
    BodyRecord,
    CommitRecord,
    ConfigRecord,
    HeaderRecord,
    PrepareRecord,
    Record,
    Recovered,
    StableRecord,
    StateWrites,
    StoredBlock,
    ViewRecord,
)
from tepbft.types import Height


class Evidence:
    """What is durable, in plain tables. Survives crashes, as the bytes do; gone when wiped."""

    def __init__(self) -> None:
        self.bodies: dict[bytes, Height] = {}
        self.prepares: dict[tuple[int, int, int], bytes] = {}
        """(configuration, view, height) -> digest."""
        self.headers: dict[tuple[Height, bytes], None] = {}
        """(height, cp_hash): two of one height where this replica diverged and executed it again."""
        self.certified: dict[tuple[int, int], bytes] = {}
        """(configuration, view) -> encoded new-view certificate."""
        self.departures: dict[tuple[int, int], bytes] = {}
        self.new_views: dict[tuple[int, int], bytes] = {}
        self.stable: dict[Height, CheckpointCertificate] = {}
        self.configurations: dict[bytes, None] = {}

    def note(self, record: Record) -> None:
        """One record is durable."""
        match record:
            case BodyRecord():
                self.bodies[record.digest] = record.block.height
            case PrepareRecord():
                head = record.prepare
                self.prepares[(record.cfg, head.view, head.height)] = head.digest
            case HeaderRecord():
                self.headers[(record.header.height, record.header.digest())] = None
            case StableRecord():
                self.stable[record.certificate.height] = record.certificate
            case ViewRecord():
                slots = {
                    "new_view_certificate": self.certified,
                    "view_change": self.departures,
                    "new_view": self.new_views,
                }
                slots[record.slot][(record.cfg, record.view)] = record.data
            case ConfigRecord():
                self.configurations[record.data] = None
            case CommitRecord():
                pass


class Disk:
    """`ChainStore` over a memory store. `full` makes appends raise StoreFull for a while.

    `written_counts`: what is written counts as evidence before it is forced, since only a power failure
    takes it, and that takes the component too (ADR 0023)."""

    def __init__(self, written_counts: bool = False) -> None:
        self.store = MemoryStore()
        self.evidence = Evidence()
        self.unforced: list[Record] = []
        """What was written and not forced, in order."""
        self._written_counts = written_counts
        self._forced: list[Record] = []
        self.broken = False
        """A byte was flipped: the next process refuses to open it."""

    @property
    def full(self) -> bool:
        """No room left."""
        return self.store.full

    @full.setter
    def full(self, value: bool) -> None:
        self.store.full = value

    def crash(self, rng: Random, lost_installs: int, *, power: bool = True) -> int:
        """The process is gone and, if the `power` failed, some of what was not forced: how many records."""
        full, unforced = self.store.full, self.unforced
        lost = rng.randint(0, len(unforced)) if power and unforced else 0
        self.store = self.store.crash(lost_installs, lost)
        self.store.full = full
        self.unforced = unforced[: len(unforced) - lost]
        self._note_forced()
        if lost and self._written_counts:
            self.evidence = Evidence()
            self._note(self._forced)
        return lost

    # --- ChainStore -------------------------------------------------------------------------------

    def append(self, records: Sequence[Record], *, forced: bool = True) -> None:
        """See `ChainStore.append`."""
        self.store.append(records, forced=forced)
        self.unforced += records
        if self._written_counts:
            self._note(records)
        if forced:
            self._note_forced()

    def force(self) -> None:
        """See `ChainStore.force`."""
        self.store.force()
        self._note_forced()

    def _note_forced(self) -> None:
        if self._written_counts:
            self._forced += self.unforced
        else:
            self._note(self.unforced)
        self.unforced = []

    def _note(self, records: Sequence[Record]) -> None:
        note = self.evidence.note
        for record in records:
            note(record)

    def install(self, writes: Sequence[StateWrites], stable: Height, header: Header) -> None:
        """See `ChainStore.install`."""
        self.store.install(writes, stable, header)

    def replace_state(
        self, height: Height, header: Header, certificate: CheckpointCertificate, chunks: Sequence[bytes]
    ) -> None:
        """See `ChainStore.replace_state`."""
        self.store.replace_state(height, header, certificate, chunks)
        self.unforced.append(StableRecord(certificate, header))
        if self._written_counts:
            self._note(self.unforced[-1:])
        self._note_forced()

    def recover(self) -> Recovered:
        """See `ChainStore.recover`."""
        return self.store.recover()

    def get(self, key: bytes) -> bytes | None:
        """See `ChainStore.get`."""
        return self.store.get(key)

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """See `ChainStore.scan`."""
        return self.store.scan(start, end)

    def block(self, height: Height) -> StoredBlock | None:
        """See `ChainStore.block`."""
        return self.store.block(height)

    def stable_at_or_above(self, height: Height) -> tuple[CheckpointCertificate, Header] | None:
        """See `ChainStore.stable_at_or_above`."""
        return self.store.stable_at_or_above(height)

    def save_snapshot(self, height: Height, chunks: Sequence[bytes]) -> None:
        """See `ChainStore.save_snapshot`."""
        self.store.save_snapshot(height, chunks)

    def snapshot_chunk(self, height: Height, index: int) -> bytes | None:
        """See `ChainStore.snapshot_chunk`."""
        return self.store.snapshot_chunk(height, index)

    def snapshots(self) -> list[tuple[Height, int]]:
        """See `ChainStore.snapshots`."""
        return self.store.snapshots()

    def configurations(self) -> list[bytes]:
        """See `ChainStore.configurations`."""
        return self.store.configurations()

    def link(self, number: int) -> bytes | None:
        """See `ChainStore.link`."""
        return self.store.link(number)

    def close(self) -> None:
        """See `ChainStore.close`."""
        self.store.close()
