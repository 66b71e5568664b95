"""What every ChainStore promises, asked of the one in memory and of the one on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import storage_samples as s

from tepbft.errors import ContractBroken, PeerFault
from tepbft.execution.snapshot import make_chunks
from tepbft.storage.memory import MemoryStore
from tepbft.storage.port import ChainStore, StateWrites, StoredBlock
from tepbft.storage.rocks import RocksStore

Reopen = Callable[[ChainStore], ChainStore]


@pytest.fixture(params=["memory", "disk"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[ChainStore, Reopen]]:
    """A fresh store, and how to open it again."""
    if request.param == "memory":
        yield MemoryStore(), lambda store: store.crash()  # type: ignore[attr-defined]
        return
    stores = [RocksStore(tmp_path / "store", s.CHAIN, sync=False, segment_bytes=1500)]

    def reopen(store: ChainStore) -> ChainStore:
        store.close()
        stores.append(RocksStore(tmp_path / "store", s.CHAIN, sync=False, segment_bytes=1500))
        return stores[-1]

    yield stores[0], reopen
    stores[-1].close()


def _fill(store: ChainStore, first: int, last: int) -> None:
    for height in range(first, last + 1):
        store.append(s.height_records(height))
        store.install([s.writes(height, key=b"%d" % height)], height, s.header(height))


def test_a_fresh_store_is_empty(opened: tuple[ChainStore, Reopen]) -> None:
    store, reopen = opened
    for _ in range(2):
        found = store.recover()
        assert (found.installed, list(found.records), found.base_header) == (0, [], None)
        assert store.block(1) is None and store.stable_at_or_above(0) is None
        assert store.snapshots() == [] and store.configurations() == [] and store.get(b"a") is None
        store = reopen(store)


def test_what_was_appended_is_recovered_in_order(opened: tuple[ChainStore, Reopen]) -> None:
    """I-16: evidence above the stable height survives, in the order written."""
    store, reopen = opened
    written = [s.body(1), s.prepare(1), s.body(2), s.body(2, salt=1), s.prepare(2, salt=1), s.commit(1)]
    store.append(written[:4])
    store.append([])
    store.append(written[4:])
    store = reopen(store)
    assert list(store.recover().records) == written
    assert list(store.recover().records) == written


def test_recover_returns_the_tail_and_the_singletons_only(opened: tuple[ChainStore, Reopen]) -> None:
    store, reopen = opened
    old_view, new_view, configuration = s.view("new_view", 1), s.view("new_view", 2), s.config(1)
    store.append([old_view, configuration])
    _fill(store, 1, 20)
    store.append([new_view, s.body(21)])
    for _ in range(2):
        found = store.recover()
        assert found.installed == 20 and found.base_header == s.header(20)
        assert list(found.records) == [configuration, s.stable(20), new_view, s.body(21)]
        store = reopen(store)


def test_a_stable_certificate_above_what_was_executed(opened: tuple[ChainStore, Reopen]) -> None:
    """A3.3: `stable` and `executed` are separate; both the newest certificate and the newest one
    with its header are recovered."""
    store, reopen = opened
    _fill(store, 1, 3)
    ahead = s.stable(9, with_header=False)
    store.append([s.body(4), ahead])
    store = reopen(store)
    assert list(store.recover().records) == [s.stable(3), s.body(4), ahead]
    assert store.stable_at_or_above(4) is None
    store.append([s.executed(9)])
    assert store.stable_at_or_above(4) == (ahead.certificate, s.header(9))


def test_blocks_are_found_above_and_below_the_installed_height(opened: tuple[ChainStore, Reopen]) -> None:
    store, reopen = opened
    _fill(store, 1, 12)
    store.append([s.body(13), s.body(13, salt=3), s.commit(13, salt=3), s.body(14)])
    for _ in range(2):
        for height in range(1, 13):
            expected = StoredBlock(
                s.block(height), s.commit(height).certificate, s.header(height), b"receipts %d" % height
            )
            assert store.block(height) == expected
        assert store.block(13) == StoredBlock(
            s.block(13, salt=3), s.commit(13, salt=3).certificate, None, None
        )
        assert store.block(14) is None and store.block(0) is None
        store = reopen(store)


def test_records_that_come_after_their_height_was_installed(opened: tuple[ChainStore, Reopen]) -> None:
    store, reopen = opened
    store.append([s.body(1), s.commit(1), s.stable(1, votes=False)])
    store.install([], 1, s.header(1))
    store.append([s.executed(1), s.stable(1)])
    for _ in range(2):
        found = store.block(1)
        assert found is not None and found.header == s.header(1)
        assert store.stable_at_or_above(1) == (s.stable(1).certificate, s.header(1))
        store = reopen(store)
    store.append([s.body(2), s.commit(2), s.executed(2)])
    store.install([], 2, s.header(2))
    store = reopen(store)
    assert store.stable_at_or_above(0) == (s.stable(1).certificate, s.header(1))


def test_the_next_stable_checkpoint(opened: tuple[ChainStore, Reopen]) -> None:
    store, reopen = opened
    for height in range(1, 13):
        store.append([s.body(height), s.commit(height), s.executed(height)])
        if height % 4 == 0:
            store.append([s.stable(height, with_header=False)])
        if height == 8:
            store.install([], 8, s.header(8))
    for _ in range(2):
        for height in range(13):
            found = store.stable_at_or_above(height)
            expected = max(4, -(-height // 4) * 4)
            assert found is not None and found[0].height == expected and found[1] == s.header(expected)
        assert store.stable_at_or_above(13) is None
        store = reopen(store)


def test_a_certificate_for_a_header_that_this_node_did_not_get(opened: tuple[ChainStore, Reopen]) -> None:
    """A diverged node must not serve its own header with the others' certificate."""
    store, _ = opened
    store.append([s.body(1), s.commit(1), s.executed(1, salt=9), s.stable(1, with_header=False)])
    assert store.stable_at_or_above(1) is None


