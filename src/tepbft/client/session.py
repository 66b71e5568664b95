"""One session of one client, sans-IO: number, sign, send, retry, match (A9).

Requests are numbered from 1. At most W are outstanding, and none is ever above
`low + W`, `low` being the last number below which everything is answered: the
replicated client table then neither refuses a number nor forgets a reply that is
still awaited (A-39). Every start of a client opens a session with a larger number
than any before (A-41): the shell passes wall-clock microseconds.

A request that nobody answers is repeated for ever, with back-off: its number cannot
be given up, because it may have been ordered. Who waits for it may stop waiting.

`submit` takes operations in; `step` takes events and says what to send and what is
complete. Sends happen on `Tick` only, so that whatever was submitted between two
ticks leaves in one frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, assert_never

from tepbft import wire
from tepbft.client.events import (
    NOT_ADMITTED,
    ClientEffects,
    ClientEvent,
    FromNode,
    NodeConnected,
    Outcome,
    SessionOptions,
    Tick,
)
from tepbft.client.matching import FINAL_STATUSES, claim_of
from tepbft.client.pending import Pending, split
from tepbft.core.block import Receipt, Request, request_digest
from tepbft.core.events import Send
from tepbft.crypto.port import RequestSigner
from tepbft.errors import PeerFault, TepbftError

__all__ = [
    "NOT_ADMITTED",
    "ClientEffects",
    "ClientEvent",
    "FromNode",
    "Jitter",
    "NodeConnected",
    "Outcome",
    "ProofChecker",
    "Session",
    "SessionOptions",
    "Tick",
]

_HOPELESS_CODES = frozenset(("unknown_client", "bad_signature", "too_large"))

Proof: TypeAlias = wire.ProvenReceipt
ProofChecker = Callable[[Proof], int]
"""Verifies a proven receipt and returns its height; raises TepbftError or PeerFault otherwise."""


class Jitter(Protocol):
    """Where jitter comes from: a seeded `random.Random` is one."""

    def random(self) -> float:
        """A number in [0, 1)."""
        ...


# --- the session ------------------------------------------------------------------------------


class Session:
    """A numbered stream of requests of one client.

    `rng` gives the jitter; `check_proof` is asked about proven receipts that this session
    requested (without it none is requested). Times are milliseconds on any monotonic clock.
    """

    def __init__(
        self,
        chain_id: bytes,
        client_id: bytes,
        session_number: int,
        signer: RequestSigner,
        n: int,
        f: int,
        options: SessionOptions,
        *,
        rng: Jitter,
        check_proof: ProofChecker | None = None,
    ) -> None:
        wrong = options.check()
        if wrong:
            raise TepbftError("client options", "; ".join(wrong), "Correct them.")
        self.chain_id = chain_id
        self.client_id = client_id
        self.number = session_number
        self.options = options
        self._signer = signer
        self._n = n
        self._needed = f + 1
        self._all = tuple(range(n))
        self._rng = rng
        self._check_proof = check_proof
        self._last = 0  # highest number given out
        self._low = 0  # everything up to here is answered
        self._answered: set[int] = set()  # above _low; at most W - 1 of them
        self._waiting: deque[tuple[int, bytes, float]] = deque()
        self._waiting_bytes = 0
        self._pending: dict[int, Pending] = {}  # ascending
        self._fresh: list[Pending] = []
        self._reconnected: list[int] = []
        self._introduced: set[int] = set()
        """Nodes that were sent a request on their present connection: they answer on it from then on."""
        self._due_ms = float("inf")
        self._views: dict[int, int] = {}
        self._primaries: dict[int, int] = {}
        self._rotation = 0
        self._failure: str | None = None

    # --- what the shell may ask ---

    @property
    def low(self) -> int:
        """Everything up to this number is answered."""
        return self._low

    @property
    def outstanding(self) -> int:
        """Requests that are sent and not answered."""
        return len(self._pending)

    @property
    def waiting(self) -> int:
        """Operations that wait for the window to move."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """True if nothing is outstanding or waiting."""
        return not self._pending and not self._waiting

    @property
    def primary_hint(self) -> int:
        """The node that most nodes lately named as primary. A hint, never relied upon."""
        tally = [0] * self._n
        for primary in self._primaries.values():
            tally[primary] += 1
        return tally.index(max(tally))

    @property
    def full(self) -> bool:
        """True if the next `submit` could be refused for lack of room."""
        options = self.options
        return (
            len(self._waiting) >= options.queue_requests
            or self._waiting_bytes + options.operation_bytes > options.queue_bytes
        )

    # --- in ---

    def submit(self, op: bytes, now_ms: float) -> int:
        """Take an operation in and return its number. TepbftError if it is too large, the queue
        is full, or the nodes have declined this client."""
        options = self.options
        if self._failure is not None:
            raise TepbftError(
                f"client {self.client_id.hex()}",
                f"the nodes do not take up its requests ({self._failure})",
                "Check that the client file belongs to this cluster, then open a new client.",
            )
        if len(op) > options.operation_bytes:
            raise TepbftError(
                "operation",
                f"it has {len(op)} bytes, and the chain takes at most {options.operation_bytes}",
                "Split it, or store the bulk elsewhere and submit its digest.",
            )
        if len(self._waiting) >= options.queue_requests or (
            self._waiting_bytes + len(op) > options.queue_bytes
        ):
            raise TepbftError(
                "client queue",
                f"{len(self._waiting)} operations ({self._waiting_bytes} bytes) wait already",
                "Wait for earlier outcomes before submitting more.",
            )
        self._last += 1
        self._waiting.append((self._last, op, now_ms))
        self._waiting_bytes += len(op)
        return self._last

    def step(self, event: ClientEvent, now_ms: float) -> ClientEffects:
        """One event in, what to do out. Hostile messages never raise: they are ignored."""
        effects = ClientEffects()
        match event:
            case FromNode():
                if 0 <= event.node < self._n:
                    self._from_node(event.node, event.message, now_ms, effects)
            case NodeConnected():
                if 0 <= event.node < self._n and event.node not in self._reconnected:
                    self._reconnected.append(event.node)
                    self._introduced.discard(event.node)
            case Tick():
                self._tick(now_ms, effects)
            case _:
                assert_never(event)
        return effects

    # --- answers ---

    def _from_node(self, node: int, message: Any, now_ms: float, effects: ClientEffects) -> None:
        if isinstance(message, wire.Outcome):
            if self._views.get(node) != message.view:
                self._note_view(node, message.view)
            for receipt in message.receipts:
                self._receipt(node, message.height, receipt, now_ms, effects)
        elif isinstance(message, wire.NotAdmitted):
            self._introduced.discard(node)  # what is declined may not even have been looked at
            for client, session, seq, code in message.requests:
                if client == self.client_id and session == self.number:
                    self._not_admitted(node, seq, code, now_ms, effects)
        elif isinstance(message, wire.ProvenReceipt):
            self._proof(node, message, now_ms, effects)
        elif isinstance(message, wire.Welcome) and message.primary < self._n:
            self._views[node] = message.view
            self._primaries[node] = message.primary

    def _note_view(self, node: int, view: int) -> None:
        # Primaries rotate with the view; the configuration's offset is in the Welcome.
        before = self._views.get(node)
        if before is not None and node in self._primaries:
            self._primaries[node] = (self._primaries[node] + view - before) % self._n
            self._views[node] = view

    def _receipt(
        self, node: int, height: int, receipt: Receipt, now_ms: float, effects: ClientEffects
    ) -> None:
        pending = self._pending.get(receipt.seq)
        if (
            pending is None
            or receipt.request_digest != pending.digest
            or receipt.client != self.client_id
            or receipt.session != self.number
            or receipt.status not in FINAL_STATUSES
        ):
            return
        nodes = pending.claims.add(node, claim_of(height, receipt), self._needed)
        if nodes is not None:
            self._complete(pending, height, receipt, nodes, now_ms, effects)

    def _proof(self, node: int, proof: Proof, now_ms: float, effects: ClientEffects) -> None:
        receipt = proof.receipt
        pending = self._pending.get(receipt.seq)
        if pending is None or pending.asked_node != node or self._check_proof is None:
            return  # unasked-for proofs are not looked at: checking one costs signatures
        pending.asked_node = None
        if (
            receipt.request_digest != pending.digest
            or receipt.client != self.client_id
            or receipt.session != self.number
            or receipt.status not in FINAL_STATUSES
        ):
            return
        try:
            height = self._check_proof(proof)
        except (TepbftError, PeerFault):
            return
        self._complete(pending, height, receipt, (node,), now_ms, effects, proven=True)

    def _complete(
        self,
        pending: Pending,
        height: int,
        receipt: Receipt,
        nodes: tuple[int, ...],
        now_ms: float,
        effects: ClientEffects,
        proven: bool = False,
    ) -> None:
        effects.completed.append(
            Outcome(
                session=self.number,
                seq=receipt.seq,
                height=height,
                status=receipt.status,
                result=receipt.result,
                receipt_digest=receipt.digest(),
                nodes=nodes,
                latency_ms=now_ms - pending.submitted_ms,
                proven=proven,
            )
        )
        self._answer(receipt.seq)

    def _answer(self, seq: int) -> None:
        del self._pending[seq]
        self._answered.add(seq)
        while self._low + 1 in self._answered:
            self._low += 1
            self._answered.remove(self._low)

    # --- refusals to take up ---

    def _not_admitted(self, node: int, seq: int, code: str, now_ms: float, effects: ClientEffects) -> None:
        pending = self._pending.get(seq)
        if pending is None:
            return
        if code in _HOPELESS_CODES:
            pending.refusals[node] = code
            same = tuple(sorted(n for n, theirs in pending.refusals.items() if theirs == code))
            if len(same) >= self._needed:
                self._fail(code, same, now_ms, effects)
            return
        if node in pending.busy_nodes:
            return
        pending.busy_nodes.append(node)
        if len(pending.busy_nodes) == 1:
            delay = min(self.options.busy_ms * 2.0 ** min(pending.busy_rounds, 30), self.options.busy_max_ms)
            pending.busy_rounds += 1
            pending.busy_at_ms = now_ms + self._jitter(delay)
            self._due_ms = min(self._due_ms, pending.busy_at_ms)

    def _fail(self, code: str, nodes: tuple[int, ...], now_ms: float, effects: ClientEffects) -> None:
        # A correct node said so: the number will stay open for ever and nothing beyond the window
        # can follow it. The session is over, and everybody who waits is told.
        self._failure = code
        waiting = [(pending.request.seq, pending.submitted_ms) for pending in self._pending.values()]
        waiting += [(seq, submitted_ms) for seq, _, submitted_ms in self._waiting]
        for seq, submitted_ms in waiting:
            effects.completed.append(
                Outcome(
                    session=self.number,
                    seq=seq,
                    height=0,
                    status=NOT_ADMITTED,
                    result=code.encode(),
                    receipt_digest=b"",
                    nodes=nodes,
                    latency_ms=now_ms - submitted_ms,
                )
            )
        self._pending.clear()
        self._waiting.clear()
        self._fresh.clear()
        self._waiting_bytes = 0

    # --- out ---

    def _tick(self, now_ms: float, effects: ClientEffects) -> None:
        self._admit(now_ms)
        by_target: dict[tuple[int, ...], list[Request]] = {}
        if self._fresh:
            requests = [pending.request for pending in self._fresh]
            if self.options.client_send == "primary_first":
                by_target[(self.primary_hint,)] = requests
                self._introduce(requests[0], by_target)
            else:
                by_target[self._all] = requests
            self._fresh = []
        if self._reconnected:
            self._resend_to_reconnected(by_target)
        if now_ms >= self._due_ms:
            self._repeat(now_ms, by_target, effects)
        for to, requests in by_target.items():
            for part in split(requests):
                effects.send.append(Send(to, wire.Submit(self.chain_id, part)))

    def _introduce(self, request: Request, by_target: dict[tuple[int, ...], list[Request]]) -> None:
        """A node answers a client on the connection on which it heard of it, and the primary's block is no
        connection."""
        primary = self.primary_hint
        strangers = tuple(node for node in self._all if node != primary and node not in self._introduced)
        if strangers:
            requests = by_target.setdefault(strangers, [])
            if request not in requests:
                requests.append(request)
        self._introduced.update(self._all)

    def _admit(self, now_ms: float) -> None:
        top = self._low + self.options.window
        while self._waiting and self._waiting[0][0] <= top:
            seq, op, submitted_ms = self._waiting.popleft()
            self._waiting_bytes -= len(op)
            digest = request_digest(self.chain_id, self.client_id, self.number, seq, op)
            request = Request(self.client_id, self.number, seq, op, self._signer.sign(digest))
            pending = Pending(request, digest, submitted_ms)
            pending.retry_at_ms = now_ms + self._jitter(self.options.retransmit_ms)
            self._due_ms = min(self._due_ms, pending.retry_at_ms)
            self._pending[seq] = pending
            self._fresh.append(pending)

    def _resend_to_reconnected(self, by_target: dict[tuple[int, ...], list[Request]]) -> None:
        # A node replies on the connection on which it saw the request last.
        fresh = by_target.get(self._all, [])
        skip = {request.seq for request in fresh}
        first_only = self.options.client_send == "primary_first"
        for node in self._reconnected:
            requests = [
                pending.request
                for seq, pending in self._pending.items()
                if seq not in skip and (pending.attempts or not first_only or node == self.primary_hint)
            ]
            if requests:
                by_target.setdefault((node,), []).extend(requests)
        if first_only and self._pending:
            self._introduce(next(iter(self._pending.values())).request, by_target)
        self._reconnected = []

    def _repeat(
        self, now_ms: float, by_target: dict[tuple[int, ...], list[Request]], effects: ClientEffects
    ) -> None:
        options = self.options
        due = float("inf")
        for pending in self._pending.values():
            if now_ms >= pending.retry_at_ms:
                pending.attempts += 1
                delay = min(
                    options.retransmit_ms * 2.0 ** min(pending.attempts, 30), options.retransmit_max_ms
                )
                pending.retry_at_ms = now_ms + self._jitter(delay)
                pending.busy_nodes.clear()
                by_target.setdefault(self._all, []).append(pending.request)
                if pending.attempts >= options.proof_after and self._check_proof is not None:
                    self._ask_proof(pending, effects)
            elif pending.busy_nodes and now_ms >= pending.busy_at_ms:
                to = tuple(sorted(pending.busy_nodes))
                pending.busy_nodes.clear()
                by_target.setdefault(to, []).append(pending.request)
            due = min(due, pending.retry_at_ms, pending.busy_at_ms if pending.busy_nodes else due)
        self._due_ms = due

    def _ask_proof(self, pending: Pending, effects: ClientEffects) -> None:
        node = self._rotation % self._n
        self._rotation += 1
        pending.asked_node = node
        effects.send.append(Send((node,), wire.WantProof(self.client_id, self.number, pending.request.seq)))

    def _jitter(self, delay_ms: float) -> float:
        return delay_ms * (0.75 + 0.5 * self._rng.random())
