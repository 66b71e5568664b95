"""NEW-VIEW, acknowledgements, and entering a certified view (A3.4).

A view is entered only with a certificate of f+1 acknowledgements of one summary
(A-52); it is also what evidence from that view must show later. Whoever is asked to
acknowledge recomputes the summary from the enclosed VIEW-CHANGEs, and holds all its
blocks before it does.
"""

from __future__ import annotations

from tepbft.core.certificates import CheckpointCertificate, Vote
from tepbft.errors import PeerFault
from tepbft.protocols.tep import checkpoints, ordering
from tepbft.protocols.tep.evidence import check_new_view_certificate, check_view_change, merge
from tepbft.protocols.tep.messages import (
    NewView,
    NewViewCertificate,
    NvAck,
    ack_preimage,
    summary_digest,
)
from tepbft.protocols.tep.state import State
from tepbft.protocols.tep.view_change import help_departed, obtain, prune, record_own_evidence
from tepbft.storage.port import ViewRecord
from tepbft.trusted.port import NEW_VIEW, Done, EnterView, Install, Refused, Ui, numbered_body
from tepbft.types import Height, NodeId, View
from tepbft.wire import encode


def try_new_view(s: State) -> None:
    """As the awaited primary: with q_v valid VIEW-CHANGEs, own included, and all their bodies,
    propose the start of the view. One whose bodies cannot be had is left aside (A-63)."""
    if s.active or s.primary != s.me or not s.voter or s.installing is not None or s.view in s.new_views:
        return
    if s.view <= s.refused_install:
        return
    held = s.departures.get(s.view, {})
    if s.me not in held:
        return
    chosen = [held[s.me]]
    for node in sorted(held):
        if node == s.me or len(chosen) == s.quorums.certificate:
            continue
        message, evidence = held[node]
        if all(
            height <= s.stable_height or _acceptable(s, height, digest)
            for height, (_, digest) in evidence.items()
        ):
            chosen.append((message, evidence))
    if len(chosen) < s.quorums.certificate:
        return
    try:
        base, nvc = merge(s.setting, chosen)
    except PeerFault as error:
        s.notice("alarm", what="a trusted component is broken", detail=error.detail)
        return
    if any(obtain(s, base.height + 1 + i, digest) is None for i, digest in enumerate(nvc)):
        return
    summary = summary_digest(s.cfg.number, s.view, base, nvc)
    ack = s.signer.sign(ack_preimage(s.chain_id, s.cfg, s.me, s.view, summary))
    message_set = tuple(message for message, _ in sorted(chosen, key=lambda found: found[0].sender))
    s.installing = NewView(s.cfg.number, s.view, message_set, base.height, nvc, 0, b"", ack)
    s.out.persist.append(ViewRecord("new_view", s.cfg.number, s.view, encode(s.installing)))
    s.certify(Install(s.view, summary))


def _acceptable(s: State, height: Height, digest: bytes) -> bool:
    """The body is here, and not from a far future: a block that nobody could vote for yet must not
    enter a new view, or one primary with a wrong clock could stop the chain. What has a commit
    quorum was timely for a correct replica, so that waiting for it ends (A3.1)."""
    block = obtain(s, height, digest)
    return block is not None and (height <= s.executed or s.host.timely(block))


def on_installed(s: State, request: Install, answer: Ui | Refused) -> None:
    """The component signed the one NEW-VIEW of this view (A-57): send it, act on it."""
    draft, s.installing = s.installing, None
    if isinstance(answer, Refused) or draft is None or draft.view != request.view:
        s.notice("tc_refused", code=getattr(answer, "code", "stale"), reason=f"new view {request.view}")
        if isinstance(answer, Refused):
            # It signed another NEW-VIEW of this view (a disk was lost in between): it will never sign
            # this one, so asking again would go on for ever. The next view has another primary.
            s.refused_install = max(s.refused_install, request.view)
        return
    message = NewView(
        draft.cfg,
        draft.view,
        draft.view_changes,
        draft.base,
        draft.nvc,
        answer.seq,
        answer.signature,
        draft.ack,
    )
    s.broadcast(message)
    s.new_views[message.view] = message
    _try_enter(s, message)


