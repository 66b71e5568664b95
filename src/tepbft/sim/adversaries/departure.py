"""Lies on leaving a view: what VIEW-CHANGEs may hide or make up (S-14 to S-16, CE1 to CE3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tepbft.core.certificates import CheckpointCertificate, PrepareHead
from tepbft.protocols.tep.messages import Departure, NewViewCertificate, ViewChange
from tepbft.sim.adversaries.new_view import Restless
from tepbft.sim.adversaries.toolkit import replace
from tepbft.sim.ports import Power
from tepbft.trusted.port import AdvanceFloor, Depart, Order, TcRequest
from tepbft.types import NodeId

if TYPE_CHECKING:
    from tepbft.protocols.tep.messages import Message, ReqVc
    from tepbft.protocols.tep.state import State


class Liar(Restless):
    """Base: replaces the content of the own node's VIEW-CHANGE before its component signs it."""

    name = "liar"
    honesty = 0.2

    def twist(self, s: State, content: Departure) -> Departure | None:
        """The content to be signed instead; None for no lie this time."""
        raise NotImplementedError

    def forged(self, s: State, message: ViewChange) -> ViewChange:
        """A last change to the signed message."""
        return message

    def certify(self, request: TcRequest) -> bool:
        """See `Strategy`."""
        s = self.state
        if s is None or not isinstance(request, Depart) or s.departing is None:
            return True
        if s.departing.to != request.to or self.rng.random() < self.honesty:
            return True
        content = self.twist(s, s.departing.content)
        if content is None:
            return True
        message = self.forge.depart(request.to, content)
        if message is None:
            return True
        message = self.forged(s, message)
        self.did()
        s.departing, s.own_departure = None, message  # the node behind repeats the lie
        self.power.broadcast(message)
        return False


class HiddenRegisters(Liar):
    """S-15, CE1: leaves out Prepares that it voted for: all ("since my last checkpoint") or some.
    Expected: V8 refuses it."""

    name = "s15-hidden-registers"

    def twist(self, s: State, content: Departure) -> Departure | None:
        """See `Liar`."""
        if not content.prepares:
            return None
        kept = [head for head in content.prepares[1:] if self.rng.random() < 0.5]
        return replace(content, prepares=tuple(kept))


class RaisedFloor(Liar):
    """S-15: raises its component's floor over what it voted for, and then leaves it out.
    Expected: V3 refuses it. Raised no further than the window, so that it can vote again soon."""

    name = "s15-raised-floor"
    honesty = 0.4
    burns = True

    def twist(self, s: State, content: Departure) -> Departure | None:
        """See `Liar`."""
        if not content.prepares:
            return None
        floor = self.rng.choice([head.height for head in content.prepares])
        self.power.call(AdvanceFloor(floor))
        kept = tuple(head for head in content.prepares if head.height > floor)
        checkpoint = content.checkpoint
        if self.rng.random() < 0.4:  # a checkpoint at the floor that nobody signed
            votes = tuple(replace(vote, signature=self.forge.garbage()) for vote in checkpoint.votes)
            checkpoint = replace(checkpoint, height=floor, votes=votes)
        return replace(content, prepares=kept, checkpoint=checkpoint)


class OldCheckpoint(Liar):
    """S-15: shows an older checkpoint than the base of the view it was in, or than its floor.
    Expected: V3 and V5 refuse it."""

    name = "s15-old-checkpoint"

    def twist(self, s: State, content: Departure) -> Departure | None:
        """See `Liar`."""
        old: list[CheckpointCertificate] = [
            found
            for found in self.memory.stables
            if found.height < content.checkpoint.height and found.cfg == s.cfg.number
        ]
        old += [
            departure.content.checkpoint
            for departure in self.memory.departures
            if departure.content.checkpoint.height < content.checkpoint.height
            and departure.cfg == s.cfg.number
        ]
        if content.checkpoint.height > s.cfg.floor:
            old.append(s.setting.floor_certificate())
        if not old:
            return None
        prepares = content.prepares if self.rng.random() < 0.5 else ()
        return replace(content, checkpoint=self.rng.choice(old), prepares=prepares)


