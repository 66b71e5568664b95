"""An in-memory world: real nodes and real trusted components, no socket and no clock.

Time is virtual, messages are the encoded bytes that a cluster would send, delivered
in an order that one seed decides. Tests steer it by filters, crashes and direct
calls to a host's own trusted component (a Byzantine host has the real one too).
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tepbft.core.admission import possession_digest
from tepbft.core.block import Receipt, Request, encode_request, request_digest
from tepbft.core.configuration import Genesis, Member, Parameters, ReplaceTc, replace_preimage
from tepbft.core.events import (
    AdmissionRequested,
    ClientRequests,
    ConnectionClosed,
    Effects,
    InstallState,
    Notice,
    PeerMessage,
    ReplaceState,
    SaveSnapshot,
    TcAnswered,
    Tick,
)
from tepbft.core.options import NodeOptions
from tepbft.crypto.node_key import NodeKey
from tepbft.crypto.schemes import SCHEMES
from tepbft.execution.loader import load_application
from tepbft.node.node import Node
from tepbft.protocols.tep.messages import Message, codec
from tepbft.storage.memory import MemoryStore
from tepbft.trusted.hbusig import HbUsig
from tepbft.trusted.port import Attest, Ui
from tepbft.trusted.verify import UiVerifier
from tepbft.types import ConnectionId
from tepbft.wire import encode

WALL_MS = 1_700_000_000_000
TICK_MS = 20
Filter = Callable[[int, int, Message], bool]


@dataclass
class Host:
    """One machine: its disk and its trusted component outlive its process."""

    number: int
    tc: HbUsig
    key: NodeKey
    operator: NodeKey
    store: MemoryStore = field(default_factory=MemoryStore)
    node: Node | None = None
    notices: list[Notice] = field(default_factory=list)
    statements: list[tuple[Any, Any]] = field(default_factory=list)
    """Everything asked of the trusted component by this host's process, with the answers."""
    application: Any = None

    @property
    def up(self) -> bool:
        return self.node is not None


SMALL = {
    "window": 16,
    "checkpoint_interval": 1,
    "snapshot_interval": 256,
    "block_requests": 256,
    "keep_blocks": 1024,
}
"""Small worlds show more of the protocol: a checkpoint for every block, unless a test says otherwise."""


