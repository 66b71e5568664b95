"""What a TEP-BFT replica knows: its configuration, its view, its window of slots.

`stable_height` (the window's position: needs only a certificate) and the executed
height (needs state) are separate: a replica may hold a certificate above what it
executed, and takes part in ordering meanwhile (A3.3).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tepbft.core.block import Block, Header
from tepbft.core.certificates import CommitCertificate, PrepareHead, Vote
from tepbft.core.configuration import Configuration, Parameters, ReplaceTc
from tepbft.core.events import Effects, Notice, Send
from tepbft.core.host import Host
from tepbft.core.options import NodeOptions
from tepbft.core.verification import NodeSigner, Verifier
from tepbft.errors import PeerFault
from tepbft.protocols.tep.evidence import Evidence, Setting
from tepbft.protocols.tep.messages import (
    Commit,
    FetchBody,
    NewView,
    NewViewCertificate,
    NvAck,
    Offer,
    Prepare,
    ReqVc,
    Status,
    ViewChange,
)
from tepbft.storage.port import BodyRecord, ChainStore
from tepbft.trusted.port import AdvanceFloor, BeginConfig, TcRequest
from tepbft.types import Height, Millis, NodeId, View

MAX_VOTE_SETS = 8
"""Distinct (view, digest) pairs for which a slot keeps votes; lower views make room."""
MAX_HELP_KINDS = 512
"""Kinds of help to one peer that are remembered at once (I-17)."""
MAX_POSTPONED_BODY = 1 << 18
"""A postponed message keeps a body up to this size; a larger one is fetched again, bytes."""
MAX_BODIES = 8
"""Bodies that a slot holds at once."""


@dataclass(slots=True)
class Slot:
    """Everything about one height above the executed one (or above the stable one)."""

    height: Height
    bodies: dict[bytes, Block] = field(default_factory=dict)
    recorded: set[bytes] = field(default_factory=set)
    """Digests whose BodyRecord was handed to the store."""
    prepares: dict[View, PrepareHead] = field(default_factory=dict)
    """Accepted PREPAREs: the evidence for this replica's own registers."""
    votes: dict[tuple[View, bytes], dict[NodeId, Vote]] = field(default_factory=dict)
    heads: dict[tuple[View, bytes], PrepareHead] = field(default_factory=dict)
    certificate: CommitCertificate | None = None
    waiting: PrepareHead | None = None
    """A PREPARE that passed all checks but for a body, a timestamp or its turn."""
    draft: PrepareHead | None = None
    """An own proposal found on disk that may or may not have been signed."""
    commit_recorded: bool = False
    ordered_view: View = -1
    """Highest view in which this replica asked its component for a statement here."""
    own: Any = None
    """Own Prepare or Commit of `ordered_view`, to be sent again when lost."""
    own_sent_ms: Millis = 0
    accepted_ms: Millis = -1


@dataclass(slots=True)
class Peer:
    """What is known of a peer, and when it was last helped (bounded: one per member)."""

    status: Status | None = None
    heard_ms: Millis = -1
    helped_ms: dict[str, Millis] = field(default_factory=dict)
    future: deque[Any] = field(default_factory=deque)
    """Messages for later views or heights, oldest dropped first (A-21)."""


@dataclass(slots=True)
class Transfer:
    """A state transfer under way: what one server offered, and the chunks so far."""

    server: NodeId
    offer: Offer
    following: list[Configuration]
    """Configurations that the offer's links proved, in order."""
    chunks: dict[int, bytes] = field(default_factory=dict)
    asked_ms: Millis = 0


