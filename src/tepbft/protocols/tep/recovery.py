"""Recovery: from what a store holds back to a replica that can keep its promises (A2, I-16, S-32).

Statements that may have been signed and never sent are asked for again; the component
re-emits them unchanged. What it attested is on disk, so that a VIEW-CHANGE can always
be built (I-5).
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from tepbft.core.block import CONFIG
from tepbft.core.configuration import next_configuration
from tepbft.core.verification import check_prepare
from tepbft.errors import TepbftError
from tepbft.protocols.tep.messages import (
    NewView,
    NewViewCertificate,
    ViewChange,
    departure_digest,
    summary_digest,
)
from tepbft.protocols.tep.new_view import base_certificate
from tepbft.protocols.tep.state import State
from tepbft.storage.port import (
    BodyRecord,
    CommitRecord,
    PrepareRecord,
    Recovered,
    StableRecord,
    ViewRecord,
)
from tepbft.trusted.port import (
    COMMIT,
    PREPARE,
    AdvanceFloor,
    BeginConfig,
    Depart,
    Identity,
    Install,
    Order,
)

T = TypeVar("T")


def load(s: State, recovered: Recovered, identity: Identity) -> None:
    """Rebuild slots, certificates and the view from the store's records."""
    if identity.cfg > s.cfg.number:
        s.voter = False  # the component is in a later configuration: nothing of this one is signed again
    views: dict[str, ViewRecord] = {}
    for record in recovered.records:
        if isinstance(record, BodyRecord):
            _load_body(s, record)
        elif isinstance(record, PrepareRecord):
            _load_prepare(s, record)
        elif isinstance(record, CommitRecord):
            _load_commit(s, record)
        elif isinstance(record, StableRecord):
            _load_stable(s, record)
        elif isinstance(record, ViewRecord) and record.cfg == s.cfg.number:
            views[record.slot] = record
    s.collect_unreferenced()
    _load_barrier(s)
    if identity.cfg < s.cfg.number:
        s.certify(BeginConfig(s.cfg.number, s.cfg.digest(), s.cfg.floor))
    _load_view(s, views, identity)
    heights = [height + 1 for height, slot in s.slots.items() if slot.ordered_view >= s.certified_view]
    top = s.certificate.top + 1 if s.certificate is not None else 0
    s.next_height = max([s.next_height, s.stable_height + 1, s.executed + 1, top, *heights])
    s.certify(AdvanceFloor(s.stable_height))


def _load_body(s: State, record: BodyRecord) -> None:
    block = record.block
    if block.height > min(s.executed, s.stable_height) and block.cfg == s.cfg.number:
        slot = s.slot(block.height)
        slot.bodies[record.digest] = block
        slot.recorded.add(record.digest)


def _load_prepare(s: State, record: PrepareRecord) -> None:
    head = record.prepare
    if record.cfg != s.cfg.number or head.height <= s.cfg.floor:
        return
    slot = s.slot(head.height)
    slot.ordered_view = max(slot.ordered_view, head.view)
    if not head.signature:
        slot.draft = head
    elif check_prepare(s.cfg, head, s.verifier):
        slot.prepares[head.view] = head
        slot.heads[(head.view, head.digest)] = head


def _load_commit(s: State, record: CommitRecord) -> None:
    certificate = record.certificate
    if certificate.cfg == s.cfg.number and certificate.height > s.executed:
        slot = s.slot(certificate.height)
        slot.certificate = certificate
        slot.commit_recorded = True


def _load_stable(s: State, record: StableRecord) -> None:
    if record.certificate.cfg == s.cfg.number and record.certificate.height > s.stable_height:
        s.stable_height, s.stable_certificate = record.certificate.height, record.certificate


def _load_barrier(s: State) -> None:
    """A CONFIG block may be installed and the configuration after it not begun: the crash came between."""
    stored = s.store.block(s.executed) if s.executed > s.cfg.floor else None
    if stored is not None and stored.block.kind == CONFIG and stored.block.cfg == s.cfg.number:
        s.barrier, s.following = s.executed, next_configuration(s.cfg, stored.block)


def _stored(record: ViewRecord, kind: type[T]) -> T:
    """The message in a record. TepbftError: this node cannot say any more what it promised."""
    try:
        return msgspec.msgpack.decode(record.data, type=kind)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise TepbftError(
            f"the journal's record of {record.slot}",
            f"it is unreadable ({str(error)[:200]})",
            "Start this node with an empty store and a new trusted component: it may have promised "
            "what it cannot look up",
        ) from None


def _load_view(s: State, views: dict[str, ViewRecord], identity: Identity) -> None:
    found = views.get("new_view_certificate")
    if found is not None:
        s.certificate = _stored(found, NewViewCertificate)
        s.view = s.certified_view = s.certificate.view
        base = s.certificate.checkpoint
        if base.height > s.stable_height:
            # A crash tore the append after the view's certificate. Without the base of its view as its
            # checkpoint this replica could not leave it (V5).
            s.stable_height, s.stable_certificate = base.height, base
            s.out.persist.append(StableRecord(base, None))
    if not s.voter:
        return
    if identity.cfg == s.cfg.number and identity.view > s.view:
        s.view, s.active = identity.view, False
        s.departed_ms = s.now
    left = views.get("view_change")
    if left is not None and left.view > s.certified_view and left.view >= s.view:
        s.view, s.active = left.view, False
        s.departed_ms = s.now
        s.departing = _stored(left, ViewChange)
        _reinstate_evidence(s, s.departing)
        s.certify(Depart(s.departing.to, departure_digest(s.departing.content)))
    draft = views.get("new_view")
    if draft is not None and draft.view == s.view and not s.active:
        s.installing = _stored(draft, NewView)
        base = base_certificate(s.installing)
        summary = summary_digest(s.cfg.number, draft.view, base, s.installing.nvc)
        s.certify(Install(draft.view, summary))


def _reinstate_evidence(s: State, departure: ViewChange) -> None:
    """A departure lists this replica's own signed PREPAREs too: later departures need them."""
    for head in departure.content.prepares:
        if head.height > s.stable_height:
            s.slot(head.height).prepares.setdefault(head.view, head)


def sign_again(s: State) -> None:
    """Ask again for the statements of the current view above the stable height."""
    if not s.active:
        return
    for height in sorted(s.slots):
        slot = s.slots[height]
        head = slot.prepares.get(s.view) or slot.draft
        if height <= s.stable_height or head is None or head.view != s.view:
            continue
        slot.accepted_ms = s.now
        kind = PREPARE if s.primary == s.me else COMMIT
        s.outstanding += kind == PREPARE
        s.certify(Order(kind, s.view, height, head.digest))
        block = slot.bodies.get(head.digest)
        if block is not None and height > s.executed:
            s.host.accepted(block, head.digest)
