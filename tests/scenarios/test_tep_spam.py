"""I-17, S-8, S-19, S-20, S-23: a Byzantine host with its real component and key floods a correct node.

Whatever it sends, everything that the node keeps stays below a bound that follows from
n, BL and the constants, and the cluster goes on.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from support.byzantine import (
    A,
    B,
    C,
    acknowledge,
    block_of,
    commit,
    deliver,
    faults,
    new_view_certificate,
    prepare,
    put,
    req_vc,
    view_change,
)
from support.world import World
from tepbft.core.block import NULL, Block, null_block
from tepbft.core.certificates import CheckpointCertificate, CommitCertificate, PrepareHead, Vote
from tepbft.core.configuration import ReplaceTc
from tepbft.core.options import NodeOptions
from tepbft.protocols.tep.messages import (
    Admission,
    Body,
    Checkpoint,
    Chunk,
    Commit,
    FetchBody,
    FetchChunk,
    FetchFinal,
    FetchOffer,
    Final,
    Forward,
    Message,
    NvAck,
    Offer,
    Prepare,
    ReqVc,
    Stable,
    Status,
)
from tepbft.protocols.tep.state import MAX_BODIES, MAX_HELP_KINDS, MAX_VOTE_SETS
from tepbft.protocols.tep.view_change import MAX_PENDING_VIEWS
from tepbft.trusted.port import COMMIT, PREPARE, AdvanceFloor, Order, SignCheckpoint, Ui

ROUNDS = 1500
BL = 4


def sizes(world: World, number: int) -> dict[str, int]:
    """Entries in everything that messages can fill."""
    node = world.node(number)
    s = node.state
    return {
        "slots": len(s.slots),
        "bodies": max((len(slot.bodies) for slot in s.slots.values()), default=0),
        "vote sets": max((len(slot.votes) for slot in s.slots.values()), default=0),
        "heads": max((len(slot.heads) for slot in s.slots.values()), default=0),
        "prepares": max((len(slot.prepares) for slot in s.slots.values()), default=0),
        "checkpoint heights": len(s.checkpoints),
        "checkpoint votes": max(
            (sum(len(v) for v in found.values()) for found in s.checkpoints.values()), default=0
        ),
        "wishes": len(s.requests),
        "departures": len(s.departures),
        "new views": len(s.new_views),
        "acks": len(s.acks),
        "acks per view": max((len(table) for table in s.acks.values()), default=0),
        "wanted": len(s.wanted),
        "admissions": len(s.admissions),
        "postponed": max(len(peer.future) for peer in s.peers.values()),
        "help": max(len(peer.helped_ms) for peer in s.peers.values()),
        "peers": len(s.peers),
        "pool": len(node.mempool),
        "decoded": len(node.ledger._decoded),
    }


def bounds(n: int) -> dict[str, int]:
    pending = MAX_PENDING_VIEWS + 1
    return {
        "slots": 5 * BL + 1,
        "bodies": MAX_BODIES,
        "vote sets": MAX_VOTE_SETS,
        "heads": MAX_VOTE_SETS + 1,
        "prepares": 3,
        "checkpoint heights": 2 * BL,
        "checkpoint votes": n,
        "wishes": n,
        "departures": pending,
        "new views": pending,
        "acks": pending,
        "acks per view": n,
        "wanted": 2 * BL,
        "admissions": n,
        "postponed": 2 * BL + 8,
        "help": MAX_HELP_KINDS,
        "peers": n - 1,
        "pool": 2048,
        "decoded": MAX_BODIES * 5 * BL,
    }


class Attacker:
    """Host 0: leads views 0, n, 2n, …; its own program is gone."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.draw = world, random.Random(seed)
        self.n = len(world.hosts)
        world.crash(A)
        self.kinds: list[Callable[[], Message]] = [
            self.prepare_far_view, self.prepare_far_height, self.commit, self.garbage_commit, self.checkpoint,
            self.garbage_checkpoint, self.wish, self.departure, self.acknowledgement, self.certificate,
            self.status, self.fetch_null, self.fetch_final, self.body, self.final, self.stable, self.offer,
            self.chunk, self.fetch_chunk, self.admission, self.forward, self.fetch_offer,
        ]  # fmt: skip

    def make(self) -> Message:
        return self.draw.choice(self.kinds)()

    def number(self) -> int:
        return self.draw.choice((0, 1, 2, 3, 5, 8, 20, 1000, 1 << 40, (1 << 63) - 1))

    def digest(self) -> bytes:
        return self.draw.randbytes(32)

    def order(self, kind: int, view: int, height: int, digest: bytes) -> tuple[int, bytes]:
        """Signed by the real component where it agrees, garbage otherwise."""
        ui = self.world.hosts[A].tc.call(Order(kind, view, height, digest))
        return (ui.seq, ui.signature) if isinstance(ui, Ui) else (1, self.draw.randbytes(70))

    def prepare_far_view(self) -> Message:
        return self.proposal(self.draw.choice((0, self.n, self.n * 2, self.n * 7)), self.number() % 50)

    def prepare_far_height(self) -> Message:
        self.world.hosts[A].tc.call(AdvanceFloor(self.draw.randrange(8)))
        return self.proposal(self.world.node(B).state.view, self.draw.randrange(1, 40))

    def proposal(self, view: int, height: int) -> Prepare:
        block = Block(0, height, NULL, self.draw.randrange(1 << 40), 0, b"")
        digest = block.digest(self.world.chain_id)
        seq, signature = self.order(PREPARE, view, height, digest)
        return Prepare(0, PrepareHead(view, height, digest, seq, signature), block)

    def commit(self) -> Message:
        proposal = self.proposal(self.draw.randrange(3), self.draw.randrange(1, 12))
        head = proposal.head
        seq, signature = self.order(COMMIT, head.view, head.height, head.digest)
        return Commit(0, A, head, seq, signature, None)

    def garbage_commit(self) -> Message:
        head = PrepareHead(self.number(), self.number(), self.digest(), 1, self.draw.randbytes(70))
        return Commit(self.draw.randrange(3), self.draw.randrange(64), head, 1, self.draw.randbytes(70), None)

    def checkpoint(self) -> Message:
        height, digest = self.draw.randrange(1, 40), self.digest()
        ui = self.world.hosts[A].tc.call(SignCheckpoint(height, digest))
        found = (ui.seq, ui.signature) if isinstance(ui, Ui) else (1, b"no")
        return Checkpoint(0, A, height, digest, *found)

    def garbage_checkpoint(self) -> Message:
        return Checkpoint(
            self.draw.randrange(4), self.draw.randrange(64), self.number(), self.digest(), 1, b"x" * 70
        )

    def wish(self) -> Message:
        return req_vc(self.world, A, self.number())

    def departure(self) -> Message:
        wish = ReqVc(0, self.draw.randrange(64), self.number(), b"s" * 64)
        change = view_change(self.world, A, self.next_view(), wishes=[wish, req_vc(self.world, A, 1 << 20)])
        return change

    def next_view(self) -> int:
        return self.world.hosts[A].tc.identity().view + 1

    def acknowledgement(self) -> Message:
        if self.draw.random() < 0.5:
            return acknowledge(self.world, A, self.draw.randrange(1, 10_000), self.digest())
        return NvAck(0, self.draw.randrange(64), self.number(), self.digest(), b"a" * 64)

    def certificate(self) -> Message:
        return new_view_certificate(self.world, self.draw.randrange(1, 99), [self.digest()], hosts=[A])

    def status(self) -> Message:
        want = tuple((self.number(), self.digest()) for _ in range(self.draw.randrange(8)))
        cfg = self.draw.randrange(3)
        numbers = [self.number() for _ in range(4)]
        return Status(cfg, numbers[0], self.draw.random() < 0.5, numbers[1], numbers[2], numbers[3], want)

    def fetch_null(self) -> Message:
        height = self.draw.randrange(1 << 60)
        return FetchBody(height, null_block(0, height).digest(self.world.chain_id))

    def fetch_final(self) -> Message:
        return FetchFinal(self.draw.randrange(20))

    def body(self) -> Message:
        return Body(Block(0, self.number(), NULL, self.draw.randrange(1 << 30), 0, b""))

    def final(self) -> Message:
        block = Block(0, self.draw.randrange(1, 30), NULL, 0, 0, b"")
        votes = tuple(Vote(i, 1, b"v" * 70) for i in range(self.n))
        digest = block.digest(self.world.chain_id)
        return Final(block, CommitCertificate(0, 0, block.height, digest, votes))

    def stable(self) -> Message:
        votes = tuple(Vote(i, 1, b"v" * 70) for i in range(self.n))
        return Stable(CheckpointCertificate(0, self.number(), self.digest(), votes))

    def offer(self) -> Message:
        header = self.world.node(B).state.head
        certificate = CheckpointCertificate(0, header.height + 3, self.digest(), ())
        return Offer(header, certificate, (self.digest(),), ())

    def chunk(self) -> Message:
        return Chunk(self.number(), self.draw.randrange(9), self.digest())

    def fetch_chunk(self) -> Message:
        return FetchChunk(self.number(), self.draw.randrange(9))

    def admission(self) -> Message:
        number = self.draw.randrange(64)
        member = self.world.genesis.members[number % self.n]
        key, seq = b"k" * 65, self.draw.randrange(99)
        change = ReplaceTc(number, member.tc_id, self.digest()[:16], key, seq, b"p" * 70, b"e" * 64)
        return Admission(change)

    def forward(self) -> Message:
        client = self.world.clients[1]
        good = client.make(put("spam"), seq=self.draw.randrange(1, 100_000))
        bad = type(good)(good.client, good.session, good.seq, put("other"), good.auth)
        return Forward((good, bad))

    def fetch_offer(self) -> Message:
        return FetchOffer(self.number())


