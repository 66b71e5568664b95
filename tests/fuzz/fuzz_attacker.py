"""A Byzantine host: its real component and its real keys, used as hypothesis likes."""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from typing import Any, TypeVar

from hypothesis import strategies as st

from fuzz.fuzz_ground import Ground
from fuzz.fuzz_shapes import values
from support import byzantine
from support.world import WALL_MS
from tepbft.core.admission import possession_digest
from tepbft.core.block import Block, encode_body
from tepbft.core.certificates import CheckpointCertificate, Vote
from tepbft.core.configuration import ReplaceTc, encode_replace, replace_preimage
from tepbft.crypto.hash import digest
from tepbft.errors import PeerFault
from tepbft.protocols.tep.evidence import check_view_change, merge
from tepbft.protocols.tep.messages import (
    Admission,
    Body,
    Checkpoint,
    Forward,
    NewView,
    NvAck,
    Prepare,
    ReqVc,
    ViewChange,
)
from tepbft.trusted.hbusig import HbUsig
from tepbft.trusted.port import Attest, Ui

T = TypeVar("T")
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
