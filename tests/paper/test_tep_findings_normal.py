"""Findings A-04 to A-29 on the normal case: proposals, votes, windows, timers."""

from __future__ import annotations

import pytest

from support.byzantine import (
    A,
    B,
    C,
    block_of,
    checkpoint_certificate,
    commit,
    commit_certificate,
    deliver,
    faults,
    prepare,
    put,
    spy,
)
from support.world import WALL_MS, World
from tepbft.core.block import NULL, Block
from tepbft.core.certificates import CommitCertificate
from tepbft.core.options import NodeOptions
from tepbft.core.verification import check_commit_certificate
from tepbft.protocols.tep.messages import Body, Commit, FetchBody, Final, Message, NewViewCertificate, Prepare
from tepbft.protocols.tep.messages import Stable as StableMessage
from tepbft.trusted.port import COMMIT, AdvanceFloor, Order, Ui

IDLE = NodeOptions(max_wait_ms=0, t_request_ms=1000, t_view_change_ms=1000)


def votes_of(world: World, host: int) -> list[tuple[int, int]]:
    """(view, height) of every vote that the host's component signed."""
    return [
        (request.view, request.height)
        for request, answer in world.hosts[host].statements
        if isinstance(request, Order) and request.kind == COMMIT and isinstance(answer, Ui)
    ]


def test_a04_a_commit_names_the_body_and_a_vote_needs_it() -> None:
    """A-04, S-4: a header without its body gets no vote; with the body, the vote follows."""
    world = World(3)
    world.crash(A)
    proposal = prepare(world, A, 0, block_of(world, 1, world.clients[0].make(put("x"))))
    sent = spy(world)
    for to in (B, C):
        deliver(world, A, to, Prepare(0, proposal.head, None))
    world.run(900)
    assert votes_of(world, B) == votes_of(world, C) == []
    assert any(isinstance(m, FetchBody) for _, _, m in sent)
    assert world.executed() == [0, 0]
    assert proposal.block is not None
    deliver(world, A, B, Body(proposal.block))
    assert votes_of(world, B) == [(0, 1)]
    assert all(m.block is None for _, _, m in sent if isinstance(m, Commit))
    assert world.run(1500, lambda: world.executed() == [1, 1])


def test_a10_votes_are_grouped_by_content_not_by_signature() -> None:
    """A-10: two voters' embedded PREPAREs may bear different signatures of one statement."""
    world = World(5)
    world.crash(A)
    proposal = prepare(world, A, 0, block_of(world, 1, world.clients[0].make(put("x"))))
    first = commit(world, C, proposal)
    deliver(world, C, B, first)
    deliver(world, A, B, proposal)
    slot = world.node(B).state.slots[1]
    assert len(slot.votes) == 1
    assert sorted(slot.votes[(0, proposal.head.digest)]) == [A, B, C] or slot.certificate is not None
    assert slot.certificate is not None  # {A, B, C} is a quorum of 5


def test_a14_the_prepare_is_the_primarys_vote_and_its_commit_counts_for_nothing() -> None:
    """A-14: f silent backups do not stop anything; a COMMIT by the primary is no second vote."""
    world = World(5)
    client = world.clients[0]
    for silent in (3, 4):
        world.crash(silent)
    requests = client.submit(put("x"))
    assert world.run(500, client.done(requests))

    other = World(5)
    other.crash(A)
    proposal = prepare(other, A, 0, block_of(other, 1, other.clients[0].make(put("x"))))
    own = Commit(0, A, proposal.head, proposal.head.seq, proposal.head.signature, None)
    other.filters.append(lambda s, t, m: False)
    deliver(other, A, B, proposal)
    deliver(other, A, B, own)
    slot = other.node(B).state.slots[1]
    assert sorted(slot.votes[(0, proposal.head.digest)]) == [A, B]
    assert slot.certificate is None


