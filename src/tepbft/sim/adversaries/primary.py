"""Byzantine primaries: what they can do to the heights of a view (S-1 to S-8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tepbft.core.block import CONFIG, NULL, Block, Request, decode_body
from tepbft.errors import PeerFault
from tepbft.protocols.tep.messages import Body, Final, Forward, Prepare
from tepbft.sim.adversaries.toolkit import Attacker, replace
from tepbft.sim.clock import WALL_MS
from tepbft.sim.ports import Power
from tepbft.trusted.port import PREPARE, AdvanceFloor, Order, TcRequest
from tepbft.types import Millis, NodeId

if TYPE_CHECKING:
    from tepbft.protocols.tep.messages import Message
    from tepbft.protocols.tep.state import State


class Equivocate(Attacker):
    """S-1: asks its component for two digests at one (view, height); half of the backups get the block
    that was signed, the others another one under the same, or a garbage, statement.
    Expected: the component refuses; no fork."""

    name = "s01-equivocate"

    def __init__(self, power: Power) -> None:
        super().__init__(power)
        self._half = self.some(len(power.others) // 2)
        self._others: dict[tuple[int, int], Prepare] = {}

    def certify(self, request: TcRequest) -> bool:
        """See `Strategy`."""
        s = self.leading
        if isinstance(request, Order) and request.kind == PREPARE and s is not None:
            block = self.forge.rogue_block(request.height)
            if self.rng.random() < 0.3:  # the other one first: then the node behind is refused
                found = self.forge.prepare(request.view, block)
                if found is not None:
                    self._send_other(found)
            else:
                head = self.forge.false_head(request.view, request.height, block.digest(self.power.chain_id))
                self._keep((request.view, request.height), Prepare(block.cfg, head, block))
        return True

    def _keep(self, key: tuple[int, int], other: Prepare) -> None:
        if len(self._others) >= 64:
            self._others.pop(next(iter(self._others)))
        self._others[key] = other

    def _send_other(self, other: Prepare) -> None:
        self.did()
        for node in self._half:
            self.power.post(node, other)

    def outbound(self, to: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """See `Strategy`."""
        if not isinstance(message, Prepare) or to not in self._half:
            return ((to, message),)
        head = message.head
        other = self._others.get((head.view, head.height))
        if other is None or other.head.digest == head.digest:
            return ((to, message),)
        self.did()
        if self.forge.head(head.view, head.height, other.head.digest) is not None:
            self.power.count("equivocations")  # I-3 will say so
        stolen = replace(other.head, seq=head.seq, signature=head.signature)
        false = replace(other, head=self.rng.choice((stolen, other.head)))
        return ((to, false), (to, replace(message, block=other.block)))


class Selective(Attacker):
    """S-2: each Prepare goes to one backup or to exactly f, in turn; bodies as well.
    Expected: everybody executes, for votes carry the Prepare (A-19, A-20)."""

    name = "s02-selective"

    def outbound(self, to: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """See `Strategy`."""
        if not isinstance(message, Prepare | Body | Final):
            return ((to, message),)
        height = message.head.height if isinstance(message, Prepare) else message.block.height
        others = self.power.others
        count = 1 if height % 2 else self.power.configuration.quorums.f
        chosen = [others[(height + i) % len(others)] for i in range(count)]
        if to in chosen:
            return ((to, message),)
        self.did()
        return ()


class Hole(Attacker):
    """S-3, CE4: never proposes one height of a view, but the heights above it, as far as the window goes.
    Expected: a view change, for execution stops the timers, not acceptance; NULL or a re-proposal."""

    name = "s03-hole"

    def __init__(self, power: Power) -> None:
        super().__init__(power)
        self._holes: dict[int, int] = {}

    def _hole(self, view: int, height: int) -> int:
        """The height that is never proposed in a view: the first one that comes up."""
        if view not in self._holes:
            self._holes = {known: h for known, h in self._holes.items() if known > view - 8}
            self._holes[view] = height
        return self._holes[view]

    def outbound(self, to: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """See `Strategy`."""
        if isinstance(message, Prepare) and message.head.height == self._hole(
            message.head.view, message.head.height
        ):
            self.did()
            return ()
        if isinstance(message, Body) and message.block.height in self._holes.values():
            return ()
        return ((to, message),)

    def tick(self) -> None:
        """See `Strategy`."""
        s = self.leading
        if s is None or s.view not in self._holes or not self.every(40):
            return
        for height in range(self._holes[s.view] + 1, s.stable_height + s.window + 1):
            slot = s.slots.get(height)
            if slot is None or not slot.prepares:
                proposal = self.forge.prepare(s.view, self.forge.rogue_block(height))
                if proposal is not None:
                    self.did()
                    self.power.broadcast(proposal)


class Bodiless(Attacker):
    """S-4: proposes headers only, and never sends the bodies.
    Expected: nobody votes for what nobody can execute; a view change."""

    name = "s04-bodiless"

    def outbound(self, to: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """See `Strategy`."""
        if isinstance(message, Body):
            self.did()
            return ()
        if isinstance(message, Prepare) and message.block is not None:
            self.did()
            return ((to, replace(message, block=None)),)
        return ((to, message),)


class Censor(Attacker):
    """S-5: serves all but one client, or all but some numbers of a pipelining client.
    Expected: its requests execute within the request timers of the others."""

    name = "s05-censor"

    def __init__(self, power: Power) -> None:
        super().__init__(power)
        self._victim = self.rng.choice(power.genesis.clients[:-1]).client
        self._every = self.rng.choice((1, 2, 3))

    def requests(self, requests: Sequence[Request]) -> Sequence[Request]:
        """See `Strategy`."""
        kept = [r for r in requests if r.client != self._victim or r.seq % self._every]
        if len(kept) < len(requests):
            self.did()
        return kept

    def inbound(self, sender: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """See `Strategy`."""
        if isinstance(message, Forward):
            return ((sender, Forward(tuple(self.requests(message.requests)))),)
        return super().inbound(sender, message)


class Slow(Attacker):
    """S-6: proposes each block just before the backups' timers would run out.
    Expected: the deadline of each request catches it, however steadily blocks come."""

    name = "s06-slow"

    def __init__(self, power: Power) -> None:
        super().__init__(power)
        self._held: list[tuple[Millis, NodeId, Prepare]] = []
        self._free_ms: Millis = 0
        self._slots: dict[tuple[int, int], Millis] = {}

    def outbound(self, to: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """See `Strategy`."""
        s = self.state
        if not isinstance(message, Prepare) or s is None or len(self._held) >= 64:
            return ((to, message),)
        key = (message.head.view, message.head.height)
        if key not in self._slots:
            self._free_ms = max(self._free_ms, self.power.now_ms) + s.options.t_request_ms * 9 // 10
            self._slots = {k: at for k, at in self._slots.items() if at > self.power.now_ms - 10_000}
            self._slots[key] = self._free_ms
        if self._slots[key] <= self.power.now_ms:
            return ((to, message),)
        self._held.append((self._slots[key], to, message))
        self.did()
        return ()

    def tick(self) -> None:
        """See `Strategy`."""
        now = self.power.now_ms
        for at, to, message in self._held:
            if at <= now:
                self.power.post(to, message)
        self._held = [held for held in self._held if held[0] > now]


class InvalidContents(Attacker):
    """S-7: proposes what no correct node would: a bad client signature, too many or duplicate requests,
    CONFIG mixed with requests, a wrong configuration, a lying count, nonsense.
    Expected: invalid blocks cause a view change, duplicates are skipped at execution."""

    name = "s07-invalid"

    def certify(self, request: TcRequest) -> bool:
        """See `Strategy`."""
        s = self.leading
        if s is None or not isinstance(request, Order) or request.kind != PREPARE or self.rng.random() < 0.4:
            return True
        block = self.rng.choice(
            (
                self._bad_signature,
                self._too_many,
                self._duplicates,
                self._executed,
                self._config,
                self._wrong_cfg,
                self._nonsense,
                self._strange_kind,
                self._wrong_count,
                self._far_future,
                self._foreign_height,
            )
        )(s, request.height)
        head = self.forge.head(request.view, request.height, block.digest(self.power.chain_id))
        if head is None:
            return True
        self.did()
        self.power.broadcast(Prepare(s.cfg.number, head, block))
        return self.withhold(request)

    def _rogue(self, height: int) -> Request:
        return self.forge.rogue(1 + self.power.number, height)

    def _bad_signature(self, s: State, height: int) -> Block:
        return self.forge.block(height, [replace(self._rogue(height), auth=self.forge.garbage())])

    def _too_many(self, s: State, height: int) -> Block:
        few = s.parameters.block_requests + self.rng.choice((1, 50))
        return self.forge.block(height, [self.forge.rogue(9, i + 1, bytes(90)) for i in range(few)])

    def _duplicates(self, s: State, height: int) -> Block:
        return self.forge.block(height, [self._rogue(height)] * max(2, s.parameters.block_requests))

    def _executed(self, s: State, height: int) -> Block:
        for found in range(s.executed, max(0, s.executed - 8), -1):
            stored = s.store.block(found)
            if stored is not None and stored.block.count:
                try:
                    return self.forge.block(height, decode_body(stored.block.body))
                except PeerFault:
                    continue
        return self._duplicates(s, height)

    def _config(self, s: State, height: int) -> Block:
        return self.forge.block(height, [self._rogue(height)], kind=CONFIG)

    def _wrong_cfg(self, s: State, height: int) -> Block:
        return self.forge.block(height, [self._rogue(height)], cfg=s.cfg.number + self.rng.choice((1, 7)))

    def _nonsense(self, s: State, height: int) -> Block:
        return replace(self.forge.block(height), body=self.forge.garbage(self.rng.randrange(200)))

    def _strange_kind(self, s: State, height: int) -> Block:
        return self.forge.block(height, [self._rogue(height)], kind=self.rng.choice((NULL, 3, 255)))

    def _wrong_count(self, s: State, height: int) -> Block:
        return replace(self.forge.block(height, [self._rogue(height)]), count=self.rng.choice((0, 2, 9999)))

    def _far_future(self, s: State, height: int) -> Block:
        return self.forge.block(height, [self._rogue(height)], ts=WALL_MS * 2 + self.power.now_ms)

    def _foreign_height(self, s: State, height: int) -> Block:
        return self.forge.block(height + 1, [self._rogue(height)])


class FarHeights(Attacker):
    """S-8: proposes heights outside the window. For those beyond what its component signs it raises
    the component's floor, which costs it its votes for a while; the window itself it fills with blocks
    that nobody gets (A-62, A-63). Expected: bounded buffers, bounded new views, and progress."""

    name = "s08-far-heights"
    burns = True

    def tick(self) -> None:
        """See `Strategy`."""
        s = self.state
        if s is None or not self.every(150):
            return
        top = s.stable_height + s.window
        leading = self.leading is not None
        if leading and self.rng.random() < 0.5:
            for height in range(s.stable_height + 1, top + 1):  # evidence whose bodies stay here
                head = self.forge.head(s.view, height, self.forge.garbage())
                if head is not None:
                    self.did()
                    self.power.post(self.rng.choice(self.power.others), Prepare(s.cfg.number, head, None))
            return
        heights = (top + 1, top + s.window, top + s.window + 1, 2**40, 2**63 - 1)
        height = self.rng.choice(heights)
        if leading and height <= top + s.window and self.rng.random() < 0.2:
            self.power.call(AdvanceFloor(min(height - 1, s.stable_height + s.window)))
        block = self.forge.rogue_block(height)
        found = self.forge.prepare(s.view, block) if leading else None
        digest = block.digest(self.power.chain_id)
        proposal = found or Prepare(block.cfg, self.forge.false_head(s.view, height, digest), block)
        self.did()
        self.power.broadcast(proposal)
