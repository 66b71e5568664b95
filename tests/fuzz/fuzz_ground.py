"""Worlds in which messages are fuzzed: a running cluster, in one of the situations that matter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import strategies as st

from fuzz.fuzz_shapes import members
from support.byzantine import put
from support.world import WALL_MS, World
from tepbft.core.block import Block
from tepbft.core.events import PeerMessage, Tick
from tepbft.errors import PeerFault
from tepbft.protocols.tep.messages import Body, Chunk, Final, Message, Prepare, ReqVc, codec
from tepbft.wire import encode

KINDS = members(Message)
HIGHEST = {"cfg": 2**32 - 1, "index": 2**32 - 1, "count": 2**32 - 1, "kind": 255, "sender": 63, "node": 63}
"""The largest value of a field, where it is not 2**63-1."""


class Ground:
    """A world at a height above zero, whose blocks, certificates and requests fuzzed messages may quote."""

    def __init__(self, **parameters: Any) -> None:
        self.world = World(3, window=8, **parameters)
        self.client = self.world.clients[0]
        self.seen: list[Any] = []
        self.world.filters.append(self._look)
        for number in range(5):
            self.serve(f"before{number}")
        self.world.filters.clear()

    def _look(self, sender: int, to: int, message: Any) -> bool:
        if len(self.seen) < 200:
            self.seen.append(message)
        return True

    def serve(self, key: str) -> None:
        """A request of an honest client, sent again now and then as clients do."""
        requests = [self.client.make(put(key))]
        for _ in range(60):
            self.client.send(requests)
            if self.world.run(5000, self.client.done(requests)):
                return
        raise AssertionError("no outcome")

    def heads(self) -> list[bytes]:
        return [host.node.state.head.digest() for host in self.world.alive if host.node]


def parts(message: Any, found: dict[str, list[Any]]) -> None:
    """Everything inside honest messages, by type: to be mixed into others."""
    if isinstance(message, msgspec.Struct):
        found.setdefault(type(message).__name__, []).append(message)
        for name in message.__struct_fields__:
            value = getattr(message, name)
            if isinstance(value, int | bytes):
                found.setdefault(f".{name}", []).append(value)
            parts(value, found)
    elif isinstance(message, list | tuple):
        for item in message:
            parts(item, found)


def plausible(ground: Ground) -> dict[str, list[int]]:
    """Numbers that get a message past the first checks, by the name of their field."""
    head = max(ground.world.executed())
    number = ground.world.alive[0].node.configuration.number if ground.world.alive[0].node else 0
    view = max(host.node.state.view for host in ground.world.alive if host.node)
    heights = [*range(max(0, head - 1), head + 10)]
    views = [view, view, view + 1, view + 2, max(0, view - 1)]
    return {
        "cfg": [number], "view": views, "to": views, "target": views, "lock_view": [0, *views],
        "height": heights, "base": [0, head, *heights], "floor": [0, head], "stable": heights,
        "executed": heights, "above": heights, "sender": [0, 1, 2], "node": [0, 1, 2], "kind": [0, 1, 2],
        "count": [0, 1], "ts": [0, WALL_MS], "index": [0, 1], "seq": [0, 1, 2],
    }  # fmt: skip


def fitted(chain_id: bytes, message: Any) -> Any:
    """A proposal whose digest is that of its block, so that its block is looked at."""
    block, head = getattr(message, "block", None), getattr(message, "head", None)
    if isinstance(block, Block) and head is not None:
        head = msgspec.structs.replace(head, digest=block.digest(chain_id), height=block.height)
        return msgspec.structs.replace(message, head=head)
    if isinstance(message, Final):
        certificate = msgspec.structs.replace(
            message.certificate, digest=message.block.digest(chain_id), height=message.block.height
        )
        return msgspec.structs.replace(message, certificate=certificate)
    return message


class Mixer:
    """Puts parts of honest messages, and numbers that fit the moment, into arbitrary ones."""

    def __init__(self, ground: Ground) -> None:
        self.honest: dict[str, list[Any]] = {}
        parts(ground.seen, self.honest)
        self.numbers = plausible(ground)
        self.chain_id = ground.world.chain_id

    def mix(self, data: st.DataObject, message: Any) -> Any:
        """Another message of the same type; one that is still well-typed."""
        try:
            candidate: Any = codec.decode(encode(self._change(data, message, 0)))
        except PeerFault:
            return message  # a part under the same name, with other bounds
        return fitted(self.chain_id, candidate) if data.draw(st.booleans()) else candidate

    def _change(self, data: st.DataObject, message: Any, depth: int) -> Any:
        changes: dict[str, Any] = {}
        for name in message.__struct_fields__:
            value = getattr(message, name)
            if isinstance(value, msgspec.Struct):
                same = self.honest.get(type(value).__name__)
                if same and data.draw(st.integers(0, 3)) == 0:
                    changes[name] = data.draw(st.sampled_from(same))
                elif depth < 4:
                    changes[name] = self._change(data, value, depth + 1)
            elif name in self.numbers and type(value) is int:
                if choice := data.draw(st.integers(0, 7)):
                    highest = HIGHEST.get(name, 2**63 - 1)
                    numbers = self.numbers[name] if choice > 1 else [highest, highest, highest - 1, 0]
                    changes[name] = data.draw(st.sampled_from(numbers))
            elif (same := self.honest.get(f".{name}")) and type(value) in (int, bytes):
                if data.draw(st.booleans()):
                    changes[name] = data.draw(st.sampled_from(same))
            elif isinstance(value, tuple) and value and isinstance(value[0], msgspec.Struct) and depth < 3:
                changes[name] = tuple(self._change(data, item, depth + 1) for item in value)
        return msgspec.structs.replace(message, **changes)


def moods() -> dict[str, Callable[[], Ground]]:
    """Situations that a node may be in when such a message arrives."""

    def working() -> Ground:
        return Ground()

    def changing_views() -> Ground:
        """The primary is gone, and nobody hears anybody: departures without end."""
        ground = Ground()
        ground.world.crash(0)
        ground.world.filters.append(lambda s, t, m: isinstance(m, ReqVc))
        ground.client.submit(put("waiting"), to=[1, 2])
        ground.world.run(3000)
        assert not ground.world.node(1).state.active
        return ground

    def behind() -> Ground:
        """Node 2 holds votes and certificates, but lacks a block."""
        ground = Ground()
        ground.world.filters.append(
            lambda s, t, m: t != 2 or not isinstance(m, Prepare | Body | Final | Chunk)
        )
        for number in range(3):
            ground.serve(f"missed{number}")
        assert ground.world.executed(2) == [5]
        return ground

    def reconfigured() -> Ground:
        """Configuration 1; node 2's component is new."""
        ground = Ground(min_config_gap=0)
        ground.world.crash(2)
        ground.world.lose_component(2)
        ground.world.start(2)
        ground.world.readmit(2)
        assert ground.world.run(20_000, lambda: ground.world.node(2).replica.phase() == "active")
        ground.serve("admitted")
        ground.world.run(1000)
        return ground

    def transferring() -> Ground:
        """Node 2 asked for a snapshot and waits for its chunks."""
        ground = Ground(keep_blocks=8, snapshot_interval=4)
        ground.world.crash(2)
        for number in range(20):
            ground.serve(f"old{number}")
        ground.world.filters.append(lambda s, t, m: not isinstance(m, Chunk | Final))
        ground.world.filters.append(ground._look)
        ground.world.start(2)
        assert ground.world.run(20_000, lambda: ground.world.node(2).state.transfer is not None)
        return ground

    def silent() -> Ground:
        """Node 2 lost its component and has not been readmitted."""
        ground = Ground()
        ground.world.crash(2)
        ground.world.lose_component(2)
        ground.world.start(2)
        return ground

    return {f.__name__: f for f in (working, changing_views, behind, reconfigured, transferring, silent)}


def heal(ground: Ground) -> None:
    """The network is whole again, everybody is up, and a request of everybody's is served."""
    ground.world.filters.clear()
    for host in ground.world.hosts:
        if not host.up:
            ground.world.start(host.number)
    ground.serve("afterwards")
    ground.world.check_prefixes()


def judge(ground: Ground, sender: int, to: int, message: Any) -> None:
    """One message in: no exception, the same heads on every node, and only messages that encode."""
    if ground.world.hosts[to].node is None:
        return
    before = ground.heads()
    ground.world.event(to, PeerMessage(sender, message))
    assert ground.heads() == before
    ground.world.event(to, Tick(WALL_MS + ground.world.now))
    assert ground.heads() == before
    encode(ground.world.node(to).status(ground.world.now))
    for *_, data in ground.world.queue:
        codec.decode(data)
    ground.world.queue.clear()
