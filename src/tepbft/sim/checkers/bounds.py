"""Bounded memory: every table that outsiders can make grow stays below a bound in n and BL (I-17)."""

from __future__ import annotations

from tepbft.core.configuration import Parameters
from tepbft.protocols.tep.state import MAX_BODIES, MAX_HELP_KINDS, MAX_VOTE_SETS, State
from tepbft.protocols.tep.view_change import MAX_PENDING_VIEWS
from tepbft.sim.host import SimHost
from tepbft.sim.ports import Checker


class BoundedMemory(Checker):
    """I-17, for the tables of the replica and of the pool."""

    name = "I-17"

    def on_interval(self) -> None:
        """See `Checker`."""
        for host in self.world.correct():
            if host.node is not None:
                self._state(host, host.node.state)
                self._pool(host)

    def _limit(self, host: SimHost, what: str, size: int, bound: int) -> None:
        if size > bound:
            self.violate(f"{what}: {size} entries, at most {bound} expected", host.number)

    def _state(self, host: SimHost, s: State) -> None:
        n, window = s.quorums.n, s.window
        views = MAX_PENDING_VIEWS + 2
        installed = host.disk.store._installed
        lead = max(0, s.executed - s.stable_height)  # executed by certificates, stability still to come
        behind = abs(s.stable_height - s.executed) + max(0, s.stable_height - installed)
        self._limit(host, "slots", len(s.slots), 5 * window + behind + 32)
        done = min(s.stable_height, s.executed)
        kept = sum(1 for slot in s.slots.values() if slot.height <= done and slot.bodies)
        self._limit(host, "bodies of executed blocks below stability", kept, 0)
        for slot in s.slots.values():
            self._limit(host, "vote sets of a slot", len(slot.votes), MAX_VOTE_SETS)
            self._limit(host, "heads of a slot", len(slot.heads), 3 * MAX_VOTE_SETS)
            self._limit(host, "PREPAREs of a slot", len(slot.prepares), views)
            self._limit(host, "bodies of a slot", len(slot.bodies), MAX_BODIES + views)
        self._limit(host, "checkpoints", len(s.checkpoints), 2 * window + lead)
        for by_digest in s.checkpoints.values():
            self._limit(host, "digests of a checkpoint", len(by_digest), n)
        self._limit(host, "own checkpoints", len(s.own_checkpoints), lead + window)
        self._limit(host, "REQ-VCs", len(s.requests), n)
        for table in (s.departures, s.new_views, s.acks):
            self._limit(host, "views in a view change", len(table), views)
        self._limit(host, "wanted bodies", len(s.wanted), 2 * window)
        self._limit(host, "admissions", len(s.admissions), n)
        self._limit(host, "headers above stability", len(s.headers), s.executed - installed + window)
        for peer in s.peers.values():
            self._limit(host, "postponed messages of a peer", len(peer.future), 2 * window + 8)
            self._limit(host, "kinds of help", len(peer.helped_ms), MAX_HELP_KINDS)

    def _pool(self, host: SimHost) -> None:
        world, node = self.world, host.node
        if node is None:
            return
        parameters: Parameters = world.genesis.parameters
        clients = len(world.genesis.clients)
        tracked = 2 * parameters.window * parameters.block_requests
        bound = clients * parameters.client_window + 65_536
        self._limit(host, "pending requests", len(node.mempool), bound)
        decoded = len(node.ledger._decoded)
        self._limit(host, "decoded blocks", decoded, 8 * MAX_BODIES * (5 * parameters.window + tracked))


BOUNDS: tuple[type[Checker], ...] = (BoundedMemory,)
