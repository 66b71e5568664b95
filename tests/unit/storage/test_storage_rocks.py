"""The store on disk: crashes, damage, locks, manifests, and its twin in memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import storage_samples as s
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tepbft.errors import TepbftError
from tepbft.execution.snapshot import make_chunks
from tepbft.storage import rocks
from tepbft.storage.errors import StoreDamaged
from tepbft.storage.folder import MANIFEST_FILE, is_locked, read_manifest
from tepbft.storage.journal import Journal
from tepbft.storage.memory import MemoryStore
from tepbft.storage.port import ChainStore, Record, StateWrites
from tepbft.storage.rocks import RocksStore


def _open(folder: Path, segment_bytes: int = 4096) -> RocksStore:
    return RocksStore(folder, s.CHAIN, sync=False, segment_bytes=segment_bytes)


def _fill(store: ChainStore, first: int, last: int, install: bool = True) -> None:
    for height in range(first, last + 1):
        store.append(s.height_records(height))
        if install:
            store.install([s.writes(height, key=b"%d" % height)], height, s.header(height))


def _copy(folder: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(folder, to))


def test_a_second_opener_is_refused(tmp_path: Path) -> None:
    store = _open(tmp_path / "store")
    assert is_locked(tmp_path / "store")
    with pytest.raises(TepbftError, match="another process has this store open"):
        _open(tmp_path / "store")
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\nfrom pathlib import Path\nimport storage_samples as s\n"
        "from tepbft.storage.rocks import RocksStore\nRocksStore(Path(sys.argv[1]), s.CHAIN)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "store"), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "another process has this store open" in done.stderr
    store.append([s.body(1)])
    store.close()
    assert not is_locked(tmp_path / "store")
    _open(tmp_path / "store").close()


def test_a_crash_at_any_time_keeps_what_was_appended(tmp_path: Path) -> None:
    """S-32: the folder of a live store, copied at every step, opens with everything appended."""
    store = _open(tmp_path / "store")
    written: list[Record] = []
    for height in range(1, 9):
        for record in s.height_records(height):
            store.append([record])  # type: ignore[list-item]
            written.append(record)  # type: ignore[arg-type]
        copy = _open(_copy(tmp_path / "store", tmp_path / "copy"))
        assert set(map(repr, written[-5:])) <= set(map(repr, copy.recover().records))
        copy.close()
        if height % 2 == 0:
            store.install([s.writes(height, key=b"%d" % height)], height, s.header(height))
            copy = _open(_copy(tmp_path / "store", tmp_path / "copy"))
            assert copy.recover().installed == height and copy.get(b"akey") == b"%d" % height
            assert copy.recover().records == [s.stable(height)]
            copy.close()
    store.close()


_CRASH = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import storage_samples as s
from tepbft.storage.rocks import RocksStore
store = RocksStore(Path(sys.argv[1]), s.CHAIN)
for height in range(1, 40):
    store.append(s.height_records(height))
    if height < 35:
        store.install([s.writes(height, key=b"%d" % height)], height, s.header(height))
os._exit(9)
"""


def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _CRASH, str(tmp_path / "store"), str(Path(__file__).parent)]
    assert subprocess.run(command, timeout=60).returncode == 9
    assert not is_locked(tmp_path / "store") and read_manifest(tmp_path / "store") is None
    store = _open(tmp_path / "store")
    found = store.recover()
    assert found.installed == 34 and store.get(b"akey") == b"34"
    assert list(found.records) == [r for h in range(35, 40) for r in s.height_records(h)]
    store.close()


def test_a_state_older_than_the_journal_is_caught_up_by_replay(tmp_path: Path) -> None:
    """A machine that crashes may lose installs that were not forced to disk, never records."""
    store = _open(tmp_path / "store")
    _fill(store, 1, 5)
    store.append([s.config(1), s.view("new_view", 3)])
    store.close()
    _copy(tmp_path / "store" / "state", tmp_path / "old-state")
    store = _open(tmp_path / "store")
    _fill(store, 6, 9)
    store.append([s.view("new_view", 4)])
    store.close()
    _copy(tmp_path / "old-state", tmp_path / "store" / "state")
    (tmp_path / "store" / MANIFEST_FILE).unlink()
    store = _open(tmp_path / "store")
    found = store.recover()
    assert found.installed == 5 and store.get(b"akey") == b"5"
    assert [r for r in found.records if isinstance(r, type(s.body(1)))] == [s.body(h) for h in range(6, 10)]
    assert s.config(1) in found.records and s.view("new_view", 4) in found.records
    assert s.view("new_view", 3) not in found.records and store.configurations() == [s.config(1).data]
    assert store.block(7) is not None and store.block(3) is not None
    store.close()


