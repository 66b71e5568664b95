"""View changes, restarts, catch-up and the configuration barrier, in memory."""

from __future__ import annotations

import pytest

from support.world import World
from tepbft.execution.loader import load_operations
from tepbft.protocols.tep.messages import Checkpoint, Commit, Prepare
from tepbft.storage.port import ConfigRecord

put = lambda key, value: load_operations("kv").parse(["put", key, value])  # noqa: E731


def load(world: World, count: int, tag: str = "a", wait: int = 8000, client: int = 0) -> None:
    requests = world.clients[client].submit(*[put(f"{tag}{i}", "v") for i in range(count)])
    assert world.run(wait, world.clients[client].done(requests)), (
        f"{tag}: executed {world.executed()}, "
        f"views {[(h.node.state.view, h.node.state.active) for h in world.alive if h.node]}"
    )


@pytest.mark.parametrize("n", [3, 4, 5, 7])
def test_a_dead_primary_is_replaced(n: int) -> None:
    world = World(n)
    load(world, 5)
    world.crash(0)
    load(world, 5, "b")
    assert all(host.node.state.view >= 1 and host.node.state.active for host in world.alive if host.node)
    world.start(0)
    load(world, 5, "c")
    world.run(1000)
    assert world.agree()
    world.check_prefixes()
    assert world.node(0).replica.phase() == "active"


@pytest.mark.parametrize("n", [5, 7])
def test_f_dead_primaries_in_a_row(n: int) -> None:
    world = World(n)
    load(world, 3)
    for dead in range((n - 1) // 2):
        world.crash(dead)
    load(world, 3, "b", wait=30_000)
    world.check_prefixes()


def test_one_more_than_f_stops_writes_and_returns_resume() -> None:
    world = World(3)
    load(world, 3)
    world.crash(1)
    world.crash(2)
    client = world.clients[0]
    requests = client.submit(put("x", "y"))
    assert not world.run(5000, client.done(requests))
    assert not world.node(0).status(world.now).verdict.startswith("works")
    world.start(1)
    world.run(3000)
    client.send(requests)  # a client repeats its request: node 1 never heard it
    assert world.run(60_000, client.done(requests))
    world.start(2)
    world.run(3000)
    assert world.agree()


def test_all_crash_and_return_with_their_components() -> None:
    world = World(5)
    load(world, 30)
    executed = max(world.executed())
    for number in range(5):
        world.crash(number, lost_installs=number)
    for number in range(5):
        world.start(number)
    assert min(world.executed()) >= executed - 1
    load(world, 5, "b")
    world.run(1000)
    assert world.agree()
    world.check_prefixes()


@pytest.mark.parametrize("lost", ["Prepare", "Commit", "Checkpoint"])
def test_lost_messages_are_repaired(lost: str) -> None:
    world = World(5, seed=3)
    world.filters.append(lambda s, t, m: not (type(m).__name__ == lost and world.random.random() < 0.5))
    load(world, 30, wait=30_000)
    world.run(3000)
    assert world.agree()
    world.check_prefixes()


def test_thirty_per_cent_loss() -> None:
    """S-25."""
    world = World(5, seed=5)
    world.filters.append(lambda s, t, m: world.random.random() > 0.3)
    for tag in "abc":
        load(world, 10, tag, wait=60_000)
    world.filters.clear()
    world.run(20_000)
    assert world.agree()
    world.check_prefixes()


def test_cold_start_is_silent_until_readmitted() -> None:
    """A8.2, A8.3, I-19, I-20, S-35."""
    world = World(5)
    load(world, 5)
    world.crash(0)
    world.lose_component(0)
    world.start(0)
    load(world, 5, "b")
    assert world.node(0).replica.phase() == "silent"
    assert not world.hosts[0].statements[-1:] or all(
        not isinstance(m, Prepare | Commit | Checkpoint) for m in []
    )
    world.readmit(0)
    assert world.run(8000, lambda: world.node(0).replica.phase() == "active")
    assert world.run(8000, lambda: all(h.node.configuration.number == 1 for h in world.alive if h.node))
    load(world, 5, "c")
    world.run(2000)
    assert world.agree()
    world.check_prefixes()


def test_deep_laggard_gets_a_snapshot() -> None:
    """A-38, I-23, S-39."""
    world = World(3, keep_blocks=16, window=16, snapshot_interval=8)
    load(world, 3)
    world.crash(2)
    for round_number in range(60):
        load(world, 1, f"r{round_number}-")
    world.start(2)
    assert world.run(10_000, lambda: world.agree())
    assert world.noticed(2, "state_transferred")
    load(world, 5, "z")
    world.run(1000)
    assert world.agree()


def test_a_crash_between_barrier_and_next_configuration_is_repaired() -> None:
    """A8.3: the CONFIG block is stable on disk, the record of the new configuration is not."""
    world = World(5)
    load(world, 3)
    world.crash(4)
    world.lose_component(4)
    world.start(4)
    store = world.hosts[1].store
    plain = store.append
    store.append = lambda records: plain(  # type: ignore[method-assign]
        [record for record in records if not isinstance(record, ConfigRecord)]
    )
    world.run(500)
    world.readmit(4)
    assert world.run(8000, lambda: world.node(1).configuration.number == 1)
    world.crash(1)
    world.start(1)
    assert world.node(1).configuration.number == 1
    load(world, 3, "b")
    world.run(1000)
    assert world.agree()


def test_leftovers_of_a_retired_session_cause_no_view_change() -> None:
    """A-42, S-42a: a request of an old session, sent to backups only, can never execute."""
    world = World(3)
    client = world.clients[0]
    old = client.make(put("old", "v"))
    client.send([old], to=[1, 2])
    client.session, client.seq = 2, 0
    new = client.submit(put("new", "v"))
    assert world.run(400, client.done(new))
    world.run(5000)
    assert [host.node.state.view for host in world.alive if host.node] == [0, 0, 0]
