"""Byzantine nodes for measurements: a real node whose effects are changed before they are carried out.

Everything else of such a node is real: its keys, its links, its store, its trusted component. A strategy
stands between node and shell (`runtime.core.NodeCore`), sees every event and owns what comes of it; what
it says with a signature of its component, the component has signed. Like the node it is sans-IO: what it
holds back it releases on a later step. `lab.byzantine_node` runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from tepbft.core.block import Receipt
from tepbft.core.configuration import Configuration
from tepbft.core.events import Effects, Event, PeerMessage, Send, TcAnswered, Tick
from tepbft.node.node import Node
from tepbft.node.status import NodeStatus
from tepbft.protocols.tep.messages import Message
from tepbft.trusted.port import TcRequest
from tepbft.types import Height, Millis, NodeId
from tepbft.wire import Welcome


class Byzantine:
    """A node core that changes the effects of the one within. As it stands, it changes nothing."""

    summary: ClassVar[str] = ""
    """What it does, in a line."""
    leads: ClassVar[bool] = False
    """True if it is worth playing by the primary: `primary_` in front of its name then makes node 0 one."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.now_ms: Millis = 0
        self._asked: set[TcRequest] = set()
        """What the strategy itself asked of its component: the node within hears nothing of it."""

    # --- what a strategy overrides --------------------------------------------------------------

    def heard(self, sender: NodeId, message: Message) -> None:
        """A message came in; the node within sees it after this."""

    def answered(self, event: TcAnswered) -> None:
        """The component answered what the strategy had asked."""

    def change(self, effects: Effects) -> None:
        """Change what a step wants done, in place."""

    def tick(self, effects: Effects) -> None:
        """Time has passed: add what is said unasked. Comes after `change`."""

    # --- helpers --------------------------------------------------------------------------------

    @property
    def others(self) -> tuple[NodeId, ...]:
        """The other nodes."""
        return self.node.state.others

    def ask(self, effects: Effects, index: int, request: TcRequest) -> None:
        """Ask the component for something, at a place among what the node asks."""
        self._asked.add(request)
        effects.certify.insert(index, request)

    def _change(self, effects: Effects) -> None:
        effects.send[:0], effects.announce = effects.announce, []  # a liar is in no hurry
        self.change(effects)

    # --- NodeCore -------------------------------------------------------------------------------

    @property
    def configuration(self) -> Configuration:
        """The current member table."""
        return self.node.configuration

    def start(self, now_ms: Millis, wall_ms: Millis) -> Effects:
        """Recover from the store. Called once."""
        self.now_ms = now_ms
        effects = self.node.start(now_ms, wall_ms)
        self._change(effects)
        return effects

    def step(self, event: Event, now_ms: Millis) -> Effects:
        """Take one event."""
        self.now_ms = now_ms
        if isinstance(event, TcAnswered) and event.request in self._asked:
            self._asked.discard(event.request)
            self.answered(event)
            return Effects()
        if isinstance(event, PeerMessage):
            self.heard(event.sender, event.message)
        effects = self.node.step(event, now_ms)
        self._change(effects)
        if isinstance(event, Tick):
            self.tick(effects)
        return effects

    def status(self, now_ms: Millis) -> NodeStatus:
        """Where the node within stands."""
        return self.node.status(now_ms)

    def undecided(self) -> bool:
        """Whether votes matter to the node within."""
        return self.node.undecided()

    def wake_at_ms(self) -> int | None:
        """When the node within wants a tick."""
        return self.node.wake_at_ms()

    def welcome(self) -> Welcome:
        """First message to a client."""
        return self.node.welcome()

    def find_outcome(self, client: bytes, session: int, seq: int) -> tuple[Height, Receipt] | None:
        """The kept reply to a request, with its height."""
        return self.node.find_outcome(client, session, seq)


def for_each_message(effects: Effects, changed: Callable[[Message], Message | None]) -> None:
    """Put `changed(message)` in the place of every message; None: it is not sent."""
    sends = []
    for send in effects.send:
        message = changed(send.message)
        if message is not None:
            sends.append(send if message is send.message else Send(send.to, message))
    effects.send = sends
