"""The pool of pending requests: admit, deduplicate, bound, hand out fairly, forget.

A request is pending from first sight until a block with its number executes,
whatever that block's content for the number was (A-42). It comes in from a client
(`admit_many`: bounded by quota and an adaptive limit, beyond which it is BUSY and
no timer runs for it) or with an accepted Prepare (`register_block`, A3.3): then the
block as a whole is pending, and its requests are looked at singly only if it comes
to nothing. `take` hands requests to the sealer, one client after another; they stay
pending, marked as in flight, until executed or until a view change makes them waiting
again (A-28, A-71).

Only requests that were verified come in here. Times are what the caller says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from msgspec import Struct

from tepbft.core.block import Request
from tepbft.core.requests import content_bytes
from tepbft.mempool.entry import REQUEST_OVERHEAD_BYTES, Client, Entry, Key, Prepared, key_of, size_of
from tepbft.mempool.options import MempoolOptions
from tepbft.mempool.rate import ExecutionRate
from tepbft.types import ClientId, Millis

BUSY, TOO_LARGE = "busy", "too_large"
"""Codes of requests that are not taken up (see `core.events.Busy`)."""
BODY_OVERHEAD_BYTES = 8
_SLACK = 1024


class Batch(Struct, frozen=True):
    """Requests for one block, in order, with their digests."""

    requests: list[Request]
    digests: list[bytes]


class Mempool:
    """Pending requests of one node. Costs are O(1) per request, amortised; after a view change
    once O(pending log pending)."""

    def __init__(self, options: MempoolOptions) -> None:
        self._options = options
        self._entries: dict[Key, Entry] = {}
        self._blocks: dict[bytes, Prepared] = {}  # accepted and not executed, by digest, by first sight
        self._clients: dict[ClientId, Client] = {}
        self._ring: deque[Client] = deque()  # clients with waiting requests; others are dropped lazily
        # Entries by first sight, in the groups in which they came; a group goes when nothing in it is
        # pending, waiting, or to be forwarded, respectively.
        self._order: deque[list[Entry]] = deque()
        self._arrivals: deque[list[Entry]] = deque()
        self._unforwarded: deque[list[Entry]] = deque()
        self._bytes = 0
        self._prepared = 0
        self._admitted = 0
        self._waiting = 0
        self._waiting_bytes = 0
        self._rate = ExecutionRate()

    # --- sizes --------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Pending requests of every kind; one that is known both singly and from a block counts twice."""
        return len(self._entries) + self._prepared

    @property
    def waiting(self) -> int:
        """Pending requests that are not in flight."""
        return self._waiting

    @property
    def waiting_bytes(self) -> int:
        """About how many bytes of a block body the waiting requests need."""
        return self._waiting_bytes

    @property
    def limit(self) -> int:
        """Admitted requests allowed at present."""
        options = self._options
        target = int(self._rate.per_second * options.budget_ms / 1000)
        return min(max(target, options.minimum), options.capacity)

    # --- coming in ----------------------------------------------------------------------------

    def admit(self, request: Request, digest: bytes, now_ms: Millis) -> str | None:
        """Take up one verified request; None, or the code why not. Known ones are fine."""
        refused = self.admit_many((request,), (digest,), now_ms)
        return refused[0][1] if refused else None

    def surplus(self, requests: Sequence[Request]) -> list[int]:
        """Indices of those that there is no room for, as things stand: not worth verifying."""
        room = self.limit - self._admitted
        if len(requests) <= room:
            return []
        entries = self._entries
        beyond: list[int] = []
        for index, request in enumerate(requests):
            if key_of(request) in entries:
                continue
            if room > 0:
                room -= 1
            else:
                beyond.append(index)
        return beyond

    def admit_many(
        self, requests: Sequence[Request], digests: Sequence[bytes], now_ms: Millis
    ) -> list[tuple[int, str]]:
        """Take up verified requests of clients. Returns (index, code) of those not taken up."""
        refused: list[tuple[int, str]] = []
        entries, clients, options = self._entries, self._clients, self._options
        max_size, quota = options.max_request_bytes, options.client_quota
        room, free = self.limit - self._admitted, options.capacity_bytes - self._bytes
        fresh: list[Entry] = []
        added = 0
        for index, request in enumerate(requests):
            client_id = request.client
            key = (client_id, request.session, request.seq)
            if key in entries:
                continue
            size = len(request.op) + len(request.auth) + REQUEST_OVERHEAD_BYTES
            if size > max_size:
                refused.append((index, TOO_LARGE))
                continue
            client = clients.get(client_id)
            if room <= 0 or added + size > free or (client is not None and client.admitted >= quota):
                refused.append((index, BUSY))
                continue
            if client is None:
                client = clients[client_id] = Client()
            entry = entries[key] = Entry(key, request, digests[index], size, now_ms, False, True)
            room -= 1
            added += size
            client.admitted += 1
            client.pending += 1
            client.waiting += 1
            client.queued_entries.append(entry)
            if not client.queued:
                client.queued = True
                self._ring.append(client)
            fresh.append(entry)
        if fresh:
            self._came_in(fresh, added, now_ms)
        return refused

    def _came_in(self, fresh: list[Entry], size: int, now_ms: Millis) -> None:
        """Account for entries that are admitted and wait."""
        self._admitted += len(fresh)
        self._waiting += len(fresh)
        self._waiting_bytes += size
        self._bytes += size
        for groups in (self._order, self._arrivals, self._unforwarded):
            groups.append(fresh)
        self._rate.work_begins(now_ms)

    def register_block(
        self, name: bytes, requests: Sequence[Request], digests: Sequence[bytes], now_ms: Millis
    ) -> None:
        """The Prepare of block `name` with these (verified) requests was accepted: they are pending, and
        in flight (A3.3). Bounds other than quota and limit hold; a block beyond them is not tracked."""
        options, entries = self._options, self._entries
        if name in self._blocks:
            return
        if entries:
            for request in requests:
                known = entries.get((request.client, request.session, request.seq))
                if known is not None:
                    self._set_in_flight(known)
        size = content_bytes(requests) + REQUEST_OVERHEAD_BYTES * len(requests)
        if self._prepared + len(requests) > options.prepared_capacity:
            return
        if self._bytes + size > options.capacity_bytes:
            return
        self._blocks[name] = Prepared(requests, digests, size, now_ms)
        self._prepared += len(requests)
        self._bytes += size
        self._rate.work_begins(now_ms)

    def _set_in_flight(self, entry: Entry) -> None:
        if not entry.in_flight:
            entry.in_flight = True
            self._no_longer_waits(entry)

    def _no_longer_waits(self, entry: Entry) -> None:
        self._clients[entry.key[0]].waiting -= 1
        self._waiting -= 1
        self._waiting_bytes -= entry.size

    # --- checking blocks ----------------------------------------------------------------------

    def verified(self, request: Request, digest: bytes) -> bool:
        """True if exactly this request with this authenticator was verified and is still pending."""
        return not self.unverified((request,), (digest,))

    def unverified(self, requests: Sequence[Request], digests: Sequence[bytes]) -> list[int]:
        """Indices of the requests for which `verified` is False."""
        entries = self._entries
        if not entries or entries.keys().isdisjoint([(r.client, r.session, r.seq) for r in requests]):
            return list(range(len(requests)))
        get = entries.get
        missing: list[int] = []
        for index, request in enumerate(requests):
            entry = get((request.client, request.session, request.seq))
            if entry is None or entry.digest != digests[index] or entry.request.auth != request.auth:
                missing.append(index)
        return missing

    # --- going out ----------------------------------------------------------------------------

    def take(self, max_requests: int, max_bytes: int) -> Batch:
        """Waiting requests for a block, and mark them as in flight: all, one client after the other, or
        round-robin over clients if there is no room for all.

        `max_bytes` bounds the encoded body. A client whose request does not fit any more is the
        first one next time."""
        room = max_bytes - BODY_OVERHEAD_BYTES
        if self._waiting <= max_requests and self._waiting_bytes <= room:
            return self._take_all()
        requests: list[Request] = []
        digests: list[bytes] = []
        ring = self._ring
        taken_bytes = 0
        while ring and len(requests) < max_requests:
            client = ring.popleft()
            queue = client.queued_entries
            while queue and (queue[0].in_flight or not queue[0].alive):
                queue.popleft()
            if not queue:
                client.queued = False
                continue
            entry = queue[0]
            if entry.size > room:
                ring.appendleft(client)
                if requests:
                    break
                queue.popleft()
                self._set_in_flight(entry)  # fits into no block: it must not bar the way of others
                continue
            queue.popleft()
            room -= entry.size
            taken_bytes += entry.size
            entry.in_flight = True
            client.waiting -= 1
            if client.waiting:
                ring.append(client)
            else:
                queue.clear()
                client.queued = False
            requests.append(entry.request)
            digests.append(entry.digest)
        self._waiting -= len(requests)
        self._waiting_bytes -= taken_bytes
        return Batch(requests, digests)

    def _take_all(self) -> Batch:
        requests: list[Request] = []
        digests: list[bytes] = []
        for client in self._ring:
            for entry in client.queued_entries:
                if not entry.in_flight and entry.alive:
                    entry.in_flight = True
                    requests.append(entry.request)
                    digests.append(entry.digest)
            client.queued_entries.clear()
            client.waiting, client.queued = 0, False
        self._ring.clear()
        self._waiting = self._waiting_bytes = 0
        return Batch(requests, digests)

    def executed(self, key: Key, now_ms: Millis) -> None:
        """See `executed_many`."""
        self.executed_many((key,), now_ms)

    def executed_block(self, name: bytes, requests: Sequence[Request], now_ms: Millis) -> None:
        """Block `name` was executed: see `executed_many`."""
        block = self._blocks.pop(name, None)
        if block is not None:
            self._prepared -= len(block.requests)
            self._bytes -= block.size
        keys = [(r.client, r.session, r.seq) for r in requests] if self._entries else ()
        self._forget(keys)
        self._rate.executed(len(requests), now_ms, bool(self._entries or self._blocks))

    def executed_many(self, keys: Sequence[Key], now_ms: Millis) -> None:
        """Blocks with these numbers were executed, with whatever outcome: nothing is pending under
        them any more (A-42)."""
        self._forget(keys)
        self._rate.executed(len(keys), now_ms, bool(self._entries or self._blocks))

    def _forget(self, keys: Sequence[Key]) -> None:
        entries, clients = self._entries, self._clients
        gone_bytes = admitted = 0
        for key in keys:
            entry = entries.pop(key, None)
            if entry is None:
                continue
            entry.alive = False
            gone_bytes += entry.size
            client = clients[key[0]]
            if not entry.in_flight:
                self._no_longer_waits(entry)
            client.pending -= 1
            if entry.admitted:
                admitted += 1
                client.admitted -= 1
            if not client.pending:
                del clients[key[0]]
                client.queued_entries.clear()
        self._bytes -= gone_bytes
        self._admitted -= admitted
        self._trim()

    def _trim(self) -> None:
        """Drop what is over from the front of the queues: they stay in proportion to what is pending,
        because everything is executed, roughly in the order of its coming (I-17)."""
        order, unforwarded = self._order, self._unforwarded
        while order and not any(entry.alive for entry in order[0]):
            order.popleft()
        while unforwarded and not any(entry.alive and not entry.in_flight for entry in unforwarded[0]):
            unforwarded.popleft()
        bound = 2 * len(self._entries) + _SLACK
        if len(order) > bound:
            self._order = deque(group for group in order if any(entry.alive for entry in group))
        if len(unforwarded) > bound:
            self._unforwarded = deque(g for g in unforwarded if any(e.alive for e in g))
        if len(self._arrivals) > bound:
            self._arrivals = deque(g for g in self._arrivals if any(e.alive for e in g))
        if len(self._ring) > bound:
            self._ring = deque(client for client in self._ring if client.waiting)

    # --- blocks that come to nothing ----------------------------------------------------------

    def unpack(self, names: Iterable[bytes]) -> None:
        """These blocks will not be executed as they are: what is in them is pending by itself now."""
        found = [block for name in names if (block := self._blocks.pop(name, None)) is not None]
        if not found:
            return
        entries, clients = self._entries, self._clients
        for block in found:
            self._prepared -= len(block.requests)
            self._bytes -= block.size
            for request, digest in zip(block.requests, block.digests, strict=True):
                key = key_of(request)
                if key in entries:
                    continue
                entry = Entry(key, request, digest, size_of(request), block.first_seen_ms, True, False)
                entries[key] = entry
                self._bytes += entry.size
                client = clients.get(request.client)
                if client is None:
                    client = clients[request.client] = Client()
                client.pending += 1
        ordered = sorted(entries.values(), key=lambda entry: entry.first_seen_ms)
        self._entries = {entry.key: entry for entry in ordered}
        self._order = deque([ordered])

    def reset_in_flight(self, keys: Iterable[Key], names: Iterable[bytes] = ()) -> None:
        """Exactly these requests are in blocks under way (those of a new view's proposals, A-28), and of
        the accepted blocks exactly `names`; all others are waiting again, by first sight, and will be
        forwarded anew."""
        kept = set(names)
        self.unpack([name for name in self._blocks if name not in kept])
        under_way = set(keys)
        self._ring.clear()
        self._waiting = self._waiting_bytes = 0
        for client in self._clients.values():
            client.queued_entries.clear()
            client.waiting, client.queued = 0, False
        waiting: list[Entry] = []
        for key, entry in self._entries.items():
            entry.in_flight = key in under_way
            if not entry.in_flight:
                waiting.append(entry)
                client = self._clients[key[0]]
                client.queued_entries.append(entry)
                client.waiting += 1
                if not client.queued:
                    client.queued = True
                    self._ring.append(client)
                self._waiting += 1
                self._waiting_bytes += entry.size
        self._arrivals = deque([waiting] if waiting else [])
        self._unforwarded = deque([waiting] if waiting else [])

    # --- time ---------------------------------------------------------------------------------

    def oldest_pending_ms(self) -> Millis | None:
        """When the oldest pending request was first seen; None if none is pending."""
        order = self._order
        while order and not any(entry.alive for entry in order[0]):
            order.popleft()
        seen = [entry.first_seen_ms for entry in order[0] if entry.alive] if order else []
        seen += [block.first_seen_ms for block in self._blocks.values()]
        return min(seen, default=None)

    def overdue(self, now_ms: Millis, after_ms: Millis) -> bool:
        """True if a request has been pending for `after_ms` or longer (T_req, A3.6)."""
        oldest = self.oldest_pending_ms()
        return oldest is not None and now_ms - oldest >= after_ms

    def oldest_waiting_ms(self) -> Millis | None:
        """When the oldest request that is not in flight was first seen."""
        arrivals = self._arrivals
        while arrivals:
            for entry in arrivals[0]:
                if entry.alive and not entry.in_flight:
                    return entry.first_seen_ms
            arrivals.popleft()
        return None

    def due_for_forwarding(
        self, now_ms: Millis, after_ms: Millis, limit: int = 1024, max_bytes: int = 1 << 20
    ) -> list[Request]:
        """Requests seen `after_ms` ago or earlier that are in no block, each of them once until the
        next view (A-44). The rest of a long list comes with later calls."""
        due: list[Request] = []
        groups = self._unforwarded
        while groups and now_ms - groups[0][0].first_seen_ms >= after_ms:
            group = [entry for entry in groups.popleft() if entry.alive and not entry.in_flight]
            for place, entry in enumerate(group):
                if (
                    len(due) >= limit
                    or (due and entry.size > max_bytes)
                    or (now_ms - entry.first_seen_ms < after_ms)
                ):
                    groups.appendleft(group[place:])
                    return due
                max_bytes -= entry.size
                due.append(entry.request)
        return due

    def pending_keys(self) -> list[Key]:
        """Numbers of all requests that are pending by themselves, oldest first: after a state transfer
        (and `unpack`), pass those that are decided to `executed_many`."""
        return list(self._entries)

    def blocks(self) -> list[bytes]:
        """Names of the accepted blocks that are not executed yet, oldest first."""
        return list(self._blocks)
