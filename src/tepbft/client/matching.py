"""When a client may believe an answer: f+1 nodes that say exactly the same (A-43, I-14).

At most f nodes lie, so among f+1 that agree one is correct, and a correct node
reports what the agreed chain holds. The view is left out of the comparison: correct
nodes may execute one block in different views.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TypeAlias

from tepbft.core.block import CONFLICT, OK, REFUSED, STALE, Receipt

FINAL_STATUSES = frozenset((OK, REFUSED, CONFLICT, STALE))
"""Outcomes that end a request. OUT_OF_WINDOW is not recorded by the chain and DUPLICATE only says
that there is an earlier outcome: a client that took either as an answer could be wrong later."""

_LONG = 256
Claim: TypeAlias = tuple[int, int, bytes]
"""(height, status, result or its digest): with the request digest, what has to be equal."""


def claim_of(height: int, receipt: Receipt) -> Claim:
    """What a node claims by `receipt`. Long results are kept as digests, so that liars cannot
    make a client hold n of them."""
    result = receipt.result
    if len(result) > _LONG:
        # Longer than any result that is kept as it is: the two cannot be mistaken for each other.
        result = b"\xff" * _LONG + sha256(result).digest()
    return height, receipt.status, result


class Matcher:
    """The claims about one request, one per node: a node's newer claim replaces its older one."""

    __slots__ = ("_claims",)

    def __init__(self) -> None:
        self._claims: dict[int, Claim] = {}

    def add(self, node: int, claim: Claim, needed: int) -> tuple[int, ...] | None:
        """The `needed` or more nodes that claim the same as `node` does now; None while fewer do."""
        claims = self._claims
        claims[node] = claim
        if len(claims) < needed:
            return None
        same = tuple(sorted(other for other, theirs in claims.items() if theirs == claim))
        return same if len(same) >= needed else None

    def __len__(self) -> int:
        return len(self._claims)
