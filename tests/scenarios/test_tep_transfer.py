"""State transfer and healing: scenarios S-21, S-22, S-39; findings A-35, A-38; invariants I-11, I-23."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from support.byzantine import A, B, C, D, deliver, faults, put, spy
from support.world import World
from tepbft.core.block import CONFIG
from tepbft.core.options import NodeOptions
from tepbft.protocols.tep.messages import Chunk, FetchChunk, FetchFinal, FetchOffer, Final, Message, Offer
from tepbft.storage.proofs import configuration_links
from tepbft.trusted.port import BeginConfig

OPTIONS = NodeOptions(
    max_wait_ms=0, t_request_ms=500, t_view_change_ms=500, t_max_ms=4000, t_retransmit_ms=200
)


def work(world: World, count: int, tag: str, wait: int = 10_000) -> None:
    client = world.clients[0]
    for number in range(count):
        requests = client.submit(put(f"{tag}{number}", "v" * 40))
        assert world.run(wait, client.done(requests)), (tag, number, world.executed())


def deep_laggard(n: int = 4, rounds: int = 26, **parameters: Any) -> World:
    """Node n-1 misses `rounds` blocks, more than anybody keeps for it."""
    chosen: dict[str, Any] = {"window": 4, "snapshot_interval": 4, "keep_blocks": 8, **parameters}
    world = World(n, options=OPTIONS, **chosen)
    work(world, 2, "x")
    world.crash(n - 1)
    work(world, rounds, "y")
    return world


def test_s21_a_server_with_wrong_chunks_is_replaced() -> None:
    """S-21, A-38: each chunk is checked by itself; the next server does it right."""
    world = deep_laggard()
    spoiled: list[int] = []

    def poison(sender: int, to: int, message: Message) -> bool:
        if isinstance(message, Chunk) and to == D and (not spoiled or spoiled[0] == sender):
            spoiled.append(sender)
            deliver(world, sender, D, Chunk(message.height, message.index, message.data + b"!"))
            return False
        return True

    world.filters.append(poison)
    world.start(D)
    assert world.run(20_000, world.agree)
    assert spoiled and "bad_chunk" in faults(world, D)
    [transferred] = world.noticed(D, "state_transferred")
    assert transferred["server"] != spoiled[0]
    world.check_prefixes()


def test_s21_a_silent_server_is_replaced() -> None:
    """S-21: it offers, and never sends a chunk."""
    world = deep_laggard()
    first: list[int] = []

    def silent(sender: int, to: int, message: Message) -> bool:
        if isinstance(message, Offer) and not first:
            first.append(sender)
        return not (isinstance(message, Chunk) and first and sender == first[0])

    world.filters.append(silent)
    world.start(D)
    assert world.run(20_000, world.agree)
    assert world.noticed(D, "state_transferred")[0]["server"] != first[0]


@pytest.mark.parametrize("part", ["header", "certificate", "leaves", "short", "links"])
def test_s21_s22_an_offer_is_checked_to_the_end_before_it_counts(part: str) -> None:
    """S-22: wrong header, too few signers, wrong leaves, foreign links: refused; no chunk is asked for."""
    world = deep_laggard()
    change = msgspec.structs.replace
    asked: list[int] = []

    def spoil(offer: Offer) -> Offer:
        match part:
            case "header":
                return change(offer, header=change(offer.header, state_root=b"x" * 32))
            case "certificate":
                return change(offer, certificate=change(offer.certificate, cfg=3))
            case "leaves":
                return change(offer, leaves=(*offer.leaves, b"l" * 32))
            case "short":
                few = change(offer.certificate, votes=offer.certificate.votes[:1])
                return change(offer, certificate=few)
            case _:
                twice = (offer.certificate.votes[0],) * 2
                return change(offer, certificate=change(offer.certificate, votes=twice))

    def bend(sender: int, to: int, message: Message) -> bool:
        if isinstance(message, Offer) and to == D:
            deliver(world, sender, D, spoil(message))
            return False
        if isinstance(message, FetchChunk):
            asked.append(to)
        return True

    world.filters.append(bend)
    world.start(D)
    world.run(4000)
    assert asked == [] and world.executed(D)[0] < 10
    assert {"bad_offer", "bad_certificate"} & set(faults(world, D))
    world.filters.clear()
    assert world.run(20_000, world.agree)


def test_an_offer_that_nobody_asked_for_is_not_looked_at() -> None:
    """S-21: a Byzantine server that keeps offering cannot keep a laggard from an honest one."""
    world = deep_laggard()
    world.start(D)
    held = spy(world)
    world.run(3000, lambda: any(isinstance(m, Offer) for _, _, m in held))
    [offer] = [m for _, _, m in held if isinstance(m, Offer)][:1]
    state = world.node(D).state
    other = next(number for number in (A, B, C) if number != state.pulled_from)
    deliver(world, other, D, offer)
    assert state.transfer is None or state.transfer.server != other

    def always_offering(sender: int, to: int, message: Message) -> bool:
        if isinstance(message, FetchFinal | FetchOffer) and sender == D:
            deliver(world, other, D, offer)
        return not (isinstance(message, Chunk) and sender == other)

    world.filters.append(always_offering)
    assert world.run(20_000, world.agree)


def test_i11_a_last_chunk_that_comes_late_does_not_take_the_state_back() -> None:
    """I-11, S-21: the server withholds its last chunk until the laggard has executed past the snapshot by
    other means. It must be dropped: the installed state never goes back, and no peer can stop a node."""
    world = deep_laggard(rounds=28)
    world.start(D)
    kept: list[tuple[int, Chunk]] = []
    seen: list[Offer] = []

    def withhold(sender: int, to: int, message: Message) -> bool:
        if isinstance(message, Offer):
            seen.append(message)
        if isinstance(message, Chunk) and to == D:
            kept.append((sender, message))
            return False
        return True

    world.filters.append(withhold)
    assert world.run(3000, lambda: bool(kept))
    state = world.node(D).state
    assert state.transfer is not None
    server = state.transfer.server
    offered = seen[-1].header.height
    final = [world.hosts[A].store.block(height) for height in range(1, offered + 3)]
    for stored in final:
        if stored is not None and stored.block.height > state.executed:
            deliver(world, B, D, Final(stored.block, stored.certificate))
    assert world.executed(D)[0] > offered
    for _, chunk in [(s, c) for s, c in kept if s == server]:
        deliver(world, server, D, chunk)
    assert world.executed(D)[0] > offered
    world.filters.clear()
    assert world.run(10_000, world.agree)
    assert not world.noticed(D, "state_transferred")
    world.check_prefixes()


def at_a_barrier() -> tuple[World, int]:
    """Five nodes, D down; the newest snapshot of the others is that of the CONFIG block at the height
    that is returned, and nothing was executed since."""
    world = World(5, options=OPTIONS, window=4, snapshot_interval=4, keep_blocks=8, block_requests=1)
    work(world, 2, "x")
    world.crash(D)
    work(world, 25, "y")
    world.crash(4)
    world.lose_component(4)
    world.start(4)
    world.readmit(4)
    assert world.run(10_000, lambda: {world.node(k).configuration.number for k in (A, B, C, 4)} == {1})
    floor = world.node(A).configuration.floor
    assert floor == 28 and floor % 4 == 0
    stored = world.hosts[A].store.block(floor)
    assert stored is not None and stored.block.kind == CONFIG
    return world, floor


def test_a_snapshot_at_a_barrier_brings_the_next_configuration_along() -> None:
    """A8.3, S-39: the newest snapshot is that of the CONFIG block itself. Who installs it is in the
    configuration that follows, and goes on from there."""
    world, floor = at_a_barrier()
    world.start(D)
    assert world.run(10_000, lambda: world.agree() and world.node(D).configuration.number == 1)
    assert world.noticed(D, "state_transferred")[0]["height"] == floor
    work(world, 3, "z")
    world.crash(4)
    world.crash(C)
    work(world, 6, "w")  # D's votes are needed, in the new configuration
    world.check_prefixes()


@pytest.mark.parametrize("known", [False, True])
def test_a_snapshot_at_a_barrier_without_its_links_is_no_dead_end(known: bool) -> None:
    """I-23, S-22: the server keeps to itself what follows the CONFIG block. Neither does the receiver stop,
    if it knew that block already, nor stay behind in the old configuration, if it did not."""
    world, floor = at_a_barrier()
    final = world.hosts[A].store.block(floor)
    assert final is not None
    withheld: list[int] = []

    def withhold(sender: int, to: int, message: Message) -> bool:
        if isinstance(message, Offer) and to == D and message.links:
            withheld.append(sender)
            world.post(sender, D, msgspec.structs.replace(message, links=()))
            return False
        if isinstance(message, FetchChunk) and known:
            deliver(world, A, D, Final(final.block, final.certificate))
        return not (isinstance(message, Final) and to == D and not world.noticed(D, "state_transferred"))

    world.filters.append(withhold)
    world.start(D)
    assert world.run(10_000, lambda: world.agree() and world.node(D).configuration.number == 1)
    assert withheld and world.noticed(D, "state_transferred")[0]["height"] == floor
    work(world, 3, "z")
    world.crash(4)
    world.crash(C)
    work(world, 6, "w")  # D's votes are needed, in the new configuration
    world.check_prefixes()


@pytest.mark.parametrize("links", [True, False])
def test_who_was_taken_across_a_barrier_can_take_others_across(links: bool) -> None:
    """I-23, A8.3: D has the state from a snapshot and not the CONFIG block, and may be the only one whom
    E hears: what proved the change to D proves it to E, also after a restart of D."""
    world = World(7, options=OPTIONS, window=4, snapshot_interval=4, keep_blocks=8, block_requests=1)
    work(world, 2, "x")
    world.crash(3)
    world.crash(4)
    work(world, 25, "y")
    world.crash(6)
    world.lose_component(6)
    world.start(6)
    world.readmit(6)
    assert world.run(10_000, lambda: world.node(A).configuration.number == 1)
    floor = world.node(A).configuration.floor

    def cut(sender: int, to: int, message: Message) -> bool:
        if not links and isinstance(message, Offer) and to == 3 and message.links:
            world.post(sender, 3, msgspec.structs.replace(message, links=()))
            return False
        return to != 4 or sender == 3

    world.filters.append(cut)
    world.start(3)
    assert world.run(10_000, lambda: world.node(3).configuration.number == 1)
    assert world.noticed(3, "state_transferred") and world.hosts[3].store.block(floor) is None
    world.crash(3)
    world.start(3)
    world.start(4)
    assert world.run(20_000, lambda: world.node(4).configuration.number == 1 and world.agree())
    proven, [direct] = (configuration_links(world.hosts[k].store, 1) for k in (4, A))
    assert [(link.body, link.header) for link in proven] == [(direct.body, direct.header)]
    work(world, 3, "z")
    world.check_prefixes()


class Broken:
    """An application that computes something of its own."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.on = inner, True

    def execute(self, context: Any, operation: bytes) -> bytes:
        if self.on:
            context.put(b"noise", context.height.to_bytes(8, "big"))
        result: bytes = self.inner.execute(context, operation)
        return result


