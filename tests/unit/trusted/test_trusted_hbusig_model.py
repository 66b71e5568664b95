"""HB-USIG against an obvious model (I-3, I-4).

The component keeps registers and forgets; the model keeps every statement ever made
and forgets nothing. What the component may say follows from that history alone.
"""

from __future__ import annotations

from hashlib import sha256

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tepbft.trusted.hbusig import HbUsig
from tepbft.trusted.keys import Secp256k1Key
from tepbft.trusted.port import (
    ATTEST,
    CHECKPOINT,
    COMMIT,
    NEW_VIEW,
    PREPARE,
    VIEW_CHANGE,
    AdvanceFloor,
    Attest,
    BeginConfig,
    Depart,
    DepartureUi,
    Done,
    EnterView,
    Install,
    Order,
    Refused,
    Register,
    SignCheckpoint,
    Ui,
    binding,
    departure_body,
    numbered_body,
    order_body,
    preimage,
)
from tepbft.trusted.sealing import SealRefused
from tepbft.types import ZERO_DIGEST

CHAIN, NODE, WINDOW = b"c" * 32, 2, 3
KEY = Secp256k1Key((424242).to_bytes(32, "big"))
views = st.integers(0, 5)
heights = st.integers(0, 8)
kinds = st.sampled_from([PREPARE, COMMIT])
digests = st.sampled_from([b"x" * 32, b"y" * 32])


def cfg_digest(cfg: int) -> bytes:
    return sha256(b"%d" % cfg).digest()


def stub(message: bytes) -> bytes:
    return sha256(message).digest()


