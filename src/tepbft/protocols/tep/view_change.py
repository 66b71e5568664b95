"""The view change: complaints, departures, certified new views (A3.4).

A view is entered only with a certificate of f+1 acknowledgements (A-52), which is
also what later evidence from that view must show. All messages are sent again
until superseded (A-60), and both timers back off (A-59).
"""

from __future__ import annotations

from tepbft.core.block import Block, null_block
from tepbft.core.certificates import CheckpointCertificate, PrepareHead, Vote
from tepbft.errors import PeerFault
from tepbft.protocols.tep import barrier, checkpoints, ordering
from tepbft.protocols.tep.evidence import (
    check_new_view_certificate,
    check_req_vc,
    check_view_change,
    merge,
)
from tepbft.protocols.tep.messages import (
    Departure,
    NewView,
    NewViewCertificate,
    NvAck,
    ReqVc,
    ViewChange,
    ack_preimage,
    departure_digest,
    req_vc_preimage,
    summary_digest,
)
from tepbft.protocols.tep.state import State
from tepbft.storage.port import PrepareRecord, ViewRecord
from tepbft.trusted.port import (
    NEW_VIEW,
    Depart,
    DepartureUi,
    Done,
    EnterView,
    Install,
    Refused,
    Ui,
    numbered_body,
)
from tepbft.types import Height, NodeId, View
from tepbft.wire import encode

MAX_PENDING_VIEWS = 4
"""Views for which VIEW-CHANGEs, NEW-VIEWs and acknowledgements are kept at once."""


# --- complaints: REQ-VC -----------------------------------------------------------------------


def complain(s: State, cause: str) -> None:
    """Ask everybody for the next view. The replica keeps working in this one (A3.4)."""
    if not s.voter or s.diverged_at >= 0:
        return
    target = s.view + 1
    own = s.requests.get(s.me)
    if own is not None and own[0].target >= target:
        if s.now - own[1] < s.options.t_retransmit_ms:
            return
        request = own[0]
    else:
        preimage = req_vc_preimage(s.chain_id, s.cfg, s.me, target)
        request = ReqVc(s.cfg.number, s.me, target, s.signer.sign(preimage))
        s.notice("view_change_requested", target=target, cause=cause)
    s.requests[s.me] = (request, s.now)
    s.broadcast(request)
    consider_leaving(s)


def on_req_vc(s: State, sender: NodeId, message: ReqVc) -> None:
    """Remember the latest wish of each node; f+1 of them move this replica."""
    if message.cfg != s.cfg.number:
        if message.cfg > s.cfg.number:
            s.postpone(sender, message)
        return
    if message.target <= s.view:
        return
    _merge_request(s, message)
    consider_leaving(s)


def _merge_request(s: State, message: ReqVc) -> None:
    known = s.requests.get(message.sender)
    if known is not None and known[0].target >= message.target:
        s.requests[message.sender] = (known[0], s.now)
        return
    if not check_req_vc(s.setting, message):
        raise PeerFault("bad_signature", f"REQ-VC of node {message.sender}")
    s.requests[message.sender] = (message, s.now)


def forget_requests(s: State) -> None:
    """REQ-VC is soft state: forgotten after 4*T_rt unless it is repeated."""
    limit = s.now - 4 * s.options.t_retransmit_ms
    for node in [node for node, (_, heard) in s.requests.items() if heard < limit]:
        del s.requests[node]


def consider_leaving(s: State) -> None:
    """Leave for the (f+1)-th largest wish, if it is above the current view: at least one correct
    node asked for that much."""
    targets = sorted((request.target for request, _ in s.requests.values()), reverse=True)
    needed = s.quorums.certificate
    wanted = targets[needed - 1] if len(targets) >= needed else -1
    if wanted > max(s.view, s.leaving_to) and s.voter and s.diverged_at < 0:
        s.leaving_to = wanted


# --- departures: VIEW-CHANGE ------------------------------------------------------------------