class World:
    """n hosts, a network and a client."""

    def __init__(
        self,
        n: int = 3,
        *,
        app: str = "kv",
        seed: int = 1,
        scheme: str = "ed25519",
        clients: int = 2,
        options: NodeOptions | None = None,
        **parameters: Any,
    ) -> None:
        self.random = random.Random(seed)
        self.now = 1000
        self.options = options or NodeOptions(max_wait_ms=0)
        self.filters: list[Filter] = []
        """A message is lost if any filter returns False for (sender, to, message)."""
        self.delay_ms: Callable[[int, int, Message], int] = lambda sender, to, message: 1
        self.sent: Counter[str] = Counter()
        self.queue: list[tuple[int, int, int, int, bytes]] = []
        self.order = 0
        self.hosts = [
            Host(
                i,
                HbUsig.fresh(),
                NodeKey.from_seed(bytes([i + 1]) * 32),
                NodeKey.from_seed(bytes([i + 101]) * 32),
            )
            for i in range(n)
        ]
        self.scheme = SCHEMES[scheme]
        self.secrets = [self.scheme.generate_secret() for _ in range(clients)]
        self.genesis = Genesis(
            protocol="tep",
            app=app,
            scheme=scheme,
            created_ms=WALL_MS,
            nonce=seed.to_bytes(8, "little"),
            members=tuple(self._member(host) for host in self.hosts),
            clients=tuple(self.scheme.register(s, f"client{i:02}") for i, s in enumerate(self.secrets)),
            parameters=Parameters(**(SMALL | parameters)),
        )
        self.chain_id = self.genesis.chain_id
        self.verifier = UiVerifier(self.chain_id)
        cfg = self.genesis.configuration()
        for host in self.hosts:
            host.application = load_application(app)
            host.tc.provision(
                self.chain_id, host.number, 0, cfg.digest(), cfg.floor, self.genesis.parameters.window
            )
        self.clients = [Client(self, i) for i in range(clients)]
        for host in self.hosts:
            self.start(host.number)

    def _member(self, host: Host) -> Member:
        identity = host.tc.identity()
        return Member(
            host.number, identity.tc_id, identity.key, host.key.public, host.operator.public,
            bytes(32), "127.0.0.1", 1, 2, 3,
        )  # fmt: skip

    def _mac_keys(self, number: int) -> dict[bytes, bytes] | None:
        derive, identify = self.scheme.node_mac_keys, self.scheme.identify
        if derive is None:
            return None
        return {identify(secret): derive(secret, identify(secret), number) for secret in self.secrets}

    # --- hosts --------------------------------------------------------------------------------

    def start(self, number: int) -> None:
        host = self.hosts[number]
        host.node = Node(
            me=number,
            genesis=self.genesis,
            store=host.store,
            identity=host.tc.identity(),
            signer=host.key,
            verifier=self.verifier,
            requests=self.scheme.verifier(self.genesis.clients, node=number, mac_keys=self._mac_keys(number)),
            application=host.application,
            settings=self.options,
        )
        self._carry_out(host, host.node.start(self.now, WALL_MS + self.now))

    def crash(self, number: int, lost_installs: int = 0) -> None:
        """SIGKILL of the process: disk and trusted component stay."""
        host = self.hosts[number]
        host.node = None
        host.store = host.store.crash(lost_installs)

    def lose_component(self, number: int) -> None:
        """SIGKILL of the trusted component as well: a cold start with a new key."""
        host = self.hosts[number]
        host.tc = HbUsig.fresh()
        cfg = self.genesis.configuration()
        host.tc.provision(self.chain_id, number, 0, cfg.digest(), cfg.floor, self.genesis.parameters.window)

    def admission(self, number: int) -> ReplaceTc:
        """The change that number's operator signs for its present component."""
        host = self.hosts[number]
        identity = host.tc.identity()
        assert host.node is not None
        old = host.node.configuration.members[number].tc_id
        change = ReplaceTc(number, old, identity.tc_id, identity.key, 0, b"", b"")
        ui = host.tc.call(Attest(possession_digest(self.chain_id, change)))
        assert isinstance(ui, Ui)
        evidence = host.operator.sign(replace_preimage(self.chain_id, change))
        return ReplaceTc(number, old, identity.tc_id, identity.key, ui.seq, ui.signature, evidence)

    def readmit(self, number: int) -> None:
        self.event(number, AdmissionRequested(self.admission(number)))

    def node(self, number: int) -> Node:
        found = self.hosts[number].node
        assert found is not None
        return found

    @property
    def alive(self) -> list[Host]:
        return [host for host in self.hosts if host.up]

    # --- effects ------------------------------------------------------------------------------

    def event(self, number: int, event: Any) -> None:
        host = self.hosts[number]
        if host.node is not None:
            self._carry_out(host, host.node.step(event, self.now))

    def _carry_out(self, host: Host, effects: Effects) -> None:
        for send in effects.announce:
            for to in send.to:
                self.post(host.number, to, send.message)
        host.store.append(effects.persist)
        for effect in effects.store:
            match effect:
                case InstallState():
                    host.store.install(effect.writes, effect.stable, effect.header)
                case SaveSnapshot():
                    host.store.save_snapshot(effect.height, effect.chunks)
                case ReplaceState():
                    host.store.replace_state(effect.height, effect.header, effect.certificate, effect.chunks)
        for request in effects.certify:
            answer = host.tc.call(request)
            host.statements.append((request, answer))
            if host.node is not None:
                self._carry_out(host, host.node.step(TcAnswered(request, answer), self.now))
        for send in effects.send:
            for to in send.to:
                self.post(host.number, to, send.message)
        for reply in effects.replies:
            self.clients[int(reply.connection) % 1000].heard(host.number, reply.height, reply.receipts)
        for busy in effects.busy:
            self.clients[int(busy.connection) % 1000].refused += [(host.number, *r) for r in busy.requests]
        host.notices += effects.notices

    # --- network ------------------------------------------------------------------------------

    def post(self, sender: int, to: int, message: Message) -> None:
        """Put a message on the wire (a Byzantine host may send anything as itself)."""
        self.sent[type(message).__name__] += 1
        if not all(keep(sender, to, message) for keep in self.filters):
            return
        self.order += 1
        at = self.now + self.delay_ms(sender, to, message)
        heapq.heappush(self.queue, (at, self.order, sender, to, encode(message)))

    def run(self, ms: int, until: Callable[[], bool] | None = None) -> bool:
        """Let `ms` of virtual time pass; stop early when `until` holds. True if it did."""
        end = self.now + ms
        while self.now < end:
            if until is not None and until():
                return True
            next_tick = (self.now // TICK_MS + 1) * TICK_MS
            due = min(self.queue[0][0], next_tick) if self.queue else next_tick
            self.now = max(self.now, due)
            while self.queue and self.queue[0][0] <= self.now:
                _, _, sender, to, data = heapq.heappop(self.queue)
                self.event(to, PeerMessage(sender, codec.decode(data)))
            if self.now == next_tick:
                for host in self.alive:
                    self.event(host.number, Tick(WALL_MS + self.now))
        return until is not None and until()

    def isolate(self, *numbers: int) -> Filter:
        """Cut these hosts off from all others; returns the filter (remove it to heal)."""
        cut = set(numbers)

        def keep(sender: int, to: int, message: Message) -> bool:
            return (sender in cut) == (to in cut) and sender not in cut

        self.filters.append(keep)
        return keep

    # --- checks -------------------------------------------------------------------------------

    def executed(self, *numbers: int) -> list[int]:
        chosen = numbers or tuple(host.number for host in self.alive)
        return [self.node(number).state.executed for number in chosen]

    def agree(self) -> bool:
        """All live nodes stand at the same head."""
        return len({host.node.state.head.digest() for host in self.alive if host.node}) == 1

    def check_prefixes(self) -> None:
        """I-2 over everything that any disk holds: one header per height."""
        seen: dict[int, bytes] = {}
        for host in self.hosts:
            for height in range(1, 10_000):
                stored = host.store.block(height)
                if stored is None or stored.header is None:
                    break
                known = seen.setdefault(height, stored.header.digest())
                assert known == stored.header.digest(), f"fork at height {height}, host {host.number}"

    def noticed(self, number: int, name: str) -> list[dict[str, Any]]:
        return [notice.fields for notice in self.hosts[number].notices if notice.name == name]


class Client:
    """A plain client: sends to all, counts equal outcomes of distinct nodes."""

    def __init__(self, world: World, index: int) -> None:
        self.world, self.index = world, index
        secret = world.secrets[index]
        self.id = world.scheme.identify(secret)
        self.signer = world.scheme.signer(secret, len(world.hosts))
        self.session, self.seq = 1, 0
        self.answers: dict[tuple[int, int], dict[tuple[int, bytes], set[int]]] = {}
        self.refused: list[tuple[int, bytes, int, int, str]] = []

    def make(self, op: bytes, seq: int | None = None, session: int | None = None) -> Request:
        if seq is None:
            self.seq += 1
            seq = self.seq
        session = self.session if session is None else session
        digest = request_digest(self.world.chain_id, self.id, session, seq, op)
        return Request(self.id, session, seq, op, self.signer.sign(digest))

    def send(self, requests: Sequence[Request], to: Sequence[int] | None = None) -> None:
        for number in to if to is not None else range(len(self.world.hosts)):
            self.world.event(number, ClientRequests(ConnectionId(self.index), list(requests)))

    def submit(self, *ops: bytes, to: Sequence[int] | None = None) -> list[Request]:
        requests = [self.make(op) for op in ops]
        self.send(requests, to)
        return requests

    def heard(self, node: int, height: int, receipts: Sequence[Receipt]) -> None:
        for receipt in receipts:
            outcomes = self.answers.setdefault((receipt.session, receipt.seq), {})
            outcomes.setdefault((height, encode(receipt)), set()).add(node)

    def outcome(self, request: Request) -> tuple[int, Receipt] | None:
        """(height, receipt) that f+1 nodes agree on."""
        needed = (len(self.world.hosts) - 1) // 2 + 1
        import msgspec

        for (height, data), nodes in self.answers.get((request.session, request.seq), {}).items():
            if len(nodes) >= needed:
                return height, msgspec.msgpack.decode(data, type=Receipt)
        return None

    def done(self, requests: Sequence[Request]) -> Callable[[], bool]:
        return lambda: all(self.outcome(request) is not None for request in requests)


__all__ = ["Client", "ConnectionClosed", "Host", "World", "encode_request"]
