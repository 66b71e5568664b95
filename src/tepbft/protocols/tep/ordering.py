"""The normal case: PREPARE, COMMIT, and the moment a height is final (A3.3).

Votes are independent of their order: the trusted component makes them unique per
register and impossible below its view, so nothing is held back behind a gap (A-05).
"""

from __future__ import annotations

from tepbft.core.block import CONFIG, NULL, Block, null_block
from tepbft.core.certificates import CommitCertificate, PrepareHead, Vote
from tepbft.core.verification import check_commit_certificate, check_prepare
from tepbft.errors import PeerFault
from tepbft.protocols.tep import barrier
from tepbft.protocols.tep.messages import Commit, Final, Prepare, Stable
from tepbft.protocols.tep.state import MAX_VOTE_SETS, Slot, State
from tepbft.storage.port import PrepareRecord
from tepbft.trusted.port import COMMIT, PREPARE, Order, Refused, Ui, order_body
from tepbft.types import Height, NodeId

# --- proposing --------------------------------------------------------------------------------


def may_propose(s: State) -> bool:
    """True if this replica leads an active view and its window has room."""
    return (
        s.voter
        and s.active
        and s.diverged_at < 0
        and s.leaving_to < 0
        and s.primary == s.me
        and s.barrier < 0
        and s.closing < 0
        and s.next_height <= s.stable_height + s.window
    )


def propose(s: State, block: Block, digest: bytes) -> None:
    """Order `block` at its height in the current view: on disk first, then the statement."""
    slot = s.slot(block.height)
    s.keep_body(slot, digest, block)
    s.record_body(slot, digest)
    slot.ordered_view = s.view
    slot.accepted_ms = s.now
    # The empty UI marks a proposal that may or may not have been signed: a restart asks again.
    head = PrepareHead(s.view, block.height, digest, 0, b"")
    s.out.persist.append(PrepareRecord(s.cfg.number, head))
    s.outstanding += 1
    s.certify(Order(PREPARE, s.view, block.height, digest))
    s.next_height = max(s.next_height, block.height + 1)
    if block.kind == CONFIG:
        s.closing = block.height


def on_ordered(s: State, request: Order, answer: Ui | Refused) -> None:
    """The component signed (or declined) an ORDER statement: send it, and count it."""
    if request.kind == PREPARE:
        s.outstanding = max(0, s.outstanding - 1)
    if isinstance(answer, Refused):
        s.notice("tc_refused", code=answer.code, reason=answer.reason, height=request.height)
        return
    slot = s.slots.get(request.height)
    if slot is None or slot.ordered_view > request.view:
        return
    if request.kind == PREPARE:
        _send_prepare(s, slot, request, answer)
    else:
        _send_commit(s, slot, request, answer)
    vote = Vote(s.me, answer.seq, answer.signature)
    count_vote(s, slot, request.view, request.digest, vote)


def _send_prepare(s: State, slot: Slot, request: Order, ui: Ui) -> None:
    head = PrepareHead(request.view, request.height, request.digest, ui.seq, ui.signature)
    slot.prepares[request.view] = head
    _forget_old_views(s, slot, request.view)
    slot.heads[(request.view, request.digest)] = head
    slot.own = Prepare(s.cfg.number, head, slot.bodies.get(request.digest))
    slot.own_sent_ms = s.now
    s.announce(slot.own)
    if s.parameters.primary_explicit_commit:
        # Redundant by design (it reproduces the paper's message count): receivers ignore it.
        s.announce(Commit(s.cfg.number, s.me, head, ui.seq, ui.signature, None))


def _send_commit(s: State, slot: Slot, request: Order, ui: Ui) -> None:
    head = slot.prepares.get(request.view)
    if head is None or head.digest != request.digest:
        return
    body = slot.bodies.get(request.digest) if s.parameters.commit_carries_block else None
    slot.own = Commit(s.cfg.number, s.me, head, ui.seq, ui.signature, body)
    slot.own_sent_ms = s.now
    s.announce(slot.own)


# --- PREPARE ----------------------------------------------------------------------------------


def on_prepare(s: State, sender: NodeId, message: Prepare) -> None:
    """P1 to P8, then persist and vote."""
    head = message.head
    if message.cfg != s.cfg.number:
        if message.cfg > s.cfg.number:
            s.postpone(sender, message)
        return
    if head.view > s.view or (head.view == s.view and not s.active):
        if head.view <= s.view + 2:
            s.postpone(sender, message)
        return
    if not _in_window(s, sender, message, head.height):
        return
    if message.block is not None and message.block.digest(s.chain_id) != head.digest:
        raise PeerFault("body_mismatch", f"height {head.height}")
    if head.view < s.view:
        return
    slot = s.slot(head.height)
    known = slot.prepares.get(head.view)
    if known is not None and known.digest == head.digest:
        if slot.own is not None and sender != s.me and s.may_help(sender, f"vote{head.height}"):
            s.send(sender, slot.own)  # a repeated PREPARE: my vote was lost
        return
    if s.cfg.primary(head.view) == s.me:
        return
    _check_place(s, head)
    if slot.waiting != head and not check_prepare(s.cfg, head, s.verifier):
        raise PeerFault("bad_signature", f"PREPARE at height {head.height}")
    if known is not None:
        s.notice(
            "alarm", what="trusted component equivocates", detail=f"view {head.view} height {head.height}"
        )
        raise PeerFault("equivocation", f"height {head.height}")
    if message.block is not None:
        s.keep_body(slot, head.digest, message.block)
    slot.waiting = head
    try_accept(s, slot, sender)


