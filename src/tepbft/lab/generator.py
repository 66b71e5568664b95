"""A load generator: it plays many clients over one connection per node.

Closed loop: every client has `pipeline` requests outstanding and sends the next one when one is answered.
Open loop: requests are due at a fixed rate whatever the cluster does, and latency counts from when a
request was *due*, so a stall is not hidden by requests that were never sent (coordinated omission). An
answer counts when f+1 nodes gave the same bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from tepbft import wire
from tepbft.client.credentials import load_credentials, load_genesis
from tepbft.client.link import NodeLink, client_tls
from tepbft.core.block import OK, REFUSED
from tepbft.core.quorum import quorums
from tepbft.errors import PeerFault, TepbftError
from tepbft.lab.blocks import BlockMatcher, split_view
from tepbft.lab.histogram import Histogram
from tepbft.lab.job import Job, Report, now_us
from tepbft.lab.load_client import RETRY_US, LoadClient
from tepbft.lab.primary import PrimaryGuess
from tepbft.lab.supply import Supply

CONNECT_TIMEOUT_S = 15.0
BUSY_US = 20_000
"""The least time for which a closed-loop client waits before it repeats what was declined as BUSY: where an
answer takes long, so does it take until there is room."""
SWEEP_S = 0.05
REPEAT_SWEEPS = 5
"""Every so many sweeps what nobody answers is looked for."""
PACE_S = 0.002
FRAME_REQUESTS = 256
TIMELINE_US = 100_000


def due_by(now: int, begin_us: int, rate: float) -> int:
    """Open loop: how many requests are due at `now`, the first of them at `begin_us`."""
    return 1 + int((now - begin_us) * rate / 1e6) if now >= begin_us else 0


class Generator:
    """One run of one process. `say` hears of the `begin` and the `end` of the window."""

    def __init__(self, job: Job, say: Callable[[str], None]) -> None:
        self.job = job
        self._say = say
        root = Path(job.cluster)
        self.genesis = genesis = load_genesis(root / "genesis.json")
        sizes = quorums(len(genesis.members))
        self._n = sizes.n
        self._window = genesis.parameters.client_window
        session = time.time_ns() // 1000
        self._clients: list[LoadClient] = []
        for index, name in enumerate(job.clients):
            credentials = load_credentials(root / "clients" / f"{name}.json")
            seed = f"{job.seed}/{name}"
            supply = Supply(genesis, credentials, session, job.app, job.payload, seed, job.bundle)
            self._clients.append(LoadClient(index, supply, self._window))
        self._by_id = {client.supply.client: client for client in self._clients}
        self._session = session
        self._matcher = BlockMatcher(sizes.f + 1)
        self._links: list[NodeLink] = []
        self._introduced: list[set[int]] = [set() for _ in range(self._n)]
        self._leader = PrimaryGuess(sizes.n, sizes.f)
        self._outbox: list[tuple[int, bytes]] = []
        self._repeats: list[bytes] = []
        self._flushing = False
        empty = wire.encode(wire.Submit(genesis.chain_id, []))
        self._prefix = empty[:-1]
        self._issuing = False
        self._turn = 0
        self._begin_us = self._end_us = 0
        self._over = asyncio.Event()
        self._drained = asyncio.Event()
        self._last_us = 0
        self._due = self._shed = self._busy = self._retransmitted = 0
        self._issued_open = 0
        self._late_us = 0
        self._committed = self._refused = 0
        self._gap_us = 0
        self._usual_us = 0
        """How long an answer takes lately."""
        self._timeline: list[int] = []
        self._errors: list[str] = []
        self._delayed: list[tuple[int, LoadClient, int]] = []
        self.histogram = Histogram()

    def prepare(self) -> None:
        """Sign in advance."""
        for client in self._clients:
            client.supply.prepare(self.job.prepare)

    # --- connections --------------------------------------------------------------------------

    async def connect(self) -> list[asyncio.Task[None]]:
        """Links to all nodes; TepbftError if too few of them answer."""
        rng, tls, loop = Random(self.job.seed), client_tls(), asyncio.get_running_loop()
        for member in self.genesis.members:
            self._links.append(
                NodeLink(
                    self.genesis.chain_id,
                    member,
                    tls,
                    rng,
                    received=self._received,
                    up=self._up,
                    raw=True,
                )
            )
        tasks = [loop.create_task(link.run()) for link in self._links]
        deadline = time.monotonic() + CONNECT_TIMEOUT_S
        needed = quorums(self._n).commit
        settle = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            up = sum(link.connected for link in self._links)
            if up == self._n or (up >= needed and time.monotonic() >= settle):
                return tasks
            await asyncio.sleep(0.02)
        raise TepbftError("load generator", f"fewer than {needed} nodes answer", "Look into the nodes' logs.")

    def _up(self, node: int) -> None:
        self._introduced[node].clear()

    def _received(self, node: int, frames: list[Any]) -> None:
        for data in frames:
            try:
                self._frame(node, data)
            except PeerFault as fault:
                self._error(f"node {node}: {fault}")
        self._schedule()
        if not self._issuing and not self._waiting():
            self._drained.set()

    def _frame(self, node: int, data: bytes | wire.Welcome) -> None:
        if isinstance(data, wire.Welcome):
            self._leader.introduced(node, data.view, data.primary)
            return
        parts = split_view(data)
        if parts is None:
            message = wire.client_codec.decode(data)
            if isinstance(message, wire.NotAdmitted):
                for client, session, seq, code in message.requests:
                    if session == self._session:
                        self._declined(node, client, seq, code)
            return
        self._leader.said(node, parts[0])
        outcome = self._matcher.add(node, data)
        if outcome is not None:
            self._settle(outcome)

    # --- answers ------------------------------------------------------------------------------

    def _settle(self, outcome: wire.Outcome) -> None:
        now = now_us()
        by_id, session = self._by_id, self._session
        waited: dict[int, int] = {}
        answered: dict[LoadClient, int] = {}
        for receipt in outcome.receipts:
            client = by_id.get(receipt.client)
            if client is None or receipt.session != session:
                continue
            found = client.outstanding.pop(receipt.seq, None)
            if found is None:
                continue
            answered[client] = answered.get(client, 0) + 1
            status = receipt.status
            if status != OK:
                if status != REFUSED:
                    self._error(f"request {receipt.seq} came to status {status}")
                    continue
                self._refused += 1
            due_us = found[1]
            waited[due_us] = waited.get(due_us, 0) + 1
        if waited:
            newest = now - max(waited)
            self._usual_us += (newest - self._usual_us) // 8
            self._count(sum(waited.values()), waited, now)
        if self._issuing and self.job.rate <= 0:
            for client in answered:
                self._fill(client, now)

    def _fill(self, client: LoadClient, now: int) -> None:
        """Closed loop: as many requests under way as there should be, as far as the window allows."""
        count = min(self.job.pipeline - len(client.outstanding), client.room())
        if count > 0:
            self._put(client, client.issue(count, now, now))

    def _put(self, client: LoadClient, raws: list[bytes]) -> None:
        index = client.index
        self._outbox += [(index, raw) for raw in raws]

    def _count(self, counted: int, waited: dict[int, int], now: int) -> None:
        begin, end = self._begin_us, self._end_us
        if now < begin:
            return
        slot = (now - begin) // TIMELINE_US
        timeline = self._timeline
        if slot >= len(timeline):
            timeline.extend([0] * (slot + 1 - len(timeline)))
        timeline[slot] += counted
        if now > end:
            return
        self._gap_us = max(self._gap_us, now - self._last_us)
        self._last_us = now
        self._committed += counted
        record = self.histogram.record
        for due_us, count in waited.items():
            record(now - due_us, count)
        if self.job.transactions and self._committed >= self.job.transactions:
            self._end_us = now
            self._over.set()

    def _declined(self, node: int, client_id: bytes, seq: int, code: str) -> None:
        client = self._by_id.get(client_id)
        if client is None:
            return
        self._introduced[node].discard(client.index)  # what is declined may not even have been looked at
        if seq not in client.outstanding or node != self._leader.node:
            return
        if code not in ("busy", "out_of_window"):  # the latter: the primary executes behind the others
            self._error(f"declined as {code}")
            return
        if self.job.rate > 0:
            client.decline(seq)
            self._count_shed()
        else:
            self._busy += 1
            self._delayed.append((now_us() + max(BUSY_US, self._usual_us // 4), client, seq))

    def _count_shed(self) -> None:
        if self._begin_us <= now_us() <= self._end_us:
            self._shed += 1

    def _error(self, text: str) -> None:
        if len(self._errors) < 10:
            self._errors.append(text)

    # --- requests -----------------------------------------------------------------------------

    def _schedule(self) -> None:
        if not self._flushing and (self._outbox or self._repeats):
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Everything new to the primary; to the others what introduces its client; repeats to all."""
        self._flushing = False
        outbox, repeats = self._outbox, self._repeats
        self._outbox, self._repeats = [], []
        size = len(self._clients)
        lost = not self._links[self._leader.node].connected
        for node, link in enumerate(self._links):
            known = self._introduced[node]
            if node == self._leader.node or lost:  # without a primary everybody is told, and may complain
                raws = [raw for _, raw in outbox]
                indices = [index for index, _ in outbox] if len(known) < size else []
            elif len(known) < size:
                fresh = [(index, raw) for index, raw in outbox if index not in known]
                raws, indices = [raw for _, raw in fresh], [index for index, _ in fresh]
            else:
                raws, indices = [], []
            if self._send(link, raws + repeats):
                known.update(indices)

    def _send(self, link: NodeLink, raws: list[bytes]) -> bool:
        sent = True
        for start in range(0, len(raws), FRAME_REQUESTS):
            part = raws[start : start + FRAME_REQUESTS]
            count = len(part)
            head = bytes([0x90 | count]) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
            sent = link.send(wire.frame(b"".join((self._prefix, head, *part)))) and sent
        return sent

    # --- time ---------------------------------------------------------------------------------

    async def run(self, begin_us: int) -> Report:
        """Warm-up from `begin_us` on, the window, the drain."""
        job = self.job
        self._begin_us = self._last_us = begin_us + int(job.warmup_s * 1e6)
        self._end_us = self._begin_us + int(job.seconds * 1e6)
        await asyncio.sleep(max(0.0, (begin_us - now_us()) / 1e6))
        self._issuing = True
        sweeper = asyncio.get_running_loop().create_task(self._sweep())
        pacer = None
        if job.rate > 0:
            pacer = asyncio.get_running_loop().create_task(self._pace(begin_us))
        else:
            now = now_us()
            for client in self._clients:
                self._fill(client, now)
            self._schedule()
        await asyncio.sleep(max(0.0, (self._begin_us - now_us()) / 1e6))
        self._say("begin")
        used = resource.getrusage(resource.RUSAGE_SELF)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, (self._end_us - now_us()) / 1e6)):
                await self._over.wait()
        after = resource.getrusage(resource.RUSAGE_SELF)
        self._say("end")
        self._gap_us = max(self._gap_us, self._end_us - self._last_us)
        self._issuing = False
        await self._drain()
        for task in (sweeper, pacer):
            if task is not None:
                task.cancel()
        cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
        return self._report(cpu)

    async def _drain(self) -> None:
        """Until everything is answered, or `drain_s` are over."""
        self._drained.clear()
        if self._waiting():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.job.drain_s):
                    await self._drained.wait()

    def _waiting(self) -> bool:
        return any(client.outstanding for client in self._clients)

    async def _pace(self, begin_us: int) -> None:
        """Open loop: issue what is due, at the moment it is due or as soon after as possible."""
        rate = self.job.rate
        while self._issuing:
            now = now_us()
            target = due_by(now, begin_us, rate)
            while self._issued_open < target:
                due_us = begin_us + int(self._issued_open * 1e6 / rate)
                self._note_due(due_us, now)
                client = self._next_with_room()
                if client is None:
                    self._count_shed()
                    self._shed_until(target, begin_us, now)
                    break
                self._put(client, client.issue(1, due_us, now))
            self._schedule()
            await asyncio.sleep(PACE_S)

    def _note_due(self, due_us: int, now: int) -> None:
        """One more request is due."""
        self._issued_open += 1
        if due_us >= self._begin_us:
            self._late_us = max(self._late_us, now - due_us)
            if due_us <= self._end_us:
                self._due += 1

    def _next_with_room(self) -> LoadClient | None:
        """The next client in turn that may have one more request under way."""
        clients = self._clients
        for _ in range(len(clients)):
            client = clients[self._turn]
            self._turn = (self._turn + 1) % len(clients)
            if client.room() > 0:
                return client
        return None

    def _shed_until(self, target: int, begin_us: int, now: int) -> None:
        """No client has room, and none gets any before the nodes answer: what else is due now is shed."""
        rate = self.job.rate
        while self._issued_open < target:
            self._note_due(begin_us + int(self._issued_open * 1e6 / rate), now)
            self._count_shed()

    async def _sweep(self) -> None:
        """Repeat what was declined, and what nobody answers."""
        turn = 0
        while True:
            await asyncio.sleep(SWEEP_S)
            now = now_us()
            turn += 1
            waiting, self._delayed = self._delayed, []
            for at_us, client, seq in waiting:
                if at_us > now:
                    self._delayed.append((at_us, client, seq))
                    continue
                raw = client.again(seq, now)
                if raw is not None:
                    self._put(client, [raw])
            if turn % REPEAT_SWEEPS == 0:
                # A cluster under load answers late, not never: repeating early would only add to it.
                patience_us = max(RETRY_US, 4 * self._usual_us)
                for client in self._clients:
                    raws = client.overdue(now, patience_us)
                    self._retransmitted += len(raws)
                    self._repeats += raws
            self._schedule()

    def _report(self, cpu_s: float) -> Report:
        histogram = self.histogram
        return Report(
            committed=self._committed,
            refused=self._refused,
            shed=self._shed,
            busy=self._busy,
            retransmitted=self._retransmitted,
            due=self._due,
            late_ms=self._late_us / 1000,
            window_s=(self._end_us - self._begin_us) / 1e6,
            outstanding=sum(len(client.outstanding) for client in self._clients),
            signed_live=sum(client.supply.signed_live for client in self._clients),
            cpu_s=cpu_s,
            buckets=histogram.pairs(),
            min_us=histogram.min_us,
            max_us=histogram.max_us,
            sum_us=histogram.sum_us,
            gap_ms=self._gap_us / 1000,
            timeline=self._timeline,
            errors=self._errors,
        )
