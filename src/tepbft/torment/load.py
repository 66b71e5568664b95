"""The clients: many small operations on few keys, and a record of what each returned, and when."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from tepbft.client.aio import Client
from tepbft.client.events import Outcome
from tepbft.core.block import OK
from tepbft.errors import TepbftError
from tepbft.execution.apps import kv
from tepbft.sim.linearizability import Operation, observed

KEYS = 16
IN_FLIGHT = 2
"""Operations of one client under way at a time."""
MAX_THINK_S = 0.03
FOREVER_S = 86_400.0


@dataclass(slots=True)
class Call:
    """One operation. `outcome` is None as long as nobody knows what became of it."""

    client: int
    operation: bytes
    invoked_us: int
    returned_us: int | None = None
    outcome: Outcome | None = None


def now_us() -> int:
    """The one clock of the history: monotonic, microseconds."""
    return time.monotonic_ns() // 1000


class History:
    """Every call of every client."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.returned = 0
        self.odd: list[str] = []
        """Outcomes that no request of this load should have."""
        self.last_return_us = now_us()

    async def call(self, number: int, client: Client, operation: bytes) -> Call:
        """Submit one operation and wait for what becomes of it, however long."""
        call = Call(number, operation, now_us())
        self.calls.append(call)
        try:
            outcome = await client.submit(operation, timeout_s=FOREVER_S)
        except TepbftError:  # the client was closed: it stays open, as nobody knows
            return call
        returned_us = now_us()
        if outcome.status != OK:  # kv refuses nothing; whether it took effect cannot be told
            self.odd.append(f"request {outcome.seq} of client {number}: {outcome.status_name}")
            return call
        call.returned_us, call.outcome = returned_us, outcome
        self.returned += 1
        self.last_return_us = returned_us
        return call

    def operations(self) -> list[Operation]:
        """The history as the checker wants it; times in microseconds."""
        return [
            observed(
                call.client,
                call.operation,
                None if call.outcome is None else call.outcome.result,
                invoked_ms=call.invoked_us,
                returned_ms=call.returned_us,
            )
            for call in self.calls
        ]

    def acknowledged(self) -> Iterator[tuple[Call, Outcome]]:
        """The calls whose outcome f+1 nodes confirmed."""
        for call in self.calls:
            if call.outcome is not None:
                yield call, call.outcome

    def longest_gap_ms(self, until_us: int) -> float:
        """The longest time without any return, from the first call to `until_us`."""
        times = sorted(call.returned_us for call in self.calls if call.returned_us is not None)
        times = [moment for moment in times if moment <= until_us]
        if self.calls:
            times = [self.calls[0].invoked_us, *times, until_us]
        return max((later - earlier for earlier, later in pairwise(times)), default=0) / 1000


class Load:
    """All clients at work, each `IN_FLIGHT` operations at a time, until told to stop."""

    def __init__(self, clients: Sequence[Client], seed: int, prefix: str) -> None:
        self.history = History()
        self.keys = [f"{prefix}/{number}".encode() for number in range(KEYS)]
        self._clients = clients
        self._seed = seed
        self._known: dict[bytes, bytes | None] = {}
        """Per key what a client saw last: what a compare-and-swap bets on."""
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        for number, client in enumerate(self._clients):
            for lane in range(IN_FLIGHT):
                self._tasks.append(asyncio.create_task(self._work(number, client, lane)))

    async def stop(self, timeout_s: float) -> int:
        """No new operations; wait for those under way. How many were still open after `timeout_s`."""
        self._stopping = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        left = sum(not task.done() for task in self._tasks)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return left

    async def read_all(self, timeout_s: float) -> bool:
        """At the end every key is read once more: what was written and is gone is seen then."""
        reads = [
            asyncio.create_task(self.history.call(0, self._clients[0], kv.encode(kv.Get(key))))
            for key in self.keys
        ]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*reads)
        return all(task.done() and not task.cancelled() for task in reads)

    def failed(self) -> BaseException | None:
        """An error in a client: a fault of this program, or an answer that is not of `kv`."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                return task.exception()
        return None

    async def _work(self, number: int, client: Client, lane: int) -> None:
        rng = Random(f"{self._seed}/client/{number}/{lane}")
        count = 0
        while not self._stopping:
            count += 1
            operation = self._draw(rng, f"{number}.{lane}.{count}".encode())
            call = await self.history.call(number, client, kv.encode(operation))
            if call.outcome is None:
                if self._stopping:
                    return
            else:
                self._learn(operation, call)
            await asyncio.sleep(rng.uniform(0, MAX_THINK_S))

    def _draw(self, rng: Random, value: bytes) -> kv.Operation:
        """Values are never written twice, so a read tells which write it saw."""
        key, draw = rng.choice(self.keys), rng.random()
        if draw < 0.30:
            return kv.Get(key)
        if draw < 0.62:
            return kv.Put(key, value)
        if draw < 0.90:
            return kv.CompareAndSwap(key, self._known.get(key), value)
        return kv.Delete(key)

    def _learn(self, operation: kv.Operation, call: Call) -> None:
        if isinstance(operation, kv.Put):
            self._known[operation.key] = operation.value
        elif isinstance(operation, kv.Delete):
            self._known[operation.key] = None
        elif isinstance(operation, (kv.Get, kv.CompareAndSwap)):
            seen = observed(
                call.client,
                call.operation,
                call.outcome.result if call.outcome is not None else None,
                invoked_ms=call.invoked_us,
                returned_ms=call.returned_us,
            )
            if isinstance(operation, kv.Get):
                self._known[operation.key] = seen.result
            elif seen.result is not None:
                swapped, found = seen.result
                self._known[operation.key] = operation.new if swapped else found