def on_new_view(s: State, sender: NodeId, message: NewView) -> None:
    """Recompute the new view from what it encloses; any difference, and it is ignored (A-56)."""
    if message.cfg != s.cfg.number:
        if message.cfg > s.cfg.number:
            s.postpone(sender, message)
        return
    if message.view < s.view or (message.view == s.view and s.active) or message.view == 0:
        return
    if message.view in s.new_views:
        return
    if len(message.view_changes) != s.quorums.certificate:
        raise PeerFault("bad_new_view", "it does not enclose exactly f+1 VIEW-CHANGEs")
    primary = s.cfg.primary(message.view)
    if len({found.sender for found in message.view_changes}) != len(message.view_changes):
        raise PeerFault("bad_new_view", "two VIEW-CHANGEs of one node")
    checked = []
    for found in message.view_changes:
        held = s.departures.get(message.view, {}).get(found.sender)
        if held is not None and held[0] == found:
            checked.append(held)
        else:
            checked.append((found, check_view_change(s.setting, found, message.view)))
    base, nvc = merge(s.setting, checked)
    if base.height != message.base or nvc != message.nvc:
        raise PeerFault("bad_new_view", "its summary does not follow from its VIEW-CHANGEs")
    summary = summary_digest(s.cfg.number, message.view, base, nvc)
    body = numbered_body(message.view, summary)
    if not s.verifier.ui(s.cfg, primary, message.seq, NEW_VIEW, body, message.signature):
        raise PeerFault("bad_signature", "NEW-VIEW")
    preimage = ack_preimage(s.chain_id, s.cfg, primary, message.view, summary)
    if not s.verifier.signed(s.cfg, primary, preimage, message.ack):
        raise PeerFault("bad_signature", "acknowledgement inside NEW-VIEW")
    s.new_views[message.view] = message
    prune(s)
    _try_enter(s, message)


def retry_new_views(s: State) -> None:
    """Bodies or time may have made a held NEW-VIEW acceptable."""
    for view in sorted(s.new_views, reverse=True):
        if view >= s.view and not (view == s.view and s.active):
            _try_enter(s, s.new_views[view])
            return


def base_certificate(message: NewView) -> CheckpointCertificate:
    """The checkpoint that a NEW-VIEW starts from: the highest in its VIEW-CHANGEs."""
    return max(
        (found.content.checkpoint for found in message.view_changes),
        key=lambda found: (found.height, found.digest),
    )


def _try_enter(s: State, message: NewView) -> None:
    """With all bodies here: enter the view and acknowledge it to everybody."""
    missing = False
    for index, digest in enumerate(message.nvc):
        height = message.base + 1 + index
        if height > s.stable_height and not _acceptable(s, height, digest):
            if obtain(s, height, digest) is None:
                s.want(height, digest, s.cfg.primary(message.view))
            missing = True
    if missing or not s.voter or s.diverged_at >= 0:
        return
    if s.own_ack is not None and s.own_ack.view == message.view and s.own_ack.cfg == s.cfg.number:
        return
    if message.view > s.view:
        s.view, s.active = message.view, False
        s.leaving_to = -1
        s.departed_ms = s.now
        s.view_changes += 1
    for index, digest in enumerate(message.nvc):
        height = message.base + 1 + index
        if height > max(s.stable_height, s.executed):
            slot = s.slot(height)
            block = obtain(s, height, digest)
            if block is not None:
                s.keep_body(slot, digest, block)
                s.record_body(slot, digest)  # an acknowledgement promises the bodies
    record_own_evidence(s)
    s.certify(EnterView(message.view))
    base = base_certificate(message)
    summary = summary_digest(s.cfg.number, message.view, base, message.nvc)
    signature = s.signer.sign(ack_preimage(s.chain_id, s.cfg, s.me, message.view, summary))
    s.own_ack = NvAck(s.cfg.number, s.me, message.view, summary, signature)
    s.pending_ack = True
    table = s.acks.setdefault(message.view, {})
    primary = s.cfg.primary(message.view)
    table[primary] = (summary, Vote(primary, 0, message.ack))
    table[s.me] = (summary, Vote(s.me, 0, signature))


