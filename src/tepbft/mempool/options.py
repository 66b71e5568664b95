"""Bounds of the pool (A9, I-17). Local: they may differ between nodes without harm."""

from __future__ import annotations

from msgspec import Struct


class MempoolOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Every bound of a `Mempool`."""

    client_quota: int = 128
    """Admitted requests of one client, pending at a time (W)."""
    capacity: int = 65_536
    """Admitted requests of all clients; the adaptive limit stays at or below it."""
    minimum: int = 512
    """The adaptive limit never falls below this."""
    budget_ms: int = 500
    """How much work may wait: the limit is what this node executes in so much time. Keep it below
    the request timer, or overload alone will cause view changes (A3.6)."""
    capacity_bytes: int = 256 << 20
    """Pending requests of every kind together, in bytes."""
    prepared_capacity: int = 65_536
    """Requests known only from accepted Prepares: window * block size is what one view needs."""
    max_request_bytes: int = (1 << 20) - 1024
    """A request above this fits into no block: set it to `block_bytes` less
    `pool.BODY_OVERHEAD_BYTES`, or lower."""
