"""Where a configuration begins, as a restarted node finds it in its store (I-5, I-19)."""

from __future__ import annotations

import msgspec

from tepbft.core.block import genesis_header
from tepbft.core.configuration import Configuration
from tepbft.core.links import floor_digest
from tepbft.storage.memory import MemoryStore
from unit.audit.chain_builder import ChainBuilder
from unit.storage import storage_samples as samples


def test_the_floor_of_the_first_configuration_is_the_beginning_of_the_chain() -> None:
    genesis = ChainBuilder().genesis
    expected = genesis_header(genesis.chain_id, 0).digest()
    assert floor_digest(genesis, genesis.configuration(), MemoryStore()) == expected


def test_the_floor_is_where_the_barrier_became_stable() -> None:
    builder, store = ChainBuilder(), MemoryStore()
    builder.fill(store)
    cfg = msgspec.msgpack.decode(store.configurations()[-1], type=Configuration)
    found = store.stable_at_or_above(cfg.floor)
    assert found is not None and found[0].height == cfg.floor > 0
    assert floor_digest(builder.genesis, cfg, store) == found[0].digest


def test_a_node_that_a_snapshot_took_across_a_barrier_knows_its_floor_after_a_restart() -> None:
    """It has no checkpoint of that height itself; the link proved it. With another digest it could neither
    leave the first view of the configuration nor believe those that do (V4)."""
    store, genesis = MemoryStore(), ChainBuilder().genesis
    store.append([samples.linked(2), samples.stable(25)])
    cfg = msgspec.msgpack.decode(store.configurations()[-1], type=Configuration)
    assert (cfg.number, cfg.floor) == (2, 20)
    assert floor_digest(genesis, cfg, store) == samples.header(20).digest()
