"""The two ports of the simulator: Byzantine hosts (`Strategy`) and invariants (`Checker`).

A Byzantine host is a production node behind a strategy that may change, drop or add
whatever goes in and out. Its trusted component is the real one: a strategy may call
it in any order, and that is the only way to get its signatures. Checkers see what
correct hosts do and every statement that any component ever signed; they never read
the state of Byzantine hosts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from tepbft.core.block import Header, Request
from tepbft.core.configuration import Configuration, Genesis
from tepbft.storage.port import Record
from tepbft.trusted.port import TcAnswer, TcRequest
from tepbft.types import Height, Millis, NodeId

if TYPE_CHECKING:
    from tepbft.node.node import Node
    from tepbft.protocols.tep.messages import Message
    from tepbft.sim.component import Statement
    from tepbft.sim.host import SimHost
    from tepbft.sim.world import World

TraceSink = Callable[[tuple[Any, ...]], None]
"""Takes trace events: (at_ms, kind, host, …), plain values only (see docs in `world.World.trace`)."""


class Power:
    """What a Byzantine host can do: everything that its own keys and links allow, nothing more."""

    def __init__(self, world: World, number: NodeId, rng: Random) -> None:
        self._world, self.number, self.rng = world, number, rng

    @property
    def now_ms(self) -> Millis:
        """Virtual time."""
        return self._world.now

    @property
    def genesis(self) -> Genesis:
        """The chain's genesis."""
        return self._world.genesis

    @property
    def chain_id(self) -> bytes:
        """Name of the chain."""
        return self._world.chain_id

    @property
    def configuration(self) -> Configuration:
        """The newest configuration that this host's node has reached."""
        node = self.node
        return node.configuration if node is not None else self._world.genesis.configuration()

    @property
    def others(self) -> tuple[NodeId, ...]:
        """All other hosts."""
        return tuple(host.number for host in self._world.hosts if host.number != self.number)

    @property
    def allies(self) -> tuple[NodeId, ...]:
        """The other Byzantine hosts: colluding is allowed."""
        return tuple(number for number in self._world.byzantine if number != self.number)

    @property
    def node(self) -> Node | None:
        """The production node behind the strategy; None while it is down. Read its state at will."""
        return self._world.hosts[self.number].node

    def call(self, request: TcRequest) -> TcAnswer:
        """Ask the host's own trusted component; the world records what it signs."""
        return self._world.hosts[self.number].component.call(request)

    def sign(self, message: bytes) -> bytes:
        """The host key's signature (REQ-VC, NV-ACK)."""
        return self._world.hosts[self.number].signer.sign(message)

    def sign_as(self, node: NodeId, message: bytes) -> bytes:
        """The host key's signature of a host that colludes; garbage for any other."""
        if node == self.number or node in self.allies:
            return self._world.hosts[node].signer.sign(message)
        return self.rng.randbytes(64)

    def count(self, name: str, more: int = 1) -> None:
        """Add to a counter of the run: a strategy that never acts proves nothing."""
        self._world.coverage.count(name, more)

    def post(self, to: NodeId, message: Message) -> None:
        """Send any message of the protocol to one host, as this host. The network may lose it."""
        self._world.post(self.number, to, message)

    def broadcast(self, message: Message) -> None:
        """`post` to every other host."""
        for to in self.others:
            self.post(to, message)

    def post_bytes(self, to: NodeId, data: bytes) -> None:
        """Send arbitrary bytes as a frame: the receiver's codec must stop them (I-25)."""
        self._world.post_bytes(self.number, to, data)

    def restart_component(self) -> None:
        """Kill the own trusted component and start a new one: a new key, which is no member (S-37)."""
        self._world.faults.cold(self._world.hosts[self.number])

    def rogue_request(self, session: int, seq: int, op: bytes) -> Request:
        """A well-signed request of the client that colludes with Byzantine hosts (S-42)."""
        return self._world.rogue.make(session, seq, op)

    def submit(self, to: NodeId, requests: Sequence[Request]) -> None:
        """Hand requests to a host over the colluding client's connection."""
        self._world.submit_rogue(to, list(requests))


class Strategy:
    """Behaviour of one Byzantine host. The defaults behave correctly; override what lies.

    `inbound` and `outbound` are called for every message of the node behind; `tick` every few
    virtual milliseconds; `certify` before each request of the node to its trusted component.
    All randomness comes from `self.power.rng`. Exceptions of a strategy are errors of the
    simulator; what the betrayed node raises only stops that node.
    """

    name = "correct"

    def __init__(self, power: Power) -> None:
        self.power = power

    def begin(self) -> None:
        """The world has started."""

    def inbound(self, sender: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """What the node behind gets to see instead of `message`, as (sender, message)."""
        return ((sender, message),)

    def outbound(self, to: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """What leaves instead of `message`, as (to, message)."""
        return ((to, message),)

    def certify(self, request: TcRequest) -> bool:
        """Whether this request of the node behind reaches the trusted component."""
        return True

    def requests(self, requests: Sequence[Request]) -> Sequence[Request]:
        """Client requests that the node behind gets to see."""
        return requests

    def reply(self, client: int, message: Any) -> Any:
        """What a client gets instead of `message` (`wire.Outcome`, …); None for nothing (S-45)."""
        return message

    def tick(self) -> None:
        """Time passed: attack of one's own accord."""


class Checker:
    """One invariant, judged from outside after every step. Override the hooks that it needs; a hook
    that is not overridden costs nothing. `name` is the invariant's ID. Report by `self.violate`."""

    name = "?"

    def __init__(self, world: World) -> None:
        self.world = world

    def violate(self, detail: str, host: NodeId = -1) -> None:
        """The invariant does not hold."""
        self.world.violate(self.name, detail, host)

    def on_statement(self, statement: Statement) -> None:
        """Any trusted component signed something new (re-emissions are not repeated)."""

    def on_request(self, host: SimHost, request: TcRequest) -> None:
        """A correct host is about to ask its trusted component; its disk is as it stands now."""

    def on_records(self, host: SimHost, records: Sequence[Record]) -> None:
        """A correct host has made these records durable."""

    def on_executed(self, host: SimHost, header: Header, first: bool) -> None:
        """A correct host executed a block; `first` if it is the first correct host to do so."""

    def on_step(self, host: SimHost) -> None:
        """A correct host has taken one event."""

    def on_notice(self, host: SimHost, name: str, fields: dict[str, Any]) -> None:
        """A correct host's node emitted a notice."""

    def on_message(self, host: SimHost, message: Any, data: bytes) -> None:
        """A correct host sends a message (once per broadcast), with its encoding."""

    def on_start(self, host: SimHost) -> None:
        """A correct host's process has started (again)."""

    def on_outcome(self, client: int, height: Height, session: int, seq: int, outcome: Any) -> None:
        """A correct client has accepted a result (`client.events.Outcome`)."""

    def on_interval(self) -> None:
        """Now and then (every `check_ms` of virtual time): for what is too dear after each step."""

    def on_end(self) -> None:
        """The run is over, terminated or not."""
