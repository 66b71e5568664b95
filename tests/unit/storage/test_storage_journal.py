"""The journal: chained records, torn tails, damaged bytes, full disks."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import storage_samples as s

from tepbft.errors import ContractBroken, TepbftError
from tepbft.storage.errors import StoreDamaged, StoreFull
from tepbft.storage.journal import Journal
from tepbft.storage.segments import HEADER_BYTES, Position
from tepbft.storage.tail import Filling

PAYLOADS = [b"%d " % i * (i * 7 % 40) for i in range(60)]


def _open(folder: Path, start: Position | None = None) -> tuple[Journal, list[tuple[Position, bytes]]]:
    journal = Journal(folder, s.CHAIN, segment_bytes=1024, sync=False)
    try:
        return journal, list(journal.replay(start))
    except BaseException:
        journal.close()
        raise


def _write(folder: Path) -> list[Position]:
    journal, _ = _open(folder)
    positions = []
    for i in range(0, len(PAYLOADS), 3):
        positions += journal.append(PAYLOADS[i : i + 3])
    journal.close()
    return positions


def _last(folder: Path) -> Path:
    return sorted(folder.glob("*.log"))[-1]


def test_what_was_appended_is_read_back(tmp_path: Path) -> None:
    positions = _write(tmp_path)
    assert len(list(tmp_path.glob("*.log"))) > 2
    journal, found = _open(tmp_path)
    assert found == list(zip(positions, PAYLOADS, strict=True))
    assert [journal.read(position) for position in positions] == PAYLOADS
    assert list(journal.replay()) == found and list(journal.replay(positions[7])) == found[7:]
    assert list(journal.replay(journal.end)) == [] and journal.warnings == []
    more = journal.append([b"more"])
    journal.close()
    journal, found = _open(tmp_path, positions[50])
    assert found[-1] == (more[0], b"more") and len(found) == 11
    journal.close()


def test_append_needs_a_replayed_and_open_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path, s.CHAIN)
    with pytest.raises(ContractBroken):
        journal.append([b"x"])
    list(journal.replay())
    journal.close()
    with pytest.raises(ContractBroken):
        journal.append([b"x"])


def test_a_torn_tail_is_cut_off_wherever_the_crash_was(tmp_path: Path) -> None:
    """S-32: whatever part of the last write reached the disk, the records before it survive."""
    (tmp_path / "a").mkdir()
    _write(tmp_path / "a")
    journal, found = _open(tmp_path / "a")
    end = journal.end
    journal.append([b"the last record", b"and another"])
    journal.close()
    whole = _last(tmp_path / "a").read_bytes()
    for size in range(end.offset, len(whole)):
        copy = tmp_path / "b"
        shutil.copytree(tmp_path / "a", copy)
        _last(copy).write_bytes(whole[:size])
        journal, again = _open(copy)
        complete = size >= end.offset + 12 + 15
        assert again[: len(found)] == found and len(again) == len(found) + complete
        boundary = size in (end.offset, end.offset + 12 + 15)
        assert len(journal.warnings) == (0 if boundary else 1)
        journal.append([b"after"])
        journal.close()
        journal, again = _open(copy)
        assert again[-1][1] == b"after" and journal.warnings == []
        journal.close()
        shutil.rmtree(copy)


def test_a_tail_that_was_never_filled_is_torn(tmp_path: Path) -> None:
    """Some file systems leave zeros where a crash came before the data."""
    positions = _write(tmp_path)
    path = _last(tmp_path)
    with path.open("ab") as file:
        file.write(bytes(700 + -path.stat().st_size % 512))
    journal, found = _open(tmp_path)
    assert len(found) == len(positions) and len(journal.warnings) == 1
    journal.close()


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    """One changed byte anywhere in the journal: opening refuses, names the file and the place, and
    what is read by position is checked too."""
    (tmp_path / "a").mkdir()
    positions = _write(tmp_path / "a")
    for path in sorted((tmp_path / "a").glob("*.log")):
        original = path.read_bytes()
        for offset in range(0, len(original), 3):
            changed = bytearray(original)
            changed[offset] ^= 1 << (offset % 8)
            path.write_bytes(changed)
            with pytest.raises(TepbftError) as caught:
                _open(tmp_path / "a")
            assert str(path) in str(caught.value)
            if isinstance(caught.value, StoreDamaged) and offset >= HEADER_BYTES:
                assert caught.value.offset is not None
                assert caught.value.offset <= offset
        path.write_bytes(original)
    journal, _ = _open(tmp_path / "a")
    target = positions[5]
    path = tmp_path / "a" / f"{target.segment:08d}.log"
    changed = bytearray(path.read_bytes())
    changed[target.offset + 12] ^= 1
    path.write_bytes(changed)
    with pytest.raises(StoreDamaged, match=f"at byte {target.offset}"):
        journal.read(target)
    journal.close()


def test_dropped_repeated_and_swapped_records_are_found(tmp_path: Path) -> None:
    journal, _ = _open(tmp_path)
    journal.append([b"aaaa", b"bbbb", b"cccc"])
    journal.close()
    path = _last(tmp_path)
    data = path.read_bytes()
    head, records = data[:HEADER_BYTES], [data[i : i + 16] for i in range(HEADER_BYTES, len(data), 16)]
    for order in ([0, 2], [1, 2], [0, 0, 1, 2], [1, 0, 2]):
        path.write_bytes(head + b"".join(records[i] for i in order))
        with pytest.raises(StoreDamaged):
            _open(tmp_path)


def test_a_missing_or_shortened_segment_is_found(tmp_path: Path) -> None:
    _write(tmp_path)
    first, second = sorted(tmp_path.glob("*.log"))[:2]
    content = second.read_bytes()
    second.unlink()
    with pytest.raises(StoreDamaged, match="missing"):
        _open(tmp_path)
    second.write_bytes(content[:-20])
    with pytest.raises(StoreDamaged, match="when it was completed"):
        _open(tmp_path)
    second.write_bytes(first.read_bytes())
    with pytest.raises(StoreDamaged, match="under the name of another"):
        _open(tmp_path)


def test_another_chain_and_a_newer_format_are_refused(tmp_path: Path) -> None:
    _write(tmp_path)
    with pytest.raises(TepbftError, match="belongs to chain"):
        Journal(tmp_path, s.OTHER_CHAIN)
    path = tmp_path / "00000001.log"
    data = bytearray(path.read_bytes())
    data[8] = 3
    path.write_bytes(data)
    with pytest.raises(TepbftError, match="journal format 3"):
        Journal(tmp_path, s.CHAIN)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    journal, _ = _open(tmp_path)
    journal.append([b"before"])
    real, left = os.pwrite, [10]

    def write(fd: int, data: bytes, offset: int) -> int:
        if left[0] <= 0:
            raise OSError(number, os.strerror(number))
        written = real(fd, data[: left[0]], offset)
        left[0] -= written
        return written

    monkeypatch.setattr(os, "pwrite", write)
    size = journal.end.offset
    with pytest.raises(StoreFull) as caught:
        journal.append([b"x" * 100])
    assert "nothing is lost" in caught.value.remedy and not journal.failed
    assert _last(tmp_path).stat().st_size == size
    monkeypatch.undo()
    journal.append([b"after"])
    journal.close()
    journal, found = _open(tmp_path)
    assert [payload for _, payload in found] == [b"before", b"after"] and journal.warnings == []
    journal.close()


def test_a_failed_fsync_stops_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed fsync nobody knows what is on disk: no append may claim to be durable."""
    journal = Journal(tmp_path, s.CHAIN)
    list(journal.replay())
    journal.append([b"before"])

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(TepbftError, match="Input/output error"):
        journal.append([b"x"])
    monkeypatch.undo()
    assert journal.failed
    with pytest.raises(ContractBroken):
        journal.append([b"y"])
    journal.close()