def leave(s: State) -> None:
    """Carry out a decided departure, once no PREPARE statement is outstanding: what the component
    will attest must be listed (V8)."""
    to = s.leaving_to
    if to <= s.view or s.outstanding:
        return
    s.leaving_to = -1
    trigger = sorted(
        (request for request, _ in s.requests.values() if request.target >= to),
        key=lambda request: (-request.target, request.sender),
    )[: s.quorums.certificate]
    if len(trigger) < s.quorums.certificate:
        return
    content = Departure(s.stable_certificate, s.certificate, _evidence(s), tuple(trigger))
    s.notice("view_left", to=to, view=s.view)
    s.view, s.active = to, False
    s.view_changes += 1
    s.backoff += 1
    s.executed_in_view = 0
    s.complaint = ""
    s.departed_ms = s.retransmitted_ms = s.now
    s.own_departure = None
    unsigned = ViewChange(s.cfg.number, s.me, to, content, DepartureUi(0, b"", 0, 0, ()))
    s.departing = unsigned
    s.out.persist.append(ViewRecord("view_change", s.cfg.number, to, encode(unsigned)))
    s.certify(Depart(to, departure_digest(content)))
    _prune(s)
    s.replay = True


def _record_own_evidence(s: State) -> None:
    """Own signed PREPAREs go to disk before the component leaves their view: afterwards it would
    not re-emit them, and the next departure must list them (I-5)."""
    for height in sorted(s.slots):
        head = s.slots[height].prepares.get(s.certified_view)
        if head is not None and s.cfg.primary(head.view) == s.me:
            s.out.persist.append(PrepareRecord(s.cfg.number, head))


def _evidence(s: State) -> tuple[PrepareHead, ...]:
    """The accepted PREPAREs of the certified view above the stable checkpoint: a superset of the
    component's registers, selected by height (A-07)."""
    found = []
    for height in sorted(s.slots):
        head = s.slots[height].prepares.get(s.certified_view)
        if head is not None and head.signature and height > max(s.stable_height, s.base):
            found.append(head)
    return tuple(found)


def on_departed(s: State, request: Depart, answer: DepartureUi | Refused) -> None:
    """The component attested the departure: send the VIEW-CHANGE."""
    unsigned = s.departing
    if isinstance(answer, Refused) or unsigned is None or unsigned.to != request.to:
        s.notice("tc_refused", code=getattr(answer, "code", "stale"), reason=f"view change to {request.to}")
        return
    message = ViewChange(s.cfg.number, s.me, request.to, unsigned.content, answer)
    s.departing, s.own_departure = None, message
    s.broadcast(message)
    _keep_departure(s, message)


def on_view_change(s: State, sender: NodeId, message: ViewChange) -> None:
    """Merge its trigger (one valid VIEW-CHANGE moves every correct replica), keep its evidence."""
    if message.cfg != s.cfg.number:
        if message.cfg > s.cfg.number:
            s.postpone(sender, message)
        return
    if message.to < s.view or (message.to == s.view and s.active):
        _help_departed(s, message.sender)
        return
    if message.sender in s.departures.get(message.to, ()):
        return
    for request in message.content.trigger[: s.quorums.n]:
        if request.target > s.view and request.cfg == s.cfg.number:
            _merge_request(s, request)
    consider_leaving(s)
    _keep_departure(s, message)


def _help_departed(s: State, node: NodeId) -> None:
    """A peer still waits in a view that is certified here: give it the certificate."""
    if s.certificate is not None and node in s.peers and s.may_help(node, "certificate"):
        s.send(node, s.certificate)


def _keep_departure(s: State, message: ViewChange) -> None:
    evidence = check_view_change(s.setting, message, message.to)
    s.departures.setdefault(message.to, {})[message.sender] = (message, evidence)
    _prune(s)
    for height, (_, digest) in sorted(evidence.items()):
        if height > s.stable_height and obtain(s, height, digest) is None:
            s.want(height, digest, message.sender)


def _prune(s: State) -> None:
    """Bound what is kept about views: none below the current one, at most four above."""
    for table in (s.departures, s.new_views, s.acks):
        for view in [view for view in table if view < s.view]:
            del table[view]
        for view in sorted(table)[MAX_PENDING_VIEWS:]:
            if view != s.view:
                del table[view]


def obtain(s: State, height: Height, digest: bytes) -> Block | None:
    """A body named in evidence, if it is here (a NULL block always is)."""
    block = s.body(height, digest)
    if block is None:
        empty = null_block(s.cfg.number, height)
        if empty.digest(s.chain_id) == digest:
            block = empty
    return block


# --- NEW-VIEW ---------------------------------------------------------------------------------


