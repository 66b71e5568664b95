"""The configuration barrier (A8.3): scenarios S-35 to S-38, invariants I-19 and I-20."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from support.byzantine import A, B, C, D, E, block_of, deliver, faults, prepare, put, spy
from support.world import WALL_MS, World
from tepbft.core.admission import config_block
from tepbft.core.block import CONFIG
from tepbft.core.configuration import decode_replace
from tepbft.core.options import NodeOptions
from tepbft.protocols.tep.messages import Checkpoint, Commit, Prepare
from tepbft.protocols.tep.messages import Stable as StableMessage
from tepbft.trusted.port import BeginConfig, Depart, Order, SignCheckpoint, Ui

OPTIONS = NodeOptions(
    max_wait_ms=0, t_request_ms=500, t_view_change_ms=500, t_max_ms=4000, t_retransmit_ms=200
)


def work(world: World, count: int, tag: str, wait: int = 20_000) -> None:
    client = world.clients[0]
    requests = client.submit(*[put(f"{tag}{number}") for number in range(count)])
    for _ in range(wait // 1000):
        if world.run(1000, client.done(requests)):
            return
        client.send([request for request in requests if client.outcome(request) is None])
    raise AssertionError((tag, world.executed(), configurations(world)))


def configurations(world: World) -> list[int]:
    return [host.node.configuration.number for host in world.alive if host.node]


def lose(world: World, number: int) -> None:
    world.crash(number)
    world.lose_component(number)
    world.start(number)


def all_in(world: World, number: int) -> bool:
    return set(configurations(world)) == {number} and all(
        host.node.replica.phase() == "active" for host in world.alive if host.node
    )


def settled(world: World) -> bool:
    return all_in(world, configurations(world)[0])


def check_barriers(world: World) -> None:
    """I-19 over every disk and everything that was ever signed."""
    for host in world.hosts:
        following = 0
        for height in range(1, 10_000):
            stored = host.store.block(height)
            if stored is None:
                break
            assert stored.certificate.cfg == stored.block.cfg == following, (host.number, height)
            following += stored.block.kind == CONFIG
    world.check_prefixes()


def test_an_operator_who_signs_again_does_not_start_the_timer_anew() -> None:
    """A-23, I-21: the silent node is the primary and nobody else wants anything. Its operator signs more
    often than the others' patience lasts; they must leave its view all the same."""
    world = World(5, options=OPTIONS)
    lose(world, A)
    for _ in range(50):
        world.readmit(A)
        world.run(OPTIONS.t_request_ms // 3)
        if all_in(world, 1):
            break
    assert all_in(world, 1), configurations(world)


def test_i19_each_height_is_decided_by_one_member_table() -> None:
    """I-19: heights up to s under the old table, above under the new one, and requests that were in
    flight above s are executed under the new one."""
    world = World(5, options=OPTIONS, block_requests=1)
    work(world, 3, "x")
    lose(world, E)
    world.readmit(E)
    work(world, 10, "y")
    assert world.run(10_000, lambda: all_in(world, 1))
    work(world, 3, "z")
    world.run(2000)
    assert world.agree()
    check_barriers(world)
    floors = {host.node.configuration.floor for host in world.alive if host.node}
    assert len(floors) == 1
    floor = floors.pop()
    for number in (A, B, C, D):
        begun = False
        for request, _ in world.hosts[number].statements:
            begun = begun or isinstance(request, BeginConfig)
            if isinstance(request, Order | SignCheckpoint):
                assert begun == (request.height > floor) or not begun
                assert not (begun and request.height <= floor)


def test_i19_nobody_begins_before_the_config_block_is_stable() -> None:
    """I-19: executed everywhere, checkpoints withheld: everybody stays in configuration 0 and votes for
    nothing above."""
    world = World(5, options=OPTIONS, block_requests=1)
    lose(world, E)
    hold = lambda s, t, m: not isinstance(m, Checkpoint | StableMessage)  # noqa: E731
    world.filters.append(hold)
    world.readmit(E)
    assert world.run(3000, lambda: max(world.executed()) >= 1)
    world.clients[0].submit(*[put(f"k{i}") for i in range(4)])
    world.run(2000)
    assert set(configurations(world)) == {0}
    assert max(world.executed()) == 1
    for number in (A, B, C, D):
        votes = [r.height for r, a in world.hosts[number].statements if isinstance(r, Order)]
        assert max(votes, default=0) <= 1
    world.filters.remove(hold)
    assert world.run(10_000, lambda: all_in(world, 1))
    check_barriers(world)


def test_s38_a_reconfiguration_while_a_view_change_runs() -> None:
    """S-38: the primary dies in the moment that a replaced component asks to be admitted."""
    world = World(5, options=OPTIONS)
    work(world, 3, "x")
    lose(world, E)
    world.crash(A)
    world.clients[0].submit(put("wakes the timers"))
    world.run(450)
    world.readmit(E)
    assert world.run(20_000, lambda: all_in(world, 1))
    work(world, 3, "y")
    world.start(A)
    work(world, 3, "z")
    world.run(3000)
    assert world.agree() and all_in(world, 1)
    check_barriers(world)


def test_s38_an_idle_cluster_with_a_dead_primary_admits_too() -> None:
    """S-38: no client request runs a timer; the waiting replacement does."""
    world = World(5, options=OPTIONS)
    work(world, 1, "x")
    world.crash(A)
    lose(world, E)
    world.readmit(E)
    assert world.run(20_000, lambda: all_in(world, 1))
    check_barriers(world)


def test_s38_two_changes_at_once() -> None:
    """S-38: two components are lost together; two CONFIG blocks, one after the other."""
    world = World(5, options=OPTIONS, block_requests=1)
    work(world, 3, "x")
    lose(world, D)
    lose(world, E)
    world.readmit(D)
    world.readmit(E)
    work(world, 6, "y")
    assert world.run(20_000, lambda: all_in(world, 2))
    world.run(2000)
    assert world.agree()
    check_barriers(world)
    changes = [
        decode_replace(stored.block.body).node
        for height in range(1, world.executed(B)[0] + 1)
        if (stored := world.hosts[B].store.block(height)) and stored.block.kind == CONFIG
    ]
    assert sorted(changes) == [D, E]


def test_s38_the_barrier_block_is_proposed_again_in_a_new_view() -> None:
    """S-38: the CONFIG block was voted for in view 0 and becomes final in view 1; the new configuration
    starts at view 0 again."""
    world = World(5, options=OPTIONS, block_requests=1)
    work(world, 2, "x")
    lose(world, E)
    world.filters.append(lambda s, t, m: not (isinstance(m, Commit) and m.cfg == 0 and m.head.view == 0))
    sent = spy(world)
    world.readmit(E)
    world.run(150)
    proposed = {m.head.digest for _, _, m in sent if isinstance(m, Prepare)}
    assert len(proposed) == 1 and max(world.executed()) == 2
    world.crash(A)
    assert world.run(20_000, lambda: all_in(world, 1))
    stored = world.hosts[B].store.block(3)
    assert stored is not None and stored.block.kind == CONFIG
    assert stored.certificate.view == 1 and stored.certificate.digest in proposed
    assert {host.node.state.view for host in world.alive if host.node} == {0}
    world.start(A)
    work(world, 3, "y")
    world.run(3000)
    assert world.agree()
    check_barriers(world)


def test_what_is_in_flight_above_the_barrier_is_void() -> None:
    """A8.3: a Byzantine primary proposes above its own CONFIG block. Whoever knows that block refuses;
    nothing above is ever executed in the old configuration."""
    world = World(5, options=OPTIONS)
    lose(world, E)
    change = world.admission(E)
    world.crash(A)
    barrier = config_block(0, 1, WALL_MS + world.now, change)
    above = block_of(world, 2, world.clients[0].make(put("x")))
    first, second = prepare(world, A, 0, barrier), prepare(world, A, 0, above)
    for to in (B, C, D, E):
        world.post(A, to, second)
        world.post(A, to, first)
    assert world.run(10_000, lambda: set(configurations(world)) == {1})
    assert world.run(10_000, lambda: all_in(world, 1))
    world.run(3000)
    work(world, 2, "y")
    check_barriers(world)
    stored = world.hosts[B].store.block(2)
    assert stored is not None and stored.certificate.digest != second.head.digest
    assert world.node(B).find_outcome(world.clients[0].id, 1, 1) is not None  # its request was not lost


def test_s37_a_host_that_loses_its_component_again_and_again_waits_ever_longer() -> None:
    """S-37: at most one replacement per gap, doubling; meanwhile the cluster works in the same view."""
    world = World(5, options=OPTIONS, min_config_gap=8, block_requests=1)
    work(world, 1, "x")
    for expected, gap in ((1, 0), (2, 8), (3, 16)):
        lose(world, E)
        before = world.node(B).state.executed
        world.readmit(E)
        world.run(3000)
        if gap:
            assert set(configurations(world)) == {expected - 1}
            assert world.node(E).replica.phase() == "silent"
            work(world, gap, f"g{gap}")
        assert world.run(10_000, lambda expected=expected: all_in(world, expected))
        stored = world.hosts[B].store.block(world.node(B).configuration.floor)
        assert stored is not None and stored.block.kind == CONFIG
        if gap:
            assert world.node(B).configuration.floor - before >= gap - 1
    assert world.node(B).state.view_changes == 0
    check_barriers(world)


def test_i20_the_old_component_counts_for_nothing_after_the_barrier() -> None:
    """I-20: its statements do not verify any more, and neither do those of a change without its operator."""
    world = World(3, options=OPTIONS)
    work(world, 1, "x")
    world.crash(C)
    old = world.hosts[C].tc
    world.lose_component(C)
    world.start(C)
    world.readmit(C)
    assert world.run(10_000, lambda: all_in(world, 1))
    work(world, 1, "y")
    world.filters.append(lambda s, t, m: False)
    cfg = world.node(A).configuration
    old.call(BeginConfig(1, cfg.digest(), cfg.floor))
    height = world.node(A).state.stable_height + 1
    ui = old.call(SignCheckpoint(height, b"x" * 32))
    assert isinstance(ui, Ui)
    deliver(world, C, A, Checkpoint(1, C, height, b"x" * 32, ui.seq, ui.signature))
    assert faults(world, A)[-1] == "bad_signature"
    counted = world.node(A).state.checkpoints.get(height, {})
    assert all(C not in voters for voters in counted.values())


def test_a_change_without_its_operator_is_not_ordered() -> None:
    """A8.2, S-7: a Byzantine primary proposes it; nobody votes, and the view changes."""
    world = World(3, options=OPTIONS)
    work(world, 1, "x")
    lose(world, C)
    change = msgspec.structs.replace(world.admission(C), evidence=b"\0" * 64)
    world.crash(A)
    proposal = prepare(world, A, 0, config_block(0, 2, WALL_MS, change))
    deliver(world, A, B, proposal)
    assert "not_admitted" in faults(world, B)
    assert not [r for r, _ in world.hosts[B].statements if isinstance(r, Order) and r.height == 2]


def test_a_crash_that_loses_installs_below_the_barrier_loses_nothing_above_it() -> None:
    """I-5, I-16, I-19: B's disk knows configuration 1, but its state is back below the barrier. It replays
    the barrier without asking its component anything of configuration 0 (where it had left a view), and
    still has the evidence for what it signed in configuration 1."""
    world = World(5, options=OPTIONS, block_requests=1)
    work(world, 2, "x")
    world.crash(A)
    work(world, 2, "y")  # a view change: B's disk holds a departure of configuration 0
    world.start(A)
    lose(world, E)
    world.readmit(E)
    assert world.run(10_000, lambda: all_in(world, 1))
    hold = lambda s, t, m: not isinstance(m, Checkpoint | StableMessage)  # noqa: E731
    world.filters.append(hold)
    work(world, 3, "z")
    world.run(100)
    node = world.node(C)
    barrier, executed = node.configuration.floor, node.state.executed
    assert node.state.stable_height == barrier and executed > barrier
    world.crash(C, lost_installs=2)
    assert world.hosts[C].store.recover().installed < barrier
    mark = len(world.hosts[C].statements)
    world.start(C)
    assert world.node(C).state.executed == executed and world.node(C).configuration.number == 1
    assert world.hosts[C].tc.identity().view == 0
    asked = [request for request, _ in world.hosts[C].statements[mark:]]
    assert not any(isinstance(request, Depart) for request in asked)
    assert all(request.height > barrier for request in asked if isinstance(request, Order | SignCheckpoint))
    assert world.node(B).state.primary == B
    world.crash(B)
    work(world, 2, "w")
    assert not world.noticed(C, "alarm")
    world.filters.remove(hold)
    world.start(B)
    assert world.run(10_000, world.agree)
    check_barriers(world)


def test_a_new_disk_under_a_component_of_a_later_configuration() -> None:
    """A8.3: the host starts from the genesis while its component is in configuration 1. It asks nothing of
    it before it has learnt of that configuration: statements would name the wrong one."""
    world = World(5, options=OPTIONS, block_requests=1)
    work(world, 2, "x")
    lose(world, E)
    world.readmit(E)
    assert world.run(10_000, lambda: all_in(world, 1))
    work(world, 2, "y")
    world.crash(C)
    world.hosts[C].store = type(world.hosts[C].store)()
    mark = len(world.hosts[C].statements)
    counted = len(faults(world, A))
    world.start(C)
    assert world.run(10_000, lambda: world.agree() and all_in(world, 1))
    world.crash(D)
    world.crash(E)
    work(world, 5, "z")
    assert "bad_signature" not in faults(world, A)[counted:]
    floor = world.node(A).configuration.floor
    asked = [request for request, _ in world.hosts[C].statements[mark:]]
    assert all(request.height > floor for request in asked if isinstance(request, Order | SignCheckpoint))
    check_barriers(world)


@pytest.mark.parametrize("seed", range(12))
def test_random_schedules_with_lost_components(seed: int) -> None:
    """S-35, S-38 at random: up to f components are lost in a bad period; everybody is admitted again."""
    n = 5 if seed % 2 else 4
    world = World(n, seed=seed, options=OPTIONS, min_config_gap=2, window=8, block_requests=2)
    draw = random.Random(seed)
    state: dict[str, Any] = {"loss": 0.0, "spread": 1}
    world.filters.append(lambda s, t, m: draw.random() >= state["loss"])
    world.delay_ms = lambda s, t, m: 1 + draw.randrange(state["spread"])
    client = world.clients[0]
    waiting = []
    lost: set[int] = set()
    for step in range(10):
        state["loss"] = draw.choice((0.0, 0.1, 0.4))
        state["spread"] = draw.choice((1, 30, 200))
        for host in world.hosts:
            if host.up and draw.random() < 0.12:
                world.crash(host.number, lost_installs=draw.randrange(3))
                if (host.number in lost or len(lost) < (n - 1) // 2) and draw.random() < 0.6:
                    lost.add(host.number)
                    world.lose_component(host.number)
            elif not host.up and draw.random() < 0.6:
                world.start(host.number)
                if host.number in lost:
                    world.readmit(host.number)
        waiting += client.submit(*[put(f"{step}.{i}") for i in range(draw.randrange(3))])
        world.run(draw.randrange(100, 600))
        world.check_prefixes()
    state.update(loss=0.0, spread=1)
    for host in world.hosts:
        if not host.up:
            world.start(host.number)
    for _ in range(60):
        for host in world.hosts:
            if host.node is not None and host.node.replica.phase() == "silent":
                world.readmit(host.number)
        client.send([request for request in waiting if client.outcome(request) is None])
        client.submit(put("more"))
        if world.run(1000, lambda: client.done(waiting)() and world.agree() and settled(world)):
            break
    else:
        phases = [host.node.replica.phase() for host in world.alive if host.node]
        raise AssertionError((world.executed(), configurations(world), phases))
    check_barriers(world)
