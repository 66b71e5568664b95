"""A running node and everything a peer or a client may say to it (I-25, style rule 10).

Messages are well-typed and otherwise arbitrary: wrongly signed, contradictory, out of
any range that makes sense; and such as a Byzantine host makes with its real trusted
component. The node neither raises nor changes what it executed, and serves the next
request.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
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
from tepbft.core.certificates import CheckpointCertificate, Vote
from tepbft.core.configuration import ReplaceTc, encode_replace, replace_preimage
from tepbft.core.events import ClientRequests, ConnectionClosed, PeerMessage, Tick
from tepbft.crypto.hash import digest
from tepbft.crypto.schemes import SCHEMES
from tepbft.errors import PeerFault
from tepbft.protocols.tep.evidence import check_view_change, merge
from tepbft.protocols.tep.messages import (
    Admission,
    Body,
    Checkpoint,
    Chunk,
    Final,
    Forward,
    Message,
    NewView,
    NvAck,
    Prepare,
    ReqVc,
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
        candidate = self._change(data, message, 0)
        if data.draw(st.booleans()):
            candidate = fitted(self.chain_id, candidate)
        try:
            return codec.decode(encode(candidate))
        except PeerFault:
            return message  # a part under the same name, with other bounds

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
                if data.draw(st.integers(0, 15)):
                    changes[name] = data.draw(st.sampled_from(self.numbers[name]))
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


@pytest.mark.parametrize("mood", moods())
def test_arbitrary_messages_of_a_peer(mood: str) -> None:
    """Every type, with fields from anywhere and from honest messages."""
    ground = moods()[mood]()
    mixer = Mixer(ground)

    @FUZZ
    @given(st.one_of([values(kind) for kind in KINDS]), st.integers(0, 2), st.integers(0, 1), st.data())
    def run(message: Any, to: int, offset: int, data: st.DataObject) -> None:
        chosen = mixer.mix(data, message) if data.draw(st.integers(0, 4)) else message
        judge(ground, (to + 1 + offset) % 3, to, chosen)
        ground.world.now += 1

    run()
    heal(ground)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_type_of_message(kind: type) -> None:
    """Each type on its own, often enough that each of its fields was strange."""
    ground = Ground()
    mixer = Mixer(ground)

    @FUZZ
    @given(values(kind), st.integers(0, 2), st.integers(0, 1), st.data())
    def run(message: Any, to: int, offset: int, data: st.DataObject) -> None:
        chosen = mixer.mix(data, message) if data.draw(st.integers(0, 4)) else message
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

NEAR = st.sampled_from([*[0, 1, 2] * 5, 3, 3, 4, 5, 2**31, 2**63 - 1])
"""Views: mostly such as matter, since a component never goes back."""
FEW = st.integers(0, 4)
SOME_BYTES = st.binary(max_size=20)
DIGESTS = st.one_of(st.just(bytes(32)), st.binary(min_size=32, max_size=32))


class Attacker:
    """One host: what its keys and its component can make, drawn step by step."""

    def __init__(self, ground: Ground, me: int, data: st.DataObject) -> None:
        self.world, self.me, self.data = ground.world, me, data
        self.made: list[Any] = list(ground.seen[-30:])

    def draw(self, strategy: st.SearchStrategy[T]) -> T:
        """The next choice."""
        return self.data.draw(strategy)

    def honest(self, cls: type[T]) -> T | None:
        """A message of this type that it has seen or made."""
        found = [message for message in self.made if isinstance(message, cls)]
        return self.draw(st.sampled_from(found[-12:])) if found else None

    def height(self) -> int:
        """Mostly in the window."""
        return self.draw(st.one_of(st.integers(5, 9), st.integers(6, 16), NEAR))

    def block(self) -> Block:
        """Mostly one that could be voted for."""
        requests = [self.world.clients[1].make(self.draw(SOME_BYTES))]
        body, height = encode_body(requests), self.draw(st.integers(6, 9))
        if self.draw(st.booleans()):
            return Block(0, height, 0, WALL_MS + self.world.now, 1, body)
        if self.draw(st.booleans()):
            return Block(0, height, 2, WALL_MS, 0, encode_replace(self.change()))
        body = self.draw(st.sampled_from([body, b"", b"\x90", b"\xc1"]))
        ts = self.draw(st.sampled_from([0, WALL_MS + self.world.now, 2**63 - 1]))
        return Block(
            self.draw(FEW) // 4, self.height(), self.draw(st.integers(0, 3)), ts, self.draw(FEW), body
        )

    @cached_property
    def spare(self) -> HbUsig:
        """A second component, which its operator would like to see admitted."""
        spare = HbUsig.fresh()
        cfg = self.world.genesis.configuration()
        spare.provision(self.world.chain_id, self.me, 0, cfg.digest(), cfg.floor, 8)
        return spare

    def change(self) -> ReplaceTc:
        """Its own operator signs for a component, mostly one that exists."""
        member, chain_id = self.world.genesis.members[self.me], self.world.chain_id
        spare = self.spare.identity().key
        key = self.draw(st.sampled_from([spare, spare, member.tc_key, b"", bytes(65)]))
        node = self.draw(st.sampled_from([self.me] * 4 + [0, 2, 63]))
        draft = ReplaceTc(node, member.tc_id, digest(key)[:16], key, 0, b"", b"")
        ui = self.spare.call(Attest(possession_digest(chain_id, draft)))
        assert isinstance(ui, Ui)
        evidence = self.world.hosts[self.me].operator.sign(replace_preimage(chain_id, draft))
        return ReplaceTc(node, member.tc_id, draft.new_tc_id, key, ui.seq, ui.signature, evidence)

    def certificate(self) -> CheckpointCertificate:
        """A checkpoint that is one: the floor, or what others certified."""
        found = self.honest(Checkpoint)
        if found is not None and self.draw(st.booleans()):
            votes = {m.sender: m for m in self.made if isinstance(m, Checkpoint) and m.digest == found.digest}
            signed = tuple(Vote(node, votes[node].seq, votes[node].signature) for node in sorted(votes))
            return CheckpointCertificate(0, found.height, found.digest, signed)
        return byzantine.floor(self.world)

    def departure(self) -> ViewChange:
        """Leaves with evidence as it likes."""
        heads = [m.head for m in self.made if isinstance(m, Prepare)]
        chosen = self.draw(st.lists(st.sampled_from(heads), max_size=3)) if heads else []
        certified = None
        if self.draw(FEW) == 0:
            digests = self.draw(st.lists(DIGESTS, max_size=3))
            hosts = [self.me] * self.draw(FEW)
            certified = byzantine.new_view_certificate(self.world, self.draw(NEAR), digests, hosts=hosts)
        to = self.draw(NEAR)
        wishes = {m.sender: m for m in self.made if isinstance(m, ReqVc)}
        wishes[self.me] = byzantine.req_vc(self.world, self.me, self.draw(st.sampled_from([to, to, 1])))
        trigger = [wishes[node] for node in sorted(wishes)][: self.draw(st.sampled_from([2, 2, 2, 3]))]
        return byzantine.view_change(
            self.world, self.me, to,
            base=self.certificate(), certified=certified, prepares=chosen, wishes=trigger,
        )  # fmt: skip

    def new_view(self) -> NewView:
        """A summary that follows from what it encloses, or one that does not."""
        view = self.draw(NEAR)
        changes = {m.sender: m for m in self.made if isinstance(m, ViewChange) and m.to == view}
        enclosed = [changes[node] for node in sorted(changes)][:2]
        base, digests = self.certificate(), self.draw(st.lists(DIGESTS, max_size=2))
        if enclosed and self.draw(st.booleans()):
            setting = self.world.node(1).state.setting
            with suppress(PeerFault):
                base, nvc = merge(setting, [(m, check_view_change(setting, m, view)) for m in enclosed])
                digests = list(nvc)
        return byzantine.new_view(self.world, self.me, view, enclosed, base, digests)

    def make(self, kind: type) -> Any:
        """A message of this kind; AssertionError if its component refuses."""
        world, me, draw = self.world, self.me, self.draw
        match kind.__name__:
            case "Prepare":
                view = draw(st.sampled_from([me, me, me, me + 3, 2**63 - 1]))
                return byzantine.prepare(world, me, view, self.block(), body=draw(FEW) > 0)
            case "Commit":
                return byzantine.commit(world, me, self.honest(Prepare) or self.make(Prepare))
            case "Checkpoint":
                return byzantine.checkpoint(world, me, self.height(), draw(DIGESTS))
            case "ReqVc":
                return byzantine.req_vc(world, me, draw(NEAR))
            case "NvAck":
                found = self.honest(NvAck)
                if found is not None and draw(st.booleans()):
                    return byzantine.acknowledge(world, me, found.view, found.digest)
                return byzantine.acknowledge(world, me, draw(NEAR), bytes(32))
            case "ViewChange":
                return self.departure()
            case "NewView":
                return self.new_view()
            case "NewViewCertificate":
                return byzantine.new_view_certificate(world, draw(NEAR), [bytes(32)], hosts=[me])
            case "Admission":
                return Admission(self.change())
            case "Body":
                return Body(self.block())
            case "Forward":
                return Forward((world.clients[1].make(draw(SOME_BYTES)),))
            case _:
                return self.honest(kind) or draw(values(kind))


def test_a_byzantine_host_with_its_real_component() -> None:
    """What a host can sign, in any order, mixed with what others said: no node raises, none forks, and the
    other two serve."""

    @FUZZ
    @given(st.sampled_from([0, 2]), st.data())
    def run(me: int, data: st.DataObject) -> None:
        ground = Ground(seed=3, min_config_gap=0)
        world, others = ground.world, [node for node in range(3) if node != me]
        world.crash(me)
        attacker = Attacker(ground, me, data)
        world.filters.append(lambda s, t, m: attacker.made.append(m) is None)
        for _ in range(data.draw(st.integers(1, 25))):
            with suppress(AssertionError):  # its component declines
                message = attacker.make(data.draw(st.sampled_from(KINDS)))
                attacker.made.append(message)
                for to in data.draw(st.sampled_from([others, others, others[:1], others[1:]])):
                    world.post(me, to, message)
            if data.draw(FEW) == 0:
                ground.client.submit(put("meanwhile"), to=others)
            world.run(data.draw(st.sampled_from([0, 1, 30, 1500])))
        ground.serve("afterwards")
        world.check_prefixes()

    run()
