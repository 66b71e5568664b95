"""What Byzantine nodes of a benchmark do (`--byzantine K:STRATEGY`).

Each strategy stays within what its host really can do: its own component signs what it signs, its own
key signs requests for views; the rest is forged, and does not verify. Everything is bounded, so that a
run measures what the others make of it, not how fast one process can write.
"""

from __future__ import annotations

from collections import deque
from random import Random
from typing import Any

import msgspec
from msgspec import Struct

from tepbft.core.block import OK, REFUSED, Block, Receipt, Request
from tepbft.core.certificates import PrepareHead
from tepbft.core.events import Busy, Effects, Reply, Send, TcAnswered
from tepbft.lab.byzantine_core import Byzantine, for_each_message
from tepbft.node.node import Node
from tepbft.protocols.tep.messages import (
    Body,
    Checkpoint,
    Commit,
    FetchFinal,
    Final,
    Forward,
    Message,
    Prepare,
    ReqVc,
    Status,
    req_vc_preimage,
)
from tepbft.trusted.port import COMMIT, PREPARE, Order, Ui
from tepbft.types import Height, Millis, NodeId, View
from tepbft.wire import Welcome

replace = msgspec.structs.replace
FORGE_EVERY = 50
"""Of an equivocating primary's heights, every such one is signed for nobody."""
KEPT_TWINS = 512
MAX_HELD = 16_384
FLOOD_PER_MS = 1
"""Messages of a flood to each other node, per millisecond."""
FLOOD_BURST = 100
FLOOD_KEPT = 64
JUNK_BYTES = 4096
SPAM_EVERY_MS = 10
SIGNED = frozenset({"signature", "ack"})
"""Fields of messages that hold signatures."""


class Silent(Byzantine):
    """Links stay up, nothing is said on them."""

    summary = "says nothing to nodes and clients, but keeps its links up"
    leads = True

    def change(self, effects: Effects) -> None:
        """See `Byzantine`."""
        effects.send, effects.replies, effects.busy = [], [], []


class WithholdCommits(Byzantine):
    """Its component is never asked for a vote, so it cannot even leak."""

    summary = "never votes for a block"

    def change(self, effects: Effects) -> None:
        """See `Byzantine`."""
        effects.certify = [r for r in effects.certify if not (isinstance(r, Order) and r.kind == COMMIT)]
        for_each_message(effects, lambda message: None if isinstance(message, Commit) else message)