def test_a35_a_diverged_replica_heals_into_a_later_configuration() -> None:
    """A-35: the agreed state that it fetches lies beyond a barrier. Its component must be in the new
    configuration as well, or nothing that it signs would ever count again."""
    world = World(5, options=OPTIONS, window=4, snapshot_interval=4, keep_blocks=8, block_requests=1)
    world.crash(D)
    world.hosts[D].application = Broken(world.hosts[D].application)
    world.start(D)
    work(world, 3, "x")
    assert world.noticed(D, "diverged")
    world.crash(4)
    world.lose_component(4)
    world.start(4)
    world.readmit(4)
    assert world.run(10_000, lambda: {world.node(k).configuration.number for k in (A, B, C, 4)} == {1})
    work(world, 20, "y")
    world.hosts[D].application.on = False
    assert world.run(20_000, lambda: world.agree() and world.node(D).replica.phase() == "active")
    assert any(isinstance(r, BeginConfig) and r.cfg == 1 for r, _ in world.hosts[D].statements)
    assert world.hosts[D].tc.identity().cfg == 1
    world.crash(4)
    world.crash(C)
    work(world, 6, "w")
    assert "bad_signature" not in faults(world, A)
    world.check_prefixes()


def test_s39_f_nodes_return_under_load_after_garbage_collection() -> None:
    """S-39, I-23: both of f = 2 get a snapshot while requests go on, and every stable height."""
    world = World(5, options=OPTIONS, window=4, snapshot_interval=4, keep_blocks=8, block_requests=1)
    work(world, 2, "x")
    world.crash(3)
    world.crash(4)
    work(world, 30, "y")
    world.start(3)
    world.start(4)
    work(world, 30, "z")
    assert world.run(10_000, world.agree)
    assert world.noticed(3, "state_transferred") and world.noticed(4, "state_transferred")
    world.check_prefixes()


def test_a_snapshot_survives_a_crash_of_its_receiver() -> None:
    """A-38, I-11: crash right after the transfer, and in the middle of the next one."""
    world = deep_laggard()
    world.start(D)
    assert world.run(20_000, lambda: bool(world.noticed(D, "state_transferred")))
    world.crash(D)
    world.start(D)
    assert world.run(10_000, world.agree)
    world.crash(D)
    work(world, 26, "z")
    world.start(D)
    world.run(3000, lambda: world.node(D).state.transfer is not None)
    world.crash(D)
    world.start(D)
    assert world.run(20_000, world.agree)
    work(world, 3, "w")
    world.check_prefixes()