def within(world: World, numbers: list[int], limits: dict[str, int]) -> None:
    for number in numbers:
        for name, size in sizes(world, number).items():
            assert size <= limits[name], (number, name, size, limits[name])


def test_i17_memory_stays_bounded_and_the_cluster_works_under_spam() -> None:
    """I-17: 1500 hostile messages of 22 kinds to every correct node, between and during requests."""
    world = World(5, window=BL)
    attacker = Attacker(world, 7)
    limits = bounds(5)
    correct = [1, 2, 3, 4]
    client = world.clients[0]
    waiting: list[Any] = []
    for number in range(ROUNDS):
        message = attacker.make()
        for to in correct:
            deliver(world, A, to, message)
        if number % 100 == 0:
            waiting += client.submit(put(f"k{number}"), to=correct)
        if number % 5 == 0:
            world.run(20)
            within(world, correct, limits)
    assert world.run(60_000, client.done(waiting))
    within(world, correct, limits)
    world.check_prefixes()
    world.run(5000)
    assert world.agree()
    assert faults(world, B)


@pytest.mark.parametrize("seed", range(16))
def test_a_byzantine_host_in_random_weather(seed: int) -> None:
    """I-1, I-17, I-21: the attacker's messages reach random subsets, the network loses and delays, correct
    hosts restart; afterwards the correct ones agree and every request is done."""
    n = (3, 4, 5)[seed % 3]
    world = World(n, seed=seed, window=BL, options=NodeOptions(t_request_ms=300, t_view_change_ms=300))
    attacker = Attacker(world, seed)
    draw = attacker.draw
    correct = list(range(1, n))
    weather = {"loss": 0.0, "spread": 1}
    world.filters.append(lambda s, t, m: draw.random() >= weather["loss"])
    world.delay_ms = lambda s, t, m: 1 + draw.randrange(weather["spread"])
    client, waiting = world.clients[0], []
    for step in range(25):
        weather = {"loss": draw.choice((0.0, 0.0, 0.2, 0.5)), "spread": draw.choice((1, 20, 200))}
        if draw.random() < 0.1:
            number = draw.choice(correct)
            world.crash(number, lost_installs=draw.randrange(3))
            world.start(number)
        waiting += client.submit(put(f"k{step}"), to=[k for k in correct if draw.random() < 0.7])
        for _ in range(20):
            message = attacker.make()
            for to in correct:
                if draw.random() < 0.5:
                    deliver(world, A, to, message)
            world.run(draw.randrange(1, 12))
        within(world, correct, bounds(n))
    weather = {"loss": 0.0, "spread": 1}
    for _ in range(60):
        client.send([request for request in waiting if client.outcome(request) is None], to=correct)
        if world.run(1000, lambda: client.done(waiting)() and world.agree()):
            break
    else:
        raise AssertionError((world.executed(), [h.node.state.view for h in world.alive if h.node]))
    world.check_prefixes()
    alarms = {found["what"] for number in correct for found in world.noticed(number, "alarm")}
    assert alarms <= {"executions differ"}  # which a Byzantine checkpoint next to a correct one looks like


