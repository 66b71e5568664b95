"""A segment file of the journal: its header, its records, and reading them.

It starts with a header that continues its predecessor (its size and the
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

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from tepbft.errors import TepbftError
from tepbft.storage.errors import StoreDamaged
from tepbft.storage.records import MAX_RECORD_BYTES
from tepbft.storage.tail import SEED_BYTES, Filling

MAGIC = b"TEPJRNL\n"
VERSION = 2
_HEADER = struct.Struct(f"<8sI32sIIQ{SEED_BYTES}s")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size
LENGTH = struct.Struct("<I")
RECORD = struct.Struct("<III")
_POSITION = struct.Struct("<IQII")
POSITION_BYTES = _POSITION.size
_NAME = re.compile(r"(\d{8})\.log")


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


def segment_header(chain_id: bytes, number: int, chain: int, size: int) -> bytes:
    """Header of segment `number`, which continues `chain` and follows one of `size` bytes; with a pattern
    of its own."""
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
            head = file.read(min(RECORD.size, size - offset))
            if len(head) < RECORD.size:
                if last and Filling(segment.seed).judge(file, offset, offset, size) == "end":
                    return
                raise _cut(segment, offset, last)
            length, head_crc, crc = RECORD.unpack(head)
            if crc32(head[:4], chain) != head_crc or length > MAX_RECORD_BYTES:
                verdict = Filling(segment.seed).judge(file, offset, offset, size) if last else "damaged"
                if verdict == "end":
                    return
                if verdict == "torn":
                    raise Torn(offset)
                raise StoreDamaged(
                    segment.path, offset, "a record's length or its link to the one before is wrong"
                )
            behind = offset + RECORD.size + length
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