def test_votes_are_kept_over_a_voteless_certificate(opened: tuple[ChainStore, Reopen]) -> None:
    store, reopen = opened
    store.append([s.stable(5, with_header=False), s.executed(5), s.stable(5, votes=False)])
    assert store.stable_at_or_above(5) == (s.stable(5).certificate, s.header(5))
    store = reopen(store)
    assert store.stable_at_or_above(5) == (s.stable(5).certificate, s.header(5))


def test_state_and_scan(opened: tuple[ChainStore, Reopen]) -> None:
    store, reopen = opened
    store.install([s.writes(1, a=b"1", b=b"2", c=b"3"), s.writes(2, b=None, a=b"4")], 2, s.header(2))
    for _ in range(2):
        assert [store.get(b"a" + key) for key in (b"a", b"b", b"c")] == [b"4", None, b"3"]
        assert list(store.scan(b"a", b"b")) == [(b"aa", b"4"), (b"ac", b"3")]
        assert list(store.scan(b"ab", b"ac")) == []
        store = reopen(store)
    assert store.recover().installed == 2


def test_install_only_moves_forward(opened: tuple[ChainStore, Reopen]) -> None:
    """I-11: in order, at most once."""
    store, _ = opened
    store.install([s.writes(3, a=b"1")], 3, s.header(3))
    with pytest.raises(ContractBroken):
        store.install([], 2, s.header(2))
    with pytest.raises(ContractBroken):
        store.install([s.writes(3, a=b"2")], 4, s.header(4))
    with pytest.raises(ContractBroken):
        store.install([s.writes(5, a=b"2"), s.writes(4, a=b"1")], 5, s.header(5))
    with pytest.raises(ContractBroken):
        store.install([], 4, s.header(5))
    assert store.get(b"aa") == b"1"


def test_configurations_in_order(opened: tuple[ChainStore, Reopen]) -> None:
    store, reopen = opened
    store.append([s.config(1)])
    store.install([], 1, s.header(1))
    store.append([s.config(2)])
    for _ in range(2):
        assert store.configurations() == [s.config(1).data, s.config(2).data]
        store = reopen(store)


def test_a_configuration_keeps_the_link_that_proved_it(opened: tuple[ChainStore, Reopen]) -> None:
    store, reopen = opened
    store.append([s.linked(1)])
    store.install([], 1, s.header(1))
    store.append([s.config(2), s.linked(3)])
    for _ in range(2):
        assert store.configurations() == [s.config(number).data for number in (1, 2, 3)]
        assert [store.link(number) for number in range(1, 5)] == [
            s.linked(1).link,
            None,
            s.linked(3).link,
            None,
        ]
        store = reopen(store)


def test_an_unknown_view_slot_is_refused(opened: tuple[ChainStore, Reopen]) -> None:
    store, _ = opened
    with pytest.raises(ContractBroken):
        store.append([s.view("anything", 1)])


