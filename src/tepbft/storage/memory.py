"""A store in memory: for tests and the simulator, and the plain twin that judges the one on disk.

It keeps every record ever appended, as the disk does, and answers from simple tables.
`crash` is what pulling the plug leaves behind: everything that was forced, as much of the rest as
one likes, and a state that may be some installs old (the disk store does not wait for the
state to be on disk, because the journal can always rebuild it).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from tepbft.core.block import Header
from tepbft.core.certificates import CheckpointCertificate
from tepbft.errors import ContractBroken
from tepbft.execution.snapshot import decode_chunk
from tepbft.storage.errors import StoreFull
from tepbft.storage.port import (
    BodyRecord,
    CommitRecord,
    ConfigRecord,
    HeaderRecord,
    LinkedConfigRecord,
    Record,
    Recovered,
    StableRecord,
    StateWrites,
    StoredBlock,
)
from tepbft.storage.records import decode_configuration, height_of, singletons_of, stable_rank
from tepbft.storage.snapshots import KEPT
from tepbft.types import Height

UNDO_INSTALLS = 8
"""How many installs a simulated crash can take back at most."""


class _Undo:
    """What an install changed, so that a simulated crash can take it back."""

    def __init__(self, installed: Height, header: Header | None) -> None:
        self.installed = installed
        self.header = header
        self.old: dict[bytes, bytes | None] = {}


class MemoryStore:
    """`ChainStore` in memory. Set `full` to make every append raise StoreFull."""

    def __init__(self) -> None:
        self.full = False
        self.warnings: list[str] = []
        self._log: list[Record] = []
        self._forced = 0
        """So many records of the log survive whatever happens."""
        self._state: dict[bytes, bytes] = {}
        self._keys: list[bytes] | None = []
        self._undo: deque[_Undo] = deque(maxlen=UNDO_INSTALLS)
        self._snapshots: dict[Height, tuple[bytes, ...]] = {}
        self._installed: Height = 0
        self._header: Header | None = None
        self._base: Height | None = None
        self._voids: list[tuple[int, Height]] = []
        self._replay = 0
        self._index()

    # --- the log and what follows from it -----------------------------------------------------

    def _index(self) -> None:
        self._bodies: dict[bytes, BodyRecord] = {}
        self._commits: dict[Height, CommitRecord] = {}
        self._headers: dict[Height, HeaderRecord] = {}
        self._stable: dict[Height, StableRecord] = {}
        self._stable_heights: list[Height] = []
        self._singletons: dict[str, int] = {}
        self._configurations: dict[int, ConfigRecord] = {}
        for place, record in enumerate(self._log):
            if not self._is_void(place, record):
                self._note(place, record)

    def _is_void(self, place: int, record: Record) -> bool:
        """True for what was executed and then superseded by a state transfer."""
        return isinstance(record, HeaderRecord) and any(
            place < void and record.header.height > installed for void, installed in self._voids
        )

    def _note(self, place: int, record: Record) -> None:
        for name in singletons_of(record):
            self._singletons[name] = place
        match record:
            case BodyRecord():
                self._bodies.setdefault(record.digest, record)
            case CommitRecord():
                self._commits.setdefault(record.certificate.height, record)
            case HeaderRecord():
                self._headers[record.header.height] = record
            case StableRecord():
                self._note_stable(record)
            case ConfigRecord():
                self._configurations[decode_configuration(record.data).number] = record
            case _:
                pass

    def _note_stable(self, record: StableRecord) -> None:
        height = record.certificate.height
        found = self._stable.get(height)
        if found is None:
            self._stable_heights.insert(bisect_left(self._stable_heights, height), height)
        elif _rank(record) < _rank(found):
            return
        self._stable[height] = record

    def append(self, records: Sequence[Record], *, forced: bool = True) -> None:
        """See `ChainStore.append`."""
        if self.full and records:
            raise StoreFull(Path("memory"), "the store was told to be full")
        for record in records:
            self._log.append(record)
            self._note(len(self._log) - 1, record)
        if forced:
            self.force()

    def force(self) -> None:
        """See `ChainStore.force`."""
        self._forced = len(self._log)

    @property
    def unforced(self) -> int:
        """How many records a crash may take."""
        return len(self._log) - self._forced

    def recover(self) -> Recovered:
        """See `ChainStore.recover`."""
        places = {place: None for place in self._singletons.values()}
        for place in range(self._replay, len(self._log)):
            height = height_of(self._log[place])
            if height is not None and height > self._installed and not self._is_void(place, self._log[place]):
                places[place] = None
        records = [self._log[place] for place in sorted(places)]
        return Recovered(self._installed, records, self._header)

    def crash(self, lost_installs: int = 0, lost_records: int = 0) -> MemoryStore:
        """The store as a process finds it after a crash: without the last `lost_records` records (at most
        those that were not forced) and the last `lost_installs` installs (at most `UNDO_INSTALLS`, none
        before a state transfer). This object must not be used any more."""
        survivor = MemoryStore()
        del self._log[len(self._log) - min(lost_records, self.unforced) :]
        survivor._log, survivor._state = self._log, self._state
        survivor._snapshots, survivor._base = self._snapshots, self._base
        survivor._voids = self._voids
        survivor._installed, survivor._header = self._installed, self._header
        for _ in range(min(lost_installs, len(self._undo))):
            undo = self._undo.pop()
            for key, value in undo.old.items():
                if value is None:
                    survivor._state.pop(key, None)
                else:
                    survivor._state[key] = value
            survivor._installed, survivor._header = undo.installed, undo.header
        survivor._keys = None
        survivor._replay = 0 if lost_installs else self._replay
        survivor.force()
        survivor._index()
        return survivor

    # --- the state ----------------------------------------------------------------------------

    def install(self, writes: Sequence[StateWrites], stable: Height, header: Header) -> None:
        """See `ChainStore.install`."""
        check_install(self._installed, writes, stable, header)
        undo = _Undo(self._installed, self._header)
        for block in writes:
            for key, value in block.writes.items():
                undo.old.setdefault(key, self._state.get(key))
                self._set(key, value)
        self._undo.append(undo)
        self._installed, self._header = stable, header
        self._replay = self._first_above(stable)

    def _set(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            if self._state.pop(key, None) is not None:
                self._keys = None
        else:
            if key not in self._state:
                self._keys = None
            self._state[key] = value

    def _first_above(self, stable: Height) -> int:
        for place in range(self._replay, len(self._log)):
            height = height_of(self._log[place])
            if height is not None and height > stable:
                return place
        return len(self._log)

    def replace_state(
        self, height: Height, header: Header, certificate: CheckpointCertificate, chunks: Sequence[bytes]
    ) -> None:
        """See `ChainStore.replace_state`."""
        check_replace_state(self._installed, height, header, certificate)
        pairs = [pair for chunk in chunks for pair in decode_chunk(chunk)]
        self._voids.append((len(self._log), self._installed))
        self.append([StableRecord(certificate, header)])
        self._state, self._keys = dict(pairs), None
        self._undo.clear()
        self._installed, self._header = height, header
        self._snapshots = {h: kept for h, kept in self._snapshots.items() if h <= height and h != self._base}
        self._base, self._snapshots[height] = height, tuple(chunks)
        self._prune()
        self._replay = self._first_above(height)
        self._index()

    def get(self, key: bytes) -> bytes | None:
        """See `ChainStore.get`."""
        return self._state.get(key)

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """See `ChainStore.scan`. The state must not change while the iterator is in use."""
        if self._keys is None:
            self._keys = sorted(self._state)
        keys, state = self._keys, self._state
        for place in range(bisect_left(keys, start), bisect_left(keys, end)):
            yield keys[place], state[keys[place]]

    # --- the ledger ---------------------------------------------------------------------------

    def block(self, height: Height) -> StoredBlock | None:
        """See `ChainStore.block`."""
        commit = self._commits.get(height)
        body = self._bodies.get(commit.certificate.digest) if commit else None
        if commit is None or body is None:
            return None
        header = self._headers.get(height)
        return StoredBlock(
            body.block,
            commit.certificate,
            header.header if header else None,
            header.receipts if header else None,
        )

    def stable_at_or_above(self, height: Height) -> tuple[CheckpointCertificate, Header] | None:
        """See `ChainStore.stable_at_or_above`."""
        for place in range(bisect_left(self._stable_heights, height), len(self._stable_heights)):
            record = self._stable[self._stable_heights[place]]
            executed = self._headers.get(self._stable_heights[place])
            header = record.header or (executed.header if executed else None)
            if header is not None and header.digest() == record.certificate.digest:
                return record.certificate, header
        return None

    def configurations(self) -> list[bytes]:
        """See `ChainStore.configurations`."""
        return [self._configurations[number].data for number in sorted(self._configurations)]

    def link(self, number: int) -> bytes | None:
        """See `ChainStore.link`."""
        record = self._configurations.get(number)
        return record.link if isinstance(record, LinkedConfigRecord) else None

    # --- snapshots ----------------------------------------------------------------------------

    def save_snapshot(self, height: Height, chunks: Sequence[bytes]) -> None:
        """See `ChainStore.save_snapshot`."""
        if height != self._base:
            self._snapshots[height] = tuple(chunks)
        self._prune()

    def _prune(self) -> None:
        kept = sorted(height for height in self._snapshots if height != self._base)
        for height in kept[:-KEPT]:
            del self._snapshots[height]

    def snapshot_chunk(self, height: Height, index: int) -> bytes | None:
        """See `ChainStore.snapshot_chunk`."""
        chunks = self._snapshots.get(height, ())
        return chunks[index] if 0 <= index < len(chunks) else None

    def snapshots(self) -> list[tuple[Height, int]]:
        """See `ChainStore.snapshots`."""
        return [(height, len(self._snapshots[height])) for height in sorted(self._snapshots)]

    def close(self) -> None:
        """See `ChainStore.close`; `crash` opens the store again."""


def _rank(record: StableRecord) -> int:
    return stable_rank(record.certificate, record.header is not None)


def check_install(installed: Height, writes: Sequence[StateWrites], stable: Height, header: Header) -> None:
    """ContractBroken unless an install moves the state forward, in order (I-11)."""
    if header.height != stable or stable < installed:
        raise ContractBroken(f"cannot install height {stable} (header {header.height}) above {installed}")
    last = installed
    for block in writes:
        if not last < block.height <= stable:
            raise ContractBroken(f"writes of height {block.height} after {last}, up to {stable}")
        last = block.height


def check_replace_state(
    installed: Height, height: Height, header: Header, certificate: CheckpointCertificate
) -> None:
    """ContractBroken unless what a state transfer brings fits together and does not go back."""
    if height < installed or header.height != height or certificate.height != height:
        raise ContractBroken(f"cannot replace the state at {installed} by one at {height}")
    if header.digest() != certificate.digest:
        raise ContractBroken("the certificate of a state transfer is not for its header")
