"""Defects that the simulator found in the node, each as the smallest test that shows it."""

from __future__ import annotations

from support.byzantine import commit, put
from support.world import World
from tepbft.core.block import NORMAL, Block, encode_body
from tepbft.core.certificates import PrepareHead
from tepbft.core.events import PeerMessage
from tepbft.protocols.tep.messages import Prepare
from tepbft.protocols.tep.state import Slot
from tepbft.trusted.port import PREPARE, Order, Ui


def _proposal(world: World) -> Prepare:
    """What node 0, primary of view 0, proposes at height 1."""
    block = Block(0, 1, NORMAL, 0, 1, encode_body([world.clients[0].make(put("k"))]))
    digest = block.digest(world.chain_id)
    ui = world.hosts[0].tc.call(Order(PREPARE, 0, 1, digest))
    assert isinstance(ui, Ui)
    return Prepare(0, PrepareHead(0, 1, digest, ui.seq, ui.signature), block)


def test_a_restarted_backup_counts_the_vote_of_the_primary() -> None:
    """A-14, S-33: with the PREPARE on disk, a later COMMIT must still bring the primary's vote along."""
    world = World(5)
    for number in range(5):
        world.crash(number)
    world.start(4)
    proposal = _proposal(world)
    world.event(4, PeerMessage(0, proposal))
    world.crash(4)
    world.start(4)
    assert world.executed(4) == [0]
    world.event(4, PeerMessage(1, commit(world, 1, proposal)))
    assert world.executed(4) == [1], "primary, node 1 and node 4 are three of five"


def test_old_proposals_of_a_slot_do_not_pile_up() -> None:
    """I-17: view after view led by one node leaves at most the evidence that a departure may need."""
    from tepbft.protocols.tep.ordering import _forget_old_views

    world = World(3)
    state = world.node(0).state
    slot = Slot(1)
    for view in range(0, 60, 3):
        head = PrepareHead(view, 1, bytes(32), 1, b"")
        slot.prepares[view] = head
        slot.heads[(view, bytes(32))] = head
        _forget_old_views(state, slot, view)
    assert sorted(slot.prepares) == [0, 57], "that of the certified view, and the newest"
    assert sorted(slot.heads) == [(57, bytes(32))]
