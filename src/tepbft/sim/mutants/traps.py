"""Byzantine hosts that lead where a particular defect does harm.

They know the protocol's counter-examples (A5) and stage them; none knows whether a defect
is planted. Against production code each of them must come to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from tepbft.core.block import Request
from tepbft.core.certificates import PrepareHead
from tepbft.execution.apps import kv
from tepbft.protocols.tep.messages import (
    Body,
    Checkpoint,
    Commit,
    Departure,
    FetchBody,
    Forward,
    NewView,
    NvAck,
    Prepare,
    ReqVc,
    Status,
    ViewChange,
    ack_preimage,
    departure_digest,
    req_vc_preimage,
    summary_digest,
)
from tepbft.protocols.tep.new_view import base_certificate
from tepbft.sim.ports import Power, Strategy
from tepbft.trusted.port import (
    COMMIT,
    AdvanceFloor,
    Depart,
    DepartureUi,
    EnterView,
    Install,
    Order,
    SignCheckpoint,
    TcRequest,
    Ui,
)
from tepbft.types import NodeId
from tepbft.wire import Outcome

if TYPE_CHECKING:
    from tepbft.protocols.tep.messages import Message

Sent = Sequence[tuple[NodeId, "Message"]]

# --- simple liars -----------------------------------------------------------------------------


class Mute(Strategy):
    """Never says anything."""

    name = "mute"

    def outbound(self, to: NodeId, message: Message) -> Sent:
        """See `Strategy`."""
        return ()

    def reply(self, client: int, message: Any) -> Any:
        """See `Strategy`."""
        return None


class HoleMaker(Strategy):
    """A primary that never proposes one height, and keeps what it knows from view changes (CE4)."""

    name = "hole_maker"

    def tick(self) -> None:
        """See `Strategy`."""
        node = self.power.node
        if node is not None and node.state.next_height == 1 and node.state.view == 0:
            node.state.next_height = 2

    def outbound(self, to: NodeId, message: Message) -> Sent:
        """See `Strategy`."""
        silent = isinstance(message, ViewChange | ReqVc | NewView | Forward)
        return () if silent else ((to, message),)

    def requests(self, requests: Sequence[Request]) -> Sequence[Request]:
        """The first ones wait until the hole is there."""
        node = self.power.node
        return requests if node is not None and node.state.next_height > 1 else ()


class LateVoter(Strategy):
    """Leaves a view, then votes in it after all (CE3, S-14)."""

    name = "late_voter"

    def inbound(self, sender: NodeId, message: Message) -> Sent:
        """See `Strategy`."""
        if isinstance(message, Prepare):
            head = message.head
            self.power.call(Depart(head.view + 1, bytes(32)))
            answer = self.power.call(Order(COMMIT, head.view, head.height, head.digest))
            if isinstance(answer, Ui):
                vote = Commit(message.cfg, self.power.number, head, answer.seq, answer.signature, None)
                self.power.post(sender, vote)
        return ((sender, message),)


class TwoNewViews(Strategy):
    """Asks its component for two different starts of one view (CE5, S-11)."""

    name = "two_new_views"

    def certify(self, request: TcRequest) -> bool:
        """See `Strategy`."""
        if isinstance(request, Install):
            self.power.call(request)
            self.power.call(Install(request.view, bytes(32)))
        return True


class ForgedVotes(Strategy):
    """Votes in the name of another host, without its component (S-2)."""

    name = "forged_votes"
    victim: NodeId = 1

    def inbound(self, sender: NodeId, message: Message) -> Sent:
        """See `Strategy`."""
        if isinstance(message, Prepare):
            forged = Commit(message.cfg, self.victim, message.head, 1, bytes(16), None)
            self.power.post(sender, forged)
        return ((sender, message),)

    def certify(self, request: TcRequest) -> bool:
        """See `Strategy`."""
        return not isinstance(request, Order)


class ForgedRequests(Strategy):
    """Hands requests to the primary that no client has signed."""

    name = "forged_requests"

    def tick(self) -> None:
        """See `Strategy`."""
        client = self.power.genesis.clients[0].client
        operation = kv.encode(kv.Put(b"forged", b"x"))
        forged = Request(client, 1, 1, operation, bytes(16))
        self.power.broadcast(Forward((forged,)))


class BodyHider(Strategy):
    """A primary that sends PREPAREs without their blocks, and no block to anybody (S-4)."""

    name = "body_hider"

    def outbound(self, to: NodeId, message: Message) -> Sent:
        """See `Strategy`."""
        if isinstance(message, Body):
            return ()
        if isinstance(message, Prepare):
            return ((to, Prepare(message.cfg, message.head, None)),)
        return ((to, message),)


class OneFriend(Strategy):
    """Works with host 2 only, and falls silent when that one has a stable block (CE9, S-18)."""

    name = "one_friend"

    def outbound(self, to: NodeId, message: Message) -> Sent:
        """See `Strategy`."""
        node = self.power.node
        done = node is None or node.state.stable_height > 0
        late = done and not (node is not None and node.state.stable_height == 1)
        return () if to != 2 or late else ((to, message),)

    def reply(self, client: int, message: Any) -> Any:
        """See `Strategy`."""
        return None


class FalseReplies(Strategy):
    """Tells clients results that no block had (S-45)."""

    name = "false_replies"

    def reply(self, client: int, message: Any) -> Any:
        """See `Strategy`."""
        if not isinstance(message, Outcome):
            return message
        receipts = [msgspec.structs.replace(receipt, result=b"x") for receipt in message.receipts]
        return Outcome(message.view, message.height, receipts)


class FalseCheckpoints(Strategy):
    """Signs checkpoints of states that nobody has reached (S-17)."""

    name = "false_checkpoints"

    def certify(self, request: TcRequest) -> bool:
        """See `Strategy`."""
        if not isinstance(request, SignCheckpoint):
            return True
        digest = bytes(32)
        answer = self.power.call(SignCheckpoint(request.height, digest))
        if isinstance(answer, Ui):
            number = self.power.configuration.number
            message = Checkpoint(
                number, self.power.number, request.height, digest, answer.seq, answer.signature
            )
            self.power.broadcast(message)
        return False


class FutureSpam(Strategy):
    """Sends what belongs to a configuration that is far away (S-8, S-20)."""

    name = "future_spam"

    def tick(self) -> None:
        """See `Strategy`."""
        cfg = self.power.configuration.number + 5
        for height in range(10):
            head = PrepareHead(0, height + 1, bytes(32), 1, bytes(16))
            self.power.broadcast(Prepare(cfg, head, None))


# --- liars about what they signed (n = 3: host 2 lies, hosts 0 and 1 do not hear each other) -----


class Conspirator(Strategy):
    """Works with host 0, gets its blocks executed there, and then leads host 1 into a new view that
    knows nothing of them."""

    name = "conspirator"
    friend: NodeId = 0
    victim: NodeId = 1

    def outbound(self, to: NodeId, message: Message) -> Sent:
        """See `Strategy`."""
        if to == self.victim and not isinstance(message, NvAck | Body | ReqVc):
            return ()
        return ((to, message),)

    def certify(self, request: TcRequest) -> bool:
        """No checkpoint becomes stable, no floor moves; the departure is of its own making."""
        if isinstance(request, AdvanceFloor | SignCheckpoint):
            return False
        node = self.power.node
        if isinstance(request, Depart) and node is not None and node.state.departing is not None:
            self._leave(node.state.departing)
            return False
        return True

    def _leave(self, honest: ViewChange) -> None:
        node = self.power.node
        if node is None:
            return
        self.prepare_departure()
        content = self.content(honest.content)
        self.post_departure(honest.to, content, (self.victim,))

    def post_departure(self, to: int, content: Departure, targets: Sequence[NodeId]) -> bool:
        """Depart with any content."""
        answer = self.power.call(Depart(to, departure_digest(content)))
        if not isinstance(answer, DepartureUi):
            return False
        message = ViewChange(self.power.configuration.number, self.power.number, to, content, answer)
        for target in targets:
            self.power.post(target, message)
        return True

    def prepare_departure(self) -> None:
        """Before the component attests its registers."""

    def content(self, honest: Departure) -> Departure:
        """Nothing was ever signed; no checkpoint is known."""
        node = self.power.node
        floor = node.state.setting.floor_certificate() if node is not None else honest.checkpoint
        return Departure(floor, honest.certified, (), honest.trigger)

    def wish(self, target: int) -> ReqVc:
        """An own REQ-VC."""
        cfg = self.power.configuration
        preimage = req_vc_preimage(self.power.chain_id, cfg, self.power.number, target)
        return ReqVc(cfg.number, self.power.number, target, self.power.sign(preimage))

    def acknowledge(self, message: NewView) -> None:
        """An NV-ACK for whatever a primary made of it."""
        cfg = self.power.configuration
        summary = summary_digest(cfg.number, message.view, base_certificate(message), message.nvc)
        preimage = ack_preimage(self.power.chain_id, cfg, self.power.number, message.view, summary)
        ack = NvAck(cfg.number, self.power.number, message.view, summary, self.power.sign(preimage))
        self.power.broadcast(ack)

    def inbound(self, sender: NodeId, message: Message) -> Sent:
        """Whatever the victim wishes is granted, once there is something to lose."""
        node = self.power.node
        if node is not None and sender == self.victim and isinstance(message, ReqVc):
            if node.state.executed < 1:
                return ()
            self.power.post(self.victim, self.wish(message.target))
        return ((sender, message),)


class FloorRaiser(Conspirator):
    """Lets its component forget its registers by a floor that no checkpoint covers (V3)."""

    name = "floor_raiser"

    def prepare_departure(self) -> None:
        """See `Conspirator`."""
        self.power.call(AdvanceFloor(self.power.genesis.parameters.window))


class StaleBase(Conspirator):
    """Reaches a certified view whose base is a stable checkpoint, and later shows that view's
    certificate with an older checkpoint (V5)."""

    name = "stale_base"

    def certify(self, request: TcRequest) -> bool:
        """Stop voting once a block is stable; the floor never moves."""
        node = self.power.node
        if isinstance(request, AdvanceFloor):
            return False
        return not (isinstance(request, Order) and node is not None and node.state.stable_height >= 1)

    def outbound(self, to: NodeId, message: Message) -> Sent:
        """See `Strategy`."""
        return () if to == self.victim and not isinstance(message, Body) else ((to, message),)

    def inbound(self, sender: NodeId, message: Message) -> Sent:
        """Everything with the victim is done by hand."""
        node = self.power.node
        if node is None or sender != self.victim:
            return ((sender, message),)
        state = node.state
        if isinstance(message, ReqVc):
            self.power.post(self.victim, self.wish(message.target))
            self._trap(message)
        elif isinstance(message, NewView):
            self.acknowledge(message)
        elif isinstance(message, FetchBody) and state is not None:
            return ((sender, message),)
        return ()

    def _trap(self, wish: ReqVc) -> None:
        node = self.power.node
        if node is None or node.state.certificate is None or node.state.certificate.base < 1:
            return
        state, certified, to = node.state, node.state.certificate, wish.target
        if to <= certified.view or state.cfg.primary(to) != self.victim:
            return
        content = Departure(state.setting.floor_certificate(), certified, (), (wish, self.wish(to)))
        self.post_departure(to, content, (self.victim,))


class Hoarder(Conspirator):
    """The primary of view 0 keeps its proposals to itself, until others have agreed on another block at
    such a height in view 1; then it shows them as its evidence for view 3 (A-53; n = 5)."""

    name = "hoarder"
    goal = 3

    def __init__(self, power: Power) -> None:
        super().__init__(power)
        self._wishes: dict[NodeId, ReqVc] = {}

    def outbound(self, to: NodeId, message: Message) -> Sent:
        """See `Strategy`."""
        return ((to, message),) if isinstance(message, Body | NvAck) else ()

    def certify(self, request: TcRequest) -> bool:
        """It stays where it is."""
        return not isinstance(request, Depart | EnterView | AdvanceFloor | SignCheckpoint)

    def inbound(self, sender: NodeId, message: Message) -> Sent:
        """Wishes above view 1 are granted; the rest of what happens does not reach the node."""
        if isinstance(message, ReqVc) and message.target > 1:
            self.power.broadcast(self.wish(message.target))
            if message.target >= self.goal:
                self._wishes[message.sender] = message
                self._depart()
        elif isinstance(message, NewView) and message.view == self.goal:
            self.acknowledge(message)
        return ((sender, message),) if isinstance(message, FetchBody | Forward | Status) else ()

    def _depart(self) -> None:
        node = self.power.node
        needed = self.power.configuration.quorums.certificate - 1
        heads = self._heads()
        if node is None or not heads or len(self._wishes) < needed:
            return
        wishes = [self._wishes[number] for number in sorted(self._wishes)][:needed]
        trigger = (self.wish(self.goal), *wishes)
        content = Departure(node.state.setting.floor_certificate(), None, heads, trigger)
        self.post_departure(self.goal, content, self.power.others)

    def _heads(self) -> tuple[PrepareHead, ...]:
        node = self.power.node
        if node is None:
            return ()
        slots = node.state.slots
        found = [slots[height].prepares.get(0) for height in sorted(slots)]
        return tuple(head for head in found if head is not None and head.signature)


class Turncoat(Strategy):
    """Behaves until its blocks are executed, and says nothing from then on."""

    name = "turncoat"

    def outbound(self, to: NodeId, message: Message) -> Sent:
        """See `Strategy`."""
        node = self.power.node
        return () if node is None or node.state.executed >= 1 else ((to, message),)
