"""What goes into a client session and what comes out: options, events, outcomes, effects."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from msgspec import Struct

from tepbft.core.block import OK, STATUS_NAMES
from tepbft.core.events import Send
from tepbft.types import MAX_OPERATION_BYTES

NOT_ADMITTED = 255
"""Status of an outcome that no block holds: f+1 nodes would not even take the request up."""


class SessionOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Times in milliseconds and limits."""

    window: int = 128
    """W: requests outstanding; not above the `client_window` of the genesis."""
    queue_requests: int = 65_536
    """Operations that may wait for the window; above it `submit` raises."""
    queue_bytes: int = 64 << 20
    operation_bytes: int = MAX_OPERATION_BYTES
    retransmit_ms: float = 1000
    """First repetition; doubles up to `retransmit_max_ms`, jitter of a quarter either way."""
    retransmit_max_ms: float = 10_000
    busy_ms: float = 50
    """First repetition to a node that said BUSY; doubles up to `busy_max_ms`."""
    busy_max_ms: float = 2000
    proof_after: int = 3
    """Repetitions after which one node in turn is asked for a proven receipt (A-33)."""
    client_send: str = "all"
    """`all`, or `primary_first`: first to the presumed primary alone, repetitions always to all. The other
    nodes get one request of each connection, so that they know where to send their answers. It saves nodes
    work; a primary that keeps quiet about a request is found out only after its first repetition."""

    def check(self) -> list[str]:
        """What is contradictory about these values; empty if nothing."""
        wrong = []
        if not 1 <= self.window <= 1024:
            wrong.append(f"window must be 1..1024, not {self.window}")
        if self.client_send not in ("all", "primary_first"):
            wrong.append("client_send must be 'all' or 'primary_first'")
        if min(self.retransmit_ms, self.busy_ms) <= 0 or self.proof_after < 1:
            wrong.append("retransmit_ms, busy_ms and proof_after must be positive")
        if self.queue_requests < 1 or self.queue_bytes < self.operation_bytes:
            wrong.append("the queue must hold at least one operation")
        return wrong


class FromNode(Struct, frozen=True):
    """A decoded message from the node to which the connection belongs."""

    node: int
    message: Any
    """One of `wire.ClientMessage`."""


class NodeConnected(Struct, frozen=True):
    """A connection to this node is up: what is outstanding goes there at the next tick."""

    node: int


class Tick(Struct, frozen=True):
    """Send what is due."""


ClientEvent: TypeAlias = FromNode | NodeConnected | Tick


class Outcome(Struct, frozen=True):
    """What became of one request."""

    session: int
    seq: int
    height: int
    """Block in which it took effect; 0 if it was not admitted."""
    status: int
    """As in `core.block` (OK, REFUSED, CONFLICT, STALE), or `NOT_ADMITTED`. STALE means that the same
    client opened a newer session meanwhile; whether the operation took effect before is not known."""
    result: bytes
    """The application's answer, or why it refused (UTF-8)."""
    receipt_digest: bytes
    """`Receipt.digest`; empty if it was not admitted."""
    nodes: tuple[int, ...]
    """Who said so: f+1 nodes, or one with a proof."""
    latency_ms: float
    proven: bool = False

    @property
    def ok(self) -> bool:
        """True if the operation took effect."""
        return self.status == OK

    @property
    def status_name(self) -> str:
        """The status in a word."""
        return STATUS_NAMES[self.status] if self.status < len(STATUS_NAMES) else "not_admitted"


@dataclass(slots=True)
class ClientEffects:
    """What a step wants done: messages to nodes, and requests that are complete."""

    send: list[Send] = field(default_factory=list)
    """`Submit` and `WantProof`; the same message object may go to several nodes."""
    completed: list[Outcome] = field(default_factory=list)
