"""View changes: what they must carry over, how large they may get, that they can be built at all
(I-5, I-6, I-7, I-8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tepbft.core.configuration import Configuration
from tepbft.core.verification import Verifier
from tepbft.errors import PeerFault
from tepbft.protocols.tep.evidence import Setting, check_view_change, merge
from tepbft.protocols.tep.messages import (
    Departure,
    NewView,
    NewViewCertificate,
    ReqVc,
    ViewChange,
)
from tepbft.protocols.tep.state import State
from tepbft.protocols.tep.view_change import _evidence as evidence_of
from tepbft.sim.host import SimHost
from tepbft.sim.ports import Checker
from tepbft.sim.world import World
from tepbft.storage.port import Record, ViewRecord
from tepbft.trusted.port import VIEW_CHANGE, DepartureUi, Register
from tepbft.types import NodeId

_decode_certificate = msgspec.msgpack.Decoder(NewViewCertificate)


class Containment(Checker):
    """I-7: a block with a commit quorum stands in every later certified view, or below its base; and one
    view is certified with one summary only (I-6)."""

    name = "I-7"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._certified: dict[tuple[int, int], NewViewCertificate] = {}
        self._quorums: dict[tuple[int, int], dict[int, bytes]] = {}
        world.quorum_hooks.append(self._on_quorum)

    def on_records(self, host: SimHost, records: Sequence[Record]) -> None:
        """See `Checker`."""
        for record in records:
            if isinstance(record, ViewRecord) and record.slot == "new_view_certificate":
                self._certificate(host, record)

    def _certificate(self, host: SimHost, record: ViewRecord) -> None:
        place = (record.cfg, record.view)
        found = _decode_certificate.decode(record.data)
        known = self._certified.get(place)
        if known is not None:
            if (known.base, known.nvc) != (found.base, found.nvc):
                self.world.violate("I-6", f"view {record.view} is certified with two summaries", host.number)
            return
        self._certified[place] = found
        coverage = self.world.coverage
        coverage.count("certified_views")
        coverage.count("reproposed", len(found.nvc))
        if found.top > found.base + self.world.genesis.parameters.window:
            self.world.violate("I-8", f"view {record.view} re-proposes too much", host.number)
        for (cfg, height), by_view in sorted(self._quorums.items()):
            for view, digest in sorted(by_view.items()):
                if cfg == record.cfg and view < record.view:
                    self._contains(found, height, digest, view)
                    if found.digest_at(height) is not None:
                        coverage.count("reproposed_after_quorum")

    def _contains(self, found: NewViewCertificate, height: int, digest: bytes, view: int) -> None:
        if found.base < height and found.digest_at(height) != digest:
            self.violate(
                f"view {found.view} (base {found.base}) drops height {height}, "
                f"which has a commit quorum in view {view}"
            )

    def _on_quorum(self, cfg: int, height: int, view: int, digest: bytes) -> None:
        self._quorums.setdefault((cfg, height), {})[view] = digest
        for (number, certified), found in sorted(self._certified.items()):
            if number == cfg and certified > view:
                self._contains(found, height, digest, view)


class Determinism(Checker):
    """I-6: the merge does not depend on the order of its VIEW-CHANGEs. I-8: sizes are bounded."""

    name = "I-6"

    def on_message(self, host: SimHost, message: Any, data: bytes) -> None:
        """See `Checker`."""
        if isinstance(message, ViewChange):
            if len(data) > self._bound():
                self.world.violate("I-8", f"a VIEW-CHANGE of {len(data)} bytes", host.number)
        elif isinstance(message, NewView) and host.node is not None:
            if len(data) > (self.world.quorums.certificate + 1) * self._bound():
                self.world.violate("I-8", f"a NEW-VIEW of {len(data)} bytes", host.number)
            self._merge(host, message, host.node.state.setting)

    def _bound(self) -> int:
        """A VIEW-CHANGE: two quorum certificates, one summary, BL PREPAREs and registers, f+1 wishes."""
        n, window = self.world.n, self.world.genesis.parameters.window
        return 1024 + 512 * n + 320 * window

    def _merge(self, host: SimHost, message: NewView, setting: Setting) -> None:
        if message.cfg != setting.cfg.number:
            return
        try:
            checked = [(vc, check_view_change(setting, vc, message.view)) for vc in message.view_changes]
            forward = merge(setting, checked)
            backward = merge(setting, checked[::-1])
        except PeerFault as fault:
            self.violate(f"a correct primary sends an invalid NEW-VIEW: {fault}", host.number)
            return
        if (forward[0].height, forward[1]) != (backward[0].height, backward[1]):
            self.violate(f"the merge for view {message.view} depends on order", host.number)
        if (forward[0].height, forward[1]) != (message.base, message.nvc):
            self.violate(f"NEW-VIEW {message.view} is not the merge of its VIEW-CHANGEs", host.number)


class _Lenient:
    """Takes the departure that is only imagined here, and its trigger, for signed."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier

    def ui(
        self, cfg: Configuration, node: NodeId, seq: int, statement: int, body: bytes, signature: bytes
    ) -> bool:
        """See `Verifier`."""
        if statement == VIEW_CHANGE:
            return True
        return self._verifier.ui(cfg, node, seq, statement, body, signature)

    def signed(self, cfg: Configuration, node: NodeId, message: bytes, signature: bytes) -> bool:
        """See `Verifier`."""
        return message.startswith(b"TEP1/RVC") or self._verifier.signed(cfg, node, message, signature)

    def attested(
        self, key: bytes, tc_id: bytes, node: NodeId, seq: int, digest: bytes, signature: bytes
    ) -> bool:
        """See `Verifier`."""
        return self._verifier.attested(key, tc_id, node, seq, digest, signature)


