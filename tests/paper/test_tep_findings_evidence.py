"""Finding A-51: every rule V1 to V9 by itself; A-53, A-54, A-62, I-6, I-8: the merge and its bounds."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.byzantine import (
    A,
    B,
    C,
    checkpoint_certificate,
    new_view_certificate,
    prepare,
    req_vc,
    trigger,
    view_change,
)
from support.world import World
from tepbft.core.block import NULL, Block, null_block
from tepbft.core.certificates import CheckpointCertificate, PrepareHead, Vote
from tepbft.errors import PeerFault
from tepbft.protocols.tep.evidence import Setting, check_new_view_certificate, check_view_change, merge
from tepbft.protocols.tep.messages import Departure, NewViewCertificate, ViewChange
from tepbft.trusted.port import AdvanceFloor, DepartureUi, EnterView, Register
from tepbft.types import MAX_NODES
from tepbft.wire import encode

replace = msgspec.structs.replace


def fresh(n: int = 3) -> tuple[World, Setting]:
    world = World(n, window=4)
    return world, world.node(A).state.setting


def block(height: int, ts: int = 0) -> Block:
    return Block(0, height, NULL, ts, 0, b"")


def rejected(setting: Setting, message: ViewChange, rule: str, to: int | None = None) -> None:
    with pytest.raises(PeerFault, match=rule) as found:
        check_view_change(setting, message, message.to if to is None else to)
    assert found.value.code == "bad_view_change"


def test_a_complete_view_change_is_accepted() -> None:
    """The twin of all the tests below: nothing wrong, and the evidence is what was listed."""
    world, setting = fresh()
    heads = [prepare(world, A, 0, block(height, 7)).head for height in (1, 3)]
    message = view_change(world, A, 1, prepares=heads)
    assert check_view_change(setting, message, 1) == {head.height: (0, head.digest) for head in heads}
    empty = view_change(world, B, 1)
    assert check_view_change(setting, empty, 1) == {}


def test_v1_the_statement_covers_target_and_content() -> None:
    world, setting = fresh()
    message = view_change(world, B, 1)
    other = view_change(world, C, 1)
    rejected(setting, message, "V1", to=2)
    rejected(setting, replace(message, to=2), "V1")
    rejected(setting, replace(message, sender=C), "V1")
    rejected(setting, replace(message, sender=40), "V1")
    rejected(setting, replace(message, cfg=1), "V1")
    rejected(setting, replace(message, ui=other.ui), "V1")
    longer = replace(message.content, trigger=trigger(world, 5))
    rejected(setting, replace(message, content=longer), "V1")
    hidden = replace(message.ui, registers=(Register(1, 1, bytes(32)),))
    rejected(setting, replace(message, ui=hidden), "V1")


def test_v2_the_checkpoint_is_certified() -> None:
    world, setting = fresh()
    right = checkpoint_certificate(world, 2, b"h" * 32, [A, B])
    for wrong in (
        replace(right, votes=right.votes[:1]),
        replace(right, votes=(right.votes[0], right.votes[0])),
        replace(right, digest=b"i" * 32),
        replace(right, height=3),
        replace(right, cfg=1),
        CheckpointCertificate(0, 0, b"x" * 32, ()),
        CheckpointCertificate(0, 9, b"x" * 32, ()),
    ):
        rejected(setting, view_change(fresh_component(world), C, 1, base=wrong), "V2")
    assert check_view_change(setting, view_change(fresh_component(world), C, 1, base=right), 1) == {}


def fresh_component(world: World) -> World:
    """C's component forgets (in this test) that it left already: the same key, its registers as at first."""
    component = world.hosts[C].tc
    again = type(component).import_state(component.export_state())
    again._departed, again._view, again._seq = None, 0, component._seq
    world.hosts[C].tc = again
    return world


def test_v3_the_attested_floor_is_not_above_the_checkpoint() -> None:
    """A component told to forget what it signed shows it."""
    world, setting = fresh()
    prepare(world, A, 0, block(1, 7))
    world.hosts[A].tc.call(AdvanceFloor(1))
    rejected(setting, view_change(world, A, 1), "V3")


def test_v4_the_claimed_view_is_certified_and_not_below_the_registers() -> None:
    """A-52: neither an invented view nor one that hides the view of the registers."""
    world, setting = fresh()
    head = prepare(world, B, 1, block(1, 7)).head
    invented = NewViewCertificate(0, 1, 0, setting.floor_certificate(), (), ())
    rejected(setting, view_change(world, B, 2, certified=invented, prepares=[head]), "V4")
    rejected(setting, view_change(world, B, 3, prepares=[head]), "V4")  # registers of view 1, claims view 0
    too_high = new_view_certificate(world, 3)
    rejected(setting, view_change(world, A, 3, certified=too_high), "V4")
    assert check_view_change(
        setting, view_change(world, B, 4, certified=new_view_certificate(world, 1), prepares=[head]), 4
    ) == {1: (1, head.digest)}


