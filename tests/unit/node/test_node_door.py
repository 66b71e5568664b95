"""The node's one door: recovery, replies from the client table, status with a verdict, determinism."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from support.byzantine import A, B, C, deliver, put
from support.world import World
from tepbft.core.block import Request, encode_body
from tepbft.core.events import ClientRequests, ConnectionClosed, PeerMessage, Tick
from tepbft.core.options import NodeOptions
from tepbft.protocols.tep.messages import Commit, Forward, Message, Status
from tepbft.types import ConnectionId
from tepbft.wire import encode


def work(world: World, count: int, tag: str) -> list[Request]:
    client = world.clients[0]
    requests = client.submit(*[put(f"{tag}{i}") for i in range(count)])
    assert world.run(10_000, client.done(requests))
    return requests


def trace(seed: int) -> str:
    """Hash of everything on the wire but for client keys, which are drawn anew in every world."""
    world = World(4, seed=seed, clients=1)
    found = hashlib.sha256()

    def note(sender: int, to: int, message: Message) -> bool:
        found.update(f"{world.now} {sender} {to} {type(message).__name__}".encode())
        return True

    world.filters.append(note)
    world.delay_ms = lambda s, t, m: 1 + world.random.randrange(30)
    work(world, 12, "x")
    world.crash(A)
    work(world, 4, "y")
    world.start(A)
    world.run(2000)
    return found.hexdigest()


def test_i24_the_same_seed_gives_the_same_run() -> None:
    """I-24."""
    assert trace(3) == trace(3)
    assert trace(3) != trace(4)


def test_effects_of_a_step_belong_to_that_step() -> None:
    """Two steps never share an `Effects`; an idle tick persists and signs nothing."""
    world = World(3)
    work(world, 3, "x")
    world.run(1000)
    node = world.node(B)
    first = node.step(Tick(0), world.now)
    second = node.step(Tick(0), world.now)
    assert first is not second
    assert second.persist == [] and second.certify == [] and second.replies == []


def test_a_primary_says_when_a_block_is_due_by_time_alone() -> None:
    """Whoever runs it need not look at the clock more often than timers want (`Sealer.wake_at_ms`)."""
    world = World(3, options=NodeOptions())
    client, primary, backup = world.clients[0], world.node(A), world.node(B)
    assert primary.wake_at_ms() is None, "nothing waits"
    world.filters.append(lambda sender, to, message: to != A)
    world.event(A, ClientRequests(ConnectionId(0), [client.make(put("first"))]))
    assert world.run(500, lambda: primary.state.next_height > primary.state.executed + 1)
    now = world.now
    primary.step(ClientRequests(ConnectionId(0), [client.make(put("second"))]), now)
    assert primary.mempool.waiting == 1, "a block is under way"
    due = primary.wake_at_ms()
    assert due is not None and now < due <= now + 10
    assert backup.wake_at_ms() is None, "others seal nothing"
    primary.step(Tick(0), due - 1)
    assert primary.mempool.waiting == 1
    primary.step(Tick(0), due)
    assert primary.mempool.waiting == 0 and primary.wake_at_ms() is None


def test_messages_of_strangers_are_ignored() -> None:
    """A sender that is no member, and the own number, have no voice."""
    world = World(3)
    status = Status(0, 0, True, 9, 9, 0, ())
    before = world.node(A).status(world.now)
    for sender in (A, 3, 63):
        deliver(world, sender, A, status)
    assert world.node(A).status(world.now).peers == before.peers


def test_welcome_names_chain_view_and_primary() -> None:
    world = World(3)
    world.crash(A)
    world.clients[0].submit(put("x"))
    world.run(6000)
    found = world.node(C).welcome()
    assert (found.chain_id, found.node, found.view, found.primary) == (world.chain_id, C, 1, B)


def test_find_outcome_survives_a_restart_with_lost_installs() -> None:
    """I-11, I-12: re-executed to the same outcome, and to nothing twice."""
    world = World(3)
    requests = work(world, 5, "x")
    client = world.clients[0]
    before = [world.node(B).find_outcome(client.id, 1, r.seq) for r in requests]
    world.run(100)
    world.crash(B, lost_installs=3)
    world.start(B)
    assert [world.node(B).find_outcome(client.id, 1, r.seq) for r in requests] == before
    assert world.node(B).find_outcome(client.id, 1, 99) is None
    assert world.node(B).find_outcome(b"?" * 16, 1, 1) is None


def test_a_closed_connection_gets_no_reply() -> None:
    world = World(3)
    client = world.clients[0]
    request = client.make(put("x"))
    client.send([request])
    world.event(A, ConnectionClosed(ConnectionId(0)))
    world.run(200)
    answered = {node for found in client.answers[(1, 1)].values() for node in found}
    assert answered == {B, C}


def test_a_client_first_heard_after_its_request_was_executed_is_answered_from_then_on() -> None:
    """A3.5: its connection belongs to it as soon as it proves to be the client; nobody else's does."""
    world = World(3)
    client = world.clients[0]
    first = client.make(put("x"))
    world.event(A, ClientRequests(ConnectionId(0), [first]))
    world.run(200)
    forged = Request(first.client, first.session, first.seq, first.op, b"?" * len(first.auth))
    node = world.node(B)
    again = node.step(ClientRequests(ConnectionId(7), [first]), world.now)
    stranger = node.step(ClientRequests(ConnectionId(8), [forged]), world.now)
    assert [reply.connection for reply in again.replies + stranger.replies] == [7, 8]
    assert node._replies.knows(ConnectionId(7), client.id)
    assert not node._replies.knows(ConnectionId(8), client.id)


