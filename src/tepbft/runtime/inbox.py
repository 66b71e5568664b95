"""What has arrived and waits for the node: bounded per source, worked off fairly.

Two levels of fairness: kinds of sources take turns (so that a thousand clients do not
drown three peers), and sources of a kind take turns (so that one flood does not drown
the others). A source over its bound is asked to stop reading, never cut silently.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Literal

Kind = Literal["peer", "client", "local"]
KINDS: tuple[Kind, ...] = ("peer", "client", "local")
TURN_ITEMS = 32
TURN_BYTES = 1 << 18
ITEM_OVERHEAD_BYTES = 128
"""Counted for every item, so that many tiny ones are bounded as well."""


class Source:
    """One connection's queue of what it sent. Made by `Inbox.source`."""

    def __init__(
        self, inbox: Inbox, kind: Kind, name: int, pause: Callable[[], None], resume: Callable[[], None]
    ) -> None:
        self.kind = kind
        self.name = name
        """Node id of a peer, ConnectionId of a client."""
        self.bytes = 0
        self.items: deque[tuple[Any, int]] = deque()
        self.paused = False
        self.closed = False
        self._inbox = inbox
        self._pause = pause
        self._resume = resume

    def put(self, items: list[Any], sizes: int, *, urgent: bool = True) -> None:
        """Queue items that are `sizes` bytes together. What is not urgent waits for something that is."""
        if not items or self.closed:
            return
        share = sizes // len(items) + ITEM_OVERHEAD_BYTES
        self.items.extend([(item, share) for item in items])
        self._inbox.added(self, share * len(items), urgent)

    def close(self, *, discard: bool) -> None:
        """No more will come. What is queued is still worked off unless `discard`."""
        self.closed = True
        self._inbox.removed(self, discard=discard)

    def hold(self) -> None:
        """Ask the connection to stop reading."""
        if not self.paused:
            self.paused = True
            self._pause()

    def release(self) -> None:
        """Let the connection read again."""
        if self.paused:
            self.paused = False
            if not self.closed:
                self._resume()


class _Ring:
    """The sources of one kind."""

    def __init__(self, bound_bytes: int) -> None:
        self.bound_bytes = bound_bytes
        self.bytes = 0
        self.active: deque[Source] = deque()
        self.held: dict[Source, None] = {}


class Inbox:
    """All sources of a node. `wake` is called when something arrives."""

    def __init__(self, source_bytes: int, kind_bytes: int | None = None) -> None:
        self.source_bytes = source_bytes
        self.wake: Callable[[], None] = lambda: None
        self.votes_wanted = True
        """False while votes say nothing: they are not urgent then. Whoever empties this knows."""
        self._rings = {kind: _Ring(kind_bytes or 16 * source_bytes) for kind in KINDS}
        self._turn: deque[Kind] = deque(KINDS)

    def __bool__(self) -> bool:
        rings = self._rings
        return bool(rings["peer"].active or rings["client"].active or rings["local"].active)

    def bytes_of(self, kind: Kind) -> int:
        """Bytes that wait, of one kind."""
        return self._rings[kind].bytes

    def source(
        self,
        kind: Kind,
        name: int,
        pause: Callable[[], None] = lambda: None,
        resume: Callable[[], None] = lambda: None,
    ) -> Source:
        """A new source; `pause` and `resume` stop and continue its reading."""
        return Source(self, kind, name, pause, resume)

    def take(self, limit: int, *, clients: bool = True) -> list[tuple[Source, Any]]:
        """At most about `limit` items, kinds and sources taking turns; none of clients without `clients`."""
        taken: list[tuple[Source, Any]] = []
        idle = 0
        while len(taken) < limit and idle < len(KINDS):
            kind = self._turn[0]
            self._turn.rotate(-1)
            ring = self._rings[kind]
            if not ring.active or (kind == "client" and not clients):
                idle += 1
                continue
            idle = 0
            source = ring.active.popleft()
            self._take_turn(ring, source, taken)
            if source.items:
                ring.active.append(source)
        return taken

    def _take_turn(self, ring: _Ring, source: Source, taken: list[tuple[Source, Any]]) -> None:
        size = 0
        for _ in range(min(TURN_ITEMS, len(source.items))):
            item, share = source.items.popleft()
            taken.append((source, item))
            size += share
            if size > TURN_BYTES:
                break
        source.bytes -= size
        ring.bytes -= size
        self._relax(ring, source)

    def _relax(self, ring: _Ring, source: Source) -> None:
        if ring.held and ring.bytes <= ring.bound_bytes // 2:
            for held in [s for s in ring.held if s.bytes <= self.source_bytes // 2]:
                del ring.held[held]
                held.release()
        elif source.paused and ring.bytes <= ring.bound_bytes and source.bytes <= self.source_bytes // 2:
            ring.held.pop(source, None)
            source.release()

    def added(self, source: Source, size: int, urgent: bool) -> None:
        """Bookkeeping of `Source.put`."""
        ring = self._rings[source.kind]
        if source.bytes == 0:
            ring.active.append(source)
        source.bytes += size
        ring.bytes += size
        if source.bytes > self.source_bytes or ring.bytes > ring.bound_bytes:
            ring.held[source] = None
            source.hold()
        if urgent or source.paused:
            self.wake()

    def removed(self, source: Source, *, discard: bool) -> None:
        """Bookkeeping of `Source.close`."""
        ring = self._rings[source.kind]
        ring.held.pop(source, None)
        if discard and source.items:
            ring.active.remove(source)
            ring.bytes -= source.bytes
            source.bytes = 0
            source.items.clear()
            self._relax(ring, source)
