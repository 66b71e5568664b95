"""The world: one heap of things to come, hosts, a network, clients, and who watches them.

One seed decides everything. Time is virtual and whole milliseconds; things due at the
same moment happen in the order in which they were put in. The trace is a sequence of
small tuples (at_ms, kind, host, …) of plain values, hashed as it goes (I-24).
"""

from __future__ import annotations

import heapq
import traceback
from collections.abc import Callable, Sequence
from hashlib import blake2b
from random import Random
from typing import Any

import msgspec

from tepbft.core.block import Receipt, Request
from tepbft.core.certificates import CheckpointCertificate
from tepbft.core.configuration import Configuration, Genesis, Member
from tepbft.core.events import ClientRequests, Notice
from tepbft.crypto.node_key import NodeKey
from tepbft.errors import PeerFault
from tepbft.execution.loader import load_application
from tepbft.execution.port import Application
from tepbft.protocols.tep.messages import Message, codec
from tepbft.sim.chain import AgreedChain
from tepbft.sim.clients import RogueClient, SimClient
from tepbft.sim.clock import WALL_MS, Clock
from tepbft.sim.component import Component, Statement
from tepbft.sim.coverage import Coverage
from tepbft.sim.crypto import derive, make_keys, operator_seed
from tepbft.sim.faults import FaultInjector
from tepbft.sim.hooks import Hooks
from tepbft.sim.host import SimHost
from tepbft.sim.network import Network
from tepbft.sim.notices import note_notice
from tepbft.sim.place import place_of
from tepbft.sim.ports import Checker, Power, Strategy, TraceSink
from tepbft.sim.profiles import WorldConfig
from tepbft.sim.schedule import Schedule
from tepbft.sim.violations import Violation
from tepbft.storage.proofs import prove
from tepbft.storage.records import decode_configuration
from tepbft.types import Height, Millis, NodeId
from tepbft.wire import NoProof, NotAdmitted, Outcome, Submit, WantProof, client_codec, encode

BEGIN_MS: Millis = 1000
MAX_VIOLATIONS = 20
ROGUE = 1_000_000
"""Connection of the client that colludes with Byzantine hosts; its replies go nowhere."""


class Packet:
    """Encoded bytes on the wire, decoded once however many hosts they reach."""

    __slots__ = ("bad", "data", "message", "name", "sent_ms")

    def __init__(self, name: str, data: bytes, sent_ms: Millis) -> None:
        self.name, self.data, self.sent_ms = name, data, sent_ms
        self.message: Any = None
        self.bad = False


