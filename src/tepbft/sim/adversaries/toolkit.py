"""What every attack is made of: forged messages, a memory of the world, a count of what was done.

Everything is signed by the host's own component and keys, or by those of hosts that
collude with it; for the rest there are only garbage signatures. A strategy may also
change the state of its own node: a Byzantine host is free to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from tepbft.core.block import NORMAL, Block, Request, encode_body
from tepbft.core.certificates import CheckpointCertificate, PrepareHead, Vote
from tepbft.execution.apps import kv
from tepbft.protocols.tep.messages import (
    Checkpoint,
    Commit,
    Departure,
    NewView,
    NewViewCertificate,
    NvAck,
    Prepare,
    ReqVc,
    Stable,
    ViewChange,
    ack_preimage,
    departure_digest,
    req_vc_preimage,
    summary_digest,
)
from tepbft.sim.clock import WALL_MS
from tepbft.sim.ports import Power, Strategy
from tepbft.trusted.port import (
    COMMIT,
    PREPARE,
    Depart,
    DepartureUi,
    Install,
    Order,
    SignCheckpoint,
    TcRequest,
    Ui,
)
from tepbft.types import Height, Millis, NodeId, View

if TYPE_CHECKING:
    from tepbft.protocols.tep.messages import Message
    from tepbft.protocols.tep.state import State

replace = msgspec.structs.replace
SEEN_MESSAGES = 160
KEPT = 24


class Memory:
    """What a host has seen go by, bounded: material for replays and stale evidence."""

    def __init__(self) -> None:
        self.seen: deque[Message] = deque(maxlen=SEEN_MESSAGES)
        self.stables: deque[CheckpointCertificate] = deque(maxlen=KEPT)
        self.certificates: deque[NewViewCertificate] = deque(maxlen=KEPT)
        self.departures: deque[ViewChange] = deque(maxlen=KEPT)
        self.requests: dict[NodeId, ReqVc] = {}
        """The latest REQ-VC of each node."""

    def note(self, message: Message) -> None:
        """Remember a message that came in or went out."""
        if self.seen and self.seen[-1] is message:
            return
        self.seen.append(message)
        match message:
            case ReqVc():
                self.requests[message.sender] = message
            case ViewChange():
                self.departures.append(message)
                for request in message.content.trigger:
                    self.requests[request.sender] = request
            case NewView():
                self.departures.extend(message.view_changes)
            case NewViewCertificate():
                self.certificates.append(message)
            case Stable():
                self.stables.append(message.certificate)
            case _:
                pass


class Forge:
    """Messages with real statements of the host's own component. None where it refuses."""

    def __init__(self, power: Power) -> None:
        self.power = power

    def garbage(self, length: int = 32) -> bytes:
        """Bytes that verify as nothing."""
        return self.power.rng.randbytes(length)

    def block(
        self,
        height: Height,
        requests: Sequence[Request] = (),
        *,
        kind: int = NORMAL,
        ts: int | None = None,
        cfg: int | None = None,
    ) -> Block:
        """A block with any content."""
        number = self.power.configuration.number if cfg is None else cfg
        when = WALL_MS + self.power.now_ms if ts is None else ts
        return Block(number, height, kind, when, len(requests), encode_body(list(requests)))

    def rogue(self, session: int, seq: int, value: bytes | None = None) -> Request:
        """A good request of the client that colludes, on a key of its own."""
        found = self.garbage(8) if value is None else value
        return self.power.rogue_request(session, seq, kv.encode(kv.Put(b"rogue", found)))

    def rogue_block(self, height: Height) -> Block:
        """A valid block that nobody else knows."""
        session = 1 + self.power.number
        return self.block(height, [self.rogue(session, height)])

    def _ui(self, request: TcRequest) -> Ui | None:
        answer = self.power.call(request)
        return answer if isinstance(answer, Ui) else None

    def head(self, view: View, height: Height, digest: bytes) -> PrepareHead | None:
        """An own PREPARE."""
        ui = self._ui(Order(PREPARE, view, height, digest))
        return None if ui is None else PrepareHead(view, height, digest, ui.seq, ui.signature)

    def false_head(self, view: View, height: Height, digest: bytes) -> PrepareHead:
        """A PREPARE that nobody signed."""
        return PrepareHead(view, height, digest, 1, self.garbage())

    def prepare(self, view: View, block: Block, body: bool = True) -> Prepare | None:
        """An own proposal of `block`."""
        head = self.head(view, block.height, block.digest(self.power.chain_id))
        return None if head is None else Prepare(block.cfg, head, block if body else None)

    def commit(self, head: PrepareHead) -> Commit | None:
        """An own vote for anything."""
        ui = self._ui(Order(COMMIT, head.view, head.height, head.digest))
        if ui is None:
            return None
        return Commit(self.power.configuration.number, self.power.number, head, ui.seq, ui.signature, None)

    def checkpoint(self, height: Height, digest: bytes) -> Checkpoint | None:
        """An own claim of any state."""
        ui = self._ui(SignCheckpoint(height, digest))
        if ui is None:
            return None
        number = self.power.configuration.number
        return Checkpoint(number, self.power.number, height, digest, ui.seq, ui.signature)

    def req_vc(self, target: View, node: NodeId | None = None) -> ReqVc:
        """A wish for a view; of a colluding host if `node` names one."""
        cfg, sender = self.power.configuration, self.power.number if node is None else node
        preimage = req_vc_preimage(self.power.chain_id, cfg, sender, target)
        return ReqVc(cfg.number, sender, target, self.power.sign_as(sender, preimage))

    def ack(self, node: NodeId, view: View, summary: bytes) -> Vote:
        """An acknowledgement of any summary; garbage for hosts that do not collude."""
        preimage = ack_preimage(self.power.chain_id, self.power.configuration, node, view, summary)
        return Vote(node, 0, self.power.sign_as(node, preimage))

    def nv_ack(self, view: View, summary: bytes) -> NvAck:
        """The own acknowledgement of any summary."""
        number = self.power.configuration.number
        vote = self.ack(self.power.number, view, summary)
        return NvAck(number, self.power.number, view, summary, vote.signature)

    def certificate(
        self, view: View, base: CheckpointCertificate, nvc: Sequence[bytes], nodes: Sequence[NodeId]
    ) -> NewViewCertificate:
        """A certificate of a view with the acknowledgements of `nodes`, good where they collude."""
        number = self.power.configuration.number
        summary = summary_digest(number, view, base, tuple(nvc))
        acks = tuple(self.ack(node, view, summary) for node in nodes)
        return NewViewCertificate(number, view, base.height, base, tuple(nvc), acks)

    def depart(self, to: View, content: Departure) -> ViewChange | None:
        """The own VIEW-CHANGE with any content; only one per view, for the component sees to it."""
        answer = self.power.call(Depart(to, departure_digest(content)))
        if not isinstance(answer, DepartureUi):
            return None
        return ViewChange(self.power.configuration.number, self.power.number, to, content, answer)

    def new_view(
        self,
        view: View,
        changes: Sequence[ViewChange],
        base: CheckpointCertificate,
        nvc: Sequence[bytes],
        ui: Ui | None = None,
    ) -> NewView | None:
        """An own NEW-VIEW with any summary; `ui` is another statement's if the component refuses."""
        number = self.power.configuration.number
        summary = summary_digest(number, view, base, tuple(nvc))
        found = self._ui(Install(view, summary)) or ui
        if found is None:
            return None
        ack = self.ack(self.power.number, view, summary).signature
        return NewView(number, view, tuple(changes), base.height, tuple(nvc), found.seq, found.signature, ack)