@pytest.mark.parametrize("strict", [False, True])
def test_a15_execution_is_a_gate_for_executing_not_for_voting(strict: bool) -> None:
    """A-15: without block 1, block 2 is voted for at once; with `strict_sequential` only after 1."""
    world = World(3, strict_sequential=strict)
    world.crash(A)
    world.filters.append(lambda s, t, m: False)
    make = world.clients[0].make
    one = prepare(world, A, 0, block_of(world, 1, make(put("x"))))
    two = prepare(world, A, 0, block_of(world, 2, make(put("y"))))
    deliver(world, A, B, two)
    assert votes_of(world, B) == ([] if strict else [(0, 2)])
    assert world.executed(B) == [0]
    deliver(world, A, B, one)
    assert sorted(votes_of(world, B)) == [(0, 1), (0, 2)]
    assert world.executed(B) == [2]


def test_a16_the_window_is_stable_to_stable_plus_bl() -> None:
    """A-16, A-29, I-18: exactly BL heights, counted from the stable one, not from the executed one."""
    world = World(3, window=4)
    world.crash(A)
    world.filters.append(lambda s, t, m: False)
    for height in range(1, 8):
        proposal = Prepare(0, prepare_above(world, height).head, prepare_above(world, height).block)
        deliver(world, A, B, proposal)
    assert sorted(votes_of(world, B)) == [(0, 1), (0, 2), (0, 3), (0, 4)]
    state = world.node(B).state
    assert state.executed == 4 and state.stable_height == 0


def prepare_above(world: World, height: int) -> Prepare:
    """A proposal of A beyond its own window: its host lies about the floor, which the component allows."""
    if height > 4:
        world.hosts[A].tc.call(AdvanceFloor(height - 1))
    return prepare(world, A, 0, Block(0, height, NULL, 0, 0, b""))


def test_a29_a_primary_keeps_exactly_bl_blocks_in_flight() -> None:
    """A-16, A-29: with nothing becoming stable, BL proposals go out and no more."""
    world = World(3, window=4, block_requests=1, options=NodeOptions(max_wait_ms=0, in_flight_blocks=64))
    sent = spy(world)
    world.filters.append(lambda s, t, m: False)
    world.clients[0].submit(*[put(f"k{i}") for i in range(10)])
    world.run(300)
    assert sorted({m.head.height for s, _, m in sent if isinstance(m, Prepare)}) == [1, 2, 3, 4]


@pytest.mark.parametrize("lost", [Prepare, Commit])
def test_a17_a22_a_repeated_message_brings_the_lost_vote_again(lost: type) -> None:
    """A-17, A-22: duplicates are no errors; a lost vote is sent again, and it is the same statement."""
    world = World(3)
    world.crash(C)
    first = {"drop": True}

    def drop_once(sender: int, to: int, message: Message) -> bool:
        if isinstance(message, lost) and first["drop"]:
            first["drop"] = False
            return False
        return True

    sent = spy(world)
    world.filters.append(drop_once)
    client = world.clients[0]
    requests = client.submit(put("x"))
    assert world.run(5000, client.done(requests))
    assert world.node(A).state.view == 0
    assert len({m.seq for _, _, m in sent if isinstance(m, Commit) and m.head.height == 1}) == 1
    assert faults(world, A) == faults(world, B) == []


def test_a17_a_repeated_prepare_is_answered_with_the_own_vote() -> None:
    """A-22: the backup does not ignore it."""
    world = World(5)
    world.crash(A)
    proposal = prepare(world, A, 0, block_of(world, 1, world.clients[0].make(put("x"))))
    world.filters.append(lambda s, t, m: False)
    deliver(world, A, B, proposal)
    sent = spy(world)
    deliver(world, A, B, proposal)
    deliver(world, A, B, proposal)
    answers = [(to, m) for _, to, m in sent if isinstance(m, Commit)]
    assert [to for to, _ in answers] == [A]  # once per retransmission interval
    assert answers[0][1].head == proposal.head


