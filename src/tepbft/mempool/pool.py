"""The pool of pending requests: admit, deduplicate, bound, hand out fairly, forget.

A request is pending from first sight until a block with its number executes,
whatever that block's content for the number was (A-42). It comes in from a client
(`admit_many`: bounded by quota and an adaptive limit, beyond which it is BUSY and
no timer runs for it) or with an accepted Prepare (`register_block`, A3.3). `take`
hands requests to the sealer, one client after another; they stay pending, marked as
in flight, until executed or until a view change makes them waiting again (A-28, A-71).

Only requests that were verified come in here. Times are what the caller says.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence

from msgspec import Struct

from tepbft.core.block import Request
from tepbft.mempool.entry import REQUEST_OVERHEAD_BYTES, Client, Entry, Key
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
    once O(pending)."""

    def __init__(self, options: MempoolOptions) -> None:
        self._options = options
        self._entries: OrderedDict[Key, Entry] = OrderedDict()  # by first sight
        self._clients: dict[ClientId, Client] = {}
        self._ring: OrderedDict[ClientId, Client] = OrderedDict()  # clients with waiting requests
        self._arrivals: deque[Entry] = deque()  # waiting, by first sight; others are dropped lazily
        self._unforwarded: deque[Entry] = deque()  # by first sight; others are dropped lazily
        self._verified: dict[bytes, bytes] = {}  # request digest -> authenticator
        self._bytes = 0
        self._admitted = 0
        self._waiting = 0
        self._waiting_bytes = 0
        self._rate = ExecutionRate()

    # --- sizes --------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Pending requests of every kind."""
        return len(self._entries)

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

    def admit_many(
        self, requests: Sequence[Request], digests: Sequence[bytes], now_ms: Millis
    ) -> list[tuple[int, str]]:
        """Take up verified requests of clients. Returns (index, code) of those not taken up."""
        refused: list[tuple[int, str]] = []
        entries, options, limit = self._entries, self._options, self.limit
        max_size, quota = options.max_request_bytes, options.client_quota
        for index, (request, digest) in enumerate(zip(requests, digests, strict=True)):
            key = (request.client, request.session, request.seq)
            known = entries.get(key)
            if known is not None:
                if known.digest != digest:
                    self._remember_alternative(known, request, digest)
                continue
            size = len(request.op) + len(request.auth) + REQUEST_OVERHEAD_BYTES
            if size > max_size:
                refused.append((index, TOO_LARGE))
                continue
            client = self._clients.get(request.client)
            if (
                self._admitted >= limit
                or self._bytes + size > options.capacity_bytes
                or (client is not None and client.admitted >= quota)
            ):
                refused.append((index, BUSY))
                continue
            self._insert(Entry(key, request, digest, size, now_ms, False, True), client)
        return refused

    def register_block(self, requests: Sequence[Request], digests: Sequence[bytes], now_ms: Millis) -> None:
        """A Prepare with these (verified) requests was accepted: they are pending, and in flight (A3.3).
        Bounds other than the quota and the limit still hold; what exceeds them is not tracked."""
        entries, options = self._entries, self._options
        for request, digest in zip(requests, digests, strict=True):
            key = (request.client, request.session, request.seq)
            known = entries.get(key)
            if known is not None:
                if known.digest != digest:
                    self._remember_alternative(known, request, digest)
                self._set_in_flight(known)
                continue
            size = len(request.op) + len(request.auth) + REQUEST_OVERHEAD_BYTES
            if (
                size > options.max_request_bytes
                or len(entries) - self._admitted >= options.prepared_capacity
                or self._bytes + size > options.capacity_bytes
            ):
                continue
            entry = Entry(key, request, digest, size, now_ms, True, False)
            self._insert(entry, self._clients.get(request.client))

    def _insert(self, entry: Entry, client: Client | None) -> None:
        if client is None:
            client = self._clients[entry.request.client] = Client()
        self._rate.work_begins(entry.first_seen_ms)
        self._entries[entry.key] = entry
        self._verified[entry.digest] = entry.request.auth
        self._bytes += entry.size
        client.pending += 1
        if entry.admitted:
            self._admitted += 1
            client.admitted += 1
        if not entry.in_flight:
            self._queue(entry, client)
            self._arrivals.append(entry)
            self._unforwarded.append(entry)

    def _remember_alternative(self, entry: Entry, request: Request, digest: bytes) -> None:
        size = len(request.auth) + REQUEST_OVERHEAD_BYTES
        if entry.alternative is None and self._bytes + size <= self._options.capacity_bytes:
            entry.alternative = (digest, size)
            self._verified[digest] = request.auth
            self._bytes += size

    def _queue(self, entry: Entry, client: Client) -> None:
        client.waiting[entry.key] = entry
        self._waiting += 1
        self._waiting_bytes += entry.size
        self._ring.setdefault(entry.request.client, client)

    def _unqueue(self, entry: Entry, client: Client) -> None:
        if client.waiting.pop(entry.key, None) is None:
            return
        self._waiting -= 1
        self._waiting_bytes -= entry.size
        if not client.waiting:
            self._ring.pop(entry.request.client, None)

    def _set_in_flight(self, entry: Entry) -> None:
        if not entry.in_flight:
            entry.in_flight = True
            self._unqueue(entry, self._clients[entry.request.client])

    # --- checking blocks ----------------------------------------------------------------------

    def verified(self, digest: bytes, auth: bytes) -> bool:
        """True if exactly this authenticator over this request was verified and is still pending."""
        return self._verified.get(digest) == auth

    def unverified(self, requests: Sequence[Request], digests: Sequence[bytes]) -> list[int]:
        """Indices of the requests for which `verified` is False."""
        get = self._verified.get
        return [
            index
            for index, (request, digest) in enumerate(zip(requests, digests, strict=True))
            if get(digest) != request.auth
        ]

    # --- going out ----------------------------------------------------------------------------

    def take(self, max_requests: int, max_bytes: int) -> Batch:
        """Waiting requests for a block, round-robin over clients, and mark them as in flight.

        `max_bytes` bounds the encoded body. A client whose request does not fit any more is the
        first one next time."""
        requests: list[Request] = []
        digests: list[bytes] = []
        room = max_bytes - BODY_OVERHEAD_BYTES
        ring = self._ring
        while ring and len(requests) < max_requests:
            client_id, client = next(iter(ring.items()))
            entry = next(iter(client.waiting.values()))
            if entry.size > room:
                if requests:
                    break
                self._set_in_flight(entry)  # fits into no block: it must not bar the way of others
                continue
            room -= entry.size
            entry.in_flight = True
            self._unqueue(entry, client)
            if client.waiting:
                ring.move_to_end(client_id)
            requests.append(entry.request)
            digests.append(entry.digest)
        return Batch(requests, digests)

    def executed(self, key: Key, now_ms: Millis) -> None:
        """See `executed_many`."""
        self.executed_many((key,), now_ms)

    def executed_many(self, keys: Sequence[Key], now_ms: Millis) -> None:
        """Blocks with these numbers were executed, with whatever outcome: nothing is pending under
        them any more (A-42)."""
        entries, verified = self._entries, self._verified
        for key in keys:
            entry = entries.pop(key, None)
            if entry is None:
                continue
            entry.alive = False
            self._bytes -= entry.size
            verified.pop(entry.digest, None)
            if entry.alternative is not None:
                verified.pop(entry.alternative[0], None)
                self._bytes -= entry.alternative[1]
            client = self._clients[key[0]]
            self._unqueue(entry, client)
            client.pending -= 1
            if entry.admitted:
                self._admitted -= 1
                client.admitted -= 1
            if not client.pending:
                del self._clients[key[0]]
        self._rate.executed(len(keys), now_ms, bool(entries))
        self._trim()

    def _trim(self) -> None:
        """Keep the lazily cleaned queues in proportion to what is pending (I-17)."""
        bound = 2 * len(self._entries) + _SLACK
        if len(self._arrivals) > bound:
            self._arrivals = deque(e for e in self._arrivals if e.alive and not e.in_flight)
        if len(self._unforwarded) > bound:
            self._unforwarded = deque(e for e in self._unforwarded if e.alive)

    def returned(self, keys: Iterable[Key]) -> None:
        """A proposal came to nothing: these requests are waiting again, at their old place."""
        back = [key for key in keys if (entry := self._entries.get(key)) and entry.in_flight]
        if back:
            gone = set(back)
            self.reset_in_flight(key for key, e in self._entries.items() if e.in_flight and key not in gone)

    def reset_in_flight(self, keys: Iterable[Key]) -> None:
        """Exactly these requests are in blocks under way (those of a new view's proposals, A-28);
        all others are waiting again, by first sight, and will be forwarded anew."""
        under_way = set(keys)
        self._ring.clear()
        self._waiting = self._waiting_bytes = 0
        for client in self._clients.values():
            client.waiting.clear()
        waiting: list[Entry] = []
        for key, entry in self._entries.items():
            entry.in_flight = key in under_way
            if not entry.in_flight:
                self._queue(entry, self._clients[key[0]])
                waiting.append(entry)
        self._arrivals = deque(waiting)
        self._unforwarded = deque(waiting)

    # --- time ---------------------------------------------------------------------------------

    def oldest_pending_ms(self) -> Millis | None:
        """When the oldest pending request was first seen; None if none is pending."""
        return next(iter(self._entries.values())).first_seen_ms if self._entries else None

    def overdue(self, now_ms: Millis, after_ms: Millis) -> bool:
        """True if a request has been pending for `after_ms` or longer (T_req, A3.6)."""
        oldest = self.oldest_pending_ms()
        return oldest is not None and now_ms - oldest >= after_ms

    def oldest_waiting_ms(self) -> Millis | None:
        """When the oldest request that is not in flight was first seen."""
        arrivals = self._arrivals
        while arrivals and (arrivals[0].in_flight or not arrivals[0].alive):
            arrivals.popleft()
        return arrivals[0].first_seen_ms if arrivals else None

    def due_for_forwarding(
        self, now_ms: Millis, after_ms: Millis, limit: int = 1024, max_bytes: int = 1 << 20
    ) -> list[Request]:
        """Requests seen `after_ms` ago or earlier that are in no block, each of them once until the
        next view (A-44). The rest of a long list comes with later calls."""
        due: list[Request] = []
        queue = self._unforwarded
        while queue and len(due) < limit and now_ms - queue[0].first_seen_ms >= after_ms:
            entry = queue[0]
            if entry.alive and not entry.in_flight:
                if due and entry.size > max_bytes:
                    break
                max_bytes -= entry.size
                due.append(entry.request)
            queue.popleft()
        return due

    def pending_keys(self) -> list[Key]:
        """Numbers of all pending requests, oldest first: after a state transfer, pass those that
        are decided to `executed_many`."""
        return list(self._entries)