def _count_syncs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    real = os.fdatasync

    def sync(fd: int) -> None:
        calls.append(fd)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", sync)
    return calls


def test_what_is_only_written_is_forced_with_what_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ADR 0022: one fdatasync serves all appends before it, and none is done for nothing."""
    journal = Journal(tmp_path, s.CHAIN)
    list(journal.replay())
    calls = _count_syncs(monkeypatch)
    positions = journal.append([b"a"], forced=False) + journal.append([b"b"], forced=False)
    assert not calls and [journal.read(position) for position in positions] == [b"a", b"b"]
    journal.force()
    journal.force()
    assert len(calls) == 1
    journal.append([b"c"], forced=False)
    journal.append([b"d"])
    journal.force()
    assert len(calls) == 2
    journal.close()
    with pytest.raises(ContractBroken):
        journal.force()
    journal, found = _open(tmp_path)
    assert [payload for _, payload in found] == [b"a", b"b", b"c", b"d"]
    journal.close()


def test_a_completed_segment_is_forced_whatever_was_only_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, s.CHAIN, segment_bytes=500)
    list(journal.replay())
    calls = _count_syncs(monkeypatch)
    journal.append([b"x" * 600], forced=False)
    assert not calls
    journal.append([b"y"], forced=False)
    assert len(calls) == 1 and len(list(tmp_path.glob("*.log"))) == 2
    journal.close()


def test_without_filling_every_append_is_forced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a pattern behind them, records that arrived in the wrong order would look like damage."""
    journal = Journal(tmp_path, s.CHAIN)
    list(journal.replay())
    calls = _count_syncs(monkeypatch)

    def full(self: Filling, fd: int, start: int, end: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Filling, "write", full)
    journal.append([b"a"], forced=False)
    assert len(calls) == 1
    journal.close()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("by", ["append", "force"])
def test_a_disk_that_fails_to_force_what_was_counted_on_stops_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, by: str
) -> None:
    """Even for want of room: what was acknowledged meanwhile may be lost, so this is no full disk."""
    journal = Journal(tmp_path, s.CHAIN)
    list(journal.replay())
    journal.append([b"written"], forced=False)

    def fail(fd: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(TepbftError, match="writing failed") as caught:
        journal.force() if by == "force" else journal.append([b"more"])
    assert not isinstance(caught.value, StoreFull) and journal.failed
    monkeypatch.undo()
    with pytest.raises(ContractBroken):
        journal.append([b"y"])
    journal.close()


_LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import storage_samples as s
from tepbft.storage.errors import StoreFull
from tepbft.storage.journal import Journal
journal = Journal(Path(sys.argv[1]), s.CHAIN)
list(journal.replay())
journal.append([b"before"])
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    journal.append([b"x" * 10000])
except StoreFull:
    print("full")
journal.append([b"small"])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.append([b"x" * 10000])
"""


def test_a_real_file_size_limit(tmp_path: Path) -> None:
    """The same from the operating system itself, and without a clean close."""
    command = [sys.executable, "-c", _LIMITED, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "full\n" and done.returncode == 0, done.stderr
    journal, found = _open(tmp_path)
    assert [payload for _, payload in found] == [b"before", b"small", b"x" * 10000]
    journal.close()
