"""Requests that are pending as they came: many at a time, under one account.

Most requests go their way in company: they come in one part, are all taken into the same
block, and are over when it executes. So they are held together, and the runs of numbers
that each client contributes are all that is looked at. As soon as one of them needs attention
of its own (a repetition, a block without room for all, another view), the pool turns all of
them into entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from tepbft.core.block import Request
from tepbft.core.requests import Run
from tepbft.mempool.entry import Entry, key_of, size_of
from tepbft.types import Millis


class Arrival(Struct, frozen=True, gc=False):
    """Requests that were admitted together; all of them new when they came, no two of one number."""

    requests: Sequence[Request]
    digests: Sequence[bytes]
    runs: list[Run]
    size: int
    """About how many bytes of a body they need."""
    first_seen_ms: Millis

    def entries(self, in_flight: bool) -> list[Entry]:
        """The requests, each by itself."""
        return [
            Entry(key_of(one), one, digest, size_of(one), self.first_seen_ms, in_flight, True)
            for one, digest in zip(self.requests, self.digests, strict=True)
        ]


class Arrivals:
    """What is pending together, by where it stands: waiting, taken for a block, or in a block that has
    its name. Each of these is older than the one before it."""

    __slots__ = ("_blocks", "_taken", "_waiting")

    def __init__(self) -> None:
        self._waiting: list[Arrival] = []
        self._taken: list[Arrival] = []
        self._blocks: dict[bytes, list[Arrival]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting or self._taken or self._blocks)

    def __iter__(self) -> Iterator[Arrival]:
        """All, oldest first."""
        for arrivals in self._blocks.values():
            yield from arrivals
        yield from self._taken
        yield from self._waiting

    def __len__(self) -> int:
        """Requests in all of them."""
        return sum([len(arrival.requests) for arrival in self])

    def came(self, arrival: Arrival) -> None:
        """This one waits from now on."""
        self._waiting.append(arrival)

    def take(self) -> list[Arrival]:
        """All that wait; they are in flight from now on."""
        taken, self._waiting = self._waiting, []
        self._taken += taken
        return taken

    def proposed(self, name: bytes) -> None:
        """What was taken since the last call is in the block with this name."""
        if self._taken:
            self._blocks[name], self._taken = self._taken, []

    def executed(self, name: bytes) -> list[Arrival]:
        """Forget what is in this block; here it is."""
        return self._blocks.pop(name, [])

    def clear(self) -> tuple[list[Arrival], list[Arrival]]:
        """Forget all of them; here they are, those in flight and those that wait, oldest first."""
        waiting, self._waiting = self._waiting, []
        in_flight = list(self)
        self._taken = []
        self._blocks.clear()
        return in_flight, waiting

    def holds(self, name: bytes) -> bool:
        """True if some are in the block with this name."""
        return name in self._blocks

    def oldest_ms(self) -> Millis | None:
        """When the oldest request was first seen; None if there is none."""
        return next((arrival.first_seen_ms for arrival in self), None)

    def oldest_waiting_ms(self) -> Millis | None:
        """The same of those that wait."""
        return self._waiting[0].first_seen_ms if self._waiting else None
