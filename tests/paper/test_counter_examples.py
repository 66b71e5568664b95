"""The counter-example traces CE1 to CE9 of the design: what the papers' literal rules would lose.

Nodes A, B, C are hosts 0, 1, 2; view v is led by host v mod n. A Byzantine host has its
real trusted component and may ask it anything, in any order.
"""

from __future__ import annotations

import pytest

from support.world import WALL_MS, World
from tepbft.core.block import NORMAL, Block, Request, encode_body, null_block
from tepbft.core.certificates import PrepareHead
from tepbft.errors import PeerFault
from tepbft.execution.loader import load_operations
from tepbft.protocols.tep.evidence import check_view_change
from tepbft.protocols.tep.messages import (
    Checkpoint,
    Departure,
    Final,
    Message,
    NewViewCertificate,
    Prepare,
    ReqVc,
    Stable,
    ViewChange,
    departure_digest,
    req_vc_preimage,
)
from tepbft.trusted.hbusig import HbUsig
from tepbft.trusted.port import COMMIT, PREPARE, Depart, DepartureUi, Install, Order, Refused, Ui

A, B, C, D, E = range(5)


def put(key: str, value: str = "v") -> bytes:
    return load_operations("kv").parse(["put", key, value])


def block_of(world: World, height: int, *requests: Request) -> Block:
    return Block(0, height, NORMAL, WALL_MS + world.now, len(requests), encode_body(list(requests)))


def forge_prepare(world: World, host: int, view: int, block: Block) -> Prepare:
    """What a Byzantine primary may do: have its own component sign any proposal."""
    digest = block.digest(world.chain_id)
    ui = world.hosts[host].tc.call(Order(PREPARE, view, block.height, digest))
    assert isinstance(ui, Ui), ui
    return Prepare(0, PrepareHead(view, block.height, digest, ui.seq, ui.signature), block)


def trigger(world: World, to: int) -> tuple[ReqVc, ...]:
    cfg = world.genesis.configuration()
    return tuple(
        ReqVc(0, i, to, world.hosts[i].key.sign(req_vc_preimage(world.chain_id, cfg, i, to)))
        for i in range(cfg.quorums.certificate)
    )


def digest_at(world: World, host: int, height: int) -> bytes | None:
    stored = world.hosts[host].store.block(height)
    return stored.certificate.digest if stored else None


def test_ce1_votes_signed_before_a_checkpoint_are_not_lost() -> None:
    """A-07: B signed for heights 1 and 2, then Checkpoint(1). Its evidence for 2 survives the view change
    because it is selected by height, not by "messages since my last checkpoint"."""
    world = World(3, window=4)

    def only_first_checkpoint(sender: int, to: int, message: Message) -> bool:
        if C in (sender, to):
            return False
        return not (isinstance(message, Checkpoint) and message.height > 1)

    world.filters.append(only_first_checkpoint)
    client = world.clients[0]
    x = client.submit(put("x"), to=[A, B])
    world.run(300)
    y = client.submit(put("y"), to=[A, B])
    world.run(300)
    assert world.executed(A, B) == [2, 2]
    assert world.node(A).state.stable_height == world.node(B).state.stable_height == 1
    agreed = digest_at(world, A, 2)

    world.filters.clear()
    world.crash(A)
    # C may learn block 2 from the view change alone.
    world.filters.append(lambda s, t, m: not (t == C and isinstance(m, Final | Stable)))
    seen: list[ViewChange] = []
    world.filters.append(lambda s, t, m: not (isinstance(m, ViewChange) and seen.append(m)))
    z = client.submit(put("z"), to=[B, C])
    world.run(6000)
    departures = [m for m in seen if m.sender == B]
    assert departures
    assert 2 in [head.height for head in departures[0].content.prepares]
    assert departures[0].content.checkpoint.height == 1
    world.filters.clear()
    assert world.run(20_000, lambda: client.outcome(z[0]) is not None)
    assert digest_at(world, C, 2) == agreed
    world.start(A)
    world.run(3000)
    assert world.agree()
    world.check_prefixes()
    assert x and y


