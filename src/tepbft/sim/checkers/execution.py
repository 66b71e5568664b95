"""What executing the agreed chain meant: for every request, for every client (I-12, I-13, I-14)."""

from __future__ import annotations

from typing import Any

from tepbft.core.block import NULL, OK, REFUSED, Header, digest_of
from tepbft.sim.host import SimHost
from tepbft.sim.linearizability import check
from tepbft.sim.ports import Checker
from tepbft.sim.world import World


class ExactlyOnce(Checker):
    """I-12: per (client, session, seq) one execution with an effect, with the result that a key-value
    store would give; and all correct replicas keep the same reply."""

    name = "I-12"

    def on_executed(self, host: SimHost, header: Header, first: bool) -> None:
        """See `Checker`."""
        if not first:
            return
        chain = self.world.chain
        entry = chain.entries[header.height]
        if len(entry.receipts) != len(entry.requests):
            self.violate(f"{len(entry.receipts)} receipts at height {header.height}", host.number)
            return
        for request, receipt in zip(entry.requests, entry.receipts, strict=True):
            key = (request.client, request.session, request.seq)
            if (receipt.client, receipt.session, receipt.seq) != key:
                self.violate(f"a receipt at height {header.height} is for another request", host.number)
            if receipt.status not in (OK, REFUSED):
                continue
            if key in chain.outcomes:
                self.violate(f"request {key[1]}.{key[2]} took effect twice", host.number)
            chain.outcomes[key] = (header.height, receipt)
            if receipt.status == OK:
                expected = chain.expected(request.op)
                if expected is not None and expected != receipt.result:
                    self.world.violate(
                        "I-14", f"wrong result of {key[1]}.{key[2]} at height {header.height}", host.number
                    )

    def on_end(self) -> None:
        """Cached replies: whoever stands at the agreed head answers what the chain says."""
        chain = self.world.chain
        for host in self.world.correct():
            if host.node is None or host.node.state.executed != chain.height:
                continue
            for (client, session, seq), outcome in chain.outcomes.items():
                kept = host.node.find_outcome(client, session, seq)
                if kept is not None and kept != outcome:
                    self.violate(f"another reply is kept for {session}.{seq}", host.number)


class Validity(Checker):
    """I-13: what is executed was signed by its client, within limits; NULL blocks change nothing."""

    name = "I-13"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._verifier = world.keys.requests(world.genesis.clients, 0)

    def on_executed(self, host: SimHost, header: Header, first: bool) -> None:
        """See `Checker`."""
        if not first:
            return
        world = self.world
        entry = world.chain.entries[header.height]
        limits = world.genesis.parameters
        if len(entry.requests) > limits.block_requests or len(entry.block.body) > limits.block_bytes:
            self.violate(f"block {header.height} exceeds the limits", host.number)
        digests = [digest_of(world.chain_id, request) for request in entry.requests]
        if self._verifier.verify(digests, entry.requests):
            self.violate(f"block {header.height} holds a request that nobody signed", host.number)
        if header.block_digest != entry.block.digest(world.chain_id):
            self.violate(f"header {header.height} names another block", host.number)
        parent = world.chain.entries.get(header.height - 1)
        if parent is None:
            return
        before = parent.header
        if header.parent != parent.digest or header.ts < before.ts:
            self.violate(f"header {header.height} does not continue its parent", host.number)
        if entry.block.kind == NULL and (header.state_root, header.clients_root) != (
            before.state_root,
            before.clients_root,
        ):
            self.violate(f"the NULL block {header.height} changed something", host.number)


class ClientSafety(Checker):
    """I-14: what a correct client accepts stands in the agreed chain; all that clients saw together is
    linearizable."""

    name = "I-14"

    def on_outcome(self, client: int, height: int, session: int, seq: int, outcome: Any) -> None:
        """See `Checker`."""
        if outcome.status not in (OK, REFUSED):
            return
        world = self.world
        key = (world.clients[client].entry.client, session, seq)
        agreed = world.chain.outcomes.get(key)
        if agreed is None:
            self.violate(f"client {client} accepted {session}.{seq}, which nobody has executed")
        elif (agreed[0], agreed[1].status, agreed[1].result) != (height, outcome.status, outcome.result):
            self.violate(f"client {client} accepted another result of {session}.{seq} than the agreed one")

    def on_end(self) -> None:
        """The history of all clients."""
        world = self.world
        if world.violations:
            return
        history = [operation for client in world.clients for operation in client.history()]
        world.coverage.count("linearizability_checks")
        verdict = check(history)
        if not verdict.ok and not verdict.undecided:
            self.violate(f"not linearizable: {verdict.reason}")


EXECUTION: tuple[type[Checker], ...] = (ExactlyOnce, Validity, ClientSafety)
