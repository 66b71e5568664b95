"""The pool of pending requests: admit, deduplicate, bound, hand out fairly, forget.

A request is pending from first sight until a block with its number executes,
whatever that block's content for the number was (A-42). It comes in from a client
(`admit_many`: bounded by quota and an adaptive limit, beyond which it is BUSY and
no timer runs for it) or with an accepted Prepare (`register_block`, A3.3): then the
block as a whole is pending, and its requests are looked at singly only if it comes
to nothing. `take` hands requests to the sealer, one client after another; they stay
pending, marked as in flight, until executed or until a view change makes them waiting
again (A-28, A-71). What comes in together is held together as long as nothing sets
its requests apart (`arrivals`, ADR 0019).

Only requests that were verified come in here. Times are what the caller says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from tepbft.core.block import Request
from tepbft.core.requests import Hashed, Run, content_bytes, join_hashed, runs
from tepbft.mempool.arrivals import Arrival, Arrivals
from tepbft.mempool.clients import Clients
from tepbft.mempool.entry import REQUEST_OVERHEAD_BYTES, Entry, Key, Prepared, key_of, size_of
from tepbft.mempool.options import MempoolOptions
from tepbft.mempool.queues import Queues
from tepbft.mempool.rate import ExecutionRate
from tepbft.mempool.round import Round
from tepbft.types import Millis

BUSY, TOO_LARGE = "busy", "too_large"
"""Codes of requests that are not taken up (see `core.events.Busy`)."""
BODY_OVERHEAD_BYTES = 8


class Batch(Struct, frozen=True):
    """Requests for one block, in order, with their digests."""

    requests: Sequence[Request]
    digests: Sequence[bytes]


class Mempool:
    """Pending requests of one node. Costs are O(1) per request, amortised; after a view change
    once O(pending log pending)."""

    def __init__(self, options: MempoolOptions) -> None:
        self._options = options
        self._entries: dict[Key, Entry] = {}
        self._arrivals = Arrivals()  # admitted and looked at together; all of them newer than the entries
        self._blocks: dict[bytes, Prepared] = {}  # accepted and not executed, by digest, by first sight
        self._clients = Clients()
        self._round = Round()
        self._queues = Queues()
        self._bytes = 0
        self._prepared = 0
        self._admitted = 0
        self._waiting = 0
        self._waiting_bytes = 0
        self._rate = ExecutionRate()

    # --- sizes --------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Pending requests of every kind; one that is known both singly and from a block counts twice."""
        return len(self._entries) + self._prepared + len(self._arrivals)

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

    def surplus(self, requests: Sequence[Request]) -> list[int]:
        """Indices of those that there is no room for, as things stand: not worth verifying."""
        room = self.limit - self._admitted
        if len(requests) <= room:
            return []
        self._set_apart()
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
        self,
        requests: Sequence[Request],
        digests: Sequence[bytes],
        now_ms: Millis,
        known_runs: list[Run] | None = None,
    ) -> list[tuple[int, str]]:
        """Take up verified requests of clients, whose runs the caller may know already. Returns (index, code)
        of those not taken up; what is pending already is fine."""
        if not requests:
            return []
        if self._admit_together(requests, digests, now_ms, known_runs or runs(requests)):
            return []
        self._set_apart()
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
            entry = entries[key] = Entry(key, request, digests[index], size, now_ms, False, True)
            room -= 1
            added += size
            client = clients.one_more(*key)
            client.admitted += 1
            self._round.wait(client, entry)
            fresh.append(entry)
        if fresh:
            self._queues.came(fresh)
            self._came_in(len(fresh), added, now_ms)
        return refused

    def _came_in(self, count: int, size: int, now_ms: Millis) -> None:
        """Account for requests that are admitted and wait."""
        self._admitted += count
        self._waiting += count
        self._waiting_bytes += size
        self._bytes += size
        self._rate.work_begins(now_ms)

    def _admit_together(
        self, requests: Sequence[Request], digests: Sequence[bytes], now_ms: Millis, in_runs: list[Run]
    ) -> bool:
        """Take all of them up under one account; False, and nothing is done, if one of them may be pending
        already or may have to be refused."""
        options, clients = self._options, self._clients
        count, content = len(requests), content_bytes(requests)
        size = content + REQUEST_OVERHEAD_BYTES * count
        # Together they are within the bound of each one, which is nearly that of a block.
        if count > self.limit - self._admitted or size > options.max_request_bytes:
            return False
        if size > options.capacity_bytes - self._bytes or not clients.all_new(in_runs):
            return False
        if not clients.within(options.client_quota, in_runs):
            return False
        clients.admitted(in_runs)
        self._arrivals.came(Arrival(requests, digests, in_runs, size, now_ms))
        self._came_in(count, size, now_ms)
        return True

    def _set_apart(self) -> None:
        """Whatever is pending together is pending by itself from now on."""
        for arrivals, in_flight in zip(self._arrivals.clear(), (True, False), strict=True):
            for arrival in arrivals:
                group = arrival.entries(in_flight)
                for entry in group:
                    self._entries[entry.key] = entry
                    if not in_flight:
                        self._round.wait(self._clients[entry.key[0]], entry)
                self._queues.came(group)

    def register_block(
        self, name: bytes, requests: Sequence[Request], digests: Sequence[bytes], now_ms: Millis
    ) -> None:
        """The Prepare of block `name` with these (verified) requests was accepted: they are pending, and
        in flight (A3.3). Bounds other than quota and limit hold; a block beyond them is not tracked."""
        options, entries = self._options, self._entries
        if name in self._blocks:
            return
        self._set_apart()
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

    def unverified(
        self, requests: Sequence[Request], digests: Sequence[bytes], known_runs: list[Run] | None = None
    ) -> list[int]:
        """Indices of all but those that were verified, each with exactly this authenticator, and are still
        pending by themselves."""
        if not self._clients or self._clients.all_new(known_runs or runs(requests)):
            return list(range(len(requests)))
        self._set_apart()
        get = self._entries.get
        missing: list[int] = []
        for index, request in enumerate(requests):
            entry = get((request.client, request.session, request.seq))
            if entry is None or entry.digest != digests[index] or entry.request.auth != request.auth:
                missing.append(index)
        return missing

    # --- going out ----------------------------------------------------------------------------

    def take(self, max_requests: int, max_bytes: int) -> Batch:
        """Waiting requests for a block, and mark them as in flight: all, about as they came, or round-robin
        over clients if there is no room for all. `max_bytes` bounds the encoded body."""
        room = max_bytes - BODY_OVERHEAD_BYTES
        if self._waiting <= max_requests and self._waiting_bytes <= room:
            self._waiting = self._waiting_bytes = 0
            return self._take_all()
        self._set_apart()
        taken, unfit = self._round.take(max_requests, room)
        for entries in (taken, unfit):
            self._waiting -= len(entries)
            self._waiting_bytes -= sum([entry.size for entry in entries])
        return Batch(*_content(taken))

    def _take_all(self) -> Batch:
        parts = [(arrival.requests, arrival.digests) for arrival in self._arrivals.take()]
        entries = self._round.take_all()
        if entries:
            parts.insert(0, _content(entries))
        return Batch(*join_hashed(parts))

    def proposed(self, name: bytes) -> None:
        """What was taken last is in the block with this name."""
        self._arrivals.proposed(name)

    def executed_block(self, name: bytes, requests: Sequence[Request], now_ms: Millis) -> None:
        """Block `name` was executed: see `executed_many`."""
        block = self._blocks.pop(name, None)
        if block is not None:
            self._prepared -= len(block.requests)
            self._bytes -= block.size
        if self._arrivals.holds(name):
            for arrival in self._arrivals.executed(name):
                self._forget_together(arrival)
        elif self._arrivals and not self._clients.all_new(runs(requests)):
            self._set_apart()
        keys = [(r.client, r.session, r.seq) for r in requests] if self._entries else ()
        self._forget(keys)
        self._rate.executed(len(requests), now_ms, bool(self._entries or self._blocks))

    def executed_many(self, keys: Sequence[Key], now_ms: Millis) -> None:
        """Blocks with these numbers were executed, with whatever outcome: nothing is pending under
        them any more (A-42)."""
        self._set_apart()
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
                clients.forget(key[0])
        self._bytes -= gone_bytes
        self._admitted -= admitted
        self._queues.trim(len(entries))
        self._round.trim(len(entries))

    def _forget_together(self, arrival: Arrival) -> None:
        self._clients.over(arrival.runs)
        self._bytes -= arrival.size
        self._admitted -= len(arrival.requests)

    # --- blocks that come to nothing ----------------------------------------------------------

    def unpack(self, names: Iterable[bytes]) -> None:
        """These blocks will not be executed as they are: what is in them is pending by itself now."""
        found = [block for name in names if (block := self._blocks.pop(name, None)) is not None]
        if not found:
            return
        self._set_apart()
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
                clients.one_more(*key)
        ordered = sorted(entries.values(), key=lambda entry: entry.first_seen_ms)
        self._entries = {entry.key: entry for entry in ordered}
        self._queues.pending_anew(ordered)

    def reset_in_flight(self, keys: Iterable[Key], names: Iterable[bytes] = ()) -> None:
        """Exactly these requests are in blocks under way (those of a new view's proposals, A-28), and of
        the accepted blocks exactly `names`; all others are waiting again, by first sight, and will be
        forwarded anew."""
        kept = set(names)
        self._set_apart()
        self.unpack([name for name in self._blocks if name not in kept])
        under_way = set(keys)
        self._round.clear()
        self._waiting = self._waiting_bytes = 0
        for client in self._clients.values():
            client.queued_entries.clear()
            client.waiting, client.queued = 0, False
        waiting: list[Entry] = []
        for key, entry in self._entries.items():
            entry.in_flight = key in under_way
            if not entry.in_flight:
                waiting.append(entry)
                self._round.wait(self._clients[key[0]], entry)
                self._waiting += 1
                self._waiting_bytes += entry.size
        self._queues.waiting_anew(waiting)

    # --- time ---------------------------------------------------------------------------------

    def oldest_pending_ms(self) -> Millis | None:
        """When the oldest pending request was first seen; None if none is pending."""
        found = [self._queues.oldest_pending_ms(), self._arrivals.oldest_ms()]
        found += [block.first_seen_ms for block in self._blocks.values()]
        return min([seen_ms for seen_ms in found if seen_ms is not None], default=None)

    def overdue(self, now_ms: Millis, after_ms: Millis) -> bool:
        """True if a request has been pending for `after_ms` or longer (T_req, A3.6)."""
        oldest = self.oldest_pending_ms()
        return oldest is not None and now_ms - oldest >= after_ms

    def oldest_waiting_ms(self) -> Millis | None:
        """When the oldest request that is not in flight was first seen."""
        oldest_ms = self._queues.oldest_waiting_ms()
        return self._arrivals.oldest_waiting_ms() if oldest_ms is None else oldest_ms

    def due_for_forwarding(
        self, now_ms: Millis, after_ms: Millis, limit: int = 1024, max_bytes: int = 1 << 20
    ) -> list[Request]:
        """Requests seen `after_ms` ago or earlier that are in no block, each of them once until the
        next view (A-44). The rest of a long list comes with later calls."""
        oldest_ms = self._arrivals.oldest_waiting_ms()
        if oldest_ms is not None and now_ms - oldest_ms >= after_ms:
            self._set_apart()
        return self._queues.due_for_forwarding(now_ms, after_ms, limit, max_bytes)

    def pending_keys(self) -> list[Key]:
        """Numbers of all requests that are pending by themselves, oldest first: after a state transfer
        (and `unpack`), pass those that are decided to `executed_many`."""
        together = [key_of(request) for arrival in self._arrivals for request in arrival.requests]
        return [*self._entries, *together]

    def blocks(self) -> list[bytes]:
        """Names of the accepted blocks that are not executed yet, oldest first."""
        return list(self._blocks)


def _content(entries: Sequence[Entry]) -> Hashed:
    return [entry.request for entry in entries], [entry.digest for entry in entries]