def test_v4_what_certifies_a_view() -> None:
    """A-52: f+1 distinct members on exactly this summary, a checkpoint that holds, at most BL entries."""
    world, setting = fresh()
    nvc = (null_block(0, 1).digest(world.chain_id),)
    right = new_view_certificate(world, 1, nvc)
    assert check_new_view_certificate(setting, right)
    for wrong in (
        replace(right, acks=right.acks[:1]),
        replace(right, acks=(right.acks[0], right.acks[0])),
        replace(right, acks=(right.acks[0], Vote(C, 0, right.acks[1].signature))),
        replace(right, acks=(right.acks[0], Vote(40, 0, right.acks[1].signature))),
        replace(right, nvc=()),
        replace(right, view=2),
        replace(right, view=0),
        replace(right, cfg=1),
        replace(right, base=1),
        replace(right, checkpoint=replace(right.checkpoint, digest=b"x" * 32)),
        new_view_certificate(world, 1, [b"d" * 32] * 5),  # BL is 4
    ):
        assert not check_new_view_certificate(setting, wrong)


def test_v5_the_checkpoint_is_not_below_the_base_of_the_claimed_view() -> None:
    world, setting = fresh()
    base = checkpoint_certificate(world, 2, b"h" * 32, [A, B])
    certified = new_view_certificate(world, 1, base=base)
    rejected(setting, view_change(world, C, 2, certified=certified), "V5")
    good = view_change(fresh_component(world), C, 2, certified=certified, base=base)
    assert check_view_change(setting, good, 2) == {}


def test_v6_what_the_certified_view_proposed_again_is_evidence() -> None:
    """Also without a single PREPARE of that view."""
    world, setting = fresh()
    nvc = [b"1" * 32, b"2" * 32]
    certified = new_view_certificate(world, 1, nvc)
    message = view_change(world, C, 2, certified=certified)
    assert check_view_change(setting, message, 2) == {1: (1, nvc[0]), 2: (1, nvc[1])}
    above = checkpoint_certificate(world, 1, b"h" * 32, [A, B])
    later = view_change(world, C, 3, certified=certified, base=above)
    assert check_view_change(setting, later, 3) == {2: (1, nvc[1])}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda world, head: replace(head, view=1),
        lambda world, head: replace(head, height=2),
        lambda world, head: replace(head, digest=b"d" * 32),
        lambda world, head: replace(head, signature=head.signature[:-1] + b"!"),
        lambda world, head: replace(head, seq=head.seq + 1),
        lambda world, head: replace(head, height=5),
        lambda world, head: replace(head, height=0),
    ],
)
def test_v7_listed_prepares_are_real_and_in_place(spoil: Callable[[World, PrepareHead], PrepareHead]) -> None:
    world, setting = fresh()
    head = prepare(world, A, 0, block(1, 7)).head
    rejected(setting, view_change(world, B, 1, prepares=[spoil(world, head)]), "V7")
    rejected(setting, view_change(world, C, 1, prepares=[head, head]), "V7")


def test_v7_a_prepare_against_the_new_view_is_refused() -> None:
    world, setting = fresh()
    certified = new_view_certificate(world, 1, [b"1" * 32])
    head = prepare(world, B, 1, block(1, 7)).head
    rejected(setting, view_change(world, C, 2, certified=certified, prepares=[head]), "V7")


def test_a62_v7_bounds_the_height_of_evidence() -> None:
    """A-62: a signed PREPARE at height 2^60 is no reason for 2^60 NULL blocks."""
    world, setting = fresh()
    world.hosts[A].tc.call(AdvanceFloor((1 << 60) - 1))
    bomb = prepare(world, A, 0, block(1 << 60)).head
    rejected(setting, view_change(world, B, 1, prepares=[bomb]), "V7")


def test_v8_every_register_above_the_checkpoint_is_explained() -> None:
    """A-51: omission shows, at whatever height, and so does another block under the same height."""
    world, setting = fresh()
    heads = [prepare(world, A, 0, block(height, 7)).head for height in (1, 2, 3)]
    rejected(setting, view_change(world, A, 1, prepares=heads[:2]), "V8")
    world, setting = fresh()
    heads = [prepare(world, A, 0, block(height, 7)).head for height in (1, 2, 3)]
    covered = checkpoint_certificate(world, 2, b"h" * 32, [B, C])
    message = view_change(world, A, 1, prepares=heads[2:], base=covered)
    assert check_view_change(setting, message, 1) == {3: (0, heads[2].digest)}


