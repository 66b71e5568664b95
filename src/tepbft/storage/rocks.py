"""The store on disk: the journal is the truth, RocksDB is what was derived from it.

An append is durable when it returns. An install is one atomic RocksDB batch that is
*not* forced to disk: after a crash of the machine the state may be some installs old,
and the blocks above it are replayed from the journal. So are the index entries, which
travel in the same batches. Block bodies are written once, to the journal.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from heapq import merge
from pathlib import Path

import msgspec
from rocksdict import WriteBatch

from tepbft.core.block import Header
from tepbft.core.certificates import CheckpointCertificate
from tepbft.errors import PeerFault, TepbftError
from tepbft.execution.snapshot import decode_chunk
from tepbft.storage import folder as layout
from tepbft.storage.batch import write_in_order
from tepbft.storage.database import StateDatabase
from tepbft.storage.errors import StoreDamaged, StoreFull
from tepbft.storage.files import sync_folder
from tepbft.storage.folder import FolderLock
from tepbft.storage.index import (
    CONFIGURATION_PREFIX,
    META_KEY,
    META_VERSION,
    STABLE_PREFIX,
    STATE_END,
    STATE_PREFIX,
    HeightPlaces,
    Meta,
    Places,
    Tail,
    after,
    check_meta,
    configuration_key,
    encode_meta,
    height_key,
    stable_key,
    stable_key_height,
    unpack_places,
)
from tepbft.storage.journal import SEGMENT_BYTES, Journal
from tepbft.storage.memory import check_install, check_replace_state
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
    newest_writes,
)
from tepbft.storage.records import decode_record, encode_record, height_of, stable_rank
from tepbft.storage.segments import Position, unpack_position
from tepbft.storage.snapshots import SnapshotFolder
from tepbft.types import Height

_START = Position(1, 0, 0, 0)


class RocksStore:
    """`ChainStore` on disk, in `folder` (created if there is none), for one chain.

    `warnings` says what opening had to repair. `sync=False` leaves durability to the
    operating system: for tests and benchmarks only. One process at a time: a lock sees to it.
    """

    def __init__(
        self, folder: Path, chain_id: bytes, sync: bool = True, *, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        self.folder = folder
        self.warnings: list[str] = []
        self._chain_id = chain_id
        self._closed = False
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = FolderLock(folder)
        self._db: StateDatabase | None = None
        self._journal: Journal | None = None
        try:
            self._open(sync, segment_bytes)
        except BaseException as error:
            self._release()
            if isinstance(error, OSError):
                raise TepbftError(
                    str(error.filename or folder),
                    error.strerror or "it cannot be used",
                    "Check the disk and the permissions of the store folder",
                ) from error
            raise

    # --- opening ------------------------------------------------------------------------------

    def _open(self, sync: bool, segment_bytes: int) -> None:
        folder, chain_id = self.folder, self._chain_id
        fresh = layout.begin_creation(folder)
        if not fresh:
            layout.check_format(folder, chain_id)
        for name in (layout.JOURNAL, layout.STATE, layout.SNAPSHOTS):
            if not (folder / name).is_dir():
                raise StoreDamaged(folder / name, None, "this part of the store is missing")
        manifest = None if fresh else layout.take_manifest(folder)
        journal_folder = folder / layout.JOURNAL
        if not fresh and not any(name.endswith(".log") for name in os.listdir(journal_folder)):
            raise StoreDamaged(journal_folder, None, "the journal is gone")
        self._snapshots = SnapshotFolder(folder / layout.SNAPSHOTS, chain_id)
        if manifest is not None:  # from here on files change
            (folder / layout.MANIFEST_FILE).unlink()
            sync_folder(folder)
        self._db = StateDatabase(folder / layout.STATE, create=fresh)
        self._journal = Journal(journal_folder, chain_id, sync=sync, segment_bytes=segment_bytes)
        self._meta = self._create_meta() if fresh else self._read_meta()
        self._load_tail()
        if manifest is not None:
            self._check_end(manifest)
        if fresh:
            self._db.flush()
            layout.finish_creation(folder, chain_id)
        self.warnings += self._journal.warnings
        if self._meta.replacing is not None:
            self.warnings.append(f"{folder}: completed the state transfer to height {self._meta.replacing}")
            self._fill_state(self._meta.replacing)

    def _create_meta(self) -> Meta:
        meta = Meta(META_VERSION, self._chain_id, 0, None, _START, _START, _START, None, None, {})
        self._open_db.put([(META_KEY, encode_meta(meta))], sync=True)
        return meta

    def _read_meta(self) -> Meta:
        path = self.folder / layout.STATE
        data = self._open_db.get(META_KEY)
        if data is None:
            raise StoreDamaged(path, None, "it does not say which height it is at")
        return check_meta(data, self._chain_id, path)

    def _load_tail(self) -> None:
        """Index what was appended since the last install; this also finds the end of the journal."""
        self._tail = Tail()
        self._tail.singletons = {name: Position(*place) for name, place in self._meta.singletons.items()}
        flushed = Position(*self._meta.flushed)
        for position, record in self._replay():
            height = height_of(record)
            if position.before(flushed) and (height is None or height <= self._meta.installed):
                continue  # in RocksDB since the last install
            self._tail.note(record, position)

    def _replay(self) -> Iterator[tuple[Position, Record]]:
        replay, void = Position(*self._meta.replay), Position(*self._meta.void)
        journal = self._open_journal
        for position, payload in journal.replay(replay if replay.offset else None):
            record = self._decode(position, payload)
            if not (isinstance(record, HeaderRecord) and position.before(void)):
                yield position, record

    def _decode(self, position: Position, payload: bytes) -> Record:
        try:
            return decode_record(payload)
        except PeerFault as fault:
            path = self.folder / layout.JOURNAL / f"{position.segment:08d}.log"
            raise StoreDamaged(path, position.offset, f"it is no record ({fault.detail})") from None

    def _check_end(self, manifest: layout.Manifest) -> None:
        end = self._open_journal.end
        if (end.segment, end.offset, end.chain) != manifest.journal_end:
            segment, offset, _ = manifest.journal_end
            raise StoreDamaged(
                self.folder / layout.JOURNAL / f"{segment:08d}.log",
                offset,
                f"the journal ended here when the node stopped; now it ends at byte {end.offset}"
                f" of segment {end.segment}",
            )

    @property
    def _open_journal(self) -> Journal:
        if self._journal is None:
            raise TepbftError(str(self.folder), "the store is closed", "Open it again")
        return self._journal

    @property
    def _open_db(self) -> StateDatabase:
        if self._db is None:
            raise TepbftError(str(self.folder), "the store is closed", "Open it again")
        return self._db

    # --- the journal --------------------------------------------------------------------------

    def append(self, records: Sequence[Record], *, forced: bool = True) -> None:
        """See `ChainStore.append`."""
        positions = self._open_journal.append([encode_record(record) for record in records], forced=forced)
        for record, position in zip(records, positions, strict=True):
            self._tail.note(record, position)

    def force(self) -> None:
        """See `ChainStore.force`."""
        self._open_journal.force()

    def recover(self) -> Recovered:
        """See `ChainStore.recover`. Reads the journal from the first record above the installed height."""
        installed = self._meta.installed
        found: dict[Position, Record] = {}
        for position, record in self._replay():
            height = height_of(record)
            if height is not None and height > installed:
                found[position] = record
        for position in self._tail.singletons.values():
            if position not in found:
                found[position] = self._read(position)
        records = [found[position] for position in sorted(found)]
        return Recovered(installed, records, self._meta.header)

    def _read(self, position: Position) -> Record:
        return self._decode(position, self._open_journal.read(position))

    # --- the state ----------------------------------------------------------------------------

    def install(self, writes: Sequence[StateWrites], stable: Height, header: Header) -> None:
        """See `ChainStore.install`."""
        check_install(self._meta.installed, writes, stable, header)
        batch = WriteBatch(raw_mode=True)
        write_in_order(newest_writes(writes), STATE_PREFIX, batch.put, batch.delete)
        meta = self._move_to(batch, stable, header)
        self._open_db.write(batch)
        self._meta = meta
        self._tail.settle(stable)

    def _move_to(self, batch: WriteBatch, stable: Height, header: Header) -> Meta:
        """Put the index entries up to `stable` into a batch, and the meta that goes with them."""
        for height, entry in self._tail.up_to(stable):
            places = self._merge(height, entry)
            batch.put(height_key(height), places.pack())
            if places.stable is not None:
                batch.put(stable_key(height), b"")
        for number, place in self._tail.configurations.items():
            batch.put(configuration_key(number), place.pack())
        end = self._open_journal.end
        meta = msgspec.structs.replace(
            self._meta,
            installed=stable,
            header=header,
            replay=self._tail.first_above(stable) or end,
            flushed=end,
            singletons=dict(self._tail.singletons),
        )
        batch.put(META_KEY, encode_meta(meta))
        return meta

    def _merge(self, height: Height, entry: HeightPlaces) -> Places:
        """What is known of a height: from before its install, and from after it."""
        new = entry.places()
        known = self._open_db.get(height_key(height)) if height <= self._meta.installed else None
        if known is None:
            return new
        old = unpack_places(known)
        stable = old.stable
        if stable is None or (new.stable and self._stable_rank(stable) <= entry.rank):
            stable = new.stable
        whole = old if old.body and old.commit else new
        return Places(whole.body, whole.commit, new.header or old.header, stable)

    def _stable_rank(self, position: Position) -> int:
        record = self._read(position)
        return (
            stable_rank(record.certificate, record.header is not None)
            if isinstance(record, StableRecord)
            else -1
        )

    def replace_state(
        self, height: Height, header: Header, certificate: CheckpointCertificate, chunks: Sequence[bytes]
    ) -> None:
        """See `ChainStore.replace_state`.

        The snapshot file is complete on disk before the state is touched; a mark in RocksDB makes
        an opening after a crash finish the work.
        """
        check_replace_state(self._meta.installed, height, header, certificate)
        for chunk in chunks:
            decode_chunk(chunk)
        try:
            self._snapshots.save_base(height, chunks, header, certificate)
        except OSError as error:
            raise StoreFull(
                self.folder / layout.SNAPSHOTS, f"no snapshot written ({error.strerror})"
            ) from error
        void = self._open_journal.end
        self.append([StableRecord(certificate, header)])
        meta = msgspec.structs.replace(self._meta, replacing=height, void=void)
        self._open_db.put([(META_KEY, encode_meta(meta))], sync=True)
        self._meta = meta
        self._tail.forget_headers(self._meta.installed)
        self._fill_state(height)

    def _fill_state(self, height: Height) -> None:
        """The idempotent part of a state transfer: from the snapshot file into RocksDB."""
        base = self._snapshots.base(height)
        header = base.head.header
        if header is None:
            raise StoreDamaged(base.path, 0, "the snapshot does not say what it was accepted with")
        batch = WriteBatch(raw_mode=True)
        batch.delete_range(STATE_PREFIX, STATE_END)
        self._open_db.write(batch)
        for index in range(len(base.head.chunks)):
            try:
                pairs = decode_chunk(base.chunk(index))
            except PeerFault as fault:
                raise StoreDamaged(base.path, None, f"chunk {index} is malformed ({fault.detail})") from None
            self._open_db.put([(STATE_PREFIX + key, value) for key, value in pairs], sync=False)
        batch = WriteBatch(raw_mode=True)
        meta = self._move_to(batch, height, header)
        meta = msgspec.structs.replace(meta, base=height, replacing=None)
        batch.put(META_KEY, encode_meta(meta))
        self._open_db.write(batch, sync=True)
        self._meta = meta
        self._tail.settle(height)
        self._snapshots.keep_base(height)

    def get(self, key: bytes) -> bytes | None:
        """See `ChainStore.get`."""
        return self._open_db.get(STATE_PREFIX + key)

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """See `ChainStore.scan`."""
        for key, value in self._open_db.scan(STATE_PREFIX + start, STATE_PREFIX + end):
            yield key[1:], value

    # --- the ledger ---------------------------------------------------------------------------

    def _places(self, height: Height) -> Places:
        entry = self._tail.heights.get(height)
        if entry is not None:
            return self._merge(height, entry)
        data = self._open_db.get(height_key(height)) if height <= self._meta.installed else None
        return unpack_places(data) if data is not None else Places()

    def block(self, height: Height) -> StoredBlock | None:
        """See `ChainStore.block`."""
        if height < 0:
            return None
        places = self._places(height)
        if places.body is None or places.commit is None:
            return None
        body, commit = self._read(places.body), self._read(places.commit)
        header = self._read(places.header) if places.header else None
        if not isinstance(body, BodyRecord) or not isinstance(commit, CommitRecord):
            raise StoreDamaged(self.folder / layout.STATE, None, f"its index of height {height} is wrong")
        if not isinstance(header, HeaderRecord):
            return StoredBlock(body.block, commit.certificate, None, None)
        return StoredBlock(body.block, commit.certificate, header.header, header.receipts)

    def stable_at_or_above(self, height: Height) -> tuple[CheckpointCertificate, Header] | None:
        """See `ChainStore.stable_at_or_above`."""
        for found in self._stable_heights(max(0, height)):
            places = self._places(found)
            stable = self._read(places.stable) if places.stable else None
            if not isinstance(stable, StableRecord):
                continue
            header = stable.header
            if header is None and places.header is not None:
                executed = self._read(places.header)
                header = executed.header if isinstance(executed, HeaderRecord) else None
            if header is not None and header.digest() == stable.certificate.digest:
                return stable.certificate, header
        return None

    def _stable_heights(self, start: Height) -> Iterator[Height]:
        """Heights with a stable checkpoint, ascending. The tail is ordinarily above all that is installed."""
        tail = sorted(h for h, entry in self._tail.heights.items() if h >= start and entry.stable)
        stored = self._open_db.scan(stable_key(start), after(STABLE_PREFIX))
        for height, _ in itertools.groupby(merge((stable_key_height(key) for key, _ in stored), tail)):
            yield height

    def configurations(self) -> list[bytes]:
        """See `ChainStore.configurations`."""
        places = {
            int.from_bytes(key[1:], "big"): unpack_position(value)
            for key, value in self._open_db.scan(CONFIGURATION_PREFIX, after(CONFIGURATION_PREFIX))
        }
        places.update(self._tail.configurations)
        records = [self._read(places[number]) for number in sorted(places)]
        return [record.data for record in records if isinstance(record, ConfigRecord)]

    def link(self, number: int) -> bytes | None:
        """See `ChainStore.link`."""
        stored = self._open_db.get(configuration_key(number))
        place = self._tail.configurations.get(number) or (unpack_position(stored) if stored else None)
        record = self._read(place) if place is not None else None
        return record.link if isinstance(record, LinkedConfigRecord) else None

    # --- snapshots ----------------------------------------------------------------------------

    def save_snapshot(self, height: Height, chunks: Sequence[bytes]) -> None:
        """See `ChainStore.save_snapshot`."""
        try:
            self._snapshots.save(height, chunks)
        except OSError as error:
            raise StoreFull(
                self.folder / layout.SNAPSHOTS, f"no snapshot written ({error.strerror})"
            ) from error

    def snapshot_chunk(self, height: Height, index: int) -> bytes | None:
        """See `ChainStore.snapshot_chunk`."""
        return self._snapshots.chunk(height, index)

    def snapshots(self) -> list[tuple[Height, int]]:
        """See `ChainStore.snapshots`."""
        return self._snapshots.heights()

    # --- closing ------------------------------------------------------------------------------

    def close(self) -> None:
        """Flush, write the manifest, release. Idempotent; never hides an error of the disk."""
        if self._db is None or self._journal is None:
            return self._release()
        journal, clean = self._journal, not self._journal.failed
        try:
            end = journal.end
            journal.close()
            try:
                self._db.flush()
            finally:
                self._db.close()
                self._db = None
            if clean:
                layout.write_manifest(self.folder, self._chain_id, end)
        except OSError as error:
            raise TepbftError(
                str(self.folder), f"closing failed ({error.strerror})", "Nothing is lost; check the disk"
            ) from error
        finally:
            self._release()

    def _release(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        if self._db is not None:
            self._db.close()
            self._db = None
        self._lock.release()
