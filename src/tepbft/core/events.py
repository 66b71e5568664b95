"""One door in, one value out: the events a node takes and the effects it returns.

Effects state their order: `persist` is written before anything in `certify` is
asked of the trusted component, and on the disk before its answers come back and
before anything in `send` or `replies` leaves (outcomes of blocks need only be
written before a reply, see `Effects.must_force`). A component that outlives its
host's power is asked only once it is on the disk (ADR 0023). What it answers
comes back in as `TcAnswered`; messages that need its signature are sent by that
later step. A crash between any two of these ends in a retransmission, never in a
lost promise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from msgspec import Struct

from tepbft.core.block import Header, Receipt, Request
from tepbft.core.configuration import ReplaceTc
from tepbft.storage.port import OUTCOMES, Record, StateWrites
from tepbft.trusted.port import TcAnswer, TcRequest
from tepbft.types import ConnectionId, Height, NodeId

# --- events -----------------------------------------------------------------------------------


class PeerMessage(Struct, frozen=True):
    """A decoded message; `sender` is whom the mutually authenticated link belongs to."""

    sender: NodeId
    message: Any
    """One of the protocol's message union (`protocols.<room>.messages.Message`)."""


class ClientRequests(Struct, frozen=True):
    """Decoded requests from one client connection, signatures not checked yet."""

    connection: ConnectionId
    requests: Sequence[Request]
    more: bool = False
    """Further requests are at hand and follow at once: a block may wait for them."""
    pressed: bool = False
    """The node has had hardly a moment to spare lately: fuller blocks are worth more than prompt ones."""


class ConnectionClosed(Struct, frozen=True):
    """A client connection is gone: forget where to send its replies."""

    connection: ConnectionId


class TcAnswered(Struct, frozen=True):
    """The trusted component's answer to a request that an earlier step asked for."""

    request: TcRequest
    answer: TcAnswer


class AdmissionRequested(Struct, frozen=True):
    """This node's own replacement of its trusted component, signed by its operator."""

    change: ReplaceTc


class Tick(Struct, frozen=True):
    """Time has passed. The shell sends one every 5 to 20 ms and after each batch of input."""

    wall_ms: int
    """Wall clock, Unix milliseconds; used for block timestamps only."""


Event: TypeAlias = PeerMessage | ClientRequests | ConnectionClosed | TcAnswered | AdmissionRequested | Tick

# --- effects ----------------------------------------------------------------------------------


class Send(Struct, frozen=True):
    """Send `message` to each node of `to` (never the node itself)."""

    to: tuple[NodeId, ...]
    message: Any


class Reply(Struct, frozen=True):
    """Outcomes for one client connection, grouped per block. `height` is where they took effect."""

    connection: ConnectionId
    height: Height
    receipts: Sequence[Receipt]


class Busy(Struct, frozen=True):
    """Requests that were not admitted: (client, session, seq, code) each. No timer runs for them.

    `code` is `busy`, `unknown_client`, `bad_signature`, `too_large`, `out_of_window`.
    """

    connection: ConnectionId
    requests: Sequence[tuple[bytes, int, int, str]]


class InstallState(Struct, frozen=True):
    """Move the stored state to the stable height (`ChainStore.install`)."""

    writes: Sequence[StateWrites]
    stable: Height
    header: Header


class SaveSnapshot(Struct, frozen=True):
    """Keep a snapshot's chunks (`ChainStore.save_snapshot`)."""

    height: Height
    chunks: Sequence[bytes]


class ReplaceState(Struct, frozen=True):
    """Put a verified snapshot in place of the state (`ChainStore.replace_state`)."""

    height: Height
    header: Header
    certificate: Any
    chunks: Sequence[bytes]


class Notice(Struct, frozen=True):
    """A structured event for logs, metrics, dashboards and trace checkers: nothing greps logs.

    `name` is a stable word, `fields` plain values (str, int, bool). Names in use:
    `executed` (height, requests, view), `stable` (height), `view_change_requested` (target,
    cause), `view_left` (to), `view_entered` (view), `peer_fault` (sender, code, detail),
    `client_fault` (code, count), `diverged` (height), `state_transferred` (height, from),
    `configuration` (number, node), `tc_refused` (code, reason), `alarm` (what, detail).
    """

    name: str
    fields: dict[str, Any]


StorageEffect: TypeAlias = InstallState | SaveSnapshot | ReplaceState


class Effects(Struct):
    """What a step wants done, in this order: announce, persist, store, certify, send, replies, notices.

    What is announced was signed by the trusted component. All that it depends on was on the disk before
    the component's answer came back: it need not wait for what else is to be persisted (ADR 0017)."""

    announce: list[Send] = []
    persist: list[Record] = []
    store: list[StorageEffect] = []
    certify: list[TcRequest] = []
    send: list[Send] = []
    replies: list[Reply] = []
    busy: list[Busy] = []
    notices: list[Notice] = []

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(
            self.send
            or self.persist
            or self.announce
            or self.certify
            or self.replies
            or self.notices
            or self.store
            or self.busy
        )

    def must_force(self) -> bool:
        """Whether what is to be persisted has to be on the disk before the rest is done: all but outcomes
        that neither the trusted component nor the state depends on (ADR 0022). Where only the component
        depends on it, it may work meanwhile (ADR 0023)."""
        if self.certify or self.store:
            return True
        return not all(isinstance(record, OUTCOMES) for record in self.persist)

    def then(self, more: Effects) -> Effects:
        """These and those of a later step; may change and give either."""
        if not self:
            return more
        self.announce += more.announce
        self.persist += more.persist
        self.store += more.store
        self.certify += more.certify
        self.send += more.send
        self.replies += more.replies
        self.busy += more.busy
        self.notices += more.notices
        return self
