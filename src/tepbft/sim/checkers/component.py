"""What trusted components sign, and what their hosts held when they asked (I-3, I-4, I-9, I-10, I-16,
I-18, I-26)."""

from __future__ import annotations

from typing import Any

import msgspec

from tepbft.core.block import null_block
from tepbft.protocols.tep.messages import Checkpoint, NewViewCertificate
from tepbft.sim.component import Statement
from tepbft.sim.host import SimHost
from tepbft.sim.ports import Checker
from tepbft.sim.world import World
from tepbft.storage.port import OUTCOMES, HeaderRecord
from tepbft.trusted.port import (
    ATTEST,
    CHECKPOINT,
    COMMIT,
    NEW_VIEW,
    PREPARE,
    VIEW_CHANGE,
    AdvanceFloor,
    BeginConfig,
    Depart,
    Install,
    Order,
    Register,
    SignCheckpoint,
    TcRequest,
    binding,
    departure_body,
    numbered_body,
    order_body,
    preimage,
)

_decode_certificate = msgspec.msgpack.Decoder(NewViewCertificate)


class _Model:
    """What one component has signed in its present configuration."""

    __slots__ = ("cfg", "checkpoint", "lock_view", "new_view", "orders", "seq", "target", "view")

    def __init__(self, seq: int, cfg: int) -> None:
        self.seq, self.cfg = seq, cfg
        self.view = self.lock_view = 0
        self.target = self.new_view = 0
        self.checkpoint = -1
        self.orders: dict[tuple[int, int], tuple[int, bytes]] = {}
        """(view, height) -> (kind, digest)."""


class ComponentUniqueness(Checker):
    """I-3 and I-4, by a model that knows nothing but the statements themselves."""

    name = "I-3"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._models: dict[bytes, _Model] = {}

    def on_statement(self, statement: Statement) -> None:
        """See `Checker`."""
        model = self._models.get(statement.tc_id)
        if model is None:
            model = self._models[statement.tc_id] = _Model(0, statement.cfg)
        if statement.seq <= model.seq:  # a counter that goes back is a state that was set back
            self.world.violate("I-20", f"counter {statement.seq} after {model.seq}", statement.node)
        elif statement.seq != model.seq + 1:
            self.violate(f"counter {statement.seq} after {model.seq}", statement.node)
        if statement.cfg != model.cfg:
            if statement.cfg < model.cfg:
                self.violate(f"configuration {statement.cfg} after {model.cfg}", statement.node)
            model = self._models[statement.tc_id] = _Model(statement.seq, statement.cfg)
        model.seq = statement.seq
        match statement.kind:
            case kind if kind in (PREPARE, COMMIT):
                self._order(model, statement)
            case kind if kind == VIEW_CHANGE:
                self._depart(model, statement)
            case kind if kind == NEW_VIEW:
                if statement.view <= model.new_view or statement.view < model.view:
                    self.violate(f"second NEW-VIEW, for view {statement.view}", statement.node)
                model.new_view = statement.view
                model.view = max(model.view, statement.view)
            case kind if kind == CHECKPOINT:
                if statement.height <= model.checkpoint:
                    self.violate(f"CHECKPOINT {statement.height} again", statement.node)
                model.checkpoint = statement.height
            case kind if kind == ATTEST:
                pass
            case _:
                self.violate(f"statement of kind {statement.kind}", statement.node)

    def _order(self, model: _Model, statement: Statement) -> None:
        place = (statement.view, statement.height)
        if statement.view < model.view:
            self.violate(f"ORDER in view {statement.view} below {model.view}", statement.node)
        if place in model.orders:
            self.violate(f"two digests at view {place[0]}, height {place[1]}", statement.node)
        model.view = max(model.view, statement.view)
        model.lock_view = max(model.lock_view, statement.view)
        model.orders[place] = (statement.kind, statement.digest)

    def _depart(self, model: _Model, statement: Statement) -> None:
        found = statement.departure
        if found is None or statement.view <= model.target or statement.view <= model.view:
            self.violate(f"departure for view {statement.view} out of order", statement.node)
            return
        model.target = model.view = statement.view
        expected = tuple(
            Register(height, kind, digest)
            for (view, height), (kind, digest) in sorted(model.orders.items())
            if view == found.lock_view and height > found.floor
        )
        locked = model.lock_view if model.orders else found.lock_view
        if found.registers != expected or found.lock_view != locked:
            self.world.violate(
                "I-4", f"departure attests {len(found.registers)} of {len(expected)}", statement.node
            )