class OldNewView(Liar):
    """S-15: shows an older new-view certificate than that of the view it voted in, or none.
    Expected: V4 refuses it (or V8, with Prepares of the newer view)."""

    name = "s15-old-new-view"

    def twist(self, s: State, content: Departure) -> Departure | None:
        """See `Liar`."""
        if content.certified is None:
            return None
        older = [
            found
            for found in self.memory.certificates
            if found.view < content.certified.view and found.cfg == s.cfg.number
        ]
        certified = self.rng.choice(older) if older and self.rng.random() < 0.7 else None
        view = certified.view if certified is not None else 0
        prepares = content.prepares if self.rng.random() < 0.4 else ()
        if self.rng.random() < 0.3:
            prepares = tuple(replace(head, view=view) for head in content.prepares)
        return replace(content, certified=certified, prepares=prepares)


class AlteredPrepare(Liar):
    """S-15: lists Prepares with another digest, height, view or signature, twice, or made up.
    Expected: V7 refuses it."""

    name = "s15-altered-prepare"

    def twist(self, s: State, content: Departure) -> Departure | None:
        """See `Liar`."""
        heads = list(content.prepares)
        height = content.checkpoint.height + self.rng.randint(1, s.window + 1)
        view = s.certified_view
        if not heads or self.rng.random() < 0.2:
            heads.append(self.forge.false_head(view, height, self.forge.garbage()))
            return replace(content, prepares=tuple(heads[: s.window]))
        place = self.rng.randrange(len(heads))
        changed: PrepareHead = self.rng.choice(
            (
                replace(heads[place], digest=self.forge.garbage()),
                replace(heads[place], height=height),
                replace(heads[place], view=heads[place].view + 1),
                replace(heads[place], signature=self.forge.garbage()),
                heads[place - 1],
            )
        )
        if changed == heads[place]:
            heads.append(changed)
        else:
            heads[place] = changed
        return replace(content, prepares=tuple(heads[: s.window]))


class TamperedAttestation(Liar):
    """S-15: a good VIEW-CHANGE whose attested registers, floor, view, content or trigger are changed
    after signing, or whose trigger does not name f+1 distinct wishes.
    Expected: V1 and V9 refuse it."""

    name = "s15-tampered-attestation"

    def twist(self, s: State, content: Departure) -> Departure | None:
        """See `Liar`."""
        if self.rng.random() < 0.6:
            return content
        trigger: tuple[ReqVc, ...] = self.rng.choice(
            (
                content.trigger[:1] * len(content.trigger),
                content.trigger[1:],
                tuple(replace(wish, target=wish.target + 1) for wish in content.trigger),
                tuple(replace(wish, sender=(wish.sender + 1) % s.quorums.n) for wish in content.trigger),
            )
        )
        return replace(content, trigger=trigger)

    def forged(self, s: State, message: ViewChange) -> ViewChange:
        """See `Liar`."""
        ui = message.ui
        kind = self.rng.randrange(5)
        if kind == 0:
            ui = replace(ui, registers=())
        elif kind == 1:
            ui = replace(ui, floor=0)
        elif kind == 2:
            ui = replace(ui, lock_view=0)
        elif kind == 3:
            return replace(message, content=replace(message.content, prepares=()))
        else:
            return replace(message, to=message.to + 1)
        return replace(message, ui=ui)


