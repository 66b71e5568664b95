"""What a node says of itself: for `status`, health checks and metrics."""

from __future__ import annotations

from msgspec import Struct


class PeerStatus(Struct, frozen=True):
    """The last STATUS heard from a peer."""

    node: int
    view: int
    active: bool
    executed: int
    stable: int
    age_ms: int
    """Time since it was heard; -1 if never."""


class NodeStatus(Struct, frozen=True):
    """A snapshot of a node. `phase` is `active`, `view_change`, `silent` (its trusted component is
    not a member), `transferring`, `diverged` or `halted`."""

    node: int
    chain_id: str
    protocol: str
    phase: str
    view: int
    primary: int
    n: int
    f: int
    commit_quorum: int
    configuration: int
    executed: int
    stable: int
    head: str
    """Hex cp_hash at `executed`."""
    tc_id: str
    pending_requests: int
    blocks_in_flight: int
    view_changes: int
    heals: bool
    """Whether this node expects to recover without an operator."""
    verdict: str
    """One sentence for a person: what is wrong, if anything, and what will happen next."""
    peers: list[PeerStatus]
    counters: dict[str, int]
    verification: str = "inline"
    """How signatures of clients are verified: `inline`, `3 threads`, `6 workers`. The core does not know:
    whoever runs it fills this in."""
    extension: bool = False
    """Whether the compiled loops of `tepbft.native` are in use; filled in likewise."""