def test_v8_does_not_bind_registers_of_a_view_below_the_certified_one() -> None:
    world, setting = fresh()
    prepare(world, A, 0, block(1, 7))
    certified = new_view_certificate(world, 1)
    world.hosts[A].tc.call(EnterView(1))
    assert check_view_change(setting, view_change(world, A, 2, certified=certified), 2) == {}


def test_v9_the_trigger_is_f_plus_1_wishes_for_this_view_or_more() -> None:
    """A-49."""
    world, setting = fresh()
    right = trigger(world, 2)
    for wrong in (
        right[:1],
        (right[0], right[0]),
        (req_vc(world, A, 1), req_vc(world, B, 2)),
        (right[0], replace(right[1], target=3)),
        (right[0], replace(right[1], sender=C)),
        (right[0], replace(right[1], cfg=1)),
        (right[0], replace(right[1], sender=40)),
        (*right, req_vc(world, C, 2)),
    ):
        rejected(setting, view_change(fresh_component(world), C, 2, wishes=wrong), "V9")
    higher = trigger(world, 9)
    assert check_view_change(setting, view_change(fresh_component(world), C, 2, wishes=higher), 2) == {}


# --- the merge --------------------------------------------------------------------------------

FLOOR = CheckpointCertificate(0, 0, bytes(32), ())


def stub(sender: int, base: int) -> ViewChange:
    certificate = CheckpointCertificate(0, base, bytes([base]) * 32, ()) if base else FLOOR
    return ViewChange(0, sender, 9, Departure(certificate, None, (), ()), DepartureUi(0, b"", 0, 0, ()))


def digest(view: int, height: int) -> bytes:
    """One digest per (view, height): what one `new_view` and one PREPARE register per view ensure."""
    return bytes([view, height]) * 16


evidence_maps = st.dictionaries(st.integers(1, 12), st.integers(0, 4), max_size=8)
checked_sets = st.lists(st.tuples(st.integers(0, 6), evidence_maps), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(made=checked_sets, order=st.randoms(use_true_random=False))
def test_i6_the_merge_is_a_function_of_the_set(made: list[tuple[int, dict[int, int]]], order: object) -> None:
    """A-53, A-54, I-6: whatever the order, the same result; per height the highest view, gaps are NULL."""
    world = WORLD
    setting = world.node(A).state.setting
    checked = [
        (stub(sender, base), {h: (view, digest(view, h)) for h, view in found.items()})
        for sender, (base, found) in enumerate(made)
    ]
    base, nvc = merge(setting, checked)
    shuffled = list(checked)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert merge(setting, shuffled) == (base, nvc)
    assert base.height == max(height for height, _ in made)
    top = max([h for _, found in made for h in found if h > base.height], default=base.height)
    assert len(nvc) == top - base.height
    for index, chosen in enumerate(nvc):
        height = base.height + 1 + index
        claimed = [found[height] for _, found in made if height in found]
        expected = digest(max(claimed), height) if claimed else null_block(0, height).digest(world.chain_id)
        assert chosen == expected


WORLD = World(3, window=16)


def test_a53_two_digests_of_one_view_are_an_alarm_not_a_choice() -> None:
    """A tie of equal views with different blocks means a broken component."""
    setting = WORLD.node(A).state.setting
    with pytest.raises(PeerFault, match="trusted_component_broken"):
        merge(setting, [(stub(0, 0), {1: (2, b"a" * 32)}), (stub(1, 0), {1: (2, b"b" * 32)})])


def view_change_bound(n: int, window: int) -> int:
    """I-8: bytes of any VIEW-CHANGE, in closed form: two certificates of n votes, BL digests of the
    certified view, BL PREPARE heads, BL registers, n wishes; nothing that grows with history."""
    vote, head, register, wish = 100, 150, 50, 110
    return 600 + 3 * n * vote + window * (40 + head + register) + n * wish


@pytest.mark.parametrize(("n", "window"), [(3, 1), (3, 16), (5, 4), (7, 16)])
def test_i8_view_change_size_is_bounded_by_n_and_bl(n: int, window: int) -> None:
    world = World(n, window=window)
    floor_at = 1 << 40
    for host in world.hosts:
        host.tc.call(AdvanceFloor(floor_at))
    base = checkpoint_certificate(world, floor_at, b"h" * 32, range(n))
    primary = world.genesis.configuration().primary(1)
    heads = [prepare(world, primary, 1, block(floor_at + 1 + i, 7)).head for i in range(window)]
    certified = new_view_certificate(world, 1, [head.digest for head in heads], base=base, hosts=range(n))
    message = view_change(world, primary, 1 << 50, base=base, certified=certified, prepares=heads)
    setting = world.node((primary + 1) % n).state.setting
    assert len(check_view_change(setting, message, 1 << 50)) == window
    assert len(encode(message)) <= view_change_bound(n, window)
    assert view_change_bound(MAX_NODES, 256) < 1 << 17