class FabricatedView(Liar):
    """S-16, CE2: claims evidence from a higher view that nobody certified: with its own, its colluders'
    and made-up acknowledgements, and where it leads that view with a real Prepare in it.
    Expected: V4 refuses it, for f acknowledgements are one too few."""

    name = "s16-fabricated-view"
    honesty = 0.4

    def twist(self, s: State, content: Departure) -> Departure | None:
        """See `Liar`."""
        to = s.departing.to if s.departing is not None else 0
        views = range(s.certified_view + 1, to)
        if not views:
            return self._same_view(s, content)
        view = self.rng.choice(views)
        height = content.checkpoint.height + 1
        block = self.forge.rogue_block(height)
        digest = block.digest(self.power.chain_id)
        heads: tuple[PrepareHead, ...] = ()
        if s.cfg.primary(view) == s.me:
            head = self.forge.head(view, height, digest)
            heads = () if head is None else (head,)
        nvc = () if heads else (digest,)
        return replace(content, certified=self._certificate(s, view, content, nvc), prepares=heads)

    def _same_view(self, s: State, content: Departure) -> Departure | None:
        """No room for another view: another content of the one that was certified."""
        certified = content.certified
        if certified is None:
            return None
        digest = self.forge.rogue_block(certified.base + 1).digest(self.power.chain_id)
        false = replace(certified, nvc=(digest, *certified.nvc[1:]))
        return replace(content, certified=false, prepares=())

    def _certificate(
        self, s: State, view: int, content: Departure, nvc: tuple[bytes, ...]
    ) -> NewViewCertificate:
        friends = (self.power.number, *self.power.allies)
        needed = s.quorums.certificate
        nodes: Sequence[NodeId] = self.rng.choice(
            (
                friends,
                (friends * needed)[:needed],
                (*friends, *self.victims())[:needed],
            )
        )
        return self.forge.certificate(view, content.checkpoint, nvc, nodes)


class VoteAfterLeaving(Restless):
    """S-14, CE3: sends its VIEW-CHANGE to the next primary as soon as f+1 wishes are at hand, and then
    votes in the view that it left, for one host's eyes only. Expected: the component refuses."""

    name = "s14-vote-after-leaving"

    def __init__(self, power: Power) -> None:
        super().__init__(power)
        self._left = 0
        self._binding: tuple[int, bytes] = (0, b"")

    def tick(self) -> None:
        """See `Strategy`."""
        super().tick()
        s = self.state
        if s is not None and self._binding != (s.cfg.number, s.tc_id):
            self._binding, self._left = (s.cfg.number, s.tc_id), 0  # views begin anew
        if s is None or not s.voter or not s.active or s.outstanding:
            return
        if self._left > s.view:
            self._vote(s)
            return
        to = s.view + 1
        trigger = self.trigger(to)
        if len(trigger) < s.quorums.certificate or not self.every(50):
            return
        content = Departure(s.stable_certificate, s.certificate, self._evidence(s), trigger)
        message = self.forge.depart(to, content)
        if message is not None:
            self._left = to
            self.power.post(s.cfg.primary(to), message)
            self._vote(s)

    @staticmethod
    def _evidence(s: State) -> tuple[PrepareHead, ...]:
        heads = [slot.prepares.get(s.certified_view) for _, slot in sorted(s.slots.items())]
        return tuple(head for head in heads if head is not None and head.height > s.stable_height)

    def inbound(self, sender: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """See `Strategy`."""
        found = super().inbound(sender, message)
        s = self.state
        if s is not None and self._left > s.view:
            self._vote(s)
        return found

    def _vote(self, s: State) -> None:
        """In the view that was left."""
        if s.primary == s.me or self._binding != (s.cfg.number, s.tc_id) or not self.every(20, "vote"):
            return
        for height in sorted(s.slots):
            for (view, _), head in list(s.slots[height].heads.items()):
                if view < self._left and height > s.stable_height:
                    self.did()
                    vote = self.forge.commit(head)
                    if vote is not None:
                        self.power.count("votes after leaving")  # I-3 will say so
                        self.power.post(self.rng.choice(self.power.others), vote)

    def certify(self, request: TcRequest) -> bool:
        """See `Strategy`."""
        if isinstance(request, Order) and request.view < self._left:
            self.did()  # the node behind has not noticed that its component left
        return True