def test_a18_each_commit_is_judged_alone() -> None:
    """A-18: a single COMMIT is valid by itself; f+1 of them is a threshold, not a validity rule."""
    world = World(5)
    world.crash(A)
    world.filters.append(lambda s, t, m: False)
    proposal = prepare(world, A, 0, block_of(world, 1, world.clients[0].make(put("x"))), body=False)
    deliver(world, C, B, commit(world, C, proposal))
    slot = world.node(B).state.slots[1]
    assert sorted(slot.votes[(0, proposal.head.digest)]) == [A, C]
    assert faults(world, B) == []
    bad = commit(world, 3, proposal)
    deliver(world, 3, B, Commit(0, 4, bad.head, bad.seq, bad.signature, None))  # 3's vote under 4's name
    assert faults(world, B) == ["bad_signature"]


def test_a19_authorship_is_not_validity() -> None:
    """A-19, S-7: a PREPARE with a right UI and a wrong body is not voted for, whoever relays it."""
    world = World(3)
    world.crash(A)
    request = world.clients[0].make(put("x"))
    forged = type(request)(request.client, request.session, request.seq, put("y"), request.auth)
    proposal = prepare(world, A, 0, block_of(world, 1, forged))
    world.filters.append(lambda s, t, m: False)
    deliver(world, A, B, proposal)
    relayed = commit(world, C, proposal)
    deliver(world, C, B, Commit(0, C, relayed.head, relayed.seq, relayed.signature, proposal.block))
    assert votes_of(world, B) == []
    assert "bad_client_signature" in faults(world, B)
    assert world.node(B).state.complaint == "invalid proposal"


def test_a19_selective_sends_reach_all() -> None:
    """A-19, S-2: a Prepare given to one backup only; the others act on its COMMIT and fetch the body."""
    world = World(5)
    world.filters.append(lambda s, t, m: not (isinstance(m, Prepare) and s == A and t != B))
    world.filters.append(lambda s, t, m: not (isinstance(m, Body) and s == A))
    world.clients[0].submit(put("x"), to=[A])
    assert world.run(900, lambda: world.executed() == [1] * 5)
    assert {host.node.state.view for host in world.alive if host.node} == {0}


def test_a20_commit_certificates_are_transferable() -> None:
    """A-20, S-22: q_c statements prove a block to one that took no part, whatever its view; anything
    less, or of another configuration, proves nothing."""
    world = World(5)
    cfg = world.genesis.configuration()
    for number in (A, B, C):
        world.crash(number)
    block = block_of(world, 1, world.clients[0].make(put("x")))
    proposal = prepare(world, A, 0, block)
    full = commit_certificate(world, proposal, [B, C])
    verifier = world.verifier
    assert check_commit_certificate(cfg, full, verifier)
    short = CommitCertificate(0, 0, 1, full.digest, full.votes[:2])
    twice = CommitCertificate(0, 0, 1, full.digest, (full.votes[0], full.votes[1], full.votes[1]))
    other = CommitCertificate(1, 0, 1, full.digest, full.votes)
    moved = CommitCertificate(0, 0, 2, full.digest, full.votes)
    view = CommitCertificate(0, 5, 1, full.digest, full.votes)
    for wrong in (short, twice, other, moved, view):
        assert not check_commit_certificate(cfg, wrong, verifier)
    deliver(world, 4, 3, Final(block, short))
    assert faults(world, 3) == ["bad_certificate"]
    deliver(world, 4, 3, Final(block, full))
    assert world.executed(3) == [1]


def test_a21_messages_of_a_later_view_and_height_are_kept() -> None:
    """A-21, S-31: the new primary's first PREPARE overtakes the certificate of its view."""
    world = World(3, options=IDLE)
    world.filters.append(
        lambda s, t, m: not (t == C and isinstance(m, NewViewCertificate) and world.now < 12_000)
    )
    client = world.clients[0]
    assert world.run(1000, client.done(client.submit(put("x"))))
    world.crash(A)
    late: list[Message] = []

    def acks_last(sender: int, to: int, message: Message) -> int:
        overtaken = to == C and type(message).__name__ in ("NvAck", "NewView")
        if to == C and isinstance(message, Prepare):
            late.append(message)
        return 60 if overtaken else 1

    world.delay_ms = acks_last
    requests = client.submit(put("y"))
    assert world.run(6000, client.done(requests))
    assert world.node(C).state.view == 1
    assert world.executed(C) == [2]
    world.check_prefixes()