class AgainstHistory(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.tc = HbUsig(KEY, signer=stub)
        self.tc.provision(CHAIN, NODE, 0, cfg_digest(0), 0, WINDOW)
        self.tc_id = self.tc.identity().tc_id
        self.cfg = self.view = self.floor = self.seq = 0
        self.orders: dict[tuple[int, int, int], tuple[int, bytes, Ui]] = {}  # (cfg, view, height)
        self.departures: list[tuple[int, int, bytes, DepartureUi]] = []
        self.installs: list[tuple[int, int, bytes, Ui]] = []
        self.checkpoints: list[tuple[int, int, bytes, Ui]] = []
        self.old_blobs: list[bytes] = []

    def expected(self, kind: int, body: bytes) -> Ui:
        """The UI of the next statement, with the exact bytes that must have been signed."""
        self.seq += 1
        bound = binding(CHAIN, self.cfg, cfg_digest(self.cfg), NODE, self.tc_id)
        return Ui(self.seq, stub(preimage(bound, self.seq, kind, body)))

    def lock_view(self) -> int:
        return max((view for cfg, view, _ in self.orders if cfg == self.cfg), default=0)

    @rule(kind=kinds, view=views, height=heights, digest=digests)
    def order(self, kind: int, view: int, height: int, digest: bytes) -> None:
        answer = self.tc.call(Order(kind, view, height, digest))
        place = (self.cfg, view, height)
        before = self.orders.get(place)
        if view < self.view or not self.floor < height <= self.floor + WINDOW:
            assert isinstance(answer, Refused)
        elif before is None:
            assert answer == self.expected(kind, order_body(view, height, digest))
            assert isinstance(answer, Ui)
            self.orders[place] = (kind, digest, answer)
            self.view = view
        elif before[:2] == (kind, digest):
            assert answer == before[2]
        else:
            assert isinstance(answer, Refused) and answer.code == "register"

    @rule(kind=kinds, ahead=st.integers(0, 1), offset=st.integers(0, WINDOW + 1), digest=digests)
    def order_nearby(self, kind: int, ahead: int, offset: int, digest: bytes) -> None:
        """Most random places are refused; here the interesting ones are likely."""
        self.order(kind, self.view + ahead, self.floor + offset, digest)

    @rule(kind=kinds, offset=st.integers(1, 2), digest=digests)
    def order_again(self, kind: int, offset: int, digest: bytes) -> None:
        self.order(kind, self.view, self.floor + offset, digest)

    @rule(to=views, digest=digests)
    def depart(self, to: int, digest: bytes) -> None:
        answer = self.tc.call(Depart(to, digest))
        mine = [item for item in self.departures if item[0] == self.cfg]
        if mine and mine[-1][1:3] == (to, digest):
            assert answer == mine[-1][3]
            return
        if to <= self.view:
            assert isinstance(answer, Refused) and answer.code == "view_change"
            return
        lock_view = self.lock_view()
        registers = tuple(
            Register(height, kind, signed)
            for (cfg, view, height), (kind, signed, _) in sorted(self.orders.items())
            if cfg == self.cfg and view == lock_view and height > self.floor
        )
        ui = self.expected(VIEW_CHANGE, departure_body(to, lock_view, self.floor, registers, digest))
        assert answer == DepartureUi(ui.seq, ui.signature, lock_view, self.floor, registers)
        assert isinstance(answer, DepartureUi)
        assert all(to > item[1] for item in mine)
        self.departures.append((self.cfg, to, digest, answer))
        self.view = to

    @rule(view=views, digest=digests)
    def install(self, view: int, digest: bytes) -> None:
        answer = self.tc.call(Install(view, digest))
        mine = [item for item in self.installs if item[0] == self.cfg]
        if mine and mine[-1][1:3] == (view, digest):
            assert answer == mine[-1][3]
        elif view < self.view or (mine and view <= mine[-1][1]):
            assert isinstance(answer, Refused)
        else:
            assert answer == self.expected(NEW_VIEW, numbered_body(view, digest))
            assert isinstance(answer, Ui)
            assert all(view != item[1] for item in mine)
            self.installs.append((self.cfg, view, digest, answer))
            self.view = view

    @rule(height=heights, digest=digests)
    def checkpoint(self, height: int, digest: bytes) -> None:
        answer = self.tc.call(SignCheckpoint(height, digest))
        mine = [item for item in self.checkpoints if item[0] == self.cfg]
        if mine and mine[-1][1:3] == (height, digest):
            assert answer == mine[-1][3]
        elif mine and height <= mine[-1][1]:
            assert isinstance(answer, Refused) and answer.code == "checkpoint"
        else:
            assert answer == self.expected(CHECKPOINT, numbered_body(height, digest))
            assert isinstance(answer, Ui)
            self.checkpoints.append((self.cfg, height, digest, answer))

    @rule(view=views)
    def enter_view(self, view: int) -> None:
        assert isinstance(self.tc.call(EnterView(view)), Done)
        self.view = max(self.view, view)

    @rule(digest=digests)
    def depart_next(self, digest: bytes) -> None:
        self.depart(self.view + 1, digest)

    @precondition(lambda self: self.departures)
    @rule()
    def depart_again(self) -> None:
        """The last one, even if a restart or a new configuration came between."""
        self.depart(*self.departures[-1][1:3])

    @rule()
    def begin_next_config(self) -> None:
        self.begin_config(self.cfg + 1, self.floor)

    @rule()
    def advance_floor_by_one(self) -> None:
        self.advance_floor(self.floor + 1)

    @rule(height=heights)
    def advance_floor(self, height: int) -> None:
        assert isinstance(self.tc.call(AdvanceFloor(height)), Done)
        self.floor = max(self.floor, height)

    @rule(cfg=st.integers(0, 3), floor=heights)
    def begin_config(self, cfg: int, floor: int) -> None:
        answer = self.tc.call(BeginConfig(cfg, cfg_digest(cfg), floor))
        if cfg > self.cfg:
            assert isinstance(answer, Done)
            self.cfg, self.view, self.floor = cfg, 0, floor
        else:
            assert isinstance(answer, Done) == (cfg == self.cfg and floor <= self.floor)

    @rule(digest=digests)
    def attest(self, digest: bytes) -> None:
        self.seq += 1
        bound = binding(CHAIN, 0xFFFFFFFF, ZERO_DIGEST, NODE, self.tc_id)
        assert self.tc.call(Attest(digest)) == Ui(self.seq, stub(preimage(bound, self.seq, ATTEST, digest)))

    @rule()
    def restart_warm(self) -> None:
        blob, platform = self.tc.seal(), self.tc.platform
        self.tc = HbUsig.restore(blob, platform, stub)
        self.old_blobs.append(blob)

    @rule()
    def restart_from_an_old_seal(self) -> None:
        for blob in self.old_blobs:
            try:
                HbUsig.restore(blob, self.tc.platform, stub)
            except SealRefused:
                continue
            raise AssertionError("an old seal was accepted")

    @invariant()
    def counter_without_gaps(self) -> None:
        identity = self.tc.identity()
        assert identity.seq == self.seq
        issued = [ui.seq for _, _, ui in self.orders.values()]
        issued += [item[3].seq for item in (*self.departures, *self.installs, *self.checkpoints)]
        assert len(set(issued)) == len(issued) and all(1 <= seq <= self.seq for seq in issued)
        assert (identity.cfg, identity.view, identity.floor) == (self.cfg, self.view, self.floor)


AgainstHistory.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAgainstHistory = AgainstHistory.TestCase
