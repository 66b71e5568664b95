"""Byzantine primaries of new views, and false acknowledgements (S-9 to S-13, CE5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tepbft.core.block import null_block
from tepbft.core.certificates import CheckpointCertificate
from tepbft.protocols.tep.messages import (
    NewView,
    NewViewCertificate,
    NvAck,
    Prepare,
    ReqVc,
    ViewChange,
    summary_digest,
)
from tepbft.protocols.tep.new_view import base_certificate
from tepbft.sim.adversaries.primary import Bodiless, Equivocate, Hole, InvalidContents
from tepbft.sim.adversaries.primary import Selective as SelectivePrimary
from tepbft.sim.adversaries.toolkit import Attacker, Composite, replace
from tepbft.sim.ports import Power, Strategy
from tepbft.trusted.port import PREPARE, EnterView, Install, Order, TcRequest
from tepbft.types import NodeId

if TYPE_CHECKING:
    from tepbft.protocols.tep.messages import Message
    from tepbft.protocols.tep.state import State


class Restless(Attacker):
    """Base of attacks on view changes: makes them happen, as far as one host can. In some views that it
    leads it proposes nothing; otherwise it joins every complaint."""

    name = "restless"
    restlessness = 0.7

    def __init__(self, power: Power) -> None:
        super().__init__(power)
        self._lazy: dict[int, bool] = {}

    def stalls(self, view: int) -> bool:
        """Whether this host proposes nothing in a view."""
        if view not in self._lazy:
            self._lazy = {known: lazy for known, lazy in self._lazy.items() if known > view - 16}
            self._lazy[view] = self.rng.random() < self.restlessness
        return self._lazy[view]

    def outbound(self, to: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """See `Strategy`."""
        if isinstance(message, Prepare) and self.stalls(message.head.view):
            return ()
        return ((to, message),)

    def tick(self) -> None:
        """See `Strategy`."""
        s = self.state
        if s is not None and s.active and self.every(200, "wish"):
            self.power.broadcast(self.forge.req_vc(s.view + 1))

    def inbound(self, sender: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """See `Strategy`."""
        s = self.state
        complaint = isinstance(message, ReqVc) and s is not None and message.target == s.view + 1
        if s is not None and complaint and self.every(100, "join"):
            self.power.broadcast(self.forge.req_vc(s.view + 1))
        return super().inbound(sender, message)


class WishReplay(Attacker):
    """S-19: keeps correct hosts' old wishes alive by repeating them.
    Expected: a wish counts for its view only; nobody is moved by what was wished long ago."""

    name = "s19-wish-replay"

    def tick(self) -> None:
        """See `Strategy`."""
        known: dict[NodeId, ReqVc] = self.memory.requests
        if known and self.every(60):
            self.did()
            for node in sorted(known):
                self.power.broadcast(known[node])


class Contradict(Restless):
    """S-9: proposes something else than its own NewView says, or at a height below its base.
    Expected: rejected (P6); a view change."""

    name = "s09-contradict"
    restlessness = 0.4

    def certify(self, request: TcRequest) -> bool:
        """See `Strategy`."""
        s = self.leading
        if s is None or not isinstance(request, Order) or request.kind != PREPARE or s.certificate is None:
            return True
        required = s.certificate.digest_at(request.height)
        if required is None and self.rng.random() < 0.7:
            return True
        height = request.height
        if required is None:  # nothing is re-proposed: then at or below the base
            height = max(1, s.certificate.base - self.rng.randrange(2))
        block = self.forge.rogue_block(height)
        head = self.forge.head(s.view, height, block.digest(self.power.chain_id))
        self.did()
        false = self.forge.false_head(s.view, height, block.digest(self.power.chain_id))
        self.power.broadcast(Prepare(s.cfg.number, head or false, block))
        return self.withhold(request) if required is not None else True


class WrongNewView(Restless):
    """S-10: signs a NewView that does not follow from its VIEW-CHANGEs: a wrong merge, one missing, the
    same node twice, a forged one, one for another view, a lower base.
    Expected: ignored; the next view."""

    name = "s10-wrong-new-view"

    def certify(self, request: TcRequest) -> bool:
        """See `Strategy`."""
        s = self.state
        if s is None or not isinstance(request, Install) or s.installing is None or self.rng.random() < 0.2:
            return True
        draft = s.installing
        twist = self.rng.choice((self._merge, self._set, self._stale, self._base))
        base, changes, nvc = twist(s, base_certificate(draft), list(draft.view_changes), list(draft.nvc))
        honest = (base_certificate(draft), list(draft.view_changes), list(draft.nvc))
        if (base, changes, nvc) == honest:
            nvc.append(self.forge.garbage())
        found = self.forge.new_view(draft.view, changes, base, nvc)
        if found is None:
            return True
        self.did()
        s.installing = None
        s.new_views[draft.view] = draft  # the node behind need not try again
        self.power.broadcast(found)
        self._acknowledge(found, base)
        return False

    def _acknowledge(self, found: NewView, base: CheckpointCertificate) -> None:
        """Its own certificate, as far as colluders' acknowledgements go."""
        nodes = (self.power.number, *self.power.allies, *self.victims())
        needed = self.power.configuration.quorums.certificate
        false = self.forge.certificate(found.view, base, found.nvc, nodes[:needed])
        self.power.broadcast(false)

    def _merge(
        self, s: State, base: CheckpointCertificate, changes: list[ViewChange], nvc: list[bytes]
    ) -> tuple[CheckpointCertificate, list[ViewChange], list[bytes]]:
        kind = self.rng.randrange(4)
        if kind == 0 and nvc:  # a block is lost
            place = self.rng.randrange(len(nvc))
            nvc[place] = null_block(s.cfg.number, base.height + 1 + place).digest(s.chain_id)
        elif kind == 1 and nvc:
            nvc.pop()
        elif kind == 2 and nvc:
            nvc[self.rng.randrange(len(nvc))] = self.forge.garbage()
        else:
            nvc += [self.forge.garbage() for _ in range(self.rng.choice((1, s.window)))]
        return base, changes, nvc[:256]

    def _set(
        self, s: State, base: CheckpointCertificate, changes: list[ViewChange], nvc: list[bytes]
    ) -> tuple[CheckpointCertificate, list[ViewChange], list[bytes]]:
        place = self.rng.randrange(len(changes))
        kind = self.rng.randrange(4)
        if kind == 0:
            del changes[place]
        elif kind == 1:
            changes[place] = changes[place - 1]
        elif kind == 2:  # another's, without its evidence
            content = replace(changes[place].content, prepares=(), certified=None)
            changes[place] = replace(changes[place], content=content)
        else:
            changes[place] = replace(changes[place], sender=(changes[place].sender + 1) % s.quorums.n)
        return base, changes, nvc

    def _stale(
        self, s: State, base: CheckpointCertificate, changes: list[ViewChange], nvc: list[bytes]
    ) -> tuple[CheckpointCertificate, list[ViewChange], list[bytes]]:
        old = [found for found in self.memory.departures if found.to != s.view]
        if old:
            found = self.rng.choice(old)
            changes[self.rng.randrange(len(changes))] = self.rng.choice((found, replace(found, to=s.view)))
        else:
            nvc.append(self.forge.garbage())
        return base, changes, nvc

    def _base(
        self, s: State, base: CheckpointCertificate, changes: list[ViewChange], nvc: list[bytes]
    ) -> tuple[CheckpointCertificate, list[ViewChange], list[bytes]]:
        lower = [c.content.checkpoint for c in changes if c.content.checkpoint.height != base.height]
        lower += [found for found in self.memory.stables if found.height != base.height]
        found = self.rng.choice(lower) if lower else s.setting.floor_certificate()
        return found, changes, nvc