def test_s8_far_heights_and_views_are_dropped_not_kept() -> None:
    """S-8: signed by the real component, and still nothing is kept beyond the next window and two views."""
    world = World(3, window=BL)
    world.crash(A)
    for view, height in ((15, 1), (15, 2 * BL + 1), (15, 1 << 60)):
        world.hosts[A].tc.call(AdvanceFloor(height - 1))
        proposal = prepare(world, A, view, Block(0, height, NULL, 0, 0, b""))
        deliver(world, A, B, proposal)
        deliver(world, A, B, Commit(0, C, proposal.head, 1, b"x", None))
        state = world.node(B).state
        assert state.slots == {} and not state.peers[A].future
    within(world, [B], bounds(3))


def test_i17_help_to_one_peer_is_remembered_within_bounds() -> None:
    """I-17: NULL blocks exist at every height, so a peer can ask for as many bodies as it likes."""
    world = World(3)
    world.filters.append(lambda s, t, m: False)
    for height in range(1, 2000):
        deliver(world, A, B, FetchBody(height, null_block(0, height).digest(world.chain_id)))
    assert len(world.node(B).state.peers[A].helped_ms) <= 512
    world.now += 10_000
    deliver(world, A, B, FetchBody(1, null_block(0, 1).digest(world.chain_id)))
    assert len(world.node(B).state.peers[A].helped_ms) <= 512


