"""What executing the agreed chain meant: for every request, for every client (I-12, I-13, I-14)."""

from __future__ import annotations

from typing import Any

from tepbft.core.block import NULL, OK, REFUSED, Header, digest_of
from tepbft.sim.host import SimHost
from tepbft.sim.linearizability import check
from tepbft.sim.ports import Checker
from tepbft.sim.world import World

MAX_CONFIGURATIONS = 20_000
"""Work of the judge of linearizability per run; where it gives up, the order of the chain is judged."""


class ExactlyOnce(Checker):
    """I-12: per (client, session, seq) one execution with an effect, with the result that a key-value
    store would give; and all correct replicas keep the same reply."""

    name = "I-12"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._transferred: dict[int, int] = {}
        """Hosts whose state was replaced and not looked at since: the height of it."""

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

    def on_notice(self, host: SimHost, name: str, fields: dict[str, Any]) -> None:
        """A transferred state has the replies in it (S-44)."""
        if name == "state_transferred":
            self._transferred[host.number] = fields["height"]

    def on_start(self, host: SimHost) -> None:
        """See `Checker`."""
        self._transferred.pop(host.number, None)

    def on_step(self, host: SimHost) -> None:
        """As soon as the transferred state is in place."""
        if not self._transferred:
            return
        height, node = self._transferred.get(host.number), host.node
        if height is None or node is None or node.state.paused:
            return  # the store is replaced between this step and the next
        if height <= node.ledger.executor.height <= self.world.chain.height:  # what it executed is known
            del self._transferred[host.number]
            if not host.flawed:  # it may be wrong again at once; it is judged at the end
                self._examine(host)

    def on_end(self) -> None:
        """Cached replies: all that stand in the table of the agreed chain."""
        for host in self.world.correct():
            if host.node is not None:
                self._examine(host)

    def _examine(self, host: SimHost) -> None:
        """Whoever has executed a request answers what the chain says: it must while the number is within
        a window of the newest one, and a client has not begun another session."""
        node, chain = host.node, self.world.chain
        if node is None or node.state.diverged_at >= 0:
            return
        sessions: dict[bytes, int] = {}
        newest: dict[bytes, int] = {}
        executed = node.ledger.executor.height
        for height in range(1, executed + 1):
            for request in chain.entries[height].requests if height in chain.entries else ():
                sessions[request.client] = max(sessions.get(request.client, -1), request.session)
        for (client, session, seq), (height, _) in chain.outcomes.items():
            if height <= executed and session == sessions.get(client):
                newest[client] = max(newest.get(client, 0), seq)
        window = self.world.genesis.parameters.client_window
        for (client, session, seq), outcome in chain.outcomes.items():
            if outcome[0] > executed:
                continue
            kept = node.find_outcome(client, session, seq)
            due = session == sessions.get(client) and seq > newest[client] - window
            if kept != outcome and (kept is not None or due):
                self.violate(f"another reply is kept for {session}.{seq}", host.number)
                return


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
        self._real_time()
        world.coverage.count("linearizability_checks")
        verdict = check(history, max_configurations=MAX_CONFIGURATIONS)
        if verdict.undecided:
            world.coverage.count("linearizability_undecided")
        elif not verdict.ok:
            self.violate(f"not linearizable: {verdict.reason}")

    def _real_time(self) -> None:
        """The chain is one order that explains all results (I-12 judges them): it must also respect
        time. What had returned before something else was called stands before it."""
        chain = self.world.chain
        places: dict[tuple[bytes, int, int], tuple[int, int]] = {}
        for height, entry in chain.entries.items():
            for index, receipt in enumerate(entry.receipts):
                if chain.took_effect(receipt):
                    places[(receipt.client, receipt.session, receipt.seq)] = (height, index)
        calls = []
        for client in self.world.clients:
            for session, seq, invoked, returned in client.times():
                place = places.get((client.entry.client, session, seq))
                if place is not None:
                    calls.append((invoked, returned, place))
        returns = sorted((returned, place) for _, returned, place in calls if returned is not None)
        latest, next_return = (0, -1), 0
        for invoked, _, place in sorted(calls, key=lambda call: call[0]):
            while next_return < len(returns) and returns[next_return][0] < invoked:
                latest = max(latest, returns[next_return][1])
                next_return += 1
            if place < latest:
                self.violate(f"an operation at {place} was called after that at {latest} had returned")


EXECUTION: tuple[type[Checker], ...] = (ExactlyOnce, Validity, ClientSafety)