def on_entered(s: State, request: EnterView, answer: Done | Refused) -> None:
    """The component will sign nothing below this view any more: the acknowledgement may go out."""
    if isinstance(answer, Refused):
        s.notice("tc_refused", code=answer.code, reason=answer.reason)
        return
    if s.own_ack is not None and s.own_ack.view == request.view and s.pending_ack:
        s.pending_ack = False
        s.broadcast(s.own_ack)
        _count_acks(s, request.view)


def on_ack(s: State, sender: NodeId, message: NvAck) -> None:
    """Count an acknowledgement; f+1 on one summary certify the view."""
    if message.cfg != s.cfg.number:
        if message.cfg > s.cfg.number:
            s.postpone(sender, message)
        return
    if message.view < s.view or (message.view == s.view and s.active):
        help_departed(s, message.sender)
        return
    if message.sender >= len(s.cfg.members) or message.sender in s.acks.get(message.view, ()):
        return
    preimage = ack_preimage(s.chain_id, s.cfg, message.sender, message.view, message.digest)
    if not s.verifier.signed(s.cfg, message.sender, preimage, message.signature):
        raise PeerFault("bad_signature", "NV-ACK")
    table = s.acks.setdefault(message.view, {})
    table[message.sender] = (message.digest, Vote(message.sender, 0, message.signature))
    prune(s)
    _count_acks(s, message.view)


def _count_acks(s: State, view: View) -> None:
    message = s.new_views.get(view)
    if message is None or (s.active and s.view >= view):
        return
    base = base_certificate(message)
    summary = summary_digest(s.cfg.number, view, base, message.nvc)
    table = s.acks.get(view, {})
    acks = tuple(vote for node, (digest, vote) in sorted(table.items()) if digest == summary)
    if len(acks) >= s.quorums.certificate:
        enter(s, NewViewCertificate(s.cfg.number, view, base.height, base, message.nvc, acks))


def on_new_view_certificate(s: State, sender: NodeId, message: NewViewCertificate) -> None:
    """A view is certified: enter it without having seen its VIEW-CHANGEs."""
    if message.cfg != s.cfg.number:
        if message.cfg > s.cfg.number:
            s.postpone(sender, message)
        return
    if message.view <= s.certified_view or message.view < s.view:
        return
    if not check_new_view_certificate(s.setting, message):
        raise PeerFault("bad_certificate", f"new view {message.view}")
    enter(s, message)


def enter(s: State, certificate: NewViewCertificate) -> None:
    """Become active in a certified view. Its certificate is on disk before the first vote in it,
    and its base counts as stable (a replica without it could not satisfy V5, A6.3)."""
    record_own_evidence(s)
    s.out.persist.append(
        ViewRecord("new_view_certificate", s.cfg.number, certificate.view, encode(certificate))
    )
    if certificate.view > s.view:
        s.view_changes += 1
    s.view = s.certified_view = certificate.view
    s.certificate = certificate
    s.active = True
    s.leaving_to = -1
    s.installing = s.departing = None
    s.entered_ms = s.now
    s.executed_in_view = 0
    s.complaint = ""
    s.closing = -1
    s.requests = {node: found for node, found in s.requests.items() if found[0].target > s.view}
    checkpoints.become_stable(s, certificate.checkpoint)
    s.certify(EnterView(certificate.view))
    prune(s)
    s.notice("view_entered", view=s.view, primary=s.primary)
    s.host.view_entered(certificate.nvc)
    for slot in s.slots.values():
        slot.waiting = None
        if slot.certificate is None:
            slot.accepted_ms = -1 if certificate.digest_at(slot.height) is None else s.now
    s.next_height = max(certificate.top, s.stable_height, s.executed) + 1
    if s.primary == s.me and s.voter and s.diverged_at < 0:
        _propose_again(s, certificate)
    s.replay = True


def _propose_again(s: State, certificate: NewViewCertificate) -> None:
    """Ordinary PREPAREs for everything in the new view: same content, same digest (A-71)."""
    for index, digest in enumerate(certificate.nvc):
        height = certificate.base + 1 + index
        if height > s.stable_height:
            block = obtain(s, height, digest)
            if block is not None:
                ordering.propose(s, block, digest)
                s.host.accepted(block, digest)  # its requests must not be packed a second time
