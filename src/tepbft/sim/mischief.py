"""Plain misbehaviour for Byzantine hosts: what a run uses when it is given no strategies.

None of these burns its own component early; a liar that excludes itself is useless (D4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tepbft.sim.ports import Power, Strategy
from tepbft.types import NodeId

if TYPE_CHECKING:
    from tepbft.protocols.tep.messages import Message


class Silent(Strategy):
    """Says nothing at all, or nothing to some."""

    name = "silent"

    def __init__(self, power: Power) -> None:
        super().__init__(power)
        others = power.others
        self._deaf = others if power.rng.random() < 0.3 else power.rng.sample(others, 1)

    def outbound(self, to: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """See `Strategy`."""
        return () if to in self._deaf else ((to, message),)


class Selective(Strategy):
    """Keeps kinds of messages from some peers, and lets a few through."""

    name = "selective"

    def __init__(self, power: Power) -> None:
        super().__init__(power)
        self._odds: dict[tuple[NodeId, str], float] = {}

    def outbound(self, to: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """See `Strategy`."""
        rng = self.power.rng
        key = (to, type(message).__name__)
        odds = self._odds.setdefault(key, rng.choice((0.0, 0.0, 0.5, 0.9, 1.0)))
        return () if rng.random() < odds else ((to, message),)


class Replayer(Strategy):
    """Repeats old valid messages, its own and those of others, to anybody (S-20)."""

    name = "replayer"

    def __init__(self, power: Power) -> None:
        super().__init__(power)
        self._seen: list[Message] = []

    def _remember(self, message: Message) -> None:
        if len(self._seen) < 200:
            self._seen.append(message)
        else:
            self._seen[self.power.rng.randrange(200)] = message

    def inbound(self, sender: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """See `Strategy`."""
        self._remember(message)
        return ((sender, message),)

    def outbound(self, to: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """See `Strategy`."""
        self._remember(message)
        return () if self.power.rng.random() < 0.2 else ((to, message),)

    def tick(self) -> None:
        """See `Strategy`."""
        rng = self.power.rng
        if self._seen and rng.random() < 0.5:
            self.power.post(rng.choice(self.power.others), rng.choice(self._seen))


MISCHIEF: tuple[type[Strategy], ...] = (Silent, Selective, Replayer)
