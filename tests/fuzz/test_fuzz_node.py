"""A running node and everything a peer, a client or its component may say to it (I-25, style rule 10).

Messages are well-typed and otherwise arbitrary: wrongly signed, contradictory, out of
any range that makes sense; and such as a Byzantine host makes with its real trusted
component. The node neither raises nor changes what it executed, and serves the next
request.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fuzz.fuzz_attacker import FEW, Attacker
from fuzz.fuzz_ground import KINDS, Ground, Mixer, heal, judge, moods
from fuzz.fuzz_shapes import values
from support import byzantine
from support.byzantine import put
from support.world import World
from tepbft.core.block import Request
from tepbft.core.events import ClientRequests, ConnectionClosed, PeerMessage, TcAnswered
from tepbft.crypto.schemes import SCHEMES
from tepbft.errors import TepbftError
from tepbft.protocols.tep import view_change
from tepbft.protocols.tep.messages import Commit, Forward, ReqVc
from tepbft.storage.port import ConfigRecord, Record, ViewRecord
from tepbft.trusted.hbusig import HbUsig
from tepbft.trusted.port import TcAnswer, TcRequest
from tepbft.types import U64, ConnectionId

EXAMPLES = int(os.environ.get("TEPBFT_FUZZ_EXAMPLES", "40"))
"""More for a longer hunt."""
FUZZ = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


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


def hunt(kind: type, how: settings) -> None:
    """Messages of one type into every node of a cluster, which then serves a request."""
    ground = Ground()
    mixer = Mixer(ground)

    @how
    @given(values(kind), st.integers(0, 2), st.integers(0, 1), st.data())
    def run(message: Any, to: int, offset: int, data: st.DataObject) -> None:
        chosen = mixer.mix(data, message) if data.draw(st.integers(0, 4)) else message
        judge(ground, (to + 1 + offset) % 3, to, chosen)

    run()
    heal(ground)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_type_of_message(kind: type) -> None:
    """Each type on its own, often enough that each of its fields was strange."""
    hunt(kind, FUZZ)


# --- the trusted component --------------------------------------------------------------------


def test_arbitrary_answers_of_the_component() -> None:
    """A component (or the process that holds it) that answers what nobody asked, or something else: its own
    node stops nothing but itself."""
    ground = Ground()

    @FUZZ
    @given(values(TcRequest), values(TcAnswer))
    def run(request: object, answer: object) -> None:
        before = ground.heads()
        ground.world.event(2, TcAnswered(request, answer))  # type: ignore[arg-type]
        assert ground.heads() == before

    run()
    heal(ground)


# --- the disk ---------------------------------------------------------------------------------


def test_arbitrary_records_in_the_journal() -> None:
    """Well-typed records that contradict everything: the node starts or says why not; the others serve."""

    @settings(FUZZ, max_examples=max(10, EXAMPLES // 4))
    @given(st.lists(values(Record), min_size=1, max_size=4))
    def run(records: list[Any]) -> None:
        ground = Ground()
        world = ground.world
        world.crash(1)
        fit = [record for record in records if not isinstance(record, ConfigRecord | ViewRecord)]
        world.hosts[1].store.append(fit)
        with suppress(TepbftError):
            world.start(1)
        ground.serve("afterwards")

    run()


@pytest.mark.parametrize("slot", ["new_view_certificate", "view_change"])
@pytest.mark.parametrize("data", [b"", b"junk", b"\x91" * 5000])
def test_an_unreadable_promise_stops_the_node_with_a_reason(slot: str, data: bytes) -> None:
    """What it signed stands there and cannot be read: it must not go on as if there were nothing."""
    world = World(3)
    world.crash(1)
    world.hosts[1].store.append([ViewRecord(slot, 0, 5, data)])
    with pytest.raises(TepbftError, match=slot):
        world.start(1)


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


def test_a_broken_component_does_not_stop_the_others() -> None:
    """Beyond the assumptions: A's component was copied and signs two proposals for one height. The new
    primary cannot merge the departures that show it; it says so, and does not crash."""
    world = World(5)
    world.crash(0)
    world.crash(4)
    world.filters.append(lambda s, t, m: not isinstance(m, Commit))
    real, twin = world.hosts[0].tc, HbUsig.import_state(world.hosts[0].tc.export_state())
    for to, component in ((1, real), (2, twin)):
        world.hosts[0].tc = component
        block = byzantine.block_of(world, 1, world.clients[0].make(put(f"for{to}")))
        world.post(0, to, byzantine.prepare(world, 0, 0, block))
    world.clients[1].submit(put("waiting"), to=[1, 2, 3])
    world.run(10_000)
    assert any("broken" in str(fields["what"]) for node in (1, 2) for fields in world.noticed(node, "alarm"))


def test_the_hunt_finds_a_planted_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """The canary: a number that no field of eight bytes holds, packed without a look."""
    plain = view_change.check_req_vc

    def careless(setting: Any, request: Any) -> bool:
        struct.pack("<q", request.target + 1)
        return plain(setting, request)

    monkeypatch.setattr(view_change, "check_req_vc", careless)
    with pytest.raises(struct.error):
        for _ in range(20):
            hunt(ReqVc, settings(FUZZ, phases=[Phase.generate], database=None))