@pytest.mark.parametrize(
    ("down", "phase", "words"),
    [
        ((), "active", "works; any 1 nodes may fail"),
        ((2,), "active", "works; 1 of 3 nodes are not connected, 0 more may fail"),
        ((1, 2), "active", "no quorum: 1 of 3 nodes"),
    ],
)
def test_the_verdict_says_what_is_missing(down: tuple[int, ...], phase: str, words: str) -> None:
    """`status` speaks to a person: present nodes, what may still fail, what happens next."""
    world = World(3)
    work(world, 1, "x")
    for number in down:
        world.crash(number)
    world.run(5000)
    status = world.node(A).status(world.now)
    assert status.phase == phase and words in status.verdict
    assert status.executed == 1 and status.head == world.node(A).state.head.digest().hex()


def test_the_verdict_of_a_silent_node_names_its_operator() -> None:
    world = World(3)
    world.crash(C)
    world.lose_component(C)
    world.start(C)
    world.run(1000)
    status = world.node(C).status(world.now)
    assert status.phase == "silent" and not status.heals and "operator" in status.verdict
    world.crash(A)
    world.run(5000)
    assert "too few" in world.node(C).status(world.now).verdict


def test_forwarded_requests_are_checked_like_any_other() -> None:
    """A-44, I-13: a peer is no witness for a client."""
    world = World(3)
    client = world.clients[0]
    good = client.make(put("x"))
    forged = Request(good.client, good.session, good.seq, put("y"), good.auth)
    world.event(A, PeerMessage(B, Forward((forged,))))
    assert len(world.node(A).mempool) == 0
    world.event(A, PeerMessage(B, Forward((good,))))
    assert world.run(500, lambda: max(world.executed()) == 1)


def test_counters_count_notices() -> None:
    world = World(3)
    client = world.clients[0]
    good = client.make(put("x"))
    forged = Request(good.client, good.session, good.seq, put("y"), good.auth)
    world.event(A, ClientRequests(ConnectionId(0), [forged]))
    work(world, 1, "z")
    world.run(100)
    counters = world.node(A).status(world.now).counters
    assert counters["client_fault"] == 1 and counters["executed"] == 1


@pytest.mark.parametrize("options", [{"block_requests": 4}, {"block_bytes": 2048}])
def test_blocks_keep_to_their_limits(options: dict[str, Any]) -> None:
    """A-30, P8: a full pool is cut into blocks that every node accepts."""
    world = World(3, options=NodeOptions(max_wait_ms=0), **options)
    client = world.clients[0]
    requests = client.submit(*[put(f"k{i}", "v" * 100) for i in range(40)])
    assert world.run(5000, client.done(requests))
    world.run(100)
    for height in range(1, world.executed(A)[0] + 1):
        stored = world.hosts[A].store.block(height)
        assert stored is not None
        assert stored.block.count <= options.get("block_requests", 256)
        assert len(stored.block.body) <= options.get("block_bytes", 1 << 20)
    assert world.executed(A)[0] >= 3
    assert not world.noticed(B, "peer_fault")


def test_encoding_of_a_request_in_a_block_is_the_clients_own() -> None:
    """A request keeps its bytes from the client to the ledger."""
    world = World(3)
    [request] = work(world, 1, "x")
    stored = world.hosts[C].store.block(1)
    assert stored is not None and stored.block.body == encode_body([request])
    assert encode(request) in stored.block.body


def test_a_vote_for_what_is_final_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """ADR 0010: late votes are most of what arrives, and are dropped at the door, without a fault."""
    world = World(5)
    votes: list[PeerMessage] = []

    def note(sender: int, to: int, message: Message) -> bool:
        if isinstance(message, Commit) and to == B:
            votes.append(PeerMessage(sender, message))
        return True

    world.filters.append(note)
    work(world, 1, "x")
    world.run(1000)
    node = world.node(B)
    assert len(votes) >= 3 and not node.undecided()
    before = dict(node.counters)
    monkeypatch.setattr(node, "_begin", None)  # nothing behind the door is reached
    for event in votes:
        assert not node.step(event, world.now)
        forged = msgspec.structs.replace(event.message, signature=b"x")
        assert not node.step(PeerMessage(event.sender, forged), world.now)
    assert node.counters == before


def test_something_is_undecided_from_a_proposal_to_its_execution() -> None:
    """So long votes are looked at as they come."""
    world = World(5)
    client = world.clients[0]
    node = world.node(B)
    assert not node.undecided()
    world.filters.append(lambda sender, to, message: not isinstance(message, Commit))
    client.submit(put("x"))
    world.run(100)
    assert node.undecided()
    world.filters.clear()
    world.run(3000)
    assert not node.undecided() and node.state.executed == 1
