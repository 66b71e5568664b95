"""A world that tells what happens in it: who proposed, voted, committed, left and entered.

Nothing here depends on keys: nodes are A, B, C, …, and a block is named by its
requests, such as [x,y]. What several nodes did in one stretch of time is one line.
"""

from __future__ import annotations

import re
from typing import Any

from support.world import Host, World
from tepbft.core.block import CONFIG, NORMAL, Block, Request, decode_body, null_block
from tepbft.core.configuration import decode_replace
from tepbft.core.events import Effects, Notice
from tepbft.errors import PeerFault
from tepbft.protocols.tep.messages import Body, Final, Message, NewView, NvAck, Offer, Prepare
from tepbft.storage.port import BodyRecord, CommitRecord
from tepbft.trusted.hbusig import HbUsig
from tepbft.trusted.port import PREPARE, Depart, DepartureUi, Install, Order, Refused, SignCheckpoint

MAX_NAMED_HEIGHTS = 64


def letter(node: int) -> str:
    """A, B, C, … for nodes 0, 1, 2, …"""
    return chr(ord("A") + node)


def number(name: str) -> int:
    """Inverse of `letter`; ValueError for anything else."""
    if not re.fullmatch(r"[A-Z]", name):
        raise ValueError(f"{name!r} is not a node")
    return ord(name) - ord("A")


