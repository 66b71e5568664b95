"""A node's own knobs (A3.6, A11): they may differ between nodes without harm."""

from __future__ import annotations

from msgspec import Struct


class NodeOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Timers in milliseconds and local limits."""

    t_request_ms: int = 1000
    """T0_req: how long a request may stay pending before this node complains."""
    t_view_change_ms: int = 1000
    """T0_vc: how long a view change may take before the next one."""
    t_max_ms: int = 60_000
    t_status_ms: int = 200
    t_retransmit_ms: int = 500
    stable_blocks: int = 16
    """Executed blocks in one view that take one step back from the back-off."""
    in_flight_blocks: int = 4
    """Own proposals not yet executed, at most."""
    max_wait_ms: int = 5
    """How long a request may wait for a fuller block while others are in flight."""
    pool_requests: int = 65_536
    """Cap on pending requests; the adaptive limit stays below it."""
    timestamp_ahead_ms: int = 60_000
    """A block whose timestamp is further ahead than this waits for its vote."""
