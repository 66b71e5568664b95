"""The view change: complaints, departures, certified new views (A3.4).

A view is entered only with a certificate of f+1 acknowledgements (A-52), which is
also what later evidence from that view must show. All messages are sent again
until superseded (A-60), and both timers back off (A-59).
"""

from __future__ import annotations

from tepbft.core.block import Block, null_block
from tepbft.core.certificates import PrepareHead
from tepbft.errors import PeerFault
from tepbft.protocols.tep import barrier
from tepbft.protocols.tep.evidence import (
    check_req_vc,
    check_view_change,
)
from tepbft.protocols.tep.messages import (
    Departure,
    ReqVc,
    ViewChange,
    departure_digest,
    req_vc_preimage,
)
from tepbft.protocols.tep.state import State
from tepbft.storage.port import PrepareRecord, ViewRecord
from tepbft.trusted.port import (
    Depart,
    DepartureUi,
    Refused,
)
from tepbft.types import Height, NodeId
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
    prune(s)
    s.replay = True


def record_own_evidence(s: State) -> None:
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
    s.departing = None
    try:
        _keep_departure(s, message)
    except PeerFault as error:
        # Its disk was replaced, its component was not: it cannot explain what it signed until a
        # stable checkpoint covers that (A2). The others do without this departure.
        s.notice("alarm", what="evidence for own statements is lost", detail=error.detail)
        return
    s.own_departure = message
    s.broadcast(message)


def on_view_change(s: State, sender: NodeId, message: ViewChange) -> None:
    """Merge its trigger (one valid VIEW-CHANGE moves every correct replica), keep its evidence."""
    if message.cfg != s.cfg.number:
        if message.cfg > s.cfg.number:
            s.postpone(sender, message)
        return
    if message.to < s.view or (message.to == s.view and s.active):
        help_departed(s, message.sender)
        return
    if message.sender in s.departures.get(message.to, ()):
        return
    for request in message.content.trigger[: s.quorums.n]:
        if request.target > s.view and request.cfg == s.cfg.number:
            _merge_request(s, request)
    consider_leaving(s)
    _keep_departure(s, message)


def help_departed(s: State, node: NodeId) -> None:
    """A peer still waits in a view that is certified here: give it the certificate."""
    if s.certificate is not None and node in s.peers and s.may_help(node, "certificate"):
        s.send(node, s.certificate)


def _keep_departure(s: State, message: ViewChange) -> None:
    evidence = check_view_change(s.setting, message, message.to)
    s.departures.setdefault(message.to, {})[message.sender] = (message, evidence)
    prune(s)
    for height, (_, digest) in sorted(evidence.items()):
        if height > s.stable_height and obtain(s, height, digest) is None:
            s.want(height, digest, message.sender)


def prune(s: State) -> None:
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
