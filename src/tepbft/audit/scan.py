"""First pass of an audit: every byte of the journal, and where each height's records stand."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

from tepbft.audit.report import Notebook, Progress
from tepbft.errors import PeerFault, TepbftError
from tepbft.storage.errors import StoreDamaged
from tepbft.storage.port import (
    BodyRecord,
    CommitRecord,
    ConfigRecord,
    HeaderRecord,
    Record,
    StableRecord,
)
from tepbft.storage.records import decode_configuration, decode_record
from tepbft.storage.segments import (
    HEADER_BYTES,
    Position,
    RecordDamaged,
    Segment,
    Torn,
    read_segment_header,
    scan_segment,
    segment_path,
)
from tepbft.types import Height

_REPORT_BYTES = 8 << 20
WRITING_S = 0.05
"""What a running node was writing when it was read is whole after this time."""


class HeightRecords:
    """Where the records of one height stand, all of each kind, in the order written."""

    __slots__ = ("bodies", "commits", "headers", "stables")

    def __init__(self) -> None:
        self.bodies: dict[bytes, Position] = {}
        self.commits: list[Position] = []
        self.headers: list[Position] = []
        self.stables: list[Position] = []


class JournalReader:
    """Read-only view of a journal: takes no lock, repairs nothing, reports everything."""

    def __init__(self, folder: Path, chain_id: bytes, notebook: Notebook, *, running: bool) -> None:
        self.heights: dict[Height, HeightRecords] = {}
        self.configurations: dict[int, tuple[Position, bytes]] = {}
        self.records = 0
        self.end: Position | None = None
        """Where the last readable record ends, if all before it was readable."""
        self._folder = folder
        self._chain_id = chain_id
        self._notebook = notebook
        self._running = running
        self._top_header: Height | None = None

    def where(self, position: Position) -> str:
        """For a finding: file and byte."""
        return f"{segment_path(self._folder, position.segment)} at byte {position.offset}"

    # --- the pass over everything -------------------------------------------------------------

    def scan(self, progress: Progress) -> None:
        """Check every record and index it."""
        segments = self._segments()
        total, done, reported = sum(segment.size for segment in segments), 0, 0
        before: tuple[Segment, Position | None] | None = None
        for segment in segments:
            if before is not None:
                self._check_continuity(*before, segment)
            last = segment is segments[-1]
            end: Position | None = None
            for position, payload, chain in self._records(segment, last):
                self._take(position, payload)
                end = Position(segment.number, position.offset + 12 + position.length, 0, chain)
                if done + position.offset - reported > _REPORT_BYTES:
                    reported = done + position.offset
                    progress("journal", reported, total)
            if end is None and segment.size == HEADER_BYTES:
                end = Position(segment.number, HEADER_BYTES, 0, segment.chain)
            before = (segment, end)
            done += segment.size
        self.end = before[1] if before else None
        progress("journal", total, total)

    def _segments(self) -> list[Segment]:
        names = sorted(name for name in os.listdir(self._folder) if name.endswith(".log"))
        if not names:
            self._notebook.add(self._folder, None, "the journal is gone")
        segments = []
        for name in names:
            path = self._folder / name
            if not name[:-4].isdecimal() or segment_path(self._folder, int(name[:-4])) != path:
                self._notebook.add(path, None, "it is not a segment of the journal")
                continue
            try:
                segments.append(read_segment_header(path, int(name[:-4]), self._chain_id))
            except TepbftError as error:
                self._notebook.add_error(error)
        numbers = {segment.number for segment in segments}
        for number in range(1, max(numbers, default=0)):
            if number not in numbers and not segment_path(self._folder, number).exists():
                self._notebook.add(segment_path(self._folder, number), None, "this segment is missing")
        return segments

    def _records(self, segment: Segment, last: bool) -> Iterator[tuple[Position, bytes, int]]:
        """Records of a segment; behind a damaged one reading goes on where its length allows."""
        start: Position | None = None
        looked_twice: list[Position | None] = []
        while True:
            try:
                for position, payload, chain in scan_segment(segment, start=start, last=last):
                    start = Position(segment.number, position.offset + 12 + position.length, 0, chain)
                    yield position, payload, chain
                return
            except StoreDamaged as damage:
                if self._running and last and start not in looked_twice:
                    looked_twice = [start]  # the node may have been writing just this
                    time.sleep(WRITING_S)
                    continue
                self._notebook.add_error(damage)
                if not isinstance(damage, RecordDamaged):
                    return
                start = damage.resume
            except Torn as torn:
                if not self._running:
                    self._notebook.add(
                        f"{segment.path} at byte {torn.offset}",
                        None,
                        "the last record is incomplete; a node that crashed while writing leaves this, and"
                        " repairs it when it starts",
                    )
                return
            except TepbftError as error:
                self._notebook.add_error(error)
                return

    def _check_continuity(self, segment: Segment, end: Position | None, following: Segment) -> None:
        if following.number != segment.number + 1:
            return
        if following.previous_size != segment.size:
            self._notebook.add(
                segment.path,
                None,
                f"it has {segment.size} bytes and had {following.previous_size} when it was completed",
            )
        elif end is not None and end.chain != following.previous_chain:
            self._notebook.add(
                f"{following.path} at byte 0", None, "it does not continue the segment before it"
            )

    def _take(self, position: Position, payload: bytes) -> None:
        self.records += 1
        try:
            record = decode_record(payload)
            if isinstance(record, ConfigRecord):
                number = decode_configuration(record.data).number
                self.configurations[number] = (position, record.data)
        except PeerFault as fault:
            self._notebook.add(self.where(position), None, f"it is no record ({fault.detail})")
            return
        self._index(position, record)

    def _index(self, position: Position, record: Record) -> None:
        match record:
            case BodyRecord():
                digest = record.block.digest(self._chain_id)
                if digest != record.digest:
                    self._notebook.add(
                        self.where(position),
                        record.block.height,
                        "the block does not have the digest it is filed under",
                    )
                self._at(record.block.height).bodies.setdefault(digest, position)
            case CommitRecord():
                self._at(record.certificate.height).commits.append(position)
            case HeaderRecord():
                self._at(record.header.height).headers.append(position)
            case StableRecord():
                self._at(record.certificate.height).stables.append(position)
            case _:
                pass

    def _at(self, height: Height) -> HeightRecords:
        found = self.heights.get(height)
        if found is None:
            found = self.heights[height] = HeightRecords()
        return found

    def drop_headers(self, above: Height, void: Position) -> None:
        """Forget headers of heights above the base that were recorded before `void`: a state transfer
        superseded them (see `Meta`)."""
        for known in (found for height, found in self.heights.items() if height > above):
            known.headers = [place for place in known.headers if not place.before(void)]

    def headers_reach(self, height: Height) -> bool:
        """True iff a block at or above `height` is recorded as executed."""
        if self._top_header is None:
            self._top_header = max((h for h, known in self.heights.items() if known.headers), default=-1)
        return height <= self._top_header

    # --- reading single records ---------------------------------------------------------------

    def read(self, position: Position) -> Record:
        """A record that the scan accepted. TepbftError if it changed since."""
        path = segment_path(self._folder, position.segment)
        with path.open("rb") as file:
            file.seek(position.offset)
            data = file.read(12 + position.length)
        head = crc32(data[:4], position.chain)
        if len(data) != 12 + position.length or data[4:8] != head.to_bytes(4, "little"):
            raise TepbftError(
                str(path), f"it changed at byte {position.offset} during the audit", "Audit again"
            )
        return decode_record(data[12:])

    def body(self, position: Position) -> BodyRecord:
        """The body at a position that `HeightRecords.bodies` names."""
        record = self.read(position)
        if not isinstance(record, BodyRecord):
            raise TepbftError(self.where(position), "it is no block body", "Audit again")
        return record

    def commits(self, height: Height) -> list[tuple[Position, CommitRecord]]:
        """All commit certificates of a height."""
        found = ((p, self.read(p)) for p in self._at(height).commits)
        return [(place, record) for place, record in found if isinstance(record, CommitRecord)]

    def headers(self, height: Height) -> list[tuple[Position, HeaderRecord]]:
        """All header records of a height; the newest counts."""
        found = ((p, self.read(p)) for p in self._at(height).headers)
        return [(place, record) for place, record in found if isinstance(record, HeaderRecord)]

    def stables(self, height: Height) -> list[tuple[Position, StableRecord]]:
        """All checkpoint certificates of a height."""
        found = ((p, self.read(p)) for p in self._at(height).stables)
        return [(place, record) for place, record in found if isinstance(record, StableRecord)]