def test_two_snapshots_are_kept(opened: tuple[ChainStore, Reopen]) -> None:
    store, reopen = opened
    for height in (10, 20, 30):
        store.save_snapshot(height, [b"chunk %d" % height, b"second"])
    for _ in range(2):
        assert store.snapshots() == [(20, 2), (30, 2)]
        assert store.snapshot_chunk(20, 0) == b"chunk 20"
        assert store.snapshot_chunk(20, 2) is None and store.snapshot_chunk(10, 0) is None
        store = reopen(store)


def test_state_transfer(opened: tuple[ChainStore, Reopen]) -> None:
    """A3.5: the snapshot replaces the state, becomes the base, and what this node had executed
    wrongly above its installed height does not come back."""
    store, reopen = opened
    _fill(store, 1, 3)
    store.save_snapshot(2, [b"old"])
    store.append([s.body(4), s.commit(4), s.executed(4, salt=7), s.body(12), s.executed(12, salt=7)])
    pairs = [(b"ax", b"1"), (b"cy", b"2")]
    taken = s.stable(10)
    assert taken.header is not None
    store.replace_state(10, taken.header, taken.certificate, make_chunks(pairs))
    for _ in range(2):
        assert list(store.scan(b"", b"\xff")) == pairs
        found = store.recover()
        assert found.installed == 10 and found.base_header == taken.header
        assert list(found.records) == [s.body(12), taken]
        assert store.snapshots() == [(2, 1), (10, 1)]
        old, rejected = store.block(3), store.block(4)
        assert old is not None and old.header is not None
        assert rejected is not None and rejected.header is None
        assert store.stable_at_or_above(4) == (taken.certificate, taken.header)
        store = reopen(store)
    for height in range(11, 14):
        store.append(s.height_records(height))
        store.install([s.writes(height, x=b"%d" % height)], height, s.header(height))
        store.save_snapshot(height, [b"%d" % height])
    store = reopen(store)
    assert store.get(b"ax") == b"13" and store.get(b"cy") == b"2"
    assert [height for height, _ in store.snapshots()] == [10, 12, 13]


def test_state_transfer_with_bad_chunks_changes_nothing(opened: tuple[ChainStore, Reopen]) -> None:
    store, reopen = opened
    _fill(store, 1, 2)
    taken = s.stable(10)
    assert taken.header is not None
    with pytest.raises(PeerFault):
        store.replace_state(10, taken.header, taken.certificate, [b"no chunk"])
    with pytest.raises(ContractBroken):
        store.replace_state(10, taken.header, s.stable(10, salt=1).certificate, [])
    with pytest.raises(ContractBroken):
        store.replace_state(1, s.header(1), s.stable(1).certificate, [])
    store = reopen(store)
    assert store.recover().installed == 2 and store.get(b"akey") == b"2"


def test_an_install_without_writes_still_moves_the_height(opened: tuple[ChainStore, Reopen]) -> None:
    store, reopen = opened
    store.install([StateWrites(1, {})], 1, s.header(1))
    assert reopen(store).recover().installed == 1


def test_what_is_only_written_can_be_read_and_survives_an_orderly_end(
    opened: tuple[ChainStore, Reopen],
) -> None:
    store, reopen = opened
    store.append([s.body(1), s.prepare(1)])
    store.append([s.commit(1), s.executed(1)], forced=False)
    assert store.block(1) == StoredBlock(s.block(1), s.commit(1).certificate, s.header(1), b"receipts 1")
    store.force()
    assert store.block(1) is not None
    store = reopen(store)
    assert list(store.recover().records) == [s.body(1), s.prepare(1), s.commit(1), s.executed(1)]


@pytest.mark.parametrize("lost", [0, 1, 2, 9])
def test_a_crash_takes_the_last_of_what_was_only_written(lost: int) -> None:
    """ADR 0022, for the store that simulations use."""
    store = MemoryStore()
    store.append([s.commit(1)], forced=False)
    store.append([s.body(2), s.prepare(2)])
    store.append([s.commit(2), s.executed(2)], forced=False)
    assert store.unforced == 2
    records = [s.commit(1), s.body(2), s.prepare(2), s.commit(2), s.executed(2)]
    found = store.crash(lost_records=lost)
    assert list(found.recover().records) == records[: 5 - min(lost, 2)]
    assert found.unforced == 0