def try_new_view(s: State) -> None:
    """As the awaited primary: with q_v valid VIEW-CHANGEs, own included, and all their bodies,
    propose the start of the view. One whose bodies cannot be had is left aside (A-63)."""
    if s.active or s.primary != s.me or not s.voter or s.installing is not None or s.view in s.new_views:
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
            height <= s.stable_height or obtain(s, height, digest) is not None
            for height, (_, digest) in evidence.items()
        ):
            chosen.append((message, evidence))
    if len(chosen) < s.quorums.certificate:
        return
    base, nvc = merge(s.setting, chosen)
    if any(obtain(s, base.height + 1 + i, digest) is None for i, digest in enumerate(nvc)):
        return
    summary = summary_digest(s.cfg.number, s.view, base, nvc)
    ack = s.signer.sign(ack_preimage(s.chain_id, s.cfg, s.me, s.view, summary))
    message_set = tuple(message for message, _ in sorted(chosen, key=lambda found: found[0].sender))
    s.installing = NewView(s.cfg.number, s.view, message_set, base.height, nvc, 0, b"", ack)
    s.out.persist.append(ViewRecord("new_view", s.cfg.number, s.view, encode(s.installing)))
    s.certify(Install(s.view, summary))


def on_installed(s: State, request: Install, answer: Ui | Refused) -> None:
    """The component signed the one NEW-VIEW of this view (A-57): send it, act on it."""
    draft, s.installing = s.installing, None
    if isinstance(answer, Refused) or draft is None or draft.view != request.view:
        s.notice("tc_refused", code=getattr(answer, "code", "stale"), reason=f"new view {request.view}")
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
    _prune(s)
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
        if height > s.stable_height and obtain(s, height, digest) is None:
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
    _record_own_evidence(s)
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
        _help_departed(s, message.sender)
        return
    if message.sender >= len(s.cfg.members) or message.sender in s.acks.get(message.view, ()):
        return
    preimage = ack_preimage(s.chain_id, s.cfg, message.sender, message.view, message.digest)
    if not s.verifier.signed(s.cfg, message.sender, preimage, message.signature):
        raise PeerFault("bad_signature", "NV-ACK")
    table = s.acks.setdefault(message.view, {})
    table[message.sender] = (message.digest, Vote(message.sender, 0, message.signature))
    _prune(s)
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
    _record_own_evidence(s)
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
    _prune(s)
    s.notice("view_entered", view=s.view, primary=s.primary)
    s.host.view_entered(certificate.nvc)
    for slot in s.slots.values():
        slot.waiting = None
        if slot.certificate is None:
            slot.accepted_ms = -1 if certificate.digest_at(slot.height) is None else s.now
    s.next_height = max(certificate.top, s.stable_height, s.executed) + 1
    if s.primary == s.me and s.voter:
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


# --- timers -----------------------------------------------------------------------------------


def timeout_ms(s: State, first_ms: int) -> int:
    """T(k) = min(T0 * 2^k, Tmax)."""
    return min(first_ms << min(s.backoff, 16), s.options.t_max_ms)


def find_complaint(s: State) -> str:
    """Why this replica wants another view; empty if it does not (A-23, A3.6)."""
    if not s.active:
        late = s.now - s.departed_ms > timeout_ms(s, s.options.t_view_change_ms)
        return "the view change takes too long" if late else ""
    if s.complaint:
        return s.complaint
    patience = timeout_ms(s, s.options.t_request_ms)
    pending = s.host.oldest_pending_ms()
    if pending is not None and s.now - max(pending, s.entered_ms) > patience:
        return "a request waits too long"
    for change, first_seen in s.admissions.values():
        if s.now - max(first_seen, s.entered_ms) > patience and barrier.orderable(s, change):
            return "a new trusted component waits too long"
    for height in sorted(s.slots):
        slot = s.slots[height]
        if height > s.executed and slot.accepted_ms >= 0:
            if s.now - max(slot.accepted_ms, s.entered_ms) > patience:
                return "an accepted block is not executed"
            break
    return ""


def retransmit(s: State) -> None:
    """While not active: own VIEW-CHANGE, NEW-VIEW and acknowledgement again (A-60, S-28)."""
    if s.active or s.now - s.retransmitted_ms < s.options.t_retransmit_ms:
        return
    s.retransmitted_ms = s.now
    if s.own_departure is not None and s.own_departure.to == s.view:
        s.broadcast(s.own_departure)
    own_new_view = s.new_views.get(s.view)
    if own_new_view is not None and s.primary == s.me:
        s.broadcast(own_new_view)
    if s.own_ack is not None and s.own_ack.view == s.view and not s.pending_ack:
        s.broadcast(s.own_ack)