def test_a21_votes_above_the_window_count_once_the_window_gets_there() -> None:
    """A-21: BL = 1; a PREPARE and a COMMIT for the height after the next arrive too early."""
    world = World(4, window=1)
    make = world.clients[0].make
    for number in (A, B):
        world.crash(number)
    world.filters.append(lambda s, t, m: False)
    one = prepare(world, A, 0, block_of(world, 1, make(put("x"))))
    cert = commit_certificate(world, one, [B, C])
    for number in (A, B):
        world.hosts[number].tc.call(AdvanceFloor(1))
    two = prepare(world, A, 0, block_of(world, 2, make(put("y"))))
    early = commit(world, B, two)
    deliver(world, A, 3, two)
    deliver(world, B, 3, early)
    assert votes_of(world, 3) == []
    assert one.block is not None
    deliver(world, A, 3, Final(one.block, cert))
    assert world.executed(3) == [1]
    header = world.node(3).state.head.digest()
    deliver(world, A, 3, StableMessage(checkpoint_certificate(world, 1, header, [A, B])))
    assert votes_of(world, 3) == [(0, 2)]
    assert world.executed(3) == [2]  # A's PREPARE, B's COMMIT and the own vote: all three of 4


def test_a23_only_execution_stops_the_request_timer() -> None:
    """A-23: the primary proposes every request, but its blocks never become final."""
    world = World(5)
    world.filters.append(lambda s, t, m: not isinstance(m, Commit) or m.head.view > 0)
    client = world.clients[0]
    requests = client.submit(put("x"))
    world.run(500)
    assert votes_of(world, B) == [(0, 1)]
    assert world.run(10_000, client.done(requests))
    assert world.node(B).state.view >= 1
    causes = [found["cause"] for found in world.noticed(B, "view_change_requested")]
    assert causes[0] == "a request waits too long"


def test_a23_an_accepted_height_has_a_deadline_of_its_own() -> None:
    """A-23: also where the request itself is unknown here (it sits above a hole)."""
    world = World(3)
    world.crash(A)
    proposal = prepare(world, A, 0, Block(0, 2, NULL, 0, 0, b""))
    for to in (B, C):
        deliver(world, A, to, proposal)
    assert world.run(10_000, lambda: min(world.executed()) >= 2)
    causes = [found["cause"] for found in world.noticed(B, "view_change_requested")]
    assert causes[0] == "an accepted block is not executed"


def test_a28_what_a_new_view_proposes_again_is_not_packed_twice() -> None:
    """A-28: B leads view 1 and had never seen the block that it must propose again; the request in it
    waits in B's own pool, too."""
    world = World(5)
    only_to_c = lambda s, t, m: t == C or not (isinstance(m, Commit | Prepare) and m.head.view == 0)  # noqa: E731
    world.filters.append(only_to_c)
    client = world.clients[0]
    requests = client.submit(put("x"))
    world.run(200)
    world.crash(A)
    world.crash(3)  # C's departure is needed
    assert votes_of(world, C) == [(0, 1)]
    assert world.run(10_000, client.done(requests))
    world.run(1000)
    assert world.node(B).state.view == 1
    assert world.node(B).state.certificate is not None
    assert world.node(B).state.certificate.top == 1
    assert [found["requests"] for found in world.noticed(C, "executed")] == [1]


def test_timestamps_delay_a_vote_and_never_make_a_block_invalid() -> None:
    """A3.1: a clock that is far ahead costs time; nobody complains about an invalid proposal."""
    world = World(3, options=NodeOptions(max_wait_ms=0, timestamp_ahead_ms=1000, t_request_ms=60_000))
    world.crash(A)
    block = block_of(world, 1, world.clients[0].make(put("x")), ts=WALL_MS + world.now + 2000)
    proposal = prepare(world, A, 0, block)
    for to in (B, C):
        deliver(world, A, to, proposal)
    world.run(500)
    assert world.executed() == [0, 0] and world.node(B).state.complaint == ""
    assert world.run(3000, lambda: world.executed() == [1, 1])
