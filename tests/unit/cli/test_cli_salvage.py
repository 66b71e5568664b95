"""What an operator's recovery believes: proven states only, and only if f+1 stores agree (A8.4)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tepbft.cli.salvage import Salvage, Salvaged
from tepbft.core.block import Header
from tepbft.errors import TepbftError
from tepbft.execution.snapshot import decode_chunk
from tepbft.storage.memory import MemoryStore
from tepbft.storage.port import ChainStore, Record, StateWrites, StoredBlock
from unit.audit.chain_builder import ChainBuilder, Counter


class Everyone:
    """A store that hands everything on to several."""

    def __init__(self, stores: Sequence[MemoryStore]) -> None:
        self.stores = list(stores)

    def append(self, records: Sequence[Record], *, forced: bool = True) -> None:
        for store in self.stores:
            store.append(records)

    def save_snapshot(self, height: int, chunks: Sequence[bytes]) -> None:
        for store in self.stores:
            store.save_snapshot(height, chunks)

    def install(self, writes: Sequence[StateWrites], stable: int, header: Header) -> None:
        for store in self.stores:
            store.install(writes, stable, header)


class Falsified(MemoryStore):
    """A store whose disk says something else under one key."""

    value = b"1000000"

    def get(self, key: bytes) -> bytes | None:
        return self.value if key == b"atotal" else super().get(key)

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key, value in super().scan(start, end):
            yield key, self.value if key == b"atotal" else value


class OtherwiseFalsified(Falsified):
    """The same, with another lie."""

    value = b"2000000"


def salvage(builder: ChainBuilder, stores: Sequence[MemoryStore]) -> Salvaged:
    """A salvage from these stores, in the order of the nodes."""
    numbered: dict[int, ChainStore] = dict(enumerate(stores))
    return Salvage(builder.genesis, numbered, Counter).run()


def state_of(salvaged: Salvaged) -> dict[bytes, bytes]:
    """The pairs that are carried over."""
    return dict(pair for chunk in salvaged.chunks for pair in decode_chunk(chunk))


def test_final_blocks_above_the_checkpoint_are_executed_again() -> None:
    """Height 11 has a commit certificate and no checkpoint: it is final, and is not lost (A-20)."""
    builder, stores = ChainBuilder(), [MemoryStore() for _ in range(3)]
    builder.fill(Everyone(stores))
    found = salvage(builder, stores)
    assert (found.height, found.stable_height) == (11, 10)
    assert found.agreeing == (0, 1, 2) and not found.problems
    assert found.configuration.number == 1
    state = state_of(found)
    assert state[b"atotal"] == b"30" and b"awide000" in state


def test_the_old_configuration_is_not_carried_over() -> None:
    builder, stores = ChainBuilder(), [MemoryStore() for _ in range(3)]
    builder.fill(Everyone(stores))
    assert stores[0].get(b"s/config") is not None
    assert {key[:1] for key in state_of(salvage(builder, stores))} == {b"a", b"c"}


def test_what_one_store_alone_knows_is_not_lost() -> None:
    """A block that only one node made final counts: somebody may have been told so."""
    builder, stores = ChainBuilder(), [MemoryStore() for _ in range(3)]
    builder.fill(Everyone(stores))
    last = [builder.request(b"7")]
    builder.add(stores[1], builder.normal(*last), last, stable=False)
    found = salvage(builder, stores)
    assert found.height == 12 and found.agreeing == (0, 1, 2)
    assert state_of(found)[b"atotal"] == b"37"


def test_a_falsified_state_is_outvoted() -> None:
    builder = ChainBuilder()
    stores = [MemoryStore(), Falsified(), MemoryStore()]
    builder.fill(Everyone(stores))
    found = salvage(builder, stores)
    assert found.agreeing == (0, 2)
    assert state_of(found)[b"atotal"] == b"30"
    assert any("node1" in problem for problem in found.problems)


def test_without_f_plus_1_equal_states_nothing_is_believed() -> None:
    builder = ChainBuilder()
    stores = [MemoryStore(), Falsified(), OtherwiseFalsified()]
    builder.fill(Everyone(stores))
    with pytest.raises(TepbftError, match="no state is the same in 2"):
        salvage(builder, stores)


class Forger(MemoryStore):
    """A store that shows a final block of its own making: the certificate is of another block."""

    forged: Any = None

    def block(self, height: int) -> StoredBlock | None:
        stored = super().block(height)
        if height == 12 and self.forged is not None:
            return StoredBlock(self.forged, super().block(11).certificate, None, None)  # type: ignore[union-attr]
        return stored


def test_a_block_without_a_valid_certificate_is_ignored() -> None:
    builder = ChainBuilder()
    forger = Forger()
    stores = [MemoryStore(), forger, MemoryStore()]
    builder.fill(Everyone(stores))
    forger.forged = builder.normal(builder.request(b"999"))
    found = salvage(builder, stores)
    assert found.height == 11 and state_of(found)[b"atotal"] == b"30"


def test_a_chain_that_never_decided_anything() -> None:
    builder, stores = ChainBuilder(), [MemoryStore() for _ in range(3)]
    found = salvage(builder, stores)
    assert (found.height, found.stable_height, found.chunks) == (0, 0, [])


def test_one_store_alone_is_not_enough() -> None:
    """f+1 stores must agree, however much a single one can prove of its headers."""
    builder, store = ChainBuilder(), MemoryStore()
    builder.fill(Everyone([store]))
    with pytest.raises(TepbftError, match="no state is the same in 2"):
        salvage(builder, [store])


def test_a_proven_height_that_cannot_be_reached_stops_the_recovery() -> None:
    """Two stores of an early state must not win over the one that proves a later height."""
    builder = ChainBuilder()
    stores = [MemoryStore() for _ in range(3)]
    everyone = Everyone(stores)
    first = [builder.request(b"1")]
    builder.add(everyone, builder.normal(*first), first)

    class Mute(MemoryStore):
        """Holds the state and certificates of later heights, but has lost their blocks."""

        def block(self, height: int) -> StoredBlock | None:
            return None

    mute = Mute()
    mute.__dict__ = copy.deepcopy(stores[0].__dict__)
    for operation in (b"2", b"3"):
        requests = [builder.request(operation)]
        builder.add(mute, builder.normal(*requests), requests)
    with pytest.raises(TepbftError, match="only up to height 1"):
        salvage(builder, [stores[0], stores[1], mute])
