"""RocksDB as this store uses it: raw bytes, checks on, errors with a remedy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import uniform

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
    WriteOptions,
)

from tepbft.errors import TepbftError
from tepbft.storage.errors import StoreDamaged, StoreFull

TABLE_BYTES = 2 << 20
"""Size of a memory table, about."""
_LOG_BLOCK_BYTES = 1 << 15
_LOG_HEADER_BYTES = 7
_RECYCLED_TYPES = (5, 6, 7, 8, 11, 131)
"""Record types of logs that RocksDB recycles, which this store has it never do."""
_FULL = ("No space left", "Disk quota exceeded", "File too large")


def _options(*, create: bool) -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(create)
    options.set_paranoid_checks(True)
    options.set_keep_log_file_num(1)
    options.set_max_log_file_size(1 << 20)
    options.set_max_manifest_file_size(4 << 20)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    # Small memory tables are quick to insert into; merged four at a time they go to the disk without
    # what was overwritten meanwhile, in files that are worth merging late and that live too briefly to
    # be worth compressing. Replicas write the same, and would all be busy with it at the same moment
    # if their tables had the same size.
    options.set_write_buffer_size(int(TABLE_BYTES * uniform(0.7, 1.3)))
    options.set_min_write_buffer_number_to_merge(4)
    options.set_max_write_buffer_number(6)
    options.set_level_zero_file_num_compaction_trigger(12)
    options.set_compression_per_level([DBCompressionType.none(), *[DBCompressionType.lz4()] * 6])
    table = BlockBasedOptions()
    table.set_bloom_filter(10, False)
    table.set_block_cache(Cache(64 << 20))
    options.set_block_based_table_factory(table)
    return options


def check_logs(folder: Path) -> None:
    """StoreDamaged if a MANIFEST or a log of RocksDB holds a record type that does not belong there.

    RocksDB notices every other damage in them, but reads such a record for ever. A record that
    does not end within its block, or within the file, is left for RocksDB to judge.
    """
    for path in sorted([*folder.glob("MANIFEST-*"), *folder.glob("*.log")]):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue  # a running node dropped it meanwhile
        offset = 0
        while offset + _LOG_HEADER_BYTES <= len(data):
            room = _LOG_BLOCK_BYTES - offset % _LOG_BLOCK_BYTES
            if room < _LOG_HEADER_BYTES:
                offset += room
                continue
            length, kind = int.from_bytes(data[offset + 4 : offset + 6], "little"), data[offset + 6]
            if kind in _RECYCLED_TYPES:
                raise StoreDamaged(path, offset + 6, f"a record of type {kind} does not belong there")
            if _LOG_HEADER_BYTES + length > room or kind == length == 0:
                break
            offset += _LOG_HEADER_BYTES + length


class StateDatabase:
    """The `state/` folder of a store.

    `access` opens it for reading only: `AccessType.read_only()` if nobody has it open,
    `AccessType.secondary(scratch_folder)` beside a running node. Every failure is a TepbftError.
    """

    def __init__(self, path: Path, *, create: bool = False, access: AccessType | None = None) -> None:
        self.path = path
        if not create:
            check_logs(path)
        try:
            if access is None:
                self._db = Rdict(str(path), _options(create=create))
            else:
                self._db = Rdict(str(path), _options(create=False), access_type=access)
        except Exception as error:  # rocksdict raises nothing more specific
            raise self._failure(error) from error
        self._get = self._db.get

    def _failure(self, error: Exception) -> TepbftError:
        text = str(error)
        if any(word in text for word in _FULL):
            return StoreFull(self.path, f"the disk is full ({text})")
        return StoreDamaged(self.path, None, f"RocksDB reports: {text}")

    def get(self, key: bytes) -> bytes | None:
        """Value of a key, its checksum verified."""
        try:
            value: bytes | None = self._get(key)
        except Exception as error:
            raise self._failure(error) from error
        return value

    def put(self, pairs: Sequence[tuple[bytes, bytes]], *, sync: bool) -> None:
        """Write pairs in one batch."""
        batch = WriteBatch(raw_mode=True)
        for key, value in pairs:
            batch.put(key, value)
        self.write(batch, sync=sync)

    def write(self, batch: WriteBatch, *, sync: bool = False) -> None:
        """Write a batch atomically; with `sync` it is on disk when this returns."""
        options = WriteOptions()
        options.sync = sync
        try:
            self._db.write(batch, options)
        except Exception as error:
            raise self._failure(error) from error

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < end, as they were when the scan began."""
        try:
            cursor = self._db.iter()
            cursor.seek(start)
            valid, key_of, value_of, step = cursor.valid, cursor.key, cursor.value, cursor.next
            while valid():
                key: bytes = key_of()
                if key >= end:
                    return
                yield key, value_of()
                step()
            cursor.status()
        except Exception as error:
            raise self._failure(error) from error

    def flush(self) -> None:
        """Write memory tables to disk."""
        try:
            self._db.flush()
        except Exception as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Stop background work and release the folder."""
        self._db.close()