class Constructibility(Checker):
    """I-5: a correct replica that was never wiped can leave its view at any time: the VIEW-CHANGE that
    it would build, with what its component would attest, is one that everybody accepts."""

    name = "I-5"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._verifier = _Lenient(world.keys.verifier)

    def on_interval(self) -> None:
        """See `Checker`."""
        for host in self.world.correct():
            self._examine(host)

    def on_start(self, host: SimHost) -> None:
        """Right after a recovery is the moment at which evidence could be missing."""
        self.world.at(self.world.now + 1, self._examine, host)

    def _examine(self, host: SimHost) -> None:
        node = host.node
        if node is None or host.wiped or host.stalled or not host.quiet:
            return
        state = node.state
        component = host.component
        ready = state.voter and state.diverged_at < 0 and not state.outstanding and state.departing is None
        if not ready or component.cfg != state.cfg.number:
            return
        self.world.coverage["departures_checked"] += 1
        message = self._imagine(state, host)
        cfg = state.cfg
        setting = Setting(state.chain_id, cfg, state.setting.floor_digest, state.window, self._verifier)
        try:
            check_view_change(setting, message, message.to)
        except PeerFault as fault:
            self.violate(f"could not leave view {state.view}: {fault.detail}", host.number)

    def _imagine(self, state: State, host: SimHost) -> ViewChange:
        device = host.component.device
        identity = device.identity()
        to = max(state.view, identity.view) + 1
        quorum = state.quorums.certificate
        trigger = tuple(ReqVc(state.cfg.number, node, to, b"") for node in range(quorum))
        content = Departure(state.stable_certificate, state.certificate, evidence_of(state), trigger)
        registers = tuple(
            Register(height, slot.kind, slot.digest) for height, slot in sorted(device._registers.items())
        )
        ui = DepartureUi(identity.seq + 1, b"", identity.lock_view, identity.floor, registers)
        return ViewChange(state.cfg.number, state.me, to, content, ui)


VIEW_CHANGES: tuple[type[Checker], ...] = (Containment, Determinism, Constructibility)
