"""What stands behind the last record of a journal, and what a crash may have left there.

A segment is filled ahead with a pattern of its own, so that an append changes no metadata of the file
(ADR 0020). An append whose fdatasync did not return may have reached the disk in any of its sectors: one
that still holds the pattern tells that the append was never acknowledged. Where no sector of it does, all
of it arrived, and what does not fit its checksum was damaged later. The pattern is made of random bytes in
the segment's header, so that nobody can have it written into a record.
"""

from __future__ import annotations

import hashlib
import os
from typing import BinaryIO, Literal, TypeAlias

FILL_BYTES = 1 << 20
"""So much at a time is filled ahead."""
SECTOR_BYTES = 512
"""Disks write this much at once or not at all; those with larger sectors do so all the more."""
SEED_BYTES = 16
_SURE_BYTES = 4
"""From here on, what is not filling holds the pattern in one of four thousand million cases."""
_ZERO_BYTES = 64
_ZEROS = bytes(SECTOR_BYTES)

Verdict: TypeAlias = Literal["end", "torn", "damaged"]


class Filling:
    """The pattern of one segment; `seed` are random bytes."""

    def __init__(self, seed: bytes) -> None:
        self._unit = hashlib.sha512(b"TEPJRNL filling" + seed).digest()
        self._sector = self._unit * (SECTOR_BYTES // len(self._unit))

    def at(self, offset: int, length: int) -> bytes:
        """What a filled file holds there."""
        shift = offset % len(self._unit)
        return (self._unit * ((shift + length) // len(self._unit) + 1))[shift : shift + length]

    def write(self, fd: int, start: int, end: int) -> None:
        """Fill a file from `start` to `end`; OSError as the system gives it."""
        while start < end:
            start += os.pwrite(fd, self.at(start, min(end - start, FILL_BYTES)), start)

    def begins(self, data: bytes) -> int:
        """Where the filling begins that a whole file ends with, rounded up by less than 64 bytes."""
        unit, end = len(self._unit), len(data)
        while end > 0 and data[end - 1 - (end - 1) % unit : end] == self._unit[: (end - 1) % unit + 1]:
            end -= (end - 1) % unit + 1
        return end

    def judge(self, file: BinaryIO, offset: int, claimed: int, size: int) -> Verdict:
        """What it means that no good record of the last segment stands at `offset`, where the acknowledged
        ones end unless something was damaged: the journal's end, an append that a crash cut short, or damage.

        `claimed` is where the record at `offset` says that it ends (or `offset`), `size` where the file does.
        """
        file.seek(offset)
        data = file.read(size - offset)
        if len(data) >= _SURE_BYTES and data == self.at(offset, len(data)):
            return "end"
        first = -(-offset // SECTOR_BYTES) * SECTOR_BYTES  # what is before it shares a sector with a record
        sectors = [data[at - offset : at - offset + SECTOR_BYTES] for at in range(first, size, SECTOR_BYTES)]
        blank = [sector == self._sector[: len(sector)] for sector in sectors]
        zeros = [sector == _ZEROS[: len(sector)] for sector in sectors]
        if size - first >= _ZERO_BYTES and any(zeros) and all(map(max, blank, zeros)):
            return "torn"  # the file had grown, and its data had not reached the disk yet
        piece = data[: first - offset]
        if len(piece) >= _SURE_BYTES and piece == self.at(offset, len(piece)):
            return "torn"
        arrived = max((number + 1 for number, found in enumerate(blank) if not found), default=0)
        reaches = max(arrived, -(-(claimed - first) // SECTOR_BYTES))
        return "torn" if any(blank[:reaches]) else "damaged"