class State:
    """The replica's state. Handlers are functions over it, one module per concern."""

    def __init__(
        self,
        *,
        me: NodeId,
        chain_id: bytes,
        cfg: Configuration,
        parameters: Parameters,
        options: NodeOptions,
        tc_id: bytes,
        verifier: Verifier,
        signer: NodeSigner,
        host: Host,
        store: ChainStore,
        head: Header,
        floor_digest: bytes,
    ) -> None:
        self.me, self.chain_id, self.tc_id = me, chain_id, tc_id
        self.parameters, self.options = parameters, options
        self.verifier, self.signer, self.host, self.store = verifier, signer, host, store
        self.window = parameters.window
        self.now: Millis = 0
        self.out = Effects()
        self.head = head
        """Header of the last executed block."""
        self.headers: dict[Height, Header] = {}
        """Executed headers above the stable height."""
        self.history: dict[int, Configuration] = {}
        self.diverged_at: Height = -1
        """Height at which this replica's execution was not the agreed one; it votes no more until healed."""
        self.snapshot_only = False
        """Execution stands still: it differed twice. A snapshot is asked for."""
        self.diverged_ms: Millis = 0
        self.replay = False
        """Postponed messages may have become processable."""
        self.paused = False
        """Execution waits for the next step: the store is about to be replaced."""
        self.admissions: dict[NodeId, tuple[ReplaceTc, Millis]] = {}
        """Replacements of trusted components that want to be ordered; one per node."""
        self.own_admission: ReplaceTc | None = None
        self.admission_sent_ms: Millis = 0
        self.view_changes = 0
        self.progress_ms: Millis = 0
        """When the last block was executed."""
        self.pull_turn = 0
        self.pulled_from: NodeId = -1
        """The peer asked last: only its offer of a snapshot is looked at."""
        self.pulled_ms: Millis = 0
        self.pulled_until: Height = 0
        self.transfer: Transfer | None = None
        self.status_ms: Millis = 0
        self.begin(cfg, floor_digest)

    def begin(self, cfg: Configuration, floor_digest: bytes) -> None:
        """Start in `cfg`, view 0, above its floor: all that belonged to an earlier configuration is void."""
        self.cfg = cfg
        self.history[cfg.number] = cfg
        self.quorums = cfg.quorums
        self.setting = Setting(self.chain_id, cfg, floor_digest, self.window, self.verifier)
        self.voter = cfg.members[self.me].tc_id == self.tc_id
        self.others = tuple(m.node for m in cfg.members if m.node != self.me)
        self.view: View = 0
        self.active = True
        self.certified_view: View = 0
        self.certificate: NewViewCertificate | None = None
        self.entered_ms = self.now
        self.stable_height = cfg.floor
        self.stable_certificate = self.setting.floor_certificate()
        self.slots: dict[Height, Slot] = {}
        self.checkpoints: dict[Height, dict[bytes, dict[NodeId, Vote]]] = {}
        self.own_checkpoints: dict[Height, Any] = {}
        self.own_checkpoint_sent_ms = 0
        self.checkpoint_asked: Height = cfg.floor
        """Highest height for which a CHECKPOINT statement was asked for."""
        self.following: Configuration | None = None
        """The configuration that an executed CONFIG block leads to."""
        self.recognised: Block | None = None
        """The CONFIG block at the head, if a snapshot brought the head: the ledger lacks it."""
        self.barrier: Height = -1
        """Height of a final CONFIG block: nothing above it belongs to this configuration."""
        self.closing: Height = -1
        """Height of a CONFIG block that this primary proposed: it proposes nothing above (A8.3)."""
        self.next_height = cfg.floor + 1
        self.outstanding = 0
        """PREPARE statements asked for and not answered: no VIEW-CHANGE may be built meanwhile."""
        self.requests: dict[NodeId, tuple[ReqVc, Millis]] = {}
        self.departures: dict[View, dict[NodeId, tuple[ViewChange, Evidence]]] = {}
        self.own_departure: ViewChange | None = None
        self.departing: ViewChange | None = None
        self.leaving_to: View = -1
        self.new_views: dict[View, NewView] = {}
        self.installing: NewView | None = None
        self.refused_install: View = -1
        """Highest view whose NEW-VIEW the component declined to sign."""
        self.acks: dict[View, dict[NodeId, tuple[bytes, Vote]]] = {}
        self.own_ack: NvAck | None = None
        self.pending_ack = False
        """The acknowledgement is signed, but the component has not entered the view yet."""
        self.departed_ms: Millis = 0
        self.retransmitted_ms: Millis = 0
        self.complaint = ""
        self.backoff = 0
        """k of A3.6."""
        self.executed_in_view = 0
        self.wanted: dict[bytes, tuple[Height, Millis, int]] = {}
        known: dict[NodeId, Peer] = getattr(self, "peers", {})
        self.peers: dict[NodeId, Peer] = {node: known.get(node) or Peer() for node in self.others}
        self.replay = True

    # --- small helpers, no decisions ---

    @property
    def executed(self) -> Height:
        """Height of the last executed block."""
        return self.head.height

    @property
    def base(self) -> Height:
        """Height below the first one of the certified view."""
        return self.certificate.base if self.certificate else self.cfg.floor

    @property
    def primary(self) -> NodeId:
        """Primary of the current (or awaited) view."""
        return self.cfg.primary(self.view)

    def slot(self, height: Height) -> Slot:
        """The slot at `height`, made if need be; callers check the window first."""
        found = self.slots.get(height)
        if found is None:
            found = self.slots[height] = Slot(height)
        return found

    def send(self, to: NodeId, message: Any) -> None:
        """Queue `message` for one peer."""
        self.out.send.append(Send((to,), message))

    def broadcast(self, message: Any) -> None:
        """Queue `message` for every other member."""
        self.out.send.append(Send(self.others, message))

    def announce(self, message: Any) -> None:
        """Queue `message`, which the trusted component signed, for every other member: ahead of what
        this step persists."""
        self.out.announce.append(Send(self.others, message))

    def certify(self, request: TcRequest) -> None:
        """Ask the trusted component, if it is a member; a silent node asks nothing (A8.2). A diverged one
        signs nothing, but its component keeps up, or it could not vote once it has healed (A-35)."""
        if self.voter and (self.diverged_at < 0 or isinstance(request, AdvanceFloor | BeginConfig)):
            self.out.certify.append(request)

    def notice(self, name: str, **fields: Any) -> None:
        """Emit a structured event."""
        self.out.notices.append(Notice(name, fields))

    def fault(self, sender: NodeId, error: PeerFault) -> None:
        """Count a peer's inadmissible message."""
        self.notice("peer_fault", sender=sender, code=error.code, detail=error.detail)

    def keep_body(self, slot: Slot, digest: bytes, block: Block) -> None:
        """Hold a body; bounded, the oldest that nothing refers to goes first."""
        if digest in slot.bodies:
            return
        if len(slot.bodies) >= MAX_BODIES:
            needed = {head.digest for head in slot.prepares.values()}
            for other in list(slot.bodies):
                if other not in needed and not (slot.certificate and slot.certificate.digest == other):
                    del slot.bodies[other]
                    self.host.dropped(other)
                    break
        slot.bodies[digest] = block

    def record_body(self, slot: Slot, digest: bytes) -> None:
        """Put the body on disk before anything refers to it (write-ahead rule of A2)."""
        if digest not in slot.recorded and digest in slot.bodies:
            slot.recorded.add(digest)
            self.out.persist.append(BodyRecord(digest, slot.bodies[digest]))

    def collect_unreferenced(self) -> None:
        """After recovery: forget slots at or below what is both executed and stable."""
        done = min(self.stable_height, self.executed)
        for height in [height for height in self.slots if height <= done]:
            del self.slots[height]

    def body(self, height: Height, digest: bytes) -> Block | None:
        """A block by digest: from the window, or from the ledger."""
        slot = self.slots.get(height)
        if slot is not None and digest in slot.bodies:
            return slot.bodies[digest]
        if height <= self.executed:
            stored = self.store.block(height)
            if stored is not None and stored.certificate.digest == digest:
                return stored.block
        return None

    def want(self, height: Height, digest: bytes, asked: NodeId | None) -> None:
        """Note a missing body, and ask for it (bounded by two windows of heights)."""
        if digest in self.wanted or len(self.wanted) >= 2 * self.window:
            return
        from_node = asked if asked is not None and asked != self.me else self.others[0]
        self.wanted[digest] = (height, self.now, from_node)
        self.send(from_node, FetchBody(height, digest))

    def may_help(self, node: NodeId, kind: str) -> bool:
        """True at most once per retransmission interval, peer and kind of help."""
        peer = self.peers.get(node)
        if peer is None:
            return False
        last = peer.helped_ms.get(kind)
        if last is not None and self.now - last < self.options.t_retransmit_ms:
            return False
        if len(peer.helped_ms) >= MAX_HELP_KINDS:  # what is older than the interval says nothing any more
            limit = self.now - self.options.t_retransmit_ms
            peer.helped_ms = {kind: at for kind, at in peer.helped_ms.items() if at > limit}
            if len(peer.helped_ms) >= MAX_HELP_KINDS:
                return False
        peer.helped_ms[kind] = self.now
        return True

    def postpone(self, sender: NodeId, message: Any) -> None:
        """Keep a message for a later view or height; at most 2*BL per peer (A-21, A11)."""
        if isinstance(message, NewView | ViewChange):
            return  # large, and repeated by its sender until it is superseded (I-17)
        peer = self.peers.get(sender)
        if peer is not None:
            if len(peer.future) >= 2 * self.window + 8:
                peer.future.popleft()
            block = getattr(message, "block", None)
            if isinstance(message, Prepare | Commit) and block and len(block.body) > MAX_POSTPONED_BODY:
                message = msgspec.structs.replace(message, block=None)
            peer.future.append(message)
