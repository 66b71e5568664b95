"""When to cut a block: greedy and adaptive.

An idle primary proposes at once, so a lone request waits for nobody. A busy one
lets requests gather while its blocks are under way: the fuller the blocks, the
cheaper each request. How many have to gather grows steeply with the blocks under way:
with none the others are idle and must be fed, with one they will soon be, with more
there is time for a full block; and also where requests already stand in line to be verified,
or the primary has hardly a moment to spare: another block then takes time from the one under way.
So blocks grow with the load by themselves, until the cost of a block no longer matters.
Nothing waits for company for ever: `max_wait_ms` with one block under way, and longer the
more there are, while more requests are on their way to the pool, or while time is short.
"""

from __future__ import annotations

from msgspec import Struct

from tepbft.types import Height, Millis

LEAST_REQUESTS = 64
"""Enough for a block that feeds idle nodes while more requests are being verified."""
GROWTH = 4
"""Each block under way makes so many times more requests worth waiting for."""
GATHERING = 40
"""So many times `max_wait_ms` may a block fill up while its requests are being verified, or time is short:
a full one takes some 25 ms of a core, and several nodes may have to share one."""


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
    more: bool = False
    """Further requests have arrived and only wait to be verified."""
    pressed: bool = False
    """This node has had hardly a moment to spare lately."""


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

    def _gathers(self, moment: Sealing) -> bool:
        """True while a full block is worth waiting for."""
        return bool(moment.in_flight) and (moment.more or moment.pressed)

    def enough(self, moment: Sealing) -> int:
        """Requests that are worth a block at once."""
        if not moment.in_flight and not moment.more:
            return 1
        if self._gathers(moment):
            return self.block_requests
        worth: int = LEAST_REQUESTS * GROWTH ** min(moment.in_flight, 8)
        return min(self.block_requests, worth)

    def patience_ms(self, moment: Sealing) -> Millis:
        """How long a request waits for company: the more blocks are under way, the less is lost by it."""
        if self._gathers(moment):
            return GATHERING * self.max_wait_ms
        return self.max_wait_ms * max(1, moment.in_flight) ** 2

    def should_seal(self, moment: Sealing) -> bool:
        """True if a block should be cut now."""
        if not moment.waiting or not self.may_propose(moment):
            return False
        if moment.waiting >= self.enough(moment) or moment.waiting_bytes >= self.block_bytes:
            return True
        oldest = moment.oldest_waiting_ms
        return oldest is not None and moment.now_ms - oldest >= self.patience_ms(moment)

    def wake_at_ms(self, moment: Sealing) -> Millis | None:
        """When `should_seal` becomes true by time alone; None if something else has to happen first."""
        oldest = moment.oldest_waiting_ms
        if not moment.waiting or oldest is None or not self.may_propose(moment):
            return None
        return moment.now_ms if self.should_seal(moment) else oldest + self.patience_ms(moment)
