"""Clients: production sessions on virtual time, and the history of what they saw.

A client keeps up to `pipeline` operations under way, now and then opens a new session
as one that was restarted would, and records every call and return for the judgement of
linearizability. The rogue client colludes with Byzantine hosts on keys of its own.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from tepbft.client.events import NOT_ADMITTED, ClientEffects, FromNode, NodeConnected, Outcome, SessionOptions
from tepbft.client.events import Tick as ClientTick
from tepbft.client.receipts import verify_receipt
from tepbft.client.session import Session
from tepbft.core.block import OK, REFUSED, Request, request_digest
from tepbft.core.configuration import RegisteredClient
from tepbft.crypto.port import RequestSigner
from tepbft.execution.apps import kv
from tepbft.sim.linearizability import Operation
from tepbft.types import Millis, NodeId
from tepbft.wire import ProvenReceipt, WantProof

if TYPE_CHECKING:
    from tepbft.sim.world import World

WAKE_MS = 25
_decode = {
    "get": msgspec.msgpack.Decoder(bytes | None).decode,
    "delete": msgspec.msgpack.Decoder(bool).decode,
    "cas": msgspec.msgpack.Decoder(tuple[bool, bytes | None]).decode,
}
_KINDS = {"Put": "put", "Get": "get", "Delete": "delete", "CompareAndSwap": "cas"}


class _Call:
    """One operation that a client has asked for."""

    __slots__ = ("invoked_ms", "operation", "outcome", "returned_ms")

    def __init__(self, operation: kv.Operation, invoked_ms: Millis) -> None:
        self.operation, self.invoked_ms = operation, invoked_ms
        self.returned_ms: Millis | None = None
        self.outcome: Outcome | None = None


class SimClient:
    """One correct client."""

    def __init__(self, world: World, index: int, entry: RegisteredClient, signer: RequestSigner) -> None:
        self.world, self.index, self.entry, self._signer = world, index, entry, signer
        self._rng = Random(f"{world.config.seed}/client/{index}")
        self._session_number = 0
        self._session: Session
        self._calls: dict[tuple[int, int], _Call] = {}
        self._asleep_until: Millis = 0
        self._budget = world.config.requests
        self._late = world.config.late_requests
        self._next_value = 0

    def begin(self) -> None:
        """Open the first session and wake up regularly."""
        self._open()
        self.world.at(self.world.now + self._rng.randint(1, WAKE_MS), self._wake)

    def _open(self) -> None:
        world = self.world
        config = world.config
        self._session_number += self._rng.randint(1, 3)
        retransmit_ms = config.options.t_request_ms
        options = SessionOptions(
            window=self._rng.randint(1, world.genesis.parameters.client_window),
            retransmit_ms=retransmit_ms,
            retransmit_max_ms=4 * retransmit_ms,
            busy_ms=20,
            busy_max_ms=retransmit_ms,
            client_send=self._rng.choice(("all", "all", "primary_first")),
        )
        quorums = world.genesis.configuration().quorums
        self._session = Session(
            world.chain_id,
            self.entry.client,
            self._session_number,
            self._signer,
            quorums.n,
            quorums.f,
            options,
            rng=self._rng,
            check_proof=self._check_proof,
        )

    def _check_proof(self, proof: ProvenReceipt) -> int:
        found = verify_receipt(self.world.genesis, proof, lambda chain_id: self.world.keys.verifier)
        return found.height

    @property
    def idle(self) -> bool:
        """Everything that it had to ask for is answered."""
        return self._budget <= 0 and self._late <= 0 and self._session.idle

    # --- working ----------------------------------------------------------------------------------

    def _wake(self) -> None:
        world, rng = self.world, self._rng
        if world.now >= self._asleep_until and self._may_ask():
            self._ask()
            self._asleep_until = world.now + int(rng.random() * 2 * world.config.think_ms)
        self._act(self._session.step(ClientTick(), world.now))
        if not self.idle:
            world.at(world.now + WAKE_MS, self._wake)

    def _may_ask(self) -> bool:
        session = self._session
        under_way = session.outstanding + session.waiting
        left = self._late if self.world.network.healed else self._budget
        if self.world.network.healed and self._budget > 0:
            self._budget = 0
        return left > 0 and under_way < self.world.config.pipeline

    def _ask(self) -> None:
        world, rng = self.world, self._rng
        if rng.random() < world.config.session_changes:
            self._open()  # what was under way may still happen, and nobody will tell this client
            world.coverage.count("session_changes")
        operation = self._choose()
        seq = self._session.submit(kv.encode(operation), world.now)
        self._calls[(self._session_number, seq)] = _Call(operation, world.now)
        if world.network.healed:
            self._late -= 1
        else:
            self._budget -= 1

    def _choose(self) -> kv.Operation:
        rng = self._rng
        key = b"k%d" % rng.randrange(self.world.config.keys)
        self._next_value += 1
        value = b"%d.%d" % (self.index, self._next_value)
        kind = rng.random()
        if kind < 0.4:
            return kv.Put(key, value)
        if kind < 0.75:
            return kv.Get(key)
        if kind < 0.9:
            expected = self.world.chain.model.get(key) if rng.random() < 0.7 else value
            return kv.CompareAndSwap(key, expected, value)
        return kv.Delete(key)

    def heard(self, node: NodeId, message: Any) -> None:
        """A message from a node."""
        self._act(self._session.step(FromNode(node, message), self.world.now))

    def connected(self, node: NodeId) -> None:
        """A node's process has started: what is outstanding goes there again."""
        self._act(self._session.step(NodeConnected(node), self.world.now))

    def _act(self, effects: ClientEffects) -> None:
        world = self.world
        for send in effects.send:
            if isinstance(send.message, WantProof):
                world.coverage.count("proofs")
            world.submit(self.index, send.to, send.message)
        for outcome in effects.completed:
            call = self._calls[(outcome.session, outcome.seq)]
            call.returned_ms, call.outcome = world.now, outcome
            world.coverage.count("outcomes")
            world.trace("outcome", -1, self.index, outcome.session, outcome.seq, outcome.status)
            for hook in world.hooks.on_outcome:
                hook(self.index, outcome.height, outcome.session, outcome.seq, outcome)
            world.faults.answered()

    # --- history ----------------------------------------------------------------------------------

    def history(self) -> list[Operation]:
        """Every call, with what came back if anything did."""
        return [self._operation(call) for call in self._calls.values()]

    def times(self) -> list[tuple[int, int, Millis, Millis | None]]:
        """(session, seq, invoked, returned with a result that stands in the chain) of every call."""
        return [
            (session, seq, call.invoked_ms, call.returned_ms if _took_effect(call.outcome) else None)
            for (session, seq), call in self._calls.items()
        ]

    def _operation(self, call: _Call) -> Operation:
        op: Any = call.operation
        outcome = call.outcome
        kind: Any = _KINDS[type(op).__name__]
        known = outcome is not None and outcome.status in (OK, REFUSED, NOT_ADMITTED)
        result: Any = None
        refused = outcome is not None and outcome.status in (REFUSED, NOT_ADMITTED)
        if known and outcome is not None and outcome.status == OK and kind in _decode:
            result = _decode[kind](outcome.result)
        return Operation(
            client=self.index,
            kind=kind,
            key=op.key,
            value=getattr(op, "value", getattr(op, "new", b"")),
            expected=getattr(op, "expected", None),
            result=result,
            invoked_ms=call.invoked_ms,
            returned_ms=call.returned_ms if known else None,
            refused=refused,
        )


def _took_effect(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.status in (OK, REFUSED)


class RogueClient:
    """A registered client that colludes with Byzantine hosts: it signs whatever they want."""

    def __init__(self, chain_id: bytes, entry: RegisteredClient, signer: RequestSigner) -> None:
        self._chain_id, self.entry, self._signer = chain_id, entry, signer

    def make(self, session: int, seq: int, op: bytes) -> Request:
        """A well-signed request with any number and content."""
        digest = request_digest(self._chain_id, self.entry.client, session, seq, op)
        return Request(self.entry.client, session, seq, op, self._signer.sign(digest))