class Attacker(Strategy):
    """A strategy that remembers, forges, and counts its attacks."""

    name = "attacker"
    burns = False
    """True if it uses up what its component could still sign: a mix plays it seldom (D4 iv)."""

    def __init__(self, power: Power) -> None:
        super().__init__(power)
        self.rng = power.rng
        self.forge = Forge(power)
        self.memory = Memory()
        self.attacks = 0
        self._due: dict[str, Millis] = {}

    def did(self, times: int = 1) -> None:
        """Count attacks that were really carried out."""
        self.attacks += times
        self.power.count("attacks", times)
        self.power.count(f"attacks of {self.name}", times)

    @property
    def state(self) -> State | None:
        """State of the own node's replica."""
        node = self.power.node
        return node.state if node is not None else None

    @property
    def leading(self) -> State | None:
        """The state, if the own node leads an active view."""
        s = self.state
        return s if s is not None and s.voter and s.active and s.primary == s.me else None

    def every(self, interval_ms: Millis, what: str = "") -> bool:
        """True at most once per interval, at random moments."""
        now = self.power.now_ms
        if now < self._due.get(what, 0):
            return False
        self._due[what] = now + self.rng.randint(interval_ms // 2, 2 * interval_ms)
        return True

    def some(self, count: int = 1) -> list[NodeId]:
        """So many of the other hosts, at random."""
        return self.rng.sample(self.power.others, min(count, len(self.power.others)))

    def victims(self) -> list[NodeId]:
        """The hosts that do not collude."""
        return [node for node in self.power.others if node not in self.power.allies]

    def inbound(self, sender: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """See `Strategy`."""
        self.memory.note(message)
        return ((sender, message),)

    def trigger(self, to: View) -> tuple[ReqVc, ...]:
        """REQ-VCs for `to` that are at hand: own, colluders', and what correct hosts have sent."""
        cfg = self.power.configuration
        found = {node: self.forge.req_vc(to, node) for node in (self.power.number, *self.power.allies)}
        known = dict(self.memory.requests)
        if self.state is not None:
            known.update({node: request for node, (request, _) in self.state.requests.items()})
        for node in sorted(known):
            request = known[node]
            if request.target >= to and request.cfg == cfg.number and node not in found:
                found[node] = request
        ordered = sorted(found.values(), key=lambda request: request.sender in self.power.allies)
        return tuple(ordered[: cfg.quorums.certificate])

    def withhold(self, request: TcRequest) -> bool:
        """Let the own node's request come to nothing, without it waiting for ever; returns False."""
        s = self.state
        if s is not None and isinstance(request, Order) and request.kind == PREPARE:
            s.outstanding = max(0, s.outstanding - 1)
        return False


class Composite(Strategy):
    """Several strategies at once: each sees what the one before it lets through."""

    name = "composite"
    parts: tuple[type[Strategy], ...] = ()

    def __init__(self, power: Power) -> None:
        super().__init__(power)
        self.all: list[Strategy] = [part(power) for part in self.parts]
        self.memory = Memory()
        for strategy in self.all:
            if isinstance(strategy, Attacker):
                strategy.memory = self.memory

    def playing(self) -> Sequence[Strategy]:
        """The strategies that act at this moment."""
        return self.all

    def begin(self) -> None:
        """See `Strategy`."""
        for strategy in self.all:
            strategy.begin()

    def inbound(self, sender: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """See `Strategy`."""
        self.memory.note(message)
        found: list[tuple[NodeId, Message]] = [(sender, message)]
        for strategy in self.playing():
            found = [new for old in found for new in strategy.inbound(*old)]
        return found

    def outbound(self, to: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """See `Strategy`."""
        found: list[tuple[NodeId, Message]] = [(to, message)]
        for strategy in self.playing():
            found = [new for old in found for new in strategy.outbound(*old)]
        return found

    def certify(self, request: TcRequest) -> bool:
        """See `Strategy`."""
        return all(strategy.certify(request) for strategy in self.playing())

    def requests(self, requests: Sequence[Request]) -> Sequence[Request]:
        """See `Strategy`."""
        for strategy in self.playing():
            requests = strategy.requests(requests)
        return requests

    def reply(self, client: int, message: Any) -> Any:
        """See `Strategy`."""
        for strategy in self.playing():
            if message is not None:
                message = strategy.reply(client, message)
        return message

    def tick(self) -> None:
        """See `Strategy`."""
        for strategy in self.playing():
            strategy.tick()


def composite(name: str, *parts: type[Strategy]) -> type[Composite]:
    """A strategy that plays all of `parts` together."""
    return type(name, (Composite,), {"name": name, "parts": parts, "__doc__": f"Together: {name}."})