class Equivocate(Byzantine):
    """At each height the component is asked for a second proposal, and declines. Half of the others get
    that one all the same, under the first one's signature; the rest gets the first one. At every
    FORGE_EVERY-th height what the rest gets is forged as well, so that nobody can vote."""

    summary = "as the primary: two proposals at a height, one for each half of the others"
    leads = True

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.refusals = 0
        self.successes = 0
        """How often the component signed both. It must not."""
        self._twins: dict[tuple[View, Height], Prepare] = {}

    def change(self, effects: Effects) -> None:
        """See `Byzantine`."""
        for request in list(effects.certify):
            if isinstance(request, Order) and request.kind == PREPARE and request not in self._asked:
                self._ask_for_twin(effects, request)
        effects.send = [new for send in effects.send for new in self._split(send)]

    def _ask_for_twin(self, effects: Effects, request: Order) -> None:
        slot = self.node.state.slots.get(request.height)
        block = slot.bodies.get(request.digest) if slot is not None else None
        if block is None:
            return
        twin = replace(block, ts=block.ts + 1)
        digest = twin.digest(self.node.chain_id)
        self.ask(effects, effects.certify.index(request) + 1, replace(request, digest=digest))
        while len(self._twins) >= KEPT_TWINS:
            del self._twins[next(iter(self._twins))]
        head = PrepareHead(request.view, request.height, digest, 0, b"")
        self._twins[request.view, request.height] = Prepare(block.cfg, head, twin)

    def answered(self, event: TcAnswered) -> None:
        """See `Byzantine`."""
        if isinstance(event.answer, Ui):
            self.successes += 1
        else:
            self.refusals += 1

    def _split(self, send: Send) -> list[Send]:
        message = send.message
        if not isinstance(message, Prepare):
            return [send]
        head = message.head
        twin = self._twins.get((head.view, head.height))
        if twin is None:
            return [send]
        half = self.others[: len(self.others) // 2]
        stolen = replace(twin, head=replace(twin.head, seq=head.seq, signature=head.signature))
        if head.height % FORGE_EVERY == 0:
            message = replace(message, head=replace(head, signature=flipped(head.signature)))
        lots = (
            (tuple(node for node in send.to if node in half), stolen),
            (tuple(node for node in send.to if node not in half), message),
        )
        return [Send(to, lot) for to, lot in lots if to]


class WithholdBodies(Byzantine):
    """Nobody votes for what nobody could execute: a primary that does this is replaced."""

    summary = "sends headers without blocks, and no blocks to those who ask"
    leads = True

    def change(self, effects: Effects) -> None:
        """See `Byzantine`."""
        for_each_message(effects, self._bodiless)

    def _bodiless(self, message: Message) -> Message | None:
        if isinstance(message, Body | Final):
            return None
        if isinstance(message, Prepare | Commit) and message.block is not None:
            return replace(message, block=None)
        return message


def flipped(signature: bytes) -> bytes:
    """A signature with one wrong bit."""
    return signature[:-1] + bytes([signature[-1] ^ 1]) if signature else signature


def corrupted(value: Any) -> Any:
    """A message with a wrong bit in every signature, those inside of certificates included."""
    if isinstance(value, Struct):
        changes = {}
        for name in value.__struct_fields__:
            old = getattr(value, name)
            new = flipped(old) if name in SIGNED and isinstance(old, bytes) else corrupted(old)
            if new is not old:
                changes[name] = new
        return replace(value, **changes) if changes else value
    if isinstance(value, tuple):
        items = tuple(corrupted(item) for item in value)
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    return value


class Corrupt(Byzantine):
    """What rests on its link alone (STATUS, bodies) arrives; nothing it signed verifies."""

    summary = "flips a bit in every signature that it sends"

    def change(self, effects: Effects) -> None:
        """See `Byzantine`."""
        for_each_message(effects, corrupted)


class Slow(Byzantine):
    """A primary that does this stays in office: each request is executed just in time."""

    summary = "delays everything that it sends by just under half of the request timeout"
    leads = True

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.delay_ms: Millis = node.options.t_request_ms * 9 // 20
        self._held: deque[tuple[Millis, list[Send], list[Reply], list[Busy]]] = deque()

    def change(self, effects: Effects) -> None:
        """See `Byzantine`."""
        if effects.send or effects.replies or effects.busy:
            self._held.append((self.now_ms + self.delay_ms, effects.send, effects.replies, effects.busy))
            effects.send, effects.replies, effects.busy = [], [], []
        while len(self._held) > MAX_HELD:
            self._release(effects)

    def tick(self, effects: Effects) -> None:
        """See `Byzantine`."""
        while self._held and self._held[0][0] <= self.now_ms:
            self._release(effects)

    def _release(self, effects: Effects) -> None:
        _, send, replies, busy = self._held.popleft()
        effects.send += send
        effects.replies += replies
        effects.busy += busy


class Flood(Byzantine):
    """Repetitions of what was good once, questions that cost an answer, and things that do not verify."""

    summary = "sends each other node a thousand old messages and pieces of garbage a second"

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self._rng = Random(node.me)
        self._seen: deque[Message] = deque(maxlen=FLOOD_KEPT)
        self._until_ms: Millis = 0

    def heard(self, sender: NodeId, message: Message) -> None:
        """See `Byzantine`."""
        self._seen.append(message)

    def change(self, effects: Effects) -> None:
        """See `Byzantine`."""
        self._seen.extend(send.message for send in effects.send)

    def tick(self, effects: Effects) -> None:
        """See `Byzantine`."""
        count = min(FLOOD_BURST, (self.now_ms - self._until_ms) * FLOOD_PER_MS)
        self._until_ms = self.now_ms
        for _ in range(count):
            repeat = self._seen and self._rng.random() < 0.5
            message = self._rng.choice(self._seen) if repeat else self._garbage()
            effects.send.append(Send(self.others, message))

    def _garbage(self) -> Message:
        rng, s = self._rng, self.node.state
        height = s.stable_height + rng.randint(1, s.window)
        junk, bad = rng.randbytes(32), rng.randbytes(70)
        client = self.node.genesis.clients[0].client
        kinds: tuple[Message, ...] = (
            Commit(s.cfg.number, s.me, PrepareHead(s.view, height, junk, 1, bad), 1, bad, None),
            Checkpoint(s.cfg.number, s.me, height, junk, 1, bad),
            Body(Block(s.cfg.number, height, 0, 0, 1, rng.randbytes(JUNK_BYTES))),
            Forward((Request(client, 1, height, junk, rng.randbytes(64)),)),
            FetchFinal(rng.randint(0, height)),
        )
        return rng.choice(kinds)


class LieToClients(Byzantine):
    """All nodes that play it tell the same lie, which is the best that they can do."""

    summary = "gives its clients wrong results, and names a wrong primary"

    def change(self, effects: Effects) -> None:
        """See `Byzantine`."""
        effects.replies = [
            replace(reply, receipts=[self._lie(receipt) for receipt in reply.receipts])
            for reply in effects.replies
        ]

    def _lie(self, receipt: Receipt) -> Receipt:
        status = REFUSED if receipt.status == OK else OK
        return replace(receipt, status=status, result=b"a lie" + receipt.result[:64])

    def welcome(self) -> Welcome:
        """See `Byzantine`. The view stands in every reply as well."""
        true = self.node.welcome()
        return replace(true, view=true.view + 1, primary=true.primary)


class SpamViewChanges(Byzantine):
    """Fewer than f+1 of them come to nothing, but every one has to be looked at."""

    summary = "asks for the next view, and the one after it, a hundred times a second"

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self._next_ms: Millis = 0
        self._target: View = 0

    def tick(self, effects: Effects) -> None:
        """See `Byzantine`."""
        if self.now_ms < self._next_ms:
            return
        self._next_ms = self.now_ms + SPAM_EVERY_MS
        s = self.node.state
        self._target = max(self._target, s.view) + 1
        preimage = req_vc_preimage(self.node.chain_id, s.cfg, s.me, self._target)
        effects.send.append(
            Send(self.others, ReqVc(s.cfg.number, s.me, self._target, s.signer.sign(preimage)))
        )


class StaleStatus(Byzantine):
    """By turns it claims to have nothing, which calls for help, and more than there is."""

    summary = "lies in every STATUS: far behind, then far ahead"

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self._told = 0

    def change(self, effects: Effects) -> None:
        """See `Byzantine`."""
        for_each_message(effects, self._lie)

    def _lie(self, message: Message) -> Message:
        if not isinstance(message, Status):
            return message
        self._told += 1
        if self._told % 2:
            want = tuple((height, bytes([height % 256]) * 32) for height in range(1, 9))
            return replace(message, stable=0, executed=0, final_above=0, want=want)
        far = message.executed + 1000
        return replace(message, stable=far, executed=far, final_above=(1 << 40) - 1, want=())


# --- the catalogue ----------------------------------------------------------------------------

BACKUP: dict[str, type[Byzantine]] = {
    "silent": Silent,
    "withhold_commits": WithholdCommits,
    "equivocate": Equivocate,
    "withhold_bodies": WithholdBodies,
    "corrupt": Corrupt,
    "slow": Slow,
    "flood": Flood,
    "lie_to_clients": LieToClients,
    "spam_view_changes": SpamViewChanges,
    "stale_status": StaleStatus,
}
"""Strategies by name."""
PRIMARY = "primary_"
DESCRIPTIONS: dict[str, str] = {
    **{name: found.summary for name, found in BACKUP.items()},
    **{f"{PRIMARY}{name}": f"{found.summary} (node 0 too)" for name, found in BACKUP.items() if found.leads},
}
"""Every name that `--byzantine K:STRATEGY` takes, with what it does."""
STRATEGIES: tuple[str, ...] = tuple(DESCRIPTIONS)


def strategy(name: str) -> type[Byzantine]:
    """The strategy called `name`, with or without `primary_`. KeyError if there is none."""
    return BACKUP[name.removeprefix(PRIMARY)]