def _in_window(s: State, sender: NodeId, message: Prepare | Commit, height: Height) -> bool:
    """P5, with help for the sender that is behind and room for one that is ahead."""
    if height <= s.stable_height:
        # A PREPARE shows that its sender is behind; a late vote shows nothing.
        behind = isinstance(message, Prepare) and s.stable_height > s.cfg.floor
        if behind and sender in s.peers and s.may_help(sender, "stable"):
            s.send(sender, Stable(s.stable_certificate))
        return False
    if height > s.stable_height + s.window:
        if height <= s.stable_height + 2 * s.window:
            s.postpone(sender, message)
        return False
    return s.barrier < 0 or height <= s.barrier


def _check_place(s: State, head: PrepareHead) -> None:
    """P6: a re-proposal must be what the new view says."""
    if s.certificate is None:
        return
    if head.height <= s.certificate.base:
        raise PeerFault("below_base", f"height {head.height}")
    required = s.certificate.digest_at(head.height)
    if required is not None and required != head.digest:
        raise PeerFault("against_new_view", f"height {head.height}")


def try_accept(s: State, slot: Slot, sender: NodeId | None) -> None:
    """P8 and the vote, once everything that the PREPARE waited for is there."""
    head = slot.waiting
    if head is None or head.view != s.view or not s.active or s.diverged_at >= 0:
        return  # a diverged replica may vote for it later, once it has healed
    block = slot.bodies.get(head.digest) or s.body(head.height, head.digest)
    if block is None:
        empty = null_block(s.cfg.number, head.height)
        if empty.digest(s.chain_id) != head.digest:
            s.want(head.height, head.digest, sender)
            return
        block = empty
    if s.parameters.strict_sequential and s.executed < head.height - 1:
        return
    required = s.certificate.digest_at(head.height) if s.certificate is not None else None
    if required != head.digest and not s.host.timely(block):
        return  # what a certified view proposes again was timely for a correct replica
    if block.cfg != s.cfg.number or block.height != head.height:
        slot.waiting = None
        raise PeerFault("block_out_of_place", f"height {head.height}")
    try:
        s.host.check_block(block, head.digest)
    except PeerFault:
        slot.waiting = None
        s.complaint = "invalid proposal"
        raise
    s.keep_body(slot, head.digest, block)
    _accept(s, slot, head)


def _accept(s: State, slot: Slot, head: PrepareHead) -> None:
    slot.waiting = None
    slot.prepares[head.view] = head
    slot.heads[(head.view, head.digest)] = head
    _forget_old_views(s, slot, head.view)
    if slot.accepted_ms < 0:
        slot.accepted_ms = s.now
    s.record_body(slot, head.digest)
    s.out.persist.append(PrepareRecord(s.cfg.number, head))
    slot.ordered_view = head.view
    s.certify(Order(COMMIT, head.view, head.height, head.digest))
    s.host.accepted(slot.bodies[head.digest], head.digest)
    primary = s.cfg.primary(head.view)
    count_vote(s, slot, head.view, head.digest, Vote(primary, head.seq, head.signature))


def _forget_old_views(s: State, slot: Slot, newest: int) -> None:
    """Evidence is asked for the certified view only; older PREPAREs must not pile up (I-17)."""
    for view in [view for view in slot.prepares if view < newest - 1 and view != s.certified_view]:
        del slot.prepares[view]
    for key in [key for key in slot.heads if key[0] < newest - 1 and key not in slot.votes]:
        del slot.heads[key]


# --- COMMIT -----------------------------------------------------------------------------------