def fabricated_departure(world: World, to: int) -> ViewChange:
    """B pretends that view 1 was certified and that X' was proposed in it."""
    fake = null_block(0, 1).digest(world.chain_id)
    tc = world.hosts[B].tc
    ui = tc.call(Order(PREPARE, 1, 1, fake))
    assert isinstance(ui, Ui)
    head = PrepareHead(1, 1, fake, ui.seq, ui.signature)
    floor = world.node(C).state.setting.floor_certificate()
    claimed = NewViewCertificate(0, 1, 0, floor, (), ())
    content = Departure(floor, claimed, (head,), trigger(world, to))
    left = tc.call(Depart(to, departure_digest(content)))
    assert isinstance(left, DepartureUi)
    return ViewChange(0, B, to, content, left)


def test_ce2_a_view_that_nobody_certified_is_no_evidence() -> None:
    """A-52: B fabricates view 1 and a PREPARE in it; "highest view" must not prefer it to the executed X."""
    world = World(3)
    world.filters.append(lambda s, t, m: B not in (s, t))
    client = world.clients[0]
    x = client.submit(put("x"), to=[A, C])
    assert world.run(2000, client.done(x))
    agreed = digest_at(world, A, 1)
    world.crash(B)  # B's own program is gone; its component obeys the attacker

    claim = fabricated_departure(world, 2)
    with pytest.raises(PeerFault, match="V4"):
        check_view_change(world.node(C).state.setting, claim, 2)
    bare = ViewChange(
        0, B, 2, Departure(claim.content.checkpoint, None, claim.content.prepares, claim.content.trigger),
        claim.ui,
    )  # fmt: skip
    with pytest.raises(PeerFault):
        check_view_change(world.node(C).state.setting, bare, 2)

    world.filters.clear()
    for to in (A, C):
        world.post(B, to, claim)
    y = client.submit(put("y"), to=[A, C])
    assert world.run(30_000, client.done(y))
    assert digest_at(world, C, 1) == agreed
    world.check_prefixes()


def test_ce3_no_vote_after_leaving() -> None:
    """A-06: a component that attested its departure signs nothing in lower views any more."""
    world = World(3)
    tc = world.hosts[C].tc
    floor = world.node(C).state.setting.floor_certificate()
    content = Departure(floor, None, (), trigger(world, 1))
    left = tc.call(Depart(1, departure_digest(content)))
    assert isinstance(left, DepartureUi) and left.registers == ()
    late = tc.call(Order(COMMIT, 0, 1, bytes(32)))
    assert isinstance(late, Refused) and late.code == "view"

    other = world.hosts[B].tc
    assert isinstance(other.call(Order(COMMIT, 0, 1, bytes(32))), Ui)
    left = other.call(Depart(1, departure_digest(content)))
    assert isinstance(left, DepartureUi)
    assert [(r.height, r.digest) for r in left.registers] == [(1, bytes(32))]
    hiding = ViewChange(0, B, 1, content, left)
    with pytest.raises(PeerFault, match="V8"):
        check_view_change(world.node(A).state.setting, hiding, 1)


def test_ce4_a_permanent_hole_ends_in_a_view_change() -> None:
    """A-23: the primary never proposes height 1; all above it is accepted, nothing executes. The deadline
    of accepted-but-unexecuted heights moves the view; height 1 becomes a NULL block."""
    world = World(3, window=8)
    world.crash(A)
    client = world.clients[0]
    for height in range(2, 9):
        prepare = forge_prepare(world, A, 0, block_of(world, height, client.make(put(f"k{height}"))))
        for to in (B, C):
            world.post(A, to, prepare)
    world.run(200)
    assert world.executed() == [0, 0]
    assert world.run(20_000, lambda: min(world.executed()) >= 8)
    null = null_block(0, 1).digest(world.chain_id)
    assert digest_at(world, B, 1) == digest_at(world, C, 1) == null
    assert world.node(B).state.view >= 1
    world.check_prefixes()


