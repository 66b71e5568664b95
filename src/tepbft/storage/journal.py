"""The append-only log: one write and one fdatasync per batch, every byte accounted for.

A segment file starts with a header that continues its predecessor (its size and the
value its chain ended with) and names the pattern that it is filled with. A record is

    u32 length | u32 head | u32 crc | payload

with `head` = CRC-32 of the length, seeded with the `crc` of the record before (the
header's for the first), and `crc` = CRC-32 of the payload seeded with `head`. So the
records form a chain: one that is changed, dropped, repeated or moved is noticed; and a
damaged length is told apart from a write that a crash cut short. This finds accidents
and careless hands. Who forges the chain as well still has to forge the certificates,
which is what the audit checks.

While a segment is written to, it is filled ahead (`tail`); completed, or closed, it ends
with its last record.
"""

from __future__ import annotations

import errno
import os
import re
import struct
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from tepbft.errors import ContractBroken, TepbftError
from tepbft.storage.errors import StoreDamaged, StoreFull
from tepbft.storage.files import sync_folder, write_durably
from tepbft.storage.records import MAX_RECORD_BYTES
from tepbft.storage.tail import FILL_BYTES, SEED_BYTES, Filling

SEGMENT_BYTES = 64 << 20
MAGIC = b"TEPJRNL\n"
VERSION = 2
_HEADER = struct.Struct(f"<8sI32sIIQ{SEED_BYTES}s")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size
_LENGTH = struct.Struct("<I")
_RECORD = struct.Struct("<III")
_POSITION = struct.Struct("<IQII")
POSITION_BYTES = _POSITION.size
_NAME = re.compile(r"(\d{8})\.log")
_OPEN_FILES = 8
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Position(NamedTuple):
    """Where a record stands: file number, byte offset, payload length, and the chain before it.
    With length 0 it marks a place to read from (such as the end of the journal)."""

    segment: int
    offset: int
    length: int
    chain: int

    def pack(self) -> bytes:
        """20 bytes."""
        return _POSITION.pack(*self)

    def before(self, other: Position) -> bool:
        """True iff this place comes before `other` in the journal."""
        return (self.segment, self.offset) < (other.segment, other.offset)


def unpack_position(data: bytes) -> Position:
    """Inverse of `Position.pack`."""
    return Position(*_POSITION.unpack(data))


class Segment(NamedTuple):
    """One file of the journal, its header checked. `chain` is the value its first record continues, `seed`
    makes the pattern that it is filled with."""

    number: int
    path: Path
    size: int
    previous_chain: int
    previous_size: int
    chain: int
    seed: bytes


class Torn(Exception):
    """The last record of the last segment is incomplete from `offset` on: a crash cut it short."""

    def __init__(self, offset: int) -> None:
        super().__init__(offset)
        self.offset = offset


def segment_path(folder: Path, number: int) -> Path:
    """File of segment `number` (1, 2, …)."""
    return folder / f"{number:08d}.log"


def _segment_header(chain_id: bytes, number: int, chain: int, size: int) -> bytes:
    head = _HEADER.pack(MAGIC, VERSION, chain_id, number, chain, size, os.urandom(SEED_BYTES))
    return head + _CRC.pack(crc32(head))


def read_segment_header(path: Path, number: int, chain_id: bytes) -> Segment:
    """Check the header of a segment file; StoreDamaged or TepbftError says what is wrong with it."""
    with path.open("rb") as file:
        data = file.read(HEADER_BYTES)
        size = os.fstat(file.fileno()).st_size
    if len(data) < HEADER_BYTES:
        raise StoreDamaged(path, 0, "the segment header is incomplete")
    magic, version, chain, found, previous_chain, previous_size, seed = _HEADER.unpack_from(data)
    checksum = crc32(data[: _HEADER.size])
    if magic == MAGIC and version != VERSION:
        raise TepbftError(
            str(path),
            f"it is in journal format {version}, this program knows {VERSION}",
            "Use the version of tepbft that wrote it",
        )
    if magic != MAGIC or checksum != _CRC.unpack_from(data, _HEADER.size)[0]:
        raise StoreDamaged(path, 0, "the segment header does not match its checksum")
    if chain != chain_id:
        raise TepbftError(
            str(path),
            f"it belongs to chain {chain.hex()[:16]}…, not to {chain_id.hex()[:16]}…",
            "Start the node with the genesis file that this folder was made for, or use another folder",
        )
    if found != number:
        raise StoreDamaged(path, 0, f"it is segment {found} under the name of another")
    return Segment(number, path, size, previous_chain, previous_size, checksum, seed)


def written_to(path: Path) -> int:
    """How far records reach in a segment that a node may be writing to, rounded up by less than 64 bytes."""
    data = path.read_bytes()
    return Filling(_HEADER.unpack_from(data)[-1]).begins(data) if len(data) >= HEADER_BYTES else len(data)