def test_recovery_reads_the_tail_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening and recovering cost what is above the stable height, not the whole history."""
    store = _open(tmp_path / "store")
    _fill(store, 1, 200)
    _fill(store, 201, 203, install=False)
    store.close()
    seen = []
    real = Journal.replay

    def counting(self: Journal, start: object = None) -> object:
        for item in real(self, start):  # type: ignore[arg-type]
            seen.append(item)
            yield item

    monkeypatch.setattr(Journal, "replay", counting)
    store = _open(tmp_path / "store")
    assert len(store.recover().records) == 15
    assert len(seen) == 30
    store.close()


def test_an_interrupted_state_transfer_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = _open(tmp_path / "store")
    _fill(store, 1, 3)
    taken = s.stable(10)
    assert taken.header is not None
    pairs = [(b"a%04d" % i, bytes(1000)) for i in range(700)]
    chunks = make_chunks(pairs)
    assert len(chunks) > 2

    class Crash(Exception):
        pass

    calls = []
    real = rocks.decode_chunk

    def crash_in_the_middle(chunk: bytes) -> list[tuple[bytes, bytes]]:
        calls.append(chunk)
        if len(calls) == len(chunks) + 2:
            raise Crash
        return real(chunk)

    monkeypatch.setattr(rocks, "decode_chunk", crash_in_the_middle)
    with pytest.raises(Crash):
        store.replace_state(10, taken.header, taken.certificate, chunks)
    copy = _copy(tmp_path / "store", tmp_path / "copy")
    monkeypatch.undo()
    survivor = _open(copy)
    assert survivor.recover().installed == 10 and list(survivor.scan(b"", b"\xff")) == pairs
    assert len(survivor.warnings) == 1
    survivor.close()
    store.close()


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda f: (f / "state" / "CURRENT").unlink(), "missing"),
        (lambda f: next((f / "state").glob("*.sst")).unlink(), "missing"),
        (lambda f: shutil.rmtree(f / "state"), "missing"),
        (lambda f: shutil.rmtree(f / "snapshots"), "missing"),
        (lambda f: (f / "FORMAT").unlink(), "missing"),
        (lambda f: [p.unlink() for p in (f / "journal").glob("*.log")], "gone"),
        (lambda f: (f / "FORMAT").write_text('{"format":9,"chain_id":"00"}'), "format is 9"),
        (lambda f: (f / "FORMAT").write_text("what"), "not what tepbft writes"),
        (lambda f: (f / "store.manifest").write_text("what"), "checksum"),
        (lambda f: os.truncate(next((f / "snapshots").iterdir()), 30), "bytes"),
        (lambda f: os.truncate(max((f / "journal").glob("*.log")), 80), "ends"),
    ],
)
def test_damage_is_refused_with_a_remedy(tmp_path: Path, damage: object, match: str) -> None:
    store = _open(tmp_path / "store")
    _fill(store, 1, 50)
    store.save_snapshot(10, [b"chunk"])
    store.close()
    damage(tmp_path / "store")  # type: ignore[operator]
    with pytest.raises(TepbftError, match=match) as caught:
        _open(tmp_path / "store")
    assert caught.value.remedy and not is_locked(tmp_path / "store")


def test_a_corrupt_state_without_manifest_is_refused(tmp_path: Path) -> None:
    store = _open(tmp_path / "store")
    _fill(store, 1, 3)
    store.close()
    (tmp_path / "store" / MANIFEST_FILE).unlink()
    (tmp_path / "store" / "state" / "CURRENT").unlink()
    with pytest.raises(StoreDamaged, match="RocksDB"):
        _open(tmp_path / "store")


def test_a_record_that_rocksdb_would_read_for_ever_is_refused(tmp_path: Path) -> None:
    """One flipped bit in a record's type makes RocksDB spin; it must never get to see it."""
    store = _open(tmp_path / "store")
    _fill(store, 1, 3)
    copy = _copy(tmp_path / "store", tmp_path / "copy")
    store.close()
    for pattern in ("MANIFEST-*", "*.log"):
        path = max((copy / "state").glob(pattern))
        content = path.read_bytes()
        assert content[6] == 1
        path.write_bytes(content[:6] + b"\x05" + content[7:])
        with pytest.raises(StoreDamaged, match="at byte 6: a record of type 5"):
            _open(copy)
        path.write_bytes(content)
    _open(copy).close()


def test_another_chain_is_refused(tmp_path: Path) -> None:
    _open(tmp_path / "store").close()
    with pytest.raises(TepbftError, match="it holds chain"):
        RocksStore(tmp_path / "store", s.OTHER_CHAIN)