def test_ce5_one_new_view_statement_per_view() -> None:
    """A-57: a second, different NEW-VIEW of one view does not exist."""
    tc = World(3).hosts[B].tc
    first = tc.call(Install(1, b"1" * 32))
    assert isinstance(first, Ui)
    again = tc.call(Install(1, b"1" * 32))
    assert isinstance(again, Ui) and again.seq == first.seq
    second = tc.call(Install(1, b"2" * 32))
    assert isinstance(second, Refused) and second.code == "new_view"


def test_ce6_pipelined_requests_survive_reordering() -> None:
    """A-39: seq 2 arrives everywhere, and executes, before seq 1; seq 1 still executes."""
    world = World(3)
    client = world.clients[0]
    first, second = client.make(put("one")), client.make(put("two"))
    client.send([second])
    assert world.run(2000, client.done([second]))
    client.send([first])
    assert world.run(2000, client.done([first]))
    found = client.outcome(first)
    assert found is not None and found[1].status == 0


def test_ce7_a_second_component_of_a_host_counts_for_nothing() -> None:
    """A-11, A-12: A runs two components and proposes X to B under one, X' to C under the other."""
    world = World(3)
    world.crash(A)
    client = world.clients[0]
    x = block_of(world, 1, client.make(put("x", "1")))
    other = block_of(world, 1, client.make(put("x", "2"), seq=1))
    clone = HbUsig.fresh()
    cfg = world.genesis.configuration()
    clone.provision(world.chain_id, A, 0, cfg.digest(), 0, 16)
    digest = other.digest(world.chain_id)
    ui = clone.call(Order(PREPARE, 0, 1, digest))
    assert isinstance(ui, Ui)
    world.post(A, B, forge_prepare(world, A, 0, x))
    world.post(A, C, Prepare(0, PrepareHead(0, 1, digest, ui.seq, ui.signature), other))
    world.run(500)
    assert any(fault["code"] == "bad_signature" for fault in world.noticed(C, "peer_fault"))
    world.run(10_000)
    assert digest_at(world, B, 1) == digest_at(world, C, 1) == x.digest(world.chain_id)
    world.check_prefixes()


def test_ce8_an_amnesiac_stays_silent() -> None:
    """A-12, I-20: C voted X, A executed it; C reboots with an empty component. {B, C} must not move on
    without X, and do not: C's new key is no member."""
    world = World(3)
    world.filters.append(lambda s, t, m: B not in (s, t))
    client = world.clients[0]
    x = client.submit(put("x"), to=[A, C])
    assert world.run(2000, client.done(x))
    agreed = digest_at(world, A, 1)
    world.crash(C)
    world.hosts[C].store = type(world.hosts[C].store)()  # the disk is lost as well
    world.lose_component(C)
    world.start(C)
    world.crash(A)
    world.filters.clear()
    y = client.submit(put("y"), to=[B, C])
    world.run(15_000)
    assert world.executed(B, C) == [0, 0]
    assert world.node(C).replica.phase() == "silent"
    world.start(A)
    world.run(2000)
    client.send(y)
    assert world.run(60_000, client.done(y))
    assert digest_at(world, B, 1) == digest_at(world, C, 1) == agreed
    world.check_prefixes()


def test_ce9_one_correct_execution_is_enough_for_all() -> None:
    """A-33, f = 2: only C of the correct nodes executed X before A and B fell silent, and C has collected
    its evidence. D and E obtain it from C, and the client gets its f+1 equal replies."""
    world = World(5)
    cut = lambda s, t, m: not ({s, t} & {D, E} and {s, t} & {A, B, C})  # noqa: E731
    world.filters.append(cut)
    client = world.clients[0]
    x = client.submit(put("x"))
    world.run(1000)
    assert world.executed(A, B, C, D, E) == [1, 1, 1, 0, 0]
    assert world.node(C).state.stable_height == 1
    world.crash(A)
    world.crash(B)
    client.answers.clear()
    world.filters.clear()
    world.run(500)
    client.send(x, to=[C, D, E])
    assert world.run(10_000, client.done(x))
    assert world.executed(C, D, E) == [1, 1, 1]
    assert world.agree()