def list_segments(folder: Path, chain_id: bytes) -> list[Segment]:
    """All segments in order, headers and sizes checked, contents not read."""
    numbers = sorted(int(m[1]) for m in (_NAME.fullmatch(name) for name in os.listdir(folder)) if m)
    segments: list[Segment] = []
    for expected, number in enumerate(numbers, start=1):
        if number != expected:
            raise StoreDamaged(segment_path(folder, expected), None, "this segment of the journal is missing")
        segment = read_segment_header(segment_path(folder, number), number, chain_id)
        if segments and segment.previous_size != segments[-1].size:
            raise StoreDamaged(
                segments[-1].path,
                min(segments[-1].size, segment.previous_size),
                f"it has {segments[-1].size} bytes and had {segment.previous_size} when it was completed",
            )
        segments.append(segment)
    return segments


def scan_segment(
    segment: Segment, *, start: Position | None = None, last: bool, end: int | None = None
) -> Iterator[tuple[Position, bytes, int]]:
    """Records of one segment from `start` (or its beginning) to `end` (or its size), in order: where
    each stands, its payload, and the chain after it.

    Raises StoreDamaged at the first bad one (RecordDamaged if reading may go on behind it), and Torn
    instead where `last` allows for it. The last segment ends where nothing but filling follows (`tail`).
    """
    size = segment.size if end is None else end
    offset, chain = (start.offset, start.chain) if start else (HEADER_BYTES, segment.chain)
    with segment.path.open("rb", buffering=1 << 20) as file:
        if offset > size:
            raise StoreDamaged(segment.path, size, f"it ends before byte {offset}, which was written before")
        file.seek(offset)
        while offset < size:
            head = file.read(min(_RECORD.size, size - offset))
            if len(head) < _RECORD.size:
                if last and Filling(segment.seed).judge(file, offset, offset, size) == "end":
                    return
                raise _cut(segment, offset, last)
            length, head_crc, crc = _RECORD.unpack(head)
            if crc32(head[:4], chain) != head_crc or length > MAX_RECORD_BYTES:
                verdict = Filling(segment.seed).judge(file, offset, offset, size) if last else "damaged"
                if verdict == "end":
                    return
                if verdict == "torn":
                    raise Torn(offset)
                raise StoreDamaged(
                    segment.path, offset, "a record's length or its link to the one before is wrong"
                )
            behind = offset + _RECORD.size + length
            payload = file.read(length) if behind <= size else b""
            if len(payload) < length:
                raise _cut(segment, offset, last)
            if crc32(payload, head_crc) != crc:
                if last and Filling(segment.seed).judge(file, offset, behind, size) == "torn":
                    raise Torn(offset)
                raise RecordDamaged(segment.path, offset, length, Position(segment.number, behind, 0, crc))
            yield Position(segment.number, offset, length, chain), payload, crc
            offset, chain = behind, crc


class RecordDamaged(StoreDamaged):
    """A record's payload does not match its checksum; reading may go on at `resume`."""

    def __init__(self, path: Path, offset: int, length: int, resume: Position) -> None:
        super().__init__(path, offset, f"a record of {length} bytes does not match its checksum")
        self.resume = resume


def _cut(segment: Segment, offset: int, last: bool) -> Exception:
    return Torn(offset) if last else StoreDamaged(segment.path, offset, "its last record is incomplete")


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
                    offset, chain = position.offset + _RECORD.size + position.length, after
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

    def append(self, payloads: Sequence[bytes]) -> list[Position]:
        """Write payloads in order with one write and one fdatasync; where each one stands.

        StoreFull: the file is as before and a later append may succeed. TepbftError: the disk
        failed, and nothing can be appended until the journal is opened again.
        """
        if self._writer < 0 or self._broken:
            raise ContractBroken("append to a journal that is closed, failed, or not replayed yet")
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
            head = crc32(_LENGTH.pack(length), chain)
            chain = crc32(payload, head)
            parts.append(_RECORD.pack(length, head, chain))
            parts.append(payload)
            offset += _RECORD.size + length
        self._write(b"".join(parts))
        self._size, self._chain = offset, chain
        return positions

    def _write(self, data: bytes) -> None:
        end = self._size + len(data)
        try:
            if end > self._filled and self._filling is not None:
                self._fill_ahead(self._filling, end)
            written = os.pwrite(self._writer, data, self._size)
            while written < len(data):
                written += os.pwrite(self._writer, memoryview(data)[written:], self._size + written)
            if self._sync:
                os.fdatasync(self._writer)
        except OSError as error:
            self._undo_write(error)
        self._filled = max(self._filled, end)

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
        self._broken = True  # after a failed fsync nobody knows what the disk holds
        raise TepbftError(
            str(path), f"writing failed ({error.strerror})", "Check the disk, then start the node again"
        ) from error

    def _roll(self) -> None:
        """Complete the current segment and begin the next one."""
        last = self._segments[-1]
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
            write_durably(draft, [_segment_header(self._chain_id, number, chain, size)])
            os.rename(draft, path)
            sync_folder(self.folder)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        return read_segment_header(path, number, self._chain_id)

    def read(self, position: Position) -> bytes:
        """The payload at `position`, checked against its checksum and its link."""
        fd = self._reader(position.segment)
        data = os.pread(fd, _RECORD.size + position.length, position.offset)
        if len(data) == _RECORD.size + position.length:
            length, head, crc = _RECORD.unpack_from(data)
            payload = data[_RECORD.size :]
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