class WriteAhead(Checker):
    """I-16: evidence is on disk before a statement leaves the component; where the component would be lost
    with what is only written, before it leaves the host (ADR 0023). Also I-9, I-10 and I-18, which ask about
    the same moment."""

    name = "I-16"

    def on_message(self, host: SimHost, message: Any, data: bytes) -> None:
        """See `Checker`."""
        for record in host.disk.unforced:
            owed = not isinstance(record, OUTCOMES)
            if isinstance(message, Checkpoint) and isinstance(record, HeaderRecord):
                owed = record.header.height <= message.height
            if owed:
                what, name = type(record).__name__, type(message).__name__
                self.violate(f"a {name} leaves while a {what} is not on disk", host.number)
                return

    def on_request(self, host: SimHost, request: TcRequest) -> None:
        """See `Checker`."""
        match request:
            case Order():
                self._within_window(host, request)
            case Depart():
                place = (host.component.cfg, request.to)
                if place not in host.disk.evidence.departures:
                    self.violate(f"departure for view {request.to} is not on disk", host.number)
            case Install():
                if (host.component.cfg, request.view) not in host.disk.evidence.new_views:
                    self.violate(f"new view {request.view} is not on disk", host.number)
            case SignCheckpoint():
                if (request.height, request.digest) not in host.disk.evidence.headers:
                    self.violate(f"header {request.height} is not on disk", host.number)
            case AdvanceFloor():
                floor = host.node.state.cfg.floor if host.node is not None else 0
                if request.height > floor and request.height not in host.disk.evidence.stable:
                    self.violate(f"stable certificate {request.height} is not on disk", host.number)
            case BeginConfig():
                self._begin(host, request)
            case _:
                pass

    def on_statement(self, statement: Statement) -> None:
        """See `Checker`. An order is judged when it was signed: one that the component refuses, because it
        is in another configuration than a node that has lost its disk, says nothing."""
        host = self.world.hosts[statement.node]
        if host.strategy is None and statement.kind in (PREPARE, COMMIT):
            self._order(host, statement)

    def _order(self, host: SimHost, statement: Statement) -> None:
        world, evidence = self.world, host.disk.evidence
        cfg, view, height, digest = statement.cfg, statement.view, statement.height, statement.digest
        if evidence.prepares.get((cfg, view, height)) != digest:
            self.violate(f"PREPARE of view {view}, height {height} is not on disk", host.number)
        if view > 0 and not self._certified(evidence.certified.get((cfg, view))):
            world.violate("I-9", f"vote in view {view} without its certificate", host.number)
        if digest not in evidence.bodies:
            empty = null_block(cfg, height)
            if empty.digest(world.chain_id) != digest:
                world.violate("I-10", f"vote at height {height} without the block", host.number)

    def _within_window(self, host: SimHost, request: Order) -> None:
        """I-18, whatever the component makes of it."""
        state, height = host.node.state if host.node is not None else None, request.height
        if state is None or state.cfg.number != host.component.cfg:
            return
        if height > state.stable_height + state.window:
            self.world.violate("I-18", f"vote at height {height} above the window", host.number)

    def _certified(self, data: bytes | None) -> bool:
        """True for a certificate with the acknowledgements of f+1 nodes."""
        if data is None:
            return False
        acks = _decode_certificate.decode(data).acks
        return len({ack.node for ack in acks}) >= self.world.quorums.certificate

    def _begin(self, host: SimHost, request: BeginConfig) -> None:
        known = self.world.chain.configurations.get(request.cfg)
        if known is None or known.digest() != request.digest or known.floor != request.floor:
            self.world.violate("I-19", f"configuration {request.cfg} begins unknown", host.number)
        elif request.floor and not any(h >= request.floor for h in host.disk.evidence.stable):
            self.world.violate(
                "I-19", f"configuration {request.cfg} before its barrier is stable", host.number
            )


class BodiesKept(Checker):
    """I-10: a correct voter holds the body of what it voted for until it is stable."""

    name = "I-10"

    def on_interval(self) -> None:
        """See `Checker`."""
        for host in self.world.correct():
            node = host.node
            if node is None or host.wiped:
                continue
            state = node.state
            for height, slot in state.slots.items():
                head = slot.prepares.get(state.view)
                if head is None or height <= state.stable_height or slot.ordered_view != state.view:
                    continue
                if head.digest not in slot.bodies and head.digest not in host.disk.evidence.bodies:
                    self.violate(f"the block voted for at height {height} is gone", host.number)


class DomainSeparation(Checker):
    """I-26: what was signed verifies as just that statement, and as no other."""

    name = "I-26"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._count = 0
        self._images: dict[bytes, tuple[int, int]] = {}

    def on_statement(self, statement: Statement) -> None:
        """See `Checker`."""
        self._count += 1
        if self._count % 16 or statement.kind == ATTEST:
            return
        world = self.world
        cfg = world.chain.configurations.get(statement.cfg)
        if cfg is None or cfg.members[statement.node].tc_id != statement.tc_id:
            return
        body = _body(statement)
        bound = binding(world.chain_id, statement.cfg, statement.cfg_digest, statement.node, statement.tc_id)
        image = preimage(bound, statement.seq, statement.kind, body)
        if self._images.setdefault(image, (statement.kind, statement.seq)) != (statement.kind, statement.seq):
            self.violate("two statements have one pre-image", statement.node)
        for kind in range(1, 7):
            valid = world.keys.verifier.ui(
                cfg, statement.node, statement.seq, kind, body, statement.signature
            )
            if valid != (kind == statement.kind):
                self.violate(f"a statement of kind {statement.kind} verifies as {kind}", statement.node)
        for other in _altered(statement):
            if world.keys.verifier.ui(
                cfg, statement.node, other.seq, other.kind, _body(other), statement.signature
            ):
                self.violate(f"a statement of kind {statement.kind} verifies with another content")


def _altered(statement: Statement) -> list[Statement]:
    """The same statement with one field changed that its kind has."""
    found = [
        statement._replace(seq=statement.seq + 1),
        statement._replace(digest=bytes(32)),
    ]
    if statement.kind in (PREPARE, COMMIT, VIEW_CHANGE, NEW_VIEW):
        found.append(statement._replace(view=statement.view + 1))
    if statement.kind in (PREPARE, COMMIT, CHECKPOINT):
        found.append(statement._replace(height=statement.height + 1))
    return [other for other in found if other != statement]


def _body(statement: Statement) -> bytes:
    found = statement.departure
    if statement.kind in (PREPARE, COMMIT):
        return order_body(statement.view, statement.height, statement.digest)
    if statement.kind == VIEW_CHANGE and found is not None:
        return departure_body(statement.view, found.lock_view, found.floor, found.registers, statement.digest)
    number = statement.view if statement.kind == NEW_VIEW else statement.height
    return numbered_body(number, statement.digest)


COMPONENT: tuple[type[Checker], ...] = (ComponentUniqueness, WriteAhead, BodiesKept, DomainSeparation)