def test_s20_replayed_and_repeated_messages_change_nothing() -> None:
    """S-20: the whole traffic of a run again, in another order, from another peer."""
    world = World(4)
    recorded: list[Message] = []
    world.filters.append(lambda s, t, m: recorded.append(m) or True)  # type: ignore[func-returns-value]
    client = world.clients[0]
    assert world.run(2000, client.done(client.submit(*[put(f"k{i}") for i in range(12)])))
    world.run(500)
    head = world.node(B).state.head
    random.Random(3).shuffle(recorded)
    world.filters.append(lambda s, t, m: False)
    for message in recorded:
        deliver(world, C, B, message)
    assert world.node(B).state.head == head
    assert world.node(B).state.view == 0
    assert set(faults(world, B)) <= {"bad_signature"}
    within(world, [B], {**bounds(4), "slots": 17, "checkpoint heights": 32, "wanted": 32, "postponed": 40})


def test_s23_lying_status_costs_messages_only() -> None:
    """S-23: a peer that claims to be far ahead, and never delivers, keeps nobody from catching up."""
    world = World(4)
    client = world.clients[0]
    world.crash(3)
    assert world.run(2000, client.done(client.submit(put("x"))))
    world.start(3)
    lie = Status(0, 0, True, 1 << 40, 1 << 40, 0, ())

    def liar(sender: int, to: int, message: Message) -> bool:
        if sender == A and isinstance(message, Status):
            deliver(world, A, to, lie)
            return False
        return not (sender == A and to == 3)

    world.filters.append(liar)
    assert world.run(5000, lambda: world.executed(3) == [1])


def test_s24_commits_for_a_block_without_a_body_leave_no_trace() -> None:
    """S-24: no vote without the body, and nothing is left once the height is stable."""
    world = World(5)
    world.crash(A)
    world.crash(C)
    ghost = prepare(world, A, 0, block_of(world, 1, world.clients[0].make(put("ghost"), seq=9)), body=False)
    deliver(world, C, B, commit(world, C, ghost))
    assert not [r for r, _ in world.hosts[B].statements if isinstance(r, Order)]
    assert world.node(B).state.wanted
    client = world.clients[0]
    requests = client.submit(put("x"))
    assert world.run(30_000, client.done(requests))
    world.run(1000)
    state = world.node(B).state
    assert state.wanted == {} and all(height > state.executed for height in state.slots)