class Story(World):
    """A world whose events are collected as (who, what)."""

    def __init__(self, n: int, **parameters: Any) -> None:
        self.told: list[tuple[str, str]] = []
        self._known: set[tuple[str, str]] = set()
        self._blocks: dict[bytes, str] = {}
        self._chosen: dict[int, bytes] = {}
        self.labels: dict[tuple[bytes, int, int, bytes], str] = {}
        self.wire: list[tuple[int, int, Message]] = []
        super().__init__(n, **parameters)
        for host in self.hosts:
            self.listen(letter(host.number), host.tc)
        for height in range(1, MAX_NAMED_HEIGHTS):
            for cfg in (0, 1):
                self._blocks[null_block(cfg, height).digest(self.chain_id)] = "NULL"

    # --- telling ------------------------------------------------------------------------------

    def tell(self, who: str, what: str) -> None:
        """Note an event; said once, however often it is repeated."""
        if (who, what) not in self._known:
            self._known.add((who, what))
            self.told.append((who, what))

    def paragraph(self) -> list[str]:
        """What was told since the last paragraph: one line for each thing, with all who did it."""
        groups: dict[str, list[str]] = {}
        for who, what in self.told:
            groups.setdefault(what, []).append(who)
        self.told.clear()
        return [f"{', '.join(sorted(who))} {what}" for what, who in groups.items()]

    def learn(self, block: Block, digest: bytes | None = None) -> str:
        """Name a block by what is in it."""
        key = digest or block.digest(self.chain_id)
        if key not in self._blocks:
            self._blocks[key] = self._describe(block)
        return self._blocks[key]

    def _describe(self, block: Block) -> str:
        try:
            if block.kind == CONFIG:
                return f"[a new component for {letter(decode_replace(block.body).node)}]"
            if block.kind == NORMAL:
                return "[" + ",".join(self._label(request) for request in decode_body(block.body)) + "]"
        except PeerFault:
            pass
        return "[nonsense]"

    def _label(self, request: Request) -> str:
        return self.labels.get((request.client, request.session, request.seq, request.op), "?")

    def name(self, digest: bytes) -> str:
        """The name of a block by its digest."""
        return self._blocks.get(digest, "[unknown]")

    # --- listening ----------------------------------------------------------------------------

    def listen(self, who: str, tc: HbUsig) -> None:
        """Tell what this component is asked to sign, whoever asks it."""
        plain = tc.call

        def call(request: Any) -> Any:
            answer = plain(request)
            self._statement(who, request, answer)
            return answer

        tc.call = call  # type: ignore[method-assign]

    def _statement(self, who: str, request: Any, answer: Any) -> None:
        match request:
            case Order():
                verb = "propose" if request.kind == PREPARE else "vote for"
                past = "proposed" if request.kind == PREPARE else "voted for"
                rest = f"{self.name(request.digest)} at height {request.height} in view {request.view}"
            case Depart():
                verb, past, rest = "leave", "left", f"for view {request.to}"
                if isinstance(answer, DepartureUi):
                    found = [f"{self.name(r.digest)} at {r.height}" for r in answer.registers]
                    rest += f", its component attesting {', '.join(found) or 'nothing'}"
            case SignCheckpoint():
                verb, past, rest = "checkpoint", "checkpointed", f"height {request.height}"
            case Install():
                verb, past, rest = "start", "", f"view {request.view} otherwise"
            case _:
                return
        if isinstance(answer, Refused):
            self.tell(who, f"wanted to {verb} {rest}; its component refused ({answer.code})")
        elif past:
            self.tell(who, f"{past} {rest}")

    def _carry_out(self, host: Host, effects: Effects) -> None:
        who = letter(host.number)
        for record in effects.persist:
            if isinstance(record, BodyRecord):
                self.learn(record.block, record.digest)
        for record in effects.persist:
            if isinstance(record, CommitRecord):
                self._chosen[record.certificate.height] = record.certificate.digest
        if host.node is not None:
            for height, slot in host.node.state.slots.items():
                certificate = slot.certificate
                if height > host.node.state.executed and certificate and certificate.digest in slot.bodies:
                    name = self.learn(slot.bodies[certificate.digest], certificate.digest)
                    self.tell(who, f"committed {name} at height {height}")
        for notice in effects.notices:
            self._notice(who, notice)
        super()._carry_out(host, effects)

    def _notice(self, who: str, notice: Notice) -> None:
        f = notice.fields
        match notice.name:
            case "executed":
                block = f"{self.name(self._chosen.get(f['height'], b''))} at height {f['height']}"
                earlier = (who, f"committed {block}") in self._known
                text = f"executed {block}" if earlier else f"committed and executed {block}"
            case "stable":
                text = f"found height {f['height']} stable"
            case "view_change_requested":
                text = f"asked for view {f['target']}: {f['cause']}"
            case "view_entered":
                text = f"entered view {f['view']}, led by {letter(f['primary'])}"
            case "state_transferred":
                text = f"took over the state at height {f['height']} from {letter(f['server'])}"
            case "configuration":
                text = f"began configuration {f['number']} above height {f['floor']}"
            case "peer_fault":
                detail = re.sub(r"node (\d+)", lambda m: letter(int(m[1])), f["detail"])
                text = f"ignored what {letter(f['sender'])} sent: {f['code']} ({detail})"
            case "diverged" | "healed":
                text = f"{notice.name} at height {f['height']}"
            case "alarm":
                text = f"raised the alarm: {f['what']} ({f['detail']})"
            case _:
                return
        self.tell(who, text)

    def post(self, sender: int, to: int, message: Message) -> None:
        """Put a message on the wire; tell of those that say more than the statements in them."""
        self.wire.append((sender, to, message))
        who = letter(sender)
        match message:
            case Prepare() if message.block is not None:
                self.learn(message.block)
            case NewView():
                blocks = ", ".join(
                    f"{self.name(digest)} at {message.base + 1 + i}" for i, digest in enumerate(message.nvc)
                )
                sources = ", ".join(letter(found.sender) for found in message.view_changes)
                self.tell(
                    who,
                    f"started view {message.view} from the departures of {sources}: above height "
                    f"{message.base}, {blocks or 'nothing'}",
                )
            case NvAck():
                self.tell(who, f"acknowledged view {message.view}")
            case Body():
                self.tell(who, f"gave {letter(to)} the block {self.learn(message.block)}")
            case Final():
                name, height = self.learn(message.block), message.certificate.height
                self.tell(who, f"served {letter(to)} the final block {name} at height {height}")
            case Offer():
                self.tell(who, f"offered {letter(to)} the state at height {message.header.height}")
            case _:
                pass
        super().post(sender, to, message)
