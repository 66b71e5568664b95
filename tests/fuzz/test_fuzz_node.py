"""A running node and everything a peer or a client may say to it (I-25, style rule 10).

Messages are well-typed and otherwise arbitrary: wrongly signed, contradictory, out of
any range that makes sense; and such as a Byzantine host makes with its real trusted
component. The node neither raises nor changes what it executed, and serves the next
request.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.fuzz_shapes import members, values
from support import byzantine
from support.byzantine import put
from support.world import WALL_MS, World
from tepbft.core.admission import possession_digest
from tepbft.core.block import Block, Request, encode_body
from tepbft.core.certificates import CheckpointCertificate
from tepbft.core.configuration import ReplaceTc, encode_replace, replace_preimage
from tepbft.core.events import ClientRequests, ConnectionClosed, PeerMessage, Tick
from tepbft.crypto.hash import digest
from tepbft.crypto.schemes import SCHEMES
from tepbft.protocols.tep.messages import (
    Admission,
    Body,
    Chunk,
    Final,
    Forward,
    Message,
    Prepare,
    ReqVc,
    Stable,
    ViewChange,
    codec,
)
from tepbft.trusted.hbusig import HbUsig
from tepbft.trusted.port import Attest, Ui
from tepbft.types import U64, ConnectionId
from tepbft.wire import encode

T = TypeVar("T")
KINDS = members(Message)
EXAMPLES = int(os.environ.get("TEPBFT_FUZZ_EXAMPLES", "25"))
"""More for a longer hunt."""
FUZZ = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


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


def mixed(data: st.DataObject, message: Any, found: dict[str, list[Any]], depth: int = 0) -> Any:
    """`message` with some of its parts replaced by parts of honest messages."""
    changes: dict[str, Any] = {}
    for name in message.__struct_fields__:
        value = getattr(message, name)
        honest = (
            found.get(type(value).__name__) if isinstance(value, msgspec.Struct) else found.get(f".{name}")
        )
        if honest and data.draw(st.booleans()):
            changes[name] = data.draw(st.sampled_from(honest))
        elif isinstance(value, msgspec.Struct) and depth < 3:
            changes[name] = mixed(data, value, found, depth + 1)
    candidate = msgspec.structs.replace(message, **changes)
    try:
        return codec.decode(encode(candidate)) if depth == 0 else candidate
    except Exception:
        return message  # a part under the same name with other bounds


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


@pytest.mark.parametrize("mood", moods())
def test_arbitrary_messages_of_a_peer(mood: str) -> None:
    """Every type, with fields from anywhere and from honest messages."""
    ground = moods()[mood]()
    found: dict[str, list[Any]] = {}
    parts(ground.seen, found)

    @FUZZ
    @given(st.one_of([values(kind) for kind in KINDS]), st.integers(0, 2), st.integers(0, 1), st.data())
    def run(message: Any, to: int, offset: int, data: st.DataObject) -> None:
        chosen = mixed(data, message, found) if data.draw(st.booleans()) else message
        judge(ground, (to + 1 + offset) % 3, to, chosen)
        ground.world.now += 1

    run()
    heal(ground)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_type_of_message(kind: type) -> None:
    """Each type on its own, often enough that each of its fields was strange."""
    ground = Ground()
    found: dict[str, list[Any]] = {}
    parts(ground.seen, found)

    @FUZZ
    @given(values(kind), st.integers(0, 2), st.integers(0, 1), st.data())
    def run(message: Any, to: int, offset: int, data: st.DataObject) -> None:
        chosen = mixed(data, message, found) if data.draw(st.booleans()) else message
        judge(ground, (to + 1 + offset) % 3, to, chosen)

    run()
    heal(ground)


# --- clients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_arbitrary_requests_of_a_client(scheme: str) -> None:
    """Whatever a client, or a peer that forwards, calls a request; each scheme of authentication."""
    ground = Ground(scheme=scheme)
    identities = [client.id for client in ground.world.clients]

    @FUZZ
    @given(st.lists(values(Request), max_size=5), st.integers(0, 2), st.booleans(), st.data())
    def run(requests: list[Request], to: int, forwarded: bool, data: st.DataObject) -> None:
        known = [
            msgspec.structs.replace(request, client=data.draw(st.sampled_from(identities)))
            if data.draw(st.booleans())
            else request
            for request in requests
        ]
        if scheme == "none":  # everybody may speak for everybody: what is taken up is executed
            known = [r for r in known if r.client not in identities]
        before = ground.heads()
        if forwarded:
            ground.world.event(to, PeerMessage((to + 1) % 3, Forward(tuple(known))))
        else:
            ground.world.event(to, ClientRequests(ConnectionId(1), known))
        assert ground.heads() == before

    run()
    ground.world.event(0, ConnectionClosed(ConnectionId(1)))
    heal(ground)


def test_signed_nonsense_of_a_client() -> None:
    """A registered client signs numbers and operations that make no sense: each gets an outcome or none,
    and other clients are served."""

    @settings(FUZZ, max_examples=max(10, EXAMPLES // 2))
    @given(st.lists(st.tuples(values(U64), values(U64), st.binary(max_size=200)), max_size=8), st.booleans())
    def run(wanted: list[tuple[int, int, bytes]], late: bool) -> None:
        ground = Ground(seed=2)
        other = ground.world.clients[1]
        made = [other.make(op, seq=seq, session=session) for session, seq, op in wanted]
        other.send(made + made)
        for request in made:
            other.send([request], to=[1])
        ground.world.run(10)
        heal(ground)

    run()


# --- a Byzantine host with its real component -------------------------------------------------

NEAR = st.one_of(st.integers(0, 8), st.sampled_from([2**31, 2**32, 2**63 - 1]))
FEW = st.integers(0, 4)


class Attacker:
    """Host 2: what its keys and its component can make, drawn step by step."""

    def __init__(self, ground: Ground, data: st.DataObject) -> None:
        self.world, self.data, self.ground = ground.world, data, ground
        self.made: list[Any] = list(ground.seen[-30:])

    def draw(self, strategy: st.SearchStrategy[T]) -> T:
        return self.data.draw(strategy)

    def _honest(self, cls: type[T]) -> T | None:
        found = [message for message in self.made if isinstance(message, cls)]
        return self.draw(st.sampled_from(found)) if found else None

    def block(self) -> Block:
        requests = [self.world.clients[1].make(self.draw(st.binary(max_size=20)))]
        kind = self.draw(st.integers(0, 3))
        body = self.draw(st.sampled_from([encode_body(requests), b"", b"\x90", b"\xc1", self.change_body()]))
        ts = self.draw(st.sampled_from([0, WALL_MS + self.world.now, 2**63 - 1]))
        return Block(self.draw(FEW) // 3, self.height(), kind, ts, self.draw(FEW), body)

    def height(self) -> int:
        return self.draw(st.one_of(st.integers(5, 16), NEAR))

    def change(self) -> ReplaceTc:
        """Its own operator signs for any component, with or without a key of its own."""
        member = self.world.genesis.members[2]
        key = self.draw(st.sampled_from([member.tc_key, b"", self.spare.identity().key, bytes(65)]))
        node = self.draw(st.sampled_from([0, 2, 2, 63]))
        draft = ReplaceTc(node, member.tc_id, digest(key)[:16], key, 0, b"", b"")
        ui = self.spare.call(Attest(possession_digest(self.world.chain_id, draft)))
        assert isinstance(ui, Ui)
        evidence = self.world.hosts[2].operator.sign(replace_preimage(self.world.chain_id, draft))
        return ReplaceTc(node, member.tc_id, draft.new_tc_id, key, ui.seq, ui.signature, evidence)

    @cached_property
    def spare(self) -> HbUsig:
        spare = HbUsig.fresh()
        cfg = self.world.genesis.configuration()
        spare.provision(self.world.chain_id, 2, 0, cfg.digest(), cfg.floor, 8)
        return spare

    def change_body(self) -> bytes:
        return encode_replace(self.change())

    def certificate(self) -> CheckpointCertificate:
        found = self._honest(Stable)
        if found is not None and self.draw(st.booleans()):
            return found.certificate
        return byzantine.floor(self.world)

    def departure(self) -> ViewChange:
        to = self.draw(NEAR)
        heads = [m.head for m in self.made if isinstance(m, Prepare)]
        chosen = self.draw(st.lists(st.sampled_from(heads), max_size=3)) if heads else []
        certified = None
        if self.draw(st.booleans()):
            digests = self.draw(st.lists(st.binary(min_size=32, max_size=32), max_size=3))
            certified = byzantine.new_view_certificate(self.world, self.draw(NEAR), digests, hosts=[2, 2])
        wishes = [byzantine.req_vc(self.world, 2, self.draw(NEAR)) for _ in range(self.draw(FEW))]
        wishes += [m for m in self.made if isinstance(m, ReqVc)][:2]
        return byzantine.view_change(
            self.world, 2, to, base=self.certificate(), certified=certified, prepares=chosen, wishes=wishes
        )

    def make(self, kind: type) -> Any:
        """A message of this kind; AssertionError if its component refuses."""
        world, draw = self.world, self.draw
        match kind.__name__:
            case "Prepare":
                return byzantine.prepare(world, 2, draw(NEAR), self.block(), body=draw(st.booleans()))
            case "Commit":
                return byzantine.commit(world, 2, self._honest(Prepare) or self.make(Prepare))
            case "Checkpoint":
                return byzantine.checkpoint(
                    world, 2, self.height(), draw(st.binary(min_size=32, max_size=32))
                )
            case "ReqVc":
                return byzantine.req_vc(world, 2, draw(NEAR))
            case "NvAck":
                return byzantine.acknowledge(world, 2, draw(NEAR), bytes(32))
            case "ViewChange":
                return self.departure()
            case "NewView":
                changes = [m for m in self.made if isinstance(m, ViewChange)][-2:]
                return byzantine.new_view(world, 2, draw(NEAR), changes, self.certificate(), [bytes(32)])
            case "NewViewCertificate":
                return byzantine.new_view_certificate(world, draw(NEAR), [bytes(32)], hosts=[2])
            case "Admission":
                return Admission(self.change())
            case "Body":
                return Body(self.block())
            case "Forward":
                return Forward((world.clients[1].make(draw(st.binary(max_size=20))),))
            case _:
                return draw(values(kind))


def test_a_byzantine_host_with_its_real_component() -> None:
    """What a host can sign, in any order, mixed with what others said: no node raises, none forks, and the
    other two serve."""

    @FUZZ
    @given(st.data())
    def run(data: st.DataObject) -> None:
        ground = Ground(seed=3, min_config_gap=0)
        world = ground.world
        world.crash(2)
        attacker = Attacker(ground, data)
        world.filters.append(lambda s, t, m: attacker.made.append(m) is None)
        for _ in range(data.draw(st.integers(1, 25))):
            try:
                message = attacker.make(data.draw(st.sampled_from(KINDS)))
            except AssertionError:
                continue  # its component declines
            attacker.made.append(message)
            for to in data.draw(st.sampled_from([(0,), (1,), (0, 1)])):
                world.post(2, to, message)
            world.run(data.draw(st.sampled_from([0, 1, 30, 1500])))
        ground.serve("afterwards")
        world.check_prefixes()
        assert (
            len({world.node(n).state.head.digest() for n in (0, 1) if world.executed(0) == world.executed(1)})
            <= 1
        )

    run()
