"""When to cut a block: greedy and adaptive.

An idle primary proposes at once, so a lone request waits for nobody. A busy one
lets requests gather while its blocks are under way: the fuller the blocks, the
cheaper each request. Nothing waits longer than `max_wait_ms` for company, as long as
fewer than `in_flight_limit` blocks are under way and the window has room.
"""

from __future__ import annotations

from msgspec import Struct

from tepbft.types import Height, Millis


class Sealing(Struct, frozen=True):
    """What a decision depends on, at one moment."""

    now_ms: Millis
    waiting: int
    """Requests in the pool that are in no block."""
    waiting_bytes: int
    oldest_waiting_ms: Millis | None
    """When the oldest of them was first seen."""
    in_flight: int
    """Own proposals of this view that are not executed yet."""
    next_height: Height
    stable: Height


class Sealer(Struct, frozen=True):
    """The rule. It holds no state: the same moment gives the same answer."""

    block_requests: int
    block_bytes: int
    window: int
    """BL: nothing is proposed above stable + window (A3.3)."""
    in_flight_limit: int = 4
    max_wait_ms: int = 5

    def may_propose(self, moment: Sealing) -> bool:
        """True if another block, of whatever content, may be under way."""
        return moment.in_flight < self.in_flight_limit and moment.next_height <= moment.stable + self.window

    def should_seal(self, moment: Sealing) -> bool:
        """True if a block should be cut now."""
        if not moment.waiting or not self.may_propose(moment):
            return False
        if not moment.in_flight:
            return True
        if moment.waiting >= self.block_requests or moment.waiting_bytes >= self.block_bytes:
            return True
        oldest = moment.oldest_waiting_ms
        return oldest is not None and moment.now_ms - oldest >= self.max_wait_ms

    def wake_at_ms(self, moment: Sealing) -> Millis | None:
        """When `should_seal` becomes true by time alone; None if something else has to happen first."""
        oldest = moment.oldest_waiting_ms
        if not moment.waiting or oldest is None or not self.may_propose(moment):
            return None
        return moment.now_ms if self.should_seal(moment) else oldest + self.max_wait_ms