class TwoNewViews(Restless):
    """S-11, CE5: two NewViews for one view, to different backups, and acknowledgements of both.
    Expected: the component signs one; the other is ignored."""

    name = "s11-two-new-views"

    def __init__(self, power: Power) -> None:
        super().__init__(power)
        self._half = self.some(len(power.others) // 2)
        self._second: dict[int, NewView] = {}

    def outbound(self, to: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """See `Strategy`."""
        s = self.state
        if isinstance(message, NvAck):  # acknowledge anything else too: costs nothing but a signature
            self.power.post(to, self.forge.nv_ack(message.view, self.forge.garbage()))
        if not isinstance(message, NewView) or s is None or to not in self._half:
            return super().outbound(to, message)
        if message.view not in self._second:
            self._second = {view: found for view, found in self._second.items() if view > message.view - 4}
            self._second[message.view] = self._make(s, message)
        self.did()
        second = self._second[message.view]
        base = base_certificate(second)
        summary = summary_digest(second.cfg, second.view, base, second.nvc)
        return ((to, second), (to, self.forge.nv_ack(second.view, summary)))

    def _make(self, s: State, first: NewView) -> NewView:
        changes = list(first.view_changes)
        inside = [change.sender for change in changes]
        spare = [
            found
            for node, (found, _) in sorted(s.departures.get(first.view, {}).items())
            if node not in inside
        ]
        if spare:
            changes[self.rng.randrange(len(changes))] = spare[0]
        base = base_certificate(replace(first, view_changes=tuple(changes)))
        nvc = (self.forge.garbage(),) if self.rng.random() < 0.5 else first.nvc[:-1]
        second = self.forge.new_view(first.view, changes, base, nvc)
        if second is not None and (nvc, base.height) != (first.nvc, first.base):
            self.power.count("second new views")  # I-3 will say so
        return second or replace(first, view_changes=tuple(changes), nvc=tuple(nvc), base=base.height)


class WithheldAcks(Restless):
    """S-12: its NewViews reach f hosts only; it acknowledges nothing, or to one host only, and keeps
    certificates of views for itself. Expected: certified later, or the next view; nobody stuck."""

    name = "s12-withheld-acks"

    def __init__(self, power: Power) -> None:
        super().__init__(power)
        self._chosen = self.some(power.genesis.configuration().quorums.f)
        self._odds = self.rng.choice((0.0, 0.5, 1.0))

    def outbound(self, to: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """See `Strategy`."""
        if isinstance(message, NewView | NvAck | NewViewCertificate):
            kept = to in self._chosen and (isinstance(message, NewView) or self.rng.random() < self._odds)
            if not kept:
                self.did()
                return ()
            return ((to, message),)
        return super().outbound(to, message)


class EarlyEntrance(Restless):
    """S-10, S-16: leads and proposes in the view it is next to lead before anybody certified it.
    Expected: nobody votes without the certificate (A-52, I-9)."""

    name = "s10-uncertified-primary"
    burns = True

    def certify(self, request: TcRequest) -> bool:
        """See `Strategy`."""
        s = self.state
        if isinstance(request, EnterView) and s is not None and s.cfg.primary(request.view) == s.me:
            proposal = self.forge.prepare(request.view, self.forge.rogue_block(s.stable_height + 1))
            if proposal is not None:
                self.did()
                self.power.broadcast(proposal)
        return True


class Rotation(Composite):
    """S-13: another attack in each view, so that consecutive Byzantine primaries each play their own.
    Expected: liveness after f+1 views."""

    name = "s13-rotation"
    parts = (
        Hole, Bodiless, WrongNewView, InvalidContents, TwoNewViews, Equivocate, Contradict, WithheldAcks,
        SelectivePrimary,
    )  # fmt: skip

    def playing(self) -> Sequence[Strategy]:
        """See `Composite`."""
        node = self.power.node
        view = node.state.view if node is not None else 0
        return (self.all[(view + self.power.number) % len(self.all)],)
