"""Raw results on disk: one JSON object per line, one line per point and repeat.

A line is written with one call and forced to the disk, so an interrupted run loses no more than the point
that it was at. A last line that is not whole is cut off before anything is appended.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tepbft.errors import TepbftError


class Record(Struct, kw_only=True, omit_defaults=True):
    """What became of one point."""

    experiment: str
    point: str
    series: str
    x: float | str
    repeat: int
    quick: bool
    took_s: float = 0
    result: dict[str, Any] | None = None
    """A `BenchResult`, if the run succeeded."""
    error: dict[str, str] | None = None
    """Otherwise why it did not."""

    @property
    def key(self) -> tuple[str, int, bool]:
        """What makes it the same measurement as another one of its experiment."""
        return self.point, self.repeat, self.quick


def file_of(folder: Path, experiment: str) -> Path:
    """Where the raw results of an experiment are."""
    return folder / f"{experiment}.ndjson"


def read_records(path: Path) -> list[Record]:
    """All whole records, in the order in which they were written; none if there is no file. Only the last
    line may be damaged; TepbftError if another one is."""
    return _scan(path)[0]


def _scan(path: Path) -> tuple[list[Record], int]:
    """The records, and the length of the file up to the end of the last one."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise TepbftError(str(path), f"it cannot be read ({error.strerror})", "Name another --dir.") from None
    found: list[Record] = []
    good = 0
    lines = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        last = number >= len(lines) - 1  # the last line that holds anything, or the empty rest behind it
        end = good + len(line) + 1
        if line:
            try:
                record = msgspec.json.decode(line, type=Record)
            except (msgspec.DecodeError, msgspec.ValidationError) as error:
                if last:
                    break
                raise TepbftError(
                    f"{path}, line {number}", f"it is damaged ({error})", "Remove that line; it is redone."
                ) from None
            if end > len(data):  # whole, but for its end of line: it is written again
                break
            found.append(record)
        good = min(end, len(data))
    return found, good


def append_record(path: Path, record: Record) -> None:
    """Add a line, behind the last whole one; it is on disk when this returns."""
    _, good = _scan(path)
    line = msgspec.json.encode(record) + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.ftruncate(handle, good)
            os.pwrite(handle, line, good)
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise TepbftError(
            str(path), f"it cannot be written ({error.strerror})", "Name another --dir."
        ) from None


def latest(records: list[Record]) -> dict[tuple[str, int, bool], Record]:
    """The last record of each measurement: a repetition after an error replaces it."""
    return {record.key: record for record in records}
