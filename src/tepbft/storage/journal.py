"""The append-only log: one write per batch, one fdatasync for those that must be on the disk at once.

What is appended and not forced reaches the disk with the next append that is, or with `force`. The
records of all that a power failure took are the last ones: the format of the files (`segments`) tells
such an end from damage.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn
from zlib import crc32

from tepbft.errors import ContractBroken, TepbftError
from tepbft.storage.errors import StoreDamaged, StoreFull
from tepbft.storage.files import sync_folder, write_durably
from tepbft.storage.segments import (
    HEADER_BYTES,
    LENGTH,
    RECORD,
    Position,
    Segment,
    Torn,
    list_segments,
    read_segment_header,
    scan_segment,
    segment_header,
    segment_path,
)
from tepbft.storage.tail import FILL_BYTES, Filling

SEGMENT_BYTES = 64 << 20
_OPEN_FILES = 8
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Journal:
    """The log of one store. Construct, iterate `replay` to its end once, then append.

    `warnings` tells what was repaired (a torn tail cut off). `sync=False` is for tests and
    benchmarks only: it leaves the moment of durability to the operating system.
    """

    def __init__(
        self, folder: Path, chain_id: bytes, *, segment_bytes: int = SEGMENT_BYTES, sync: bool = True
    ) -> None:
        self.folder = folder
        self.warnings: list[str] = []
        self._chain_id = chain_id
        self._segment_bytes = segment_bytes
        self._sync = sync
        self._broken = False
        self._forced = True
        """Whether all that was appended is on the disk for sure."""
        self._readers: OrderedDict[int, int] = OrderedDict()
        self._writer = -1
        for name in os.listdir(folder):
            if name.endswith(".new"):  # a segment whose creation a crash interrupted: nothing was in it
                (folder / name).unlink()
        self._segments = list_segments(folder, chain_id)
        if not self._segments:
            self._segments.append(self._create_segment(1, 0, 0))
        self._size = self._chain = -1
        self._filling: Filling | None = None
        """None while there is no room for it."""
        self._filled = 0
        """To here the last segment holds records and filling."""

    @property
    def end(self) -> Position:
        """Where the next record will stand."""
        return Position(self._segments[-1].number, self._size, 0, self._chain)

    def replay(self, start: Position | None = None) -> Iterator[tuple[Position, bytes]]:
        """Every record from `start` on. The first complete run also finds the end of the journal (and
        cuts off a torn tail); before it, nothing can be appended."""
        first = start.segment if start else 1
        if not 1 <= first <= len(self._segments):
            raise StoreDamaged(
                segment_path(self.folder, first), None, "this segment of the journal is missing"
            )
        offset, chain = 0, 0
        for segment in self._segments[first - 1 :]:
            last = segment.number == len(self._segments)
            begin = start if start and segment.number == first else None
            if begin is None and segment.number > first and segment.previous_chain != chain:
                raise StoreDamaged(segment.path, 0, "it does not continue the segment before it")
            offset, chain = (begin.offset, begin.chain) if begin else (HEADER_BYTES, segment.chain)
            end = self._size if last and self._size >= 0 else None
            try:
                for position, payload, after in scan_segment(segment, start=begin, last=last, end=end):
                    yield position, payload
                    offset, chain = position.offset + RECORD.size + position.length, after
            except Torn as torn:
                self._cut_tail(segment, torn.offset)
        if self._size < 0:
            self._size, self._chain = offset, chain
            self._write_to(self._segments[-1])
            os.fsync(self._writer)  # of what a killed process wrote last, the disk may not know yet

    def _cut_tail(self, segment: Segment, offset: int) -> None:
        lost = segment.path.stat().st_size - offset
        fd = os.open(segment.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(fd, offset)
            os.fsync(fd)
        finally:
            os.close(fd)
        self.warnings.append(
            f"{segment.path}: cut off {lost} bytes at byte {offset}, a record that a crash left incomplete"
        )

    def append(self, payloads: Sequence[bytes], *, forced: bool = True) -> list[Position]:
        """Write payloads in order with one write and, if `forced`, one fdatasync; where each one stands.

        StoreFull: the file is as before and a later append may succeed. TepbftError: the disk
        failed, and nothing can be appended until the journal is opened again.
        """
        self._check_open()
        if not payloads:
            return []
        if self._size >= self._segment_bytes:
            self._roll()
        number, offset, chain = self._segments[-1].number, self._size, self._chain
        parts: list[bytes] = []
        positions: list[Position] = []
        for payload in payloads:
            length = len(payload)
            positions.append(Position(number, offset, length, chain))
            head = crc32(LENGTH.pack(length), chain)
            chain = crc32(payload, head)
            parts.append(RECORD.pack(length, head, chain))
            parts.append(payload)
            offset += RECORD.size + length
        self._write(b"".join(parts), forced)
        self._size, self._chain = offset, chain
        return positions

    def force(self) -> None:
        """What was appended is on the disk when this returns. TepbftError as for `append`."""
        self._check_open()
        if not self._forced:
            try:
                self._sync_file()
            except OSError as error:
                self._fail(error)

    def _check_open(self) -> None:
        if self._writer < 0 or self._broken:
            raise ContractBroken("the journal is closed, failed, or not replayed yet")

    def _write(self, data: bytes, forced: bool) -> None:
        end = self._size + len(data)
        try:
            if end > self._filled and self._filling is not None:
                self._fill_ahead(self._filling, end)
            written = os.pwrite(self._writer, data, self._size)
            while written < len(data):
                written += os.pwrite(self._writer, memoryview(data)[written:], self._size + written)
        except OSError as error:
            self._undo_write(error)
        self._filled = max(self._filled, end)
        if not forced and self._filling is not None:  # without filling a gap before what arrived is damage
            self._forced = False
            return
        try:
            self._sync_file()
        except OSError as error:
            if not self._forced:  # what was appended before may be lost, and is counted on
                self._fail(error)
            self._undo_write(error)

    def _sync_file(self) -> None:
        if self._sync:
            os.fdatasync(self._writer)
        self._forced = True

    def _write_to(self, segment: Segment) -> None:
        self._writer = os.open(segment.path, os.O_WRONLY | os.O_CLOEXEC)
        self._filling, self._filled = Filling(segment.seed), os.fstat(self._writer).st_size

    def _fill_ahead(self, filling: Filling, end: int) -> None:
        """Fill beyond `end`. Where the disk has no room for that, this segment goes without."""
        try:
            filling.write(self._writer, self._filled, end + FILL_BYTES)
            self._filled = end + FILL_BYTES
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self._filling = None
            self._cut_filling()

    def _cut_filling(self) -> None:
        """Let the file end with its last record; OSError if the disk refuses."""
        os.ftruncate(self._writer, self._size)
        self._filled = self._size

    def _undo_write(self, error: OSError) -> None:
        path = self._segments[-1].path
        try:
            self._cut_filling()
        except OSError:
            self._broken = True
        if error.errno in _FULL and not self._broken:
            raise StoreFull(path, f"the disk is full ({error.strerror})") from error
        self._fail(error)

    def _fail(self, error: OSError) -> NoReturn:
        self._broken = True  # after a failed fsync nobody knows what the disk holds
        raise TepbftError(
            str(self._segments[-1].path),
            f"writing failed ({error.strerror})",
            "Check the disk, then start the node again",
        ) from error

    def _roll(self) -> None:
        """Complete the current segment and begin the next one."""
        last = self._segments[-1]
        self.force()
        try:
            self._cut_filling()
            os.fsync(self._writer)  # the next one will say how long this one is
            segment = self._create_segment(last.number + 1, self._chain, self._size)
        except OSError as error:
            if error.errno in _FULL:
                raise StoreFull(self.folder, f"the disk is full ({error.strerror})") from error
            raise TepbftError(
                str(self.folder), f"no new segment: {error.strerror}", "Check the disk and its permissions"
            ) from error
        os.close(self._writer)
        self._write_to(segment)
        self._segments[-1] = last._replace(size=self._size)
        self._segments.append(segment)
        self._size, self._chain = segment.size, segment.chain

    def _create_segment(self, number: int, chain: int, size: int) -> Segment:
        path = segment_path(self.folder, number)
        draft = path.with_suffix(".new")
        try:
            write_durably(draft, [segment_header(self._chain_id, number, chain, size)])
            os.rename(draft, path)
            sync_folder(self.folder)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        return read_segment_header(path, number, self._chain_id)

    def read(self, position: Position) -> bytes:
        """The payload at `position`, checked against its checksum and its link."""
        fd = self._reader(position.segment)
        data = os.pread(fd, RECORD.size + position.length, position.offset)
        if len(data) == RECORD.size + position.length:
            length, head, crc = RECORD.unpack_from(data)
            payload = data[RECORD.size :]
            if (
                length == position.length
                and crc32(data[:4], position.chain) == head
                and crc32(payload, head) == crc
            ):
                return payload
        raise StoreDamaged(
            segment_path(self.folder, position.segment),
            position.offset,
            "a record does not match its checksum",
        )

    def _reader(self, number: int) -> int:
        fd = self._readers.get(number)
        if fd is not None:
            self._readers.move_to_end(number)
            return fd
        path = segment_path(self.folder, number)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreDamaged(path, None, f"cannot be read: {error.strerror}") from error
        self._readers[number] = fd
        if len(self._readers) > _OPEN_FILES:
            os.close(self._readers.popitem(last=False)[1])
        return fd

    def close(self) -> None:
        """Flush and release the files. Idempotent."""
        writer, self._writer = self._writer, -1
        try:
            if writer >= 0 and not self._broken:
                os.ftruncate(writer, self._size)
                os.fsync(writer)
        finally:
            if writer >= 0:
                os.close(writer)
            while self._readers:
                os.close(self._readers.popitem()[1])

    @property
    def failed(self) -> bool:
        """True once the disk refused in a way that leaves its contents unknown."""
        return self._broken
