"""The client for asyncio programs.

    async with tepbft.Client.open("cluster") as client:
        outcome = await client.submit(b"...")

One event loop, one connection per node, no task per request: what is submitted
between two turns of the loop leaves in one frame, signed; replies complete futures.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any

import msgspec

from tepbft import wire
from tepbft.client.credentials import (
    Credentials,
    client_file,
    largest_operation,
    load_credentials,
    load_genesis,
)
from tepbft.client.events import ClientEffects, FromNode, NodeConnected, Outcome, SessionOptions, Tick
from tepbft.client.link import NodeLink, client_tls
from tepbft.client.receipts import verify_receipt
from tepbft.client.session import Session
from tepbft.core.configuration import Genesis
from tepbft.core.quorum import quorums
from tepbft.core.verification import Verifier
from tepbft.errors import TepbftError
from tepbft.trusted.verify import UiVerifier

DEFAULT_TIMEOUT_S = 60.0
TICK_S = 0.02
PROOF_ANSWER_S = 2.0
PROOF_PAUSE_S = 0.1
MAX_PROOF_PAUSE_S = 1.0
MAX_PROOF_WAITERS = 1024

_FROM_NODES = (wire.Welcome, wire.Outcome, wire.NotAdmitted, wire.ProvenReceipt)


class Client:
    """A client of one cluster. Use it as an async context manager; not safe to share between
    event loops or threads.

    `timeout_s` is how long a call waits for its outcome. A request that timed out is still
    pursued until the client is closed: it may take effect.
    """

    def __init__(
        self,
        genesis: Genesis,
        credentials: Credentials,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        connect_timeout_s: float = 10.0,
        options: SessionOptions | None = None,
        verifier_factory: Callable[[bytes], Verifier] = UiVerifier,
    ) -> None:
        chosen = options or SessionOptions()
        self.genesis = genesis
        self.credentials = credentials
        self.timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._verifier_factory = verifier_factory
        self._rng = Random(os.urandom(16))
        self._quorums = quorums(len(genesis.members))
        self.session = Session(
            genesis.chain_id,
            credentials.client,
            time.time_ns() // 1000,  # larger at every start
            credentials.signer(genesis),
            self._quorums.n,
            self._quorums.f,
            msgspec.structs.replace(
                chosen,
                window=min(chosen.window, genesis.parameters.client_window),
                operation_bytes=min(chosen.operation_bytes, largest_operation(genesis)),
            ),
            rng=self._rng,
            check_proof=lambda proof: verify_receipt(genesis, proof, verifier_factory).height,
        )
        self._links: list[NodeLink] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._futures: dict[int, asyncio.Future[Outcome]] = {}
        self._deadlines: list[tuple[float, int]] = []  # a heap
        self._proof_waiters: dict[tuple[int, int, int], asyncio.Future[Any]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._flush_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._enough = asyncio.Event()

    # --- opening and closing ------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        client: str | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        connect_timeout_s: float = 10.0,
        options: SessionOptions | None = None,
    ) -> Client:
        """A client for the cluster folder `directory` (genesis.json and clients/*.json).

        `client` names one of the client files; the first by name if it is left out. Two programs
        that run at the same time need two clients: a newer session ends the older one.
        TepbftError if a file is missing or does not fit.
        """
        folder = Path(directory)
        credentials = load_credentials(client_file(folder, client))
        return cls(
            load_genesis(folder / "genesis.json"),
            credentials,
            timeout_s=timeout_s,
            connect_timeout_s=connect_timeout_s,
            options=options,
        )

    async def __aenter__(self) -> Client:
        if self._loop is not None:
            raise TepbftError("client", "it was opened before", "Make a new one.")
        self._loop = asyncio.get_running_loop()
        tls = client_tls()
        for member in self.genesis.members:
            link = NodeLink(
                self.genesis.chain_id, member, tls, self._rng, received=self._received, up=self._up
            )
            self._links.append(link)
            self._tasks.append(self._loop.create_task(link.run()))
        needed = self._quorums.f + 1
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await self._enough.wait()
        except TimeoutError:
            problem = self._problems()
            await self.close()
            raise TepbftError(
                "cluster",
                f"fewer than {needed} of {self._quorums.n} nodes are reachable ({problem})",
                "Start the nodes: tepbft up",
            ) from None
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Break all connections; whoever still waits gets a TepbftError."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        for link in self._links:
            link.close()
        self._links.clear()
        error = TepbftError("client", "it was closed before the outcome was known", "Submit again.")
        for future in (*self._futures.values(), *self._proof_waiters.values()):
            if not future.done():
                future.set_exception(error)
                future.exception()  # marks it as seen, in case nobody waits
        self._futures.clear()
        self._proof_waiters.clear()
        await asyncio.sleep(0)  # lets the transports tell their protocols

    # --- submitting ---------------------------------------------------------------------------

    def submit_nowait(self, op: bytes, *, timeout_s: float | None = None) -> asyncio.Future[Outcome]:
        """Submit, and have a future for the outcome. TepbftError at once if the queue is full."""
        loop = self._running()
        now_s = loop.time()
        seq = self.session.submit(op, now_s * 1000)
        future: asyncio.Future[Outcome] = loop.create_future()
        self._futures[seq] = future
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        heappush(self._deadlines, (now_s + limit_s, seq))
        self._wake()
        return future

    async def submit(self, op: bytes, *, timeout_s: float | None = None) -> Outcome:
        """The outcome of one operation. One that was refused is an outcome with `ok` False.

        TepbftError after `timeout_s` (the client's own unless given); the operation may still
        take effect then.
        """
        return await self.submit_nowait(op, timeout_s=timeout_s)

    async def submit_many(self, ops: Iterable[bytes], *, timeout_s: float | None = None) -> list[Outcome]:
        """The outcomes of many operations, in the order given; they may take effect in another.

        Any number: waits for earlier ones where the queue is full. Raises the first error.
        """
        futures: list[asyncio.Future[Outcome]] = []
        oldest = 0
        try:
            for op in ops:
                while self.session.full:
                    await futures[oldest]
                    oldest += 1
                futures.append(self.submit_nowait(op, timeout_s=timeout_s))
            return [await future for future in futures]
        finally:
            for future in futures:
                if not future.done():
                    future.cancel()
                elif not future.cancelled():
                    future.exception()  # marks it as seen: the first error was raised

    async def receipt(
        self, request: int | Outcome, *, session: int | None = None, timeout_s: float | None = None
    ) -> wire.ProvenReceipt:
        """A proven receipt that verifies offline, of a request of this client.

        `request` is a number of this session (or of `session`), or an outcome. Nodes are asked in
        turn, until one has a proof that verifies; TepbftError with their reasons after `timeout_s`.
        """
        loop = self._running()
        seq = request if isinstance(request, int) else request.seq
        if not isinstance(request, int):
            session = request.session
        number = self.session.number if session is None else session
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        reasons: dict[int, str] = {}
        pause_s = PROOF_PAUSE_S
        try:
            async with asyncio.timeout_at(loop.time() + limit_s):
                while True:
                    for link in self._links:
                        answer = await self._ask_proof(link, number, seq)
                        if isinstance(answer, wire.ProvenReceipt):
                            return answer
                        reasons[link.member.node] = answer
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, MAX_PROOF_PAUSE_S)
        except TimeoutError:
            told = "; ".join(f"node {node}: {reason}" for node, reason in sorted(reasons.items()))
            raise TepbftError(
                f"receipt of request {seq}",
                f"no node proved it within {limit_s:g} s ({told or self._problems() or 'no answer'})",
                "Try again when the request's block is stable.",
            ) from None

    async def _ask_proof(self, link: NodeLink, number: int, seq: int) -> wire.ProvenReceipt | str:
        """A verified proof from one node, or why there is none."""
        key = (link.member.node, number, seq)
        if key in self._proof_waiters or len(self._proof_waiters) >= MAX_PROOF_WAITERS:
            return "asked already"
        want = wire.WantProof(self.credentials.client, number, seq)
        if not link.send(wire.frame(wire.encode(want))):
            return link.problem or "it does not read"
        future: asyncio.Future[Any] = self._running().create_future()
        self._proof_waiters[key] = future
        try:
            async with asyncio.timeout(PROOF_ANSWER_S):
                answer = await future
        except TimeoutError:
            return "no answer"
        finally:
            self._proof_waiters.pop(key, None)
        if isinstance(answer, wire.NoProof):
            return answer.reason
        try:
            verify_receipt(self.genesis, answer, self._verifier_factory)
        except TepbftError as error:
            return f"its proof is wrong: {error.reason}"
        found: wire.ProvenReceipt = answer
        return found

    # --- the loop -----------------------------------------------------------------------------

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None or not self._tasks:
            raise TepbftError("client", "it is not open", "Use it inside: async with Client.open(...)")
        return self._loop

    def _problems(self) -> str:
        return "; ".join(
            f"node {link.member.node}: {link.problem}" for link in self._links if not link.connected
        )

    def _up(self, node: int) -> None:
        self.session.step(NodeConnected(node), self._now_ms())
        if sum(link.connected for link in self._links) > self._quorums.f:
            self._enough.set()
        self._wake()

    def _received(self, node: int, messages: list[Any]) -> None:
        now_ms = self._now_ms()
        for message in messages:
            if isinstance(message, wire.ProvenReceipt):
                receipt = message.receipt
                if receipt.client == self.credentials.client:
                    self._answer_waiter(node, receipt.session, receipt.seq, message)
            elif isinstance(message, wire.NoProof):
                if message.client == self.credentials.client:
                    self._answer_waiter(node, message.session, message.seq, message)
                continue
            if isinstance(message, _FROM_NODES):
                self._carry_out(self.session.step(FromNode(node, message), now_ms))
        self._wake()

    def _answer_waiter(self, node: int, session: int, seq: int, answer: Any) -> None:
        waiter = self._proof_waiters.get((node, session, seq))
        if waiter is not None and not waiter.done():
            waiter.set_result(answer)

    def _now_ms(self) -> float:
        assert self._loop is not None
        return self._loop.time() * 1000

    def _wake(self) -> None:
        """Flush once at the end of this turn of the loop."""
        if not self._flush_scheduled and self._loop is not None and self._tasks:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._loop is None or not self._tasks:
            return
        self._carry_out(self.session.step(Tick(), self._now_ms()))
        self._expire(self._loop.time())
        if self._timer is None and not self.session.idle:
            self._timer = self._loop.call_later(TICK_S, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._flush()

    def _carry_out(self, effects: ClientEffects) -> None:
        for send in effects.send:
            data = wire.frame(wire.encode(send.message))
            for node in send.to:
                self._links[node].send(data)
        for outcome in effects.completed:
            future = self._futures.pop(outcome.seq, None)
            if future is not None and not future.done():
                future.set_result(outcome)

    def _expire(self, now_s: float) -> None:
        # Answered entries go as they reach the top. They cannot pile up below an unanswered one:
        # the window holds back what comes after it.
        deadlines = self._deadlines
        while deadlines and (deadlines[0][0] <= now_s or deadlines[0][1] not in self._futures):
            self._time_out(heappop(deadlines)[1])

    def _time_out(self, seq: int) -> None:
        future = self._futures.pop(seq, None)
        if future is None or future.done():
            return
        problems = self._problems()
        future.set_exception(
            TepbftError(
                f"request {seq}",
                "no outcome was confirmed in time"
                + (f" ({problems})" if problems else "; all nodes are connected"),
                "It may still take effect: submit it again only if that does no harm.",
            )
        )