def test_an_interrupted_creation_starts_over(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    _open(folder).close()
    (folder / "FORMAT").unlink()
    (folder / "CREATING").touch()
    (folder / MANIFEST_FILE).unlink()
    store = _open(folder)
    assert store.recover().installed == 0 and not (folder / "CREATING").exists()
    store.close()


def test_a_damaged_snapshot_chunk_is_not_served(tmp_path: Path) -> None:
    store = _open(tmp_path / "store")
    store.save_snapshot(10, [b"first chunk", b"second chunk"])
    path = next((tmp_path / "store" / "snapshots").iterdir())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert store.snapshot_chunk(10, 0) == b"first chunk"
    with pytest.raises(StoreDamaged, match="chunk 1"):
        store.snapshot_chunk(10, 1)
    store.close()


def test_close_twice_and_use_after_close(tmp_path: Path) -> None:
    store = _open(tmp_path / "store")
    store.close()
    store.close()
    with pytest.raises(TepbftError, match="closed"):
        store.get(b"a")
    with pytest.raises(TepbftError, match="closed"):
        store.append([s.body(1)])


def test_a_simulated_crash_may_lose_installs_but_no_record() -> None:
    store = MemoryStore()
    _fill(store, 1, 6)
    survivor = store.crash(lost_installs=2)
    found = survivor.recover()
    assert found.installed == 4 and survivor.get(b"akey") == b"4"
    assert [r for r in found.records if isinstance(r, type(s.body(1)))] == [s.body(5), s.body(6)]
    _replay = [s.writes(height, key=b"%d" % height) for height in (5, 6)]
    survivor.install(_replay, 6, s.header(6))
    assert survivor.get(b"akey") == b"6"


_STEPS = st.lists(
    st.sampled_from(["append", "append", "install", "reopen", "copy", "ahead", "view", "transfer", "config"]),
    max_size=25,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=_STEPS, numbers=st.randoms(use_true_random=False))
def test_the_disk_store_equals_the_memory_store(steps: list[str], numbers: object) -> None:
    """Any interleaving of appends, installs, state transfers, clean stops and crashes."""
    with tempfile.TemporaryDirectory() as scratch:
        pair = _Pair(Path(scratch), numbers)
        try:
            for step in steps:
                getattr(pair, step)()
                pair.compare()
        finally:
            pair.disk.close()


class _Pair:
    """The same calls to both stores, as a node would make them."""

    def __init__(self, scratch: Path, numbers: object) -> None:
        self._folder = scratch / "0"
        self._random = numbers
        self._appended = self._installed = self._view = self._cfg = 0
        self.memory = MemoryStore()
        self.disk = _open(self._folder, 700)

    def _both(self, *records: Record) -> None:
        self.memory.append(records)
        self.disk.append(records)

    def append(self) -> None:
        self._appended += 1
        self._both(*s.height_records(self._appended))  # type: ignore[arg-type]

    def ahead(self) -> None:
        """Evidence above what is executed, and a stable certificate without its header."""
        height = self._appended + self._random.randrange(1, 4)  # type: ignore[attr-defined]
        self._both(
            s.body(height, salt=self._view % 3), s.prepare(height), s.stable(height, with_header=False)
        )

    def install(self) -> None:
        while self._installed < self._appended and self._random.random() < 0.7:  # type: ignore[attr-defined]
            self._installed += 1
            height = self._installed
            value = None if height % 4 == 0 else b"%d" % height
            changes = StateWrites(height, {b"a%d" % (height % 3): value})
            for store in (self.memory, self.disk):
                store.install([changes], height, s.header(height))

    def transfer(self) -> None:
        height = self._appended = self._installed = self._appended + 5
        taken = s.stable(height)
        assert taken.header is not None
        for store in (self.memory, self.disk):
            store.replace_state(
                height, taken.header, taken.certificate, make_chunks([(b"ax", b"%d" % height)])
            )

    def view(self) -> None:
        self._view += 1
        slots = ("new_view", "view_change", "new_view_certificate")
        self._both(s.view(slots[self._view % 3], self._view))

    def config(self) -> None:
        self._cfg += 1
        self._both(s.config(self._cfg))

    def reopen(self) -> None:
        self.memory = self.memory.crash()
        self.disk.close()
        self.disk = _open(self._folder, 700)

    def copy(self) -> None:
        """A crash: the folder as it lies there, without a clean stop."""
        self.memory = self.memory.crash()
        target = self._folder.with_name(str(int(self._folder.name) + 1))
        shutil.copytree(self._folder, target)
        self.disk.close()
        self._folder = target
        self.disk = _open(target, 700)

    def compare(self) -> None:
        memory, disk = self.memory, self.disk
        assert memory.recover() == disk.recover()
        assert list(memory.scan(b"", b"\xff")) == list(disk.scan(b"", b"\xff"))
        for height in range(self._appended + 5):
            assert memory.block(height) == disk.block(height)
            assert memory.stable_at_or_above(height) == disk.stable_at_or_above(height)
        assert memory.configurations() == disk.configurations()
        assert memory.snapshots() == disk.snapshots()