def on_commit(s: State, sender: NodeId, message: Commit) -> None:
    """Count a backup's vote; its PREPARE, if unknown here, is run through the P-checks (A-20)."""
    head = message.head
    if message.cfg != s.cfg.number:
        if message.cfg > s.cfg.number:
            s.postpone(sender, message)
        return
    if message.sender >= len(s.cfg.members) or message.sender == s.cfg.primary(head.view):
        return  # the primary's vote is its PREPARE
    if head.view > s.view + 2:
        return  # a Byzantine primary of far views must not push honest votes out of a slot
    if not _in_window(s, sender, message, head.height):
        return
    slot = s.slots.get(head.height)
    if slot is not None and slot.certificate is not None:
        return
    slot = s.slot(head.height)
    key = (head.view, head.digest)
    if message.sender in slot.votes.get(key, ()):
        return
    body = order_body(head.view, head.height, head.digest)
    if not s.verifier.ui(s.cfg, message.sender, message.seq, COMMIT, body, message.signature):
        raise PeerFault("bad_signature", f"COMMIT at height {head.height}")
    if key not in slot.heads:
        if not check_prepare(s.cfg, head, s.verifier):
            raise PeerFault("bad_signature", f"PREPARE inside COMMIT at height {head.height}")
        slot.heads[key] = head
    primary, known = s.cfg.primary(head.view), slot.heads[key]
    if primary not in slot.votes.get(key, ()):  # after a restart the PREPARE is known, its vote is not
        count_vote(s, slot, head.view, head.digest, Vote(primary, known.seq, known.signature))
    count_vote(s, slot, head.view, head.digest, Vote(message.sender, message.seq, message.signature))
    if slot.certificate is None and head.view not in slot.prepares:
        on_prepare(s, sender, Prepare(message.cfg, head, message.block))


def count_vote(s: State, slot: Slot, view: int, digest: bytes, vote: Vote) -> None:
    """Add a checked vote. Votes of any view count; they are grouped by content (A-10, A-20)."""
    if slot.certificate is not None:
        return
    key = (view, digest)
    voters = slot.votes.get(key)
    if voters is None:
        if len(slot.votes) >= MAX_VOTE_SETS:
            lowest = min(slot.votes)
            if key < lowest:
                slot.heads.pop(key, None)
                return
            del slot.votes[lowest]
            slot.heads.pop(lowest, None)
        voters = slot.votes[key] = {}
    voters.setdefault(vote.node, vote)
    if len(voters) >= s.quorums.commit:
        votes = tuple(voters[node] for node in sorted(voters))
        finalize(s, slot, CommitCertificate(s.cfg.number, view, slot.height, digest, votes), None)


def finalize(s: State, slot: Slot, certificate: CommitCertificate, sender: NodeId | None) -> None:
    """`certificate` is valid: the height is final, once its body is here."""
    if slot.certificate is None:
        slot.certificate = certificate
        if slot.accepted_ms < 0:
            slot.accepted_ms = s.now
    digest = slot.certificate.digest
    if digest not in slot.bodies:
        empty = null_block(s.cfg.number, slot.height)
        if empty.digest(s.chain_id) == digest:
            s.keep_body(slot, digest, empty)
        else:
            s.want(slot.height, digest, sender)
            return
    if slot.bodies[digest].kind == CONFIG and (s.barrier < 0 or slot.height < s.barrier):
        s.barrier = slot.height


def on_final(s: State, sender: NodeId, message: Final) -> None:
    """A block with its certificate: catch-up, or the push of A3.5."""
    certificate, block = message.certificate, message.block
    height = certificate.height
    if height <= s.executed or certificate.cfg != s.cfg.number or height > s.executed + 4 * s.window:
        barrier.recognise(s, block)
        return
    if block.height != height or block.digest(s.chain_id) != certificate.digest:
        raise PeerFault("body_mismatch", f"final block {height}")
    if 0 <= s.barrier < height:
        return
    slot = s.slot(height)
    if slot.certificate is None and not check_commit_certificate(s.cfg, certificate, s.verifier):
        raise PeerFault("bad_certificate", f"final block {height}")
    if slot.certificate is not None and slot.certificate.digest in slot.bodies:
        return
    if block.kind != NULL and (slot.certificate is None or slot.certificate.digest == certificate.digest):
        s.keep_body(slot, certificate.digest, block)
    s.wanted.pop(certificate.digest, None)
    finalize(s, slot, certificate, sender)


def executable(s: State, height: Height) -> Slot | None:
    """The slot at `height` if it is final and its body is here, or in the ledger: this replica may have to
    execute a block again that it held no more."""
    slot = s.slots.get(height)
    if slot is None or slot.certificate is None:
        return None
    digest = slot.certificate.digest
    if digest not in slot.bodies:
        stored = s.store.block(height) if digest in slot.recorded else None
        if stored is None or stored.certificate.digest != digest:
            return None
        slot.bodies[digest] = stored.block
    return slot


def retransmit(s: State) -> None:
    """Send own PREPAREs and COMMITs again for heights that are still not final (S-25)."""
    due = s.now - s.options.t_retransmit_ms
    for slot in s.slots.values():
        lost = slot.certificate is None and slot.own is not None and slot.own_sent_ms <= due
        if lost and slot.ordered_view == s.view:
            slot.own_sent_ms = s.now
            s.broadcast(slot.own)
        if slot.waiting is not None:
            try_accept(s, slot, None)
