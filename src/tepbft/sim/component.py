"""A host's trusted component in the world: the production code, with every statement recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tepbft.core.configuration import Configuration
from tepbft.sim.crypto import Keys, component_key, derive
from tepbft.trusted.hbusig import HbUsig
from tepbft.trusted.port import (
    ATTEST,
    CHECKPOINT,
    NEW_VIEW,
    VIEW_CHANGE,
    AdvanceFloor,
    Attest,
    BeginConfig,
    Depart,
    DepartureUi,
    Done,
    EnterView,
    Identity,
    Install,
    Order,
    Refused,
    SignCheckpoint,
    TcAnswer,
    TcRequest,
    Ui,
)
from tepbft.trusted.sealing import MemoryPlatform, SealRefused
from tepbft.types import NodeId


class Statement(NamedTuple):
    """Something a trusted component signed, delivered or not."""

    node: NodeId
    tc_id: bytes
    cfg: int
    cfg_digest: bytes
    seq: int
    kind: int
    """A kind of `trusted.port`."""
    view: int
    """View of ORDER and NEW_VIEW, target of VIEW_CHANGE; 0 otherwise."""
    height: int
    """Height of ORDER and CHECKPOINT; 0 otherwise."""
    digest: bytes
    departure: DepartureUi | None
    signature: bytes


Recorder = Callable[[Statement], None]


class Component:
    """One host's component over all its lives: `generation` counts cold starts."""

    def __init__(
        self,
        node: NodeId,
        seed: int,
        keys: Keys,
        record: Recorder,
        *,
        chain_id: bytes = b"",
        window: int = 0,
    ) -> None:
        self.node, self.generation = node, 0
        self.old_blobs: list[bytes] = []
        """Sealed states of earlier lives: no platform may accept them again."""
        self._seed, self._keys, self._record = seed, keys, record
        self._chain_id, self._window = chain_id, window
        self.platform = MemoryPlatform(derive(seed, "platform", node))
        self._seen = 0
        self.cfg, self.cfg_digest, self.floor = 0, b"", 0
        self.device = self._fresh()

    def _fresh(self) -> HbUsig:
        key = component_key(self._seed, self.node, self.generation)
        plain = HbUsig(key, platform=self.platform)
        self.tc_id = plain.identity().tc_id
        signer = self._keys.component_signer(self.tc_id)
        return plain if signer is None else HbUsig(key, signer=signer, platform=self.platform)

    def provision(self, chain_id: bytes, cfg: Configuration, window: int) -> None:
        """Bind to the chain, as a node does when it starts."""
        self._chain_id, self._window = chain_id, window
        unbound = not self.device.identity().chain_id
        self.device.provision(chain_id, self.node, cfg.number, cfg.digest(), cfg.floor, window)
        if unbound:
            self.cfg, self.cfg_digest, self.floor = cfg.number, cfg.digest(), cfg.floor

    def identity(self) -> Identity:
        """Who it is and where its registers stand."""
        return self.device.identity()

    def restart_cold(self) -> None:
        """The process died: new key, empty registers (A8.2)."""
        self.generation += 1
        self._seen = 0
        self.device = self._fresh()
        self.cfg, self.cfg_digest, self.floor = 0, b"", 0

    def restart_warm(self) -> list[str]:
        """Seal, restore, and let an attacker try what must be refused (A8.1, S-34).

        Returns what the platform accepted and should not have: empty if all is well.
        """
        blob = self.device.seal()
        self.device = self._restore(blob)
        wrong = []
        for name, bad in [("the same blob twice", blob), *(("an old blob", b) for b in self.old_blobs[-2:])]:
            if self._accepts(bad, self.platform):
                wrong.append(name)
        if self._accepts(blob, MemoryPlatform(derive(self._seed, "other platform", self.node))):
            wrong.append("a clone on another machine")
        self.old_blobs.append(blob)
        return wrong

    def _restore(self, blob: bytes) -> HbUsig:
        return HbUsig.restore(blob, self.platform, self._keys.component_signer(self.tc_id))

    def _accepts(self, blob: bytes, platform: MemoryPlatform) -> bool:
        try:
            HbUsig.restore(blob, platform)
        except SealRefused:
            return False
        return True

    def call(self, request: TcRequest) -> TcAnswer:
        """Carry out one request and record what was signed."""
        answer = self.device.call(request)
        if isinstance(answer, Done):
            if isinstance(request, BeginConfig):
                self.cfg, self.cfg_digest = request.cfg, request.digest
                self.floor = max(self.floor, request.floor)
            elif isinstance(request, AdvanceFloor):
                self.floor = max(self.floor, request.height)
        elif not isinstance(answer, Refused) and answer.seq > self._seen:
            self._seen = answer.seq
            self._record(self._statement(request, answer))
        return answer

    def _statement(self, request: TcRequest, answer: Ui | DepartureUi) -> Statement:
        cfg, cfg_digest = self.cfg, self.cfg_digest
        view = height = 0
        departure: DepartureUi | None = None
        match request:
            case Order():
                kind, view, height, digest = request.kind, request.view, request.height, request.digest
            case SignCheckpoint():
                kind, height, digest = CHECKPOINT, request.height, request.digest
            case Depart():
                kind, view, digest = VIEW_CHANGE, request.to, request.digest
                departure = answer if isinstance(answer, DepartureUi) else None
            case Install():
                kind, view, digest = NEW_VIEW, request.view, request.digest
            case Attest():
                kind, digest = ATTEST, request.digest
            case EnterView() | AdvanceFloor() | BeginConfig():
                raise TypeError("an unsigned operation has no statement")
        return Statement(
            self.node, self.tc_id, cfg, cfg_digest, answer.seq, kind, view, height, digest,
            departure, answer.signature,
        )  # fmt: skip