class World:
    """n hosts, a network, clients, faults and checkers."""

    def __init__(
        self,
        config: WorldConfig,
        checkers: Sequence[type[Checker]] = (),
        strategies: Sequence[type[Strategy]] = (),
        trace: TraceSink | None = None,
    ) -> None:
        self.config, self.n = config, config.nodes
        self.now: Millis = BEGIN_MS
        self.steps = 0
        self.violations: list[Violation] = []
        self.coverage = Coverage()
        self._queue: list[tuple[Millis, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0
        self._sink = trace
        self._hasher = blake2b(digest_size=16)
        self.schedule = Schedule()
        """The numbered faults of this run; set `keep` before it begins to leave others out."""
        self.network = Network(config, self.coverage, self.schedule)
        self.keys = make_keys(config.signatures, config.seed)
        self._make_hosts()
        self._make_genesis()
        self.quorums = self.genesis.configuration().quorums
        self.chain = AgreedChain(self.genesis.configuration())
        self.application_factory: Callable[[], Application] = lambda: load_application("kv")
        """Scenarios may put another application behind the nodes."""
        self.faults = FaultInjector(self)
        self.byzantine = config.byzantine
        for number, strategy in zip(config.byzantine, strategies, strict=False):
            power = Power(self, number, Random(f"{config.seed}/strategy/{number}"))
            self.hosts[number].strategy = strategy(power)
        self.coverage.count("byzantine_hosts", len(config.byzantine))
        self.quorum_hooks: list[Callable[[int, Height, int, bytes], None]] = []
        """Told of every commit quorum: (configuration, height, view, digest)."""
        self.configuration_hooks: list[Callable[[int], None]] = []
        """Told when a correct host has begun a configuration: its number."""
        self.checkers = [checker(self) for checker in checkers]
        self.hooks = Hooks(self.checkers)

    def _make_hosts(self) -> None:
        config, rng = self.config, Random(f"{self.config.seed}/hosts")
        self.hosts: list[SimHost] = []
        for number in range(config.nodes):
            component = Component(number, config.seed, self.keys, self._record)
            public, signer = self.keys.host(number)
            offset = rng.randint(0, config.clock_offset_ms)
            rate = 1.0 + rng.uniform(-config.clock_rate, config.clock_rate)
            limit = self.wall_limit_ms(number)
            skew = rng.randint(-limit, limit)
            clock = Clock(offset + 10_000, rate, skew)
            self.hosts.append(SimHost(self, number, component, public, signer, clock))

    def wall_limit_ms(self, number: NodeId) -> Millis:
        """How wrong a host's wall clock may be. Beyond what nodes tolerate it is at f hosts only: if more
        of them agree on the future, the chain rightly waits for it."""
        f = (self.n - 1) // 2
        bearable = min(self.config.wall_skew_ms, self.config.options.timestamp_ahead_ms // 4)
        far = (number - self.config.seed) % self.n < f
        return self.config.wall_skew_ms if far else bearable

    def _make_genesis(self) -> None:
        config = self.config
        entries = [self.keys.client(index) for index in range(config.clients + 1)]
        members = []
        for host in self.hosts:
            identity = host.component.identity()
            operator = NodeKey.from_seed(operator_seed(config.seed, host.number)).public
            members.append(
                Member(
                    host.number,
                    identity.tc_id,
                    identity.key,
                    host.node_key,
                    operator,
                    bytes(32),
                    "127.0.0.1",
                    1,
                    2,
                    3,
                )
            )
        self.genesis = Genesis(
            protocol="tep",
            app="kv",
            scheme=self.keys.scheme,
            created_ms=WALL_MS,
            nonce=derive(config.seed, "nonce")[:8],
            members=tuple(members),
            clients=tuple(entry for entry, _ in entries),
            parameters=config.parameters,
        )
        self.chain_id = self.genesis.chain_id
        self.keys.bind(self.chain_id)
        self.clients = [SimClient(self, index, *entries[index]) for index in range(config.clients)]
        self.rogue = RogueClient(self.chain_id, *entries[config.clients])
        self._client_of = {entry.client: index for index, (entry, _) in enumerate(entries[:-1])}

    # --- time -------------------------------------------------------------------------------------

    def at(self, when: Millis, what: Callable[..., None], *arguments: Any) -> None:
        """Let `what(*arguments)` happen at a moment from now on."""
        self._order += 1
        heapq.heappush(self._queue, (when, self._order, what, arguments))

    def begin(self) -> None:
        """Start clients, hosts and faults. Call once."""
        for client in self.clients:
            client.begin()
        for host in self.hosts:
            self.start(host.number)
            self.at(self.now + 1 + host.number * self.config.tick_ms // self.n, self._tick, host)
        for host in self.hosts:
            if host.strategy is not None:
                host.strategy.begin()
        self.faults.begin()
        self.at(self.now + self.config.check_ms, self._check)

    def advance(self, until: Millis, done: Callable[[], bool] | None = None) -> bool:
        """Let things happen up to a moment, or until `done` holds (asked at every tick of time),
        or until an invariant is violated. True if `done` held."""
        queue, pop = self._queue, heapq.heappop
        asked: Millis = -1
        while queue and queue[0][0] <= until and not self.violations:
            when, _, what, arguments = pop(queue)
            if done is not None and when >= asked:
                asked = when + 50
                if done():
                    return True
            self.now = when
            what(*arguments)
        if not self.violations:
            self.now = max(self.now, until)
        return done is not None and done()

    def _tick(self, host: SimHost) -> None:
        host.tick()
        self.at(self.now + self.config.tick_ms, self._tick, host)

    def _check(self) -> None:
        for hook in self.hooks.on_interval:
            hook()
        self.at(self.now + self.config.check_ms, self._check)

    def heal(self) -> None:
        """The end of faults: from now on the world must make progress (I-21)."""
        self.trace("heal", -1)
        self.faults.heal()

    # --- hosts ------------------------------------------------------------------------------------

    def make_application(self) -> Application:
        """The application behind one node."""
        return self.application_factory()

    def decode_configuration(self, data: bytes) -> Configuration:
        """A stored configuration."""
        return decode_configuration(data)

    def start(self, number: NodeId) -> None:
        """Start the process of a host, if it is down."""
        host = self.hosts[number]
        if host.up:
            return
        if host.incarnation:
            self.coverage.count("recoveries")
        try:
            host.start()
        except Exception as error:
            if not host.byzantine:
                self.report_error(number, error)
            host.stop()
            return
        self.trace("start", number, host.node.state.view if host.node is not None else -1)
        for client in self.clients:
            if host.node is not None:
                self._to_client(number, client.index, host.node.welcome())
                client.connected(number)

    def crash(self, number: NodeId) -> None:
        """The process dies now, or the host's power fails (`unplugged`); it returns after a while."""
        host, rng = self.hosts[number], self.faults._rng
        if not host.up:
            return
        unplugged = host.unplugged
        host.stop()
        lost = rng.randint(1, 3) if rng.random() < self.config.lost_installs else 0
        power = unplugged or self.config.component_outlives_host
        lost_records = host.disk.crash(rng, lost, power=power)
        if unplugged:
            host.component.restart_cold()
            self.coverage.count("power_failures")
            self.trace("cold", number)
        self.coverage.count("crashes")
        self.coverage.count("lost_installs", lost)
        self.coverage.count("lost_records", lost_records)
        self.trace("crash", number, lost, lost_records)
        self.at(self.now + rng.randint(1, 2 * self.config.down_ms), self.start, number)

    def report_error(self, number: NodeId, error: BaseException) -> None:
        """A correct node raised: whatever it was, it should not have."""
        frames = traceback.extract_tb(error.__traceback__)[-4:]
        where = " < ".join(f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno} {f.name}" for f in reversed(frames))
        self.violate("crash", f"{type(error).__name__}: {error} at {where}", number)

    # --- messages ---------------------------------------------------------------------------------

    def multicast(self, host: SimHost, to: Sequence[NodeId], message: Message) -> None:
        """A correct host sends one message to several peers."""
        data = encode(message)
        packet = Packet(type(message).__name__, data, self.now)
        for hook in self.hooks.on_message:
            hook(host, message, data)
        for target in to:
            self._route(host.number, target, packet)

    def post(self, sender: NodeId, to: NodeId, message: Message) -> None:
        """A host (usually Byzantine) sends one message."""
        self._route(sender, to, Packet(type(message).__name__, encode(message), self.now))

    def post_bytes(self, sender: NodeId, to: NodeId, data: bytes) -> None:
        """A Byzantine host sends a frame of any content."""
        self._route(sender, to, Packet("bytes", data, self.now))

    def _route(self, sender: NodeId, to: NodeId, packet: Packet) -> None:
        if not 0 <= to < self.n or to == sender:
            return
        counts = self.coverage
        counts["messages"] += 1
        arrivals = self.network.arrivals(sender, to, packet.name, self.now)
        if not arrivals:
            counts["lost"] += 1
            self.trace("drop", sender, to, packet.name)
            self._show("lost", to, sender, packet)
        for when in arrivals:
            self._order += 1
            heapq.heappush(self._queue, (when, self._order, self._deliver, (sender, to, packet)))

    def _deliver(self, sender: NodeId, to: NodeId, packet: Packet) -> None:
        host = self.hosts[to]
        if host.node is None or packet.bad:
            return
        message = packet.message
        if message is None:
            try:
                message = packet.message = codec.decode(packet.data)
            except PeerFault:
                packet.bad = True
                return
        self.trace("deliver", to, sender, packet.name)
        self._show("message", to, sender, packet)
        host.receive(sender, message)

    # --- clients ----------------------------------------------------------------------------------

    def submit(self, client: int, to: Sequence[NodeId], message: Any) -> None:
        """A client sends a message to nodes."""
        decoded = client_codec.decode(encode(message))
        for target in to:
            when = self.network.client_arrival(-1 - client, target, self.now)
            if when is not None:
                self.at(when, self._from_client, client, target, decoded)

    def _from_client(self, client: int, to: NodeId, message: Any) -> None:
        host = self.hosts[to]
        if host.node is None:
            return
        if isinstance(message, WantProof):
            self._to_client(to, client, self._prove(host, message))
        elif isinstance(message, Submit):
            requests = message.requests
            if host.strategy is not None:
                requests = list(host.strategy.requests(requests))
            host.deliver(ClientRequests(self._connection(client), requests))

    @staticmethod
    def _connection(client: int) -> Any:
        return client

    def submit_rogue(self, to: NodeId, requests: list[Request]) -> None:
        """The colluding client reaches a node directly."""
        host = self.hosts[to]
        self.at(self.now + 1, host.deliver, ClientRequests(self._connection(ROGUE), requests))

    def _prove(self, host: SimHost, message: WantProof) -> Any:
        node = host.node
        found = node.find_outcome(message.client, message.session, message.seq) if node else None
        try:
            if found is None:
                raise LookupError("no outcome")
            return prove(host.disk, self.genesis, message.client, message.session, message.seq, found[0])
        except LookupError as error:
            return NoProof(message.client, message.session, message.seq, str(error)[:200])

    def reply(self, host: SimHost, connection: int, height: Height, receipts: Sequence[Receipt]) -> None:
        """A node answers over a client connection."""
        view = host.node.state.view if host.node is not None else 0
        self._to_client(host.number, connection, Outcome(view, height, list(receipts)))

    def busy(self, host: SimHost, connection: int, requests: Sequence[tuple[bytes, int, int, str]]) -> None:
        """A node declines requests."""
        self._to_client(host.number, connection, NotAdmitted(list(requests)))

    def _to_client(self, node: NodeId, client: int, message: Any) -> None:
        if not 0 <= client < len(self.clients):
            return
        strategy = self.hosts[node].strategy
        if strategy is not None:
            message = strategy.reply(client, message)
            if message is None:
                return
        when = self.network.client_arrival(node, -1 - client, self.now)
        if when is not None:
            decoded = client_codec.decode(encode(message))
            self.at(when, self.clients[client].heard, node, decoded)

    # --- what is seen -----------------------------------------------------------------------------

    def _record(self, statement: Statement) -> None:
        self.coverage["statements"] += 1
        self.trace(
            "tc",
            statement.node,
            statement.kind,
            statement.cfg,
            statement.view,
            statement.height,
            statement.seq,
        )
        for hook in self.hooks.on_statement:
            hook(statement)

    def note(self, host: SimHost, notice: Notice) -> None:
        """A correct node emitted a notice: trace and counters."""
        note_notice(self, host, notice)

    def trace(self, kind: str, host: int, *fields: Any) -> None:
        """Add an event to the trace."""
        event = (self.now, kind, host, *fields)
        self._hasher.update(_encode(event))
        if self._sink is not None:
            self._sink(event)

    def _show(self, kind: str, to: NodeId, sender: NodeId, packet: Packet) -> None:
        """What a diagram needs of a message, for the sink alone (it is no part of the hash):
        (at_ms, kind, to, sender, name, sent_ms, configuration, view, height), -1 where there is none."""
        if self._sink is not None:
            place = place_of(codec.decode(packet.data)) if packet.name != "bytes" else (-1, -1, -1)
            self._sink((self.now, kind, to, sender, packet.name, packet.sent_ms, *place))

    @property
    def trace_hash(self) -> str:
        """Hex hash of the trace so far."""
        return self._hasher.hexdigest()

    def violate(self, name: str, detail: str, host: NodeId = -1) -> None:
        """An invariant does not hold."""
        if len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(Violation(name, detail, self.now, host))
            self.trace("violation", host, name, detail)

    def correct(self) -> list[SimHost]:
        """Hosts that follow the protocol, up or not."""
        return [host for host in self.hosts if not host.byzantine]

    def floor_certificate(self, host: SimHost) -> CheckpointCertificate | None:
        """The vote-less certificate of the configuration in which a host is."""
        return host.node.state.setting.floor_certificate() if host.node is not None else None


_encode = msgspec.msgpack.Encoder().encode
