"""Quorum arithmetic, here and nowhere else.

Commit quorum q_c = n - f and view-change, acknowledgement and checkpoint quorum
q_v = f + 1, with f = floor((n-1)/2). They add up to n + 1, so every commit quorum
meets every view-change quorum. For n = 2f+1 both are f + 1; for even n they are
not equal, and committing with f + 1 would be unsafe.
"""

from __future__ import annotations

from typing import NamedTuple


class Quorums(NamedTuple):
    """Quorum sizes of one configuration."""

    n: int
    f: int
    commit: int
    """q_c: votes, the primary's Prepare included, that commit a block."""
    certificate: int
    """q_v: VIEW-CHANGEs, NV-ACKs, CHECKPOINTs, REQ-VCs that prove something."""


def quorums(n: int) -> Quorums:
    """Quorums for `n` replicas with trusted components; `n` must be at least 3."""
    if n < 3:
        raise ValueError(f"a cluster needs at least 3 nodes, not {n}")
    f = (n - 1) // 2
    return Quorums(n=n, f=f, commit=n - f, certificate=f + 1)
