"""A journal that is filled ahead: whatever a crash left of an append that nobody acknowledged is cut off,
and whatever happened to one that was acknowledged is told as damage."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from pathlib import Path
from random import Random

import pytest
import storage_samples as s

from tepbft.errors import TepbftError
from tepbft.storage.errors import StoreDamaged, StoreFull
from tepbft.storage.journal import Journal
from tepbft.storage.segments import HEADER_BYTES, segment_path, written_to
from tepbft.storage.tail import FILL_BYTES, SECTOR_BYTES, SEED_BYTES, Filling


def _open(folder: Path, **options: int) -> tuple[Journal, list[bytes]]:
    journal = Journal(folder, s.CHAIN, **options)
    return journal, [payload for _, payload in journal.replay()]


def _file(folder: Path, number: int = 1) -> Path:
    return segment_path(folder, number)


def _crashed(folder: Path, payloads: list[list[bytes]]) -> tuple[bytes, int]:
    """(the file, where its records end) as a killed process leaves it after these appends."""
    folder.mkdir()
    journal, _ = _open(folder)
    for append in payloads:
        journal.append(append)
    content, end = _file(folder).read_bytes(), journal.end.offset
    journal.close()
    return content, end


def _around(content: bytes, end: int) -> bytes:
    """Less filling than there was, so that a test takes less time."""
    return content[: (end // SECTOR_BYTES + 3) * SECTOR_BYTES]


def test_a_file_is_filled_while_it_is_open_and_ends_with_its_records_when_closed(tmp_path: Path) -> None:
    journal, _ = _open(tmp_path)
    journal.append([b"one"])
    size = _file(tmp_path).stat().st_size
    assert size > FILL_BYTES
    for _ in range(100):
        journal.append([b"x" * 1000])
    assert _file(tmp_path).stat().st_size == size, "an append does not change the size of the file"
    end = journal.end.offset
    journal.close()
    assert _file(tmp_path).stat().st_size == end


def test_a_completed_segment_ends_with_its_records(tmp_path: Path) -> None:
    journal, _ = _open(tmp_path, segment_bytes=2000)
    payloads = [bytes([number]) * 700 for number in range(9)]
    for payload in payloads:
        journal.append([payload])
    assert all(_file(tmp_path, number).stat().st_size < 4000 for number in (1, 2))
    content = {path: path.read_bytes() for path in tmp_path.glob("*.log")}  # as killed now
    journal.close()
    for path, data in content.items():
        path.write_bytes(data)
    journal, found = _open(tmp_path, segment_bytes=2000)
    assert found == payloads and journal.warnings == []
    journal.close()


def test_after_a_kill_filling_is_the_end_and_is_written_to(tmp_path: Path) -> None:
    content, end = _crashed(tmp_path / "a", [[b"one"], [b"two", b"three"]])
    _file(tmp_path / "a").write_bytes(content)
    journal, found = _open(tmp_path / "a")
    assert found == [b"one", b"two", b"three"] and journal.warnings == []
    assert journal.end.offset == end and _file(tmp_path / "a").stat().st_size == len(content)
    journal.append([b"four"])
    journal.close()
    assert _open(tmp_path / "a")[1] == [b"one", b"two", b"three", b"four"]


@pytest.mark.parametrize("first", [[20], [430], [455], [3], [300]])
def test_any_sectors_of_an_append_that_was_not_acknowledged_may_be_missing(
    tmp_path: Path, first: list[int]
) -> None:
    """S-32: a power failure leaves any of its sectors. What was acknowledged survives, and the rest is cut
    off, or whole."""
    rng = Random(first[0])
    kept = [[rng.randbytes(size) for size in first]]
    before, end = _crashed(tmp_path / "a", kept)
    append = [rng.randbytes(900), rng.randbytes(40), rng.randbytes(1100)]
    (tmp_path / "b").mkdir()
    _file(tmp_path / "b").write_bytes(before)
    journal, _ = _open(tmp_path / "b")
    journal.append(append)
    after, stop = _file(tmp_path / "b").read_bytes(), journal.end.offset
    journal.close()
    touched = range(end // SECTOR_BYTES, -(-stop // SECTOR_BYTES))
    piece = -end % SECTOR_BYTES
    for arrived in itertools.product((False, True), repeat=len(touched)):
        mixed = bytearray(before)
        for sector, there in zip(touched, arrived, strict=True):
            place = slice(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES)
            if there:
                mixed[place] = after[place]
        _file(tmp_path / "b").write_bytes(_around(bytes(mixed), stop))
        if 0 < piece < 4 and arrived == (False,) + (True,) * (len(touched) - 1):
            with pytest.raises(StoreDamaged):  # too small a piece to be sure of: rather that than a loss
                _open(tmp_path / "b")
            continue
        journal, found = _open(tmp_path / "b")
        assert found[:1] == kept[0]
        assert found[1:] == append[: len(found) - 1]
        assert (len(found) == 4) == all(arrived)
        assert len(journal.warnings) == (0 if all(arrived) or not any(arrived) else 1) or len(found) > 1
        journal.append([b"again"])
        journal.close()
        journal, again = _open(tmp_path / "b")
        assert again == [*found, b"again"] and journal.warnings == []
        journal.close()


def test_of_appends_that_were_only_written_a_power_failure_takes_the_last_ones(tmp_path: Path) -> None:
    """ADR 0022: any sector may be on the disk as any of these appends left it. What was forced survives,
    then comes as much of the rest as is whole, and nothing is taken for damage."""
    rng, lengths = Random(7), set()
    for trial in range(300):
        folder = tmp_path / str(trial)
        folder.mkdir()
        journal, _ = _open(folder)
        forced = [rng.randbytes(rng.randint(1, 900)) for _ in range(2)]
        journal.append(forced)
        start = journal.end.offset
        written = [rng.randbytes(rng.choice((5, 60, 400, 1300))) for _ in range(rng.randint(1, 6))]
        states = [_file(folder).read_bytes()]
        for payload in written:
            journal.append([payload], forced=False)
            states.append(_file(folder).read_bytes())
        stop = journal.end.offset
        journal.close()
        mixed = bytearray(states[0])
        for sector in range(start // SECTOR_BYTES, -(-stop // SECTOR_BYTES)):
            place = slice(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES)
            mixed[place] = rng.choice(states)[place]
        _file(folder).write_bytes(_around(bytes(mixed), stop))
        try:
            journal, found = _open(folder)
        except StoreDamaged as damage:  # a piece too small to be sure of: rather that than a loss
            assert damage.offset is not None and 0 < -damage.offset % SECTOR_BYTES < 4
            continue
        assert found == (forced + written)[: len(found)] and len(found) >= len(forced)
        lengths.add(len(found) - len(forced))
        journal.append([b"again"])
        journal.close()
        shutil.rmtree(folder)
    assert {0, 1, 2} <= lengths


def test_a_byte_that_changed_in_what_was_acknowledged_is_damage_after_a_kill_too(tmp_path: Path) -> None:
    """However close to the end: also in the very last append."""
    rng = Random(1)
    payloads = [[rng.randbytes(300)], [rng.randbytes(700), bytes(1500)], [rng.randbytes(600), b"", b"last"]]
    content, end = _crashed(tmp_path / "a", payloads)
    content = _around(content, end)
    for place in range(HEADER_BYTES, end):
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        _file(tmp_path / "a").write_bytes(changed)
        with pytest.raises(StoreDamaged) as caught:
            _open(tmp_path / "a")
        assert caught.value.offset is not None and caught.value.offset <= place


def test_a_byte_that_changed_in_the_filling_loses_nothing(tmp_path: Path) -> None:
    content, end = _crashed(tmp_path / "a", [[b"x" * 1000], [b"y" * 50]])
    content = _around(content, end)
    refused = 0
    for place in range(end, len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        _file(tmp_path / "a").write_bytes(changed)
        try:
            journal, found = _open(tmp_path / "a")
        except StoreDamaged:
            refused += 1
            continue
        assert found == [b"x" * 1000, b"y" * 50] and len(journal.warnings) == 1
        journal.close()
    assert refused <= -end % SECTOR_BYTES, "only where a record could have begun"


def test_filling_that_did_not_reach_the_disk_whole_is_cut_off(tmp_path: Path) -> None:
    content, end = _crashed(tmp_path / "a", [[b"x" * 1000]])
    stop = (end // SECTOR_BYTES + 1) * SECTOR_BYTES
    for holes in itertools.product((False, True), repeat=4):
        changed = bytearray(content[: stop + 4 * SECTOR_BYTES])
        for number, hole in enumerate(holes):
            if hole:
                place = stop + number * SECTOR_BYTES
                changed[place : place + SECTOR_BYTES] = bytes(SECTOR_BYTES)
        _file(tmp_path / "a").write_bytes(changed)
        journal, found = _open(tmp_path / "a")
        assert found == [b"x" * 1000] and len(journal.warnings) == any(holes)
        journal.close()


def test_a_record_that_holds_another_segments_pattern_is_no_filling(tmp_path: Path) -> None:
    """Nobody knows a segment's pattern before it is there, so none can have it written into a record to
    make damage look like a torn end."""
    seeds = set()
    for name in ("a", "b"):
        content, _ = _crashed(tmp_path / name, [[b"x"]])
        seeds.add(content[HEADER_BYTES - 4 - SEED_BYTES : HEADER_BYTES - 4])
    assert len(seeds) == 2
    one, other = (Filling(seed).at(0, SECTOR_BYTES) for seed in seeds)
    assert one != other
    content, end = _crashed(tmp_path / "c", [[other * 4], [b"y" * 600]])
    changed = bytearray(content)
    changed[HEADER_BYTES + 20] ^= 1
    _file(tmp_path / "c").write_bytes(_around(bytes(changed), end))
    with pytest.raises(StoreDamaged):
        _open(tmp_path / "c")


def test_a_disk_without_room_for_filling_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, room = os.pwrite, [5000]

    def write(fd: int, data: bytes, offset: int) -> int:
        if offset >= room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data[: room[0] - offset], offset)

    monkeypatch.setattr(os, "pwrite", write)
    journal, _ = _open(tmp_path)
    for number in range(4):
        journal.append([bytes([number]) * 1000])
        assert _file(tmp_path).stat().st_size == journal.end.offset
    with pytest.raises(StoreFull):
        journal.append([b"x" * 1000])
    room[0] = 1 << 30
    journal.append([b"x" * 1000])
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path, copy)
    journal.close()
    assert len(_open(copy)[1]) == 5


def test_a_disk_that_fails_while_it_is_filled_stops_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, _ = _open(tmp_path)

    def fail(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(TepbftError, match="Input/output error"):
        journal.append([b"x"])
    assert journal.failed


def test_where_records_end_is_seen_from_outside(tmp_path: Path) -> None:
    journal, _ = _open(tmp_path)
    for size in (0, 1, 50, 63, 64, 700):
        journal.append([bytes(size)])
        end = journal.end.offset
        assert end <= written_to(_file(tmp_path)) < end + 64
    journal.close()
    assert written_to(_file(tmp_path)) == end
    _file(tmp_path).write_bytes(b"short")
    assert written_to(_file(tmp_path)) == 5


def test_a_pattern_is_the_same_wherever_it_is_begun() -> None:
    filling = Filling(bytes(SEED_BYTES))
    whole = filling.at(0, 5000)
    assert len(set(whole)) > 50
    for start in (0, 1, 63, 64, 511, 777):
        assert filling.at(start, 1234) == whole[start : start + 1234]
        assert filling.at(start, 0) == b""
